//! Echo requests and their replies (RFC 792, RFC 4443 section 4), by a raw socket.
//!
//! Owns the socket and the messages. Needs CAP_NET_RAW. Must not know who is asked.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use socket2::{Domain, Protocol, Socket, Type};

use crate::datapath::workers::offload::checksum::{fold, sum};

const HEADER: usize = 8;
const LENGTH: usize = 64;

/// Echoes from one address.
#[derive(Debug)]
pub struct Echoes {
    socket: Socket,
    v6: bool,
    id: u16,
    sequence: u16,
}

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echo, after so long.
    Reply(Duration),
    /// "Destination unreachable".
    Unreachable,
    /// Nothing in time.
    Silence,
}

impl Echoes {
    /// A socket for `to`.
    ///
    /// # Errors
    /// The process may not open raw sockets, or there is no route.
    pub fn new(to: IpAddr) -> anyhow::Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => anyhow!("raw sockets need root or CAP_NET_RAW"),
            _ => anyhow!("this host opens no raw socket of that family: {error}"),
        })?;
        let connected = socket.connect(&SocketAddr::new(to, 0).into());
        connected.map_err(|error| {
            anyhow!("this host has no way to it ({error}): `meshhold meshlan explain icmp {to}` says why")
        })?;
        Ok(Self { socket, v6: to.is_ipv6(), id: std::process::id() as u16, sequence: 0 })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// The kernel refuses to send or receive.
    pub fn ask(&mut self, patience: Duration) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let begun = Instant::now();
        self.socket.send(&self.request())?;
        let mut buffer = [0; 2048];
        while let Some(left) = patience.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {
                    return Ok(Answer::Unreachable);
                }
                Err(error) => return Err(error),
            };
            match self.read(buffer.get(..length).unwrap_or_default()) {
                Some(true) => return Ok(Answer::Reply(begun.elapsed())),
                Some(false) => return Ok(Answer::Unreachable),
                None => {}
            }
        }
        Ok(Answer::Silence)
    }

    fn request(&self) -> [u8; LENGTH] {
        let mut message = [0; LENGTH];
        let ([a, b], [c, d]) = (self.id.to_be_bytes(), self.sequence.to_be_bytes());
        let kind = if self.v6 { 128 } else { 8 };
        let head = [kind, 0, 0, 0, a, b, c, d];
        message.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        // The kernel fills in that of ICMPv6 (RFC 3542 section 3.1).
        if !self.v6 {
            let [high, low] = (!fold(sum(&message))).to_be_bytes();
            message.iter_mut().skip(2).zip([high, low]).for_each(|(to, from)| *to = from);
        }
        message
    }

    /// True for our echo, false for an error about our request; `None` for anything else.
    fn read(&self, received: &[u8]) -> Option<bool> {
        // Raw IPv4 sockets give the IP header too.
        let message = if self.v6 { received } else { strip(received)? };
        match (self.v6, message.first()?) {
            (false, 0) | (true, 129) => self.is_ours(message).then_some(true),
            (false, 3) => self.is_ours(strip(message.get(HEADER..)?)?).then_some(false),
            (true, 1) => self.is_ours(message.get(HEADER + 40..)?).then_some(false),
            _ => None,
        }
    }

    fn is_ours(&self, echo: &[u8]) -> bool {
        let ([a, b], [c, d]) = (self.id.to_be_bytes(), self.sequence.to_be_bytes());
        echo.get(4..HEADER) == Some(&[a, b, c, d])
    }
}

fn strip(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0x0f) * 4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_answers_by_both_families() {
        for address in ["127.0.0.1", "::1"] {
            let Ok(mut echoes) = Echoes::new(address.parse().unwrap()) else {
                eprintln!("skipped: raw sockets need CAP_NET_RAW");
                return;
            };
            for _ in 0..3 {
                let answer = echoes.ask(Duration::from_secs(5)).unwrap();
                assert!(matches!(answer, Answer::Reply(_)), "{address}: {answer:?}");
            }
        }
    }
}
