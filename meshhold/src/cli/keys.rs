//! `mgmt-keys`: the daemon does the work where one answers, else the store is changed directly.
//!
//! Keys are minted and revealed here and never travel in the daemon's replies.

use super::args::{AddArgs, KeysCommand};
use super::output::{Outcome, printable, table};
use super::{time, tokens};
use crate::config::Config;
use crate::config::keys::{self, Capability, KeyDetails, KeyEntry, KeyReply, KeyRequest, NewKey, NewNetwork};
use crate::config::secret::SecretText;
use crate::config::store::KeyStore;
use crate::control::api::{Request, Response};
use crate::control::client::{self, ClientError};
use crate::web::tokens::TokenEntry;
use anyhow::{Context, bail};
use meshhold_core::scope::Scope;
use serde::Serialize;
use std::io::{self, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// No key string is longer (bytes).
const MAX_KEY: u64 = 4096;

/// Runs one of the commands.
pub(super) fn run(config: &Config, command: KeysCommand, json: bool) -> anyhow::Result<Outcome> {
    match command {
        KeysCommand::Add(args) => add(config, args, json),
        KeysCommand::List => {
            let KeyReply::Keys(keys) = execute(config, KeyRequest::List)? else { bail!(MISFIT) };
            let tokens = tokens::list(config)?;
            Ok(if json {
                Outcome::json(
                    &(keys
                        .iter()
                        .map(Listed::Key)
                        .chain(tokens.iter().map(Listed::Token))
                        .collect::<Vec<_>>()),
                )
            } else {
                Outcome::text(list(&keys, &tokens))
            })
        }
        KeysCommand::Show { id, reveal } => show(config, id, reveal, json),
        KeysCommand::Edit { id, allow, deny_all, name } => {
            let allow = (deny_all || !allow.is_empty()).then(|| Scope::from(allow));
            let key = one(config, KeyRequest::Edit { id, allow, name, revision: None })?;
            Ok(if json { Outcome::json(&key) } else { Outcome::text(describe(&key)) })
        }
        KeysCommand::Rm { id } => {
            if let Some(token) = tokens::list(config)?.into_iter().find(|token| token.id == id) {
                return tokens::remove(config, &token, json);
            }
            let key = one(config, KeyRequest::Remove { id, revision: None })?;
            let line = format!("removed {} '{}'", key.entry.id, printable(&key.entry.name));
            Ok(if json { Outcome::json(&key) } else { Outcome::text(line) })
        }
        KeysCommand::Share { id } => {
            let secret = reveal(config, &id)?;
            Ok(if json { Outcome::json(&Shared { key: &secret }) } else { Outcome::text(secret) })
        }
    }
}

const MISFIT: &str = "the daemon's answer doesn't fit the question; restart it with this version";

/// An entry of `list --json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Key(&'a KeyEntry),
    Token(&'a TokenEntry),
}

/// A secret in JSON.
#[derive(Serialize)]
struct Shared<'a> {
    key: &'a str,
}

/// Details with the secret.
#[derive(Serialize)]
struct Revealed<'a> {
    #[serde(flatten)]
    details: &'a KeyDetails,
    key: &'a str,
}

