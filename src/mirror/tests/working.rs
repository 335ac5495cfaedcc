//! Which items take too long, and what is usual.

use super::super::working::overdue;
use super::*;
use crate::item::Timestamp;

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

fn started(number: u8, queue: &str, state: &str, at: &str, finished: &str) -> String {
    let place = if state == "processing" { "broker" } else { "settled" };
    format!(
        "INSERT INTO items (id, queue, lane, state, place, priority, attempt, deliveries, retries, requeues, silent, \
         possible_repeat, ran_anyway, stub, worker, enqueued_at, ready_at, started_at, finished_at, revision) \
         VALUES ('00000000-0000-0000-0000-00000000000{number}', '{queue}', 'managed', '{state}', '{place}', 4, 1, 1, 0, 0, \
         0, 0, 0, 0, 'r{number}', 1, 1, {at}, {finished}, 1)"
    )
}

#[tokio::test]
async fn what_was_started_is_found_by_its_queue_and_age() {
    let bench = Bench::new().await;
    let rejected = started(4, "a", "processing", "5", "NULL").replace("ready_at,", "rejected_at, ready_at,");
    for sql in [
        started(1, "a", "processing", "30", "NULL"),
        started(2, "a", "processing", "20", "NULL"),
        started(3, "b", "processing", "10", "NULL"),
        rejected.replace("'r4', 1, 1,", "'r4', 1, 9, 1,"),
        started(5, "a", "processed", "1", "2"),
        "INSERT INTO timeline (item, revision, at, actor, event, attempt, state) \
         VALUES ('00000000-0000-0000-0000-000000000002', 1, 25, 'r2', 'progress', 1, 'processing')"
            .to_owned(),
    ] {
        bench.write(sql.leak()).await.unwrap();
    }
    let mirror = &bench.mirror;
    assert_eq!(mirror.first_started("a").await.unwrap(), Some(time(20)));
    assert_eq!(mirror.first_started("c").await.unwrap(), None);
    let long = async |by, limit| -> Vec<(Option<String>, i64)> {
        let found = mirror.long_silent("a", time(by), limit).await.unwrap();
        found.into_iter().map(|found| (found.robot, found.heard_at.as_microsecond())).collect()
    };
    let (one, two) = ((Some("r1".to_owned()), 30), (Some("r2".to_owned()), 25));
    assert!(long(24, 9).await.is_empty(), "something was heard of it later");
    assert_eq!(long(29, 9).await, std::slice::from_ref(&two));
    assert_eq!(long(30, 1).await, std::slice::from_ref(&two));
    assert_eq!(long(30, 9).await, [two, one]);
    let over = mirror.write(|tx: &mut Tx| Box::pin(overdue(tx, "a", time(20), 9))).await.unwrap();
    assert_eq!(over.iter().map(|item| item.worker.as_deref()).collect::<Vec<_>>(), [Some("r2")]);
}

#[tokio::test]
async fn what_is_usual_is_taken_from_the_latest_that_are_done() {
    let bench = Bench::new().await;
    for (number, at, finished) in
        [(1, "0", "900"), (2, "10", "40"), (3, "NULL", "50"), (4, "60", "50"), (5, "70", "80")]
    {
        bench.write(started(number, "a", "processed", at, finished).leak()).await.unwrap();
    }
    let times = bench.mirror.handling_times("a", 4).await.unwrap();
    assert_eq!(times, [10, 30].map(Duration::from_micros), "said, and not before it began; the first is too long ago");
    assert!(bench.mirror.handling_times("b", 4).await.unwrap().is_empty());
}
