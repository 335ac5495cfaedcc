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
//! Where the mirror cannot commit after 1. it is as after a crash, and nothing more is sent until it can: what cannot be noted would be
//! sent again and again.
//!
//! A webhook that takes nothing for a day is paused; a notice that nobody takes for so long is given up.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::attend::{self, Shown};
use super::backoff::Outcome;
use super::settle::{Attempt, Endpoint, delivery, settle};
use super::{Outward, Sent, text};
use crate::failpoint;
use crate::item::Timestamp;
use crate::lanes::{moment, now};
use crate::metrics;
use crate::mirror::outward::{self, Message, Target, Waiting};
use crate::mirror::webhooks::Webhook;
use crate::mirror::{MirrorError, Tx};

/// Targets served at once.
const AT_ONCE: usize = 32;

/// Messages of one target before others get its turn.
const IN_A_ROW: usize = 50;

/// The longest sleep between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is on its way gets so long when the daemon stops; what is not noted by then is sent again.
const GOODBYE: Duration = Duration::from_secs(2);

/// Targets that are being served, by who serves them.
type Busy = HashMap<Id, String>;

pub(super) async fn run(outward: Outward, stop: CancellationToken) {
    let mut at_work: JoinSet<()> = JoinSet::new();
    let mut busy = Busy::new();
    let mut measured = Timestamp::MIN;
    let mut shown = Shown::default();
    let mut mails_are_tried = outward.post.is_none();
    loop {
        let mut wait = LOOK_AGAIN;
        // Everything that waits is counted for it, so not with each message.
        if now().duration_since(measured).as_secs() >= LOOK_AGAIN.as_secs().cast_signed() {
            measured = now();
            // A mirror that cannot be read is told of by who needs it.
            let _ = measure(&outward, measured).await;
            let _ = shown.look(&outward).await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = outward.mirror.until_writable() => {}
            // What waits is counted on meanwhile.
            () = tokio::time::sleep(LOOK_AGAIN) => continue,
        }
        if !mails_are_tried {
            mails_are_tried = outward.mirror.write(|tx: &mut Tx| Box::pin(outward::retry_mails(tx))).await.is_ok();
        }
        match start(&outward, &mut at_work, &mut busy).await {
            Ok(next) => wait = next.map_or(wait, |next| wait.min(next)),
            Err(error) if error.trouble().is_some() => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "nothing can be sent outward"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = at_work.join_next_with_id(), if !at_work.is_empty() => match ended {
                Ok((id, ())) => drop(busy.remove(&id)),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "nothing can be sent to a target");
                    // It would do so again at once.
                    if let Some(target) = busy.remove(&error.id()) {
                        busy.insert(at_work.spawn(tokio::time::sleep(LOOK_AGAIN)).id(), target);
                    }
                }
            },
            () = outward.bells.outgoing.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    let _ = tokio::time::timeout(GOODBYE, async { while at_work.join_next().await.is_some() {} }).await;
}

