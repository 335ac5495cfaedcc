//! Fail points that need a situation of their own. With `crash_points` every point there is has its test.

use std::collections::BTreeSet;
use std::fs;

use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde_json::json;

use crate::support::amqp::{self, Client, headers, text};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn an_api_call_that_was_committed_and_not_answered_is_there() {
    let mut daemon = daemon("crash enqueue").queues("queue: a\nunique: true\n").start().await;
    daemon.kill();
    daemon.spawn_to_die_at("enqueue.committed");
    let item = json!({"reference": "r", "payload": {"n": 1}});
    daemon
        .wait_until("the call breaks off", async |daemon: &Daemon| {
            let call = reqwest::Client::builder().no_proxy().build().unwrap();
            let call = call.post(format!("{}/api/v1/queues/a/items", daemon.url())).json(&item).send().await;
            call.is_err_and(|error| !error.is_connect())
        })
        .await;
    daemon.wait_until_dead("enqueue.committed").await;
    daemon.start_again().await;
    assert_eq!(daemon.item("a", "r").await["state"], "queued");
    assert_eq!(daemon.post("/api/v1/queues/a/items", &item).await.0, 200, "the same item, asked for again");
    assert_eq!(daemon.items("queue=a").await.len(), 1);
}

#[tokio::test]
async fn a_dispatch_that_no_queue_took_is_ready_again() {
    // Or control mends it before anything is dispatched.
    let mut daemon = daemon("crash returned").queues("queue: a\n").setting("CONTROL__DRIFT", "report").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.kill();
    daemon.spawn_to_die_at("dispatch.returned");
    daemon
        .wait_until("it is ready", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    // Unbound from the daemon's exchange: what is dispatched comes back.
    let unbound = client.channel.queue_unbind("wq.q.a".into(), "wq.dispatch".into(), "a".into(), FieldTable::default());
    unbound.await.unwrap();
    for number in 0..5 {
        client.send("a", &format!("r-{number}"), &json!({})).await;
    }
    daemon.wait_until_dead("dispatch.returned").await;
    daemon.start_again().await;
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::Processed).await;
    daemon.wait_until_done("a", 5).await;
    assert!(daemon.items("queue=a").await.iter().all(|item| item["state"] == "processed" && item["attempt"] == 1));
    crew.dismiss().await;
}

#[tokio::test]
async fn a_crash_while_dispatch_is_repeated_repeats_it_once_more() {
    const ITEMS: usize = 7;
    let mut daemon = daemon("crash repeating").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.kill();
    for number in 0..ITEMS {
        client.send("a", &format!("r-{number}"), &json!({})).await;
    }
    daemon.die_at("dispatch.published").await;
    daemon.die_at("dispatch.repeating").await;
    daemon.die_at("dispatch.repeating").await;
    daemon.start_again().await;
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::Processed).await;
    daemon.wait_until_done("a", ITEMS as u64).await;
    daemon.wait_until("every repeat is worked off", async |_: &Daemon| client.ready("wq.q.a").await == 0).await;
    let seen = crew.dismiss().await;
    let told: BTreeSet<_> = seen.iter().map(|seen| (&seen.reference, &seen.id, seen.attempt)).collect();
    assert_eq!(told.len(), ITEMS, "a repeat carries the same id and attempt: {seen:?}");
    assert!(daemon.items("queue=a").await.iter().all(|item| item["state"] == "processed" && item["attempt"] == 1));
}

#[tokio::test]
async fn what_was_unrouted_arrives_once_whenever_the_daemon_dies() {
    const ITEMS: usize = 5;
    let mut daemon = daemon("crash unrouted").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.kill();
    for (point, key) in [("unrouted.published", "late"), ("unrouted.acked", "later")] {
        for number in 0..ITEMS {
            client.send(key, &format!("r-{number}"), &json!({"n": number})).await;
        }
        fs::write(daemon.definitions_dir().join(format!("{key}.yaml")), format!("queue: {key}\nunique: true\n"))
            .unwrap();
        daemon.die_at(point).await;
        daemon
            .wait_until("all are in one place at least", async |_: &Daemon| {
                let unrouted = client.ready("wq.unrouted").await;
                if point == "unrouted.acked" { unrouted == 0 } else { unrouted as usize == ITEMS }
            })
            .await;
        daemon.start_again().await;
        let crew = Crew::hire(&daemon.vhost, key, 1, |_| Ending::Processed).await;
        daemon.wait_until_done(key, ITEMS as u64).await;
        daemon
            .wait_until("nothing is left over", async |_: &Daemon| {
                client.ready("wq.unrouted").await + client.ready("wq.intake").await == 0
            })
            .await;
        assert_eq!(daemon.items(&format!("queue={key}")).await.len(), ITEMS);
        crew.dismiss().await;
        daemon.kill();
    }
}

