//! Pauses by command: noted, put in force, told. What they mean on the broker is the plan's business. Who resumes dispatch
//! closes the queue's breaker too.

use serde_json::json;

use crate::definition::Paused;
use crate::lanes::live::Live;
use crate::lanes::{Wakes, breaker, now};
use crate::mirror::audit::{self, Actor, Entry};
use crate::mirror::control::{Event, Pause, add_events, set_pause};
use crate::mirror::{Mirror, MirrorError, Tx};

/// Pauses (`true`) or resumes (`false`) what is named of a queue; answers what is paused by command then.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn set(
    mirror: &Mirror,
    live: &Live,
    wakes: &Wakes,
    key: &str,
    which: Paused,
    paused: bool,
    actor: &Actor,
) -> Result<Paused, MirrorError> {
    let who = actor.who.as_str();
    // Two commands at once are one after the other.
    let _turn = wakes.pausing.lock().await;
    let before = live.now().paused.get(key).copied().unwrap_or_default();
    let after = changed(before, which, paused);
    // Who resumes dispatch means it, whatever holds it up.
    let closes = !paused && which.dispatch && mirror.breaker(key).await?.is_some_and(|breaker| breaker.until.is_some());
    if before == after && !closes {
        return Ok(after);
    }
    let at = now();
    let pause = Pause { queue: key.to_owned(), paused: after, at, who: who.to_owned() };
    let what = if paused { "paused" } else { "resumed" };
    let body = json!({
        "queue": key, "who": who, "changed": { "dispatch": which.dispatch, "intake": which.intake },
        "paused": { "dispatch": after.dispatch, "intake": after.intake },
    });
    let event = (before != after).then(|| Event { kind: format!("queue.{what}.{key}"), at, body });
    let entry = Entry {
        at,
        actor: actor.clone(),
        action: if paused { "queue.pause" } else { "queue.resume" },
        target: Some(key.to_owned()),
        outcome: "done",
        detail: json!({ "dispatch": which.dispatch, "intake": which.intake }),
    };
    let turned = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                set_pause(tx, &pause).await?;
                let turned = if closes { breaker::close(tx, &pause.queue, &pause.who, at).await? } else { None };
                add_events(tx, event.as_slice()).await?;
                audit::append(tx, &entry).await?;
                Ok(turned)
            })
        })
        .await?;
    breaker::wake(turned.as_slice(), wakes);
    live.update(|in_force| {
        if after == Paused::default() {
            in_force.paused.remove(key);
        } else {
            in_force.paused.insert(key.to_owned(), after);
        }
        if closes {
            in_force.broken.remove(key);
        }
    });
    tracing::info!(queue = key, who, dispatch = after.dispatch, intake = after.intake, "{what} by command");
    wakes.control.notify_one();
    wakes.events.notify_one();
    wakes.dispatch(key);
    Ok(after)
}

const fn changed(before: Paused, which: Paused, paused: bool) -> Paused {
    Paused {
        dispatch: if which.dispatch { paused } else { before.dispatch },
        intake: if which.intake { paused } else { before.intake },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        const NONE: Paused = Paused { dispatch: false, intake: false };
        const DISPATCH: Paused = Paused { dispatch: true, intake: false };
        const BOTH: Paused = Paused { dispatch: true, intake: true };
        assert_eq!(changed(NONE, DISPATCH, true), DISPATCH);
        assert_eq!(changed(BOTH, DISPATCH, false), Paused { dispatch: false, intake: true });
        assert_eq!(changed(BOTH, BOTH, false), NONE);
        assert_eq!(changed(DISPATCH, NONE, true), DISPATCH);
    }
}
