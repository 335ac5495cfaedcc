//! NDJSON by its lines, and a JSON array by its elements. Whether an element is JSON is found out by whoever reads it;
//! here only as much is understood as it takes to find its end.

use super::{Broken, LONGEST_ROW, Mark, Row};

/// JSON in JSON: deeper than anybody's payload, and bounded.
const DEEPEST: usize = 256;

/// NDJSON. A line of any kind is a row, so a bad one costs no other.
#[derive(Debug, Default)]
pub struct Lines {
    mark: Mark,
    /// The line read so far, without its end.
    line: Vec<u8>,
    /// It was longer than a row may be: the rest of it is dropped.
    too_long: bool,
    /// Lines that ended.
    ended: u64,
}

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8], rows: &mut Vec<Row>) {
        let (held, bytes) = self.mark.pass(bytes);
        self.take(held, rows);
        self.take(bytes, rows);
    }

    pub(super) fn finish(&mut self, rows: &mut Vec<Row>) {
        let held = self.mark.rest();
        self.take(held, rows);
        self.end(rows);
    }

    fn take(&mut self, mut bytes: &[u8], rows: &mut Vec<Row>) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..at]);
            self.end(rows);
            bytes = &bytes[at + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.too_long || self.line.len() + bytes.len() > LONGEST_ROW {
            self.too_long = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, rows: &mut Vec<Row>) {
        self.ended += 1;
        if std::mem::take(&mut self.too_long) {
            let fault = format!("the line has more than {LONGEST_ROW} bytes");
            rows.push(Row { line: self.ended, item: Err(vec![fault]), cells: Vec::new() });
        } else if !self.line.trim_ascii().is_empty() {
            rows.push(row(self.ended, &self.line));
        }
        self.line.clear();
    }
}

/// A row of what stands in `bytes`.
fn row(line: u64, bytes: &[u8]) -> Row {
    match std::str::from_utf8(bytes.trim_ascii()) {
        Ok(text) => Row { line, item: Ok(text.to_owned()), cells: Vec::new() },
        Err(error) => {
            let fault = format!("it is no UTF-8 (at its byte {}); save the input as UTF-8", error.valid_up_to() + 1);
            Row { line, item: Err(vec![fault]), cells: vec![String::from_utf8_lossy(bytes.trim_ascii()).into_owned()] }
        }
    }
}

/// A JSON array, element by element.
#[derive(Debug)]
pub struct Array {
    mark: Mark,
    at: Place,
    /// The element read so far.
    element: Vec<u8>,
    /// Where it began.
    began: u64,
    /// Brackets that are open in it.
    open: Vec<u8>,
    string: Text,
    line: u64,
    /// An element has to follow: a comma stands before.
    owed: bool,
}

impl Default for Array {
    fn default() -> Self {
        Self {
            mark: Mark::default(),
            at: Place::Before,
            element: Vec::new(),
            began: 1,
            open: Vec::new(),
            string: Text::Outside,
            line: 1,
            owed: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    Behind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    Escaped,
}

impl Array {
    pub(super) fn feed(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), Broken> {
        let (held, bytes) = self.mark.pass(bytes);
        for byte in held.iter().chain(bytes) {
            self.take(*byte, rows)?;
            if *byte == b'\n' {
                self.line += 1;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        match self.at {
            Place::Behind => Ok(()),
            Place::Before => Err(Broken::new(self.line, "there is no array; write [] for none")),
            Place::Inside => Err(Broken::new(self.line, "the input ends in the middle: the array's ] is missing")),
        }
    }

    fn take(&mut self, byte: u8, rows: &mut Vec<Row>) -> Result<(), Broken> {
        match self.at {
            Place::Inside => return self.inside(byte, rows),
            _ if byte.is_ascii_whitespace() => {}
            Place::Before if byte == b'[' => self.at = Place::Inside,
            Place::Before => return Err(self.broken("this is no JSON array: it has to begin with [")),
            Place::Behind => return Err(self.broken("something stands behind the array's ]")),
        }
        Ok(())
    }

    fn inside(&mut self, byte: u8, rows: &mut Vec<Row>) -> Result<(), Broken> {
        match self.string {
            Text::Escaped => self.string = Text::Inside,
            Text::Inside => match byte {
                b'\\' => self.string = Text::Escaped,
                b'"' => self.string = Text::Outside,
                _ => {}
            },
            Text::Outside => match byte {
                b'"' => self.string = Text::Inside,
                b'{' | b'[' => {
                    if self.open.len() == DEEPEST {
                        return Err(self.broken(format!("brackets stand in one another more than {DEEPEST} deep")));
                    }
                    self.open.push(byte);
                }
                b'}' | b']' => {
                    let opened = if byte == b'}' { b'{' } else { b'[' };
                    match self.open.pop() {
                        Some(open) if open == opened => {}
                        None if byte == b']' => return self.end(rows),
                        _ => return Err(self.broken(format!("a {} closes nothing that is open", char::from(byte)))),
                    }
                }
                b',' if self.open.is_empty() => {
                    if self.element.is_empty() {
                        return Err(self.broken("an element is missing before a comma"));
                    }
                    self.element_ends(rows);
                    self.owed = true;
                    return Ok(());
                }
                _ if byte.is_ascii_whitespace() && self.element.is_empty() => return Ok(()),
                _ => {}
            },
        }
        if self.element.is_empty() {
            self.began = self.line;
        }
        if self.element.len() == LONGEST_ROW {
            return Err(
                self.broken(format!("an element has more than {LONGEST_ROW} bytes; is a quote or bracket missing?"))
            );
        }
        self.element.push(byte);
        Ok(())
    }

    fn end(&mut self, rows: &mut Vec<Row>) -> Result<(), Broken> {
        if self.element.is_empty() {
            if self.owed {
                return Err(self.broken("an element is missing behind a comma"));
            }
        } else {
            self.element_ends(rows);
        }
        self.at = Place::Behind;
        Ok(())
    }

    fn element_ends(&mut self, rows: &mut Vec<Row>) {
        rows.push(row(self.began, &self.element));
        self.element.clear();
        self.owed = false;
    }

    fn broken(&self, fault: impl Into<String>) -> Broken {
        Broken::new(self.line, fault)
    }
}
