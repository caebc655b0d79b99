//! Entry point of the daemon and the command line.

fn main() -> std::process::ExitCode {
    meshhold::cli::main()
}
