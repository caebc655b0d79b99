//! The swarm MAC: without the swarm key a node's port answers no QUIC packet at all.
//!
//! Owns the 16 bytes at the end of each QUIC datagram. Must not know sockets or QUIC.

/// Bytes of the MAC.
pub(super) const MAC: usize = 16;
const CONTEXT: &str = "meshhold v1 swarm";

/// The MAC key, derived from the configured swarm key.
pub(super) struct SwarmKey([u8; 32]);

impl SwarmKey {
    pub(super) fn new(swarm_key: &[u8; 32]) -> Self {
        Self(blake3::derive_key(CONTEXT, swarm_key))
    }

    /// The datagram with its MAC.
    pub(super) fn seal(&self, datagram: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(datagram.len() + MAC);
        sealed.extend_from_slice(datagram);
        sealed.extend_from_slice(&self.mac(datagram));
        sealed
    }

    /// The datagram without its MAC, or none when that is wrong or missing.
    pub(super) fn open<'a>(&self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (datagram, mac) = sealed.split_last_chunk::<MAC>()?;
        // Every byte is compared whatever the outcome, so that time tells nothing.
        let difference = self.mac(datagram).iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        (difference == 0).then_some(datagram)
    }

    fn mac(&self, datagram: &[u8]) -> [u8; MAC] {
        let mut mac = [0; MAC];
        blake3::Hasher::new_keyed(&self.0).update(datagram).finalize_xof().fill(&mut mac);
        mac
    }
}

impl std::fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SwarmKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_the_same_key_sealed() {
        let (key, other) = (SwarmKey::new(&[1; 32]), SwarmKey::new(&[2; 32]));
        let sealed = key.seal(b"packet");
        assert_eq!(key.open(&sealed), Some(&b"packet"[..]));
        assert_eq!(other.open(&sealed), None);
        assert_eq!(key.open(b"packet"), None);
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert_eq!(key.open(&damaged), None, "byte {position}");
        }
    }
}
