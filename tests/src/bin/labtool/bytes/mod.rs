//! Both directions of TCP and UDP at once with seeded content, of which the receiving end checks every byte.
//!
//! Owns the two roles and the first line that tells them what is wanted. Streams and datagrams have modules of their own.

mod content;
mod control;
mod datagrams;
mod plan;
mod socket;
mod streams;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::plan::Limits;

/// How long one end may say nothing before the other gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_LINE: usize = 200;

/// Which way content travels; each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// One end of an exchange: what it sends and what it expects.
#[derive(Debug, Clone, Copy)]
struct End {
    seed: u64,
    sends: Direction,
    receives: Direction,
    /// Bytes in each direction.
    bytes: u64,
}

impl End {
    fn caller(seed: u64, bytes: u64) -> Self {
        Self { seed, sends: Direction::Up, receives: Direction::Down, bytes }
    }

    fn server(seed: u64, bytes: u64) -> Self {
        Self { seed, sends: Direction::Down, receives: Direction::Up, bytes }
    }
}

/// Answers callers until killed; one UDP exchange at a time.
pub(crate) fn serve(bind: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
    println!("serving bytes {bind}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, bind) {
                println!("failed: {error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, bind: SocketAddr) -> Result<()> {
    prepare(&stream)?;
    let request = read_line(&mut stream)?;
    let words: Vec<&str> = request.split(' ').collect();
    match words.as_slice() {
        ["tcp", seed, bytes] => {
            streams::exchange(stream, End::server(seed.parse()?, bytes.parse()?)).map(drop)
        }
        ["udp", seed, bytes, largest, segment] => {
            let limits = Limits { largest: largest.parse()?, segment: segment.parse()? };
            datagrams::answer(stream, bind, End::server(seed.parse()?, bytes.parse()?), limits)
        }
        _ => bail!("not a request: {request}"),
    }
}

/// Exchanges as many bytes by TCP and by UDP, and prints what came of it; fails where anything is not as it was sent.
pub(crate) fn call(server: SocketAddr, seed: u64, tcp: u64, udp: u64, limits: [&str; 2]) -> Result<()> {
    let [largest, segment] = limits;
    let limits = Limits { largest: largest.parse()?, segment: segment.parse()? };
    let by_tcp = std::thread::spawn(move || {
        let request = format!("tcp {seed} {tcp}\n");
        streams::exchange(connect(server, &request)?, End::caller(seed, tcp))
    });
    let request = format!("udp {seed} {udp} {} {}\n", limits.largest, limits.segment);
    let reports = datagrams::call(connect(server, &request)?, server, End::caller(seed, udp), limits)?;
    let Ok(hashes) = by_tcp.join() else { bail!("the TCP thread panicked") };
    let hashes = hashes?;
    for (direction, report) in ["up", "down"].into_iter().zip(&reports) {
        println!("udp {direction} {report}");
    }
    println!("tcp up bytes {tcp} hash {}", hashes.sent);
    println!("tcp down bytes {tcp} hash {}", hashes.received);
    ensure!(reports.iter().all(|report| report.is_clean()), "datagrams are not as they were sent");
    Ok(())
}

fn connect(server: SocketAddr, request: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    prepare(&stream)?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream.set_read_timeout(Some(PATIENCE))?)
}

/// Reads no byte beyond the line: content may follow.
fn read_line(stream: &mut TcpStream) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < MAX_LINE {
        stream.read_exact(&mut byte).context("the other end said nothing")?;
        if byte == *b"\n" {
            return Ok(String::from_utf8(line)?);
        }
        line.extend(byte);
    }
    bail!("a line of more than {MAX_LINE} bytes")
}
