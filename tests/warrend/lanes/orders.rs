//! What people ask of one item, by HTTP, in the mirror and out of the robots' queue.

use serde_json::{Value, json};

use super::{item_in, reference, state_of, story, take};
use crate::support::amqp::{Client, id, int_header};
use crate::support::daemon::{Daemon, daemon};

async fn ask(daemon: &Daemon, item: &Value, verb: &str, body: Value) -> (u16, Value) {
    let id = item["id"].as_str().expect("an id");
    daemon.post(&format!("/api/v1/items/{id}/{verb}"), &body).await
}

async fn edit(daemon: &Daemon, item: &Value, body: Value) -> (u16, Value) {
    let id = item["id"].as_str().expect("an id");
    daemon.send("PATCH", &format!("/api/v1/items/{id}"), &body).await
}

/// The last words of a problem's type.
fn problem(answer: &Value) -> &str {
    answer["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

#[tokio::test]
async fn what_waits_in_the_mirror_is_held_edited_cancelled_and_restored_at_once() {
    let yaml =
        "queue: a\nunique: true\nschema: {type: object, properties: {n: {type: integer}}}\npaused: {dispatch: true}\n";
    let daemon = daemon("orders mirror").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    let item = item_in(&daemon, "a", "r", "queued").await;

    let (status, held) = ask(&daemon, &item, "hold", json!({"by": "ann", "why": "ask the vendor"})).await;
    assert_eq!((status, &held["state"]), (200, &json!("on_hold")), "{held}");
    let (status, refused) = ask(&daemon, &item, "hold", json!({})).await;
    assert_eq!((status, problem(&refused)), (409, "wrong_state"), "{refused}");

    let (status, wrong) = edit(&daemon, &item, json!({"payload": {"n": "x"}, "priority": "urgent"})).await;
    assert_eq!((status, wrong["errors"].as_array().map(Vec::len)), (422, Some(2)), "{wrong}");
    let body = json!({"payload": {"n": 2}, "priority": "high", "name": "INV 2", "expires_at": "2099-01-01T00:00:00Z", "by": "ann"});
    let (status, edited) = edit(&daemon, &item, body).await;
    assert_eq!((status, &edited["state"], &edited["priority"]), (200, &json!("on_hold"), &json!(8)), "{edited}");
    assert_eq!(daemon.payload(&item).await.as_deref(), Some(r#"{"n":2}"#));
    let (status, edited) = edit(&daemon, &item, json!({"name": null, "expires_at": null})).await;
    assert_eq!((status, &edited["name"], &edited["expires_at"]), (200, &Value::Null, &Value::Null), "{edited}");
    let (status, nothing) = edit(&daemon, &item, json!({"by": "ann"})).await;
    assert_eq!(status, 400, "{nothing}");

    for (verb, body, state) in [
        ("cancel", json!({"why": "not ours"}), "cancelled"),
        ("restore", json!({}), "on_hold"),
        ("notes", json!({"note": "called them"}), "on_hold"),
        ("assign", json!({"assignee": "bob"}), "on_hold"),
        ("release", json!({}), "queued"),
    ] {
        let (status, item) = ask(&daemon, &item, verb, body).await;
        assert_eq!((status, state_of(&item).as_str()), (200, state), "{verb}: {item}");
    }
    let shown = daemon.item("a", "r").await;
    assert_eq!((&shown["assignee"], &shown["note"]), (&json!("bob"), &json!("called them")));
    let told: Vec<String> = story(&daemon, &item).await.into_iter().skip(1).collect();
    assert_eq!(
        told,
        [
            "held: ask the vendor",
            "edited: changed payload, priority, name, expires_at",
            "edited: changed name, expires_at",
            "cancelled: not ours",
            "restored",
            "note: called them",
            "assigned: to bob",
            "released",
        ]
    );

    // What the door refused is let in once it is mended, and holds its reference then.
    client.send("a", "bad", &json!({"n": "x"})).await;
    let bad = item_in(&daemon, "a", "bad", "exception: invalid").await;
    let (status, refused) = ask(&daemon, &bad, "requeue", json!({})).await;
    assert_eq!((status, problem(&refused)), (422, "invalid"), "{refused}");
    let (status, held) = ask(&daemon, &bad, "hold", json!({})).await;
    assert_eq!((status, problem(&held)), (409, "wrong_state"), "not behind the door's back: {held}");
    let (status, mended) = ask(&daemon, &bad, "requeue", json!({"payload": {"n": 3}, "by": "ann"})).await;
    assert_eq!((status, &mended["state"]), (200, &json!("queued")), "{mended}");
    client.send("a", "bad", &json!({"n": 4})).await;
    daemon
        .wait_until("its reference is taken", async |daemon: &Daemon| {
            daemon.items("queue=a&reference=bad&kind=duplicate").await.len() == 1
        })
        .await;

    let nobody = json!({"id": "00000000-0000-7000-8000-000000000000"});
    assert_eq!(ask(&daemon, &nobody, "hold", json!({})).await.0, 404);
    for (verb, body) in [
        ("hold", json!({"whyy": "x"})),
        ("hold", json!({"on_sight": true})),
        ("notes", json!({"note": "n", "why": "x"})),
    ] {
        assert_eq!(ask(&daemon, &item, verb, body).await.0, 400, "{verb}");
    }
}

#[tokio::test]
async fn a_dispatched_item_is_taken_back_and_the_others_keep_their_order() {
    let daemon = daemon("recall").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for name in ["r0", "r1", "r2", "r3", "r4"] {
        client.send("a", name, &json!({"name": name})).await;
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 5).await;
    let mut robot = client.robot("a").await;
    let first = take(&mut robot, "r0").await;

    let held = daemon.item("a", "r1").await;
    let (status, answer) = ask(&daemon, &held, "hold", json!({"by": "ann"})).await;
    assert_eq!((status, &answer["state"], &answer["pending"]), (200, &json!("on_hold"), &Value::Null), "{answer}");
    let cancelled = daemon.item("a", "r3").await;
    let (status, answer) = ask(&daemon, &cancelled, "cancel", json!({})).await;
    assert_eq!((status, &answer["state"]), (200, &json!("cancelled")), "{answer}");
    let edited = daemon.item("a", "r2").await;
    let (status, answer) = edit(&daemon, &edited, json!({"payload": {"name": "other"}})).await;
    assert_eq!((status, &answer["pending"]), (200, &Value::Null), "{answer}");
    // A robot has it.
    let worked = daemon.item("a", "r0").await;
    let (status, answer) = ask(&daemon, &worked, "cancel", json!({})).await;
    assert_eq!((status, problem(&answer)), (409, "in_progress"), "{answer}");

    robot.done(&first).await;
    let second = take(&mut robot, "r2").await;
    assert_eq!((second.data.as_slice(), int_header(&second, "wq-attempt")), (&br#"{"name":"other"}"#[..], Some(1)));
    robot.done(&second).await;
    let third = take(&mut robot, "r4").await;
    assert_eq!(int_header(&third, "wq-attempt"), Some(1), "an attempt that was taken back did not happen");
    robot.done(&third).await;
    daemon.wait_until_done("a", 5).await;
    let (status, answer) = ask(&daemon, &held, "release", json!({})).await;
    assert_eq!((status, &answer["state"]), (200, &json!("queued")), "{answer}");
    let last = take(&mut robot, "r1").await;
    robot.done(&last).await;
    item_in(&daemon, "a", "r1", "processed").await;
    let told: Vec<String> = story(&daemon, &worked).await;
    assert!(told.iter().any(|line| line.starts_with("request_refused: cancel asked by api was not done")), "{told:?}");

    // Worked again, with the retries of a new item; what is processed is no exception of anything.
    let (status, answer) = ask(&daemon, &worked, "requeue", json!({"why": "wrong ledger"})).await;
    assert_eq!((status, &answer["state"], &answer["attempt"]), (200, &json!("queued"), &json!(1)), "{answer}");
    let again = take(&mut robot, "r0").await;
    assert_eq!((id(&again), int_header(&again, "wq-attempt")), (id(&first), Some(2)));
    robot.done(&again).await;
    daemon
        .wait_until("nothing is unaccounted for", async |daemon: &Daemon| {
            daemon.queue("a").await["unaccounted"] == 0 && daemon.queue("a").await["counts"]["processed"] == 4
        })
        .await;
}

#[tokio::test]
async fn a_direct_item_is_taken_back_and_what_is_out_of_reach_is_cancelled_on_sight() {
    let yaml = "queue: d\nlane: direct\nretry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}\n";
    let daemon = daemon("recall direct").queues(yaml).setting("CONTROL__RECALL_LIMIT", "4").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for name in ["r0", "r1"] {
        client.send("d", name, &json!({"name": name})).await;
    }
    assert!(client.publish("wq.items", "d", lapin::BasicProperties::default(), b"nameless").await);
    let item = item_in(&daemon, "d", "r0", "queued").await;
    let (status, answer) = ask(&daemon, &item, "hold", json!({})).await;
    assert_eq!((status, &answer["state"], &answer["lane"]), (200, &json!("on_hold"), &json!("managed")), "{answer}");
    let mut robot = client.robot("d").await;
    let delivery = take(&mut robot, "r1").await;
    assert_eq!(int_header(&delivery, "wq-attempt"), Some(1));
    robot.done(&delivery).await;
    let delivery = robot.next().await;
    assert_eq!(delivery.data, b"nameless");
    robot.done(&delivery).await;
    robot.die().await;
    daemon
        .wait_until("they are done", async |daemon: &Daemon| daemon.queue("d").await["counts"]["processed"] == 2)
        .await;

    client.listen_to(&["item.request_refused.#"]).await;
    for n in 0..6 {
        client.send("d", &format!("x{n}"), &json!(n)).await;
    }
    let last = item_in(&daemon, "d", "x5", "queued").await;
    let (status, answer) = ask(&daemon, &last, "cancel", json!({})).await;
    assert_eq!((status, problem(&answer)), (409, "out_of_reach"), "{answer}");
    let (status, answer) = ask(&daemon, &last, "cancel", json!({"on_sight": true, "by": "ann"})).await;
    assert_eq!(
        (status, &answer["pending"]["action"], &answer["pending"]["by"]),
        (202, &json!("cancel"), &json!("ann"))
    );
    let first = item_in(&daemon, "d", "x0", "queued").await;
    assert_eq!(ask(&daemon, &first, "cancel", json!({"on_sight": true})).await.0, 202);
    let mut robot = client.robot("d").await;
    let delivery = take(&mut robot, "x0").await;
    robot.done(&delivery).await;
    for _ in 1..6 {
        let delivery = robot.next().await;
        // It would be tried again, which passes the daemon.
        robot.report(&delivery, "it_exception", &json!({})).await;
        robot.ack(&delivery).await;
        if reference(&delivery) == "x5" {
            break;
        }
    }
    // A robot's word wins over what was only asked for.
    item_in(&daemon, "d", "x0", "processed").await;
    let cancelled = item_in(&daemon, "d", "x5", "cancelled").await;
    assert_eq!(cancelled["pending"], Value::Null);
    // The first was out of reach, and of the other its robot was done.
    daemon.wait_until("both refusals are told", async |_: &Daemon| client.ready("heard").await == 2).await;
    for item in [&last, &first] {
        let event: Value = serde_json::from_slice(&client.take("heard").await.expect("an event").data).expect("JSON");
        assert_eq!((&event["item"], &event["action"]), (&item["id"], &json!("cancel")), "{event}");
    }
}
