//! TCP streams that all begin at the same moment, and the sink that takes them.
//!
//! What counts is what arrived: the sink tells it at the end of each stream.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

const CHUNK: usize = 128 << 10;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Reads every stream to its end and answers with the number of its bytes.
pub(crate) fn sink(bind: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot bind {bind}"))?;
    println!("sinking");
    for stream in listener.incoming() {
        let stream = stream?;
        // A stream that broke has nobody left to tell.
        std::thread::spawn(move || drop(drain(stream)));
    }
    Ok(())
}

fn drain(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return writeln!(stream, "{count}"),
            Ok(length) => count += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects at once, writes from `start` (Unix milliseconds) on, and prints how much arrived in how long.
pub(crate) fn pour(target: SocketAddr, start: u64, millis: u64) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, CONNECT_LIMIT)
        .with_context(|| format!("cannot reach {target}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let wait = Duration::from_millis(start).checked_sub(now).context("the start is over: give more time")?;
    std::thread::sleep(wait);
    let (begun, length) = (Instant::now(), Duration::from_millis(millis));
    let chunk = vec![0; CHUNK];
    while begun.elapsed() < length {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    let bytes: u64 = answer.trim().parse().context("the sink gave no count")?;
    println!("{{\"bytes\": {bytes}, \"seconds\": {:.3}}}", begun.elapsed().as_secs_f64());
    Ok(())
}
