//! One question to the system bus: which process has a name there.
//!
//! Owns the few bytes of D-Bus that this takes. Must not know what the name stands for.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOCKET: &str = "/run/dbus/system_bus_socket";
const PATIENCE: Duration = Duration::from_secs(1);
/// Messages that may come before the answer, and bytes that each may have.
const MOST: usize = 16;
const LARGEST: usize = 64 * 1024;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// The process that owns `name` on the system bus; `None` where nobody does, or there is no bus. Blocks for a second at most.
pub(super) fn owner(name: &str) -> Option<u32> {
    ask(name).unwrap_or_default()
}

fn ask(name: &str) -> io::Result<Option<u32>> {
    let mut bus = UnixStream::connect(SOCKET)?;
    bus.set_read_timeout(Some(PATIENCE))?;
    bus.set_write_timeout(Some(PATIENCE))?;
    // An empty identity: the bus takes that of the socket.
    bus.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
    skip_lines(&mut bus, 2)?;
    bus.write_all(&call(1, "Hello", None))?;
    bus.write_all(&call(2, "GetConnectionUnixProcessID", Some(name)))?;
    for _ in 0..MOST {
        match next(&mut bus)? {
            (RETURN, body) if body.len() == 4 => {
                return Ok(body.try_into().ok().map(u32::from_le_bytes));
            }
            (ERROR, _) => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// The bus' half of the greeting.
fn skip_lines(bus: &mut UnixStream, lines: usize) -> io::Result<()> {
    let mut seen = 0;
    let mut byte = [0];
    for _ in 0..LARGEST {
        bus.read_exact(&mut byte)?;
        seen += usize::from(byte == *b"\n");
        if seen == lines {
            return Ok(());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// A method call to the bus itself, little-endian.
fn call(serial: u32, method: &str, argument: Option<&str>) -> Vec<u8> {
    const BUS: &str = "org.freedesktop.DBus";
    let mut fields = Vec::new();
    for (code, kind, value) in
        [(1, "o", "/org/freedesktop/DBus"), (2, "s", BUS), (3, "s", method), (6, "s", BUS)]
    {
        field(&mut fields, code, kind);
        string(&mut fields, value);
    }
    let mut body = Vec::new();
    if let Some(argument) = argument {
        field(&mut fields, 8, "g");
        fields.extend([1, b's', 0]);
        string(&mut body, argument);
    }
    let mut message = vec![b'l', 1, 0, 1];
    for number in [body.len() as u32, serial, fields.len() as u32] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

/// Begins a header field: its number, and the signature of its value.
fn field(to: &mut Vec<u8>, code: u8, kind: &str) {
    // The array of fields starts at a multiple of eight.
    pad(to, 8);
    to.extend([code, 1]);
    to.extend(kind.bytes());
    to.push(0);
}

fn string(to: &mut Vec<u8>, text: &str) {
    pad(to, 4);
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text.bytes());
    to.push(0);
}

fn pad(to: &mut Vec<u8>, size: usize) {
    to.resize(to.len().next_multiple_of(size), 0);
}

/// Kind and body of the next message.
fn next(bus: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 16];
    bus.read_exact(&mut head)?;
    let [b'l', kind, _, _, a, b, c, d, _, _, _, _, e, f, g, h] = head else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let body = u32::from_le_bytes([a, b, c, d]) as usize;
    let fields = (u32::from_le_bytes([e, f, g, h]) as usize).next_multiple_of(8);
    if body.max(fields) > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut rest = vec![0; fields + body];
    bus.read_exact(&mut rest)?;
    Ok((kind, rest.split_off(fields)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_specification_says() {
        let hello = call(1, "Hello", None);
        assert_eq!(hello.len() % 8, 0);
        assert_eq!(hello.get(..16).unwrap(), [108, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 109, 0, 0, 0]);
        let ask = call(2, "GetConnectionUnixProcessID", Some("a.b"));
        assert!(ask.ends_with(b"\x03\0\0\0a.b\0"), "{ask:?}");
        assert_eq!(ask.get(4), Some(&8));
    }
}
