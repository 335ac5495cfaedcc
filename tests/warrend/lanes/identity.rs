//! Which items are one and the same, over AMQP and over HTTP.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{all_goes_on, enqueue, item_in, properties, state_of, story, take};
use crate::support::amqp::Client;
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::daemon::{Daemon, daemon};

const UNIQUE: &str = "queue: u
unique: true
schema: {type: object, required: [n], properties: {n: {type: integer}}}
";

/// Items of a reference, oldest first, as `state` words.
async fn states(daemon: &Daemon, queue: &str, reference: &str) -> Vec<String> {
    let mut items = daemon.items(&format!("queue={queue}&reference={reference}")).await;
    items.sort_by_key(|item| item["id"].as_str().map(str::to_owned));
    items.iter().map(state_of).collect()
}

/// Waits until everything published to a queue before this was admitted, and works it off up to there.
async fn settled(daemon: &Daemon, client: &Client, queue: &str) {
    all_goes_on(daemon, client, queue, &json!({"n": 0})).await;
}

#[tokio::test]
async fn a_unique_reference_belongs_to_its_first_content_for_ever() {
    let daemon = daemon("unique").queues(UNIQUE).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("u", "r", &json!({"n": 1})).await;
    let first = item_in(&daemon, "u", "r", "queued").await;
    client.send("u", "r", &json!({"n": 1})).await;
    daemon
        .wait_until("the repeat is noted", async |daemon: &Daemon| {
            story(daemon, &first).await == ["admitted", "noted: sent again with the same content: the same item"]
        })
        .await;

    let mut robot = client.robot("u").await;
    let delivery = take(&mut robot, "r").await;
    robot.done(&delivery).await;
    robot.die().await;
    item_in(&daemon, "u", "r", "processed").await;
    client.send("u", "r", &json!({"n": 1})).await;
    client.send("u", "r", &json!({"n": 2})).await;
    settled(&daemon, &client, "u").await;
    assert_eq!(states(&daemon, "u", "r").await, ["processed", "exception: duplicate"]);
    let duplicate = daemon.items("queue=u&kind=duplicate").await.remove(0);
    let first = first["id"].as_str().unwrap();
    assert_eq!(duplicate["code"], "duplicate");
    assert_eq!(duplicate["reason"], format!("reference 'r' belongs to item {first}, which has other content"));
    assert_eq!(client.ready("wq.q.u").await, 0, "no repeat went to the robots");

    // What counts is the bytes: the same value written differently is other content over AMQP.
    enqueue(&client, "u", properties("r"), b"{ \"n\": 1 }").await;
    settled(&daemon, &client, "u").await;
    assert_eq!(states(&daemon, "u", "r").await.len(), 3);
}

#[tokio::test]
async fn what_was_refused_does_not_hold_its_reference() {
    let daemon = daemon("refused").queues(UNIQUE).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("u", "r", &json!({"n": "one"})).await;
    item_in(&daemon, "u", "r", "exception: invalid").await;
    client.send("u", "r", &json!({"n": 1})).await;
    client.send("u", "r", &json!({"n": 2})).await;
    client.send("u", "r", &json!({"n": 2})).await;
    client.send("u", "r", &json!({"n": "one"})).await;
    client.send("u", "r", &json!({"n": 1})).await;
    settled(&daemon, &client, "u").await;
    assert_eq!(
        states(&daemon, "u", "r").await,
        ["exception: invalid", "processed", "exception: duplicate", "exception: duplicate", "exception: invalid"]
    );
}

#[tokio::test]
async fn without_unique_only_open_items_are_the_same() {
    let daemon = daemon("not unique").queues("queue: a\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for body in [json!(1), json!(1), json!(2), json!(2), json!(1)] {
        client.send("a", "r", &body).await;
    }
    client.send("b", "r", &json!(1)).await;
    for _ in 0..3 {
        enqueue(&client, "a", lapin::BasicProperties::default(), b"1").await;
    }
    // All are let in before the first is worked: what comes behind that is new work.
    daemon
        .wait_until("the last ones are in", async |daemon: &Daemon| {
            let items = daemon.items("queue=a").await;
            items.iter().filter(|item| item["reference"].is_null()).count() == 3
        })
        .await;
    settled(&daemon, &client, "a").await;
    assert_eq!(states(&daemon, "a", "r").await, ["processed", "processed"]);
    assert_eq!(states(&daemon, "b", "r").await, ["queued"]);
    let nameless: Vec<Value> =
        daemon.items("queue=a").await.into_iter().filter(|item| item["reference"].is_null()).collect();
    assert_eq!(nameless.len(), 3, "without a reference each is an item of its own");
    assert!(nameless.iter().all(|item| item["possible_repeat"] == false));

    // The first is done, so the same content is new work.
    client.send("a", "r", &json!(1)).await;
    settled(&daemon, &client, "a").await;
    assert_eq!(states(&daemon, "a", "r").await, ["processed", "processed", "processed"]);
}

