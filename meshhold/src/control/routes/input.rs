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
        JsonRejection::JsonDataError(_) => {
            "a field of the body is missing or of the wrong kind; `/api/v1/openapi.json` has its shape"
        }
        _ => "the body can't be read, or is too long",
    };
    Problem::with_status(rejection.status(), detail)
}
