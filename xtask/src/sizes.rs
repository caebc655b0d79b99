//! `cargo xtask sizes`: length of files and functions against the bars of the project's habits.
//!
//! It counts lines of text, as a reader would. It knows as much of Rust as it needs to find where functions end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cargo;

const FILE: Bar = Bar { what: "lines a file", median: 180, max: 600 };
const FUNCTION: Bar = Bar { what: "lines a function", median: 8, max: 100 };
const SOURCES: [&str; 5] = ["meshhold", "meshhold-common", "meshhold-ebpf", "tests", "xtask"];

struct Bar {
    what: &'static str,
    median: usize,
    max: usize,
}

/// Something with a length and a place.
struct Item {
    lines: usize,
    place: String,
}

pub(crate) fn run() -> Result<()> {
    let root = cargo::root();
    let mut paths = Vec::new();
    for folder in SOURCES {
        collect(&root.join(folder), &mut paths)?;
    }
    let (mut files, mut functions) = (Vec::new(), Vec::new());
    for path in &paths {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let place = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        functions.extend(
            measure(&text).into_iter().map(|(line, lines)| Item { lines, place: format!("{place}:{line}") }),
        );
        files.push(Item { lines: text.lines().count(), place });
    }
    let (files, functions) = (FILE.report(files), FUNCTION.report(functions));
    ensure!(files && functions, "something is longer than its bar");
    Ok(())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

impl Bar {
    /// Prints the figures and the longest items; whether the maximum holds.
    fn report(&self, mut items: Vec<Item>) -> bool {
        items.sort_by_key(|item| std::cmp::Reverse(item.lines));
        let median = items.get(items.len() / 2).map_or(0, |item| item.lines);
        let longest = items.first().map_or(0, |item| item.lines);
        println!(
            "{}: {} in all, median {median} (bar {}), longest {longest} (bar {})",
            self.what,
            items.len(),
            self.median,
            self.max
        );
        for item in items.iter().take(3) {
            println!("  {:4} {}", item.lines, item.place);
        }
        longest <= self.max
    }
}

/// First line (from 1) and length in lines of each function with a body.
fn measure(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // Functions whose body is open: first line, and the depth of braces around the body.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let (mut depth, mut pending, mut brackets, mut word) = (0_usize, None, 0_usize, String::new());
    for (character, line) in Code::new(text) {
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
            continue;
        }
        // `fn(` is a type; `fn name` begins a function.
        if std::mem::take(&mut word) == "fn" && character == ' ' && pending.is_none() {
            (pending, brackets) = (Some(line), 0);
        }
        match character {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if brackets == 0 => pending = None,
            '{' => {
                open.extend(pending.take().map(|line| (line, depth)));
                depth += 1;
            }
            '}' => {
                depth = depth.saturating_sub(1);
                if let Some((first, _)) = open.pop_if(|(_, around)| *around == depth) {
                    found.push((first, line - first + 1));
                }
            }
            _ => {}
        }
    }
    found
}

/// The characters of a source with their lines, without comments, strings and character literals.
struct Code<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Code<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    /// Length in bytes of the literal or comment that begins here; 0 = none does.
    fn skipped(&self) -> usize {
        let until = |end: &str, begin: usize| {
            let body = self.rest.get(begin..).unwrap_or_default();
            begin + body.find(end).map_or(body.len(), |at| at + end.len())
        };
        match self.rest.as_bytes() {
            [b'/', b'/', ..] => until("\n", 2) - 1,
            [b'/', b'*', ..] => until("*/", 2),
            [b'r', b'"', ..] => until("\"", 2),
            [b'r', b'#', b'"', ..] => until("\"#", 3),
            [b'"', ..] => self.string(),
            [b'\'', b'\\', ..] => until("'", 3),
            [b'\'', ..] => self.character(),
            _ => 0,
        }
    }

    fn string(&self) -> usize {
        let mut escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        end.map_or(self.rest.len(), |at| at + 2)
    }

    /// `'x'`, but not the lifetime `'x`.
    fn character(&self) -> usize {
        let mut characters = self.rest.char_indices().skip(2);
        characters.next().filter(|(_, character)| *character == '\'').map_or(0, |(at, _)| at + 1)
    }
}

impl Iterator for Code<'_> {
    type Item = (char, usize);

    fn next(&mut self) -> Option<(char, usize)> {
        let skipped = self.skipped();
        let (gone, rest) = self.rest.split_at_checked(skipped)?;
        self.line += gone.matches('\n').count();
        self.rest = rest;
        if skipped > 0 {
            // Whatever it was, it ends the word before it.
            return Some((' ', self.line));
        }
        let character = self.rest.chars().next()?;
        let line = self.line;
        self.rest = self.rest.get(character.len_utf8()..)?;
        self.line += usize::from(character == '\n');
        Some((character, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured() {
        for (text, expected) in [
            ("fn a() {}", vec![(1, 1)]),
            ("fn a() {\n}\n\nfn b() {\n  1\n}", vec![(1, 2), (4, 3)]),
            ("trait T { fn a(x: [u8; 2]); }\nfn b() {\n}", vec![(2, 2)]),
            ("fn a(x: [u8; 2]) {\n}", vec![(1, 2)]),
            ("fn a() {\n  \"}\"; '}'; // }\n  fn b() {\n  }\n}", vec![(3, 2), (1, 5)]),
            ("type F = fn(u8);\nstruct S {\n}", vec![]),
            ("fn a<'a>(x: &'a str) {\n  '\\'';\n  r#\"}\"#;\n}", vec![(1, 4)]),
        ] {
            assert_eq!(measure(text), expected, "{text}");
        }
    }
}
