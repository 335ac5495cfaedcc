//! The managed lane's door.

use crate::definition::QueueDefinition;
use crate::item::door::NewItem;
use crate::item::{Item, Kind};
use crate::mirror::{Mirror, MirrorError};

/// What the door said to one item.
#[derive(Debug, Clone)]
pub enum Admission {
    /// A new item.
    Admitted(Box<Item>),
    /// The identity rules say this item is there already.
    Same(Box<Item>),
    /// `Invalid` or `Duplicate`, with every reason. Not kept.
    Refused { kind: Kind, code: &'static str, reasons: Vec<String> },
}

/// Puts one item through the managed lane's checks and into the mirror (the HTTP door; a refusal is the answer and is not kept).
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn enqueue(_mirror: &Mirror, _definition: &QueueDefinition, _new: NewItem) -> Result<Admission, MirrorError> {
    todo!()
}
