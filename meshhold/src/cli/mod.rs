//! The command line: parse, run, print, exit code.
//!
//! Owns what users see. Answers go to stdout, advice and errors to stderr. Must not touch what a running
//! daemon owns: where one answers, it does the work.

mod args;
mod barrier;
mod cleanup;
mod doctor;
mod drops;
mod explain;
mod forwards;
mod keys;
mod netcheck;
mod output;
mod ping;
mod status;
mod time;
mod tokens;
mod web;

use crate::config::file::ConfigError;
use crate::config::{Config, DEFAULT_PATH, SwarmKey, identity};
use crate::control::api::{Request, Response};
use crate::control::client::{self, ClientError};
use anyhow::Context;
use args::{Args, Command, MeshlanCommand};
use clap::Parser;
use output::Outcome;
use rand_core::{OsRng, RngCore};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged where `MESHHOLD_LOG` doesn't say. The name server logs each question at `info`, and names that people look
/// up are nobody's business; QUIC tells of each unreachable network at `warn`, which the links do better.
const LOG: &str = "info,hickory_server=warn,quinn_udp=error";

/// Runs the program. Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not running.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A reader that went away (`| head`) is no failure.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match run(args) {
        Ok(outcome) => outcome.print(),
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            match error.downcast_ref() {
                Some(ClientError::NotRunning(_)) => ExitCode::from(status::NOT_RUNNING),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The running daemon's answer, where it isn't an error.
fn ask(config: &Config, request: &Request) -> anyhow::Result<Response> {
    match client::call(&config.socket(), request)? {
        Response::Error(error) => anyhow::bail!(error),
        response => Ok(response),
    }
}

fn run(args: Args) -> anyhow::Result<Outcome> {
    if matches!(args.command, Command::Daemon) {
        start_log()?;
    }
    let config = load(args.config.as_deref())?;
    match args.command {
        Command::Daemon => crate::daemon::run(config).map(|()| Outcome::default()),
        Command::MgmtKeys { command } => keys::run(&config, command, args.json),
        Command::Meshlan { command: MeshlanCommand::Status { paths: true } } => {
            netcheck::paths(&config, args.json)
        }
        Command::Meshlan { command: MeshlanCommand::Status { paths: false } } => {
            status::run(&config, args.json)
        }
        Command::Netcheck => netcheck::run(&config, args.json),
        Command::Meshlan { command: MeshlanCommand::Explain(question) } => {
            explain::run(&config, question, args.json)
        }
        Command::Meshlan { command: MeshlanCommand::Drops { limit } } => {
            drops::run(&config, limit, args.json)
        }
        Command::Meshlan { command: MeshlanCommand::Ping { to, count } } => {
            ping::run(&config, &to, count, args.json)
        }
        Command::Meshlan { command: MeshlanCommand::Forwards { command } } => {
            forwards::run(&config, command, args.json)
        }
        Command::Barrier => barrier::run(&config, args.json),
        Command::Cleanup => cleanup::run(&config, args.json),
        Command::Doctor => doctor::run(&config, args.json),
        Command::Web { open, command } => web::run(&config, command, open, args.json),
        Command::Id => id(&config, args.json),
        Command::Keygen => Ok(keygen(args.json)),
    }
}

/// Without a named file and without the default one, the built-in defaults hold.
fn load(named: Option<&Path>) -> Result<Config, ConfigError> {
    match named {
        Some(path) => Config::load(path),
        None if Path::new(DEFAULT_PATH).exists() => Config::load(Path::new(DEFAULT_PATH)),
        None => Ok(Config::default()),
    }
}

fn start_log() -> anyhow::Result<()> {
    let wanted = std::env::var("MESHHOLD_LOG").unwrap_or_else(|_| LOG.to_owned());
    let filter: Targets = wanted.parse().with_context(|| {
        format!("MESHHOLD_LOG={wanted} isn't a log filter; use e.g. 'info' or 'meshhold=debug'")
    })?;
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}

fn id(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    let node_id = identity::load_or_create(&config.node.data_dir)?.node_id().to_string();
    Ok(if json { Outcome::json(&json!({ "node_id": node_id })) } else { Outcome::text(node_id) })
}

fn keygen(json: bool) -> Outcome {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    let key = SwarmKey::new(bytes).to_string_secret();
    if json {
        return Outcome::json(&json!({ "swarm_key": *key }));
    }
    Outcome::text(key)
        .advise("put it into every node's configuration as swarm_key, or into a file named by swarm_key_file")
}
