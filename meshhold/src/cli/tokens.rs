//! `mgmt-keys` that permit `admin` or `view`: bearer tokens of programs for the API.
//!
//! Tokens are made here; the daemon gets digests only.

use super::args::AddArgs;
use super::output::{Outcome, printable};
use crate::config::Config;
use crate::control::client::{self, ClientError};
use crate::web::tokens::{self, NewToken, TokenEntry, Tokens};
use anyhow::bail;
use axum::http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An entry with its token.
#[derive(Serialize)]
struct Revealed<'a> {
    #[serde(flatten)]
    entry: &'a TokenEntry,
    token: &'a str,
}

/// Makes a token and prints it: it isn't kept, and can't be shown again.
pub(super) fn add(
    config: &Config,
    args: AddArgs,
    expires: Option<u64>,
    json: bool,
) -> anyhow::Result<Outcome> {
    let [capability] = args.caps[..] else {
        bail!(
            "a key for programs permits either 'admin' (which includes 'view') or 'view'; name one with --caps"
        );
    };
    if !args.allow.is_empty() || args.key.is_some() || args.key_file.is_some() || args.ipv4_range.is_some() {
        bail!("a key for programs has no network: leave out --allow, --key, --key-file and --ipv4-range");
    }
    let token = tokens::mint();
    let new = NewToken { name: args.name, capability, expires, digest: tokens::digest_of(&token) };
    let entry = call(config, Method::POST, "tokens", Some(&new), |store| store.add(new.clone()))?;
    let outcome = if json {
        Outcome::json(&Revealed { entry: &entry, token: token.reveal() })
    } else {
        Outcome::text(token.reveal().to_owned())
    };
    let line =
        format!("made token {} '{}', which permits '{}'", entry.id, printable(&entry.name), entry.capability);
    Ok(outcome.advise(line).advise("above is the token; it can't be shown again"))
}

/// All of them.
pub(super) fn list(config: &Config) -> anyhow::Result<Vec<TokenEntry>> {
    call(config, Method::GET, "tokens", None, |store| Ok(store.list()))
}

/// Forgets one.
pub(super) fn remove(config: &Config, token: &TokenEntry, json: bool) -> anyhow::Result<Outcome> {
    let id = &token.id;
    let gone = call(config, Method::DELETE, &format!("tokens/{id}"), None, |store| store.remove(id))?;
    let line = format!("removed {} '{}'", gone.id, printable(&gone.name));
    Ok(if json { Outcome::json(&gone) } else { Outcome::text(line) })
}

/// By the daemon, or in the file where none runs.
fn call<T: DeserializeOwned>(
    config: &Config,
    method: Method,
    path: &str,
    body: Option<&NewToken>,
    alone: impl FnOnce(&mut Tokens) -> Result<T, tokens::TokenError>,
) -> anyhow::Result<T> {
    match client::send(&config.socket(), method, path, body) {
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::NotRunning(_))) => {
            Ok(alone(&mut Tokens::open(&config.node.data_dir)?)?)
        }
        reply => reply,
    }
}
