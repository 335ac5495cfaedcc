//! What waits to be sent, to whom, and webhooks.

use super::super::outward::{self, Delivery, KEPT_DELIVERIES, MOST_WAITING, Message, NEXT, Target, due_sql};
use super::super::plan;
use super::super::webhooks::{self, Webhook};
use super::*;
use crate::item::Timestamp;
use crate::item::listening::Wish;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn webhook(id: &str) -> Webhook {
    Webhook {
        id: id.to_owned(),
        url: "https://example.com/".to_owned(),
        wish: Wish { types: vec!["item.*".to_owned()], queues: vec!["a".to_owned()] },
        secret: "whsec_x".to_owned(),
        old_secret: Some(("whsec_y".to_owned(), at(9))),
        disabled: None,
        created: (at(1), "x".to_owned()),
        changed: (at(2), "y".to_owned()),
    }
}

fn messages(from: i64, count: i64) -> Vec<Message> {
    let message =
        |n: i64| Message { id: n.to_string(), kind: "item.queued".to_owned(), at: at(n), body: "{}".to_owned() };
    (from..from + count).map(message).collect()
}

async fn save(bench: &Bench, webhook: Webhook) {
    let saved =
        bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { webhooks::save_webhook(tx, &webhook).await }));
    saved.await.unwrap();
}

async fn add(bench: &Bench, target: &'static str, messages: Vec<Message>) {
    let added = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move { outward::add_outgoing(tx, target, &messages, at(1_000_000)).await })
    });
    added.await.unwrap();
}

async fn first(bench: &Bench, target: &str) -> Option<(i64, String)> {
    bench.mirror.outgoing(target, 0, 1).await.unwrap().pop().map(|waiting| (waiting.seq, waiting.message.id))
}

#[tokio::test]
async fn a_webhook_is_read_as_it_was_written_and_goes_with_all_that_is_its() {
    let bench = Bench::new().await;
    for id in ["wh_a", "wh_b"] {
        save(&bench, webhook(id)).await;
    }
    let changed = Webhook { disabled: Some("by x".to_owned()), old_secret: None, ..webhook("wh_b") };
    save(&bench, changed.clone()).await;
    assert_eq!(bench.mirror.webhooks().await.unwrap(), [webhook("wh_a"), changed.clone()]);
    let enabled = bench.mirror.write(|tx: &mut Tx| Box::pin(webhooks::enabled_webhooks(tx))).await.unwrap();
    assert_eq!(enabled, [webhook("wh_a")]);
    add(&bench, "wh_a", messages(1, 3)).await;
    let remove = || bench.mirror.write(|tx: &mut Tx| Box::pin(webhooks::remove_webhook(tx, "wh_a")));
    assert!(remove().await.unwrap());
    assert!(!remove().await.unwrap());
    assert_eq!((bench.mirror.webhooks().await.unwrap(), first(&bench, "wh_a").await), (vec![changed], None));
}

#[tokio::test]
async fn too_many_are_counted_and_told_as_one_gap_once_the_rest_is_sent() {
    let bench = Bench::new().await;
    save(&bench, webhook("wh_a")).await;
    add(&bench, "wh_a", messages(0, MOST_WAITING - 1)).await;
    add(&bench, "wh_a", messages(MOST_WAITING - 1, 5)).await;
    add(&bench, "wh_a", messages(MOST_WAITING + 4, 2)).await;
    let (target, waiting) = bench.mirror.targets(None).await.unwrap().remove(0);
    assert_eq!((target.missed, target.missed_since, waiting), (6, Some(at(MOST_WAITING)), MOST_WAITING as u64));
    let gap = |missed: u64, since: Option<Timestamp>| Message {
        body: format!("{missed} since {}", since.unwrap()),
        ..messages(77, 1).remove(0)
    };
    let tell =
        || bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::tell_gap(tx, "wh_a", gap).await }));
    assert!(!tell().await.unwrap(), "what waits goes first");
    bench.write("DELETE FROM outgoing").await.unwrap();
    assert_eq!(bench.mirror.due_targets(at(1)).await.unwrap().len(), 1, "a gap is to be told");
    // Whoever looked by now counts too few.
    add(&bench, "wh_a", messages(MOST_WAITING + 6, 40)).await;
    assert!(tell().await.unwrap());
    assert!(!tell().await.unwrap(), "once");
    add(&bench, "wh_a", messages(100, 1)).await;
    let told = bench.mirror.outgoing("wh_a", 0, 9).await.unwrap();
    assert_eq!(told.iter().map(|waiting| waiting.message.id.as_str()).collect::<Vec<_>>(), ["77", "100"]);
    assert_eq!(told[0].message.body, format!("46 since {}", at(MOST_WAITING)));
}

#[tokio::test]
async fn what_waits_for_one_that_is_disabled_is_missed_from_the_oldest_on() {
    let bench = Bench::new().await;
    for id in ["wh_a", "wh_b", "wh_c"] {
        save(&bench, webhook(id)).await;
    }
    add(&bench, "wh_a", messages(100, 500)).await;
    // What came last was missed before what waits is thrown away.
    bench.mirror.write(|tx: &mut Tx| Box::pin(outward::miss(tx, "wh_a", 3, at(900)))).await.unwrap();
    add(&bench, "wh_c", messages(100, 1)).await;
    for id in ["wh_a", "wh_b"] {
        let forgotten = bench.mirror.write(move |tx: &mut Tx| Box::pin(outward::forget_outgoing(tx, id, at(9_000))));
        forgotten.await.unwrap();
    }
    let targets = bench.mirror.targets(None).await.unwrap();
    let missed: Vec<_> =
        targets.iter().map(|(target, waiting)| (target.missed, target.missed_since, *waiting)).collect();
    // Where nothing waited: it is not told of what comes.
    assert_eq!(missed, [(503, Some(at(100)), 0), (1, Some(at(9_000)), 0), (0, None, 1)]);
    let one = bench.mirror.targets(Some("wh_c")).await.unwrap();
    assert_eq!(one.iter().map(|(target, _)| target.id.as_str()).collect::<Vec<_>>(), ["wh_c"]);
}

