//! Limits of the process that keep a daemon from starting or from serving everybody.
//!
//! Owns what is said of them. Must not know what needs files or threads.

use std::io;

use super::sys;

/// As many files as a node with many peers, a crowd of browsers and hard NATs opens.
const PLENTY: u64 = 65_536;
/// With fewer, links and answers are refused sooner or later.
const FEW: u64 = 256;
const REMEDY: &str =
    "allow 1024 or more: LimitNOFILE= in the service's unit, or `ulimit -n` before the start";

/// Raises the number of files that may be open as far as the host permits without asking.
pub fn raise() {
    let Ok((now, most)) = sys::open_files() else { return };
    let wanted = most.min(PLENTY);
    if wanted > now
        && let Err(error) = sys::set_open_files(wanted, most)
    {
        tracing::debug!(%error, now, "cannot raise the limit of open files");
    }
}

/// A sentence where so few files may be open that something will fail.
pub fn warning() -> Option<String> {
    let (now, _) = sys::open_files().ok()?;
    (now < FEW).then(|| {
        format!("this process may have only {now} files open, so links and clients may be refused; {REMEDY}")
    })
}

/// Says what the limit is and how to raise it, where that is what went wrong.
pub fn explain(error: anyhow::Error) -> anyhow::Error {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    match code {
        Some(libc::EMFILE) => {
            let limit = sys::open_files().map_or(0, |(now, _)| now);
            error
                .context(format!("this process may have only {limit} files open, too few to start; {REMEDY}"))
        }
        Some(libc::ENFILE) => {
            error.context("this host has as many files open as it may; raise the sysctl fs.file-max")
        }
        Some(libc::EAGAIN) => error.context(
            "this process may start no more threads; raise TasksMax= in the service's unit, or `ulimit -u`",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_a_limit_caused_is_told_with_the_limit_and_nothing_else_is() {
        let told = |code| {
            let failed = Err::<(), _>(io::Error::from_raw_os_error(code)).context("cannot use UDP [::]:7777");
            format!("{:#}", explain(failed.unwrap_err()))
        };
        assert!(
            told(libc::EMFILE).contains("files open, too few to start; allow 1024 or more: LimitNOFILE=")
        );
        assert!(told(libc::EAGAIN).contains("TasksMax="));
        assert!(told(libc::EADDRINUSE).starts_with("cannot use UDP"));
    }
}
