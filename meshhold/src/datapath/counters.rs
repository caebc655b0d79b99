//! What the workers counted: packets per reason and traffic per session.
//!
//! Every cell has one writer (its worker) and any reader, so relaxed loads and stores are enough and no
//! worker ever waits for another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meshhold_common::Reason;

/// A counter that one thread advances.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`; for the one writer only.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One worker's packets per [`Reason`].
#[derive(Debug)]
pub struct ReasonCounters([Cell; Reason::COUNT]);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self([const { Cell(AtomicU64::new(0)) }; Reason::COUNT])
    }
}

impl ReasonCounters {
    /// Counts `packets` more packets that ended in `reason`.
    pub fn add(&self, reason: Reason, packets: u64) {
        if let Some(cell) = self.0.get(reason as usize) {
            cell.add(packets);
        }
    }

    /// Adds this worker's values to `total`.
    pub fn add_to(&self, total: &mut [u64; Reason::COUNT]) {
        for (sum, cell) in total.iter_mut().zip(&self.0) {
            *sum += cell.get();
        }
    }
}

/// One worker's traffic on one session. Bytes are those of inner packets.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Datagrams sealed, keepalives included.
    pub tx_packets: Cell,
    /// Datagrams opened, keepalives included.
    pub rx_packets: Cell,
    /// Inner bytes sealed.
    pub tx_bytes: Cell,
    /// Inner bytes opened.
    pub rx_bytes: Cell,
}

/// Totals of one session over all workers, as [`crate::datapath::workers::Workers::activity`] gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// [`meshhold_core::session::Session::local_index`].
    pub local_index: u32,
    /// Datagrams sealed, keepalives included.
    pub tx_packets: u64,
    /// Datagrams opened, keepalives included.
    pub rx_packets: u64,
    /// Inner bytes sealed.
    pub tx_bytes: u64,
    /// Inner bytes opened.
    pub rx_bytes: u64,
}

impl Activity {
    /// Sums the workers' parts.
    pub fn of<'a>(local_index: u32, parts: impl Iterator<Item = &'a Traffic>) -> Self {
        parts.fold(Self { local_index, ..Self::default() }, |sum, part| Self {
            local_index,
            tx_packets: sum.tx_packets + part.tx_packets.get(),
            rx_packets: sum.rx_packets + part.rx_packets.get(),
            tx_bytes: sum.tx_bytes + part.tx_bytes.get(),
            rx_bytes: sum.rx_bytes + part.rx_bytes.get(),
        })
    }
}
