//! What is wrong with definitions, told the way a good compiler does: place, cause, the line itself, cure.

use std::fmt;

use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Mistakes that are kept and shown; of the rest only their number.
pub const MOST_KEPT: usize = 1_000;

/// Longest value that a message repeats, in characters.
pub(super) const QUOTED: usize = 60;

/// Longest message and cure, in characters.
const LONGEST_MESSAGE: usize = 1_000;

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
    /// Characters meant, from the column on; 0 where the whole file is meant.
    pub length: u64,
    /// The cause, one line.
    pub message: String,
    /// The cure, where one is known; one line.
    pub help: Option<String>,
    /// The source line, cut to the part around the mistake where it is very long; may be empty.
    pub source: String,
    /// Characters of `source` before what is meant.
    #[serde(skip)]
    before: usize,
}

impl Diagnostic {
    /// A mistake of a file as a whole: it cannot be read, say.
    #[must_use]
    pub fn of_file(file: &str, message: impl Into<String>, help: Option<String>) -> Self {
        let place = Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            length: 0,
            message: one_line(&message.into()),
            help: None,
            source: String::new(),
            before: 0,
        };
        place.with_help(help)
    }

    /// Points at `width` characters of `source_line`, from `column` on; underlines at least one.
    #[must_use]
    pub fn at(file: &str, (line, column, width): (u64, u64, u64), source_line: &str, message: &str) -> Self {
        let before = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let skipped = if before < SHOWN { 0 } else { before - SHOWN / 2 };
        let source: String = source_line.chars().skip(skipped).take(SHOWN).map(printable).collect();
        let before = before - skipped;
        let rest = source.trim_end().chars().count().saturating_sub(before);
        Self {
            file: file.to_owned(),
            line,
            column,
            length: width.min(u64::try_from(rest).unwrap_or(u64::MAX)).max(1),
            message: one_line(message),
            help: None,
            source,
            before,
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
    let mut line: String =
        text.chars().take(LONGEST_MESSAGE).map(|c| if c == '\n' { ' ' } else { printable(c) }).collect();
    if text.chars().nth(LONGEST_MESSAGE).is_some() {
        line.push('…');
    }
    line
}

/// The beginning of a text that a message repeats.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", one_line(&self.file), self.message)?,
            line => write!(f, "{}:{line}:{}: {}", one_line(&self.file), self.column, self.message)?,
        }
        if !self.source.trim().is_empty() {
            let number = self.line.to_string();
            let length = usize::try_from(self.length).unwrap_or(usize::MAX);
            let meant: String = self.source.chars().skip(self.before).take(length).collect();
            write!(f, "\n {number} | {}", self.source.trim_end())?;
            write!(f, "\n {:1$} | {2}{3}", "", number.len(), self.blank(), "^".repeat(meant.width().max(1)))?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    /// As wide as what stands before the mistake. Tabs stay tabs, so that the carets stand below what they mean.
    fn blank(&self) -> String {
        let mut blank = String::new();
        let mut chars = self.source.chars();
        for _ in 0..self.before {
            match chars.next() {
                Some('\t') => blank.push('\t'),
                Some(c) => blank.extend(std::iter::repeat_n(' ', c.width().unwrap_or(1))),
                None => blank.push(' '),
            }
        }
        blank
    }
}

/// Every mistake of a set of definitions, sorted by file, line and column; the first [`MOST_KEPT`] in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    kept: Vec<Diagnostic>,
    more: usize,
}

impl Diagnostics {
    /// Sorts the mistakes.
    #[must_use]
    pub fn new(found: Vec<Diagnostic>) -> Self {
        Self::beside(found, 0)
    }

    /// Sorts the mistakes; beside them `more` are only counted.
    #[must_use]
    pub(super) fn beside(mut found: Vec<Diagnostic>, more: usize) -> Self {
        found.sort();
        found.dedup();
        let more = more + found.len().saturating_sub(MOST_KEPT);
        found.truncate(MOST_KEPT);
        Self { kept: found, more }
    }

    /// Those that are kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.kept.iter()
    }

    /// All of them, also those that are not kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Mistakes that are not kept.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
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
        for diagnostic in &self.kept {
            write!(f, "{diagnostic}\n\n")?;
        }
        match (self.len(), self.more) {
            (1, _) => write!(f, "1 mistake in the definitions"),
            (count, 0) => write!(f, "{count} mistakes in the definitions"),
            (count, more) => write!(f, "{count} mistakes in the definitions; {more} of them are not shown"),
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
        assert!(diagnostic.source.chars().nth(diagnostic.before) == Some('X'));
    }

    #[test]
    fn carets_stand_below_wide_characters() {
        let shown = Diagnostic::at("x.yaml", (1, 9, 2), "title: '請求書'", "cause").to_string();
        assert!(shown.ends_with(" 1 | title: '請求書'\n   |         ^^^^"), "{shown}");
    }

    #[test]
    fn of_too_many_mistakes_the_first_are_shown_and_the_rest_is_counted() {
        let one = |line| Diagnostic::at("x.yaml", (line, 1, 1), "abc", "cause");
        let found = Diagnostics::beside((1..=1_200).rev().map(one).collect(), 30);
        assert_eq!((found.iter().count(), found.len(), found.more()), (MOST_KEPT, 1_230, 230));
        assert_eq!(found.iter().next().map(|first| first.line), Some(1));
        assert!(found.to_string().ends_with("1230 mistakes in the definitions; 230 of them are not shown"));
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
