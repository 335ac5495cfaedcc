//! Many items in one input: NDJSON, a JSON array, or CSV in some dialects, cut into one JSON object per item.
//!
//! Pure and incremental: bytes are fed as they come and rows come out, so that an input of any length takes the memory of
//! its longest row. What is wrong with one row stays with that row, with its line; what makes the rest unreadable ends
//! the reading ([`Broken`]). Whether a row's object makes an item is for the door to say.

pub mod columns;
pub mod dates;
pub mod foreign;
mod json;
mod table;
pub mod write;

use columns::Columns;

/// Bytes one row may have. More than any payload a queue takes by default, and what one request may have.
pub const LONGEST_ROW: usize = 20 * 1024 * 1024;

/// Faults of one row, or of a heading, that are told.
pub const MOST_FAULTS: usize = 100;

/// One row of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The line it begins in, from 1.
    pub line: u64,
    /// The item as a JSON text (an object, as far as the reader knows), or everything that is wrong with the row.
    pub item: Result<String, Vec<String>>,
    /// The row as it came, as far as it is text: its cells, or its JSON as the only one.
    pub cells: Vec<String>,
}

/// Why nothing more can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}", faults.join("; "))]
pub struct Broken {
    /// Where it was noticed, from 1.
    pub line: u64,
    /// Each with its cure.
    pub faults: Vec<String>,
}

impl Broken {
    fn new(line: u64, fault: impl Into<String>) -> Self {
        Self { line, faults: vec![fault.into()] }
    }
}

/// Cuts an input into rows.
#[derive(Debug)]
pub enum Reader {
    Lines(json::Lines),
    Array(json::Array),
    Table(Box<table::Table>),
}

impl Reader {
    /// One JSON object a line; empty lines are passed over.
    #[must_use]
    pub fn ndjson() -> Self {
        Self::Lines(json::Lines::default())
    }

    /// One JSON array of objects.
    #[must_use]
    pub fn array() -> Self {
        Self::Array(json::Array::default())
    }

    /// CSV as RFC 4180 has it, whose first row names the columns.
    #[must_use]
    pub fn csv(columns: Columns) -> Self {
        Self::Table(Box::new(table::Table::new(columns)))
    }

    /// Takes the next bytes and adds the rows that they complete.
    ///
    /// # Errors
    /// Where nothing more can be read. Rows added before it stand.
    pub fn feed(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), Broken> {
        match self {
            Self::Lines(lines) => {
                lines.feed(bytes, rows);
                Ok(())
            }
            Self::Array(array) => array.feed(bytes, rows),
            Self::Table(table) => table.feed(bytes, rows),
        }
    }

    /// The input is over: adds what is left.
    ///
    /// # Errors
    /// Where it ended in the middle.
    pub fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), Broken> {
        match self {
            Self::Lines(lines) => {
                lines.finish(rows);
                Ok(())
            }
            Self::Array(array) => array.finish(),
            Self::Table(table) => table.finish(rows),
        }
    }

    /// The heading of a table, once it was read.
    #[must_use]
    pub fn heading(&self) -> &[String] {
        match self {
            Self::Table(table) => table.heading(),
            _ => &[],
        }
    }
}

/// The first of many faults, and how many more there are.
fn first_of(mut faults: Vec<String>) -> Vec<String> {
    let more = faults.len().saturating_sub(MOST_FAULTS);
    if more > 0 {
        faults.truncate(MOST_FAULTS);
        faults.push(format!("and {more} more"));
    }
    faults
}

/// A text of the input cut to what a message can hold.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// Passes over a byte order mark at the beginning of what is read, in however many pieces it comes.
#[derive(Debug, Default)]
pub struct Mark {
    /// Bytes of the mark seen so far; more than the mark has once it is decided.
    seen: usize,
}

impl Mark {
    const BYTES: &'static [u8] = b"\xef\xbb\xbf";

    /// What of `bytes` is content, behind the bytes that were held back and turned out to be no mark.
    pub fn pass<'b>(&mut self, bytes: &'b [u8]) -> (&'static [u8], &'b [u8]) {
        let mut taken = 0;
        while self.seen < Self::BYTES.len() && taken < bytes.len() {
            if bytes[taken] != Self::BYTES[self.seen] {
                let held = &Self::BYTES[..self.seen];
                self.seen = usize::MAX;
                return (held, &bytes[taken..]);
            }
            taken += 1;
            self.seen += 1;
        }
        if self.seen == Self::BYTES.len() {
            self.seen = usize::MAX;
        }
        (&[], &bytes[taken..])
    }

    /// Bytes held back when the input ended.
    pub fn rest(&mut self) -> &'static [u8] {
        let held = if self.seen <= Self::BYTES.len() { &Self::BYTES[..self.seen] } else { &[] };
        self.seen = usize::MAX;
        held
    }
}

#[cfg(test)]
mod tests;
