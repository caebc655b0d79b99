//! `docs/api.md` says what the OpenAPI document says. `MESHHOLD_WRITE=1 cargo test --test api` writes it anew.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = "\
# The control API

Written from the OpenAPI document that every node serves at `/api/v1/openapi.json`; not by hand. JSON both ways. Who may ask stands in
[config.md](config.md#control-api-and-web-ui). A refusal is `application/problem+json` (RFC 9457): `{type, title, status, detail}`, whose `detail` says what to do.

What a request needs: `view` or `admin` is a token of that capability or a session, which has both; `socket` is the control socket, that is the
command line on the node itself; `nobody` is open to all who reach the address. Over the control socket root and the daemon's user may do all.

";

#[test]
fn the_document_and_docs_api_md_agree() {
    let document: Value = serde_json::from_str(&meshhold::control::openapi()).unwrap();
    let text = [HEAD.to_owned(), operations(&document), shapes(&document)].concat();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    if std::env::var_os("MESHHOLD_WRITE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/api.md is older than the API: MESHHOLD_WRITE=1 cargo test -p meshhold --test api"
    );
}

fn operations(document: &Value) -> String {
    let mut text =
        "## Addresses\n\n| request | needs | sends | gets | what |\n|---|---|---|---|---|\n".to_owned();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let query: Vec<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            let sends = content(&operation["requestBody"]);
            let (status, answer) = operation["responses"].as_object().unwrap().iter().next().unwrap();
            let gets = [status.clone(), content(answer)].join(" ");
            let what = operation["summary"].as_str().unwrap();
            writeln!(
                text,
                "| `{} {path}{query}` | {} | {sends} | {} | {what} |",
                method.to_uppercase(),
                operation["x-needs"].as_str().unwrap(),
                gets.trim()
            )
            .unwrap();
        }
    }
    text
}

fn content(body: &Value) -> String {
    let Some((media, content)) = body["content"].as_object().and_then(|content| content.iter().next()) else {
        return String::new();
    };
    if media == "application/json" { kind(&content["schema"]) } else { format!("`{media}`") }
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return format!("`{}`", name.rsplit('/').next().unwrap());
    }
    if let Some(options) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        return options.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let named = types.iter().map(|name| match *name {
        "array" => format!("array of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        name => name.to_owned(),
    });
    named.collect::<Vec<_>>().join(" or ")
}

fn shapes(document: &Value) -> String {
    let mut text = "\n## Shapes\n".to_owned();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let about = schema["description"].as_str().unwrap_or_default();
        writeln!(text, "\n### {name}\n\n{about}\n").unwrap();
        if let Some(values) = values(schema) {
            writeln!(text, "One of {}.", values.join(", ")).unwrap();
        }
        let parts = schema["allOf"].as_array().map_or_else(|| vec![schema], |parts| parts.iter().collect());
        for part in parts {
            if part["$ref"].is_string() {
                writeln!(text, "* all of {}", kind(part)).unwrap();
            }
            for (field, schema) in part["properties"].as_object().into_iter().flatten() {
                let about = schema["description"].as_str().unwrap_or_default();
                writeln!(text, "* `{field}`: {}. {about}", kind(schema)).unwrap();
            }
        }
    }
    text
}

/// The values of an enumeration.
fn values(schema: &Value) -> Option<Vec<String>> {
    let of = |schema: &Value| schema["enum"].as_array().cloned().unwrap_or_default();
    let listed = match schema["oneOf"].as_array() {
        Some(options) => options.iter().flat_map(of).collect(),
        None => of(schema),
    };
    let texts: Vec<String> =
        listed.iter().filter_map(Value::as_str).map(|text| format!("`{text}`")).collect();
    (!texts.is_empty()).then_some(texts)
}
