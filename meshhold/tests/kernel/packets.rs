//! Builds test packets. Checksums are right, so that a rewritten packet can be checked byte by byte.

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

pub(crate) type Ip4 = [u8; 4];
pub(crate) type Ip6 = [u8; 16];

/// Ones' complement sum (RFC 1071).
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMP6 => Some(2),
        _ => None,
    }
}

fn fill_checksum(pseudo: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let Some(at) = checksum_offset(protocol) else { return payload };
    let Some(field) = payload.get_mut(at..at + 2) else { return payload };
    field.copy_from_slice(&[0, 0]);
    let tail = (payload.len() as u32).to_be_bytes();
    let next = [0, 0, 0, protocol];
    let pseudo: &[&[u8]] = if protocol == ICMP { &[] } else { &[pseudo, &tail, &next] };
    let value = !sum(&[pseudo.concat().as_slice(), &payload].concat().chunks(usize::MAX).collect::<Vec<_>>());
    payload[at..at + 2].copy_from_slice(&value.to_be_bytes());
    payload
}

/// IPv4 with options and the raw fragment field (flags and offset).
pub(crate) fn ipv4_raw(
    source: Ip4,
    destination: Ip4,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let [len_a, len_b] = ((header + payload.len()) as u16).to_be_bytes();
    let [frag_a, frag_b] = fragment.to_be_bytes();
    let mut packet =
        vec![0x40 | (header / 4) as u8, 0, len_a, len_b, 0x12, 0x34, frag_a, frag_b, 64, protocol, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(options);
    let value = !sum(&[&packet]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
    packet.extend(payload);
    packet
}

pub(crate) fn ipv4(source: Ip4, destination: Ip4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let payload = fill_checksum(&[source, destination].concat(), protocol, payload);
    ipv4_raw(source, destination, protocol, &[], 0, &payload)
}

pub(crate) fn ipv6(source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
    let payload = fill_checksum(&[source, destination].concat(), next, payload);
    let [len_a, len_b] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len_a, len_b, next, 64];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// The transport checksum of an unfragmented packet without options or extensions is right.
pub(crate) fn checksums_are_right(packet: &[u8]) -> bool {
    let (pseudo, protocol, transport) = if packet[0] >> 4 == 4 {
        if sum(&[&packet[..20]]) != 0xffff {
            return false;
        }
        (&packet[12..20], packet[9], &packet[20..])
    } else {
        (&packet[8..40], packet[6], &packet[40..])
    };
    let tail = (transport.len() as u32).to_be_bytes();
    sum(&[pseudo, &tail, &[0, 0, 0, protocol], transport]) == 0xffff
}

pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 24];
    segment[0..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    segment[20..].copy_from_slice(b"data");
    segment
}

pub(crate) fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut datagram = vec![0; 16];
    datagram[0..2].copy_from_slice(&source.to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.to_be_bytes());
    datagram[5] = 16;
    datagram[8..].copy_from_slice(b"datagram");
    datagram
}

/// Ports in TCP or UDP, the former with these flags.
pub(crate) fn ports(protocol: u8, source: u16, destination: u16, flags: u8) -> Vec<u8> {
    if protocol == TCP { tcp(source, destination, flags) } else { udp(source, destination) }
}

pub(crate) fn icmp(kind: u8, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    [&[kind, 0, 0, 0, a, b, 0, 1], b"abcdefgh".as_slice()].concat()
}

/// An ICMP error that quotes the start of `packet`.
pub(crate) fn icmp_error(kind: u8, packet: &[u8]) -> Vec<u8> {
    [&[kind, 1, 0, 0, 0, 0, 0, 0], &packet[..packet.len().min(64)]].concat()
}

/// An IPv6 fragment header and what follows it. `offset` in units of eight bytes.
pub(crate) fn fragment6(next: u8, offset: u16, more: bool, id: u32, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low], &id.to_be_bytes()[..], payload].concat()
}

/// A hop-by-hop, routing or destination options header without content.
pub(crate) fn extension(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat()
}
