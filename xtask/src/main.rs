//! The project's own tasks: `cargo xtask <task>`. One file a task; this one knows only their names.

mod bench_ebpf;
mod build_ebpf;
mod cargo;
mod ci;
mod demo;
mod setup;
mod sizes;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the MeshHold project
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build and test (Debian, as root)
    Setup,
    /// Compile the kernel programs
    BuildEbpf,
    /// Three nodes and an outsider in namespaces of this machine (as root)
    Demo {
        /// Leave it running and print how to look around
        #[arg(long)]
        keep: bool,
        /// End a demo that was left running
        #[arg(long, conflicts_with = "keep")]
        stop: bool,
    },
    /// Measure (as root)
    Bench {
        /// The kernel programs: cost of a packet
        #[arg(long, required = true)]
        ebpf: bool,
    },
    /// Run every test (as root); ends with `N passed, N failed`
    Test,
    /// Formatting, lints, documentation, sizes, then every test
    Ci,
    /// How long files and functions are
    Sizes,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::BuildEbpf => build_ebpf(),
        Task::Demo { stop: true, .. } => demo::stop(),
        Task::Demo { keep, .. } => demo::run(keep),
        Task::Bench { .. } => bench_ebpf::run(),
        Task::Test => test::run(),
        Task::Ci => ci::run(),
        Task::Sizes => sizes::run(),
    }
}

fn build_ebpf() -> Result<()> {
    let root = cargo::root();
    let object = build_ebpf::build(&root, &root.join("target/ebpf")).map_err(anyhow::Error::msg)?;
    println!("{}", object.display());
    Ok(())
}
