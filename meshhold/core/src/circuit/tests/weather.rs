//! What a simulated wire does to datagrams.

use std::time::Duration;

/// What the wire does to datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    pub(super) repeat: f64,
}

pub(super) const CALM: Weather =
    Weather { delay: Duration::from_millis(20), jitter: Duration::ZERO, loss: 0.0, repeat: 0.0 };
