//! Items: one, a filtered page of them, their timelines and payloads.

use std::borrow::Cow;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{ItemCursor, MAX_PAGE, Page, Sort, failed};
use crate::item::timeline::Line;
use crate::item::{Item, ItemId, Kind, State, Timestamp};
use crate::mirror::row::{ITEM_COLUMNS, item_from_row, time_from_micros};
use crate::mirror::{Mirror, MirrorError};

/// Lists that one statement puts together, at most: SQLite takes five hundred.
const MOST_PARTS: usize = 400;

/// The one state that has kinds.
const EXCEPTION: &str = "exception";

/// Which items a list shows: those that meet everything that is given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ItemFilter {
    /// Key of the queue.
    pub queue: Option<String>,
    /// Keys of the queues it may be about at all; `None`: every one.
    pub within: Option<Vec<String>>,
    /// State words ([`crate::item::State::WORDS`]), any of them.
    pub states: Vec<&'static str>,
    /// Exception kinds, any of them.
    pub kinds: Vec<Kind>,
    /// Exactly this reference.
    pub reference: Option<String>,
    /// Labels with their values, all of them.
    pub labels: Vec<(String, String)>,
    /// Due before this moment; items without a due time do not meet it.
    pub due: Option<Timestamp>,
    /// Enqueued or changed at or after this moment.
    pub since: Option<Timestamp>,
    /// Part of the reference, name, reason or code; ASCII letters in either case.
    pub q: Option<String>,
}

/// What an item carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl Mirror {
    /// The item of this id.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn item(&self, id: ItemId) -> Result<Option<Item>, MirrorError> {
        let mut query = select_items("");
        query.push("WHERE id = ").push_bind(id.to_string());
        let row = query.build().fetch_optional(self.views()).await.map_err(self.failed("read an item"))?;
        row.as_ref().map(item_from_row).transpose()
    }

    /// The queue of this item; `None` where there is no such item.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn queue_of(&self, id: ItemId) -> Result<Option<String>, MirrorError> {
        let query = sqlx::query_scalar("SELECT queue FROM items WHERE id = $1").bind(id.to_string());
        query.fetch_optional(self.views()).await.map_err(self.failed("read an item"))
    }

    /// One page of at most `limit` (1..=[`MAX_PAGE`]) items that meet `filter`, starting behind `after`.
    ///
    /// A cursor brings its own order, which goes over `sort`: a list continues in the order it began.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn items(
        &self,
        filter: &ItemFilter,
        sort: Sort,
        limit: u32,
        after: Option<ItemCursor>,
    ) -> Result<Page<Item, ItemCursor>, MirrorError> {
        let sort = after.map_or(sort, |cursor| cursor.sort);
        let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
        // One more than asked for tells whether there is a next page.
        let mut query = list(filter, sort, i64::try_from(limit + 1).unwrap_or(i64::MAX), after);

        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("list items"))?;
        let next = match rows.get(limit - 1) {
            Some(last) if rows.len() > limit => Some(cursor_of(sort, last)?),
            _ => None,
        };
        let items = rows.iter().take(limit).map(item_from_row).collect::<Result<_, _>>()?;
        Ok(Page { items, next })
    }

    /// What happened to an item, oldest first; empty for an unknown one.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn timeline(&self, id: ItemId) -> Result<Vec<Line>, MirrorError> {
        let rows = sqlx::query(
            "SELECT revision, at, actor, user, event, why, attempt, state, ended FROM timeline WHERE item = $1 ORDER BY revision",
        )
        .bind(id.to_string())
        .fetch_all(self.views())
        .await
        .map_err(self.failed("read a timeline"))?;
        rows.iter().map(|row| line_from_row(id, row)).collect()
    }

    /// What an item carries; `None` where there is no such item or its payload is not known (a stub).
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn payload(&self, id: ItemId) -> Result<Option<Payload>, MirrorError> {
        let row: Option<(Option<String>, Vec<u8>)> = sqlx::query_as(
            "SELECT content_type, body FROM items JOIN payloads ON payloads.seq = items.seq WHERE items.id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(self.views())
        .await
        .map_err(self.failed("read a payload"))?;
        Ok(row.map(|(content_type, body)| Payload { content_type, body }))
    }
}

