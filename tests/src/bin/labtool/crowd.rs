//! Many TCP connections to one echo server: at the same time, or one after the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const THREADS: usize = 8;
const LIMIT: Duration = Duration::from_secs(15);
const WORDS: &[u8] = b"anybody there?";

/// Opens `count` connections, then uses each of them once while all stand; prints how many held.
pub(crate) fn at_once(server: SocketAddr, count: usize) -> Result<()> {
    let opened = share(count, move |_| open(server))?;
    let mut held = 0;
    for mut stream in opened {
        let mut answer = [0; WORDS.len()];
        let used = stream.write_all(WORDS).and_then(|()| stream.read_exact(&mut answer));
        held += usize::from(used.is_ok() && answer == WORDS);
    }
    println!("held {held}");
    Ok(())
}

/// Opens and closes `count` connections, a few at a time; prints how many were answered.
pub(crate) fn in_turn(server: SocketAddr, count: usize) -> Result<()> {
    let answered = share(count, move |_| open(server).map(drop))?;
    println!("answered {}", answered.len());
    Ok(())
}

/// A connection whose server has said hello.
fn open(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    BufReader::new(stream.try_clone()?).read_line(&mut String::new()).context("no hello")?;
    Ok(stream)
}

/// Does `count` things on a few threads; what failed is printed and left out.
fn share<T: Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Copy + Send + 'static,
) -> Result<Vec<T>> {
    let part = move |thread: usize| {
        let mine = (thread..count).step_by(THREADS);
        mine.filter_map(|number| work(number).inspect_err(|error| eprintln!("{number}: {error:#}")).ok())
            .collect::<Vec<T>>()
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| std::thread::spawn(move || part(thread))).collect();
    let mut all = Vec::new();
    for thread in threads {
        let Ok(done) = thread.join() else { bail!("a thread panicked") };
        all.extend(done);
    }
    Ok(all)
}
