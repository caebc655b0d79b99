//! The way in over TCP: who may ask, from where, and the pages for browsers.
//!
//! Owns logins, sessions, tokens and their audit, and the TCP listener with its TLS. Must not know what requests mean: that is
//! `control`.

mod audit;
mod gate;
mod guard;
mod listen;
mod lockout;
mod pages;
pub(crate) mod password;
mod routes;
mod sessions;
mod site;
mod tls;
pub mod tokens;

pub(crate) use gate::{Needs, gate};
pub(crate) use guard::{Access, Guard};
pub(crate) use listen::Web;
pub(crate) use routes::{NewLink, api_router};
pub(crate) use site::pages_router;
