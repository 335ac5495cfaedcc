//! CSV, written as RFC 4180 has it, with a delimiter of one's own.

/// Adds a row of cells.
pub fn line<C: AsRef<str>>(cells: impl IntoIterator<Item = C>, delimiter: char, out: &mut String) {
    for (n, cell) in cells.into_iter().enumerate() {
        let cell = cell.as_ref();
        if n > 0 {
            out.push(delimiter);
        }
        if cell.contains([delimiter, '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}

/// What spreadsheets take for a formula where a cell begins with it.
const FORMULAS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A text that no spreadsheet takes for a formula: with a `'` in front where it would.
#[must_use]
pub fn guarded(text: String) -> String {
    if text.starts_with(FORMULAS) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_have_to_be() {
        let mut out = String::new();
        line(["a", "b,c", "say \"x\"", "two\nlines", ""], ',', &mut out);
        line(Vec::<String>::new(), ',', &mut out);
        line(["b,c", "d;e"], ';', &mut out);
        assert_eq!(out, "a,\"b,c\",\"say \"\"x\"\"\",\"two\nlines\",\r\n\r\nb,c;\"d;e\"\r\n");
    }

    #[test]
    fn formulas_become_texts() {
        for (text, shown) in [
            ("=HYPERLINK(\"x\")", "'=HYPERLINK(\"x\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x", "'@x"),
            ("\tx", "'\tx"),
            ("\rx", "'\rx"),
            ("a=b", "a=b"),
            ("'=x", "'=x"),
            ("", ""),
        ] {
            assert_eq!(guarded(text.to_owned()), shown);
        }
    }
}
