//! The TCP connection beside a UDP exchange: how much arrived, where the end is, and what each end found.
//!
//! Owns the pace: a sender has no more on its way than the receiver's end can keep.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::PATIENCE;

/// Most bytes and datagrams on their way: queues of the path are longer.
const WINDOW: Amount = Amount { datagrams: 256, bytes: 384 << 10 };
/// What was not acknowledged for so long was lost.
const LOST: Duration = Duration::from_millis(300);

/// So many datagrams with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, datagrams: usize, bytes: usize) {
        self.datagrams += datagrams as u64;
        self.bytes += bytes as u64;
    }

    fn minus(self, other: Self) -> Self {
        let bytes = self.bytes.saturating_sub(other.bytes);
        Self { datagrams: self.datagrams.saturating_sub(other.datagrams), bytes }
    }

    fn is_within(self, other: Self) -> bool {
        self.datagrams <= other.datagrams && self.bytes <= other.bytes
    }
}

/// What a receiver found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) bytes: u64,
    /// Content or size is not what was sent.
    pub(super) altered: u64,
    /// DSCP or ECN is not what was sent.
    pub(super) remarked: u64,
    /// Came a second time.
    pub(super) repeated: u64,
}

impl Report {
    pub(super) fn is_clean(&self) -> bool {
        self.altered == 0 && self.remarked == 0
    }

    fn parse(words: &str) -> Result<Self> {
        let numbers: Result<Vec<u64>, _> = words.split(' ').skip(1).step_by(2).map(str::parse).collect();
        let [sent, received, bytes, altered, remarked, repeated] = numbers?[..] else {
            bail!("not a report: {words}")
        };
        Ok(Self { sent, received, bytes, altered, remarked, repeated })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, bytes, altered, remarked, repeated } = self;
        write!(f, "sent {sent} received {received} bytes {bytes} altered {altered} ")?;
        write!(f, "remarked {remarked} repeated {repeated}")
    }
}

#[derive(Debug, Default)]
struct State {
    acknowledged: Amount,
    ended: bool,
    report: Option<Report>,
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Control {
    stream: Mutex<TcpStream>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream: Mutex::new(stream), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes in what the other end says, until its report. Nothing will follow then, whatever was said.
    pub(super) fn listen(&self, stream: TcpStream) -> Result<()> {
        let outcome = self.take_in(stream);
        self.state().ended = true;
        outcome
    }

    fn take_in(&self, stream: TcpStream) -> Result<()> {
        for line in BufReader::new(stream).lines() {
            let line = line.context("the other end said nothing")?;
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let mut state = self.state();
            match (word, rest.split_once(' ')) {
                ("got", Some((datagrams, bytes))) => {
                    state.acknowledged = Amount { datagrams: datagrams.parse()?, bytes: bytes.parse()? };
                }
                ("end", None) => state.ended = true,
                ("report", Some(_)) => {
                    state.report = Some(Report::parse(rest)?);
                    self.changed.notify_all();
                    return Ok(());
                }
                _ => bail!("the other end said {line}"),
            }
            self.changed.notify_all();
        }
        bail!("the other end is gone")
    }

    /// Tells the sender what has arrived so far.
    pub(super) fn acknowledge(&self, amount: Amount) -> Result<()> {
        self.say(&format!("got {} {}\n", amount.datagrams, amount.bytes))
    }

    /// Tells the receiver that nothing will follow.
    pub(super) fn end(&self) -> Result<()> {
        self.say("end\n")
    }

    pub(super) fn report(&self, report: &Report) -> Result<()> {
        self.say(&format!("report {report}\n"))
    }

    /// Waits until of what was `sent` little enough is on its way. `lost` grows by what doesn't arrive.
    pub(super) fn wait_for_room(&self, sent: Amount, lost: &mut Amount) {
        let mut state = self.state();
        loop {
            let known = state.acknowledged;
            if sent.minus(known).minus(*lost).is_within(WINDOW) {
                return;
            }
            state = self.changed.wait_timeout(state, LOST).unwrap_or_else(PoisonError::into_inner).0;
            if state.acknowledged == known {
                *lost = sent.minus(known);
            }
        }
    }

    /// Whether the sender has said that nothing will follow.
    pub(super) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Waits for what the other end found.
    pub(super) fn wait_for_report(&self) -> Result<Report> {
        let waiting = |state: &mut State| state.report.is_none();
        let waited = self.changed.wait_timeout_while(self.state(), PATIENCE, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.report.context("the other end sent no report")
    }

    fn say(&self, line: &str) -> Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(line.as_bytes()).context("the other end is gone")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