#[tokio::test]
async fn targets_of_notices_go_with_their_rules_once_nothing_is_to_be_told() {
    let bench = Bench::new().await;
    save(&bench, webhook("wh_a")).await;
    for target in ["mailto:named@b", "mailto:idle@b", "mailto:waits@b", "https://missed/"] {
        add(&bench, target, messages(1, 2)).await;
        let delivery = Delivery {
            seq: 0,
            event: "1".to_owned(),
            kind: "notice".to_owned(),
            at: at(1),
            attempt: 1,
            status: None,
            error: None,
            took_ms: 1,
        };
        let noted = bench
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { outward::add_delivery(tx, target, &delivery).await }));
        noted.await.unwrap();
    }
    bench.write("DELETE FROM outgoing WHERE target <> 'mailto:waits@b'").await.unwrap();
    bench.write("UPDATE targets SET missed = 1 WHERE id = 'https://missed/'").await.unwrap();
    let named = std::collections::BTreeSet::from(["mailto:named@b".to_owned()]);
    let forgotten =
        bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::forget_notices(tx, &[], &named).await }));
    forgotten.await.unwrap();
    let left = bench.mirror.targets(None).await.unwrap();
    let left: Vec<&str> = left.iter().map(|(target, _)| target.id.as_str()).collect();
    assert_eq!(left, ["https://missed/", "mailto:named@b", "mailto:waits@b", "wh_a"]);
    assert!(bench.mirror.deliveries("mailto:idle@b", i64::MAX, 9).await.unwrap().is_empty());
    assert_eq!(bench.mirror.deliveries("mailto:named@b", i64::MAX, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn targets_are_due_when_their_time_has_come() {
    let bench = Bench::new().await;
    for id in ["wh_a", "wh_b", "wh_c", "wh_d"] {
        save(&bench, webhook(id)).await;
    }
    for id in ["wh_a", "wh_b", "wh_c"] {
        add(&bench, id, messages(1, 2)).await;
    }
    for target in [
        Target { id: "wh_b".to_owned(), failures: 1, next_at: Some(at(50)), ..Target::default() },
        Target { id: "wh_c".to_owned(), paused_at: Some(at(1)), ..Target::default() },
    ] {
        let saved =
            bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::save_target(tx, &target).await }));
        saved.await.unwrap();
    }
    let due = async |second| {
        let due = bench.mirror.due_targets(at(second)).await.unwrap();
        due.into_iter().map(|target| target.id).collect::<Vec<_>>()
    };
    assert_eq!((due(49).await, due(50).await), (vec!["wh_a".to_owned()], vec!["wh_a".to_owned(), "wh_b".to_owned()]));
    assert_eq!(bench.mirror.next_target_at(at(49)).await.unwrap(), Some(at(50)));
    let lag = bench.mirror.outward_lag().await.unwrap();
    assert_eq!((lag.waiting, lag.oldest, lag.paused), (6, Some(at(1)), 1));
    bench.mirror.write(|tx: &mut Tx| Box::pin(outward::resume_target(tx, "wh_c"))).await.unwrap();
    assert_eq!(due(1).await, ["wh_a", "wh_c"]);
    let (seq, _) = first(&bench, "wh_a").await.unwrap();
    bench.mirror.write(move |tx: &mut Tx| Box::pin(outward::remove_outgoing(tx, seq))).await.unwrap();
    assert_eq!(first(&bench, "wh_a").await.map(|(_, id)| id).as_deref(), Some("2"));
}

#[tokio::test]
async fn the_last_attempts_are_kept() {
    let bench = Bench::new().await;
    save(&bench, webhook("wh_a")).await;
    for n in 0..KEPT_DELIVERIES + 5 {
        let delivery = Delivery {
            seq: 0,
            event: n.to_string(),
            kind: "item.queued".to_owned(),
            at: at(n),
            attempt: 1,
            status: Some(200),
            error: None,
            took_ms: 3,
        };
        let noted = bench.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                outward::add_delivery(tx, "nobody", &delivery).await?;
                outward::add_delivery(tx, "wh_a", &delivery).await
            })
        });
        noted.await.unwrap();
    }
    let kept = bench.mirror.deliveries("wh_a", i64::MAX, 1_000).await.unwrap();
    assert_eq!((i64::try_from(kept.len()), kept[0].event.as_str()), (Ok(KEPT_DELIVERIES), "104"));
    assert!(bench.mirror.deliveries("nobody", i64::MAX, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_next_is_found_by_an_index() {
    let bench = Bench::new().await;
    let next = plan(&bench.mirror, NEXT).await;
    assert_eq!(next, ["SEARCH outgoing USING INDEX outgoing_by_target (target=? AND seq>?)"]);
    let due = plan(&bench.mirror, &due_sql()).await;
    assert!(
        due.iter().any(|step| step.contains("outgoing USING COVERING INDEX outgoing_by_target (target=?)")),
        "{due:#?}"
    );
}
