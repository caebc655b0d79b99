//! Printing: stdout for answers, stderr for advice, no panic when the reader goes away.

pub(super) use crate::text::printable;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// What a command has to say. Zeroed on drop: it may be a key.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    answer: Zeroizing<String>,
    advice: Vec<String>,
    code: u8,
}

impl Outcome {
    /// One or more lines; the last line's end is added.
    pub(super) fn text(answer: impl Into<Zeroizing<String>>) -> Self {
        let mut answer = answer.into();
        if !answer.is_empty() && !answer.ends_with('\n') {
            answer.push('\n');
        }
        Self { answer, ..Self::default() }
    }

    /// Indented JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        Self::text(serde_json::to_string_pretty(value).unwrap_or_default())
    }

    /// Adds a line for stderr.
    pub(super) fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }

    /// Sets the exit code.
    pub(super) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints it. A reader that went away is no failure.
    pub(super) fn print(self) -> ExitCode {
        self.advice.iter().for_each(|line| note(line));
        let mut stdout = io::stdout().lock();
        match stdout.write_all(self.answer.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                note(&format!("error: can't write the answer: {error}"));
                ExitCode::FAILURE
            }
            _ => ExitCode::from(self.code),
        }
    }
}

/// One line on stderr; there is nobody to tell if that fails.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Aligned columns, two spaces between them.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_characters() {
        let rows = [["näme", "x"], ["n", "yy"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "näme  x\nn     yy\n");
    }
}
