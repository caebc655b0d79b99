//! A name server that knows one answer: every IPv4 address is the same. It prints what it is asked.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};

const HEADER: usize = 12;

pub(crate) fn serve(bind: SocketAddr, answer: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("cannot bind {bind}"))?;
    println!("serving dns {bind}");
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let message = buffer.get(..length).unwrap_or_default();
        if let Some((name, reply)) = reply(message, answer) {
            println!("asked {name}");
            socket.send_to(&reply, from)?;
        }
    }
}

/// The name of the only question, and what to answer: an address to a question for one, else nothing.
fn reply(message: &[u8], answer: Ipv4Addr) -> Option<(String, Vec<u8>)> {
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push_str(&String::from_utf8_lossy(message.get(at..at + length)?));
        name.push('.');
        at += length;
    }
    let question = message.get(HEADER..at + 4)?;
    let is_address = message.get(at..at + 4)? == [0, 1, 0, 1];
    let mut reply = message.get(..2)?.to_vec();
    // A response, with recursion, one question, and one or no answer.
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    reply.extend(question);
    if is_address {
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(answer.octets());
    }
    Some((name, reply))
}
