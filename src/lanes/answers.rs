//! Answers to `reply-to`, from the mirror's outbox to the producers' queues, on a channel of their own.
//!
//! Order of effects, per batch: 1. publish committed answers with confirm; 2. commit: take them out of the outbox and
//! note on the item's timeline which of them no queue took. A crash between leaves them in the outbox: they are sent
//! again, so a producer may see an answer twice and never misses one that could be delivered.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, DIRECT_REPLY_TO, LaneError, now};
use crate::broker::connection::Session;
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::ItemId;
use crate::item::message::Properties;
use crate::item::timeline::Line;
use crate::mirror::records::{WaitingAnswer, append_lines, remove_answers};
use crate::mirror::{MirrorError, Tx, items};

const BATCH: u32 = 200;

/// Answers that nobody was woken for (a former session left them) are found this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Sends answers until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; what was not taken out of the outbox is sent again.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let mut publisher = Publisher::open(&session, context.confirm_timeout).await?;
    while !stop.is_cancelled() {
        // What cannot be taken out of the outbox would be sent again and again.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.mirror.until_writable() => {}
        }
        let answers = context.mirror.waiting_answers(BATCH).await?;
        let Some(last) = answers.last().map(|answer| answer.seq) else {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = context.wakes.answers.notified() => continue,
                () = tokio::time::sleep(LOOK_AGAIN) => continue,
            }
        };
        let outgoing: Vec<Outgoing> = answers.iter().map(outgoing).collect();
        let published = publisher.publish(&outgoing).await?;
        failpoint::reach("answers.published").await;
        let undelivered: Vec<(ItemId, String)> =
            answers.iter().zip(published).filter_map(|(answer, published)| undelivered(answer, &published)).collect();
        context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    note(tx, undelivered).await?;
                    remove_answers(tx, last).await
                })
            })
            .await?;
        failpoint::reach("answers.removed").await;
    }
    Ok(())
}

fn outgoing(answer: &WaitingAnswer) -> Outgoing {
    Outgoing {
        exchange: String::new(),
        routing_key: answer.reply_to.clone(),
        properties: Properties {
            message_id: Some(format!("answer-{}", answer.seq)),
            correlation_id: answer.correlation_id.clone(),
            content_type: Some("application/json".to_owned()),
            kind: Some(answer.kind.clone()),
            ..Properties::default()
        },
        body: answer.body.clone().into_bytes(),
    }
}

fn undelivered(answer: &WaitingAnswer, published: &Published) -> Option<(ItemId, String)> {
    let why = match published {
        Published::Confirmed => return None,
        // Before RabbitMQ 4 these count as not routed even when they arrive, so a return says nothing.
        Published::Returned(_) if answer.reply_to.starts_with(DIRECT_REPLY_TO) => return None,
        Published::Returned(why) => why.as_str(),
        Published::Refused => "the queue refused it",
    };
    let id = answer.item.parse().ok()?;
    Some((id, format!("the answer '{}' to {} was not delivered: {why}", answer.kind, answer.reply_to)))
}

async fn note(tx: &mut Tx, undelivered: Vec<(ItemId, String)>) -> Result<(), MirrorError> {
    if undelivered.is_empty() {
        return Ok(());
    }
    let mut loaded = items::by_id(tx, &undelivered.iter().map(|(id, _)| *id).collect()).await?;
    let mut lines = Vec::new();
    for item in &mut loaded {
        for (_, why) in undelivered.iter().filter(|(id, _)| *id == item.id) {
            item.revision += 1;
            lines.push((item.id, Line::of(item, now(), "broker", "noted", Some(why.clone()))));
        }
    }
    items::save(tx, &loaded.iter().collect::<Vec<_>>()).await?;
    append_lines(tx, &lines).await
}
