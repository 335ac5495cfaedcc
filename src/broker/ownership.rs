//! Which mirror the queues under a prefix belong to: its identity lies in `wq.meta`, a queue of one message.
//!
//! Two daemons with two mirrors on one prefix would take each other's reports; the second one is refused.

use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::{Value, json};

use super::connection::Session;
use super::publish::{Outgoing, Publisher};
use super::{BrokerError, answered};
use crate::item::message::Properties;
use crate::topology::names::Names;

/// Makes sure that the queues under this prefix belong to the mirror of this identity, claiming them where they are
/// nobody's.
///
/// # Errors
/// [`BrokerError::OtherMirror`] where they belong to another one.
pub async fn claim(
    session: &Session,
    names: &Names,
    identity: &str,
    publisher: &mut Publisher,
) -> Result<(), BrokerError> {
    if owner(session, names).await?.is_none() {
        let outgoing = Outgoing {
            exchange: String::new(),
            routing_key: names.meta(),
            properties: Properties {
                message_id: Some(identity.to_owned()),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
            body: json!({ "mirror": identity }).to_string().into_bytes(),
        };
        publisher.publish(&[outgoing]).await?;
    }
    // Read again: of two that claim at once one has to see the other.
    match owner(session, names).await? {
        Some(owner) if owner == identity => Ok(()),
        other => Err(BrokerError::OtherMirror {
            queue: names.meta(),
            owner: other.unwrap_or_else(|| "somebody else".to_owned()),
            identity: identity.to_owned(),
        }),
    }
}

async fn owner(session: &Session, names: &Names) -> Result<Option<String>, BrokerError> {
    let operation = || format!("read {}", names.meta());
    let channel = session.consuming_channel().await?;
    let get = channel.basic_get(names.meta().as_str().into(), BasicGetOptions { no_ack: false });
    let Some(got) = answered(operation(), get).await? else { return Ok(None) };
    let body: Option<Value> = serde_json::from_slice(&got.delivery.data).ok();
    let owner = body.as_ref().and_then(|body| body["mirror"].as_str()).unwrap_or("unreadable").to_owned();
    answered(operation(), got.delivery.nack(BasicNackOptions { requeue: true, multiple: false })).await?;
    answered("close a channel", channel.close(200, "done".into())).await?;
    Ok(Some(owner))
}
