//! The pages, embedded.
//!
//! Owns the table of files. Must not know how they are served.

/// One file.
pub(crate) struct Asset {
    /// Media type.
    pub(crate) content_type: &'static str,
    /// Content.
    pub(crate) body: &'static [u8],
}

/// The file at `path` of the site.
pub(crate) fn asset(path: &str) -> Option<Asset> {
    (path == "/").then_some(Asset {
        content_type: "text/html; charset=utf-8",
        body: b"<!doctype html><title>MeshHold</title>",
    })
}
