//! As much of virtio and IPv4 headers as cutting and joining need. Packets come from this machine's kernel.

/// Bytes of the virtio header before each packet of the TUN.
pub(super) const VIRTIO: usize = 10;
pub(super) const NEEDS_CHECKSUM: u8 = 1;
pub(super) const GSO_TCP: u8 = 1;
pub(super) const GSO_UDP: u8 = 5;
const ECN: u8 = 0x80;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The virtio header: flags, kind, header length, segment size, checksum start and offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Virtio {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) headers: u16,
    pub(super) size: u16,
    pub(super) start: u16,
    pub(super) offset: u16,
}

impl Virtio {
    pub(super) fn read(bytes: [u8; VIRTIO]) -> Self {
        let [flags, kind, a, b, c, d, e, f, g, h] = bytes;
        let [headers, size, start, offset] = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_ne_bytes);
        Self { flags, kind: kind & !ECN, headers, size, start, offset }
    }

    pub(super) fn write(self) -> [u8; VIRTIO] {
        let [[a, b], [c, d], [e, f], [g, h]] =
            [self.headers, self.size, self.start, self.offset].map(u16::to_ne_bytes);
        [self.flags, self.kind, a, b, c, d, e, f, g, h]
    }
}

pub(super) fn get(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u16::from_be_bytes(*field))
}

pub(super) fn get_long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u32::from_be_bytes(*field))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

pub(super) fn put_long(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

/// Where the transport header begins and ends in an IPv4 packet with TCP or UDP.
pub(super) fn transport(packet: &[u8]) -> Option<(u8, usize, usize)> {
    let begin = usize::from(packet.first()? & 15) * 4;
    let protocol = *packet.get(9)?;
    let end = match protocol {
        TCP => begin + usize::from(packet.get(begin + 12)? >> 4) * 4,
        UDP => begin + 8,
        _ => return None,
    };
    (packet.first()? >> 4 == 4 && end <= packet.len()).then_some((protocol, begin, end))
}

/// Sum of 16-bit words, folded, not complemented. Headers only: short and of even length.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter();
    fold(words.map(|word| u32::from(u16::from_be_bytes(*word))).sum())
}

fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// Puts the length into an IPv4 packet's headers and renews the sums over them: the IP header's, and the pseudo-header's
/// in the transport header, which the receiving kernel completes.
pub(super) fn set_length(headers: &mut [u8], protocol: u8, begin: usize, total: usize) {
    put(headers, 2, total as u16);
    put(headers, 10, 0);
    let whole = !sum(headers.get(..begin).unwrap_or_default());
    put(headers, 10, whole);
    let length = (total - begin) as u16;
    let pseudo = u32::from(sum(headers.get(12..20).unwrap_or_default())) + u32::from(protocol);
    put(headers, begin + checksum(protocol), fold(pseudo + u32::from(length)));
    if protocol == UDP {
        put(headers, begin + 4, length);
    }
}

/// Offset of the checksum in the transport header.
pub(super) fn checksum(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}
