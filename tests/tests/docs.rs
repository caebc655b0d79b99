//! What the documents name exists.

use std::path::Path;

use anyhow::{Result, ensure};

/// `docs/security.md` promises tests by name; a renamed one must be renamed there.
#[test]
fn every_test_named_in_the_security_document_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = std::fs::read_to_string(root.join("docs/security.md"))?;
    let named: Vec<(&str, &str)> = document
        .split('`')
        .filter_map(|word| word.split_once("::"))
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    ensure!(named.len() > 20, "only {} tests are named", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(path, test)| {
            let source = std::fs::read_to_string(root.join(path)).unwrap_or_default();
            !source.contains(&format!("fn {test}("))
        })
        .map(|(path, test)| format!("{path}::{test}"))
        .collect();
    ensure!(missing.is_empty(), "missing: {missing:#?}");
    Ok(())
}

/// Relative links of the documents lead somewhere.
#[test]
fn links_between_documents_lead_to_files() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut broken = Vec::new();
    for document in ["README.md", "docs/architecture.md", "docs/security.md", "docs/config.md"] {
        let path = root.join(document);
        let folder = path.parent().unwrap_or(&root).to_owned();
        for target in std::fs::read_to_string(&path)?.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    ensure!(broken.is_empty(), "{broken:#?}");
    Ok(())
}
