//! `mgmt-keys`: the daemon does the work where one answers, else the store is changed directly.
//!
//! Keys are minted and revealed here and never travel in the daemon's replies.

use super::args::{AddArgs, KeysCommand};
use super::output::{Outcome, printable, table};
use super::time;
use crate::config::Config;
use crate::config::keys::{self, KeyDetails, KeyEntry, KeyReply, KeyRequest, NewKey};
use crate::config::range::{self, Used};
use crate::config::secret::{SecretText, hex};
use crate::config::store::KeyStore;
use crate::control::api::{Request, Response};
use crate::control::client::{self, ClientError};
use anyhow::{Context, bail};
use meshhold_core::identity::Identity;
use meshhold_core::key::{Ipv4Range, MeshKey};
use meshhold_core::scope::Scope;
use rand_core::OsRng;
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
            Ok(if json { Outcome::json(&keys) } else { Outcome::text(list(&keys)) })
        }
        KeysCommand::Show { id, reveal } => show(config, id, reveal, json),
        KeysCommand::Edit { id, allow, deny_all, name } => {
            let allow = (deny_all || !allow.is_empty()).then(|| Scope::from(allow));
            let key = one(config, KeyRequest::Edit { id, allow, name })?;
            Ok(if json { Outcome::json(&key) } else { Outcome::text(describe(&key)) })
        }
        KeysCommand::Rm { id } => {
            let key = one(config, KeyRequest::Remove { id })?;
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
        KeyReply::Keys(_) => bail!(MISFIT),
    }
}

fn add(config: &Config, args: AddArgs, json: bool) -> anyhow::Result<Outcome> {
    let joined = read_key(&args)?;
    let minting = joined.is_none();
    let (key, owner_secret) = match joined {
        Some(key) => (key, None),
        None => mint(config, args.ipv4_range)?,
    };
    let expires = args.expires_in.map(|time| time::now().saturating_add(time.as_secs()));
    let scope = Scope::from(args.allow);
    let exposed = if scope.is_empty() { "nothing".to_owned() } else { scope.to_string() };
    let new =
        NewKey { name: args.name, caps: args.caps, allow: scope, expires, key: key.clone(), owner_secret };
    let added = one(config, KeyRequest::Add(new))?;

    let warning = "warning: a key given with --key shows in the process list and the shell's history; prefer --key-file or --key -";
    let in_argv = args.key.as_ref().is_some_and(|text| text.reveal() != "-");
    let (id, name) = (&added.entry.id, printable(&added.entry.name));
    let outcome = match (minting, json) {
        (true, true) => Outcome::json(&Revealed { details: &added, key: key.reveal() }),
        (true, false) => Outcome::text(key.reveal().to_owned())
            .advise(format!("made key {id} '{name}', range {}, open ports: {exposed}", added.range))
            .advise("above is the secret: put it into a file on the other node and run there `meshhold mgmt-keys add --name … --never-expires --key-file FILE`"),
        (false, true) => Outcome::json(&added),
        (false, false) => Outcome::default().advise(format!("joined with key {id} '{name}', range {}, open ports: {exposed}", added.range)),
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

/// A new key and its owner's private half.
fn mint(config: &Config, wanted: Option<Ipv4Range>) -> anyhow::Result<(SecretText, Option<SecretText>)> {
    let store = KeyStore::open(&config.node.data_dir)?;
    let networks: Vec<Used> =
        store.keys().iter().map(|key| (key.key.range.base, key.key.range.prefix)).collect();
    let range = match wanted {
        Some(range) => check_range(range, &networks)?,
        None => {
            let used = [networks, range::host_routes()].concat();
            let space = config.meshlan.ipv4_range;
            range::pick(space, &used, &mut OsRng).with_context(|| {
                format!("every range of {space} is in use by this node's networks or routes; give a free one with --ipv4-range")
            })?
        }
    };
    let owner = Identity::generate(&mut OsRng);
    let key = MeshKey::mint(range, owner.node_id().0, &mut OsRng);
    Ok((SecretText::new(key.to_string_secret()), Some(SecretText::new(hex(&owner.seed().0)))))
}

fn check_range(range: Ipv4Range, networks: &[Used]) -> anyhow::Result<Ipv4Range> {
    if let Some((base, prefix)) = range::conflict(range, networks) {
        bail!(
            "{range} overlaps {base}/{prefix}, the range of another network of this node; give another one"
        );
    }
    if let Some((base, prefix)) = range::conflict(range, &range::host_routes()) {
        bail!("{range} overlaps {base}/{prefix}, which this host routes elsewhere; give another one");
    }
    Ok(range)
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

fn list(keys: &[KeyEntry]) -> String {
    if keys.is_empty() {
        return "no keys\n".to_owned();
    }
    let head = ["ID", "NAME", "CAPS", "EXPIRES", "OPEN PORTS", "NETWORK"].map(str::to_owned).to_vec();
    let row = |key: &KeyEntry| {
        vec![key.id.clone(), printable(&key.name), caps(key), expiry(key), scope(key), key.network.clone()]
    };
    table(&[vec![head], keys.iter().map(row).collect()].concat())
}

fn describe(key: &KeyDetails) -> String {
    let entry = &key.entry;
    let origin = if key.minted_here { "made here" } else { "joined" };
    let rows = [
        ("id", entry.id.clone()),
        ("name", printable(&entry.name)),
        ("caps", caps(entry)),
        ("expires", expiry(entry)),
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

fn expiry(key: &KeyEntry) -> String {
    match key.expires {
        None => "never".to_owned(),
        Some(end) if end <= time::now() => format!("expired {}", time::format_utc(end)),
        Some(end) => time::format_utc(end),
    }
}

fn scope(key: &KeyEntry) -> String {
    if key.allow.is_empty() { "none".to_owned() } else { key.allow.to_string() }
}
