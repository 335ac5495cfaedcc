//! What is wrong with definitions, told the way a good compiler does: place, cause, the line itself, cure.

use std::fmt;

use serde::Serialize;

/// Characters of a source line that are shown; of longer ones the part around the mistake.
const SHOWN: usize = 120;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file as it was given, or found in the directory.
    pub file: String,
    /// From 1; 0 where the whole file is meant.
    pub line: u64,
    /// From 1, in characters; 0 where the whole file is meant.
    pub column: u64,
    /// The cause, one line.
    pub message: String,
    /// The source line, cut to the part around the mistake where it is very long; may be empty.
    pub snippet: String,
    /// The cure, where one is known.
    pub help: Option<String>,
    #[serde(skip)]
    underline: Underline,
}

/// Which characters of the snippet are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Underline {
    before: usize,
    width: usize,
}

impl Diagnostic {
    /// A mistake of a file as a whole: it cannot be read, say.
    #[must_use]
    pub fn of_file(file: &str, message: impl Into<String>, help: Option<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: one_line(&message.into()),
            snippet: String::new(),
            help,
            underline: Underline::default(),
        }
    }

    /// Points at `width` characters of `source_line`, from `column` on; underlines at least one.
    #[must_use]
    pub fn at(file: &str, (line, column, width): (u64, u64, u64), source_line: &str, message: &str) -> Self {
        let before = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let skipped = if before < SHOWN { 0 } else { before - SHOWN / 2 };
        let snippet: String = source_line.chars().skip(skipped).take(SHOWN).map(printable).collect();
        let before = before - skipped;
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        let rest = snippet.trim_end().chars().count().saturating_sub(before);
        Self {
            file: file.to_owned(),
            line,
            column,
            message: one_line(message),
            snippet,
            help: None,
            underline: Underline { before, width: width.min(rest).max(1) },
        }
    }

    /// Adds the cure.
    #[must_use]
    pub fn with_help(self, help: Option<String>) -> Self {
        Self { help: help.map(|help| one_line(&help)), ..self }
    }
}

/// Keeps escape sequences and the like of a definition out of the reader's terminal.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { ' ' } else { printable(c) }).collect()
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message)?,
        }
        if !self.snippet.trim().is_empty() {
            // Tabs stay tabs, so that the carets stand below what they mean.
            let blank = self.snippet.chars().map(|c| if c == '\t' { c } else { ' ' });
            let indent: String = blank.chain(std::iter::repeat(' ')).take(self.underline.before).collect();
            let number = self.line.to_string();
            write!(f, "\n {number} | {}", self.snippet.trim_end())?;
            write!(f, "\n {:1$} | {indent}{2}", "", number.len(), "^".repeat(self.underline.width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

/// Every mistake of a set of definitions, sorted by file, line and column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts the mistakes.
    #[must_use]
    pub fn new(mut found: Vec<Diagnostic>) -> Self {
        found.sort();
        found.dedup();
        Self(found)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            write!(f, "{diagnostic}\n\n")?;
        }
        match self.0.len() {
            1 => write!(f, "1 mistake in the definitions"),
            count => write!(f, "{count} mistakes in the definitions"),
        }
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_mistake_and_names_the_cure() {
        let diagnostic = Diagnostic::at("q/x.yaml", (12, 4, 9), "\t  prioritys: {}", "unknown key 'prioritys'")
            .with_help(Some("did you mean 'priorities'?".to_owned()));
        assert_eq!(
            diagnostic.to_string(),
            "q/x.yaml:12:4: unknown key 'prioritys'\n 12 | \t  prioritys: {}\n    | \t  ^^^^^^^^^\nhelp: did you mean 'priorities'?"
        );
    }

    #[test]
    fn long_lines_and_control_characters_do_not_reach_the_terminal() {
        let line = format!("{}\u{1b}[31mX{}", " ".repeat(5_000), "y".repeat(5_000));
        let diagnostic = Diagnostic::at("x.yaml", (1, 5_006, u64::MAX), &line, "bad \u{1b} thing\nhere");
        let shown = diagnostic.to_string();
        assert!(shown.len() < 600, "{shown}");
        assert!(!shown.contains('\u{1b}'));
        assert!(diagnostic.snippet.chars().nth(diagnostic.underline.before) == Some('X'));
    }

    #[test]
    fn a_place_outside_the_line_is_shown_all_the_same() {
        for place in [(1, 0, 0), (1, 9, 3), (2, 4, u64::MAX)] {
            assert!(Diagnostic::at("x.yaml", place, "abc", "cause").to_string().contains('^'));
        }
        let nowhere = Diagnostic::at("x.yaml", (7, u64::MAX, u64::MAX), "abc", "cause").to_string();
        assert!(nowhere.ends_with(": cause"), "{nowhere}");
        assert_eq!(Diagnostic::of_file("x.yaml", "no UTF-8", None).to_string(), "x.yaml: no UTF-8");
    }
}
