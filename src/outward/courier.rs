//! Sends what waits, one message after the other to each target, and to several targets at once: one that is dead or slow holds up
//! nobody else.
//!
//! Order of effects, per message: 1. send; 2. one transaction: it waits no more, or when it is tried again; how the attempt went.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | sent | the message waits, though it was taken | sent again, with the same `webhook-id` |
//! | noted | nothing | |
//!
//! A webhook that takes nothing for a day is paused; a notice that nobody takes for so long is given up, and the next one is tried.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::{self, Next, Outcome};
use super::{Outward, Sent, text};
use crate::definition::Definitions;
use crate::failpoint;
use crate::item::Timestamp;
use crate::lanes::{moment, now};
use crate::metrics;
use crate::mirror::control::{Event, add_events};
use crate::mirror::outward::{self, Delivery, Message, Target, Waiting};
use crate::mirror::webhooks::{self, Webhook};
use crate::mirror::{MirrorError, Tx};
use crate::status::Attention;

/// Targets served at once.
const AT_ONCE: usize = 32;

/// Messages of one target before others get its turn.
const IN_A_ROW: usize = 50;

/// The longest sleep between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is on its way gets so long when the daemon stops; what is not noted by then is sent again.
const GOODBYE: Duration = Duration::from_secs(2);

const GONE: &str = "it answered 410 Gone";

/// Words of what a queue is shown with.
const NO_MAIL: &str = "notify_no_mail_server";
const UNHEARD: &str = "notify_not_taken";

pub(super) async fn run(outward: Outward, stop: CancellationToken) {
    let mut at_work: JoinSet<String> = JoinSet::new();
    let mut busy: HashSet<String> = HashSet::new();
    let mut measured = Timestamp::MIN;
    loop {
        let mut wait = LOOK_AGAIN;
        // Everything that waits is counted for it, so not with each message.
        if now().duration_since(measured).as_secs() >= LOOK_AGAIN.as_secs().cast_signed() {
            measured = now();
            measure(&outward, measured).await;
        }
        match start(&outward, &mut at_work, &mut busy).await {
            Ok(next) => wait = next.map_or(wait, |next| wait.min(next)),
            Err(error) if error.trouble().is_some() => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "nothing can be sent outward"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = at_work.join_next(), if !at_work.is_empty() => match ended {
                Ok(target) => drop(busy.remove(&target)),
                // Its name is lost with it; those that are still at work take their next message with the next look.
                Err(_) => busy.clear(),
            },
            () = outward.bells.outgoing.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    let _ = tokio::time::timeout(GOODBYE, async { while at_work.join_next().await.is_some() {} }).await;
}

/// Begins with whoever can be served; answers when the next one can.
async fn start(
    outward: &Outward,
    at_work: &mut JoinSet<String>,
    busy: &mut HashSet<String>,
) -> Result<Option<Duration>, MirrorError> {
    let now = now();
    for target in outward.mirror.due_targets(now).await? {
        if busy.len() >= AT_ONCE {
            break;
        }
        if busy.insert(target.id.clone()) {
            let outward = outward.clone();
            at_work.spawn(async move {
                let id = target.id.clone();
                if let Err(error) = serve(&outward, target).await {
                    // What was sent and is not noted is sent again; not at once, or a full disk makes a flood.
                    tracing::warn!(error = &error as &dyn std::error::Error, "what was sent outward is not noted");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                id
            });
        }
    }
    let next = outward.mirror.next_target_at(now).await?;
    Ok(next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default()))
}

async fn measure(outward: &Outward, now: Timestamp) {
    // A mirror that cannot be read is told of by who needs it.
    let Ok(lag) = outward.mirror.outward_lag().await else { return };
    let oldest = lag.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
    metrics::outward(lag.waiting, oldest, lag.paused);
}

/// Whom a target stands for.
enum Endpoint {
    Webhook(Box<Webhook>),
    Notice(String),
}

async fn serve(outward: &Outward, mut target: Target) -> Result<(), MirrorError> {
    let id = target.id.clone();
    for _ in 0..IN_A_ROW {
        let endpoint = if id.contains(':') {
            Endpoint::Notice(id.clone())
        } else {
            match outward.mirror.webhook(&id).await? {
                Some(webhook) if webhook.disabled.is_none() => Endpoint::Webhook(Box::new(webhook)),
                _ => return Ok(()),
            }
        };
        let Some(waiting) = outward.mirror.outgoing(&id, 0, 1).await?.pop() else {
            if !tell_gap(outward, &target).await? {
                return Ok(());
            }
            target.missed = 0;
            continue;
        };
        let began = now();
        let outcome = attempt(outward, &endpoint, &waiting).await;
        let taken = matches!(outcome, Outcome::Taken { .. });
        metrics::sent_outward(matches!(endpoint, Endpoint::Webhook(_)), taken);
        failpoint::reach("outward.sent").await;
        target = note(outward, &endpoint, target, waiting, outcome, began).await?;
        failpoint::reach("outward.noted").await;
        if !taken {
            return Ok(());
        }
    }
    Ok(())
}

async fn tell_gap(outward: &Outward, target: &Target) -> Result<bool, MirrorError> {
    if target.missed == 0 {
        return Ok(false);
    }
    let gap = text::gap(&format!("gap/{}", crate::lanes::new_id()), target.missed, target.missed_since, now());
    let id = target.id.clone();
    outward.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::tell_gap(tx, &id, &gap).await })).await
}

