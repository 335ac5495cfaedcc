//! Robots and people that work over HTTP: claims, leases, outcomes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::amqp::{Client, id, int_header};
use crate::support::daemon::{Daemon, daemon};

/// A claim: its status and answer.
async fn claim(daemon: &Daemon, queue: &str, body: Value) -> (u16, Value) {
    daemon.post(&format!("/api/v1/queues/{queue}/claim"), &body).await
}

/// Claims one item, which has to be there within a minute.
async fn get(daemon: &Daemon, queue: &str, worker: &str) -> (Value, String) {
    let (status, answer) = claim(daemon, queue, json!({"worker": worker, "wait": "60s", "lease": "5m"})).await;
    assert_eq!(status, 200, "{answer}");
    (answer["items"][0].clone(), answer["lease"].as_str().expect("a lease").to_owned())
}

async fn on(daemon: &Daemon, item: &Value, verb: &str, body: Value) -> (u16, Value) {
    let id = item["id"].as_str().expect("an id");
    daemon.post(&format!("/api/v1/items/{id}/{verb}"), &body).await
}

async fn outcome(daemon: &Daemon, item: &Value, lease: &str, kind: &str) -> (u16, Value) {
    on(daemon, item, "outcome", json!({"type": kind, "lease": lease})).await
}

