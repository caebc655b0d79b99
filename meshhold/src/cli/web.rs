//! `web`: the way into the Web UI.

use super::args::WebCommand;
use super::output::{Outcome, note};
use crate::config::Config;
use crate::config::secret::SecretText;
use crate::control::client::{self, ClientError};
use crate::web::{NewLink, password};
use anyhow::{Context, bail, ensure};
use axum::http::Method;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// No password is longer (bytes).
const MAX_PASSWORD: u64 = 4096;

/// Runs one of the commands; without one, prints a link.
pub(super) fn run(
    config: &Config,
    command: Option<WebCommand>,
    open: bool,
    json: bool,
) -> anyhow::Result<Outcome> {
    match command {
        Some(WebCommand::SetPassword) => set_password(config),
        None => link(config, open, json),
    }
}

fn link(config: &Config, open: bool, json: bool) -> anyhow::Result<Outcome> {
    let nothing: Option<&()> = None;
    let link: NewLink = client::send(&config.socket(), Method::POST, "links", nothing)?;
    if open {
        launch(link.url.reveal())?;
    }
    let outcome = if json { Outcome::json(&link) } else { Outcome::text(link.url.reveal().to_owned()) };
    let outcome = outcome.advise("the link is good for one login within 60 seconds");
    Ok(match link.fingerprint {
        Some(print) => {
            outcome.advise(format!("this node signed its certificate itself; SHA-256 fingerprint {print}"))
        }
        None => outcome,
    })
}

/// By a file that only this user reads: others see a program's arguments.
fn launch(url: &str) -> anyhow::Result<()> {
    let path = std::env::temp_dir().join(format!("meshhold-{}.html", std::process::id()));
    let failed = || format!("can't write {}; open the link yourself", path.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let page = format!("<!doctype html><meta http-equiv=\"refresh\" content=\"0; url={url}\">");
    file.and_then(|mut file| file.write_all(page.as_bytes())).with_context(failed)?;
    let browser = Command::new("xdg-open").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let opened = browser.is_ok_and(|status| status.success());
    ensure!(opened, "can't open a browser (xdg-open); open the link that `meshhold web` prints");
    Ok(())
}

#[derive(Serialize)]
struct NewPassword {
    password: SecretText,
}

fn set_password(config: &Config) -> anyhow::Result<Outcome> {
    let password = read_password()?;
    let body = NewPassword { password: SecretText::new(password.clone()) };
    match client::send::<()>(&config.socket(), Method::PUT, "password", Some(&body)) {
        Ok(()) => {}
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::NotRunning(_))) => {
            password::set(&config.node.data_dir, &password)?;
        }
        Err(error) => return Err(error),
    }
    Ok(Outcome::default()
        .advise("the password is set; log in with it at the address that `meshhold web` prints"))
}

/// From the terminal, twice and unseen; else the first line of standard input.
fn read_password() -> anyhow::Result<Zeroizing<String>> {
    if io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password("new password: ")?);
        let second = Zeroizing::new(rpassword::prompt_password("once more: ")?);
        if *first != *second {
            bail!("the two differ; try again");
        }
        return Ok(first);
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_PASSWORD as usize));
    io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .context("reading the password from stdin")?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        note("write the password into standard input, or run this in a terminal");
    }
    Ok(Zeroizing::new(line.to_owned()))
}
