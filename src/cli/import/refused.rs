//! Rows that were not taken, as a file to repair and import again: CSV where they were CSV, else NDJSON.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::super::exit::Failed;
use super::super::journal::{self, cannot};
use super::on_one_line;
use crate::rows::columns::REFUSED;
use crate::rows::{Row, write};

/// Made with the first row that goes into it.
pub(super) struct Refused {
    pub path: PathBuf,
    file: Option<File>,
    /// How far it is good.
    pub bytes: u64,
    heading: Vec<String>,
    /// What stands between the cells of the source, and so of this.
    delimiter: char,
}

/// A row that came as JSON, with every digit and member it had.
#[derive(Serialize)]
struct Kept<'r> {
    line: u64,
    code: &'r str,
    reasons: &'r [String],
    row: &'r RawValue,
}

impl Refused {
    /// Goes on behind so many bytes of an earlier run; with none it begins anew.
    pub(super) fn new(path: PathBuf, bytes: u64, delimiter: char) -> Result<Self, Failed> {
        let file = if bytes == 0 {
            journal::remove(&path)?;
            None
        } else {
            Some(journal::open_behind(&path, bytes, "--again begins anew")?)
        };
        Ok(Self { path, file, bytes, heading: Vec::new(), delimiter })
    }

    /// The heading of the table that the rows come from; none for others.
    pub(super) fn heading(&mut self, heading: &[String]) {
        if self.heading.is_empty() {
            self.heading = heading.to_vec();
        }
    }

    pub(super) fn add(&mut self, row: &Row, code: &str, reasons: &[String]) -> Result<(), Failed> {
        let text = if self.heading.is_empty() {
            as_json(row, code, reasons).map_err(|error| cannot("write", &self.path, &error.into()))?
        } else {
            self.as_cells(row, code, reasons)
        };
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(journal::open_behind(&self.path, 0, "--again begins anew")?),
        };
        file.write_all(text.as_bytes()).map_err(|error| cannot("write", &self.path, &error))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// What a journal says of it from now on outlives a power cut.
    pub(super) fn sync(&self) -> Result<(), Failed> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(|error| cannot("write", &self.path, &error))
    }

    fn as_cells(&self, row: &Row, code: &str, reasons: &[String]) -> String {
        let mut text = String::new();
        if self.bytes == 0 {
            write::line(self.heading.iter().map(String::as_str).chain(REFUSED), self.delimiter, &mut text);
        }
        let mut cells = row.cells.clone();
        // A row with too few cells keeps ours in their columns.
        cells.resize(cells.len().max(self.heading.len()), String::new());
        cells.extend([row.line.to_string(), code.to_owned(), write::guarded(reasons.join("; "))]);
        write::line(cells, self.delimiter, &mut text);
        text
    }
}

fn as_json(row: &Row, code: &str, reasons: &[String]) -> serde_json::Result<String> {
    let item = match &row.item {
        Ok(item) => item.as_str(),
        Err(_) => row.cells.first().map_or("null", String::as_str),
    };
    let text;
    let row_of = match (&row.item, serde_json::from_str::<&RawValue>(item)) {
        (Ok(_), Ok(json)) => json,
        (Err(_), Ok(json)) if row.cells.is_empty() => json,
        // What is no JSON is kept as a text.
        _ => {
            text = to_raw_value(item)?;
            &*text
        }
    };
    let line = serde_json::to_string(&Kept { line: row.line, code, reasons, row: row_of })?;
    Ok(on_one_line(&line).chain(['\n']).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64, item: Result<&str, &str>, cells: &[&str]) -> Row {
        let item = item.map(str::to_owned).map_err(|fault| vec![fault.to_owned()]);
        Row { line, item, cells: cells.iter().map(|cell| (*cell).to_owned()).collect() }
    }

    #[test]
    fn json_comes_back_with_every_digit_and_member() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let mut refused = Refused::new(path.clone(), 0, ',').ok().unwrap();
        let reasons = ["no".to_owned()];
        let items = [
            row(1, Ok("{\"z\": 12.10,\n\"a\": 12345678901234567890123, \"a\": \"x\\ny\"}"), &[]),
            row(4, Ok("{nonsense"), &[]),
            row(5, Err("it is no UTF-8"), &["{\"a\": \u{fffd}}"]),
            row(6, Err("too long"), &[]),
        ];
        for item in &items {
            refused.add(item, "schema", &reasons).ok().unwrap();
        }
        refused.sync().ok().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<&str> = text.lines().map(|line| line.split_once("\"row\":").unwrap().1).collect();
        assert_eq!(
            rows,
            [
                "{\"z\": 12.10, \"a\": 12345678901234567890123, \"a\": \"x\\ny\"}}",
                "\"{nonsense\"}",
                "\"{\\\"a\\\": \u{fffd}}\"}",
                "null}"
            ]
        );
        assert!(text.starts_with("{\"line\":1,\"code\":\"schema\",\"reasons\":[\"no\"],"), "{text}");
        assert_eq!(refused.bytes, text.len() as u64);
    }

    #[test]
    fn tables_keep_their_delimiter_and_a_file_that_was_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.csv");
        let begin = |bytes| Refused::new(path.clone(), bytes, ';');
        let mut refused = begin(0).ok().unwrap();
        let heading = ["no", "n"].map(str::to_owned);
        refused.heading(&heading);
        refused.add(&row(2, Ok("{}"), &["a;b", "1,5"]), "c", &["no; never".to_owned()]).ok().unwrap();
        let whole = refused.bytes;
        let text = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(text(), "no;n;refused_line;refused_code;refused_reasons\r\n\"a;b\";1,5;2;c;\"no; never\"\r\n");
        // What the journal does not know is cut away, and nothing is made up where the file is too short or gone.
        refused.add(&row(3, Ok("{}"), &["x", "y"]), "c", &[]).ok().unwrap();
        let mut again = begin(whole).ok().unwrap();
        again.heading(&heading);
        again.add(&row(4, Ok("{}"), &["z", "0"]), "c", &[]).ok().unwrap();
        assert!(text().ends_with("never\"\r\nz;0;4;c;\r\n"), "{}", text());
        let failed = begin(again.bytes + 1).err().unwrap();
        assert!(failed.message.contains("shorter than the journal says; --again begins anew"), "{}", failed.message);
        std::fs::remove_file(&path).unwrap();
        assert!(begin(whole).is_err());
        assert!(!path.exists());
    }
}