/// Begins with whoever can be served; answers when the next one can.
async fn start(outward: &Outward, at_work: &mut JoinSet<()>, busy: &mut Busy) -> Result<Option<Duration>, MirrorError> {
    let now = now();
    for target in outward.mirror.due_targets(now).await? {
        if busy.len() >= AT_ONCE {
            break;
        }
        if busy.values().any(|id| *id == target.id) {
            continue;
        }
        let (outward, id) = (outward.clone(), target.id.clone());
        let task = at_work.spawn(async move {
            if let Err(error) = serve(&outward, target).await {
                // What was sent and is not noted is sent again, but not at once.
                tracing::warn!(error = &error as &dyn std::error::Error, "what was sent outward is not noted");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        busy.insert(task.id(), id);
    }
    let next = outward.mirror.next_target_at(now).await?;
    Ok(next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default()))
}

async fn measure(outward: &Outward, now: Timestamp) -> Result<(), MirrorError> {
    let lag = outward.mirror.outward_lag().await?;
    let oldest = lag.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
    metrics::outward(lag.waiting, oldest, lag.paused);
    Ok(())
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
        outward.mirror.until_writable().await;
        let began = now();
        let outcome = attempt(outward, &endpoint, &waiting).await;
        let taken = matches!(outcome, Outcome::Taken { .. });
        metrics::sent_outward(matches!(endpoint, Endpoint::Webhook(_)), taken);
        failpoint::reach("outward.sent").await;
        let (id, ended, chance) = (id.clone(), now(), moment().chance);
        let noted = note(outward, Attempt { id, endpoint, waiting, outcome, began, ended, chance }).await?;
        failpoint::reach("outward.noted").await;
        match noted {
            Some(stands) if taken => target = stands,
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn tell_gap(outward: &Outward, target: &Target) -> Result<bool, MirrorError> {
    if target.missed == 0 {
        return Ok(false);
    }
    let (id, own, now) = (format!("gap/{}", crate::lanes::new_id()), target.id.clone(), now());
    let gap = move |missed, since| text::gap(&id, missed, since, now);
    outward.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::tell_gap(tx, &own, gap).await })).await
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

/// Notes an attempt; answers how it stands with the target then.
async fn note(outward: &Outward, attempt: Attempt) -> Result<Option<Target>, MirrorError> {
    let id = attempt.id.clone();
    let noted = outward.mirror.write(move |tx: &mut Tx| Box::pin(async move { settle(tx, &attempt).await })).await?;
    let why = noted.target.as_ref().and_then(|target| target.last_error.as_deref());
    if noted.told {
        tracing::warn!(webhook = id, why, "a webhook takes nothing and is left alone");
        outward.wakes.events.notify_one();
        outward.bells.webhooks.notify_one();
    }
    if noted.given_up > 0 {
        let to = attend::place(&id);
        tracing::warn!(to, why, given_up = noted.given_up, "notices were not taken and are given up");
    }
    Ok(noted.target)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions as _, Connection as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::send::{Allowed, Sender};
    use super::super::settle::tests::{at, webhook};
    use super::*;
    use crate::lanes::live::{InForce, Live};
    use crate::mirror::Mirror;
    use crate::mirror::webhooks;

    /// Takes everything; answers where, and how many came.
    async fn endpoint() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let taken = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            }
        });
        (url, taken)
    }

    fn outward(mirror: &Mirror) -> Outward {
        Outward {
            mirror: mirror.clone(),
            live: Live::new(InForce::default()),
            status: Arc::default(),
            wakes: Arc::default(),
            sender: Sender::new(Allowed { private: true, http: true }),
            post: None,
            secrets: Vec::new(),
            bells: Arc::default(),
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_that_could_not_be_noted() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        let mirror = Mirror::open(&format!("sqlite://{}", path.display())).await.unwrap();
        let (url, taken) = endpoint().await;
        let saved = Webhook { url, ..webhook() };
        let written = mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                webhooks::save_webhook(tx, &saved).await?;
                outward::add_outgoing(tx, &saved.id, &[text::gap("m", 1, None, at(1))], at(1)).await
            })
        });
        written.await.unwrap();
        // Somebody holds the lock: what is written now is refused, and what is read is not.
        let mut stranger = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut stranger).await.unwrap();
        mirror.write(|tx: &mut Tx| Box::pin(outward::retry_mails(tx))).await.unwrap_err();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(outward(&mirror), stop.clone()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(taken.load(Ordering::SeqCst), 0);
        sqlx::query("ROLLBACK").execute(&mut stranger).await.unwrap();
        stranger.close().await.unwrap();
        while !mirror.outgoing("wh_1", 0, 1).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(taken.load(Ordering::SeqCst), 1);
        stop.cancel();
        running.await.unwrap();
    }

    #[test]
    fn an_old_secret_signs_for_its_time() {
        let webhook = webhook();
        assert_eq!(
            (signing(&webhook, at(9)), signing(&webhook, at(10))),
            (vec!["new".to_owned(), "old".to_owned()], vec!["new".to_owned()])
        );
    }
}
