//! A UDP exchange: both ends send what their plan says and compare what arrives with the other's plan.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::control::{Amount, Control, Report};
use super::plan::{self, Burst, Limits, NUMBER};
use super::socket::{Arrival, Marked};
use super::{End, PATIENCE, read_line};

const READY: &str = "ready";
/// After so much silence the receiver looks whether it is over, and after several it is.
const LOOK: Duration = Duration::from_millis(50);
const SILENCES: u32 = 10;
/// The sender hears at least so often of what has arrived.
const ACKNOWLEDGED: Amount = Amount { datagrams: 32, bytes: 64 << 10 };

/// The server's end, on a socket of its own at `bind`.
pub(super) fn answer(mut stream: TcpStream, bind: SocketAddr, end: End, limits: Limits) -> Result<()> {
    let socket = Marked::bind(bind)?;
    stream.write_all(format!("{READY}\n").as_bytes())?;
    // Nobody may send to the caller before it has called.
    socket.connect_to_first(PATIENCE)?;
    exchange(stream, &socket, end, limits).map(drop)
}

/// The caller's end; what was found of its direction and of the server's.
pub(super) fn call(
    mut stream: TcpStream,
    server: SocketAddr,
    end: End,
    limits: Limits,
) -> Result<[Report; 2]> {
    let socket = Marked::connect(server)?;
    let said = read_line(&mut stream)?;
    ensure!(said == READY, "the server is not ready: {said}");
    exchange(stream, &socket, end, limits)
}

/// Reports of what this end sent and of what it received.
fn exchange(stream: TcpStream, socket: &Marked, end: End, limits: Limits) -> Result<[Report; 2]> {
    let (control, said) = (Control::new(stream.try_clone()?), stream);
    socket.set_timeout(LOOK)?;
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| control.listen(said));
        let sender = scope.spawn(|| {
            let sent = send(socket, end, limits, &control);
            // The other end must not wait for what couldn't be sent.
            control.end().and(sent)
        });
        let ours = Receiver::new(end, limits).run(socket, &control)?;
        let (Ok(listened), Ok(sent)) = (listener.join(), sender.join()) else { bail!("a thread panicked") };
        sent.and(listened)?;
        Ok([control.wait_for_report()?, ours])
    })
}

fn send(socket: &Marked, end: End, limits: Limits, control: &Control) -> Result<()> {
    let (mut sent, mut lost, mut buffer) = (Amount::default(), Amount::default(), vec![0; limits.largest]);
    for burst in plan::bursts(end, end.sends, limits) {
        control.wait_for_room(sent, &mut lost);
        let bytes = buffer.get_mut(..burst.bytes).unwrap_or_default();
        let mut rest = &mut *bytes;
        for (number, size) in burst.datagrams() {
            let (datagram, after) = rest.split_at_mut(size);
            plan::payload(end.seed, end.sends, number, datagram);
            rest = after;
        }
        socket.send(bytes, burst.segment, burst.mark)?;
        sent.add(burst.count(), burst.bytes);
    }
    Ok(())
}

/// What has arrived so far, and what should.
struct Receiver {
    end: End,
    /// By number: size, mark and whether it came.
    expected: Vec<(usize, u8, bool)>,
    /// Datagrams without number that may still come, by size.
    tiny: [u64; NUMBER],
    report: Report,
    arrived: Amount,
    acknowledged: Amount,
    /// What is expected, for comparison.
    content: Vec<u8>,
}

impl Receiver {
    fn new(end: End, limits: Limits) -> Self {
        let bursts = plan::bursts(end, end.receives, limits);
        let each = |burst: Burst| burst.datagrams().map(move |(_, size)| (size, burst.mark, false));
        let expected: Vec<_> = bursts.into_iter().flat_map(each).collect();
        let mut tiny = [0; NUMBER];
        for (size, ..) in &expected {
            if let Some(count) = tiny.get_mut(*size) {
                *count += 1;
            }
        }
        let report = Report { sent: expected.len() as u64, ..Report::default() };
        let (arrived, acknowledged) = (Amount::default(), Amount::default());
        Self { end, expected, tiny, report, arrived, acknowledged, content: vec![0; 1 << 16] }
    }

    fn run(mut self, socket: &Marked, control: &Control) -> Result<Report> {
        let (mut buffer, mut silences) = (vec![0; 1 << 16], 0);
        while self.report.received < self.report.sent && silences < SILENCES {
            let Some(arrival) = socket.receive(&mut buffer)? else {
                silences = if control.has_ended() { silences + 1 } else { 0 };
                self.acknowledge(control)?;
                continue;
            };
            silences = 0;
            self.take(buffer.get(..arrival.length).unwrap_or_default(), &arrival);
            let new = self.arrived.datagrams - self.acknowledged.datagrams;
            if new >= ACKNOWLEDGED.datagrams
                || self.arrived.bytes - self.acknowledged.bytes >= ACKNOWLEDGED.bytes
            {
                self.acknowledge(control)?;
            }
        }
        self.acknowledge(control)?;
        control.report(&self.report)?;
        Ok(self.report)
    }

    fn acknowledge(&mut self, control: &Control) -> Result<()> {
        if self.arrived == self.acknowledged {
            return Ok(());
        }
        self.acknowledged = self.arrived;
        control.acknowledge(self.arrived)
    }

    fn take(&mut self, datagram: &[u8], arrival: &Arrival) {
        self.arrived.add(1, datagram.len());
        let number = datagram.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        let expected = self.content.get_mut(..datagram.len()).unwrap_or_default();
        plan::payload(self.end.seed, self.end.receives, number, expected);
        let whole = datagram == expected;
        if let Some(left) = self.tiny.get_mut(datagram.len()) {
            let new = *left > 0;
            *left = left.saturating_sub(1);
            return self.report.count(whole, new, datagram.len());
        }
        let planned = usize::try_from(number).ok().and_then(|number| self.expected.get_mut(number));
        let Some((size, mark, came)) = planned else { return self.report.altered += 1 };
        let new = !std::mem::replace(came, true);
        self.report.remarked += u64::from(*mark != arrival.mark);
        let whole = whole && *size == datagram.len();
        self.report.count(whole, new, datagram.len());
    }
}

impl Report {
    fn count(&mut self, whole: bool, new: bool, bytes: usize) {
        self.altered += u64::from(!whole);
        self.repeated += u64::from(!new);
        self.received += u64::from(new);
        self.bytes += bytes as u64;
    }
}
