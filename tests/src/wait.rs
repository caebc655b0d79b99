//! Waiting on conditions. Tests never sleep for a guessed time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` until it yields a value; fails with `what` and the last error once `limit` has passed.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = probe();
        if let Ok(Some(value)) = outcome {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return match outcome {
                Err(error) => Err(error).with_context(|| format!("not within {limit:?}: {what}")),
                Ok(_) => bail!("not within {limit:?}: {what}"),
            };
        }
        std::thread::sleep(POLL);
    }
}

/// As [`until`], for a plain condition.
pub fn until_true(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(limit, what, || Ok(condition()?.then_some(())))
}

/// Watches for `window` that `condition` stays false: some things must not happen at all.
pub fn never(window: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + window;
    while Instant::now() < end {
        if condition()? {
            bail!("happened and must not: {what}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
