//! A file as chunks of rows, cut at the same places each time it is read.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use super::super::exit::{Exit, Failed};
use super::super::journal::cannot;
use super::{Dates as DateArg, Format};
use crate::rows::columns::{Columns, Dates, Mapped};
use crate::rows::dates::DateOrder;
use crate::rows::foreign::Foreign;
use crate::rows::{Reader, Row};

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// Bytes that tell what kind of file it is.
const HEAD: usize = 64 * 1024;

/// Bytes of rows that close a chunk early.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What of the command decides how a file is read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub format: Format,
    pub map: Vec<Mapped>,
    pub delimiter: Option<u8>,
    pub zone: TimeZone,
    pub dates: Option<DateArg>,
}

/// Rows of a file, in order.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    reader: Reader,
    /// The format found.
    pub format: Format,
    /// What stands between the cells of a table.
    pub delimiter: u8,
    /// Rows that were read and belong to no chunk yet.
    rows: std::collections::VecDeque<Row>,
    over: bool,
    /// Bytes read.
    pub read: u64,
    buffer: Vec<u8>,
}

/// Some rows that are sent together.
pub(super) struct Chunk {
    pub rows: Vec<Row>,
}

impl Source {
    pub(super) fn open(path: &Path, reading: &Reading) -> Result<Self, Failed> {
        let mut file = File::open(path).map_err(|error| cannot("read", path, &error))?;
        let mut head = Vec::new();
        file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(|error| cannot("read", path, &error))?;
        let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
        let (format, delimiter, reader) = reader(reading, &head);
        Ok(Self {
            path: path.to_owned(),
            file,
            reader,
            format,
            delimiter,
            rows: std::collections::VecDeque::new(),
            over: false,
            read: 0,
            buffer: vec![0; PIECE],
        })
    }

    /// The next rows, at most so many; `None` behind the last.
    pub(super) fn chunk(&mut self, most: usize) -> Result<Option<Chunk>, Failed> {
        let mut chunk = Chunk { rows: Vec::new() };
        let mut bytes = 0;
        loop {
            while let Some(row) = self.rows.pop_front() {
                bytes += row.item.as_ref().map_or(0, String::len);
                if !chunk.rows.is_empty() && bytes > CHUNK_BYTES {
                    self.rows.push_front(row);
                    return Ok(Some(chunk));
                }
                chunk.rows.push(row);
                if chunk.rows.len() == most {
                    return Ok(Some(chunk));
                }
            }
            if self.over {
                return Ok((!chunk.rows.is_empty()).then_some(chunk));
            }
            self.fill()?;
        }
    }

    /// The table's heading; empty of what has none.
    pub(super) fn heading(&self) -> &[String] {
        self.reader.heading()
    }

    fn fill(&mut self) -> Result<(), Failed> {
        let count = self.file.read(&mut self.buffer).map_err(|error| cannot("read", &self.path, &error))?;
        self.read += count as u64;
        let mut rows = Vec::new();
        let fed = if count == 0 {
            self.over = true;
            self.reader.finish(&mut rows)
        } else {
            self.reader.feed(&self.buffer[..count], &mut rows)
        };
        fed.map_err(|broken| Failed::new(Exit::Data, format!("{}: {broken}", self.path.display())))?;
        self.rows.extend(rows);
        Ok(())
    }
}

/// SHA-256 of a file, in hex.
pub(super) fn digest(path: &Path) -> Result<String, Failed> {
    let mut file = File::open(path).map_err(|error| cannot("read", path, &error))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer).map_err(|error| cannot("read", path, &error))? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The format and the delimiter, found by the first bytes where they are not said, and what reads it.
fn reader(reading: &Reading, head: &[u8]) -> (Format, u8, Reader) {
    let text = String::from_utf8_lossy(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head)).into_owned();
    let delimiter = reading.delimiter.unwrap_or_else(|| delimiter(&text));
    let format = match (reading.format, text.trim_start().chars().next()) {
        (Format::Auto, Some('[')) => Format::Json,
        (Format::Auto, Some('{')) => Format::Ndjson,
        (Format::Auto, _) => match Foreign::of(&heading(&text, delimiter)) {
            Some(Foreign::PowerAutomate) => Format::PowerAutomate,
            Some(Foreign::UiPath) => Format::Uipath,
            None => Format::Csv,
        },
        (format, _) => format,
    };
    let foreign = match format {
        Format::PowerAutomate => Some(Foreign::PowerAutomate),
        Format::Uipath => Some(Foreign::UiPath),
        _ => None,
    };
    let order = match reading.dates {
        Some(DateArg::Ymd) => DateOrder::YearFirst,
        Some(DateArg::Mdy) => DateOrder::MonthFirst,
        Some(DateArg::Dmy) => DateOrder::DayFirst,
        None if format == Format::PowerAutomate => DateOrder::MonthFirst,
        None => DateOrder::YearFirst,
    };
    let dates = Some(Dates { zone: reading.zone.clone(), order });
    let reader = match format {
        Format::Json => Reader::array(),
        Format::Ndjson => Reader::ndjson(),
        _ => Reader::csv(Columns { delimiter, map: reading.map.clone(), foreign, dates }),
    };
    (format, delimiter, reader)
}

/// Spreadsheets write `;` where a comma stands in numbers.
fn delimiter(text: &str) -> u8 {
    let heading = text.lines().next().unwrap_or_default();
    let count = |delimiter: &u8| heading.bytes().filter(|byte| byte == delimiter).count();
    // The first of those that stand most often.
    *b",;\t|".iter().rev().max_by_key(|delimiter| count(delimiter)).unwrap_or(&b',')
}

fn heading(text: &str, delimiter: u8) -> Vec<String> {
    let heading = text.lines().next().unwrap_or_default();
    heading.split(char::from(delimiter)).map(|name| name.trim().trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading { format: Format::Auto, map: Vec::new(), delimiter: None, zone: TimeZone::UTC, dates: None }
    }

    fn chunks(text: &str, most: usize) -> Vec<Vec<u64>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, text).unwrap();
        let mut source = Source::open(&path, &reading()).ok().unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = source.chunk(most).ok().unwrap() {
            chunks.push(chunk.rows.iter().map(|row| row.line).collect());
        }
        chunks
    }

    #[test]
    fn files_are_told_by_their_first_bytes() {
        for (text, expected) in [
            ("\u{feff} [{}]", Format::Json),
            ("{\"payload\":1}\n", Format::Ndjson),
            ("a,b\n", Format::Csv),
            ("a;b\n", Format::Csv),
            ("", Format::Csv),
            ("Vendor,WorkQueueItemId,WorkQueueKey\n", Format::PowerAutomate),
            ("\"Reference\";\"Priority\";\"Amount\"\r\n", Format::Uipath),
        ] {
            assert_eq!(reader(&reading(), text.as_bytes()).0, expected, "{text}");
        }
        for (heading, expected) in [("a", b','), ("a,b;c,d", b','), ("a;b;c,d", b';'), ("a\tb", b'\t')] {
            assert_eq!(delimiter(heading), expected, "{heading}");
        }
    }

    #[test]
    fn chunks_are_cut_by_rows_and_by_bytes() {
        assert_eq!(chunks("a;b\n1;2\n3;4\n5;6\n", 2), [vec![2, 3], vec![4]]);
        assert_eq!(chunks("a,b\n", 2), Vec::<Vec<u64>>::new());
        let row = format!("{{\"payload\":\"{}\"}}\n", "x".repeat(CHUNK_BYTES / 2));
        assert_eq!(chunks(&row.repeat(3), 100), [[1], [2], [3]]);
    }
}
