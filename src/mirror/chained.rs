//! Which ends of items made an item in another queue, and what that takes along (lanes::chain).

use std::collections::{HashMap, HashSet};

use sqlx::Row as _;

use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx};
use crate::item::ItemId;

/// An attempt of an item and what it ended as, in the mirror's word.
pub type End = (ItemId, u32, String);

static ENDS: Many =
    Many::new(|places| format!("SELECT parent, attempt, reason FROM chained WHERE parent IN ({})", many::list(places)));
static NOTE: Many = Many::new(|places| many::insert("chained", "parent, attempt, reason, child", places));
static PAYLOADS: Many = Many::new(|places| {
    format!(
        "SELECT items.id, payloads.body FROM items CROSS JOIN payloads WHERE items.id IN ({}) \
         AND payloads.seq = items.seq",
        many::list(places)
    )
});
static COPY: Many = Many::new(|places| {
    format!(
        "INSERT INTO payloads (seq, body) SELECT child.seq, payloads.body FROM {} AS copies \
         CROSS JOIN items AS child CROSS JOIN items AS parent CROSS JOIN payloads \
         WHERE child.id = copies.column1 AND parent.id = copies.column2 AND payloads.seq = parent.seq",
        many::values(places, 2)
    )
});
static CHILDREN: Many = Many::new(children_sql);

/// Each is found by its parent: what an end found to be there already, and what it made.
pub(super) fn children_sql(places: usize) -> String {
    format!(
        "SELECT asked.column1, chained.child FROM {} AS asked CROSS JOIN chained WHERE chained.parent = asked.column1 \
         UNION SELECT items.parent, items.id FROM {} AS asked CROSS JOIN items WHERE items.parent = asked.column1 \
         ORDER BY 2",
        many::values(places, 1),
        many::values(places, 1)
    )
}

/// The ends of these items that have chained.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn ends(tx: &mut Tx, parents: &HashSet<ItemId>) -> Result<HashSet<End>, MirrorError> {
    let parents: Vec<ItemId> = parents.iter().copied().collect();
    let mut ends = HashSet::new();
    for parents in parents.chunks(many::MOST) {
        let query = parents.iter().fold(ENDS.query(parents.len()), |query, parent| query.bind(parent.to_string()));
        for row in query.fetch_all(&mut *tx).await.map_err(failed("look chained items up"))? {
            let attempt = row.try_get(1).map_err(failed("look chained items up"))?;
            let reason = row.try_get(2).map_err(failed("look chained items up"))?;
            ends.insert((id(&row, 0)?, attempt, reason));
        }
    }
    Ok(ends)
}

/// Notes that these ends have chained, each with the item that it made or found.
///
/// # Errors
/// Where SQL fails; an end that has chained before is such a failure.
pub async fn note(tx: &mut Tx, ends: &[(End, ItemId)]) -> Result<(), MirrorError> {
    for rows in ends.chunks(many::MOST) {
        let mut query = NOTE.query(rows.len());
        for ((parent, attempt, reason), child) in rows {
            query = query.bind(parent.to_string()).bind(attempt).bind(reason).bind(child.to_string());
        }
        query.execute(&mut *tx).await.map_err(failed("chain items"))?;
    }
    Ok(())
}

/// The payloads of these items, as far as they are there. Who asks sees to it that they are not too many bytes.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn payloads(tx: &mut Tx, items: &[ItemId]) -> Result<HashMap<ItemId, Vec<u8>>, MirrorError> {
    let mut payloads = HashMap::new();
    for items in items.chunks(many::MOST) {
        let query = items.iter().fold(PAYLOADS.query(items.len()), |query, item| query.bind(item.to_string()));
        for row in query.fetch_all(&mut *tx).await.map_err(failed("read payloads"))? {
            payloads.insert(id(&row, 0)?, row.try_get(1).map_err(failed("read payloads"))?);
        }
    }
    Ok(payloads)
}

/// Gives each first item a copy of the second one's payload. Both are there, and the first has none.
///
/// # Errors
/// Where SQL fails.
pub async fn copy_payloads(tx: &mut Tx, copies: &[(ItemId, ItemId)]) -> Result<(), MirrorError> {
    for rows in copies.chunks(many::MOST) {
        let mut query = COPY.query(rows.len());
        for (to, from) in rows {
            query = query.bind(to.to_string()).bind(from.to_string());
        }
        query.execute(&mut *tx).await.map_err(failed("copy payloads"))?;
    }
    Ok(())
}

impl Mirror {
    /// The items that ends of this item made or found, oldest first.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn children_of(&self, parent: ItemId) -> Result<Vec<ItemId>, MirrorError> {
        Ok(self.children(&[parent]).await?.remove(&parent).unwrap_or_default())
    }

    /// The same of several, by parent; those without any are left out.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn children(&self, parents: &[ItemId]) -> Result<HashMap<ItemId, Vec<ItemId>>, MirrorError> {
        let mut children: HashMap<ItemId, Vec<ItemId>> = HashMap::new();
        for parents in parents.chunks(many::MOST) {
            // The statement asks twice for the same, and unbound places of the first list would take the second's.
            let mut padded: Vec<Option<String>> = parents.iter().map(|parent| Some(parent.to_string())).collect();
            padded.resize(many::places(parents.len()), None);
            let query = CHILDREN.query(parents.len());
            let query = padded.iter().chain(&padded).fold(query, sqlx::query::Query::bind);
            for row in query.fetch_all(self.views()).await.map_err(self.failed("look children up"))? {
                children.entry(id(&row, 0)?).or_default().push(id(&row, 1)?);
            }
        }
        Ok(children)
    }
}

fn id(row: &sqlx::sqlite::SqliteRow, index: usize) -> Result<ItemId, MirrorError> {
    let text: &str = row.try_get(index).map_err(failed("look chained items up"))?;
    text.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{text}'")))
}
