//! Compiles the kernel programs and tells the crate where the object lies (`MESHHOLD_EBPF_OBJ`).
//!
//! With `MESHHOLD_SKIP_EBPF=1` the object is empty and the daemon reports that it was built without eBPF.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

#[path = "../xtask/src/build_ebpf.rs"]
#[allow(dead_code, reason = "xtask uses more of it")]
mod build_ebpf;
#[path = "../xtask/src/old_verifiers.rs"]
mod old_verifiers;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=MESHHOLD_SKIP_EBPF");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    for input in [
        "meshhold-ebpf/src",
        "meshhold-ebpf/Cargo.toml",
        "meshhold-ebpf/Cargo.lock",
        "meshhold-common/src",
        "meshhold-common/Cargo.toml",
        "xtask/src/build_ebpf.rs",
        "xtask/src/old_verifiers.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = if skipped() {
        let empty = out.join("empty.o");
        fs::write(&empty, [])?;
        empty
    } else {
        build_ebpf::build(&root, &out.join("ebpf"))?
    };
    for name in ["meshhold", "relay", "bench"].into_iter().filter(|_| !skipped()) {
        refuse(name, &object.with_file_name(name))?;
    }
    let beside = |name| if skipped() { object.clone() } else { object.with_file_name(name) };
    println!("cargo::rustc-env=MESHHOLD_EBPF_OBJ={}", object.display());
    println!("cargo::rustc-env=MESHHOLD_EBPF_RELAY={}", beside("relay").display());
    println!("cargo::rustc-env=MESHHOLD_EBPF_BENCH={}", beside("bench").display());
    Ok(())
}

/// Ends the build where verifiers of some kernels would not take a program.
fn refuse(name: &str, object: &Path) -> Result<(), Box<dyn Error>> {
    let found = old_verifiers::find(&fs::read(object)?)?;
    let Some((section, places)) = found.first() else { return Ok(()) };
    Err(format!(
        "object {name}, section {section}: instructions {places:?} use an address that comes from adding a constant, which \
         Linux 6.11 to 6.18.15 refuse; make it by masks and ^ (Key::hash in meshhold-common/src/cache.rs)"
    )
    .into())
}

/// Where there is no Linux kernel to load them, there is nothing to build.
fn skipped() -> bool {
    env::var("MESHHOLD_SKIP_EBPF").is_ok_and(|value| value == "1")
        || env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system != "linux")
}