async fn attempt(outward: &Outward, endpoint: &Endpoint, waiting: &Waiting) -> Outcome {
    match endpoint {
        Endpoint::Webhook(webhook) => {
            outward.sender.send(&webhook.url, &signing(webhook, now()), &waiting.message).await
        }
        Endpoint::Notice(to) if to.starts_with("mailto:") => match &outward.post {
            Some(post) => post.send(to, &waiting.message).await,
            None => Outcome::Failed { status: None, error: "smtp.url is not set".to_owned(), retry_after: None },
        },
        Endpoint::Notice(to) => outward.sender.send(to, &outward.secrets, &waiting.message).await,
    }
}

/// The secrets that sign at this moment.
#[must_use]
pub(super) fn signing(webhook: &Webhook, now: Timestamp) -> Vec<String> {
    let old = webhook.old_secret.as_ref().filter(|(_, until)| *until > now).map(|(secret, _)| secret.clone());
    std::iter::once(webhook.secret.clone()).chain(old).collect()
}

/// How it stands with the target after an attempt.
fn after(mut target: Target, outcome: &Outcome, next: Next, now: Timestamp) -> Target {
    match outcome {
        Outcome::Taken { .. } => {
            target.last_ok_at = Some(now);
            target.failures = 0;
            target.failing_since = None;
            target.next_at = None;
            return target;
        }
        Outcome::Gone => target.last_error = Some(GONE.to_owned()),
        Outcome::Failed { error, .. } => target.last_error = Some(error.clone()),
    }
    target.failures = target.failures.saturating_add(1);
    target.failing_since = target.failing_since.or(Some(now));
    target.next_at = match next {
        Next::Again(at) => Some(at),
        Next::Done | Next::GiveUp => None,
    };
    target
}

fn delivery(message: &Message, attempt: u32, outcome: &Outcome, began: Timestamp, now: Timestamp) -> Delivery {
    let (status, error) = match outcome {
        Outcome::Taken { status } => (*status, None),
        Outcome::Gone => (Some(410), Some(GONE.to_owned())),
        Outcome::Failed { status, error, .. } => (*status, Some(error.clone())),
    };
    let took_ms = u64::try_from(now.duration_since(began).as_millis()).unwrap_or(0);
    Delivery { seq: 0, event: message.id.clone(), kind: message.kind.clone(), at: now, attempt, status, error, took_ms }
}

pub(super) async fn test(outward: &Outward, webhook: &Webhook, message: Message) -> Result<Sent, MirrorError> {
    let began = now();
    let outcome = outward.sender.send(&webhook.url, &signing(webhook, began), &message).await;
    let delivery = delivery(&message, 1, &outcome, began, now());
    let (id, took_ms) = (webhook.id.clone(), delivery.took_ms);
    let noted = outward
        .mirror
        .write(move |tx: &mut Tx| Box::pin(async move { outward::add_delivery(tx, &id, &delivery).await }));
    noted.await?;
    Ok(Sent { outcome, took_ms })
}

