//! Sessions as one worker holds them: keys, send counters and replay windows of its own lanes.
//!
//! Owns what must have a single writer. Must not know tables or sockets.

use std::sync::Arc;
use std::time::Instant;

use meshhold_core::path::Path;
use meshhold_core::replay::ReplayWindow;
use meshhold_core::session::{SendCounter, Session};
use meshhold_core::wire::{DATA_HEADER, LANE_BITS, SPARSE_LANE, TAG, TYPE_DATA};

use super::shared::SharedSession;
use crate::datapath::crypto::{KeyError, LaneKey};

const LANE_MASK: u32 = (1 << LANE_BITS) - 1;

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    remote_index: u32,
    send: LaneKey,
    counter: SendCounter,
    receive: LaneKey,
    window: ReplayWindow,
}

/// The lanes of one session that this worker owns.
#[derive(Debug)]
pub(super) struct LocalSession {
    pub(super) shared: Arc<SharedSession>,
    lanes: Vec<Lane>,
    /// The last path that was reported as new, and when.
    pub(super) moved: Option<(Path, Instant)>,
}

/// All sessions of one worker, by local index.
#[derive(Debug)]
pub(super) struct Sessions {
    place: Place,
    list: Vec<LocalSession>,
}

/// Which lanes a worker owns: of one class, every so many from one on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) class: Class,
    first: usize,
    /// Workers of the same class.
    step: usize,
}

/// How a packet waits and travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// In turn.
    Bulk,
    /// Before what is bulk: its flow sends little.
    Sparse,
}

/// A data header, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataHeader {
    pub(super) bytes: [u8; DATA_HEADER],
    pub(super) flags: u8,
    /// Local index of the session, without the lane.
    pub(super) session: u32,
    /// Without the bit of sparse lanes.
    pub(super) lane: usize,
    pub(super) class: Class,
    pub(super) counter: u64,
}

impl DataHeader {
    /// `None` where `datagram` is no data datagram or too short for one.
    pub(super) fn of(datagram: &[u8]) -> Option<Self> {
        let bytes = *datagram.first_chunk::<DATA_HEADER>()?;
        let [kind, flags, _, _, i0, i1, i2, i3, counter @ ..] = bytes;
        if kind != TYPE_DATA || datagram.len() < DATA_HEADER + TAG {
            return None;
        }
        let index = u32::from_be_bytes([i0, i1, i2, i3]);
        Some(Self {
            bytes,
            flags,
            session: index & !LANE_MASK,
            lane: usize::from(i3 & (SPARSE_LANE - 1)),
            class: if i3 & SPARSE_LANE == 0 { Class::Bulk } else { Class::Sparse },
            counter: u64::from_be_bytes(counter),
        })
    }
}

impl Sessions {
    pub(super) fn new(place: Place) -> Self {
        Self { place, list: Vec::new() }
    }

    /// Takes up the sessions of a new snapshot and forgets those that are gone.
    pub(super) fn attach(&mut self, sessions: &[Arc<SharedSession>]) {
        self.list.retain(|local| sessions.iter().any(|shared| Arc::ptr_eq(shared, &local.shared)));
        for shared in sessions {
            if self.list.iter().any(|local| Arc::ptr_eq(shared, &local.shared)) {
                continue;
            }
            match self.lanes(&shared.session) {
                Ok(lanes) => self.list.push(LocalSession { shared: shared.clone(), lanes, moved: None }),
                Err(error) => tracing::error!(%error, "a session can't be used"),
            }
        }
        self.list.sort_by_key(|local| local.shared.session.local_index);
    }

    fn lanes(&self, session: &Session) -> Result<Vec<Lane>, KeyError> {
        let bit = if self.place.class == Class::Sparse { SPARSE_LANE } else { 0 };
        let mine = (self.place.first as u8..session.lanes).step_by(self.place.step);
        mine.map(|lane| Lane::new(session, lane | bit)).collect()
    }

    /// The session with this local index (of lane 0).
    pub(super) fn find(&mut self, local_index: u32) -> Option<&mut LocalSession> {
        let key = |local: &LocalSession| local.shared.session.local_index;
        let at = self.list.binary_search_by_key(&local_index, key).ok()?;
        self.list.get_mut(at)
    }
}

