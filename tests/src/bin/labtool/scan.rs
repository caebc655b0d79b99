//! Looking for ports that answer.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Ports in flight at once; well below the usual limit of open files once raised by the caller.
const BATCH: usize = 4096;
/// How long a port may take to answer: the round trip in the lab is below a millisecond.
const WINDOW: Duration = Duration::from_millis(300);
const SPOOF_WINDOW: Duration = Duration::from_secs(2);
/// Connection attempts that the prober keeps under observation.
const OBSERVED: usize = 256;

/// What became of a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Open,
    Refused,
    Silent,
}

pub(crate) fn tcp(address: IpAddr, step: usize) -> Result<()> {
    let ports: Vec<u16> = (0..=u16::MAX).step_by(step).collect();
    let mut tally = Tally::default();
    for batch in ports.chunks(BATCH) {
        let attempts = batch
            .iter()
            .map(|&port| Ok((port, attempt(SocketAddr::new(address, port), None)?)))
            .collect::<Result<Vec<_>>>()?;
        std::thread::sleep(WINDOW);
        for (port, socket) in &attempts {
            tally.add(*port, socket.as_ref().map_or(Answer::Refused, answer));
        }
    }
    tally.print();
    Ok(())
}

pub(crate) fn udp(address: IpAddr, step: usize) -> Result<()> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ports: Vec<u16> = (1..=u16::MAX).step_by(step).collect();
    let mut tally = Tally::default();
    for batch in ports.chunks(BATCH) {
        let mut sockets = Vec::with_capacity(batch.len());
        for &port in batch {
            let socket = UdpSocket::bind((any, 0)).context("too few file descriptors?")?;
            socket.set_nonblocking(true)?;
            socket.connect((address, port))?;
            socket.send(b"anybody there?")?;
            sockets.push((port, socket));
        }
        std::thread::sleep(WINDOW);
        for (port, socket) in &sockets {
            let answer = match socket.recv(&mut [0; 64]) {
                Ok(_) => Answer::Open,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Answer::Silent,
                Err(_) => Answer::Refused,
            };
            tally.add(*port, answer);
        }
    }
    tally.print();
    Ok(())
}

/// Tries the port every millisecond until killed; prints `attempts N open M` every 100 attempts.
pub(crate) fn probe(server: SocketAddr) -> Result<()> {
    let mut observed = VecDeque::with_capacity(OBSERVED);
    let (mut attempts, mut open) = (0_u64, 0_u64);
    loop {
        // Without a route, as when the daemon is dead, the attempt fails at once; that's no opening.
        if let Ok(socket) = attempt(server, None)? {
            observed.push_back(socket);
        }
        attempts += 1;
        observed.retain(|socket| {
            let answer = answer(socket);
            open += u64::from(answer == Answer::Open);
            answer == Answer::Silent
        });
        if observed.len() > OBSERVED {
            observed.pop_front();
        }
        if attempts.is_multiple_of(100) {
            println!("attempts {attempts} open {open}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One attempt from a given source; prints `Open`, `Refused` or `Silent`.
pub(crate) fn spoof(source: SocketAddr, server: SocketAddr) -> Result<()> {
    let attempt = attempt(server, Some(source))?;
    std::thread::sleep(SPOOF_WINDOW);
    println!("{:?}", attempt.as_ref().map_or(Answer::Silent, answer));
    Ok(())
}

/// Starts a connection; the inner error is the network's answer, if it answered at once.
fn attempt(server: SocketAddr, source: Option<SocketAddr>) -> Result<std::io::Result<Socket>> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))
        .context("too few file descriptors?")?;
    socket.set_nonblocking(true)?;
    // Closing must not leave thousands of sockets lingering in the kernel.
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    let outcome = socket.connect(&server.into());
    Ok(match outcome {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(socket),
    })
}

/// From `errno.h`: the connection attempt is under way.
const EINPROGRESS: i32 = 115;

fn answer(socket: &Socket) -> Answer {
    match socket.take_error() {
        Ok(Some(_)) => Answer::Refused,
        _ if socket.peer_addr().is_ok() => Answer::Open,
        _ => Answer::Silent,
    }
}

#[derive(Default)]
struct Tally {
    open: Vec<u16>,
    refused: Vec<u16>,
    silent: usize,
}

impl Tally {
    fn add(&mut self, port: u16, answer: Answer) {
        match answer {
            Answer::Open => self.open.push(port),
            Answer::Refused => self.refused.push(port),
            Answer::Silent => self.silent += 1,
        }
    }

    fn print(&self) {
        println!("open {:?}", self.open);
        println!("refused {:?}", self.refused);
        println!("silent {}", self.silent);
    }
}
