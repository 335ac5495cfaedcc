//! Changes that are to be told.

use super::super::{changes, items, plan, records};
use super::*;
use crate::definition::QueueDefinition;
use crate::item::door::{self, Arrival, NewItem};
use crate::item::timeline::Line;
use crate::item::{ItemId, Timestamp};

const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// An item with these lines, as `event, state`.
async fn item(bench: &Bench, reference: &str, ignored: &[&str], lines: &[(&'static str, &str)]) -> ItemId {
    let new = NewItem { reference: Some(reference.to_owned()), ..NewItem::default() };
    let ignored = ignored.iter().map(ToString::to_string).collect();
    let arrival = Arrival { new, ignored, ..Arrival::default() };
    let id = ItemId::new(uuid::Uuid::now_v7());
    let item = door::admit(&QueueDefinition::with_defaults("a"), &arrival, 4, String::new(), id, AT);
    let lines: Vec<(ItemId, Line)> =
        (1..).zip(lines).map(|(revision, line)| (id, self::line(revision, line))).collect();
    let written = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            items::insert(tx, &[(&item, false)]).await?;
            records::append_lines(tx, &lines).await
        })
    });
    written.await.unwrap();
    id
}

fn line(revision: u32, (event, state): &(&'static str, &str)) -> Line {
    Line {
        revision,
        at: AT,
        actor: "x".to_owned(),
        user: None,
        event: (*event).into(),
        why: Some("is not told".to_owned()),
        attempt: 1,
        state: (*state).to_owned(),
        ended: None,
    }
}

async fn waiting(bench: &Bench) -> Vec<(i64, String)> {
    let waiting = bench.mirror.waiting_changes(100).await.unwrap();
    let event = |change: changes::WaitingChange| {
        change.change.map_or("gone".to_owned(), |change| {
            format!("{} {}", change.reference.unwrap_or_default(), change.line.event)
        })
    };
    waiting.into_iter().map(|waiting| (waiting.seq, event(waiting))).collect()
}

async fn forget(bench: &Bench, up_to: i64, most: i64) -> bool {
    bench.mirror.write(move |tx: &mut Tx| Box::pin(changes::remove_oldest(tx, up_to, most))).await.unwrap()
}

#[tokio::test]
async fn lines_that_are_changes_wait_in_the_order_of_their_commits() {
    let bench = Bench::new().await;
    let lines = [("admitted", "queued"), ("noted", "queued"), ("started", "processing"), ("progress", "processing")];
    let one = item(&bench, "one", &["CC: no"], &lines).await;
    item(&bench, "two", &[], &[("admitted", "queued"), ("processed", "processed")]).await;
    let expected = ["one admitted", "one started", "two admitted", "two processed"];
    let found = waiting(&bench).await;
    assert_eq!(found.iter().map(|(_, event)| event.as_str()).collect::<Vec<_>>(), expected);
    let first = bench.mirror.waiting_changes(1).await.unwrap().remove(0).change.unwrap();
    assert_eq!((first.item, first.queue.as_str(), first.ignored), (one, "a", vec!["CC: no".to_owned()]));
    assert_eq!((bench.mirror.untold().await.unwrap(), bench.mirror.newest_change().await.unwrap()), (4, Some(4)));
}

#[tokio::test]
async fn what_is_forgotten_is_never_a_newer_change() {
    let bench = Bench::new().await;
    item(&bench, "one", &[], &[("admitted", "queued"), ("processed", "processed")]).await;
    assert!(!forget(&bench, 2, 10).await);
    assert_eq!((waiting(&bench).await, bench.mirror.untold().await.unwrap()), (vec![], 0));
    // A second order to forget the same finds other numbers, though the table was empty between.
    item(&bench, "two", &[], &[("admitted", "queued")]).await;
    assert!(!forget(&bench, 2, 10).await);
    assert_eq!(waiting(&bench).await, [(3, "two admitted".to_owned())]);
}

#[tokio::test]
async fn many_changes_are_forgotten_in_few_transactions() {
    let bench = Bench::new().await;
    bench
        .write(
            "INSERT INTO changes (item, revision) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
             WHERE n < 25000) SELECT 'x', n FROM n",
        )
        .await
        .unwrap();
    let mut transactions = 1;
    while forget(&bench, 24_990, 10_000).await {
        transactions += 1;
    }
    assert_eq!((transactions, bench.mirror.untold().await.unwrap()), (3, 10));
    // Somebody took the items out of the mirror: that stops nobody.
    assert!(waiting(&bench).await.iter().all(|(_, event)| event == "gone"));
}

#[tokio::test]
async fn changes_are_read_without_looking_at_what_is_not_told() {
    let bench = Bench::new().await;
    let plan = plan(&bench.mirror, changes::WAITING).await;
    let expected = ["SCAN changes", "SEARCH timeline USING PRIMARY KEY (item=? AND revision=?) LEFT-JOIN"];
    assert_eq!(plan[..2], expected, "{plan:#?}");
    assert!(plan[2].starts_with("SEARCH items USING INDEX") && plan.len() == 3, "{plan:#?}");
}
