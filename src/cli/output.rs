//! Results on standard output: tables for people, JSON and CSV for programs.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::exit::Failed;

/// The form of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For reading
    Table,
    /// Everything, for programs
    Json,
    /// Every field, for spreadsheets
    Csv,
}

/// Characters of one cell of a table; longer texts are cut, and whole in the other forms.
const WIDEST_CELL: usize = 60;

/// A column: its heading, and the cell of one entry.
pub(super) struct Column {
    pub title: &'static str,
    pub cell: fn(&Value) -> String,
}

pub(super) fn print(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Bytes as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// A list (`{items, next}`) in the form asked for: `columns` make the table, `fields` the CSV.
pub(super) fn print_list(list: &Value, output: Output, columns: &[Column], fields: &[&str]) -> Result<(), Failed> {
    let entries = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    match output {
        Output::Table => print(&table(columns, entries)),
        Output::Json => print(&json(list)),
        Output::Csv => print(&csv(fields, entries)),
    }?;
    if let (Output::Table | Output::Csv, Some(next)) = (output, list["next"].as_str()) {
        let _ = writeln!(std::io::stderr(), "there is more: --cursor {next}");
    }
    Ok(())
}

pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Columns without lines between them, so that cutting and grepping work.
pub(super) fn table(columns: &[Column], entries: &[Value]) -> String {
    let rows = entries.iter().map(|entry| columns.iter().map(|column| tame(&(column.cell)(entry))).collect());
    grid(columns.iter().map(|column| column.title.to_owned()).collect(), rows)
}

/// Fields of one thing below each other; what is null or empty is left out.
pub(super) fn pairs(fields: &[&str], entry: &Value) -> String {
    let rows = fields.iter().map(|name| vec![(*name).to_owned(), one_line(&text(&entry[*name]))]);
    grid(Vec::new(), rows.filter(|row| !row[1].is_empty() && row[1] != "[]" && row[1] != "{}"))
}

fn grid(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt().lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

/// RFC 4180, one line per entry and a heading.
pub(super) fn csv(fields: &[&str], entries: &[Value]) -> String {
    let heading = fields.join(",") + "\r\n";
    let lines = entries.iter().map(|entry| {
        let cells: Vec<String> = fields.iter().map(|name| quoted(&text(&entry[*name]))).collect();
        cells.join(",") + "\r\n"
    });
    std::iter::once(heading).chain(lines).collect()
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

/// A value in one cell: texts as they are, null as nothing, the rest as JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line without control characters: what producers and robots write must not steer a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One line that fits a column.
fn tame(text: &str) -> String {
    let line = one_line(text);
    if line.chars().count() <= WIDEST_CELL {
        return line;
    }
    line.chars().take(WIDEST_CELL).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 2] = [
        Column { title: "NAME", cell: |entry| text(&entry["name"]) },
        Column { title: "N", cell: |entry| text(&entry["n"]) },
    ];

    #[test]
    fn tables_are_plain_columns() {
        let entries = [json!({"name": "a\u{1b}[31m\nb", "n": 1}), json!({"name": "x".repeat(99), "n": null})];
        let long = "x".repeat(60);
        assert_eq!(
            table(&COLUMNS, &entries),
            format!("NAME{}N\na [31m b{}1\n{long}…\n", " ".repeat(59), " ".repeat(55))
        );
        assert_eq!(table(&COLUMNS, &[]), "NAME  N\n");
    }

    #[test]
    fn pairs_leave_out_what_is_absent() {
        let entry = json!({"name": "a", "n": null, "list": []});
        assert_eq!(pairs(&["name", "n", "list"], &entry), "name  a\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let entries = [json!({"name": "a \"b\", c\n", "n": {"k": 1}}), json!({"name": null, "n": true})];
        assert_eq!(csv(&["name", "n"], &entries), "name,n\r\n\"a \"\"b\"\", c\n\",\"{\"\"k\"\":1}\"\r\n,true\r\n");
    }
}
