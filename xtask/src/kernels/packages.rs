//! The kernels that Debian's registry serves: listed and fetched by apt, with sources and lists of its own under the build folder.
//! Nothing is installed.

use std::cmp::Ordering;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup;

/// Suites with kernels and little else.
const SUITES: [(&str, &str); 4] = [
    ("Debian-Security", "bookworm-security"),
    ("Debian", "bookworm-backports"),
    ("Debian-Security", "trixie-security"),
    ("Debian", "trixie-backports"),
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The smallest flavour; the programs see the same kernel.
const SMALL: &str = "cloud-amd64";
/// Flavours of which the newest is tried too.
const OTHERS: [&str; 2] = ["amd64", "rt-amd64"];
/// Newer ones have image and modules in packages of their own.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// In the order in which they are loaded.
pub(super) const MODULES: [&str; 4] = ["tun", "veth", "sch_ingress", "cls_bpf"];

/// `6.12.95+deb12-cloud-amd64`: of some version, in some flavour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    name: String,
    numbers: Vec<u32>,
    flavour: &'static str,
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) release: Release,
    pub(super) folder: PathBuf,
    pub(super) image: PathBuf,
}

impl Release {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let flavours = [SMALL, OTHERS[1], OTHERS[0]];
        let (version, flavour) = flavours
            .into_iter()
            .find_map(|flavour| Some((name.strip_suffix(flavour)?.strip_suffix('-')?, flavour)))?;
        let numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        let numbers: Vec<u32> = numbers.collect();
        // Without a third number it is a package that follows the newest.
        let is_one = version.starts_with(|c: char| c.is_ascii_digit()) && numbers.len() >= 3;
        is_one.then(|| Self { name: name.to_owned(), numbers, flavour })
    }

    /// Its first two numbers.
    pub(super) fn series(&self) -> (u32, u32) {
        let number = |at| self.numbers.get(at).copied().unwrap_or_default();
        (number(0), number(1))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl Ord for Release {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.numbers, &self.name).cmp(&(&other.numbers, &other.name))
    }
}

impl PartialOrd for Release {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All that the registry serves now, oldest first.
pub(super) fn list(folder: &Path) -> Result<Vec<Release>> {
    prepare(folder)?;
    let mut names = names(folder);
    if names.is_empty() {
        succeed(apt("apt-get", folder).args(["--quiet=2", "update"]))?;
        names = self::names(folder);
    }
    let mut releases: Vec<Release> =
        names.iter().filter_map(|name| Release::parse(name.strip_prefix(PARTS[0])?)).collect();
    releases.sort();
    Ok(releases)
}

/// Oldest and newest of each series, and the newest of other flavours.
pub(super) fn many(all: &[Release]) -> Vec<Release> {
    let small: Vec<&Release> = of_flavour(all, SMALL).collect();
    let mut chosen: Vec<Release> = Vec::new();
    for (at, release) in small.iter().enumerate() {
        let series = Some(release.series());
        let before = at.checked_sub(1).and_then(|at| small.get(at)).map(|release| release.series());
        let after = small.get(at + 1).map(|release| release.series());
        if before != series || after != series {
            chosen.push((*release).clone());
        }
    }
    chosen.extend(OTHERS.iter().filter_map(|flavour| of_flavour(all, flavour).last().cloned()));
    chosen.sort();
    chosen
}

/// One without tcx, the two that refused most (6.12 early, 6.18 of Debian 13's backports), and the newest.
pub(super) fn few(all: &[Release]) -> Vec<Release> {
    let many = many(all);
    let of =
        |series| many.iter().filter(move |release| release.flavour == SMALL && release.series() == series);
    let newest = many.iter().rfind(|release| release.flavour == SMALL);
    let mut chosen: Vec<Release> =
        [of((6, 1)).next_back(), of((6, 12)).next(), of((6, 18)).next_back(), newest]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
    // Where the registry has moved on, the oldest stand in.
    let missing = many.iter().filter(|release| release.flavour == SMALL && !chosen.contains(release));
    let missing: Vec<Release> = missing.take(4_usize.saturating_sub(chosen.len())).cloned().collect();
    chosen.extend(missing);
    chosen.sort();
    chosen.dedup();
    chosen
}

fn of_flavour<'a>(all: &'a [Release], flavour: &str) -> impl Iterator<Item = &'a Release> {
    all.iter().filter(move |release| release.flavour == flavour)
}

/// Downloads what isn't there yet, and keeps the kernel's image and the modules that are needed.
pub(super) fn fetch(releases: &[Release], folder: &Path) -> Result<Vec<Kernel>> {
    let known = names(folder);
    releases
        .iter()
        .map(|release| {
            let kernel = Kernel::at(release, folder);
            if !kernel.image.exists() {
                unpack(&kernel, &known, folder).with_context(|| format!("cannot fetch Linux {release}"))?;
            }
            Ok(kernel)
        })
        .collect()
}

