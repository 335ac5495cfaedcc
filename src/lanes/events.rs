//! Events, from the mirror to `wq.events`, where anyone may bind a queue: the feed, which is every change of an item (a line of its
//! timeline) and what control says, in the order of their commits. Others read it as well, each at their own pace ([`super::feed`],
//! `outward`): what this one has published goes once they have it, and the last rows stay for whoever comes back.
//!
//! Order of effects, per batch: 1. publish what is committed, with confirm; 2. commit: up to there everything is had. One that no queue
//! is bound for is done.
//!
//! While nothing is bound to the exchange, nothing is read: 1. look which is the newest; 2. ask the management API what is bound;
//! 3. commit: everything up to that one is had, as if it had been published to nobody. Only what was committed before
//! the question falls under its answer. Where nobody can be asked, everything is published.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | published | rows that were told | told again, with the same ids: at least once, in order |
//! | the answer "nothing is bound" | rows nobody listened to | asked again; who listens by now hears them |
//! | had | nothing | |
//!
//! The form is CloudEvents 1.0 in its AMQP binding, binary mode: attributes are headers named `cloudEvents:...`, the body
//! is JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Context, LaneError};
use crate::broker::connection::Session;
use crate::broker::management::Management;
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::event::Event;
use crate::item::message::{Header, Properties};
use crate::mirror::changes::{self, Reader};
use crate::mirror::{MirrorError, Tx};

/// Changes told together. Their events are small, and each batch is a commit.
const CHANGES: u32 = 500;

/// Rows that go in one transaction.
const FORGOTTEN: i64 = 10_000;

/// Events that nobody was woken for (a former session left them) are found this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What comes within this time goes out together.
const GATHER: Duration = Duration::from_millis(50);

/// So long is waited before anybody is asked whether what was just committed has listeners: within this time a binding is known to every
/// node of the broker. The price is that the first event somebody hears comes that much later.
const SETTLE: Duration = Duration::from_secs(1);

/// How long "somebody listens" is believed. To be wrong costs work only.
const HEARD: Duration = Duration::from_secs(10);

/// Sends events until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; what was not taken out of the mirror is sent again.
pub async fn run(
    context: Context,
    management: Option<Management>,
    session: Arc<Session>,
    stop: CancellationToken,
) -> Result<(), LaneError> {
    let publisher = Publisher::open(&session, context.confirm_timeout).await?.to_whom_it_may_concern();
    let exchange = context.names.events();
    let audience = Audience::Listens(Instant::now());
    let mut teller = Teller { context, management, publisher, exchange, audience };
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = teller.context.mirror.until_writable() => {}
        }
        let Told::All(wait) = teller.tell().await? else { continue };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(GATHER) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = teller.context.wakes.events.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

/// How far a round came.
enum Told {
    /// Look again after this long, unless woken.
    All(Duration),
    /// There may be more.
    Some,
}

/// What is known of who listens.
enum Audience {
    /// Somebody does, or nobody could say. Believed until then, and asked again with the first change after it.
    Listens(Instant),
    /// Nobody may. What was the newest change at some moment, which is the question that is to be asked next.
    Absent(Option<(i64, Instant)>),
}

struct Teller {
    context: Context,
    management: Option<Management>,
    publisher: Publisher,
    exchange: String,
    audience: Audience,
}

impl Teller {
    /// Tells the oldest rows, or passes over them where nobody listens.
    async fn tell(&mut self) -> Result<Told, LaneError> {
        match self.audience {
            Audience::Listens(until) if Instant::now() < until => return self.publish_changes().await,
            Audience::Absent(Some((_, since))) if since.elapsed() < SETTLE => {
                return Ok(Told::All(SETTLE.saturating_sub(since.elapsed())));
            }
            _ => {}
        }
        let Some(newest) = self.context.mirror.newest_change(Reader::Broker).await? else {
            return Ok(Told::All(LOOK_AGAIN));
        };
        if let Audience::Absent(None) = self.audience {
            self.audience = Audience::Absent(Some((newest, Instant::now())));
            return Ok(Told::All(SETTLE));
        }
        if self.somebody_listens().await {
            self.audience = Audience::Listens(Instant::now() + HEARD);
            return self.publish_changes().await;
        }
        if let Audience::Absent(Some((up_to, _))) = self.audience {
            failpoint::reach("changes.unheard").await;
            self.done(up_to).await?;
        }
        self.audience = Audience::Absent(None);
        Ok(Told::Some)
    }

    async fn publish_changes(&mut self) -> Result<Told, LaneError> {
        let waiting = self.context.mirror.waiting_changes(Reader::Broker, CHANGES).await?;
        let Some(last) = waiting.last().map(|change| change.seq) else { return Ok(Told::All(LOOK_AGAIN)) };
        let more = waiting.len() == CHANGES as usize;
        self.publish(waiting.into_iter().filter_map(|waiting| waiting.events).flatten()).await?;
        failpoint::reach("changes.published").await;
        self.done(last).await?;
        failpoint::reach("changes.removed").await;
        Ok(if more { Told::Some } else { Told::All(LOOK_AGAIN) })
    }

    /// Everything up to this one is had; what nobody needs any more goes.
    async fn done(&self, up_to: i64) -> Result<(), MirrorError> {
        let mirror = &self.context.mirror;
        let mut more = mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    changes::had(tx, Reader::Broker, up_to).await?;
                    changes::trim(tx, FORGOTTEN).await
                })
            })
            .await?;
        while more {
            more = mirror.write(move |tx: &mut Tx| Box::pin(changes::trim(tx, FORGOTTEN))).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, events: impl Iterator<Item = Event>) -> Result<(), LaneError> {
        let outgoing: Vec<Outgoing> = events.map(|event| outgoing(event, &self.exchange)).collect();
        if outgoing.is_empty() {
            return Ok(());
        }
        let published = self.publisher.publish(&outgoing).await?;
        // A queue that somebody bound and that refuses holds up nobody else: it is theirs.
        let refused = published.iter().filter(|published| **published == Published::Refused).count();
        if refused > 0 {
            tracing::warn!(refused, "a queue bound to wq.events refused events");
        }
        Ok(())
    }

    /// Also where nobody can say.
    async fn somebody_listens(&self) -> bool {
        let Some(management) = &self.management else { return true };
        match management.is_bound(&self.exchange).await {
            Ok(bound) => bound,
            Err(error) => {
                tracing::debug!("nobody can say who listens to events, so all are published: {error}");
                true
            }
        }
    }
}

fn outgoing(event: Event, exchange: &str) -> Outgoing {
    let routing_key = event.routing_key();
    let attributes = [
        ("specversion", Some("1.0".to_owned())),
        ("id", Some(event.id.clone())),
        ("source", Some("/warrend".to_owned())),
        ("type", Some(format!("warrend.{routing_key}"))),
        ("subject", event.subject),
        ("time", Some(event.at.to_string())),
    ];
    let headers: BTreeMap<String, Header> = attributes
        .into_iter()
        .filter_map(|(name, value)| Some((format!("cloudEvents:{name}"), Header::Text(value?))))
        .collect();
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key,
        properties: Properties {
            message_id: Some(event.id),
            content_type: Some("application/json".to_owned()),
            headers,
            ..Properties::default()
        },
        body: event.body.into_bytes(),
    }
}
