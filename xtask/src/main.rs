//! The project's own tasks: `cargo xtask <task>`. One file a task; this one knows only their names.

mod bench;
mod build_ebpf;
mod cargo;
mod ci;
mod demo;
mod fuzz_api;
mod kernels;
mod machines;
#[cfg(test)]
mod old_verifiers;
mod qemu;
mod scale;
mod setup;
mod sizes;
mod soak;
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
    /// Measure two nodes beside raw veth and a bare tunnel, in namespaces of this machine (as root)
    Bench(bench::Arguments),
    /// Checked content between two nodes, with and without offloads (as root)
    Soak(soak::Arguments),
    /// Hundreds of daemons on this machine, and what each costs while nothing happens (as root)
    Scale(scale::Arguments),
    /// Debian systems under qemu with the package installed: reboots, upgrades, other managers of the network (as root)
    Machines(machines::Arguments),
    /// Boot the kernels that Debian serves, and try the kernel programs in each (as root)
    Kernels(kernels::Arguments),
    /// Send schemathesis' requests to a node's HTTP API (as root; installs it from PyPI)
    FuzzApi {
        /// Generated requests an operation
        #[arg(long, default_value_t = 50)]
        examples: u32,
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
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Scale(arguments) => scale::run(&arguments),
        Task::Machines(arguments) => machines::run(&arguments),
        Task::Kernels(arguments) => kernels::run(&arguments),
        Task::FuzzApi { examples } => fuzz_api::fuzz(examples),
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