impl Kernel {
    fn at(release: &Release, folder: &Path) -> Self {
        let folder = folder.join(&release.name);
        Self { release: release.clone(), image: folder.join("vmlinuz"), folder }
    }

    /// Where a module lies, unpacked.
    pub(super) fn module(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.ko"))
    }
}

fn unpack(kernel: &Kernel, known: &[String], folder: &Path) -> Result<()> {
    let packages = PARTS.iter().map(|part| format!("{part}{}", kernel.release));
    let packages: Vec<String> = packages.filter(|package| known.contains(package)).collect();
    let parts = kernel.folder.join("parts");
    fs::create_dir_all(&parts)?;
    println!("fetching {}", packages.join(", "));
    succeed(apt("apt-get", folder).args(["--quiet=2", "download"]).args(&packages).current_dir(&parts))?;
    let wanted: Vec<String> = MODULES.iter().map(|module| format!("'*/{module}.ko*'")).collect();
    // What a package doesn't have is no error: which one has what differs.
    let take = format!(
        "for deb in *.deb; do dpkg --fsys-tarfile $deb | tar -x --wildcards '*/vmlinuz*' {} 2>/dev/null; done; rm -f *.deb; \
         find . -name 'vmlinuz*' -type f -exec mv {{}} ../image ';'; \
         for module in {}; do \
           file=$(find . -name \"$module.ko*\" | head -1); \
           case $file in *.xz) xz -dc $file;; *.zst) zstd -dc --quiet $file;; *) cat $file;; esac > ../$module.ko || exit 1; \
         done; cd ..; rm -rf parts; mv image vmlinuz",
        wanted.join(" "),
        MODULES.join(" ")
    );
    succeed(Command::new("sh").args(["-c", &take]).current_dir(&parts))
}

/// Names of the packages that the lists have.
fn names(folder: &Path) -> Vec<String> {
    let output = apt("apt-cache", folder).args(["pkgnames", "linux-"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn apt(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("APT_CONFIG", folder.join("apt/apt.conf"));
    command
}

/// Sources and settings that leave the machine's own alone. The mirrors are those that it uses.
fn prepare(folder: &Path) -> Result<()> {
    let apt = folder.join("apt");
    for part in ["lists/partial", "archives/partial", "none"] {
        fs::create_dir_all(apt.join(part))?;
    }
    let mut sources = String::new();
    for (label, suite) in SUITES {
        writeln!(sources, "deb [signed-by={KEYRING}] {} {suite} main", setup::mirror(label)?)?;
    }
    fs::write(apt.join("sources.list"), sources)?;
    let at = apt.display();
    let settings = format!(
        "Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\nDir::State::status \"/dev/null\";\n\
         Dir::Cache \"{at}\";\nDir::Cache::archives \"{at}/archives\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
         Dir::Etc::sourceparts \"{at}/none\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
    );
    Ok(fs::write(apt.join("apt.conf"), settings)?)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(names: &[&str]) -> Vec<Release> {
        let mut releases: Vec<Release> = names.iter().filter_map(|name| Release::parse(name)).collect();
        releases.sort();
        releases
    }

    fn shown(releases: &[Release]) -> Vec<String> {
        releases.iter().map(ToString::to_string).collect()
    }

    const SERVED: [&str; 12] = [
        "6.1.0-9-cloud-amd64",
        "6.1.0-57-cloud-amd64",
        "6.1.0-48-cloud-amd64",
        "6.12.95+deb12-cloud-amd64",
        "6.12.101+deb12-cloud-amd64",
        "6.12.101+deb12-amd64",
        "6.12-cloud-amd64",
        "6.18.15+deb13-cloud-amd64",
        "6.18.15+deb13-rt-amd64",
        "6.18.15+deb13-amd64-unsigned",
        "7.3.4+deb13-cloud-amd64",
        "amd64",
    ];

    #[test]
    fn oldest_and_newest_of_each_series_are_tried() {
        let all = releases(&SERVED);
        let expected = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-57-cloud-amd64",
            "6.12.95+deb12-cloud-amd64",
            "6.12.101+deb12-amd64",
            "6.12.101+deb12-cloud-amd64",
            "6.18.15+deb13-cloud-amd64",
            "6.18.15+deb13-rt-amd64",
            "7.3.4+deb13-cloud-amd64",
        ];
        assert_eq!(shown(&many(&all)), expected);
    }

    #[test]
    fn four_stand_for_all_whatever_is_served() {
        let few_of = |names: &[&str]| shown(&few(&releases(names)));
        let expected = [
            "6.1.0-57-cloud-amd64",
            "6.12.95+deb12-cloud-amd64",
            "6.18.15+deb13-cloud-amd64",
            "7.3.4+deb13-cloud-amd64",
        ];
        assert_eq!(few_of(&SERVED), expected);
        let later = [
            "6.12.200+deb13-cloud-amd64",
            "6.12.300+deb13-cloud-amd64",
            "7.4.1+deb13-cloud-amd64",
            "7.9.1+deb14-cloud-amd64",
        ];
        assert_eq!(few_of(&later), later);
    }
}
