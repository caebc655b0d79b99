//! The Debian package, as a distribution would make it: `packaging/` with `packaging/debian/install` saying what goes where.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, setup};

const TOOLS: [&str; 2] = ["binutils", "dpkg"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes a package of the executable `meshhold` and yields its path in `folder`.
pub(super) fn build(meshhold: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    setup::debian(&TOOLS)?;
    let (root, packaging) = (folder.join(version), cargo::root().join("packaging"));
    let (control, binaries) = (root.join("DEBIAN"), root.join("usr/bin"));
    std::fs::create_dir_all(&control)?;
    std::fs::create_dir_all(&binaries)?;
    succeed(Command::new("strip").arg("-o").arg(binaries.join("meshhold")).arg(meshhold))?;
    place(&packaging, &root)?;
    let text = std::fs::read_to_string(packaging.join("debian/control"))?;
    let architecture = succeed(Command::new("dpkg").arg("--print-architecture"))?;
    let text = text.replace("@VERSION@", version).replace("@ARCHITECTURE@", architecture.trim());
    std::fs::write(control.join("control"), text)?;
    for script in SCRIPTS {
        std::fs::copy(packaging.join("debian").join(script), control.join(script))?;
    }
    let package = folder.join(format!("meshhold_{version}.deb"));
    // Packing well would take longer than all that the machine does with it.
    let options = ["--root-owner-group", "-Znone", "--build"];
    succeed(Command::new("dpkg-deb").args(options).arg(&root).arg(&package))?;
    Ok(package)
}

/// Copies what `debian/install` names: a file of `packaging/` and a folder, a line each.
fn place(packaging: &Path, root: &Path) -> Result<()> {
    let list = packaging.join("debian/install");
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    for line in text.lines() {
        let Some((file, folder)) = line.split_once(' ') else {
            bail!("{}: not a file and a folder: {line}", list.display())
        };
        let name = Path::new(file).file_name().context("no file name")?;
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(packaging.join(file), folder.join(name))
            .with_context(|| format!("packaging/{file}"))?;
    }
    Ok(())
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
