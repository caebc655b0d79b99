//! Reading `config.yaml`: every error names the file, the line and the key, and says what to do.
//!
//! Must not know what the keys mean.

use super::Config;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Larger files are no configuration (bytes).
const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration was refused: `path:line: key 'x': what; what to do`.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line in it, from 1; 0 when the file couldn't be read at all.
    pub line: usize,
    /// The key, dotted (`meshlan.mtu`), where one is to blame.
    pub key: Option<String>,
    /// What is wrong and what to do.
    pub what: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(key) = &self.key {
            write!(f, ": key '{key}'")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Reads and checks the file at `path`.
pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let bytes = read(path).map_err(|what| fail(path, 0, None, what))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + valid.filter(|byte| **byte == b'\n').count();
        fail(path, line, None, "this line isn't UTF-8 text; save the file as UTF-8".to_owned())
    })?;
    let config = parse(path, &text)?;
    if text.lines().any(|line| line.trim_start().starts_with("swarm_key:")) && readable_by_others(path) {
        tracing::warn!(
            "{0} holds the swarm key and other users can read it; run `chmod 600 {0}`",
            path.display()
        );
    }
    Ok(config)
}

/// Checks `text`; `path` is for messages only.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let parsed = serde_yaml::from_str::<Option<Config>>(text);
    let mut config = match parsed {
        Ok(config) => config.unwrap_or_default(),
        Err(_) if is_blank(text) => Config::default(),
        Err(error) => return Err(explain(path, text, &error)),
    };
    let Some(from_file) = config.swarm_key_file.take() else { return Ok(config) };
    if config.swarm_key.is_some() {
        let key = "swarm_key_file";
        let line = line_of(text, key);
        let what = "'swarm_key' is set too; keep one of them".to_owned();
        return Err(fail(path, line, Some(key.to_owned()), what));
    }
    config.swarm_key = Some(from_file);
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let advice = "name another file with --config, or create it from packaging/config.example.yaml";
    let size =
        std::fs::metadata(path).map_err(|e| format!("can't read the configuration: {e}; {advice}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("{size} bytes is too large for a configuration (limit {MAX_BYTES}); {advice}"));
    }
    std::fs::read(path).map_err(|e| format!("can't read the configuration: {e}; {advice}"))
}

fn readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn line_of(text: &str, key: &str) -> usize {
    1 + text.lines().position(|line| line.trim_start().starts_with(key)).unwrap_or(0)
}

/// Turns the parser's error into ours: `node.listen: bad port at line 3 column 11`.
fn explain(path: &Path, text: &str, error: &serde_yaml::Error) -> ConfigError {
    let message = error.to_string();
    let place =
        error.location().map(|at| (at.line(), format!(" at line {} column {}", at.line(), at.column())));
    let (line, message) = match &place {
        Some((line, suffix)) => (*line, message.strip_suffix(suffix).unwrap_or(&message)),
        None => (text.lines().count().max(1), message.as_str()),
    };
    let (at, what) = split_key(message);
    let (key, what) = match backquoted(what) {
        Some((kind @ ("unknown field" | "duplicate field"), name, rest)) => {
            let section = at.trim_end_matches('.');
            let key = if section.is_empty() || section.ends_with(name) {
                name.to_owned()
            } else {
                format!("{section}.{name}")
            };
            let what = match kind {
                "unknown field" => format!("unknown key{rest}; fix or remove it"),
                _ => "set twice; keep one of them".to_owned(),
            };
            (key, what)
        }
        _ if what.contains(';') => (at.to_owned(), what.to_owned()),
        _ => (at.to_owned(), format!("{what}; see docs/config.md")),
    };
    fail(path, line, Some(key).filter(|key| !key.is_empty()), what)
}

/// Splits `a.b[0]: message` into key and message.
fn split_key(message: &str) -> (&str, &str) {
    let is_key = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_.[]-".contains(c));
    match message.split_once(": ") {
        Some((key, rest)) if is_key(key) => (key, rest),
        _ => ("", message),
    }
}

/// Splits ``kind `name` rest``.
fn backquoted(message: &str) -> Option<(&str, &str, &str)> {
    let (kind, rest) = message.split_once(" `")?;
    let (name, rest) = rest.split_once('`')?;
    Some((kind, name, rest))
}

fn fail(path: &Path, line: usize, key: Option<String>, what: String) -> ConfigError {
    ConfigError { path: path.to_owned(), line, key, what }
}
