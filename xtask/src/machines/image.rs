//! Images of whole Debian systems, made by mmdebstrap from the mirror that apt is set to.
//!
//! Cached by the recipe: the packages, the sources, and the files that go in. Knows nothing of MeshHold.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{cargo, setup};

/// Needed on this machine to make one.
const TOOLS: [&str; 5] = ["mmdebstrap", "debian-archive-keyring", "e2fsprogs", "cpio", "zstd"];
/// What a machine has, whatever the system.
const PACKAGES: &[&str] = &[
    "bpftool",
    "curl",
    "dbus",
    "firewalld",
    "initramfs-tools",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libnss-resolve",
    "linux-image-amd64",
    "netcat-openbsd",
    "network-manager",
    "nftables",
    "openssh-client",
    "openssh-server",
    "polkitd",
    "procps",
    "python3-minimal",
    "systemd",
    "systemd-container",
    "systemd-resolved",
    "systemd-sysv",
    "tcpdump",
    "udev",
    "ufw",
    "zstd",
];
/// What goes into the image besides packages, by name.
const FILES: [(&str, &str); 5] = [
    ("agent.py", include_str!("guest/agent.py")),
    ("agent.service", include_str!("guest/agent.service")),
    ("customize.sh", include_str!("guest/customize.sh")),
    ("lan.network", include_str!("guest/lan.network")),
    ("lan.nmconnection", include_str!("guest/lan.nmconnection")),
];
/// Modules that the initramfs needs; with all that there are it takes a slow machine seconds to unpack.
const INITRAMFS: &str = "mkdir -p \"$1/etc/initramfs-tools/conf.d\" \"$1/usr/share/initramfs-tools/modules.d\" \
    && echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/lab\" \
    && printf 'virtio_pci\\nvirtio_blk\\next4\\n' > \"$1/usr/share/initramfs-tools/modules.d/lab\"";
const SIZE: &str = "4G";

/// A system and the kernel that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Debian 12 with its own kernel
    Bookworm,
    /// Debian 12 with the kernel of its backports
    BookwormBackports,
    /// Debian 13 with its own kernel
    Trixie,
}

/// Where an image lies.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

impl System {
    /// All, oldest kernel first.
    pub(super) const ALL: [Self; 3] = [Self::Bookworm, Self::BookwormBackports, Self::Trixie];

    /// As people say it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Bookworm => "Debian 12",
            Self::BookwormBackports => "Debian 12, backports' kernel",
            Self::Trixie => "Debian 13",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm | Self::BookwormBackports => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    fn packages(self) -> Vec<&'static str> {
        let mut packages = PACKAGES.to_vec();
        if self.suite() == "bookworm" {
            // Another package than the system's own kernel, so that one image has both.
            packages.push("linux-image-cloud-amd64/bookworm-backports");
        }
        packages
    }

    /// Whether this is the kernel's release that the system is to run.
    fn runs(self, release: &str) -> bool {
        self != Self::BookwormBackports && !release.contains("cloud")
            || self == Self::BookwormBackports && release.contains("cloud")
    }
}

/// The system's image; made where the recipe's isn't there yet.
pub(super) fn get(system: System) -> Result<Image> {
    setup::debian(&TOOLS)?;
    let sources = sources(system.suite())?;
    let mut hasher = DefaultHasher::new();
    (system.suite(), system.packages(), &sources, FILES, INITRAMFS, SIZE).hash(&mut hasher);
    let name = format!("{}-{:016x}", system.suite(), hasher.finish());
    let folder = cargo::target_dir().join("machines").join(name);
    if !folder.is_dir() {
        cargo::say(&format!("An image of {} (some minutes)", system.suite()));
        // Renamed when it is whole.
        let parts = folder.with_extension("part");
        build(system, &sources, &parts).with_context(|| format!("no image of {}", system.suite()))?;
        std::fs::rename(&parts, &folder)?;
    }
    find(system, &folder)
}

fn build(system: System, sources: &str, folder: &Path) -> Result<()> {
    // What an interrupted build left.
    let _ = std::fs::remove_dir_all(folder);
    let (files, root) = (folder.join("files"), folder.join("root"));
    std::fs::create_dir_all(&files)?;
    for (name, content) in FILES {
        std::fs::write(files.join(name), content)?;
    }
    std::fs::write(folder.join("sources.list"), sources)?;
    debootstrap(system, folder, &root)?;
    for entry in std::fs::read_dir(root.join("boot"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("vmlinuz-") || name.starts_with("initrd.img-") {
            std::fs::copy(entry.path(), folder.join(name))?;
        }
    }
    let disk = folder.join("root.ext4");
    file_system(&root, &disk, SIZE)?;
    Ok(std::fs::remove_dir_all(&root)?)
}

fn debootstrap(system: System, folder: &Path, root: &Path) -> Result<()> {
    let mut command = Command::new("nice");
    command
        .args(["-n", "15", "mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"])
        .arg(format!("--include={}", system.packages().join(",")))
        .args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args(["man", "doc", "locale"].map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")))
        .arg(format!("--essential-hook={INITRAMFS}"))
        .arg(format!("--customize-hook=LAB={0} sh {0}/customize.sh \"$1\"", folder.join("files").display()))
        .arg(system.suite())
        .arg(root)
        .arg(folder.join("sources.list"))
        .stdin(Stdio::null());
    let log = folder.join("mmdebstrap.log");
    let output = std::fs::File::create(&log)?;
    let status = command.stdout(output.try_clone()?).stderr(output).status();
    let status = status.context("cannot run mmdebstrap")?;
    if !status.success() {
        bail!("mmdebstrap failed ({status}): {}", std::fs::read_to_string(&log)?);
    }
    Ok(())
}

/// Makes `disk` a file system with what is in `folder`.
pub(super) fn file_system(folder: &Path, disk: &Path, size: &str) -> Result<()> {
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-d"]).arg(folder).arg(disk).arg(size);
    let output = command.output().context("cannot run mkfs.ext4")?;
    ensure!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn find(system: System, folder: &Path) -> Result<Image> {
    let names = std::fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
    let mut releases: Vec<String> = names
        .filter_map(|name| Some(name.to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
        .filter(|release| system.runs(release))
        .collect();
    releases.sort();
    let release = releases
        .pop()
        .with_context(|| format!("no kernel for {} in {}", system.title(), folder.display()))?;
    let [kernel, initrd] = ["vmlinuz", "initrd.img"].map(|part| folder.join(format!("{part}-{release}")));
    Ok(Image { disk: folder.join("root.ext4"), kernel, initrd })
}

/// `sources.list` for `suite`, at the addresses where apt gets this machine's own packages.
fn sources(suite: &str) -> Result<String> {
    let (main, security) = (setup::mirror("Debian")?, setup::mirror("Debian-Security")?);
    let mut text = String::new();
    for part in ["", "-updates", "-backports"] {
        writeln!(text, "deb {main} {suite}{part} main")?;
    }
    writeln!(text, "deb {security} {suite}-security main")?;
    Ok(text)
}
