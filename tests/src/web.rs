//! Requests to a node's HTTP API, by curl in the namespace of whoever asks.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Host, Node};

/// Where the Web UI is by default.
pub const ORIGIN: &str = "http://127.0.0.1:8080";

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Status line and header fields.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }

    /// Value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Runs curl on `host` with these words; `None` where there is no answer.
pub fn curl(host: &Host, words: &[&str]) -> Result<Option<Reply>> {
    let mut command = host.namespace().command("curl");
    command.args(["--silent", "--insecure", "--include", "--max-time", "10"]).args(words);
    let finished = crate::process::finish(&mut command, "")?;
    let Some((head, body)) = finished.stdout.split_once("\r\n\r\n") else { return Ok(None) };
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Some(Reply { status, head: head.to_owned(), body: body.to_owned() }))
}

/// A browser's login: what it sends with each request.
#[derive(Debug)]
pub struct Login {
    /// `name=token`.
    pub cookie: String,
    /// Goes with writes.
    pub csrf: String,
    /// The session's id.
    pub id: String,
}

impl Login {
    /// Logs in by a link of `meshhold web`, from the node itself.
    pub fn by_link(node: &Node) -> Result<Self> {
        let link = node.meshhold(&["web"])?;
        let token = link.trim().split_once("#link=").context("no link")?.1;
        Self::with(node, &format!("{{\"link\":\"{token}\"}}"))?.context("the link was refused")
    }

    /// Logs in with this body; `None` where it is refused.
    pub fn with(node: &Node, body: &str) -> Result<Option<Self>> {
        let url = format!("{ORIGIN}/api/v1/login");
        let json = "Content-Type: application/json";
        let reply = curl(&node.host, &[&url, "--header", json, "--data", body])?.context("no answer")?;
        if reply.status != 200 {
            return Ok(None);
        }
        let cookie = reply.header("set-cookie").context("no cookie")?;
        ensure!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let session = reply.json()?;
        let text = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
        Ok(Some(Self { cookie, csrf: text("csrf"), id: text("id") }))
    }

    /// One request of this browser, on the node itself; `words` as curl takes them, before the path.
    pub fn ask(&self, node: &Node, words: &[&str], path: &str) -> Result<Reply> {
        let (url, cookie) = (format!("{ORIGIN}{path}"), format!("Cookie: {}", self.cookie));
        let csrf = format!("X-CSRF-Token: {}", self.csrf);
        let own =
            ["--header", &cookie, "--header", &csrf, "--header", "Content-Type: application/json", &url];
        curl(&node.host, &[words, &own].concat())?.context("no answer")
    }
}
