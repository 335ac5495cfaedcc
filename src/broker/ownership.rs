//! Which mirror the queues under a prefix belong to, and how it stood: that lies in `wq.meta`, a queue of one message.
//!
//! Two daemons with two mirrors on one prefix would take each other's reports; the second one is refused.

use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::Value;

use super::connection::Session;
use super::publish::{Outgoing, Published, Publisher};
use super::{BrokerError, answered};
use crate::item::message::Properties;
use crate::topology::names::Names;

/// What lies in `wq.meta`.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The mirror's identity.
    pub mirror: String,
    /// All of it, as the mirror wrote it.
    pub body: Value,
}

/// Makes sure that the queues under this prefix belong to the mirror that would leave `own`, claiming them where they are
/// nobody's. Answers what was there before; `None` where they were nobody's.
///
/// # Errors
/// [`BrokerError::OtherMirror`] where they belong to another one.
pub async fn claim(
    session: &Session,
    names: &Names,
    own: &Note,
    publisher: &mut Publisher,
) -> Result<Option<Note>, BrokerError> {
    let before = read(session, names).await?;
    if before.is_none() {
        write(names, own, publisher).await?;
    }
    // Read again: of two that claim at once one has to see the other.
    match read(session, names).await? {
        Some(note) if note.mirror == own.mirror => Ok(before),
        other => Err(BrokerError::OtherMirror {
            queue: names.meta(),
            owner: other.map_or_else(|| "somebody else".to_owned(), |note| note.mirror),
            identity: own.mirror.clone(),
        }),
    }
}

/// Leaves a note in place of the one that is there, whosever it is.
///
/// # Errors
/// Where the broker does not take it.
pub async fn write(names: &Names, note: &Note, publisher: &mut Publisher) -> Result<(), BrokerError> {
    let outgoing = Outgoing {
        exchange: String::new(),
        routing_key: names.meta(),
        properties: Properties {
            message_id: Some(note.mirror.clone()),
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        },
        body: note.body.to_string().into_bytes(),
    };
    let reason = match publisher.publish(&[outgoing]).await?.pop() {
        Some(Published::Confirmed) => return Ok(()),
        Some(Published::Returned(reason)) => reason,
        Some(Published::Refused) | None => "it was refused".to_owned(),
    };
    Err(BrokerError::NotTaken { key: names.meta(), reason })
}

/// What is there; `None` where nothing is.
///
/// # Errors
/// Where the queue is not there or the connection is gone.
pub async fn read(session: &Session, names: &Names) -> Result<Option<Note>, BrokerError> {
    let operation = || format!("read {}", names.meta());
    let channel = session.consuming_channel().await?;
    let get = channel.basic_get(names.meta().as_str().into(), BasicGetOptions { no_ack: false });
    let Some(got) = answered(operation(), get).await? else { return Ok(None) };
    let body: Value = serde_json::from_slice(&got.delivery.data).unwrap_or_default();
    let mirror = body["mirror"].as_str().unwrap_or("unreadable").to_owned();
    answered(operation(), got.delivery.nack(BasicNackOptions { requeue: true, multiple: false })).await?;
    answered("close a channel", channel.close(200, "done".into())).await?;
    Ok(Some(Note { mirror, body }))
}
