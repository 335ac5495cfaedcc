//! What an attempt to send leaves: how it stands with the target then, and what waits no more. The courier's second step.

use serde_json::json;

use super::attend;
use super::backoff::{self, Next, Outcome};
use crate::item::Timestamp;
use crate::mirror::control::{Event, add_events};
use crate::mirror::outward::{self, Delivery, Message, Target, Waiting};
use crate::mirror::webhooks::{self, Webhook};
use crate::mirror::{MirrorError, Tx};

const GONE: &str = "it answered 410 Gone";

/// Whom a target stands for.
pub(super) enum Endpoint {
    Webhook(Box<Webhook>),
    Notice(String),
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

pub(super) fn delivery(
    message: &Message,
    attempt: u32,
    outcome: &Outcome,
    began: Timestamp,
    now: Timestamp,
) -> Delivery {
    let (status, error) = match outcome {
        Outcome::Taken { status } => (*status, None),
        Outcome::Gone => (Some(410), Some(GONE.to_owned())),
        Outcome::Failed { status, error, .. } => (*status, Some(error.clone())),
    };
    let took_ms = u64::try_from(now.duration_since(began).as_millis()).unwrap_or(0);
    Delivery { seq: 0, event: message.id.clone(), kind: message.kind.clone(), at: now, attempt, status, error, took_ms }
}

/// An attempt to send what waited for a target, and how it went.
pub(super) struct Attempt {
    pub id: String,
    pub endpoint: Endpoint,
    pub waiting: Waiting,
    pub outcome: Outcome,
    pub began: Timestamp,
    pub ended: Timestamp,
    /// 0..1, for the wait that may follow.
    pub chance: f64,
}

/// What was noted of an attempt.
#[derive(Default)]
pub(super) struct Noted {
    /// How it stands now; `None` where the attempt says nothing of it any more.
    pub target: Option<Target>,
    /// It is told that the webhook is left alone.
    pub told: bool,
    /// So many notices wait no more though they were not taken.
    pub given_up: i64,
}

/// Everything is decided by how it stands in the transaction: an attempt lasts a while, and people may have changed, resumed or removed
/// meanwhile what was sent to.
pub(super) async fn settle(tx: &mut Tx, attempt: &Attempt) -> Result<Noted, MirrorError> {
    let id = attempt.id.as_str();
    let Some(target) = outward::load_target(tx, id).await? else { return Ok(Noted::default()) };
    let tried = target.failures.saturating_add(1);
    let delivery = delivery(&attempt.waiting.message, tried, &attempt.outcome, attempt.began, attempt.ended);
    outward::add_delivery(tx, id, &delivery).await?;
    if matches!(attempt.outcome, Outcome::Taken { .. }) {
        outward::remove_outgoing(tx, attempt.waiting.seq).await?;
    }
    match &attempt.endpoint {
        Endpoint::Notice(_) => settle_notice(tx, attempt, target).await,
        Endpoint::Webhook(sent_to) => match webhooks::load_webhook(tx, id).await? {
            Some(webhook) if webhook.disabled.is_none() && webhook.url == sent_to.url => {
                settle_webhook(tx, attempt, target, webhook).await
            }
            // What another place did says nothing of this one.
            _ => Ok(Noted::default()),
        },
    }
}

async fn settle_notice(tx: &mut Tx, attempt: &Attempt, target: Target) -> Result<Noted, MirrorError> {
    let (outcome, now) = (&attempt.outcome, attempt.ended);
    let next = backoff::after_notice(outcome, target.failures, now, attempt.chance);
    let target = after(target, outcome, next, now);
    outward::save_target(tx, &target).await?;
    let mut given_up = 0;
    if next != Next::Done {
        let oldest = now.checked_sub(backoff::LIFE_OF_NOTICES).unwrap_or(Timestamp::MIN);
        given_up = outward::give_up_before(tx, &attempt.id, oldest).await?;
        if *outcome == Outcome::Gone && attempt.waiting.message.at >= oldest {
            outward::remove_outgoing(tx, attempt.waiting.seq).await?;
            given_up += 1;
        }
    }
    Ok(Noted { target: Some(target), told: false, given_up })
}

async fn settle_webhook(
    tx: &mut Tx,
    attempt: &Attempt,
    target: Target,
    mut webhook: Webhook,
) -> Result<Noted, MirrorError> {
    let (outcome, now) = (&attempt.outcome, attempt.ended);
    let next = backoff::after(outcome, target.failures, now, attempt.chance);
    let mut target = after(target, outcome, next, now);
    let gone = *outcome == Outcome::Gone;
    let told = next == Next::GiveUp;
    if told && !gone {
        target.paused_at = Some(now);
    }
    outward::save_target(tx, &target).await?;
    if told && gone {
        webhook.disabled = Some(GONE.to_owned());
        webhook.changed = (now, "daemon".to_owned());
        webhooks::save_webhook(tx, &webhook).await?;
        outward::forget_outgoing(tx, &webhook.id, now).await?;
    }
    if told {
        let body = json!({
            "webhook": webhook.id,
            "host": attend::place(&webhook.url),
            "why": target.last_error,
            "since": target.failing_since.map(|since| since.to_string()),
            "disabled": gone,
        });
        let event = Event { kind: "control.webhook_paused".to_owned(), at: now, body };
        add_events(tx, &[event]).await?;
    }
    Ok(Noted { target: Some(target), told, given_up: 0 })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::text;
    use super::*;
    use crate::mirror::Mirror;

    #[test]
    fn a_target_after_an_attempt() {
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

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub fn webhook() -> Webhook {
        Webhook {
            id: "wh_1".to_owned(),
            url: "https://example.com/old".to_owned(),
            wish: crate::item::listening::Wish::default(),
            secret: "new".to_owned(),
            old_secret: Some(("old".to_owned(), at(10))),
            disabled: None,
            created: (at(0), String::new()),
            changed: (at(0), String::new()),
        }
    }

    /// A mirror in which two messages wait for a target that failed so often before, and the first of them.
    async fn waits(folder: &tempfile::TempDir, id: &'static str, failures: u32, times: [i64; 2]) -> (Mirror, Waiting) {
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        let messages = times.map(|second| text::gap(&format!("m{second}"), 1, None, at(second))).to_vec();
        let target = Target { id: id.to_owned(), failures, failing_since: Some(at(1)), ..Target::default() };
        let written = mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                if id == "wh_1" {
                    webhooks::save_webhook(tx, &webhook()).await?;
                }
                outward::add_outgoing(tx, id, &messages, at(9)).await?;
                outward::save_target(tx, &target).await
            })
        });
        written.await.unwrap();
        let waiting = mirror.outgoing(id, 0, 1).await.unwrap().remove(0);
        (mirror, waiting)
    }

    async fn settled(
        mirror: &Mirror,
        id: &str,
        waiting: Waiting,
        outcome: Outcome,
        ended: i64,
    ) -> (Noted, Target, u64) {
        let endpoint = match id {
            "wh_1" => Endpoint::Webhook(Box::new(webhook())),
            to => Endpoint::Notice(to.to_owned()),
        };
        let ended = at(ended);
        let attempt = Attempt { id: id.to_owned(), endpoint, waiting, outcome, began: ended, ended, chance: 0.5 };
        let noted = mirror.write(move |tx: &mut Tx| Box::pin(async move { settle(tx, &attempt).await })).await.unwrap();
        let (target, waiting) = mirror.targets(Some(id)).await.unwrap().remove(0);
        (noted, target, waiting)
    }

    fn failed() -> Outcome {
        Outcome::Failed { status: Some(503), error: "it answered 503".to_owned(), retry_after: None }
    }

    #[tokio::test]
    async fn what_the_old_url_did_says_nothing_of_the_new_one() {
        for (outcome, left) in [(Outcome::Gone, 2), (failed(), 2), (Outcome::Taken { status: Some(204) }, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let (mirror, waiting) = waits(&folder, "wh_1", 7, [2, 3]).await;
            // Somebody changes where it leads to while the attempt lasts.
            let changed = mirror.write(|tx: &mut Tx| {
                Box::pin(async move {
                    let other = Webhook { url: "https://example.com/new".to_owned(), ..webhook() };
                    webhooks::save_webhook(tx, &other).await?;
                    outward::resume_target(tx, "wh_1").await
                })
            });
            changed.await.unwrap();
            let (noted, target, waiting) = settled(&mirror, "wh_1", waiting, outcome.clone(), 20).await;
            assert_eq!((noted.target, noted.told, waiting), (None, false, left), "{outcome:?}");
            assert_eq!(target, Target { id: "wh_1".to_owned(), ..Target::default() }, "{outcome:?}");
            assert_eq!(mirror.webhook("wh_1").await.unwrap().unwrap().disabled, None, "{outcome:?}");
            assert_eq!(mirror.deliveries("wh_1", i64::MAX, 9).await.unwrap().len(), 1, "it is noted");
        }
    }

    #[tokio::test]
    async fn one_that_was_resumed_during_an_attempt_has_all_its_tries_again() {
        let folder = tempfile::tempdir().unwrap();
        let (mirror, waiting) = waits(&folder, "wh_1", 7, [2, 3]).await;
        mirror.write(|tx: &mut Tx| Box::pin(outward::resume_target(tx, "wh_1"))).await.unwrap();
        let (noted, target, _) = settled(&mirror, "wh_1", waiting, failed(), 20).await;
        assert_eq!((noted.told, target.failures, target.paused_at, target.next_at), (false, 1, None, Some(at(25))));
    }

    #[tokio::test]
    async fn a_webhook_that_is_gone_is_disabled_and_knows_what_it_missed() {
        let folder = tempfile::tempdir().unwrap();
        let (mirror, waiting) = waits(&folder, "wh_1", 3, [2, 3]).await;
        let (noted, target, waiting) = settled(&mirror, "wh_1", waiting, Outcome::Gone, 20).await;
        assert_eq!((noted.told, waiting, target.missed, target.missed_since), (true, 0, 2, Some(at(2))));
        assert_eq!(mirror.webhook("wh_1").await.unwrap().unwrap().disabled.as_deref(), Some(GONE));
    }

    #[tokio::test]
    async fn notices_are_given_up_by_their_age_and_whom_they_go_to_is_tried_on() {
        const DAY: i64 = 86_400;
        let to = "mailto:ops@example.com";
        for (outcome, times, given_up, left) in [
            (failed(), [2, DAY], 1, 1),
            (failed(), [DAY, DAY], 0, 2),
            (failed(), [2, 3], 2, 0),
            (Outcome::Gone, [DAY, DAY], 1, 1),
            (Outcome::Gone, [2, DAY], 1, 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mirror, waiting) = waits(&folder, to, 40, times).await;
            let (noted, target, waiting) = settled(&mirror, to, waiting, outcome.clone(), DAY + 10).await;
            assert_eq!((noted.given_up, waiting), (given_up, left), "{outcome:?} {times:?}");
            // It stays shown, and is tried again within half an hour.
            let next = Some(at(DAY + 10 + 1_800));
            assert_eq!((target.failures, target.next_at, target.paused_at), (41, next, None), "{outcome:?}");
        }
    }
}
