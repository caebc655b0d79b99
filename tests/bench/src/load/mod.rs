//! A load of small datagrams: how many a second arrive, paced and unpaced.

mod pace;
pub(crate) mod receiver;
mod sys;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use self::pace::{Sender, Trial, search};

const TRIAL: Duration = Duration::from_millis(300);
const WARM_UP: f64 = 5.0;
/// Packets a millisecond; more than any sender here reaches.
const MOST: f64 = 4000.0;

/// Prints the highest rate in packets a millisecond at which at most one in a hundred is lost.
pub(crate) fn probe(target: SocketAddr, size: usize) -> Result<()> {
    let mut sender = Sender::connect(target, size)?;
    sender.trial(Some(WARM_UP), TRIAL / 3)?;
    let best = search(MOST, |rate| {
        // One loss by accident is forgiven.
        Ok(sender.trial(Some(rate), TRIAL)?.passes(rate) || sender.trial(Some(rate), TRIAL)?.passes(rate))
    })?;
    println!("{{\"kpps\": {best:.1}}}");
    Ok(())
}

/// Prints what an unpaced sender offers and what arrives of it.
pub(crate) fn flood(target: SocketAddr, size: usize, millis: u64) -> Result<()> {
    let mut sender = Sender::connect(target, size)?;
    sender.trial(Some(WARM_UP), TRIAL / 3)?;
    let Trial { offered, arrived, seconds } = sender.trial(None, Duration::from_millis(millis))?;
    let rate = |count: u64| count as f64 / seconds / 1e3;
    let goodput = rate(arrived) * size as f64 * 8.0 / 1e6;
    println!(
        "{{\"offered_kpps\": {:.1}, \"kpps\": {:.1}, \"goodput_gbps\": {goodput:.4}}}",
        rate(offered),
        rate(arrived)
    );
    Ok(())
}
