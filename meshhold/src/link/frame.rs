//! What travels on a link's stream: a length of 4 bytes, big-endian, and a postcard frame of that length.
//!
//! Owns the frame types and their caps. Must not know what follows from a frame.

use std::net::SocketAddr;

use meshhold_core::gossip::Message;
use meshhold_core::relay;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of this protocol.
pub(super) const VERSION: u16 = 1;
/// Longest frame, bytes: a full digest fits.
pub(super) const MAX_FRAME: usize = 128 << 10;

/// One message of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// First in each direction, and only first.
    Hello {
        /// [`VERSION`] of the sender.
        version: u16,
        /// Drawn at each start of the sender, so that links of its former life are known as dead.
        instance: u64,
    },
    /// Where the sender sees the receiver.
    Observed {
        /// Address and port of the receiver's datagrams.
        address: SocketAddr,
    },
    /// About topics.
    Gossip(Message),
    /// About relayed paths.
    Relay(relay::Message),
}

/// Why a stream of frames ended.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    /// The far end sent a frame that is longer than allowed.
    #[error("a frame of {0} bytes, longer than {MAX_FRAME}")]
    Oversized(usize),
    /// The far end sent something that is no frame.
    #[error("a malformed frame")]
    Malformed,
    /// The connection failed or was closed.
    #[error(transparent)]
    Read(#[from] quinn::ReadExactError),
    /// The connection failed or was closed.
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
}

/// Reads the next frame.
pub(super) async fn read(stream: &mut quinn::RecvStream) -> Result<Frame, FrameError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::Oversized(length));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    decode(&bytes).ok_or(FrameError::Malformed)
}

/// Writes one frame.
pub(super) async fn write(stream: &mut quinn::SendStream, frame: &Frame) -> Result<(), FrameError> {
    let bytes = encode(frame)?;
    Ok(stream.write_all(&bytes).await?)
}

fn decode(bytes: &[u8]) -> Option<Frame> {
    let (frame, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(frame)
}

fn encode(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(frame, vec![0; 4]).map_err(|_| FrameError::Malformed)?;
    let length = bytes.len().saturating_sub(4);
    if length > MAX_FRAME {
        return Err(FrameError::Oversized(length));
    }
    if let (Some(head), Ok(length)) = (bytes.first_chunk_mut(), u32::try_from(length)) {
        *head = length.to_be_bytes();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshhold_core::gossip::MAX_ENTRIES;

    #[test]
    fn frames_survive_the_wire_and_the_largest_fits() {
        let digest = Message::Digest { topic: [9; 32], entries: vec![([255; 16], u64::MAX); MAX_ENTRIES] };
        for frame in [
            Frame::Hello { version: VERSION, instance: u64::MAX },
            Frame::Observed { address: "[2001:db8::1]:7777".parse().unwrap() },
            Frame::Gossip(Message::Subscribe { topics: vec![[1; 32], [2; 32]] }),
            Frame::Gossip(digest),
            Frame::Relay(relay::Message::Here),
        ] {
            let bytes = encode(&frame).unwrap();
            assert_eq!(bytes.len() - 4, u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize);
            assert_eq!(decode(&bytes[4..]), Some(frame));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let good = encode(&Frame::Observed { address: "192.0.2.1:7777".parse().unwrap() }).unwrap();
        let trailing = [&good[4..], &[0]].concat();
        let endless = [&[2, 0][..], &[0xff; 9], &[1]].concat();
        for bytes in [&[][..], &[9], &[0xff; 40], &good[4..good.len() - 1], &trailing, &endless] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
