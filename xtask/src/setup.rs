//! Installs what building and testing need on Debian, and says what it installs. Quick where all is there.
//!
//! Never downloads parts of a Rust toolchain: Debian's `rustc-web` brings a core for BPF where rust-src is missing.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build_ebpf, cargo};

/// bpf-linker's version, and the LLVM that it is linked with: at least as new as the one inside rustc.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// Needed to build bpf-linker only.
const LINKER_PACKAGES: [&str; 7] =
    ["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev", "g++", "pkg-config"];
/// Needed to compile for BPF where the active toolchain has no rust-src.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Needed to build the daemon, and for the demo and the tests.
const PACKAGES: [&str; 25] = [
    "bind9-dnsutils",
    "bpftool",
    "ca-certificates",
    "chromium",
    "cmake",
    "curl",
    "dbus-daemon",
    "ethtool",
    "gcc",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "libfaketime",
    "libipsec-mb-dev",
    "netcat-openbsd",
    "nftables",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "samba",
    "smbclient",
    "tcpdump",
];

/// Runs the browser's tests, where nobody installed another one. The files of `tests/web` say which modules they want.
const NODE_PACKAGES: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];
const NODE_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// For the lab, unpacked into a folder and not installed: their scripts would replace the machine's own resolver, or start
/// a gateway or a firewall on it. With the folder and the program in it.
const UNPACKED: [(&str, &str, &[&str]); 6] = [
    ("networkd", "lib/systemd/systemd-networkd", &["systemd", "libsystemd-shared"]),
    (
        "resolved",
        "lib/systemd/systemd-resolved",
        &["systemd-resolved", "libnss-resolve", "libsystemd-shared"],
    ),
    (
        "firewalld",
        "usr/sbin/firewalld",
        &[
            "firewalld",
            "gir1.2-glib-2.0",
            "libgirepository-1.0-1",
            "python3-dbus",
            "python3-firewall",
            "python3-gi",
            "python3-nftables",
        ],
    ),
    ("ufw", "usr/sbin/ufw", &["ufw"]),
    ("miniupnpd", "usr/sbin/miniupnpd", &["miniupnpd-nftables"]),
    ("prometheus", "usr/bin/promtool", &["prometheus"]),
];

/// Installs everything that is missing.
///
/// # Errors
/// Where something is missing and this is not root on a Debian system, or an installation fails.
pub(crate) fn run() -> Result<()> {
    let compiler = build_ebpf::find_compiler().is_err();
    let linker = build_ebpf::find_linker().is_none();
    let mut wanted: Vec<&str> = PACKAGES.to_vec();
    wanted.extend(COMPILER_PACKAGES.iter().filter(|_| compiler));
    wanted.extend(LINKER_PACKAGES.iter().filter(|_| linker));
    wanted.extend(NODE_PACKAGES.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| package));
    install_packages(&missing(&wanted)?)?;
    if linker {
        install_linker()?;
    }
    for (name, program, packages) in UNPACKED {
        unpack(name, program, packages)?;
    }
    install_modules()?;
    let compiler = build_ebpf::detect().map_err(anyhow::Error::msg)?;
    println!("setup: all there; eBPF compiler: {compiler}");
    Ok(())
}

/// Unpacks packages into a folder, which it yields; `program` shows that they are there.
pub(crate) fn unpack(name: &str, program: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = cargo::target_dir().join("debian").join(name);
    if root.join(program).exists() {
        return Ok(root);
    }
    println!("setup: unpacking {} into {}", packages.join(", "), root.display());
    std::fs::create_dir_all(&root)?;
    let download =
        || succeed(Command::new("apt-get").args(["--quiet", "download"]).args(packages).current_dir(&root));
    // The first may fail for want of package lists.
    if download().is_err() {
        apt(&["update"])?;
        download()?;
    }
    for entry in std::fs::read_dir(&root)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            succeed(Command::new("dpkg").arg("-x").arg(&path).arg(&root))?;
            std::fs::remove_file(path)?;
        }
    }
    Ok(root)
}

/// Where apt gets this machine's own packages with this label (`Debian`, `Debian-Security`).
pub(crate) fn mirror(label: &str) -> Result<String> {
    let format = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let list =
        || Command::new("apt-get").arg("indextargets").args(format).output().context("cannot run apt-get");
    let find = |printed: &[u8]| {
        let text = String::from_utf8_lossy(printed).into_owned();
        text.lines().find_map(|line| Some(line.strip_prefix(label)?.strip_prefix(' ')?.to_owned()))
    };
    if let Some(address) = find(&list()?.stdout) {
        return Ok(address);
    }
    apt(&["update"])?;
    find(&list()?.stdout).with_context(|| format!("apt knows no sources of {label}"))
}

/// What drives the browser, into `target/npm`, where what is there isn't exactly what is wanted.
fn install_modules() -> Result<()> {
    let (wanted, folder) = (cargo::root().join("tests/web"), cargo::target_dir().join("npm"));
    let text = |folder: &Path, name: &str| std::fs::read(folder.join(name)).ok();
    let done = folder.join("node_modules/.package-lock.json").exists();
    if done && NODE_FILES.iter().all(|name| text(&wanted, name) == text(&folder, name)) {
        return Ok(());
    }
    println!("setup: installing the modules of tests/web into {}", folder.display());
    std::fs::create_dir_all(&folder)?;
    for name in NODE_FILES {
        std::fs::copy(wanted.join(name), folder.join(name))?;
    }
    let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    succeed(Command::new("npm").args(arguments).current_dir(&folder))
}

fn is_there(program: &str) -> bool {
    let outcome = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    outcome.is_ok_and(|status| status.success())
}

/// Installs those of `packages` that are missing.
pub(crate) fn debian(packages: &[&str]) -> Result<()> {
    if packages.is_empty() { Ok(()) } else { install_packages(&missing(packages)?) }
}

/// The packages of `wanted` that are not installed.
fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(wanted)
        .stderr(Stdio::null())
        .output()
        .context(
            "cannot run dpkg-query: setup knows Debian only; see README for the list of what is needed",
        )?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(wanted.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing Debian packages: {}", packages.join(" "));
    ensure!(is_root()?, "installing packages needs root; run `cargo xtask setup` as root");
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)?;
    stop_services(packages);
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    succeed(&mut command)
}

/// What Debian started because it was just installed: nobody asked for these on this machine.
fn stop_services(packages: &[&str]) {
    const SERVICES: [(&str, &str); 6] = [
        ("openssh-server", "ssh"),
        ("nginx-light", "nginx"),
        ("iperf3", "iperf3"),
        ("samba", "smbd"),
        ("samba", "nmbd"),
        ("tinc", "tinc"),
    ];
    for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        if Path::new("/run/systemd/system").is_dir() {
            // Not installed as a unit, or not running: both are what is wanted.
            let _ = Command::new("systemctl").args(["disable", "--quiet", "--now", service]).status();
        }
    }
}

fn install_linker() -> Result<()> {
    println!("setup: installing bpf-linker {LINKER_VERSION} from crates.io (a few minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    succeed(&mut command)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} failed ({status}); its messages are above");
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    Ok(status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0")))
}
