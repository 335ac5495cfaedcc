//! Statements about many rows. Their texts are few and never change, so that SQLite parses and plans each once: a
//! statement has places for some numbers of rows, and the places that are not bound are null.

use std::sync::{Arc, OnceLock};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite};

/// Rows that one statement may be about.
pub(super) const MOST: usize = 256;

/// The places for rows that texts have. A place costs little, another statement a way to SQLite's thread and back.
const PLACES: [usize; 4] = [1, 16, 64, MOST];

/// Texts the writer's connection keeps prepared: more than there are.
pub(super) const PREPARED: usize = 256;

/// A statement in its texts. Its rows are bound last, and it has to pass over those that are null.
pub(super) struct Many {
    write: fn(places: usize) -> String,
    written: [OnceLock<Arc<str>>; PLACES.len()],
}

impl Many {
    /// `write` answers the text with places for so many rows.
    pub(super) const fn new(write: fn(places: usize) -> String) -> Self {
        Self { write, written: [const { OnceLock::new() }; PLACES.len()] }
    }

    /// The statement with places for so many rows, at most [`MOST`].
    pub(super) fn query(&self, rows: usize) -> Query<'static, Sqlite, SqliteArguments> {
        let index = PLACES.iter().position(|places| rows <= *places).unwrap_or(PLACES.len() - 1);
        let text = self.written[index].get_or_init(|| (self.write)(PLACES[index]).into());
        sqlx::query(AssertSqlSafe(Arc::clone(text)))
    }
}

/// The places that the text for so many rows has.
pub(super) fn places(rows: usize) -> usize {
    PLACES.into_iter().find(|places| rows <= *places).unwrap_or(MOST)
}

/// `(VALUES (?, ?), (?, ?), ...)`: the rows of a statement; their columns are `column1`, `column2` and so on.
pub(super) fn values(places: usize, columns: usize) -> String {
    let row = format!("({})", list(columns));
    format!("(VALUES {})", vec![row.as_str(); places].join(", "))
}

/// `?, ?, ...`
pub(super) fn list(places: usize) -> String {
    vec!["?"; places].join(", ")
}

/// `INSERT INTO into (columns)` of rows whose first column is never null.
pub(super) fn insert(into: &str, columns: &str, places: usize) -> String {
    let values = values(places, columns.split(',').count());
    format!("INSERT INTO {into} ({columns}) SELECT * FROM {values} WHERE column1 IS NOT NULL")
}

#[cfg(test)]
mod tests {
    use sqlx::Execute as _;

    use super::*;

    #[test]
    fn texts_are_few_and_have_a_place_for_every_row() {
        static LIST: Many = Many::new(|places| format!("SELECT 1 WHERE 1 IN ({})", list(places)));
        let places = |rows| LIST.query(rows).sql().as_str().matches('?').count();
        for (rows, expected) in [(1, 1), (2, 16), (16, 16), (17, 64), (65, 256), (MOST, 256)] {
            assert_eq!(places(rows), expected, "{rows}");
        }
    }

    #[test]
    fn places_that_are_not_bound_are_passed_over() {
        assert_eq!(
            insert("t", "a, b", 2),
            "INSERT INTO t (a, b) SELECT * FROM (VALUES (?, ?), (?, ?)) WHERE column1 IS NOT NULL"
        );
    }
}
