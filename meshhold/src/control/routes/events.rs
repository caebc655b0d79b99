//! Live changes, as Server-Sent Events (HTML Living Standard, section 9.2).
//!
//! Owns when it is looked, and what counts as a change. Must not know who watches.

use super::{App, keys, misfit};
use crate::control::api::{Request, Response};
use crate::control::problem::Problem;
use crate::web::Access;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked when nobody said that something changed.
const LOOK: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What one client was told.
struct Watch {
    app: App,
    access: Access,
    changes: watch::Receiver<u64>,
    status: Option<String>,
    keys: Option<String>,
    seen: Option<u64>,
    waiting: VecDeque<Event>,
}

/// Status, keys and drops, once and then whenever they change.
#[utoipa::path(get, path = "/api/v1/events",
    responses((status = 200, body = String, content_type = "text/event-stream", description = "events `status`, `keys` and `drops` with the JSON of the addresses of these names")))]
pub(super) async fn events(
    State(app): State<App>,
    Extension(access): Extension<Access>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = app.changes.subscribe();
    let (status, keys, seen) = (None, None, None);
    let watch = Watch { app, access, changes, status, keys, seen, waiting: VecDeque::new() };
    let stream = futures_util::stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        Some((Ok(event), watch))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Watch {
    /// The next event; none once there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.seen.is_some() {
                let changed = tokio::time::timeout(LOOK, self.changes.changed()).await;
                changed.unwrap_or(Ok(())).ok()?;
            }
            if !self.app.guard.still_in(&self.access) {
                return None;
            }
            self.look().await.ok()?;
        }
    }

    async fn look(&mut self) -> Result<(), Problem> {
        let Response::Status(status) = self.app.ask(Request::Status).await? else { return Err(misfit()) };
        self.tell("status", &status, |watch| &mut watch.status);
        let entries = keys::entries(&self.app).await?;
        self.tell("keys", &entries, |watch| &mut watch.keys);
        let seen = self.seen.unwrap_or(0);
        let Response::Drops(drops) = self.app.ask(Request::Drops { seen }).await? else {
            return Err(misfit());
        };
        if self.seen != Some(drops.seen) {
            self.waiting.extend(event("drops", &drops));
        }
        self.seen = Some(drops.seen);
        Ok(())
    }

    fn tell(&mut self, name: &str, value: &impl Serialize, last: fn(&mut Self) -> &mut Option<String>) {
        let Ok(text) = serde_json::to_string(value) else { return };
        if last(self).as_ref() != Some(&text) {
            self.waiting.push_back(Event::default().event(name).data(&text));
            *last(self) = Some(text);
        }
    }
}

fn event(name: &str, value: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(value).ok()
}
