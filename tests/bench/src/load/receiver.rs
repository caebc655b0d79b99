//! The counting side: a thread on UDP, and the count for whoever asks on the TCP port of the same number.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};

use super::sys::{self, BATCH};

const RECEIVE_BUFFER: libc::c_int = 8 << 20;

pub(crate) fn run(bind: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("cannot bind {bind}"))?;
    sys::set_buffer(socket.as_fd(), libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
    let listener = TcpListener::bind(bind)?;
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        let mut buffers = vec![[0; 2048]; BATCH];
        loop {
            // An ICMP error is not a datagram.
            let received = sys::receive(socket.as_fd(), &mut buffers).unwrap_or_default();
            counted.fetch_add(received as u64, Relaxed);
        }
    });
    println!("receiving");
    for asker in listener.incoming() {
        answer(asker?, &count)?;
    }
    Ok(())
}

/// One asker at a time.
fn answer(asker: TcpStream, count: &AtomicU64) -> Result<()> {
    asker.set_nodelay(true)?;
    let mut answers = asker.try_clone()?;
    for line in BufReader::new(asker).lines() {
        let Ok(_) = line else { break };
        if writeln!(answers, "{}", count.load(Relaxed)).is_err() {
            break;
        }
    }
    Ok(())
}
