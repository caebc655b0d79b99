//! Compiles the kernel programs. The only place that knows how; `meshhold/build.rs` includes this file too.
//!
//! Two ways, in this order: rust-src of the active toolchain (core is built from source), or Debian's `rustc-web`
//! with the prebuilt core of `libstd-rust-web-dev-bpf`. Both need `bpf-linker`. Must use std only.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The BPF target, little-endian.
const TARGET: &str = "bpfel-unknown-none";
/// Where Debian's rustc-web installs its compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debugging information and BTF are what give maps their field names.
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];

/// The compiler that builds for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// This compiler, building core from the rust-src component.
    Source(PathBuf),
    /// This compiler, with a prebuilt core.
    Prebuilt(PathBuf),
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(rustc) => write!(f, "{} with rust-src", rustc.display()),
            Self::Prebuilt(rustc) => write!(f, "{} with its prebuilt core", rustc.display()),
        }
    }
}

/// Finds a compiler and the linker.
///
/// # Errors
/// A sentence that names what is missing and how to get it.
pub(crate) fn detect() -> Result<Compiler, String> {
    if find_linker().is_none() {
        return Err(missing("bpf-linker is not installed"));
    }
    find_compiler()
}

/// Finds a compiler, whether or not there is a linker.
///
/// # Errors
/// A sentence that names what is missing and how to get it.
pub(crate) fn find_compiler() -> Result<Compiler, String> {
    let active = PathBuf::from(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    if library(&active).is_some_and(|lib| lib.join("src/rust/library/core/src/lib.rs").is_file()) {
        return Ok(Compiler::Source(active));
    }
    let debian = PathBuf::from(DEBIAN_RUSTC);
    if library(&debian).is_some_and(|lib| lib.join(TARGET).join("lib").is_dir()) {
        return Ok(Compiler::Prebuilt(debian));
    }
    Err(missing(
        "neither the rust-src component nor Debian's rustc-web with libstd-rust-web-dev-bpf is installed",
    ))
}

/// Builds the programs of the repository at `root` into `target_dir`; returns the object file.
///
/// # Errors
/// A sentence that says what failed; the compiler's own messages are already on stderr.
pub(crate) fn build(root: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let compiler = detect()?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_outer_cargo(&mut command);
    command.current_dir(root.join("meshhold-ebpf"));
    command.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(target_dir);
    let rustc = match &compiler {
        Compiler::Source(rustc) => {
            command.args(["-Z", "build-std=core"]);
            rustc
        }
        Compiler::Prebuilt(rustc) => rustc,
    };
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    command.env("RUSTC", rustc);
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", [FLAGS[0], FLAGS[1], FLAGS[2], &architecture].join("\u{1f}"));
    command.env("PATH", path_with_linker());
    let status =
        command.status().map_err(|error| format!("cannot run cargo for the eBPF programs: {error}"))?;
    if !status.success() {
        return Err(format!("building the eBPF programs failed ({status}); compiler used: {compiler}"));
    }
    Ok(target_dir.join(TARGET).join("release/meshhold"))
}

fn missing(what: &str) -> String {
    format!(
        "the eBPF programs cannot be built: {what}. Run `cargo xtask setup` (as root) to install it, \
         or set MESHHOLD_SKIP_EBPF=1 to build without them"
    )
}

/// `lib/rustlib` of the compiler's installation.
fn library(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| Path::new(sysroot.trim()).join("lib/rustlib"))
}

fn search_path() -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    path.extend(home.or_else(|| Some(env::home_dir()?.join(".cargo"))).map(|home| home.join("bin")));
    path
}

/// Where bpf-linker lies, if it is installed.
pub(crate) fn find_linker() -> Option<PathBuf> {
    search_path().into_iter().map(|folder| folder.join("bpf-linker")).find(|file| file.is_file())
}

fn path_with_linker() -> OsString {
    env::join_paths(search_path()).unwrap_or_default()
}

/// The outer cargo's choices (flags, wrappers, profile, its library path) are about another target and compiler.
fn forget_outer_cargo(command: &mut Command) {
    const KEEP: [&str; 3] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_"];
    const OTHERS: [&str; 13] = [
        "RUSTFLAGS",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "LD_LIBRARY_PATH",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_cargo = text.starts_with("CARGO_") && !KEEP.iter().any(|keep| text.starts_with(keep));
        if of_cargo || OTHERS.contains(&text) || matches!(text, "MAKEFLAGS" | "MFLAGS") {
            command.env_remove(&name);
        }
    }
}
