//! The files of the Web UI, as they are in `pages/`: one page, its style sheet and its modules.
//!
//! Owns the table of what is served by which path. Must not know HTTP: `web` sets the headers.

/// A file that is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    /// Its media type.
    pub(crate) content_type: &'static str,
    /// All of it.
    pub(crate) body: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Names in `pages/` with their media types and contents.
macro_rules! files {
    ($($content_type:ident: $($name:literal)+;)+) => {
        &[$($(($name, $content_type, include_bytes!(concat!("pages/", $name)) as &[u8]),)+)+]
    };
}

const FILES: &[(&str, &str, &[u8])] = files! {
    HTML: "index.html";
    CSS: "app.css";
    SVG: "icon.svg";
    SCRIPT: "api.js" "devices.js" "dialog.js" "dom.js" "drops.js" "explain.js" "format.js" "health.js" "icons.js"
        "key-add.js" "key-edit.js" "key-share.js" "keys.js" "login.js" "main.js" "menu.js" "network.js" "peer.js"
        "plot.js" "ports.js" "qr.js" "resource.js" "store.js" "texts.js" "theme.js" "topology.js" "ui.js";
};

/// What is served for a path: `/` is the page, the rest is `/assets/NAME`.
pub(crate) fn asset(path: &str) -> Option<Asset> {
    let wanted = if path == "/" { "index.html" } else { path.strip_prefix("/assets/")? };
    let (_, content_type, body) = FILES.iter().copied().find(|(name, ..)| *name == wanted)?;
    Some(Asset { content_type, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Of all files together, as the page is promised to be small.
    const MAX_BYTES: usize = 150_000;
    const NAMESPACE: &str = "http://www.w3.org/2000/svg";

    fn texts() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.iter().map(|(name, _, body)| (*name, std::str::from_utf8(body).unwrap()))
    }

    #[test]
    fn every_file_is_served_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/pages");
        let present = std::fs::read_dir(folder).unwrap();
        let present: BTreeSet<_> =
            present.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let served: BTreeSet<_> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(present, served);
        assert_eq!(asset("/").unwrap().content_type, HTML);
        assert_eq!(asset("/assets/app.css").unwrap().content_type, CSS);
        for path in
            ["", "/assets/", "/assets/none.js", "/index.html", "/assets/../pages.rs", "assets/app.css"]
        {
            assert!(asset(path).is_none(), "{path}");
        }
    }

    #[test]
    fn all_of_it_is_small() {
        let bytes: usize = FILES.iter().map(|(_, _, body)| body.len()).sum();
        assert!(bytes <= MAX_BYTES, "{bytes} bytes");
    }

    #[test]
    fn what_the_page_names_is_served() {
        for (name, text) in texts() {
            let quoted = text.split('"').filter(|part| part.starts_with("/assets/"));
            let imported = text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
            let wanted = quoted.map(str::to_owned).chain(imported.map(|file| format!("/assets/{file}")));
            for path in wanted {
                assert!(asset(&path).is_some(), "{name} wants {path}");
            }
        }
    }

    /// The content security policy forbids these as well; here they are seen without a browser.
    #[test]
    fn nothing_is_loaded_from_elsewhere_or_made_of_text() {
        const FORBIDDEN: [&str; 10] = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
            "javascript:",
            "@import",
        ];
        for (name, text) in texts() {
            let text = text.replace(NAMESPACE, "");
            for word in FORBIDDEN {
                assert!(!text.contains(word), "{name} holds {word}");
            }
        }
    }

    #[test]
    fn the_page_holds_no_script_style_or_handler_of_its_own() {
        let (_, page) = texts().find(|(name, _)| *name == "index.html").unwrap();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
            assert!(!tag.contains(" on") && !tag.contains("style="), "<{tag}>");
            assert!(!tag.starts_with("style"), "<{tag}>");
            assert!(!tag.starts_with("script") || tag.contains(" src=\"/assets/"), "<{tag}>");
        }
    }

    #[test]
    fn every_file_says_what_it_owns() {
        for (name, text) in texts().filter(|(name, _)| name.ends_with(".js") || name.ends_with(".css")) {
            let head: String = text.lines().take(6).collect();
            assert!(text.starts_with(['/']) && head.contains("Owns"), "{name}");
        }
    }
}