#[tokio::test]
async fn acks_taken_for_done_are_taken_once() {
    const ITEMS: usize = 6;
    let mut daemon = daemon("crash reconcile")
        .queues("queue: a\n")
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .setting("CONTROL__OBSERVATION_GAP", "2s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::AckOnly).await;
    daemon.stop();
    daemon.spawn_to_die_at("reconcile.settled");
    for number in 0..ITEMS {
        client.send("a", &format!("r-{number}"), &json!({})).await;
    }
    daemon.wait_until_dead("reconcile.settled").await;
    daemon.start_again().await;
    daemon.wait_until_done("a", ITEMS as u64).await;
    let items = daemon.items("queue=a").await;
    assert!(items.iter().all(|item| item["state"] == "processed" && item["inferred"] == true), "{items:?}");
    for item in &items {
        let lines = daemon.timeline(item).await;
        assert_eq!(lines.iter().filter(|line| line["state"] == "processed").count(), 1, "{lines:?}");
    }
    assert_eq!(daemon.queue("a").await["unaccounted"], 0);
    assert_eq!(crew.dismiss().await.len(), ITEMS);
}

#[tokio::test]
async fn an_attempt_that_took_too_long_ends_once() {
    let mut daemon = daemon("crash timeouts").queues("queue: a\nprocessing_timeout: 1s\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.stop();
    daemon.spawn_to_die_at("timeouts.ended");
    client.send("a", "r", &json!({})).await;
    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    robot.report(&delivery, "started", &json!({})).await;
    daemon.wait_until_dead("timeouts.ended").await;
    daemon.start_again().await;
    let item = daemon.item("a", "r").await;
    assert_eq!(json!([item["state"], item["kind"]]), json!(["exception", "timeout"]));
    let lines = daemon.timeline(&item).await;
    assert_eq!(lines.iter().filter(|line| line["event"] == "exception").count(), 1, "{lines:?}");
    // Its robot was only slow: work done is done.
    robot.done(&delivery).await;
    daemon.wait_until("it is done", async |daemon| daemon.item("a", "r").await["state"] == "processed").await;
}

#[tokio::test]
async fn a_crossing_that_was_committed_and_not_sent_is_told_once() {
    let mut daemon = daemon("crash sla").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen_to(&["sla.#"]).await;
    daemon.kill();
    for number in 0..5 {
        let due = headers(&[("wq-due-at", text("2026-01-01T00:00:00Z"))]);
        let properties = BasicProperties::default().with_message_id(format!("r-{number}").into()).with_headers(due);
        assert!(client.publish("wq.items", "a", properties, b"{}").await);
    }
    daemon.die_at("timers.crossed").await;
    daemon.start_again().await;
    let mut told = BTreeSet::new();
    while told.len() < 5 {
        daemon.wait_until("an event comes", async |_: &Daemon| client.ready("heard").await > 0).await;
        let event = client.take("heard").await.expect("an event");
        if event.routing_key.as_str() == "sla.late.a" {
            let body: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
            assert!(told.insert(body["reference"].as_str().unwrap().to_owned()), "{body} is told twice");
        }
    }
    for item in daemon.items("queue=a").await {
        let lines = daemon.timeline(&item).await;
        assert_eq!(lines.iter().filter(|line| line["event"] == "late").count(), 1, "{lines:?}");
        assert_eq!(item["sla"], "late");
    }
}

#[tokio::test]
async fn an_end_and_what_it_makes_are_there_together_or_not_at_all() {
    let queues = "queue: a\non_processed: b\nretry: {it: {limit: 0}}\nbreaker: {after: 1, pause: 1h}\n---\nqueue: b\n";
    let mut daemon = daemon("crash chain").queues(queues).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    let mut robot = client.robot("a").await;
    for (point, reference, says) in [
        ("chain.noted", "r-1", "processed"),
        ("reports.committed", "r-2", "processed"),
        ("breaker.told", "r-3", "it_exception"),
    ] {
        daemon.kill();
        daemon.spawn_to_die_at(point);
        client.send("a", reference, &json!({})).await;
        let mut delivery = robot.next().await;
        while amqp::reference(&delivery) != reference {
            // A repeat, of which nobody had seen the confirm.
            robot.ack(&delivery).await;
            delivery = robot.next().await;
        }
        robot.report(&delivery, says, &json!({"reason": "no answer"})).await;
        robot.ack(&delivery).await;
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        let end = if says == "processed" { "processed" } else { "exception" };
        daemon
            .wait_until("the end is in the mirror", async |daemon: &Daemon| {
                daemon.item("a", reference).await["state"] == end
            })
            .await;
        let item = daemon.item("a", reference).await;
        let children = daemon.items(&format!("queue=b&reference={reference}")).await;
        if end == "processed" {
            assert_eq!((children.len(), &item["children"]), (1, &json!([children[0]["id"]])));
            assert_eq!(daemon.payload(&children[0]).await.as_deref(), Some("{}"));
        } else {
            assert_eq!(json!([children, daemon.queue("a").await["breaker"]["failures"]]), json!([[], 1]));
        }
        let chained = daemon.timeline(&item).await.iter().filter(|line| line["event"] == "chained").count();
        assert_eq!(chained, children.len());
    }
    daemon.wait_until("its opening is told", async |_: &Daemon| client.ready("heard").await > 0).await;
    let mut heard = client.take("heard").await.unwrap();
    // What control said at the first start waited for somebody who listens.
    if heard.routing_key.as_str() == "control.revision" {
        daemon.wait_until("its opening is told", async |_: &Daemon| client.ready("heard").await > 0).await;
        heard = client.take("heard").await.unwrap();
    }
    assert_eq!(heard.routing_key.as_str(), "queue.breaker_opened.a");
    assert!(client.take("heard").await.is_none_or(|event| !event.routing_key.as_str().contains("breaker")));
}

#[test]
fn every_fail_point_has_its_crash() {
    let tests = [
        include_str!("crash_points.rs"),
        include_str!("crash_corners.rs"),
        include_str!("crash_life.rs"),
        include_str!("crash_migration.rs"),
        include_str!("crash_control.rs"),
        include_str!("crash_orders.rs"),
        include_str!("crash_claims.rs"),
        include_str!("deleted_queue.rs"),
        include_str!("lost_mirror.rs"),
        include_str!("crash_actions.rs"),
        include_str!("../doors/many.rs"),
        include_str!("../doors/webhooks.rs"),
    ]
    .concat();
    for point in warrend::failpoint::POINTS {
        assert!(tests.contains(&format!("\"{point}")), "nothing crashes at {point}");
    }
}
