//! The mirror's clock: delayed items become ready, waiting items expire, items become at risk and late. Needs no broker.
//!
//! Order of effects: one transaction per bounded batch, then wake dispatch or who sends events. A crash leaves what was not
//! committed due, and the next pass finds it: a second pass has nothing to do.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | expired | items as exceptions, answers in the outbox | dispatch and answers look for themselves when they start |
//! | promoted | items ready | dispatch looks for itself |
//! | crossed | what was crossed told: a line, and an event in the outbox | the event is sent; `sla_next` has moved on, so it is told once |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::item::{Item, Timestamp, lifecycle, sla};
use crate::lanes::ledger::Ledger;
use crate::lanes::live::Live;
use crate::lanes::{Wakes, now};
use crate::mirror::control::{Event, add_events};
use crate::mirror::dispatch::promote_due;
use crate::mirror::{Mirror, MirrorError, Tx, items, records};

/// Items moved in one transaction.
const BATCH: u32 = 1000;

/// The longest sleep between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Runs until it is stopped. A mirror that fails is tried again: this is no reason to stop the daemon.
pub async fn run(mirror: Mirror, live: Live, wakes: Arc<Wakes>, stop: CancellationToken) {
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&mirror, &live, &wakes) => passed,
        };
        let wait = match passed {
            Ok(()) => until_next(&mirror).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the timers could not work");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wakes.timers.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn until_next(mirror: &Mirror) -> Duration {
    let mut wait = LONGEST;
    for next in [mirror.next_due().await, mirror.next_expiry().await, mirror.next_crossing().await] {
        if let Ok(Some(due)) = next {
            wait = wait.min(Duration::try_from(due.duration_since(now())).unwrap_or_default());
        }
    }
    wait
}

async fn pass(mirror: &Mirror, live: &Live, wakes: &Wakes) -> Result<(), MirrorError> {
    // First what is over: it is not to go out.
    while mirror.next_expiry().await?.is_some_and(|due| due <= now()) {
        let definitions = live.definitions();
        let written = mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let mut ledger = Ledger::of(&definitions, items::expired(tx, now(), BATCH).await?);
                    ledger.step_all(|item, _, moment| lifecycle::expire(item, moment.now));
                    ledger.write(tx).await
                })
            })
            .await?;
        failpoint::reach("timers.expired").await;
        written.wake(wakes);
    }
    while mirror.next_due().await?.is_some_and(|due| due <= now()) {
        let queues = mirror.write(|tx: &mut Tx| Box::pin(promote_due(tx, now(), BATCH))).await?;
        failpoint::reach("timers.promoted").await;
        for queue in queues.into_iter().collect::<BTreeSet<_>>() {
            wakes.dispatch(&queue);
        }
    }
    while mirror.next_crossing().await?.is_some_and(|at| at < now()) {
        mirror.write(|tx: &mut Tx| Box::pin(tell_crossings(tx, now()))).await?;
        failpoint::reach("timers.crossed").await;
        wakes.events.notify_one();
    }
    Ok(())
}

/// Tells of each item that it is at risk or late, on its timeline and in an event, and moves on to what it may become next.
async fn tell_crossings(tx: &mut Tx, now: Timestamp) -> Result<(), MirrorError> {
    let mut crossing = items::crossing(tx, now, BATCH).await?;
    let (mut lines, mut events) = (Vec::new(), Vec::new());
    for item in &mut crossing {
        for crossing in sla::cross(item, now) {
            let kind = format!("sla.{}.{}", crossing.to, item.queue);
            events.push(Event { kind, at: now, body: told(item, &crossing) });
            lines.push((item.id, crossing.line));
        }
    }
    items::save(tx, &crossing.iter().collect::<Vec<_>>()).await?;
    records::append_lines(tx, &lines).await?;
    add_events(tx, &events).await
}

fn told(item: &Item, crossing: &sla::Crossing) -> serde_json::Value {
    serde_json::json!({
        "item": item.id.to_string(),
        "queue": item.queue,
        "reference": item.reference,
        "name": item.name,
        "state": item.state.word(),
        "kind": item.state.kind().map(crate::item::Kind::word),
        "sla": crossing.to.word(),
        "since": crossing.at.to_string(),
        "due_at": item.due_at.map(|at| at.to_string()),
        "revision": crossing.line.revision,
    })
}
