//! Programs of this network namespace that manage its network, and may undo what others configure.
//!
//! Owns their names and how each is told to leave the mesh alone. Must not know what was undone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// As `/proc/PID/comm` has it (15 bytes at most), its unit, and what keeps it off.
const KNOWN: [(&str, &str, &str); 6] = [
    (
        "systemd-network",
        "systemd-networkd.service",
        "systemd-networkd: ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no in networkd.conf, and a .network file \
         with Unmanaged=yes for the mesh interface",
    ),
    (
        "NetworkManager",
        "NetworkManager.service",
        "NetworkManager: unmanaged-devices=interface-name:NAME in its configuration",
    ),
    ("connmand", "connman.service", "ConnMan: NetworkInterfaceBlacklist in main.conf"),
    ("dhcpcd", "dhcpcd.service", "dhcpcd: denyinterfaces in dhcpcd.conf"),
    ("tailscaled", "tailscaled.service", "tailscaled"),
    ("netifd", "netifd.service", "netifd"),
];
/// Where systemd keeps the processes of units: seen where those of other users are not (`ProtectProc=invisible`).
const UNITS: [&str; 2] = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice"];

/// Those that run, a phrase each.
pub fn running() -> Vec<&'static str> {
    // Those of containers have networks of their own.
    let namespace = |process: &Path| fs::metadata(process.join("ns/net")).map(|metadata| metadata.ino()).ok();
    let own = namespace(Path::new("/proc/self"));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = processes.filter(|path| namespace(path) == own);
    let names: Vec<String> = ours.filter_map(|path| fs::read_to_string(path.join("comm")).ok()).collect();
    let runs = |name: &str| names.iter().any(|found| found.trim() == name);
    let known = KNOWN.iter().filter(|(name, unit, _)| runs(name) || is_active(unit));
    known.map(|(_, _, advice)| *advice).collect()
}

fn is_active(unit: &str) -> bool {
    let processes = |folder: &str| fs::read_to_string(Path::new(folder).join(unit).join("cgroup.procs"));
    UNITS.iter().any(|folder| processes(folder).is_ok_and(|processes| !processes.trim().is_empty()))
}
