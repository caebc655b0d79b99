//! What was tried, what must hold, and what was seen, as a table.

use std::fmt::Write as _;

/// One row's outcome.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) system: String,
    pub(super) name: &'static str,
    pub(super) situation: &'static str,
    /// What was seen, or what was wrong.
    pub(super) outcome: Result<String, String>,
}

/// The lines as Markdown, what failed in full below, and the closing line.
pub(super) fn markdown(lines: &[Line]) -> String {
    let mut text = "| system | row | situation | held | seen |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for Line { system, name, situation, outcome } in lines {
        let (held, seen) = match outcome {
            Ok(seen) => ("yes", seen),
            Err(fault) => ("**no**", fault),
        };
        let seen = seen.lines().next().unwrap_or_default().replace('|', "/");
        // Writing into a string can't fail.
        let _ = writeln!(text, "| {system} | {name} | {situation} | {held} | {seen} |");
    }
    let failed = lines.iter().filter(|line| line.outcome.is_err()).count();
    let _ = writeln!(text, "\n{} passed, {failed} failed", lines.len() - failed);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_told_in_one_line() {
        let line = |outcome| Line {
            system: "Debian 13".to_owned(),
            name: "restart",
            situation: "it restarts",
            outcome,
        };
        let text = markdown(&[line(Ok("0 leaked".to_owned())), line(Err("7 leaked\nand more".to_owned()))]);
        assert!(text.contains("| Debian 13 | restart | it restarts | **no** | 7 leaked |\n"), "{text}");
        assert!(text.ends_with("\n1 passed, 1 failed\n"), "{text}");
    }
}
