//! What this mirror leaves of itself in `wq.meta`, and what it finds there: a mirror that is older than what stands there, or
//! empty beside filled queues, does not dispatch until somebody says so.
//!
//! Order of effects at a session's start: 1. read `wq.meta`; 2. commit: pauses where the mirror is older, then that it is, and
//! that its accounts of acks are void; where nobody left a note and it is empty, that it is unsure;
//! 3. commit: a number above its own and the one that was read; 4. leave a note under that number; 5. once all queues are
//! declared, and before anything is dispatched: look into them if it is unsure, commit pauses as in 2 where they are filled,
//! commit that it is sure. While the session lasts steps 3 and 4 are done again every `control.reconcile_period`.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | nothing | |
//! | 2 | pauses, the old note | it is older still: the same pauses |
//! | 3 | a number that no note has | it is ahead of the note: not older |
//! | 4, half of 5 | that it is unsure, perhaps pauses | it looks again, and makes the same pauses |
//!
//! So a copy that is restored is noticed if it was made before the last note but one, or a session began since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::conductor::ConductError;
use super::pause;
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::consume::Lookout;
use crate::broker::ownership::{self, Note};
use crate::broker::publish::Publisher;
use crate::definition::Paused;
use crate::failpoint;
use crate::item::Timestamp;
use crate::lanes::{Context, LaneError, now};
use crate::mirror::audit::Actor;
use crate::mirror::standing::{Older, Standing, note_older, note_unsure, take_sequence};
use crate::mirror::{Mirror, MirrorError, Tx, acks};

/// Who pauses queues of an older mirror.
pub const OLDER: &str = "mirror_older";

/// Makes sure that the queues are this mirror's, and pauses dispatch where it is older than what stands there.
///
/// # Errors
/// Where they belong to another mirror, or mirror or broker fail.
pub async fn claim(context: &Context, session: &Session, publisher: &mut Publisher) -> Result<(), ConductError> {
    let mirror = &context.mirror;
    let before = ownership::read(session, &context.names).await?;
    let identity = mirror.identity().await?;
    let left = before.as_ref().filter(|note| note.mirror == identity).map(standing);
    let (own, own_at) = mirror.sequence().await?;
    if left.as_ref().is_some_and(|left| left.sequence > own) {
        hold(context, Older { blind_from: own_at, blind_until: now() }).await?;
    }
    if before.is_none() && mirror.is_empty().await? {
        set_unsure(mirror, true).await?;
    }
    let mut next = mirror.standing(now()).await?;
    next.sequence = next.sequence.max(left.map_or(0, |left| left.sequence) + 1);
    take(mirror, &next).await?;
    failpoint::reach("witness.taken").await;
    let note = note(&next);
    ownership::claim(session, &context.names, &note, publisher).await?;
    ownership::write(&context.names, &note, publisher).await?;
    Ok(())
}

/// Pauses dispatch where the mirror had nothing and nobody had left a note, but its queues, which are declared by now, are
/// filled.
///
/// # Errors
/// Where mirror or broker fail.
pub async fn look(context: &Context, session: &Session) -> Result<(), ConductError> {
    if !context.mirror.is_unsure().await? {
        return Ok(());
    }
    if any_is_filled(context, session).await? {
        hold(context, Older { blind_from: None, blind_until: now() }).await?;
    }
    failpoint::reach("witness.looked").await;
    Ok(set_unsure(&context.mirror, false).await?)
}

/// Leaves a new note now and then, until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror.
pub async fn run(
    context: Context,
    session: Arc<Session>,
    period: Duration,
    stop: CancellationToken,
) -> Result<(), LaneError> {
    let mut publisher = Publisher::open(&session, context.confirm_timeout).await?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(period) => {}
        }
        let next = context.mirror.standing(now()).await?;
        take(&context.mirror, &next).await?;
        ownership::write(&context.names, &note(&next), &mut publisher).await?;
    }
}

async fn set_unsure(mirror: &Mirror, unsure: bool) -> Result<(), MirrorError> {
    mirror.write(move |tx: &mut Tx| Box::pin(async move { note_unsure(tx, unsure).await })).await
}

pub(super) async fn take(mirror: &Mirror, standing: &Standing) -> Result<(), MirrorError> {
    let (sequence, at) = (standing.sequence, standing.at.unwrap_or_else(now));
    mirror.write(move |tx: &mut Tx| Box::pin(async move { take_sequence(tx, sequence, at).await })).await
}

pub(super) fn note(standing: &Standing) -> Note {
    Note { mirror: standing.mirror.clone(), body: serde_json::to_value(standing).unwrap_or_default() }
}

/// What a note says; as little as its identity where the rest cannot be read.
pub(super) fn standing(note: &Note) -> Standing {
    let nothing = |_| Standing { mirror: note.mirror.clone(), sequence: 0, at: None, queues: BTreeMap::new() };
    serde_json::from_value(note.body.clone()).unwrap_or_else(nothing)
}

/// Whether there is work in a robots' queue.
async fn any_is_filled(context: &Context, session: &Session) -> Result<bool, BrokerError> {
    for key in context.live.now().served() {
        // One that is not there closes the channel.
        match Lookout::open(session).await?.look(&context.names.robots(key)).await {
            Ok((ready, _)) if ready > 0 => return Ok(true),
            Ok(_) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Pauses the dispatch of every queue, as if by command.
async fn hold(context: &Context, older: Older) -> Result<(), MirrorError> {
    let from = older.blind_from.map_or_else(|| "its beginning".to_owned(), |from: Timestamp| from.to_string());
    tracing::error!(
        from,
        until = %older.blind_until,
        "the mirror is older than the broker: what happened in that time it does not know. Dispatch is paused until \
         somebody resumes it (warrend queues resume), or after `warrend mirror rebuild`"
    );
    let keys: Vec<String> = context.live.now().served().cloned().collect();
    let dispatch = Paused { dispatch: true, intake: false };
    for key in keys {
        let actor = Actor { who: OLDER.to_owned(), kind: "daemon", source: None };
        pause::set(&context.mirror, &context.live, &context.wakes, &key, dispatch, true, &actor).await?;
    }
    context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                // Robots' acks of that time are in the broker's counters, and their reports are not here.
                acks::forget_all(tx).await?;
                note_older(tx, &older).await
            })
        })
        .await
}
