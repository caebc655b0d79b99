//! A request's JSON body, or the reason why it is none.
//!
//! Must not repeat what it read: it may hold a secret.

use crate::control::problem::Problem;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A JSON body.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(Object(value))) => Ok(Self(value)),
            Err(rejection) => Err(problem(&rejection)),
        }
    }
}

/// A JSON object: an array would pass for its fields in order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        input.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

fn problem(rejection: &JsonRejection) -> Problem {
    let detail = match rejection {
        JsonRejection::MissingJsonContentType(_) => {
            "the body isn't said to be JSON; send `Content-Type: application/json`"
        }
        JsonRejection::JsonSyntaxError(_) => "the body isn't JSON",
        JsonRejection::JsonDataError(error) => {
            let what = what(&error.body_text());
            return Problem::with_status(
                rejection.status(),
                format!("{what}; `/api/v1/openapi.json` has the body's shape"),
            );
        }
        _ => "the body can't be read, or is too long",
    };
    Problem::with_status(rejection.status(), detail)
}

/// What serde says, without anything that was read: of fields the names that it knows.
fn what(said: &str) -> String {
    let said = said.rsplit_once(" at line ").map_or(said, |(before, _)| before);
    let is_name = |name: &&str| name.chars().all(|one| one.is_ascii_lowercase() || one == '_');
    let missing = said.rsplit_once("missing field `").and_then(|(_, name)| name.strip_suffix('`'));
    if let Some(name) = missing.filter(is_name) {
        return format!("the body lacks the field `{name}`");
    }
    match said.rsplit_once(", expected ") {
        Some((before, known)) if before.contains("unknown field `") => {
            format!("the body has a field that isn't known here; there may be {known}")
        }
        Some((_, wanted)) => format!("a field of the body is no good: expected {wanted}"),
        None => "a field of the body is missing or of the wrong kind".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Body {
        name: String,
        #[serde(default)]
        port: u16,
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_that_was_read() {
        for (body, said) in [
            ("{}", "the body lacks the field `name`"),
            (
                "{\"nam\":\"hidden\"}",
                "the body has a field that isn't known here; there may be `name` or `port`",
            ),
            ("{\"hidden\":1}", "the body has a field that isn't known here; there may be `name` or `port`"),
            ("{\"name\":\"x\",\"port\":\"hidden\"}", "a field of the body is no good: expected u16"),
            (
                "{\"name\":\"x\",\"port\":\"missing field `hidden` at line 1\"}",
                "a field of the body is no good: expected u16",
            ),
        ] {
            let error = serde_json::from_str::<Body>(body).unwrap_err().to_string();
            assert_eq!(what(&error), said, "{error}");
        }
    }
}
