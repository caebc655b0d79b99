//! The ring of drop events, ready for an event loop.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use meshhold_common::event::Event;

/// Drop events; readable (`AsyncFd`) when there are some.
pub struct Events(pub(super) RingBuf<MapData>);

impl Events {
    /// The next event; `None` where there is none now.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(record) = self.0.next() {
            if let Some(event) = Event::from_bytes(&record) {
                return Some(event);
            }
        }
        None
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
