//! Why a kernel doesn't take the programs, in one line: the verifier's last words, and what this kernel lacks.
//!
//! Owns the probes, which run only after a refusal. The verifier's whole log, thousands of lines, goes to debug logging.

use std::error::Error;
use std::fs;
use std::io;

use aya::{
    BtfError,
    maps::MapType,
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

/// Longer words of the verifier are cut.
const LONGEST: usize = 240;
/// How the log's lines begin that say nothing about the cause.
const FIGURES: [&str; 6] =
    ["processed ", "verification time", "stack depth", "max_states", "mark_precise", "peak_states"];

/// Kinds of maps that the programs have, with the version that brought them; hashes and arrays are everywhere.
const MAPS: [(MapType, &str, &str); 3] = [
    (MapType::LruHash, "LRU hash", "4.10"),
    (MapType::LpmTrie, "LPM trie", "4.11"),
    (MapType::RingBuf, "ring buffer", "5.8"),
];

/// The younger ones of the helpers that the programs call.
const HELPERS: [(BpfHelper, &str, &str); 6] = [
    (BpfHelper::BPF_FUNC_skb_load_bytes_relative, "bpf_skb_load_bytes_relative", "4.18"),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp", "5.2"),
    (BpfHelper::BPF_FUNC_jiffies64, "bpf_jiffies64", "5.5"),
    (BpfHelper::BPF_FUNC_sk_assign, "bpf_sk_assign", "5.7"),
    (BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh", "5.10"),
    (BpfHelper::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns", "5.11"),
];

/// Why a program was refused.
pub(super) fn of_program(program: &str, error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            judged(program, io_error, &verifier_log.to_string())
        }
        ProgramError::Btf(BtfError::LoadError { io_error, verifier_log }) => {
            judged(program, io_error, &verifier_log.to_string())
        }
        other => chain(other),
    }
}

/// Why the object was refused before its programs were looked at.
pub(super) fn of_object(error: &aya::EbpfError) -> String {
    match error {
        aya::EbpfError::BtfError(BtfError::LoadError { io_error, verifier_log }) => {
            judged("BTF", io_error, &verifier_log.to_string())
        }
        aya::EbpfError::ProgramError(error) => of_program("object", error),
        other => with_lack(chain(other)),
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    one_line(&text)
}

fn judged(program: &str, error: &io::Error, log: &str) -> String {
    tracing::debug!(program, "the verifier's log:\n{log}");
    match last_words(log) {
        Some(words) => with_lack(format!("{}: {error}", one_line(words))),
        None => with_lack(error.to_string()),
    }
}

/// What the verifier said last, before its figures.
fn last_words(log: &str) -> Option<&str> {
    let says_why = |line: &&str| !line.is_empty() && !FIGURES.iter().any(|figure| line.starts_with(figure));
    log.lines().map(str::trim).rev().find(says_why)
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn with_lack(text: String) -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match lack() {
        Some(lack) => format!("{text} (Linux {}: {lack})", release.trim()),
        None => {
            format!("{text} (Linux {}; all of the verifier's words with MESHHOLD_LOG=debug)", release.trim())
        }
    }
}

/// The first thing that the programs need and this kernel doesn't have, and what to do.
fn lack() -> Option<String> {
    match is_program_supported(ProgramType::SchedClassifier) {
        Err(error) => return forbidden(&error),
        Ok(false) => {
            return Some(
                "it takes no programs for interfaces (CONFIG_NET_CLS_ACT, CONFIG_BPF_SYSCALL)".into(),
            );
        }
        Ok(true) => {}
    }
    let map = MAPS.into_iter().find(|(kind, ..)| is_map_supported(*kind).is_ok_and(|there| !there));
    let helper = HELPERS.into_iter().find(|(helper, ..)| {
        is_helper_supported(ProgramType::SchedClassifier, *helper).is_ok_and(|there| !there)
    });
    let map = map.map(|(_, name, since)| lacks(&format!("maps of the kind {name}"), since));
    map.or_else(|| helper.map(|(_, name, since)| lacks(&format!("the helper {name}"), since)))
}

fn lacks(what: &str, since: &str) -> String {
    format!("it lacks {what}, which came with Linux {since}; Linux 6.1 or newer has all that is needed")
}

/// Where not even the least program may be loaded.
fn forbidden(error: &ProgramError) -> Option<String> {
    let (ProgramError::LoadError { io_error, .. } | ProgramError::IOError(io_error)) = error else {
        let ProgramError::SyscallError(error) = error else { return None };
        return why_forbidden(&error.io_error);
    };
    why_forbidden(io_error)
}

fn why_forbidden(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::ENOSYS => Some("it was built without bpf(2) (CONFIG_BPF_SYSCALL)".into()),
        libc::EPERM | libc::EACCES => Some(not_permitted(&lockdown())),
        _ => None,
    }
}

/// `lockdown` is the mode in force, empty without one.
fn not_permitted(lockdown: &str) -> String {
    let first = "bpf(2) isn't permitted: it takes CAP_BPF and CAP_PERFMON of the host's user namespace, and no seccomp \
                 filter or security module that forbids it";
    match lockdown {
        "" | "none" => first.to_owned(),
        mode => format!("{first}; the kernel is locked down ({mode}), see kernel_lockdown(7)"),
    }
}

fn lockdown() -> String {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let chosen = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map(|(mode, _)| mode.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of what Linux 6.12.95 said to a program that added constants to make an index.
    const LOG: &str = "2609: (73) *(u8 *)(r10 -88) = r1\n; let place = host.place(index)? @ cache.rs:180\n2610: (0f) r0 += r2\n\
                       mark_precise: frame0: last_idx 2610 first_idx 2600\n\
                       map_value pointer offset 668265263 is not allowed\n\
                       processed 31415 insns (limit 1000000) max_states_per_insn 4 total_states 900 peak_states 300\n\n";

    #[test]
    fn a_verifier_is_quoted_in_one_line() {
        assert_eq!(last_words(LOG), Some("map_value pointer offset 668265263 is not allowed"));
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let text = judged("mesh_egress", &error, &LOG.repeat(1000));
        assert!(
            text.starts_with("map_value pointer offset 668265263 is not allowed: Invalid argument"),
            "{text}"
        );
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
    }

    #[test]
    fn without_a_log_the_error_is_what_is_said() {
        for log in ["", "\n", "processed 0 insns (limit 1000000)\n"] {
            assert_eq!(last_words(log), None, "{log:?}");
        }
        let text = judged("mesh_egress", &io::Error::from_raw_os_error(libc::E2BIG), "");
        assert!(text.starts_with("Argument list too long"), "{text}");
    }

    #[test]
    fn words_without_end_are_cut() {
        assert_eq!(one_line(&"ä ".repeat(LONGEST)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn what_is_missing_is_named_with_what_has_it() {
        let text = lacks("the helper bpf_sk_assign", "5.7");
        assert!(
            text.contains("bpf_sk_assign") && text.contains("5.7") && text.contains("6.1 or newer"),
            "{text}"
        );
        assert!(not_permitted("integrity").contains("locked down (integrity)"));
        assert!(!not_permitted("none").contains("locked"));
    }
}
