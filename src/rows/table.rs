//! CSV: cells and rows by `csv-core`, what they mean by [`Columns`].

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::columns::{Columns, Plan};
use super::{Broken, LONGEST_ROW, Mark, Row, first_of, shown};

/// Columns a table may have.
const MOST_COLUMNS: usize = 10_000;

/// Characters of a column's name: it is written into the JSON of every row.
pub(super) const LONGEST_NAME: usize = 200;

/// A table read so far.
pub struct Table {
    mark: Mark,
    reader: Reader,
    columns: Columns,
    /// What the columns are for, once the heading was read.
    plan: Option<Plan>,
    heading: Vec<String>,
    /// The cells of the row read so far, one behind the other, and where each ends.
    cells: Vec<u8>,
    cells_end: usize,
    ends: Vec<usize>,
    ends_end: usize,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("heading", &self.heading)
            .field("line", &self.reader.line())
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(super) fn new(columns: Columns) -> Self {
        let reader = ReaderBuilder::new().delimiter(columns.delimiter).build();
        Self {
            mark: Mark::default(),
            reader,
            columns,
            plan: None,
            heading: Vec::new(),
            cells: vec![0; 4096],
            cells_end: 0,
            ends: vec![0; 64],
            ends_end: 0,
        }
    }

    pub(super) fn heading(&self) -> &[String] {
        &self.heading
    }

    pub(super) fn feed(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), Broken> {
        let (held, bytes) = self.mark.pass(bytes);
        self.take(held, rows)?;
        self.take(bytes, rows)
    }

    pub(super) fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), Broken> {
        let held = self.mark.rest();
        self.take(held, rows)?;
        // An empty input tells the reader that this was all; it may have a last row without a line's end.
        while self.step(&[], rows)?.0 {}
        if self.plan.is_none() {
            return Err(Broken::new(1, "there is no heading: the first row has to name the columns"));
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let (_, taken) = self.step(bytes, rows)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// One step of the reader: whether there is more to do without more input, and how many bytes it took.
    fn step(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(bool, usize), Broken> {
        let (result, taken, cells, ends) =
            self.reader.read_record(bytes, &mut self.cells[self.cells_end..], &mut self.ends[self.ends_end..]);
        self.cells_end += cells;
        self.ends_end += ends;
        match result {
            ReadRecordResult::InputEmpty => Ok((false, taken)),
            ReadRecordResult::OutputFull => {
                if self.cells.len() >= LONGEST_ROW {
                    return Err(Broken::new(
                        self.line(None),
                        format!(
                            "the row that begins here has more than {LONGEST_ROW} bytes; is a closing quote missing?"
                        ),
                    ));
                }
                self.cells.resize((self.cells.len() * 2).min(LONGEST_ROW), 0);
                Ok((true, taken))
            }
            ReadRecordResult::OutputEndsFull => {
                if self.ends.len() >= MOST_COLUMNS {
                    return Err(Broken::new(self.line(None), format!("a row has more than {MOST_COLUMNS} cells")));
                }
                self.ends.resize((self.ends.len() * 2).min(MOST_COLUMNS), 0);
                Ok((true, taken))
            }
            ReadRecordResult::Record => {
                self.row_ends(taken.checked_sub(1).and_then(|last| bytes.get(last)).copied(), rows)?;
                Ok((true, taken))
            }
            ReadRecordResult::End => Ok((false, taken)),
        }
    }

    /// The line the row in hand begins in, whose last byte so far was `last`.
    fn line(&self, last: Option<u8>) -> u64 {
        let inside = self.cells[..self.cells_end].iter().filter(|byte| **byte == b'\n').count() as u64;
        self.reader.line().saturating_sub(inside + u64::from(last == Some(b'\n'))).max(1)
    }

    fn row_ends(&mut self, last: Option<u8>, rows: &mut Vec<Row>) -> Result<(), Broken> {
        let line = self.line(last);
        let ends = &self.ends[..self.ends_end];
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let cells: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &self.cells[start..*end]).collect();
        match &mut self.plan {
            None => {
                let (heading, plan) = read_heading(&self.columns, line, &cells)?;
                self.heading = heading;
                self.plan = Some(plan);
            }
            Some(plan) => rows.push(row(plan, &self.heading, line, &cells)),
        }
        self.cells_end = 0;
        self.ends_end = 0;
        Ok(())
    }
}

fn read_heading(columns: &Columns, line: u64, cells: &[&[u8]]) -> Result<(Vec<String>, Plan), Broken> {
    let mut heading = Vec::with_capacity(cells.len());
    for cell in cells {
        match std::str::from_utf8(cell) {
            Ok(cell) => heading.push(cell.trim().to_owned()),
            Err(_) => return Err(Broken::new(line, "the heading is no UTF-8; save the input as UTF-8")),
        }
    }
    if let [only] = heading.as_slice()
        && let Some(other) = [';', '\t', '|', ','].into_iter().find(|c| only.contains(*c))
    {
        let name = if other == '\t' { "tab".to_owned() } else { other.to_string() };
        return Err(Broken::new(line, format!("the heading is one column with '{name}' in it: say delimiter={name}")));
    }
    let long = heading.iter().enumerate().filter(|(_, name)| name.chars().count() > LONGEST_NAME);
    let long: Vec<String> = long
        .map(|(index, name)| {
            format!("the heading of column {} has more than {LONGEST_NAME} characters ({})", index + 1, shown(name))
        })
        .collect();
    let plan = if long.is_empty() { columns.plan(&heading) } else { Err(long) };
    let plan = plan.map_err(|faults| Broken { line, faults: first_of(faults) })?;
    Ok((heading, plan))
}

fn row(plan: &mut Plan, heading: &[String], line: u64, cells: &[&[u8]]) -> Row {
    let mut faults = Vec::new();
    let mut texts = Vec::with_capacity(cells.len());
    for (index, cell) in cells.iter().enumerate() {
        match std::str::from_utf8(cell) {
            Ok(text) => texts.push(text.to_owned()),
            Err(error) => {
                let column = heading.get(index).map_or_else(|| format!("cell {}", index + 1), |name| shown(name));
                faults.push(format!(
                    "{column} is no UTF-8 (at its byte {}); save the input as UTF-8",
                    error.valid_up_to() + 1
                ));
                texts.push(String::from_utf8_lossy(cell).into_owned());
            }
        }
    }
    if texts.len() != heading.len() {
        faults.push(format!(
            "the row has {} cells and the heading {}; text with a delimiter or a line's end in it needs quotes around it",
            texts.len(),
            heading.len()
        ));
    }
    let item = if faults.is_empty() { plan.item(&texts) } else { Err(faults) };
    Row { line, item: item.map_err(first_of), cells: texts }
}
