//! Breakers: told of how attempts ended, in the transaction that ends them; what they hold up, dispatch sees by itself.
//!
//! Order of effects: commit (the items, the breaker, the event), then the log, and wake dispatch (which tells control) and events. A
//! crash in between leaves an open breaker that dispatch finds in the mirror before it sends anything.

use std::collections::BTreeMap;

use serde_json::json;

use super::Wakes;
use crate::definition::Definitions;
use crate::failpoint;
use crate::item::Timestamp;
use crate::item::breaker::{Breaker, Change, Told};
use crate::mirror::control::{Event, add_events};
use crate::mirror::{MirrorError, Tx, breakers};

/// A breaker that opened or closed.
#[derive(Debug)]
pub(crate) struct Turned {
    queue: String,
    change: Change,
    /// As it is now; closed, as it was before.
    breaker: Breaker,
    who: String,
}

/// Tells breakers how attempts of their queues ended, in this order.
pub(super) async fn tell(
    tx: &mut Tx,
    definitions: &Definitions,
    told: &[(String, Told)],
    now: Timestamp,
) -> Result<Vec<Turned>, MirrorError> {
    let mut by_queue: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
    for (queue, told) in told {
        by_queue.entry(queue).or_default().push(told);
    }
    let mut turned = Vec::new();
    for (queue, told) in by_queue {
        let Some(policy) = definitions.get(queue).and_then(|definition| definition.breaker) else { continue };
        let kept = breakers::load(tx, queue).await?;
        let mut breaker = kept.clone().unwrap_or_else(|| Breaker::closed(now));
        for told in told {
            let before = breaker.clone();
            if let Some(change) = breaker.tell(policy, told, now) {
                let shown = if change == Change::Opened { breaker.clone() } else { before };
                turned.push(Turned { queue: queue.to_owned(), change, breaker: shown, who: "policy".to_owned() });
            }
        }
        // Of a queue in which nothing fails nothing is kept.
        if kept.as_ref().map_or(breaker.failures > 0, |kept| *kept != breaker) {
            breakers::save(tx, queue, &breaker).await?;
        }
    }
    if !turned.is_empty() {
        add_events(tx, &turned.iter().map(|turned| turned.event(now)).collect::<Vec<_>>()).await?;
        failpoint::reach("breaker.told").await;
    }
    Ok(turned)
}

/// Closes a queue's breaker by somebody's word; `None` where it was not open.
///
/// # Errors
/// Where SQL fails.
pub(crate) async fn close(tx: &mut Tx, queue: &str, who: &str, now: Timestamp) -> Result<Option<Turned>, MirrorError> {
    let Some(mut breaker) = breakers::load(tx, queue).await? else { return Ok(None) };
    let before = breaker.clone();
    if !breaker.close(now) {
        return Ok(None);
    }
    breakers::save(tx, queue, &breaker).await?;
    let turned = Turned { queue: queue.to_owned(), change: Change::Closed, breaker: before, who: who.to_owned() };
    add_events(tx, &[turned.event(now)]).await?;
    Ok(Some(turned))
}

/// Says what is committed, and wakes whoever has to act on it. Dispatch was woken, or will be.
pub(crate) fn wake(turned: &[Turned], wakes: &Wakes) {
    for Turned { queue, change, breaker, who } in turned {
        let fingerprint = breaker.fingerprint.as_deref().unwrap_or_default();
        match change {
            Change::Opened => tracing::warn!(
                queue,
                fingerprint,
                failures = breaker.failures,
                until = %breaker.until.unwrap_or(breaker.since),
                "the breaker pauses dispatch after alike failures in a row"
            ),
            Change::Closed => tracing::info!(queue, fingerprint, who, "the breaker is closed, dispatch goes on"),
        }
        wakes.dispatch(queue);
    }
    if !turned.is_empty() {
        wakes.events.notify_one();
    }
}

impl Turned {
    fn event(&self, at: Timestamp) -> Event {
        let Breaker { fingerprint, failures, until, .. } = &self.breaker;
        let (what, body) = match self.change {
            Change::Opened => (
                "opened",
                json!({ "queue": self.queue, "fingerprint": fingerprint, "failures": failures,
                        "until": until.map(|until| until.to_string()) }),
            ),
            Change::Closed => ("closed", json!({ "queue": self.queue, "who": self.who, "fingerprint": fingerprint })),
        };
        Event { kind: format!("queue.breaker_{what}.{}", self.queue), at, body }
    }
}