async fn note(
    outward: &Outward,
    endpoint: &Endpoint,
    target: Target,
    waiting: Waiting,
    outcome: Outcome,
    began: Timestamp,
) -> Result<Target, MirrorError> {
    let now = now();
    let next = backoff::after(&outcome, target.failures, now, moment().chance);
    let delivery = delivery(&waiting.message, target.failures.saturating_add(1), &outcome, began, now);
    let was_failing = target.failures;
    let mut target = after(target, &outcome, next, now);
    let is_webhook = matches!(endpoint, Endpoint::Webhook(_));
    let given_up = next == Next::GiveUp;
    let gone = outcome == Outcome::Gone;
    if given_up && is_webhook && !gone {
        target.paused_at = Some(now);
    }
    if given_up && !is_webhook {
        target.failures = 0;
        target.failing_since = None;
    }
    let remove = next == Next::Done || (given_up && !is_webhook);
    let saved = target.clone();
    let error = target.last_error.clone();
    let told = outward
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                outward::add_delivery(tx, &saved.id, &delivery).await?;
                outward::save_target(tx, &saved).await?;
                if remove {
                    outward::remove_outgoing(tx, waiting.seq).await?;
                }
                if !(given_up && is_webhook) {
                    return Ok(false);
                }
                // It may be gone, or changed, since it was sent to.
                let Some(mut webhook) = webhooks::load_webhook(tx, &saved.id).await? else { return Ok(false) };
                if gone {
                    webhook.disabled = Some(GONE.to_owned());
                    webhook.changed = (now, "daemon".to_owned());
                    webhooks::save_webhook(tx, &webhook).await?;
                    outward::forget_outgoing(tx, &saved.id).await?;
                }
                let host = url::Url::parse(&webhook.url).ok().and_then(|url| url.host_str().map(str::to_owned));
                let body = json!({
                    "webhook": webhook.id,
                    "host": host,
                    "why": error,
                    "since": saved.failing_since.map(|since| since.to_string()),
                    "disabled": gone,
                });
                let event = Event { kind: "control.webhook_paused".to_owned(), at: now, body };
                add_events(tx, &[event]).await?;
                Ok(true)
            })
        })
        .await?;
    if told {
        tracing::warn!(webhook = target.id, why = target.last_error, "a webhook takes nothing and is left alone");
        outward.wakes.events.notify_one();
        outward.bells.webhooks.notify_one();
    }
    if let Endpoint::Notice(to) = endpoint {
        if given_up {
            tracing::warn!(to, why = target.last_error, "a notice was not taken for a day and is given up");
        }
        tell_of_notices(outward, to, &target, was_failing);
    }
    Ok(target)
}

/// Shows at its queues that notices are not taken, from the second attempt on.
fn tell_of_notices(outward: &Outward, to: &str, target: &Target, was_failing: u32) {
    if target.failures < 2 && was_failing == 0 {
        return;
    }
    let definitions = outward.live.definitions();
    let all = definitions.queues.values().chain(definitions.retired.values());
    for definition in all.filter(|definition| definition.notify.iter().any(|rule| rule.to.as_str() == to)) {
        let attention = (target.failures >= 2).then(|| Attention {
            since: target.failing_since.unwrap_or_else(now),
            text: format!("notices are not taken: {}", target.last_error.clone().unwrap_or_default()),
            held: Vec::new(),
        });
        outward.status.attend(&definition.key, UNHEARD, attention);
    }
}

/// Shows at each queue whether its rules want a mail server that is not set.
pub(super) fn tell_of_missing_mail(outward: &Outward, definitions: &Arc<Definitions>) {
    let mut without = BTreeSet::new();
    for definition in definitions.queues.values() {
        let wants = definition.notify.iter().any(|rule| rule.to.scheme() == "mailto");
        let attention = (wants && outward.post.is_none()).then(|| Attention {
            since: now(),
            text: "a notify rule writes mails, and smtp.url is not set: they are not sent".to_owned(),
            held: Vec::new(),
        });
        if attention.is_some() {
            without.insert(definition.key.as_str());
        }
        outward.status.attend(&definition.key, NO_MAIL, attention);
    }
    if !without.is_empty() {
        let queues = without.into_iter().collect::<Vec<_>>().join(", ");
        tracing::warn!(
            queues,
            "notify rules write mails, and smtp.url is not set: they wait for it, at most a day each"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_after_an_attempt() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let failed = Outcome::Failed { status: Some(500), error: "it answered 500".to_owned(), retry_after: None };
        let once = after(Target::default(), &failed, Next::Again(at(15)), at(10));
        assert_eq!((once.failures, once.failing_since, once.next_at), (1, Some(at(10)), Some(at(15))));
        let twice = after(once, &failed, Next::GiveUp, at(20));
        assert_eq!((twice.failures, twice.failing_since, twice.next_at), (2, Some(at(10)), None));
        let well = after(twice, &Outcome::Taken { status: Some(200) }, Next::Done, at(30));
        assert_eq!((well.failures, well.failing_since, well.last_ok_at), (0, None, Some(at(30))));
        // It stays to be read.
        assert_eq!(well.last_error.as_deref(), Some("it answered 500"));
    }

    #[test]
    fn an_old_secret_signs_for_its_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let webhook = Webhook {
            id: "wh_1".to_owned(),
            url: String::new(),
            wish: crate::item::listening::Wish::default(),
            secret: "new".to_owned(),
            old_secret: Some(("old".to_owned(), at(10))),
            disabled: None,
            created: (at(0), String::new()),
            changed: (at(0), String::new()),
        };
        assert_eq!(
            (signing(&webhook, at(9)), signing(&webhook, at(10))),
            (vec!["new".to_owned(), "old".to_owned()], vec!["new".to_owned()])
        );
    }
}
