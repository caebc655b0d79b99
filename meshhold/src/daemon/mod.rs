//! Filled in by its owner.

/// Runs the daemon until it is told to stop.
pub fn run(_config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("the daemon isn't built yet")
}
