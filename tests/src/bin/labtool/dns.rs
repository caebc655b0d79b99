//! A name server that knows one answer: every IPv4 address is the same; it prints what it is asked. And who asks one, often.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

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

/// Asks for the IPv4 address of `name` one after another and prints the 99th percentile of the times, in microseconds.
pub(crate) fn ask(server: SocketAddr, name: &str, count: usize) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut times = Vec::with_capacity(count);
    let mut buffer = [0; 1500];
    for id in 0..count {
        let question = question(id as u16, name);
        let begun = Instant::now();
        socket.send(&question)?;
        let length = socket.recv(&mut buffer).with_context(|| format!("no answer to question {id}"))?;
        times.push(begun.elapsed());
        let answer = buffer.get(..length).unwrap_or_default();
        ensure!(answer.get(..2) == question.get(..2) && answer.get(6..8) == Some(&[0, 1]), "{answer:?}");
    }
    times.sort();
    let slowest = times.get(count * 99 / 100).context("nothing was asked")?;
    println!("{}", slowest.as_micros());
    Ok(())
}

/// One question, for an IPv4 address.
fn question(id: u16, name: &str) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
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
