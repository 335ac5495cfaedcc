//! A key's row stands with what was done for it, and only there.

use std::sync::Arc;

use super::super::keys::{self, Mark, OLD, Told};
use super::super::plan;
use super::*;
use crate::item::Timestamp;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn mark(key: &str, at: i64) -> Arc<Mark> {
    Arc::new(Mark::new("ann".to_owned(), key.to_owned(), "request".to_owned(), second(at), second(at - 100)))
}

const CHANGE: &str = "INSERT INTO meta (key, value) VALUES ('k', '1') ON CONFLICT (key) DO UPDATE SET value = '2'";

#[tokio::test]
async fn a_key_is_noted_with_what_is_done_and_with_nothing_else() {
    let bench = Bench::new().await;
    let used = async |key: &str| bench.mirror.used_key("ann", key, second(0)).await.unwrap();

    keys::under(mark("nothing", 1000), bench.write("DELETE FROM meta WHERE key = 'not there'")).await.unwrap();
    assert_eq!(used("nothing").await, None);
    keys::under(mark("fails", 1000), bench.write("INSERT INTO nowhere VALUES (1)")).await.unwrap_err();
    assert_eq!(used("fails").await, None);

    keys::under(mark("done", 1000), bench.write(CHANGE)).await.unwrap();
    let done = used("done").await.unwrap();
    assert_eq!((done.request.as_str(), done.told), ("request", None));
    assert_eq!(bench.mirror.used_key("bob", "done", second(0)).await.unwrap(), None, "keys are their caller's");

    // Without a key, in a task of its own, and in one that carries it on.
    bench.write(CHANGE).await.unwrap();
    let mirror = bench.mirror.clone();
    let elsewhere = async move { mirror.write(|tx: &mut Tx| Box::pin(run(tx, CHANGE))).await };
    let spawned = async { tokio::spawn(keys::carried(elsewhere)).await.unwrap() };
    keys::under(mark("spawned", 1000), spawned).await.unwrap();
    assert!(used("spawned").await.is_some());
}

#[tokio::test]
async fn an_answer_that_is_kept_stays_until_its_time_is_over() {
    let bench = Bench::new().await;
    let told = |status| Told { status, headers: vec![("etag".to_owned(), "\"1\"".to_owned())], body: b"{}".to_vec() };
    let keep = async |key: &str, at: i64, told: Told| {
        let mark = mark(key, at);
        let kept = Arc::clone(&mark);
        bench
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { keys::keep(tx, &kept, &told).await }))
            .await
            .unwrap();
        assert!(mark.is_kept());
    };
    keep("k", 1000, told(201)).await;
    keep("k", 1050, told(409)).await;
    let used = bench.mirror.used_key("ann", "k", second(0)).await.unwrap().unwrap();
    assert_eq!(used.told, Some(told(201)));
    assert_eq!(bench.mirror.used_key("ann", "k", second(1001)).await.unwrap(), None);
    // The first one's time is over: it is another request's key now.
    keep("k", 2000, told(200)).await;
    assert_eq!(bench.mirror.used_key("ann", "k", second(1900)).await.unwrap().unwrap().told, Some(told(200)));

    for n in 0..450 {
        keep(&format!("n{n}"), 500, told(200)).await;
    }
    let forget = async || bench.mirror.forget_keys(second(600)).await.unwrap();
    assert_eq!([forget().await, forget().await, forget().await, forget().await], [true, true, false, false]);
    assert!(bench.mirror.used_key("ann", "k", second(0)).await.unwrap().is_some());
    assert_eq!(bench.mirror.used_key("ann", "n1", second(0)).await.unwrap(), None);
}

#[tokio::test]
async fn old_keys_are_found_by_an_index() {
    let bench = Bench::new().await;
    let steps = plan(&bench.mirror, OLD).await;
    assert!(steps.iter().any(|step| step.contains("INDEX idempotency_keys_by_age (at<?)")), "{steps:#?}");
}
