//! Framing of the handshake datagrams: headers, MACs, lengths.
//!
//! `initiation: type 1, flags 1, reserved 2 | sender index 4 | Noise message 1 | mac1 16 | mac2 16`
//! `response:   type 1, flags 1, reserved 2 | sender index 4 | receiver index 4 | Noise message 2 | mac1 16 | mac2 16`
//! `cookie:     type 1, flags 1, reserved 2 | receiver index 4 | nonce 24 | sealed cookie 48`
//!
//! Every answer is shorter than what it answers. Must not know what the parts mean.

use crate::cookie::{MAC, MacKeys, SEALED_COOKIE, mac2};
use crate::handshake::{SEALED_INITIATION, SEALED_RESPONSE};
use crate::session::Secret;
use crate::wire::{LANE_BITS, TYPE_COOKIE, TYPE_INITIATION, TYPE_RESPONSE};

/// Bytes of an initiation.
pub(super) const INITIATION: usize = 8 + SEALED_INITIATION + 2 * MAC;
/// Bytes of a response.
pub(super) const RESPONSE: usize = 12 + SEALED_RESPONSE + 2 * MAC;
/// Bytes of a cookie reply.
pub(super) const COOKIE: usize = 8 + SEALED_COOKIE;
/// The bits of a sender index that name a lane, and are 0 in a handshake.
const LANES: u32 = (1 << LANE_BITS) - 1;
const _: () = assert!(RESPONSE <= INITIATION && COOKIE <= RESPONSE);

/// A handshake datagram with MACs, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed<'a> {
    /// What `mac1` covers.
    pub(super) before_mac1: &'a [u8],
    pub(super) mac1: &'a [u8; MAC],
    /// What `mac2` covers.
    pub(super) before_mac2: &'a [u8],
    pub(super) mac2: &'a [u8; MAC],
    pub(super) sender: u32,
    /// Of a response only.
    pub(super) receiver: u32,
    pub(super) noise: &'a [u8],
}

impl<'a> Framed<'a> {
    /// An initiation of the right length.
    pub(super) fn initiation(datagram: &'a [u8]) -> Option<Self> {
        let framed = Self::parse(datagram, TYPE_INITIATION, 8)?;
        (datagram.len() == INITIATION).then_some(framed)
    }

    /// A response of the right length.
    pub(super) fn response(datagram: &'a [u8]) -> Option<Self> {
        let framed = Self::parse(datagram, TYPE_RESPONSE, 12)?;
        (datagram.len() == RESPONSE).then_some(framed)
    }

    fn parse(datagram: &'a [u8], kind: u8, header: usize) -> Option<Self> {
        let (before_mac2, mac2) = datagram.split_last_chunk::<MAC>()?;
        let (before_mac1, mac1) = before_mac2.split_last_chunk::<MAC>()?;
        let (head, noise) = before_mac1.split_at_checked(header)?;
        let (&[found, _, _, _], head) = head.split_first_chunk::<4>()?;
        let (sender, head) = head.split_first_chunk::<4>()?;
        let receiver = head.first_chunk::<4>().copied().unwrap_or_default();
        // Lane bits belong to the lanes: two lanes of a sender must not share an index.
        (found == kind && u32::from_be_bytes(*sender) & LANES == 0).then_some(Self {
            before_mac1,
            mac1,
            before_mac2,
            mac2,
            sender: u32::from_be_bytes(*sender),
            receiver: u32::from_be_bytes(receiver),
            noise,
        })
    }
}

/// An initiation; `cookie` adds `mac2`.
pub(super) fn initiation(sender: u32, noise: &[u8], keys: &MacKeys, cookie: Option<&Secret>) -> Vec<u8> {
    let mut datagram = vec![TYPE_INITIATION, 0, 0, 0];
    datagram.extend(sender.to_be_bytes());
    finish(datagram, noise, keys, cookie)
}

/// A response to `receiver`'s initiation.
pub(super) fn response(sender: u32, receiver: u32, noise: &[u8], keys: &MacKeys) -> Vec<u8> {
    let mut datagram = vec![TYPE_RESPONSE, 0, 0, 0];
    datagram.extend(sender.to_be_bytes());
    datagram.extend(receiver.to_be_bytes());
    finish(datagram, noise, keys, None)
}

fn finish(mut datagram: Vec<u8>, noise: &[u8], keys: &MacKeys, cookie: Option<&Secret>) -> Vec<u8> {
    datagram.extend(noise);
    let mac1 = keys.mac1(&datagram);
    datagram.extend(mac1);
    let mac2 = cookie.map_or([0; MAC], |cookie| mac2(cookie, &datagram));
    datagram.extend(mac2);
    datagram
}

/// A cookie reply to `receiver`'s initiation.
pub(super) fn cookie(receiver: u32, sealed: &[u8; SEALED_COOKIE]) -> Vec<u8> {
    let mut datagram = vec![TYPE_COOKIE, 0, 0, 0];
    datagram.extend(receiver.to_be_bytes());
    datagram.extend(sealed);
    datagram
}

/// Receiver index and sealed cookie of a cookie reply.
pub(super) fn parse_cookie(datagram: &[u8]) -> Option<(u32, &[u8; SEALED_COOKIE])> {
    let (head, sealed) = datagram.split_first_chunk::<8>()?;
    let &[kind, _, _, _, a, b, c, d] = head;
    let sealed = sealed.try_into().ok()?;
    (kind == TYPE_COOKIE).then_some((u32::from_be_bytes([a, b, c, d]), sealed))
}
