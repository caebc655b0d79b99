//! One long TCP connection to an echo server, to see when it stops.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

const BEAT: Duration = Duration::from_millis(20);

/// Prints `port N` (the local one), then `beat <unix ms>` for each echo, until the connection fails.
pub(crate) fn run(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(3))?;
    stream.set_nodelay(true)?;
    println!("port {}", stream.local_addr()?.port());
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut String::new())?;
    let mut buffer = [0; 8];
    loop {
        stream.write_all(b"heartbit")?;
        reader.read_exact(&mut buffer)?;
        println!("beat {}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
        std::thread::sleep(BEAT);
    }
}