fn select_items(more: &str) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(more).push(ITEM_COLUMNS).push(" FROM items ");
    query
}

/// The statement that answers a page of `rows` rows.
///
/// By `seq` it never sorts: each state is read in that order from an index of its own, as far as a page needs, and the
/// page is put together from those. Left to itself, SQLite would fetch and sort every item of a queue for one page.
pub(super) fn list(filter: &ItemFilter, sort: Sort, rows: i64, after: Option<ItemCursor>) -> QueryBuilder<Sqlite> {
    let order = match sort {
        Sort::Newest => " ORDER BY seq DESC LIMIT ",
        Sort::Oldest => " ORDER BY seq LIMIT ",
        Sort::Priority => " ORDER BY priority DESC, seq LIMIT ",
        Sort::Due => " ORDER BY due_at IS NULL, due_at, seq LIMIT ",
    };
    let by_seq = matches!(sort, Sort::Newest | Sort::Oldest);
    let queues = filter.possible_queues();
    let by_state = by_seq
        && filter.reference.is_none()
        && (queues != [None] || filter.names_states())
        && queues.len() * State::WORDS.len() <= MOST_PARTS;
    let mut query = select_items("seq, ");
    if by_state {
        query.push("WHERE seq IN (SELECT NULL WHERE 1 = 0");
        for state in filter.possible_states() {
            for queue in &queues {
                query.push(" UNION ALL SELECT seq FROM (SELECT seq FROM items WHERE state = ").push_bind(state);
                if let Some(queue) = queue {
                    query.push(" AND queue = ").push_bind((*queue).clone());
                }
                push_filter(&mut query, filter, after);
                query.push(order).push_bind(rows).push(")");
            }
        }
        query.push(")");
    } else {
        query.push("WHERE 1 = 1");
        push_any(&mut query, "state", filter.states.iter().copied());
        if let Some(queue) = &filter.queue {
            query.push(" AND queue = ").push_bind(queue.clone());
        }
        if let Some(within) = &filter.within {
            push_keys(&mut query, within);
        }
        push_filter(&mut query, filter, after);
    }
    query.push(order).push_bind(rows);
    query
}

impl ItemFilter {
    const fn names_states(&self) -> bool {
        !self.states.is_empty() || !self.kinds.is_empty()
    }

    /// The queues an item may be in that meets the filter; one `None` for any.
    fn possible_queues(&self) -> Vec<Option<&String>> {
        match (&self.queue, &self.within) {
            (queue, None) => vec![queue.as_ref()],
            (Some(queue), Some(within)) => within.iter().filter(|key| *key == queue).map(Some).collect(),
            (None, Some(within)) => within.iter().map(Some).collect(),
        }
    }

    /// The states an item may be in that meets the filter.
    fn possible_states(&self) -> Vec<&'static str> {
        let named = |state: &&str| {
            let by_state = self.states.is_empty() || self.states.contains(state);
            by_state && (self.kinds.is_empty() || *state == EXCEPTION)
        };
        State::WORDS.into_iter().filter(named).collect()
    }
}

/// Everything the filter asks for but states and queues, and the place of the cursor.
fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &ItemFilter, after: Option<ItemCursor>) {
    if let Some(cursor) = after {
        push_cursor(query, cursor);
    }
    push_any(query, "kind", filter.kinds.iter().map(|kind| kind.word()));
    if let Some(reference) = &filter.reference {
        query.push(" AND reference = ").push_bind(reference.clone());
    }
    for (name, value) in &filter.labels {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ").push_bind(name.clone());
        query.push(" AND label.value = ").push_bind(value.clone()).push(")");
    }
    if let Some(due) = filter.due {
        query.push(" AND due_at < ").push_bind(due.as_microsecond());
    }
    if let Some(since) = filter.since {
        let since = since.as_microsecond();
        query.push(" AND (enqueued_at >= ").push_bind(since);
        query.push(" OR EXISTS (SELECT 1 FROM timeline WHERE timeline.item = items.id AND timeline.at >= ");
        query.push_bind(since).push("))");
    }
    if let Some(part) = &filter.q {
        let pattern = like_pattern(part);
        for (column, joint) in [("reference", " AND ("), ("name", " OR "), ("reason", " OR "), ("code", " OR ")] {
            query
                .push(joint)
                .push("LOWER(")
                .push(column)
                .push(") LIKE ")
                .push_bind(pattern.clone())
                .push(r" ESCAPE '\'");
        }
        query.push(")");
    }
}

