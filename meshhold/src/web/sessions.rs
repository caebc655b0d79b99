//! Who is logged in: sessions of browsers, and the one-time links that start them.
//!
//! Owns tokens only as digests, and forgets them with the daemon. Must not know requests or cookies.

use crate::config::secret::{SecretText, hex};
use rand_core::{OsRng, RngCore};
use serde::Serialize;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// How long a session lasts.
pub(crate) const SESSION: Duration = Duration::from_secs(24 * 3600);
/// How long a one-time link is good.
const LINK: Duration = Duration::from_secs(60);
/// More sessions at a time push out the oldest.
const MAX_SESSIONS: usize = 64;
const MAX_LINKS: usize = 16;

/// How somebody got in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    /// By a link of `meshhold web`.
    Link,
    /// By the password.
    Password,
}

/// A session, as others may see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// Its public id.
    pub(crate) id: String,
    /// Where it was started from.
    pub(crate) source: String,
    /// How.
    pub(crate) how: How,
    /// When (Unix seconds).
    pub(crate) since: u64,
    /// When it ends (Unix seconds).
    pub(crate) expires: u64,
    /// It is the one that asks.
    pub(crate) current: bool,
}

#[derive(Debug)]
struct Kept {
    session: Session,
    token: blake3::Hash,
    csrf: SecretText,
    ends: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    kept: Vec<Kept>,
    links: Vec<(blake3::Hash, Instant)>,
}

impl Sessions {
    /// Starts a session; gives its token, for the cookie alone.
    pub(crate) fn start(&mut self, source: IpAddr, how: How) -> (Session, SecretText) {
        self.sweep();
        if self.kept.len() == MAX_SESSIONS {
            self.kept.remove(0);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let session = Session {
            id: random::<8>().reveal().to_owned(),
            source: source.to_string(),
            how,
            since,
            expires: since + SESSION.as_secs(),
            current: true,
        };
        let token = random::<32>();
        self.kept.push(Kept {
            session: session.clone(),
            token: digest(token.reveal()),
            csrf: random::<16>(),
            ends: Instant::now() + SESSION,
        });
        (session, token)
    }

    /// The session of a token, while it lasts.
    pub(crate) fn find(&mut self, token: &str) -> Option<Session> {
        self.sweep();
        let token = digest(token);
        self.kept.iter().find(|kept| kept.token == token).map(|kept| kept.session.clone())
    }

    /// Whether the session still lasts.
    pub(crate) fn lasts(&mut self, id: &str) -> bool {
        self.sweep();
        self.kept.iter().any(|kept| kept.session.id == id)
    }

    /// The token that writes of this session must repeat.
    pub(crate) fn csrf(&self, id: &str) -> Option<&SecretText> {
        self.kept.iter().find(|kept| kept.session.id == id).map(|kept| &kept.csrf)
    }

    /// All that last, seen by the session `current`.
    pub(crate) fn list(&mut self, current: Option<&str>) -> Vec<Session> {
        self.sweep();
        let seen = |kept: &Kept| {
            let session = kept.session.clone();
            Session { current: current == Some(session.id.as_str()), ..session }
        };
        self.kept.iter().map(seen).collect()
    }

    /// Ends a session. False if there is none of this id.
    pub(crate) fn end(&mut self, id: &str) -> bool {
        let before = self.kept.len();
        self.kept.retain(|kept| kept.session.id != id);
        self.kept.len() < before
    }

    /// Ends those that a password started, as it is no longer valid.
    pub(crate) fn end_by_password(&mut self) {
        self.kept.retain(|kept| kept.session.how != How::Password);
    }

    /// A new one-time link's token.
    pub(crate) fn link(&mut self) -> SecretText {
        if self.links.len() == MAX_LINKS {
            self.links.remove(0);
        }
        let token = random::<32>();
        self.links.push((digest(token.reveal()), Instant::now() + LINK));
        token
    }

    /// Uses up a link. False if it was none, or not any more.
    pub(crate) fn use_link(&mut self, token: &str) -> bool {
        let (now, token) = (Instant::now(), digest(token));
        self.links.retain(|(_, ends)| *ends > now);
        let before = self.links.len();
        self.links.retain(|(link, _)| *link != token);
        self.links.len() < before
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.kept.retain(|kept| kept.ends > now);
    }
}

/// What is kept of a token. Tokens are random: no slow hash is needed. Digests compare in constant time.
pub(crate) fn digest(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

/// `N` random bytes in hex.
fn random<const N: usize>() -> SecretText {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    SecretText::new(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }

    #[test]
    fn a_link_works_once_and_a_session_until_it_is_ended() {
        let mut sessions = Sessions::default();
        let link = sessions.link();
        assert!(!sessions.use_link("guess"));
        assert!(sessions.use_link(link.reveal()));
        assert!(!sessions.use_link(link.reveal()), "used up");
        let (session, token) = sessions.start(source(), How::Link);
        let (other, _) = sessions.start(source(), How::Password);
        assert_eq!(sessions.find(token.reveal()).unwrap().id, session.id);
        assert_ne!(
            sessions.csrf(&session.id).unwrap().reveal(),
            sessions.csrf(&other.id).unwrap().reveal(),
            "one session's token is no use to another"
        );
        sessions.end_by_password();
        assert_eq!(sessions.list(Some(&session.id)).len(), 1);
        assert!(sessions.end(&session.id) && !sessions.end(&session.id));
        assert!(sessions.find(token.reveal()).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut sessions = Sessions::default();
        let (_, first) = sessions.start(source(), How::Link);
        let link = sessions.link();
        for _ in 0..MAX_SESSIONS {
            sessions.start(source(), How::Link);
            sessions.link();
        }
        assert_eq!((sessions.kept.len(), sessions.links.len()), (MAX_SESSIONS, MAX_LINKS));
        assert!(sessions.find(first.reveal()).is_none() && !sessions.use_link(link.reveal()));
    }
}
