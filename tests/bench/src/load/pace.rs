//! The sending side: trials at a rate, and the search for the highest that passes.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::sys::{self, BATCH};

const SEND_BUFFER: libc::c_int = 4 << 20;
const TICK: Duration = Duration::from_micros(200);
const SETTLE: Duration = Duration::from_millis(25);
const SETTLE_TRIES: usize = 20;
const FIRST: f64 = 25.0;
const BISECTIONS: usize = 4;

/// What was sent and what arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) offered: u64,
    pub(super) arrived: u64,
    pub(super) seconds: f64,
}

impl Trial {
    /// Really offered at `rate` (packets a millisecond), and at most 1 % lost.
    pub(super) fn passes(&self, rate: f64) -> bool {
        let offered = self.offered as f64;
        self.arrived as f64 >= 0.99 * offered && offered / self.seconds >= 0.95 * rate * 1e3
    }
}

/// The highest rate up to `most` that `passes`: doubling, then bisecting by the geometric mean; 0 where none does.
pub(super) fn search(most: f64, mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let (mut low, mut high) = (0.0, FIRST);
    while high < most && passes(high)? {
        (low, high) = (high, high * 2.0);
    }
    high = f64::min(high, most);
    let floor = f64::max(low, 1.0);
    low = floor;
    for _ in 0..BISECTIONS {
        let middle = (low * high).sqrt();
        if passes(middle)? { low = middle } else { high = middle }
    }
    // The floor below the first doubling step was assumed, not tried.
    Ok(if low == floor && floor < FIRST { 0.0 } else { low })
}

/// Sends to a [`super::receiver`].
pub(super) struct Sender {
    socket: UdpSocket,
    control: BufReader<TcpStream>,
    payload: Vec<u8>,
}

impl Sender {
    pub(super) fn connect(target: SocketAddr, size: usize) -> Result<Self> {
        let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        sys::set_buffer(socket.as_fd(), libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        socket.connect(target)?;
        let control = TcpStream::connect(target).with_context(|| format!("no receiver at {target}"))?;
        control.set_nodelay(true)?;
        control.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { socket, control: BufReader::new(control), payload: vec![0x5a; size] })
    }

    /// Sends for `duration` at `rate` packets a millisecond, or as fast as it goes, and waits for the last to arrive.
    pub(super) fn trial(&mut self, rate: Option<f64>, duration: Duration) -> Result<Trial> {
        let before = self.arrived()?;
        let (begin, mut offered) = (Instant::now(), 0);
        while begin.elapsed() < duration {
            match rate {
                None => offered += self.send(BATCH),
                Some(rate) => {
                    let due = (begin.elapsed().as_secs_f64() * rate * 1e3) as u64 + 1;
                    while offered < due && begin.elapsed() < duration {
                        offered += self.send(usize::try_from(due - offered)?.min(BATCH));
                    }
                    std::thread::sleep(TICK);
                }
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Trial { offered, arrived: self.settled()?.saturating_sub(before), seconds })
    }

    /// What the socket refuses counts as offered, and is lost.
    fn send(&self, count: usize) -> u64 {
        sys::send(self.socket.as_fd(), &self.payload, count).unwrap_or(count) as u64
    }

    /// The count once it stands still: datagrams may wait in queues.
    fn settled(&mut self) -> Result<u64> {
        let mut last = self.arrived()?;
        for _ in 0..SETTLE_TRIES {
            std::thread::sleep(SETTLE);
            let now = self.arrived()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    fn arrived(&mut self) -> Result<u64> {
        self.control.get_mut().write_all(b"?\n")?;
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        line.trim().parse().context("the receiver gave no count")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: f64) -> f64 {
        search(4000.0, |rate| Ok(rate <= limit)).unwrap()
    }

    #[test]
    fn the_search_ends_just_below_the_limit() {
        for limit in [3.0, 24.0, 25.0, 80.0, 333.0, 1500.0] {
            let best = found(limit);
            assert!(best <= limit && best > limit * 0.78, "{limit}: {best}");
        }
        assert_eq!(found(0.5), 0.0);
        assert!((3000.0..=4000.0).contains(&found(1e9)));
    }

    #[test]
    fn trials_are_judged_by_loss_and_rate() {
        let trial = |offered, arrived| Trial { offered, arrived, seconds: 1.0 };
        assert!(trial(100_000, 99_000).passes(100.0));
        assert!(!trial(100_000, 98_900).passes(100.0));
        assert!(!trial(90_000, 90_000).passes(100.0));
    }
}
