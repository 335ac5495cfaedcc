//! Events, from the mirror's outbox to `wq.events`, where anyone may bind a queue.
//!
//! Order of effects, per batch: 1. publish committed events with confirm; 2. commit: take them out of the outbox. A crash
//! between sends them again with the same id: at least once, in order. One that no queue is bound for is done.
//!
//! The form is CloudEvents 1.0 in its AMQP binding, binary mode: attributes are headers named `cloudEvents:...`, the body
//! is JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, LaneError};
use crate::broker::connection::Session;
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::message::{Header, Properties};
use crate::mirror::Tx;
use crate::mirror::control::{WaitingEvent, remove_events};

const BATCH: u32 = 200;

/// Events that nobody was woken for (a former session left them) are found this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Sends events until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; what was not taken out of the outbox is sent again.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let publisher = Publisher::open(&session, context.confirm_timeout).await?;
    let mut publisher = publisher.to_whom_it_may_concern();
    let exchange = context.names.events();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.mirror.until_writable() => {}
        }
        let events = context.mirror.waiting_events(BATCH).await?;
        let Some(last) = events.last().map(|event| event.seq) else {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = context.wakes.events.notified() => continue,
                () = tokio::time::sleep(LOOK_AGAIN) => continue,
            }
        };
        let outgoing: Vec<Outgoing> = events.iter().map(|event| outgoing(event, &exchange)).collect();
        let published = publisher.publish(&outgoing).await?;
        failpoint::reach("events.published").await;
        // A queue that somebody bound and that refuses holds up nobody else: it is theirs.
        let refused = published.iter().filter(|published| **published == Published::Refused).count();
        if refused > 0 {
            tracing::warn!(refused, "a queue bound to wq.events refused events");
        }
        context.mirror.write(move |tx: &mut Tx| Box::pin(async move { remove_events(tx, last).await })).await?;
        failpoint::reach("events.removed").await;
    }
    Ok(())
}

fn outgoing(event: &WaitingEvent, exchange: &str) -> Outgoing {
    let attributes = [
        ("specversion", "1.0".to_owned()),
        ("id", event.id.clone()),
        ("source", "/warrend".to_owned()),
        ("type", format!("warrend.{}", event.kind)),
        ("time", event.at.to_string()),
    ];
    let headers: BTreeMap<String, Header> =
        attributes.into_iter().map(|(name, value)| (format!("cloudEvents:{name}"), Header::Text(value))).collect();
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: event.kind.clone(),
        properties: Properties {
            message_id: Some(event.id.clone()),
            content_type: Some("application/json".to_owned()),
            headers,
            ..Properties::default()
        },
        body: event.body.clone().into_bytes(),
    }
}
