//! Single questions to an echo server.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

const REPLY_LIMIT: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_millis(50);

pub(crate) fn tcp(server: SocketAddr, size: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, REPLY_LIMIT)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut seen = String::new();
    reader.read_line(&mut seen)?;
    let writer = std::thread::spawn(move || stream.write_all(&sent).map(|()| sent));
    let mut received = vec![0; size];
    reader.read_exact(&mut received)?;
    let Ok(sent) = writer.join() else { bail!("the writer panicked") };
    ensure!(received == sent?, "the echo differs from what was sent");
    print!("{seen}");
    Ok(())
}

fn connected(server: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

/// UDP may lose the first datagrams while a circuit is being made; three tries.
pub(crate) fn udp(server: SocketAddr, size: usize) -> Result<()> {
    let socket = connected(server)?;
    socket.set_read_timeout(Some(REPLY_LIMIT / 3))?;
    let mut buffer = vec![0; 65_536];
    for _ in 0..3 {
        socket.send(&vec![b'?'; size])?;
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        ensure!(length >= size, "{length} of {size} bytes came back");
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        println!("{}", text.lines().next().unwrap_or_default());
        return Ok(());
    }
    bail!("no answer from {server}")
}

/// An ICMP error reaches the socket only if its quote is what this host sent.
pub(crate) fn refused(server: SocketAddr) -> Result<()> {
    let socket = connected(server)?;
    socket.set_read_timeout(Some(REPLY_LIMIT))?;
    socket.send(b"anybody there?")?;
    match socket.recv(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => bail!("not refused: {other:?}"),
    }
}

pub(crate) fn until_connected(server: SocketAddr, limit_ms: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    while Instant::now() < deadline {
        if TcpStream::connect_timeout(&server, ATTEMPT).is_ok() {
            println!("connected");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("{server} could not be reached in {limit_ms} ms")
}