fn push_any(query: &mut QueryBuilder<Sqlite>, column: &str, words: impl Iterator<Item = &'static str>) {
    let mut words = words.peekable();
    if words.peek().is_none() {
        return;
    }
    query.push(" AND ").push(column).push(" IN (");
    let mut list = query.separated(", ");
    for word in words {
        list.push_bind(word);
    }
    query.push(")");
}

/// Leaves only rows of these queues.
pub(super) fn push_keys(query: &mut QueryBuilder<Sqlite>, keys: &[String]) {
    // One text for any number of keys: there is a limit to what can be bound.
    query.push(" AND queue IN (SELECT value FROM json_each(").push_bind(serde_json::json!(keys).to_string()).push("))");
}

/// `%part%`, with what LIKE would take as wildcards made plain.
fn like_pattern(part: &str) -> String {
    let mut pattern = String::from("%");
    for c in part.to_ascii_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Leaves only rows behind the cursor's in its order.
fn push_cursor(query: &mut QueryBuilder<Sqlite>, ItemCursor { sort, key, seq }: ItemCursor) {
    match (sort, key) {
        (Sort::Newest, _) => query.push(" AND seq < ").push_bind(seq),
        (Sort::Oldest, _) => query.push(" AND seq > ").push_bind(seq),
        (Sort::Priority, key) => {
            let key = key.unwrap_or(0);
            query.push(" AND (priority < ").push_bind(key).push(" OR (priority = ").push_bind(key);
            query.push(" AND seq > ").push_bind(seq).push("))")
        }
        (Sort::Due, Some(due)) => {
            query.push(" AND (due_at IS NULL OR due_at > ").push_bind(due).push(" OR (due_at = ").push_bind(due);
            query.push(" AND seq > ").push_bind(seq).push("))")
        }
        (Sort::Due, None) => query.push(" AND due_at IS NULL AND seq > ").push_bind(seq),
    };
}

fn cursor_of(sort: Sort, row: &SqliteRow) -> Result<ItemCursor, MirrorError> {
    let listed = failed("list items");
    let key = match sort {
        Sort::Newest | Sort::Oldest => None,
        Sort::Priority => row.try_get("priority").map_err(&listed)?,
        Sort::Due => row.try_get("due_at").map_err(&listed)?,
    };
    Ok(ItemCursor { sort, key, seq: row.try_get("seq").map_err(&listed)? })
}

pub(super) fn line_from_row(id: ItemId, row: &SqliteRow) -> Result<Line, MirrorError> {
    let unreadable = |error: sqlx::Error| MirrorError::Unreadable(format!("the timeline of item {id}: {error}"));
    let at: i64 = row.try_get("at").map_err(unreadable)?;
    let ended: Option<String> = row.try_get("ended").map_err(unreadable)?;
    Ok(Line {
        revision: row.try_get("revision").map_err(unreadable)?,
        at: time_from_micros(at)
            .ok_or_else(|| MirrorError::Unreadable(format!("the timeline of item {id}: {at} is no time")))?,
        actor: row.try_get("actor").map_err(unreadable)?,
        user: row.try_get("user").map_err(unreadable)?,
        event: Cow::Owned(row.try_get("event").map_err(unreadable)?),
        why: row.try_get("why").map_err(unreadable)?,
        attempt: row.try_get("attempt").map_err(unreadable)?,
        state: row.try_get("state").map_err(unreadable)?,
        ended: ended
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| MirrorError::Unreadable(format!("the timeline of item {id}: {error}")))?,
    })
}
