//! Rows that were not taken, as a file to repair and import again: CSV where they were CSV, else NDJSON.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::exit::Failed;
use super::super::journal::cannot;
use crate::rows::columns::REFUSED;
use crate::rows::{Row, write};

/// Made with the first row that goes into it.
pub(super) struct Refused {
    pub path: PathBuf,
    file: Option<File>,
    /// How far it is good.
    pub bytes: u64,
    heading: Vec<String>,
}

impl Refused {
    /// Goes on behind so many bytes of an earlier run.
    pub(super) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, file: None, bytes, heading: Vec::new() }
    }

    /// The heading of the table that the rows come from; none for others.
    pub(super) fn heading(&mut self, heading: &[String]) {
        if self.heading.is_empty() {
            self.heading = heading.to_vec();
        }
    }

    pub(super) fn add(&mut self, row: &Row, code: &str, reasons: &[String]) -> Result<(), Failed> {
        let mut text = String::new();
        if self.heading.is_empty() {
            let item = match (&row.item, row.cells.first()) {
                (Ok(item), _) => serde_json::from_str(item).unwrap_or_else(|_| Value::from(item.as_str())),
                (Err(_), cell) => cell.map_or(Value::Null, |cell| Value::from(cell.as_str())),
            };
            let line = json!({"line": row.line, "code": code, "reasons": reasons, "row": item});
            text = format!("{line}\n");
        } else {
            if self.bytes == 0 {
                write::line(self.heading.iter().map(String::as_str).chain(REFUSED), &mut text);
            }
            let mut cells = row.cells.clone();
            // A row with too few cells keeps ours in their columns.
            cells.resize(cells.len().max(self.heading.len()), String::new());
            cells.extend([row.line.to_string(), code.to_owned(), write::guarded(reasons.join("; "))]);
            write::line(cells, &mut text);
        }
        let bytes = self.bytes;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let opened =
                    File::options().write(true).create(true).truncate(false).open(&self.path).and_then(|mut file| {
                        file.set_len(bytes)?;
                        file.seek(SeekFrom::End(0))?;
                        Ok(file)
                    });
                self.file.insert(opened.map_err(|error| cannot("write", &self.path, &error))?)
            }
        };
        file.write_all(text.as_bytes()).map_err(|error| cannot("write", &self.path, &error))?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}