impl Place {
    /// Of worker `id`, of `workers` in all: the first half for bulk, the second for what is sparse.
    pub(super) fn of(id: usize, workers: usize) -> Self {
        let step = (workers / 2).max(1);
        let class = if id < step { Class::Bulk } else { Class::Sparse };
        Self { class, first: id % step, step }
    }

    /// Which worker owns a lane.
    pub(super) fn owner(self, lane: usize, class: Class) -> usize {
        lane % self.step + if class == Class::Sparse { self.step } else { 0 }
    }

    /// Position of `lane` among the lanes of its worker.
    pub(super) fn position(self, lane: usize) -> usize {
        lane / self.step
    }

    /// Number among the workers of the same class, and how many these are.
    pub(super) fn number(self) -> (usize, usize) {
        (self.first, self.step)
    }
}

impl LocalSession {
    /// Position of the lane to send a flow on, always the same for one flow.
    pub(super) fn position_for(&self, flow_hash: impl FnOnce() -> u32) -> usize {
        if self.lanes.len() < 2 { 0 } else { flow_hash() as usize % self.lanes.len() }
    }

    /// The lane at a position given by [`Self::position_for`] or [`Place::position`].
    pub(super) fn lane(&mut self, position: usize) -> Option<&mut Lane> {
        self.lanes.get_mut(position)
    }
}

impl Lane {
    fn new(session: &Session, lane: u8) -> Result<Self, KeyError> {
        Ok(Self {
            remote_index: session.remote_index | u32::from(lane),
            send: LaneKey::new(session.cipher, &session.send_key(lane))?,
            counter: SendCounter::default(),
            receive: LaneKey::new(session.cipher, &session.recv_key(lane))?,
            window: ReplayWindow::default(),
        })
    }

    /// Seals `packet` into `datagram`, which has room for it with header and tag. `None` where the counter has reached its
    /// limit: nothing may be sent on this session any more.
    pub(super) fn seal(&mut self, flags: u8, packet: &[u8], datagram: &mut [u8]) -> Option<()> {
        let (header, rest) = datagram.split_first_chunk_mut::<DATA_HEADER>()?;
        // Whole words: what is made of bytes is read back late.
        let front = u64::from(u16::from_be_bytes([TYPE_DATA, flags])) << 48 | u64::from(self.remote_index);
        let words = u128::from(front) << 64 | u128::from(self.counter.next()?);
        *header = words.to_be_bytes();
        self.send.seal(header, packet, rest)
    }

    /// Whether the counter of a datagram is new; says nothing about who sent it.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        self.window.would_accept(counter)
    }

    /// Opens `sealed` (ciphertext and tag) in place, marks its counter as used, and returns the length of the packet.
    pub(super) fn open(&mut self, header: &DataHeader, sealed: &mut [u8]) -> Option<usize> {
        let len = self.receive.open(&header.bytes, sealed)?;
        self.window.accept(header.counter).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshhold_core::session::{Cipher, REJECT_AFTER_MESSAGES, Secret};

    fn lane(counter: SendCounter) -> Lane {
        let key = |n| LaneKey::new(Cipher::Aes256Gcm, &Secret([n; 32])).unwrap();
        Lane { remote_index: 0x50, send: key(1), counter, receive: key(1), window: ReplayWindow::default() }
    }

    #[test]
    fn nothing_is_sealed_beyond_the_counter_limit() {
        let mut lane = lane(SendCounter::starting_at(REJECT_AFTER_MESSAGES - 2));
        let sealed: Vec<_> =
            (0..4).map(|_| lane.seal(0, &[0; 28], &mut [0; DATA_HEADER + 28 + TAG]).is_some()).collect();
        assert_eq!(sealed, [true, true, false, false]);
    }

    #[test]
    fn what_was_sealed_opens_once() {
        let mut lane = lane(SendCounter::default());
        let mut datagram = [0; DATA_HEADER + 20 + TAG];
        lane.seal(1, &[7; 20], &mut datagram).unwrap();
        let header = DataHeader::of(&datagram).unwrap();
        assert_eq!((header.flags, header.session, header.lane, header.counter), (1, 0x50, 0, 0));
        let mut copy = datagram;
        assert_eq!(lane.open(&header, &mut copy[DATA_HEADER..]), Some(20));
        assert_eq!(copy[DATA_HEADER..DATA_HEADER + 20], [7; 20]);
        assert!(!lane.is_new(0));
        assert_eq!(lane.open(&header, &mut datagram[DATA_HEADER..]), None);
    }
}