/// The last words of a problem's type.
fn problem(answer: &Value) -> &str {
    answer["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

async fn shown(daemon: &Daemon, item: &Value) -> Value {
    daemon.get(&format!("/api/v1/items/{}", item["id"].as_str().expect("an id"))).await
}

/// Waits until an item is so, and answers it.
async fn until(daemon: &Daemon, item: &Value, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    daemon.wait_until(what, async |daemon: &Daemon| is_so(&shown(daemon, item).await)).await;
    shown(daemon, item).await
}

async fn story(daemon: &Daemon, item: &Value) -> Vec<String> {
    let line = |line: &Value| match line["why"].as_str() {
        Some(why) => format!("{}: {why}", line["event"].as_str().unwrap()),
        None => line["event"].as_str().unwrap().to_owned(),
    };
    daemon.timeline(item).await.iter().map(line).collect()
}

/// Nothing of a queue is on the broker, and nobody of ours listens.
async fn until_nobody_listens(daemon: &Daemon, client: &Client, queue: &str) {
    let robots = format!("wq.q.{queue}");
    daemon.wait_until("nobody listens", async |_: &Daemon| client.consumers(&robots).await == 0).await;
}

#[tokio::test]
async fn an_item_is_claimed_kept_and_reported() {
    let daemon = daemon("claim").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let (status, nothing) = claim(&daemon, "a", json!({"worker": "w"})).await;
    assert_eq!((status, nothing), (204, json!("")));
    client.send("a", "r", &json!({"n": 1})).await;
    daemon.wait_until("it is with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;

    let (status, answer) = claim(&daemon, "a", json!({"worker": "ann", "lease": "10m"})).await;
    assert_eq!(status, 200, "{answer}");
    let (item, lease) = (&answer["items"][0], answer["lease"].as_str().unwrap());
    assert_eq!(
        (&item["reference"], &item["payload"], &item["payload_base64"]),
        (&json!("r"), &json!({"n": 1}), &Value::Null)
    );
    assert_eq!((&item["state"], &item["attempt"], &item["worker"]), (&json!("processing"), &json!(1), &json!("ann")));
    let now = shown(&daemon, item).await;
    assert_eq!(now["lease_until"], answer["lease_until"]);
    assert_eq!(daemon.items("queue=a").await[0]["lease_until"], answer["lease_until"]);
    assert_eq!(client.ready("wq.q.a").await, 0, "its message is acked");
    assert_eq!(claim(&daemon, "a", json!({"worker": "bob"})).await.0, 204, "ann has it");

    let (status, beat) =
        on(&daemon, item, "heartbeat", json!({"lease": lease, "percent": 40, "note": "half", "extend": "2h"})).await;
    assert_eq!(status, 200, "{beat}");
    assert!(beat["lease_until"].as_str() > answer["lease_until"].as_str(), "{beat}");
    let now = shown(&daemon, item).await;
    assert_eq!(
        (&now["progress"], &now["note"], &now["lease_until"]),
        (&json!(40), &json!("half"), &beat["lease_until"])
    );
    // One that is shorter takes nothing away.
    let (_, short) = on(&daemon, item, "heartbeat", json!({"lease": lease})).await;
    assert_eq!(short["lease_until"], beat["lease_until"]);

    let body = json!({"type": "processed", "lease": lease, "result": {"total": 7}, "note": "paid"});
    let (status, done) = on(&daemon, item, "outcome", body.clone()).await;
    assert_eq!((status, &done["state"], &done["result"]), (200, &json!("processed"), &json!({"total": 7})), "{done}");
    let (status, again) = on(&daemon, item, "outcome", body).await;
    assert_eq!((status, &again), (200, &done), "the same again is answered like the first");
    let (status, other) = outcome(&daemon, item, lease, "it_exception").await;
    assert_eq!((status, problem(&other)), (409, "lease_lost"), "{other}");
    let (status, late) = on(&daemon, item, "heartbeat", json!({"lease": lease})).await;
    assert_eq!((status, problem(&late)), (409, "lease_lost"), "{late}");
    assert_eq!(story(&daemon, item).await, ["admitted", "claimed", "progress: half", "processed: paid"]);
    let attempts = daemon.get(&format!("/api/v1/items/{}/attempts", item["id"].as_str().unwrap())).await;
    let attempt = &attempts["items"][0];
    assert_eq!(
        (&attempt["robot"], &attempt["outcome"], &attempt["deliveries"]),
        (&json!("ann"), &json!("processed"), &json!(1))
    );
    assert_eq!(attempt["starts"].as_array().map(Vec::len), Some(1));
    until_nobody_listens(&daemon, &client, "a").await;
    daemon.wait_until("no ack is left over", async |daemon: &Daemon| daemon.queue("a").await["unaccounted"] == 0).await;
}

#[tokio::test]
async fn everything_a_robot_may_say_is_said_over_http() {
    let daemon = daemon("claim outcomes")
        .queues("queue: a\nretry: {it: {limit: 1, backoff: {first: 1h, jitter: 0%}}, requeue: {limit: 1}}\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for (kind, more, state, expected_kind) in [
        (
            "business_exception",
            json!({"code": "E1", "reason": "no such vendor", "details": {"row": 3}}),
            "exception",
            json!("business"),
        ),
        ("generic_exception", json!({"reason": "odd"}), "exception", json!("generic")),
        ("it_exception", json!({"reason": "down"}), "queued", Value::Null),
        ("requeue", json!({"delay": "1h", "note": "later"}), "queued", Value::Null),
        ("hold", json!({"note": "ask Ida"}), "on_hold", Value::Null),
        ("started", json!({"percent": 5}), "processing", Value::Null),
        ("progress", json!({"percent": 50, "note": "half"}), "processing", Value::Null),
    ] {
        client.send("a", kind, &json!({})).await;
        let (item, lease) = get(&daemon, "a", "ann").await;
        assert_eq!(item["reference"], kind);
        let mut body = more;
        (body["type"], body["lease"]) = (json!(kind), json!(lease));
        let (status, answer) = on(&daemon, &item, "outcome", body.clone()).await;
        assert_eq!(
            (status, &answer["state"], &answer["kind"]),
            (200, &json!(state), &expected_kind),
            "{kind}: {answer}"
        );
        let (status, again) = on(&daemon, &item, "outcome", body).await;
        assert_eq!((status, &again["state"]), (200, &json!(state)), "{kind}, again: {again}");
    }
    // Of `processed` what cannot be read is left out and named; all else is refused with everything that is wrong.
    client.send("a", "odd", &json!({})).await;
    let (item, lease) = get(&daemon, "a", "ann").await;
    let body = json!({"type": "hold", "lease": lease, "nte": "x", "percent": 5});
    let (status, refused) = on(&daemon, &item, "outcome", body).await;
    assert_eq!((status, refused["errors"].as_array().map(Vec::len)), (400, Some(2)), "{refused}");
    let body = json!({"type": "processed", "lease": lease, "nte": "x"});
    let (status, done) = on(&daemon, &item, "outcome", body).await;
    assert_eq!((status, &done["state"]), (200, &json!("processed")), "{done}");
    assert!(story(&daemon, &item).await.last().unwrap().contains("nte is no known field"), "it is named");
}

#[tokio::test]
async fn items_come_in_the_queues_own_order_beside_robots() {
    let daemon = daemon("claim order").queues("queue: a\nwindow: 2\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("a").await;
    for (reference, priority) in [
        ("first", "low"),
        ("low", "low"),
        ("normal", "normal"),
        ("high-1", "high"),
        ("high-2", "high"),
        ("high-3", "high"),
    ] {
        let body = json!({"payload": {}, "reference": reference, "priority": priority});
        assert_eq!(daemon.post("/api/v1/queues/a/items", &body).await.0, 201);
        if reference == "first" {
            daemon.wait_until("the robot has it", async |_: &Daemon| client.ready("wq.q.a").await == 0).await;
        }
    }
    let first = robot.next().await;
    assert_eq!(int_header(&first, "wq-attempt"), Some(1));
    daemon.wait_until("they are with the broker", async |_: &Daemon| client.ready("wq.q.a").await >= 4).await;
    for expected in ["high-1", "high-2", "high-3", "normal"] {
        let (item, lease) = get(&daemon, "a", "ann").await;
        assert_eq!(item["reference"], expected);
        assert_eq!(outcome(&daemon, &item, &lease, "processed").await.0, 200);
    }
    // The robot takes part in the same order.
    robot.done(&first).await;
    let last = robot.next().await;
    robot.done(&last).await;
    daemon.wait_until_done("a", 6).await;
    assert_eq!(daemon.item("a", "low").await["worker"], "test-robot");
}

#[tokio::test]
async fn who_waits_gets_what_comes_and_a_batch_what_is_there() {
    let daemon = daemon("claim waits").queues("queue: a\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for queue in ["a", "d"] {
        let waiting = claim(&daemon, queue, json!({"worker": "ann", "wait": "60s"}));
        let sending = async {
            let robots = format!("wq.q.{queue}");
            daemon.wait_until("somebody listens", async |_: &Daemon| client.consumers(&robots).await == 1).await;
            client.send(queue, "one", &json!({"n": 1})).await;
        };
        let ((status, answer), ()) = tokio::join!(waiting, sending);
        assert_eq!((status, &answer["items"][0]["reference"]), (200, &json!("one")), "{answer}");
        let lease = answer["lease"].as_str().unwrap();
        assert_eq!(outcome(&daemon, &answer["items"][0], lease, "processed").await.0, 200);
        until_nobody_listens(&daemon, &client, queue).await;

        for number in 0..30 {
            client.send(queue, &format!("many-{number:02}"), &json!({"n": number})).await;
        }
        let robots = format!("wq.q.{queue}");
        daemon.wait_until("all are there", async |_: &Daemon| client.ready(&robots).await == 30).await;
        let (status, answer) = claim(&daemon, queue, json!({"worker": "ann", "max": 25})).await;
        let items = answer["items"].as_array().unwrap();
        assert_eq!((status, items.len()), (200, 25));
        let lease = answer["lease"].as_str().unwrap();
        for (number, item) in items.iter().enumerate() {
            assert_eq!(item["reference"], format!("many-{number:02}"));
            assert_eq!(item["payload"]["n"], number);
        }
        // A heartbeat keeps up the whole lease; each item is reported by itself.
        let (_, beat) = on(&daemon, &items[0], "heartbeat", json!({"lease": lease, "extend": "3h"})).await;
        assert_eq!(shown(&daemon, &items[24]).await["lease_until"], beat["lease_until"]);
        for item in items {
            assert_eq!(outcome(&daemon, item, lease, "processed").await.0, 200);
        }
        let (status, rest) = claim(&daemon, queue, json!({"worker": "ann", "max": 100})).await;
        assert_eq!((status, rest["items"].as_array().map(Vec::len)), (200, Some(5)));
        for item in rest["items"].as_array().unwrap() {
            assert_eq!(outcome(&daemon, item, rest["lease"].as_str().unwrap(), "processed").await.0, 200);
        }
        daemon.wait_until_done(queue, 31).await;
        assert_eq!(daemon.items(&format!("queue={queue}")).await.len(), 31, "the tap's copies found their items");
    }
}

#[tokio::test]
async fn many_wait_for_little_and_nothing_of_them_stays() {
    let daemon = daemon("claim crowd").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/v1/queues/a/claim", daemon.url());
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..200 {
        let call = http.post(&url).json(&json!({"worker": format!("w{number}"), "wait": "60s"}));
        waiting.spawn(async move {
            let answer = call.send().await.expect("an answer");
            let status = answer.status().as_u16();
            (status, answer.json::<Value>().await.unwrap_or_default())
        });
    }
    daemon.wait_until("somebody listens", async |_: &Daemon| client.consumers("wq.q.a").await == 1).await;
    for number in 0..50 {
        client.send("a", &format!("r{number}"), &json!({"n": number})).await;
    }
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let (status, answer) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!((status, answer["items"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
        assert!(served.insert(answer["items"][0]["reference"].as_str().unwrap().to_owned()), "given out twice");
        let lease = answer["lease"].as_str().unwrap();
        assert_eq!(outcome(&daemon, &answer["items"][0], lease, "processed").await.0, 200);
    }
    daemon.wait_until_done("a", 50).await;
    assert_eq!(client.consumers("wq.q.a").await, 1, "the others wait on, all behind one consumer");
    // They hang up.
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    until_nobody_listens(&daemon, &client, "a").await;
    client.send("a", "later", &json!({})).await;
    daemon.wait_until("it waits for robots", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    let (item, _) = get(&daemon, "a", "ann").await;
    assert_eq!((&item["reference"], &item["attempt"]), (&json!("later"), &json!(1)));
}

#[tokio::test]
async fn a_lost_lease_is_a_dead_robot_and_fences_its_holder_off() {
    let daemon = daemon("claim lost").queues("queue: a\n").clock().start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({})).await;
    let (item, lost) = get(&daemon, "a", "ann").await;
    daemon.set_clock(jiff::SignedDuration::from_secs(301));
    until(&daemon, &item, "the lease ended", |item| item["state"] == "queued").await;
    let (status, refused) = on(&daemon, &item, "heartbeat", json!({"lease": lost})).await;
    assert_eq!((status, problem(&refused)), (409, "lease_lost"), "{refused}");
    let (again, lease) = get(&daemon, "a", "bob").await;
    assert_eq!((&again["id"], &again["attempt"], &again["retries"]), (&item["id"], &json!(2), &json!(0)));

    for (verb, body) in [
        ("outcome", json!({"type": "it_exception", "lease": lost})),
        ("outcome", json!({"type": "started", "lease": lost})),
        ("return", json!({"lease": lost})),
    ] {
        let (status, refused) = on(&daemon, &item, verb, body).await;
        assert_eq!((status, problem(&refused)), (409, "lease_lost"), "{refused}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(
            detail.contains("nobody kept it up") && detail.contains("bob has the item now, in attempt 2, since"),
            "{detail}"
        );
    }
    // Work done is never refused, and once is enough.
    for _ in 0..2 {
        let (status, done) = outcome(&daemon, &item, &lost, "processed").await;
        assert_eq!((status, &done["state"], &done["worker"]), (200, &json!("processed"), &json!("ann")), "{done}");
    }
    let (status, refused) = outcome(&daemon, &item, &lease, "business_exception").await;
    assert_eq!((status, problem(&refused)), (409, "lease_lost"), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("the item is processed by ann"), "{refused}");
    let told = story(&daemon, &item).await;
    assert_eq!(
        told,
        [
            "admitted",
            "claimed",
            "lease_lost: ann did not keep its lease (5m)",
            "claimed",
            "processed: by attempt 1; a later one is dropped",
        ]
    );
    assert_eq!(daemon.timeline(&item).await.len(), told.len());
}

#[tokio::test]
async fn leases_lost_in_a_row_are_poison() {
    let daemon = daemon("claim poison").queues("queue: a\ncrash_limit: 2\n").clock().start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({})).await;
    let mut ahead = 0;
    let (item, lease) = get(&daemon, "a", "ann").await;
    ahead += 400;
    daemon.set_clock(jiff::SignedDuration::from_secs(ahead));
    until(&daemon, &item, "the first lease ended", |item| item["state"] == "queued").await;
    // Giving it back is no death: the count begins anew.
    let (_, second) = get(&daemon, "a", "bob").await;
    let (status, back) = on(&daemon, &item, "return", json!({"lease": second, "note": "not mine"})).await;
    assert_eq!(
        (status, &back["state"], &back["retries"], &back["note"]),
        (200, &json!("queued"), &json!(0), &json!("not mine"))
    );
    assert_eq!(on(&daemon, &item, "return", json!({"lease": second})).await.0, 200, "again");
    for attempt in [3, 4] {
        let (again, _) = get(&daemon, "a", "cy").await;
        assert_eq!(again["attempt"], attempt);
        ahead += 400;
        daemon.set_clock(jiff::SignedDuration::from_secs(ahead));
        until(&daemon, &item, "its lease ended", |item| item["state"] != "processing").await;
    }
    let poison = shown(&daemon, &item).await;
    assert_eq!((&poison["state"], &poison["kind"]), (&json!("exception"), &json!("poison")), "{poison}");
    assert!(poison["reason"].as_str().unwrap().starts_with("2 leases were lost in a row"), "{poison}");
    // Worked again by people's word, the count begins anew, and the first holder's work still counts.
    let (status, _) = on(&daemon, &item, "requeue", json!({"by": "ann"})).await;
    assert_eq!(status, 200);
    get(&daemon, "a", "cy").await;
    ahead += 400;
    daemon.set_clock(jiff::SignedDuration::from_secs(ahead));
    until(&daemon, &item, "the lease ended", |item| item["state"] == "queued").await;
    assert_eq!(outcome(&daemon, &item, &lease, "processed").await.0, 200);
    assert_eq!(shown(&daemon, &item).await["state"], "processed");
}

#[tokio::test]
async fn processing_timeout_and_the_definition_hold_for_claims_too() {
    let yaml = "queue: a\nprocessing_timeout: 10m\nmax_working: 2\nretry: {timeout: {limit: 0}}\n";
    let daemon = daemon("claim timeout").queues(yaml).clock().start().await;
    let client = Client::connect(&daemon.vhost).await;
    for reference in ["r1", "r2", "r3"] {
        client.send("a", reference, &json!({})).await;
    }
    let (item, lease) = get(&daemon, "a", "ann").await;
    let (_, other) = get(&daemon, "a", "bob").await;
    let (status, nothing) = claim(&daemon, "a", json!({"worker": "cy", "wait": "1s"})).await;
    assert_eq!(status, 204, "two are worked: {nothing}");
    let (status, _) = on(&daemon, &item, "heartbeat", json!({"lease": lease, "extend": "1h"})).await;
    assert_eq!(status, 200);
    // A place gets free.
    let waiting = claim(&daemon, "a", json!({"worker": "cy", "wait": "60s", "lease": "1h"}));
    let second = daemon.item("a", "r2").await;
    let reporting = outcome(&daemon, &second, &other, "processed");
    let ((status, third), _) = tokio::join!(waiting, reporting);
    assert_eq!((status, &third["items"][0]["reference"]), (200, &json!("r3")), "{third}");

    daemon.set_clock(jiff::SignedDuration::from_mins(11));
    let late = until(&daemon, &item, "it took too long", |item| item["state"] == "exception").await;
    assert_eq!(late["kind"], "timeout");
    assert!(late["reason"].as_str().unwrap().contains("ann started at"), "{late}");
    let (status, refused) = outcome(&daemon, &item, &lease, "business_exception").await;
    assert_eq!((status, problem(&refused)), (409, "lease_lost"), "{refused}");
}

#[tokio::test]
async fn what_is_paused_is_given_to_nobody_until_it_is_resumed() {
    let daemon = daemon("claim paused").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({})).await;
    daemon.wait_until("it is with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    assert_eq!(daemon.post("/api/v1/queues/a/pause", &json!({"dispatch": true})).await.0, 200);
    assert_eq!(claim(&daemon, "a", json!({"worker": "ann"})).await.0, 204);
    assert_eq!(claim(&daemon, "a", json!({"worker": "ann", "wait": "500ms"})).await.0, 204);
    let waiting = claim(&daemon, "a", json!({"worker": "ann", "wait": "60s"}));
    let resuming = async {
        assert_eq!(daemon.post("/api/v1/queues/a/resume", &json!({"dispatch": true})).await.0, 200);
    };
    let ((status, answer), ()) = tokio::join!(waiting, resuming);
    assert_eq!((status, &answer["items"][0]["reference"]), (200, &json!("r")), "{answer}");
}

#[tokio::test]
async fn a_direct_queue_gives_what_the_broker_has_whoever_knows_of_it() {
    let daemon = daemon("claim direct").queues("queue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("d", "r", &json!({"n": 1})).await;
    let (item, lease) = get(&daemon, "d", "ann").await;
    assert_eq!((&item["reference"], &item["payload"], &item["attempt"]), (&json!("r"), &json!({"n": 1}), &json!(1)));
    let (status, back) = outcome(&daemon, &item, &lease, "requeue").await;
    assert_eq!((status, &back["state"]), (200, &json!("queued")), "{back}");
    let (again, lease) = get(&daemon, "d", "ann").await;
    assert_eq!((&again["id"], &again["attempt"]), (&item["id"], &json!(2)));
    assert_eq!(outcome(&daemon, &item, &lease, "processed").await.0, 200);
    // Without a name an item gets its identity here.
    assert!(client.publish("wq.items", "d", lapin::BasicProperties::default(), b"\xff\x00").await);
    let (nameless, lease) = get(&daemon, "d", "ann").await;
    assert_eq!(
        (&nameless["reference"], &nameless["payload"], &nameless["payload_base64"]),
        (&Value::Null, &Value::Null, &json!("/wA="))
    );
    assert_eq!(outcome(&daemon, &nameless, &lease, "processed").await.0, 200);
    daemon.wait_until_done("d", 2).await;
    let mut robot = client.robot("d").await;
    client.send("d", "last", &json!({})).await;
    let last = robot.next().await;
    assert_eq!(id(&last), "last", "nothing of the others is left");
    robot.done(&last).await;
    daemon.wait_until_done("d", 3).await;
    assert_eq!(daemon.items("queue=d").await.len(), 3);
}

#[tokio::test]
async fn a_named_item_is_had_where_it_waits_or_out_of_the_robots_queue() {
    let daemon = daemon("claim named").queues("queue: a\n---\nqueue: p\npaused: {dispatch: true}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("p", "r", &json!({"n": 1})).await;
    daemon.wait_until("it waits", async |daemon: &Daemon| daemon.queue("p").await["counts"]["queued"] == 1).await;
    let waiting = daemon.item("p", "r").await;
    let (status, mine) = on(&daemon, &waiting, "claim", json!({"worker": "ann", "lease": "4h"})).await;
    assert_eq!((status, &mine["items"][0]["payload"]), (200, &json!({"n": 1})), "{mine}");
    let (status, refused) = on(&daemon, &waiting, "claim", json!({"worker": "bob"})).await;
    assert_eq!((status, problem(&refused)), (409, "in_progress"), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("ann"), "{refused}");
    let lease = mine["lease"].as_str().unwrap();
    assert_eq!(outcome(&daemon, &waiting, lease, "hold").await.1["state"], "on_hold");
    let (status, refused) = on(&daemon, &waiting, "claim", json!({"worker": "bob"})).await;
    assert_eq!((status, problem(&refused)), (409, "wrong_state"), "{refused}");

    // Out of the robots' queue, ahead of what is before it; the others keep their order.
    for reference in ["r0", "r1", "r2", "r3"] {
        client.send("a", reference, &json!({"name": reference})).await;
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 4).await;
    let wanted = daemon.item("a", "r2").await;
    let (status, mine) = on(&daemon, &wanted, "claim", json!({"worker": "ann"})).await;
    assert_eq!(status, 200, "{mine}");
    let item = &mine["items"][0];
    assert_eq!(
        (&item["reference"], &item["payload"], &item["attempt"]),
        (&json!("r2"), &json!({"name": "r2"}), &json!(1))
    );
    let mut robot = client.robot("a").await;
    for expected in ["r0", "r1", "r3"] {
        let delivery = robot.next().await;
        assert_eq!(crate::support::amqp::reference(&delivery), expected);
        if expected == "r3" {
            // A robot has it.
            let held = daemon.item("a", "r3").await;
            let (status, refused) = on(&daemon, &held, "claim", json!({"worker": "bob"})).await;
            assert_eq!((status, problem(&refused)), (409, "in_progress"), "{refused}");
            assert_eq!(shown(&daemon, &held).await["pending"], Value::Null);
        }
        robot.done(&delivery).await;
    }
    assert_eq!(outcome(&daemon, item, mine["lease"].as_str().unwrap(), "processed").await.0, 200);
    daemon.wait_until_done("a", 4).await;
    daemon.wait_until("no ack is left over", async |daemon: &Daemon| daemon.queue("a").await["unaccounted"] == 0).await;
}

#[tokio::test]
async fn bad_input_is_named_and_changes_nothing() {
    let daemon = daemon("claim bad").queues("queue: a\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({})).await;
    client.send("b", "other", &json!({})).await;
    let (item, lease) = get(&daemon, "a", "ann").await;
    let (other, _) = get(&daemon, "b", "ann").await;
    for (body, faults) in [
        (json!({}), 1),
        (json!({"worker": " "}), 1),
        (json!({"worker": "w".repeat(101)}), 1),
        (json!({"worker": 7, "wait": "61s", "lease": "1s", "max": 0}), 4),
        (json!({"worker": "w", "wait": 5, "lease": "25h", "max": 101, "size": 1}), 4),
        (json!({"worker": "w", "max": 1.5, "wait": "-1s"}), 2),
    ] {
        let (status, refused) = claim(&daemon, "a", body).await;
        assert_eq!((status, refused["errors"].as_array().map(Vec::len)), (400, Some(faults)), "{refused}");
    }
    assert_eq!(claim(&daemon, "nowhere", json!({"worker": "w"})).await.0, 404);
    for (verb, body, status) in [
        ("outcome", json!({"type": "processed"}), 400),
        ("outcome", json!({"lease": lease}), 400),
        ("outcome", json!({"type": "done", "lease": lease}), 400),
        ("outcome", json!({"type": "processed", "lease": "x'; DROP TABLE leases; --"}), 404),
        ("heartbeat", json!({"lease": lease, "percent": 101}), 400),
        ("heartbeat", json!({"lease": lease, "extend": "48h"}), 400),
        ("heartbeat", json!({}), 400),
        ("return", json!({"lease": 7}), 400),
        ("return", json!({"lease": lease, "because": "x"}), 400),
        ("claim", json!({"lease": "5m"}), 400),
    ] {
        let (found, answer) = on(&daemon, &item, verb, body.clone()).await;
        assert_eq!(found, status, "{verb} {body}: {answer}");
    }
    // A lease of another item, and no item.
    assert_eq!(outcome(&daemon, &other, &lease, "processed").await.0, 404);
    let nobody = json!({"id": "00000000-0000-7000-8000-000000000000"});
    for verb in ["outcome", "heartbeat", "return"] {
        assert_eq!(
            on(&daemon, &nobody, verb, json!({"type": "hold", "lease": lease})).await.0,
            if verb == "outcome" { 404 } else { 400 }
        );
    }
    assert_eq!(on(&daemon, &nobody, "claim", json!({"worker": "w"})).await.0, 404);
    let now = shown(&daemon, &item).await;
    assert_eq!((&now["state"], &now["worker"]), (&json!("processing"), &json!("ann")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_need_no_broker_and_leases_outlive_a_restart() {
    let mut daemon =
        daemon("claim restart").queues("queue: a\npaused: {dispatch: true}\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("b", "r", &json!({})).await;
    let (item, lease) = get(&daemon, "b", "ann").await;
    assert!(daemon.stop().success());
    daemon.start_again().await;
    let (status, beat) = on(&daemon, &item, "heartbeat", json!({"lease": lease})).await;
    assert_eq!(status, 200, "{beat}");
    let (status, done) = outcome(&daemon, &item, &lease, "processed").await;
    assert_eq!((status, &done["state"]), (200, &json!("processed")), "{done}");
    // Who waits when it stops is sent away.
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(100)).build().unwrap();
    let call =
        http.post(format!("{}/api/v1/queues/b/claim", daemon.url())).json(&json!({"worker": "w", "wait": "60s"}));
    let waiting = tokio::spawn(call.send());
    daemon.wait_until("somebody listens", async |_: &Daemon| client.consumers("wq.q.b").await == 1).await;
    assert!(tokio::task::block_in_place(|| daemon.stop()).success());
    assert_eq!(waiting.await.unwrap().expect("an answer").status().as_u16(), 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_robot_works_over_http_alone() {
    let daemon = daemon("claim example").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "good", &json!({"amount": 7})).await;
    client.send("a", "bad", &json!({})).await;
    let mut robot = std::process::Command::new("python3");
    robot.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/http_robot.py")).args([daemon.url(), "a", "2"]);
    let output = tokio::task::spawn_blocking(move || robot.output().expect("python3 runs")).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (good, bad) = (daemon.item("a", "good").await, daemon.item("a", "bad").await);
    assert_eq!((&good["state"], &good["result"]), (&json!("processed"), &json!({"booked": 7})));
    assert_eq!((&bad["kind"], &bad["code"]), (&json!("business"), &json!("amount")));
}

#[tokio::test]
async fn a_claim_takes_nothing_that_nobody_waits_for() {
    let daemon = daemon("claim exact").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..10 {
        client.send("a", &format!("r{number}"), &json!({"n": number})).await;
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 10).await;
    for expected in ["r0", "r1", "r2"] {
        let (status, answer) = claim(&daemon, "a", json!({"worker": "ann"})).await;
        assert_eq!((status, &answer["items"][0]["reference"]), (200, &json!(expected)));
        let lease = answer["lease"].as_str().unwrap();
        assert_eq!(outcome(&daemon, &answer["items"][0], lease, "processed").await.0, 200);
    }
    until_nobody_listens(&daemon, &client, "a").await;
    assert_eq!(client.ready("wq.q.a").await, 7, "the others stayed where they were");
    let mut robot = client.robot("a").await;
    for number in 3..10 {
        let delivery = robot.next().await;
        assert_eq!(crate::support::amqp::reference(&delivery), format!("r{number}"));
        assert_eq!((int_header(&delivery, "wq-attempt"), delivery.redelivered), (Some(1), false));
        robot.done(&delivery).await;
    }
    daemon.wait_until_done("a", 10).await;
}
