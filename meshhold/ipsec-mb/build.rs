//! Compiles the calls of libipsec-mb and links it, into the program where there is an archive of it.
//!
//! Where it isn't installed, isn't wanted (`MESHHOLD_SKIP_IPSEC_MB=1`) or can't be (it is for x86-64), the crate is built
//! without: no key of it can be made then.

use std::env;
use std::path::{Path, PathBuf};

/// Room for an expanded AES-256-GCM key, in bytes: what `src/sys.rs` has, and the C compiler compares with what is needed.
const GCM_KEY: &str = "1024";
const ARCHIVE: &str = "libIPSec_MB.a";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ipsec_mb)");
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-env-changed=MESHHOLD_SKIP_IPSEC_MB");
    let wanted = env::var_os("MESHHOLD_SKIP_IPSEC_MB").is_none_or(|skip| skip != "1");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !wanted || !is("CARGO_CFG_TARGET_ARCH", "x86_64") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").define("GCM_KEY", GCM_KEY);
    if shim.try_compile("meshhold_mb").is_err() {
        println!(
            "cargo::warning=building without libipsec-mb, which encrypts 1.5 times as fast: install libipsec-mb-dev, then \
             `cargo clean -p meshhold-ipsec-mb`"
        );
        return;
    }
    println!("cargo::rustc-cfg=ipsec_mb");
    println!("cargo::rustc-env=GCM_KEY={GCM_KEY}");
    match archive(&shim) {
        Some(folder) => {
            println!("cargo::rustc-link-search=native={}", folder.display());
            println!("cargo::rustc-link-lib=static:-bundle=IPSec_MB");
        }
        None => println!("cargo::rustc-link-lib=IPSec_MB"),
    }
}

/// Where the compiler finds the archive, if there is one.
fn archive(shim: &cc::Build) -> Option<PathBuf> {
    let output =
        shim.get_compiler().to_command().arg(format!("--print-file-name={ARCHIVE}")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    // A name without a folder is the question itself: not found.
    Path::new(path.trim()).parent().filter(|folder| folder.is_absolute()).map(Path::to_path_buf)
}
