//! Echo servers. TCP: a first line with the caller's address, then everything back. UDP: the caller's address in
//! front of the datagram, cut to its length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

pub(crate) fn tcp(bind: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
    println!("serving tcp {bind}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        std::thread::spawn(move || echo(stream));
    }
    Ok(())
}

pub(crate) fn udp(bind: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("cannot bind {bind}"))?;
    println!("serving udp {bind}");
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error for an earlier answer comes back here; it's no reason to stop.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut reply = format!("{}\n", from.ip()).into_bytes();
        reply.resize(length.max(reply.len()), b'.');
        let _ = socket.send_to(&reply, from);
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let peer = stream.peer_addr()?;
    println!("caller {peer}");
    stream.set_nodelay(true)?;
    stream.write_all(format!("{}\n", peer.ip()).as_bytes())?;
    let mut buffer = [0; 16_384];
    loop {
        let length = stream.read(&mut buffer)?;
        let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { return Ok(()) };
        stream.write_all(data)?;
    }
}
