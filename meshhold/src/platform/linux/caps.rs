//! What the process may not do, said before it fails.
//!
//! Owns the probe and its sentences. Must not know how the daemon degrades.

use std::{fs, io, path::Path};

use super::{bpffs::MOUNT_POINT, sys};

const STATUS: &str = "/proc/self/status";
const TUN_DEVICE: &str = "/dev/net/tun";

// Bits of linux/capability.h.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Something that the full data path needs and that isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name: `CAP_BPF`, `/dev/net/tun`.
    pub what: &'static str,
    /// What it is needed for, and what works without it: one sentence.
    pub why: String,
    /// What to do about it.
    pub fix: &'static str,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} is missing: {} ({})", self.what, self.why, self.fix)
    }
}

/// Looks for everything that is missing. Empty: all of the data path can be built.
pub fn probe() -> Vec<Missing> {
    let mut missing = missing_capabilities(effective(), in_initial_user_namespace());
    if let Err(error) = fs::File::options().read(true).write(true).open(TUN_DEVICE) {
        missing.push(no_tun(&error));
    }
    let mounted = sys::is_bpffs(Path::new(MOUNT_POINT)).unwrap_or(false);
    if !mounted && effective() & (1 << SYS_ADMIN) == 0 {
        missing.push(Missing {
            what: "bpffs",
            why: format!(
                "eBPF programs are pinned at {MOUNT_POINT}; without it user space enforces the port scope"
            ),
            fix: "as root: mount -t bpf bpf /sys/fs/bpf",
        });
    }
    missing
}

fn missing_capabilities(effective: u64, initial_user_namespace: bool) -> Vec<Missing> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let bpf = initial_user_namespace && (has(BPF) || has(SYS_ADMIN));
    let perfmon = initial_user_namespace && (has(PERFMON) || has(SYS_ADMIN));
    let rows = [
        (
            has(NET_ADMIN),
            "CAP_NET_ADMIN",
            "the mesh interface can't be created; links, records and the control API work without it",
            "AmbientCapabilities=CAP_NET_ADMIN in the unit, or docker run --cap-add NET_ADMIN",
        ),
        (
            bpf,
            "CAP_BPF",
            "eBPF programs can't be loaded; without them user space enforces the port scope and delivers to \
             non-loopback listeners only",
            "AmbientCapabilities=CAP_BPF in the unit; a user namespace of its own can't have it",
        ),
        (
            perfmon,
            "CAP_PERFMON",
            "the kernel refuses the eBPF programs' pointer arithmetic; without them user space enforces the port \
             scope and delivers to non-loopback listeners only",
            "AmbientCapabilities=CAP_PERFMON in the unit",
        ),
    ];
    rows.into_iter()
        .filter(|(present, ..)| !present)
        .map(|(_, what, why, fix)| Missing { what, why: why.to_owned(), fix })
        .collect()
}

fn no_tun(error: &io::Error) -> Missing {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "modprobe tun; mkdir -p /dev/net; mknod /dev/net/tun c 10 200",
        io::ErrorKind::PermissionDenied => {
            "chmod 0666 /dev/net/tun, or DeviceAllow=/dev/net/tun rw in the unit"
        }
        _ => "modprobe tun, or docker run --device /dev/net/tun",
    };
    let why = format!(
        "the mesh interface can't be created ({error}); links, records and the control API work without it"
    );
    Missing { what: TUN_DEVICE, why, fix }
}

fn effective() -> u64 {
    parse_effective(&fs::read_to_string(STATUS).unwrap_or_default())
}

fn parse_effective(status: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    value.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Loading programs is judged by the initial user namespace, whatever the capabilities in another say.
fn in_initial_user_namespace() -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return true };
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_is_missed_by_name() {
        let all = (1 << NET_ADMIN) | (1 << BPF) | (1 << PERFMON);
        let cases: [(u64, bool, &[&str]); 7] = [
            (all, true, &[]),
            (all & !(1 << NET_ADMIN), true, &["CAP_NET_ADMIN"]),
            (all & !(1 << BPF), true, &["CAP_BPF"]),
            (all & !(1 << PERFMON), true, &["CAP_PERFMON"]),
            ((1 << NET_ADMIN) | (1 << SYS_ADMIN), true, &[]),
            (0, true, &["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]),
            (u64::MAX, false, &["CAP_BPF", "CAP_PERFMON"]),
        ];
        for (effective, initial, expected) in cases {
            let names: Vec<&str> =
                missing_capabilities(effective, initial).iter().map(|missing| missing.what).collect();
            assert_eq!(names, expected, "{effective:x} {initial}");
        }
    }

    #[test]
    fn the_status_file_is_read_and_its_absence_means_nothing() {
        assert_eq!(parse_effective("Name:\tx\nCapPrm:\t01\nCapEff:\t0000000000001000\n"), 1 << NET_ADMIN);
        for text in ["", "CapEff:\tnonsense\n", "CapBnd:\tff\n"] {
            assert_eq!(parse_effective(text), 0, "{text:?}");
        }
    }

    #[test]
    fn an_absent_tun_device_is_explained() {
        let missing = no_tun(&io::Error::from(io::ErrorKind::NotFound));
        assert!(missing.to_string().starts_with("/dev/net/tun is missing: "), "{missing}");
        assert!(missing.fix.contains("mknod"), "{}", missing.fix);
    }
}