fn execute(config: &Config, request: KeyRequest) -> anyhow::Result<KeyReply> {
    let request = Request::Key(request);
    match client::call(&config.socket(), &request) {
        Ok(Response::Key(reply)) => Ok(reply),
        Ok(Response::Error(error)) => bail!(error),
        Ok(_) => bail!(MISFIT),
        Err(ClientError::NotRunning(_)) => {
            let Request::Key(request) = request else { bail!(MISFIT) };
            Ok(keys::execute(&mut KeyStore::open(&config.node.data_dir)?, request)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn one(config: &Config, request: KeyRequest) -> anyhow::Result<KeyDetails> {
    match execute(config, request)? {
        KeyReply::Key(key) => Ok(*key),
        _ => bail!(MISFIT),
    }
}

fn add(config: &Config, args: AddArgs, json: bool) -> anyhow::Result<Outcome> {
    let expires = args.expires_in.map(|time| time::now().saturating_add(time.as_secs()));
    if !args.caps.contains(&Capability::MeshRoute) {
        return tokens::add(config, args, expires, json);
    }
    if args.caps.len() > 1 {
        bail!("every member holds a network's key: make an own key for 'admin' or 'view'");
    }
    let (joined, allow, name) = (read_key(&args)?, Scope::from(args.allow), args.name);
    let exposed = if allow.is_empty() { "nothing".to_owned() } else { allow.to_string() };
    let minting = joined.is_none();
    let request = match joined {
        Some(key) => {
            KeyRequest::Add(NewKey { name, caps: args.caps, allow, expires, key, owner_secret: None })
        }
        None => KeyRequest::Mint(NewNetwork {
            name,
            allow,
            expires,
            range: args.ipv4_range,
            space: config.meshlan.ipv4_range,
        }),
    };
    let added = one(config, request)?;

    let warning = "warning: a key given with --key shows in the process list and the shell's history; prefer --key-file or --key -";
    let in_argv = args.key.as_ref().is_some_and(|text| text.reveal() != "-");
    let (id, name) = (&added.entry.id, printable(&added.entry.name));
    let outcome = if minting {
        let key = reveal(config, id)?;
        let outcome =
            if json { Outcome::json(&Revealed { details: &added, key: &key }) } else { Outcome::text(key) };
        outcome
            .advise(format!("made key {id} '{name}', range {}, open ports: {exposed}", added.range))
            .advise("the secret is what another node joins with: put it into a file there and run `meshhold mgmt-keys add --name … --never-expires --key-file FILE`")
    } else {
        let outcome = if json { Outcome::json(&added) } else { Outcome::default() };
        outcome.advise(format!("joined with key {id} '{name}', range {}, open ports: {exposed}", added.range))
    };
    Ok(if in_argv { outcome.advise(warning) } else { outcome })
}

/// The key to join with; `None` mints a new one.
fn read_key(args: &AddArgs) -> anyhow::Result<Option<SecretText>> {
    let text = match (&args.key, &args.key_file) {
        (Some(key), _) if key.reveal() == "-" => {
            read_limited(io::stdin().lock()).context("reading the key from stdin")?
        }
        (Some(key), _) => return Ok(Some(key.clone())),
        (None, Some(path)) => read_file(path)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(SecretText::new(text.trim().to_owned())))
}

fn read_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let failed = || format!("reading the key from {}; write the key string into that file", path.display());
    read_limited(std::fs::File::open(path).with_context(failed)?).with_context(failed)
}

fn read_limited(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY as usize));
    source.take(MAX_KEY).read_to_string(&mut text)?;
    Ok(text)
}

fn show(config: &Config, id: String, with_secret: bool, json: bool) -> anyhow::Result<Outcome> {
    let details = one(config, KeyRequest::Show { id })?;
    if !with_secret {
        return Ok(if json { Outcome::json(&details) } else { Outcome::text(describe(&details)) });
    }
    let secret = reveal(config, &details.entry.id)?;
    if json {
        return Ok(Outcome::json(&Revealed { details: &details, key: &secret }));
    }
    let mut text = Zeroizing::new(String::with_capacity(4096));
    text.push_str(&describe(&details));
    text.push_str("key      ");
    text.push_str(&secret);
    Ok(Outcome::text(text))
}

/// From the store and not from the daemon: its replies carry no secrets.
fn reveal(config: &Config, id: &str) -> anyhow::Result<Zeroizing<String>> {
    let store = KeyStore::open(&config.node.data_dir)?;
    let index = keys::find(store.keys(), id)?;
    let key = store.keys().get(index).context("the key is gone; look again")?;
    Ok(key.key.to_string_secret())
}

fn list(keys: &[KeyEntry], tokens: &[TokenEntry]) -> String {
    if keys.is_empty() && tokens.is_empty() {
        return "no keys\n".to_owned();
    }
    let head = ["ID", "NAME", "CAPS", "EXPIRES", "OPEN PORTS", "NETWORK"].map(str::to_owned).to_vec();
    let row = |key: &KeyEntry| {
        let network = key.network.clone();
        vec![key.id.clone(), printable(&key.name), caps(key), expiry(key.expires), scope(key), network]
    };
    let token = |token: &TokenEntry| {
        let (id, name) = (token.id.clone(), printable(&token.name));
        vec![id, name, token.capability.to_string(), expiry(token.expires), "-".to_owned(), "-".to_owned()]
    };
    let rows = keys.iter().map(row).chain(tokens.iter().map(token));
    table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

fn describe(key: &KeyDetails) -> String {
    let entry = &key.entry;
    let origin = if key.minted_here { "made here" } else { "joined" };
    let rows = [
        ("id", entry.id.clone()),
        ("name", printable(&entry.name)),
        ("caps", caps(entry)),
        ("expires", expiry(entry.expires)),
        ("open", scope(entry)),
        ("network", entry.network.clone()),
        ("range", key.range.clone()),
        ("origin", origin.to_owned()),
    ];
    table(&rows.map(|(name, value)| vec![name.to_owned(), value]))
}

fn caps(key: &KeyEntry) -> String {
    key.caps.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn expiry(expires: Option<u64>) -> String {
    match expires {
        None => "never".to_owned(),
        Some(end) if end <= time::now() => format!("expired {}", time::format_utc(end)),
        Some(end) => time::format_utc(end),
    }
}

fn scope(key: &KeyEntry) -> String {
    if key.allow.is_empty() { "none".to_owned() } else { key.allow.to_string() }
}
