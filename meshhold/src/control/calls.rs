//! The command line's requests as HTTP: which address, which body, and what an answer is.
//!
//! Must not know sockets.

use super::api::{ForwardRequest, Request, Response};
use super::problem::Problem;
use super::routes::{AddDevice, AddKey, EditKey, PacketQuestion, Resolved};
use crate::config::keys::{KeyReply, KeyRequest};
use axum::http::Method;
use meshhold_core::scope::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// A request on its way.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) revision: Option<String>,
}

impl Call {
    /// How `request` is sent.
    pub(super) fn new(request: &Request) -> serde_json::Result<Self> {
        let get = |path: &str| Ok(Self::bare(Method::GET, path.to_owned()));
        match request {
            Request::Status => get("status"),
            Request::Reload => Ok(Self::bare(Method::POST, "reload".to_owned())),
            Request::Key(request) => Self::key(request),
            Request::Forward(request) => Self::forward(request),
            Request::Explain(question) => Self::with(Method::POST, "explain".to_owned(), question),
            Request::ExplainPacket { packet, at } => {
                let question = PacketQuestion { packet: packet.clone(), at: *at };
                Self::with(Method::POST, "explain/packet".to_owned(), &question)
            }
            Request::Drops { seen } => get(&format!("drops?seen={seen}")),
            Request::Paths => get("paths"),
            Request::Programs => get("programs"),
            Request::Figures => get("figures"),
            Request::Netcheck => get("netcheck"),
            Request::Resolve(name) => get(&format!("resolve?name={}", escape(name))),
        }
    }

    fn key(request: &KeyRequest) -> serde_json::Result<Self> {
        let one = |id: &str| format!("keys/{}", escape(id));
        match request {
            KeyRequest::List => Ok(Self::bare(Method::GET, "keys".to_owned())),
            KeyRequest::Add(new) => {
                let key = Some(new.key.clone());
                let (name, allow) = (new.name.clone(), rules(&new.allow));
                let body = AddKey { name, allow, expires: new.expires, key, ipv4_range: None };
                Self::with(Method::POST, "keys".to_owned(), &body)
            }
            KeyRequest::Mint(new) => {
                let ipv4_range = new.range.map(|range| range.to_string());
                let (name, allow) = (new.name.clone(), rules(&new.allow));
                let body = AddKey { name, allow, expires: new.expires, key: None, ipv4_range };
                Self::with(Method::POST, "keys".to_owned(), &body)
            }
            KeyRequest::Show { id } => Ok(Self::bare(Method::GET, one(id))),
            KeyRequest::Edit { id, allow, name, revision } => {
                let body = EditKey { name: name.clone(), allow: allow.as_ref().map(rules) };
                let call = Self::with(Method::PATCH, one(id), &body)?;
                Ok(Self { revision: revision.clone(), ..call })
            }
            KeyRequest::Remove { id, revision } => {
                Ok(Self { revision: revision.clone(), ..Self::bare(Method::DELETE, one(id)) })
            }
            KeyRequest::Share { id } => Ok(Self::bare(Method::POST, one(id) + "/share")),
        }
    }

    fn forward(request: &ForwardRequest) -> serde_json::Result<Self> {
        match request {
            ForwardRequest::List => Ok(Self::bare(Method::GET, "devices".to_owned())),
            ForwardRequest::Add(forward) => {
                let body = AddDevice { name: forward.name.clone(), target: forward.target.to_string() };
                Self::with(Method::POST, "devices".to_owned(), &body)
            }
            ForwardRequest::Remove { name } => {
                Ok(Self::bare(Method::DELETE, format!("devices/{}", escape(name))))
            }
        }
    }

    /// Without a body.
    pub(super) fn bare(method: Method, path: String) -> Self {
        Self { method, path: format!("/api/v1/{path}"), body: Zeroizing::default(), revision: None }
    }

    /// With a JSON body.
    pub(super) fn with(method: Method, path: String, body: &impl Serialize) -> serde_json::Result<Self> {
        // Roomy from the start, so that growing leaves no copy of a secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(super::MAX_REQUEST));
        serde_json::to_writer(&mut *bytes, body)?;
        Ok(Self { body: bytes, ..Self::bare(method, path) })
    }
}

/// What the answer to `request` means.
pub(super) fn response(request: &Request, status: u16, body: &[u8]) -> serde_json::Result<Response> {
    if !(200..300).contains(&status) {
        return Ok(Response::Error(read::<Problem>(body)?));
    }
    Ok(match request {
        Request::Status => Response::Status(read(body)?),
        Request::Reload => Response::Done,
        Request::Key(KeyRequest::List) => Response::Key(KeyReply::Keys(read(body)?)),
        Request::Key(_) => Response::Key(KeyReply::Key(read(body)?)),
        Request::Forward(_) => Response::Forwards(read(body)?),
        Request::Explain(_) | Request::ExplainPacket { .. } => Response::Explanation(read(body)?),
        Request::Drops { .. } => Response::Drops(read(body)?),
        Request::Paths => Response::Paths(read(body)?),
        Request::Programs => Response::Programs(read(body)?),
        Request::Figures => Response::Figures(read(body)?),
        Request::Netcheck => Response::Netcheck(read(body)?),
        Request::Resolve(_) => Response::Address(read::<Resolved>(body)?.address),
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body)
}

fn rules(scope: &Scope) -> Vec<String> {
    scope.rules().iter().map(ToString::to_string).collect()
}

/// Percent-encoding of everything but unreserved characters (RFC 3986 section 2).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        let remove = |name: &str| Request::Forward(ForwardRequest::Remove { name: name.to_owned() });
        let path = |name| Call::new(&remove(name)).unwrap().path;
        assert_eq!(path("Büro/../x?y"), "/api/v1/devices/B%C3%BCro%2F..%2Fx%3Fy");
        assert_eq!(path("plug-1"), "/api/v1/devices/plug-1");
    }
}
