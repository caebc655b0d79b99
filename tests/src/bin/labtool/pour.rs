//! A download that never ends, at a steady rate, and when its bytes came.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// The receiver's clock; each tick the sender adds a portion: 20 Mbit/s.
const TICK: Duration = Duration::from_millis(10);
static PORTION: [u8; 25_000] = [b'm'; 25_000];

/// Pours into each connection until it ends.
pub(crate) fn serve(bind: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
    println!("serving pour {bind}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        std::thread::spawn(move || pour(stream));
    }
    Ok(())
}

fn pour(mut stream: TcpStream) -> std::io::Result<()> {
    let mut due = Instant::now();
    loop {
        stream.write_all(&PORTION)?;
        // What was missed while nothing passed is not caught up on.
        due = (due + TICK).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Prints `beat <unix ms>` for each tick in which bytes came, until the connection fails.
pub(crate) fn drink(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(3))?;
    let mut buffer = vec![0; 65_536];
    let mut last = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the server has closed the connection");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        if now / TICK.as_millis() != last {
            last = now / TICK.as_millis();
            println!("beat {now}");
        }
    }
}