#[tokio::test]
async fn one_batch_knows_itself() {
    let mut daemon = daemon("one batch").queues(UNIQUE).start().await;
    // While the daemon is away everything waits in the intake, to be read in one batch.
    assert!(daemon.stop().success());
    let client = Client::connect(&daemon.vhost).await;
    for body in [json!({"n": "no"}), json!({"n": 1}), json!({"n": 1}), json!({"n": 2}), json!({"n": 1})] {
        client.send("u", "r", &body).await;
    }
    for n in 0..300 {
        client.send("u", &format!("r{}", n % 100), &json!({"n": n % 100})).await;
    }
    daemon.start_again().await;
    daemon
        .wait_until("the batch is admitted", async |daemon: &Daemon| {
            daemon.queue("u").await["counts"]["queued"] == 101
                && client.ready("wq.intake").await == 0
                && states(daemon, "u", "r").await.len() == 3
                // The last of them: what is acked is committed.
                && story(daemon, &daemon.item("u", "r99").await).await.len() == 3
        })
        .await;
    assert_eq!(states(&daemon, "u", "r").await, ["exception: invalid", "queued", "exception: duplicate"]);
    let one = daemon.item("u", "r7").await;
    assert_eq!(story(&daemon, &one).await.len(), 3, "admitted once, noted twice");
    assert_eq!(daemon.items("queue=u").await.len(), 103);
}

#[tokio::test]
async fn what_expires_before_the_door_goes_by_the_same_rules() {
    let mut daemon = daemon("expired before the door").queues(UNIQUE).queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("u", "there", &json!({"n": 1})).await;
    let there = item_in(&daemon, "u", "there", "queued").await;
    assert!(daemon.stop().success());
    // Each of these ends in the intake, while nobody reads it.
    let mut dead = 0;
    for (queue, reference, body) in [
        ("u", "there", r#"{"n":1}"#),
        ("u", "new", r#"{"n":2}"#),
        ("u", "new", r#"{"n":2}"#),
        ("u", "new", r#"{"n":3}"#),
        ("a", "new", "2"),
        ("a", "new", "2"),
    ] {
        enqueue(&client, queue, properties(reference).with_expiration("1".into()), body.as_bytes()).await;
        dead += 1;
    }
    daemon
        .wait_until("all have expired", async |_: &Daemon| {
            client.ready("wq.reports").await == dead && client.ready("wq.intake").await == 0
        })
        .await;
    daemon.start_again().await;
    daemon.wait_until("all are read", async |daemon: &Daemon| states(daemon, "a", "new").await.len() == 2).await;
    assert_eq!(states(&daemon, "u", "there").await, ["queued"]);
    assert_eq!(states(&daemon, "u", "new").await, ["exception: expired", "exception: duplicate"]);
    let again = "noted: sent again with the same content, which expired: the same item";
    assert!(story(&daemon, &there).await.contains(&again.to_owned()));

    // And what comes through the door afterwards finds its reference taken.
    client.send("u", "new", &json!({"n": 2})).await;
    client.send("u", "new", &json!({"n": 4})).await;
    daemon.wait_until("both are read", async |daemon: &Daemon| states(daemon, "u", "new").await.len() == 3).await;
    assert_eq!(
        states(&daemon, "u", "new").await,
        ["exception: expired", "exception: duplicate", "exception: duplicate"]
    );
}

#[tokio::test]
async fn what_was_handed_out_before_it_expired_is_no_new_item() {
    let mut daemon = daemon("acks lost, then expired").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!(1)).await;
    settled(&daemon, &client, "a").await;
    assert_eq!(states(&daemon, "a", "r").await, ["processed"]);
    assert!(daemon.stop().success());
    // As if a daemon had taken it in, and its ack had never arrived.
    enqueue(&client, "a", properties("r").with_expiration("2000".into()), b"1").await;
    enqueue(&client, "a", lapin::BasicProperties::default().with_expiration("2000".into()), b"1").await;
    let reader = client.another_channel().await;
    for _ in 0..2 {
        let taken = reader.basic_get("wq.intake".into(), lapin::options::BasicGetOptions::default()).await;
        taken.expect("a get").expect("it is there");
    }
    reader.close(200, "lost".into()).await.expect("closed");
    daemon.wait_until("both have expired", async |_: &Daemon| client.ready("wq.reports").await == 2).await;
    daemon.start_again().await;
    daemon.wait_until("both are read", async |_: &Daemon| client.ready("wq.reports").await == 0).await;
    let nameless = async || {
        let items = daemon.items("queue=a&kind=expired").await;
        items.into_iter().find(|item| item["reference"].is_null())
    };
    daemon.wait_until("the nameless one is kept", async |_: &Daemon| nameless().await.is_some()).await;

    // A quorum queue says of a dead letter that it was handed out; of a classic one nobody knows: rather twice than never.
    let says = has_quorum_lanes(&broker().version);
    assert_eq!(nameless().await.expect("seen a moment ago")["possible_repeat"], says);
    let expected: &[&str] = if says { &["processed"] } else { &["processed", "exception: expired"] };
    assert_eq!(states(&daemon, "a", "r").await, expected);
}

#[tokio::test]
async fn over_http_the_answer_says_which_it_is() {
    let daemon = daemon("identity over http").queues(UNIQUE).queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let post = async |queue: &str, body: Value| daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
    let (status, first) = post("u", json!({"payload": {"n": 1}, "reference": "r"})).await;
    assert_eq!((status, &first["state"]), (201, &json!("queued")));
    let (status, again) = post("u", json!({"payload": {"n": 1}, "reference": "r"})).await;
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    let (status, problem) = post("u", json!({"payload": {"n": 2}, "reference": "r"})).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:warrend:problem:duplicate")));
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(first["id"].as_str().unwrap()), "{problem}");
    let (status, problem) = post("u", json!({"payload": {"n": "x"}, "reference": "q", "priority": 99})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("priority")));
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
    // Refusals are the answer and nothing is kept.
    assert_eq!(daemon.items("queue=u").await.len(), 1);

    // Both doors are one: what came over AMQP is the same item over HTTP and the other way round.
    client.send("u", "amqp", &json!({"n": 5})).await;
    let over_amqp = item_in(&daemon, "u", "amqp", "queued").await;
    let (status, same) = post("u", json!({"payload": {"n": 5}, "reference": "amqp"})).await;
    assert_eq!((status, &same["id"]), (200, &over_amqp["id"]));
    client.send("u", "r", &json!({"n": 1})).await;
    client.send("u", "r", &json!({"n": 3})).await;
    settled(&daemon, &client, "u").await;
    assert_eq!(states(&daemon, "u", "r").await, ["processed", "exception: duplicate"]);
    let (status, same) = post("u", json!({"payload": {"n": 1}, "reference": "r"})).await;
    assert_eq!((status, &same["state"]), (200, &json!("processed")));

    let (status, one) = post("a", json!({"payload": 1, "reference": "r"})).await;
    let (again, same) = post("a", json!({"payload": 1, "reference": "r"})).await;
    assert_eq!((status, again, &one["id"]), (201, 200, &same["id"]), "open: the same");
    assert_eq!(post("a", json!({"payload": 2, "reference": "r"})).await.0, 201);
    assert_eq!(post("a", json!({"payload": 1})).await.0, 201);
    assert_eq!(post("a", json!({"payload": 1})).await.0, 201);
}

#[tokio::test]
async fn what_comes_fast_is_not_taken_for_a_repeat() {
    const ITEMS: usize = 3000;
    let daemon = daemon("fast").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    // Without an identity of its own each would be marked, where the broker says that it delivered it before.
    let send = async |number: usize| {
        let body = number.to_string();
        enqueue(&client, "a", lapin::BasicProperties::default(), body.as_bytes()).await;
    };
    for thousand in 0..3 {
        join_all((0..ITEMS / 3).map(|number| send(thousand * 1000 + number))).await;
    }
    daemon
        .wait_until("all are let in", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == ITEMS)
        .await;
    let items = daemon.items("queue=a").await;
    assert_eq!(items.iter().filter(|item| item["possible_repeat"] != false).count(), 0);
}
