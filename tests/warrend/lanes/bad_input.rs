//! Whatever producers and robots send ends somewhere visible, with a reason, and everything else goes on.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Value, json};

use super::{
    all_goes_on, enqueue, item_in, parked, parked_because, properties, reference, state_of, story, take, text_header,
};
use crate::support::amqp::{Client, headers, id, int_header, text};
use crate::support::broker::broker;
use crate::support::daemon::{Daemon, daemon};
use crate::support::raw::{self, RawMessage};

const SCHEMA: &str = "queue: a
max_payload: 200B
schema:
  type: object
  required: [n, site]
  properties: {n: {type: integer}, site: {enum: [oslo, bergen]}}
---
queue: plain
";

fn good() -> Value {
    json!({"n": 1, "site": "oslo"})
}

fn reason(item: &Value) -> &str {
    item["reason"].as_str().unwrap_or_default()
}

fn ignored(item: &Value) -> Vec<&str> {
    item["ignored"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// Lines of `ignored` that begin like this, one each, and none more.
fn assert_ignored(item: &Value, beginnings: &[&str]) {
    let lines = ignored(item);
    assert_eq!(lines.len(), beginnings.len(), "{lines:?}");
    for beginning in beginnings {
        assert_eq!(lines.iter().filter(|line| line.starts_with(beginning)).count(), 1, "{beginning}: {lines:?}");
    }
}

fn list(values: Vec<AMQPValue>) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(values))
}

fn table(values: &[(&str, AMQPValue)]) -> AMQPValue {
    AMQPValue::FieldTable(headers(values))
}

/// An `x-death` as a broker would write it.
fn forged_death() -> AMQPValue {
    list(vec![table(&[
        ("reason", text("delivery_limit")),
        ("queue", text("wq.q.other")),
        ("exchange", text("")),
        ("count", AMQPValue::LongLongInt(7)),
        ("time", AMQPValue::Timestamp(1)),
        ("routing-keys", list(vec![text("other")])),
    ])])
}

fn forged() -> FieldTable {
    headers(&[
        ("x-death", forged_death()),
        ("x-delivery-count", AMQPValue::LongLongInt(99)),
        ("wq-attempt", AMQPValue::LongLongInt(7)),
        ("wq-reference", text("somebody else's")),
    ])
}

#[tokio::test]
async fn payloads_that_do_not_fit_are_refused_with_every_reason() {
    let daemon = daemon("bad payloads").queues(SCHEMA).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let json = |reference: &str| properties(reference).with_content_type("application/json; charset=utf-8".into());
    enqueue(&client, "a", properties("no-json"), b"{\"n\": 1,").await;
    enqueue(&client, "a", properties("empty"), b"").await;
    enqueue(&client, "a", properties("binary"), b"\x00\xff\xfe{}").await;
    enqueue(&client, "a", properties("misfit"), br#"{"n": "one", "site": "paris"}"#).await;
    enqueue(&client, "a", properties("bare"), b"{}").await;
    enqueue(&client, "a", properties("too-big"), format!("{{\"n\": 1, \"x\": \"{}\"}}", "y".repeat(200)).as_bytes())
        .await;
    enqueue(&client, "plain", json("says-json"), b"{\"n\": 1,").await;
    enqueue(&client, "plain", json("says-json-empty"), b"").await;

    for (queue, reference, code, parts) in [
        ("a", "no-json", "json", &["no JSON"][..]),
        ("a", "empty", "json", &["no JSON"]),
        ("a", "binary", "json", &["no JSON"]),
        ("a", "misfit", "schema", &["/n", "integer", "/site", "paris", "; "]),
        ("a", "bare", "schema", &["\"n\"", "\"site\"", "; "]),
        ("a", "too-big", "max_payload", &["max_payload is 200"]),
        ("plain", "says-json", "json", &["content-type says JSON"]),
        ("plain", "says-json-empty", "json", &["content-type says JSON"]),
    ] {
        let item = item_in(&daemon, queue, reference, "exception: invalid").await;
        assert_eq!(item["code"], code, "{item}");
        for part in parts {
            assert!(reason(&item).contains(part), "{reference}: {}", reason(&item));
        }
        assert_eq!(story(&daemon, &item).await, [format!("refused: {}", reason(&item))]);
    }
    all_goes_on(&daemon, &client, "a", &good()).await;
    all_goes_on(&daemon, &client, "plain", &json!({})).await;
}

#[tokio::test]
async fn forged_headers_are_listed_and_robots_get_the_daemons() {
    let daemon = daemon("forged headers").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let lines = ["wq-attempt", "wq-reference", "x-death", "x-delivery-count"];

    enqueue(&client, "m", properties("r").with_headers(forged()), b"{}").await;
    let mut robot = client.robot("m").await;
    let delivery = take(&mut robot, "r").await;
    assert_eq!(int_header(&delivery, "wq-attempt"), Some(1));
    let forgeries = delivery.properties.headers().clone().unwrap_or_default();
    assert!(!forgeries.contains_key("x-death"), "{forgeries:?}");
    robot.done(&delivery).await;
    robot.die().await;
    assert_ignored(&item_in(&daemon, "m", "r", "processed").await, &lines);

    // The broker hands these to robots as they are. What robots send back must not lead the daemon astray.
    let mut robot = client.robot("d").await;
    for (reference, outcome, state) in [
        ("failed", Some("business_exception"), "exception: business"),
        ("rejected", None, "exception: generic"),
        ("done", Some("processed"), "processed"),
    ] {
        enqueue(&client, "d", properties(reference).with_headers(forged()), b"{}").await;
        let delivery = robot.next().await;
        assert_eq!(id(&delivery), reference);
        match outcome {
            Some(outcome) => {
                robot.report(&delivery, outcome, &json!({})).await;
                robot.ack(&delivery).await;
            }
            None => robot.reject(&delivery).await,
        }
        daemon
            .wait_until(&format!("{reference} is {state}, and its copy was read"), async |daemon: &Daemon| {
                let items = daemon.items(&format!("queue=d&reference={reference}")).await;
                let is_of_the_copy = |line: &&str| line.starts_with("x-delivery-count");
                items.first().is_some_and(|item| state_of(item) == state && ignored(item).iter().any(is_of_the_copy))
            })
            .await;
        let item = daemon.item("d", reference).await;
        // Where a stream keeps no lists the broker leaves the forged x-death out of its copy.
        let has_list = ignored(&item).iter().any(|line| line.starts_with("x-death"));
        assert_ignored(&item, if has_list { &lines } else { &["wq-attempt", "wq-reference", "x-delivery-count"] });
    }
    assert_eq!(parked(&daemon).await, [] as [Value; 0]);
    robot.die().await;
    all_goes_on(&daemon, &client, "m", &json!({})).await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn forged_deaths_do_not_hide_how_an_item_died() {
    let daemon = daemon("forged deaths").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (reference, death) in [("list", forged_death()), ("text", text("x")), ("empty", list(vec![]))] {
        let forged = headers(&[("x-death", death)]);
        enqueue(&client, "d", properties(reference).with_headers(forged.clone()).with_expiration("1".into()), b"{}")
            .await;
        item_in(&daemon, "d", reference, "exception: expired").await;
        let mut robot = client.robot("m").await;
        enqueue(&client, "m", properties(reference).with_headers(forged), b"{}").await;
        let delivery = take(&mut robot, reference).await;
        robot.reject(&delivery).await;
        robot.die().await;
        item_in(&daemon, "m", reference, "exception: generic").await;
    }
    all_goes_on(&daemon, &client, "m", &json!({})).await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn keys_that_nobody_defined_end_where_they_can_be_seen() {
    let yaml = "queue: a\n---\nqueue: b\n---\nqueue: d\nlane: direct\n---\nqueue: e\nlane: direct\n";
    let daemon = daemon("routing keys").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let copies = |reference: &str, keys: &[&str]| {
        let keys = keys.iter().map(|key| text(key)).collect();
        properties(reference).with_headers(headers(&[("CC", list(keys))]))
    };
    enqueue(&client, "nobody", properties("lost"), b"{}").await;
    enqueue(&client, "", properties("lost-too"), b"{}").await;
    enqueue(&client, "*.#", properties("lost-as-well"), b"{}").await;
    daemon.wait_until("the unrouted are kept", async |_: &Daemon| client.ready("wq.unrouted").await == 3).await;
    let kept = client.take("wq.unrouted").await.expect("a message");
    assert_eq!((kept.routing_key.as_str(), id(&kept).as_str()), ("nobody", "lost"));

    enqueue(&client, "a", copies("both", &["b"]), b"{}").await;
    for queue in ["a", "b"] {
        assert_eq!(item_in(&daemon, queue, "both", "queued").await["lane"], "managed");
    }
    enqueue(&client, "a", copies("half", &["nowhere"]), b"{}").await;
    item_in(&daemon, "a", "half", "queued").await;
    let message = parked_because(&daemon, "nobody defined the queue nowhere").await;
    assert_eq!(message["properties"]["message_id"], "half");
    enqueue(&client, "a", copies("repeated", &["a", "a"]), b"{}").await;
    item_in(&daemon, "a", "repeated", "queued").await;

    // To a direct queue the broker copies by itself.
    enqueue(&client, "d", copies("from-direct", &["a"]), b"{}").await;
    item_in(&daemon, "a", "from-direct", "queued").await;
    let item = item_in(&daemon, "d", "from-direct", "queued").await;
    assert_eq!(item["lane"], "direct");
    let mut expected = vec![("a", 4), ("b", 1), ("d", 1)];
    // Streams before 4.0 keep no lists, so there the copies do not show their `CC`.
    if broker().version.starts_with("4.") {
        assert!(ignored(&item).iter().any(|line| line.starts_with("CC: ")), "{item}");
        enqueue(&client, "a", copies("to-direct", &["d"]), b"{}").await;
        assert_eq!(item_in(&daemon, "a", "to-direct", "queued").await["lane"], "managed");
        let item = item_in(&daemon, "d", "to-direct", "queued").await;
        assert_eq!((&item["lane"], ignored(&item).len()), (&json!("direct"), 1), "{item}");
        enqueue(&client, "d", copies("twice-direct", &["e"]), b"{}").await;
        for queue in ["d", "e"] {
            assert_eq!(item_in(&daemon, queue, "twice-direct", "queued").await["lane"], "direct");
        }
        expected = vec![("a", 5), ("b", 1), ("d", 3), ("e", 1)];
    }
    for (queue, count) in expected {
        assert_eq!(daemon.items(&format!("queue={queue}")).await.len(), count, "{queue}");
    }

    let odd = headers(&[("CC", list(vec![AMQPValue::Boolean(true)]))]);
    enqueue(&client, "b", properties("odd-list").with_headers(odd), b"{}").await;
    assert!(reason(&item_in(&daemon, "b", "odd-list", "exception: invalid").await).contains("no routing key"));
    all_goes_on(&daemon, &client, "b", &json!({})).await;
    all_goes_on(&daemon, &client, "e", &json!({})).await;
}

#[tokio::test]
async fn reports_that_fit_no_attempt_are_parked_or_noted() {
    let daemon = daemon("bad reports").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let report =
        async |queue: &str, kind: Option<&str>, about: Option<&str>, attempt: Option<AMQPValue>, body: &[u8]| {
            let mut properties = BasicProperties::default().with_app_id("odd".into());
            if let Some(kind) = kind {
                properties = properties.with_type(kind.into());
            }
            if let Some(about) = about {
                properties = properties.with_correlation_id(about.into());
            }
            if let Some(attempt) = attempt {
                properties = properties.with_headers(headers(&[("wq-attempt", attempt)]));
            }
            assert!(client.publish("wq.outcomes", queue, properties, body).await);
        };
    let unknown = uuid::Uuid::now_v7().to_string();
    report("a", Some("processed"), Some(&unknown), None, b"{}").await;
    report("a", Some("processed"), Some("nobody's"), None, b"{}").await;
    report("a", Some("done"), Some(&unknown), None, b"{}").await;
    report("a", None, Some(&unknown), None, b"{}").await;
    report("a", Some("processed"), None, None, b"{}").await;
    report("nobody", Some("processed"), Some(&unknown), None, b"{}").await;
    assert!(client.publish("", "wq.reports", BasicProperties::default(), b"\x00\xff\x01junk").await);
    assert!(client.publish("wq.dead", "a", properties("straight"), b"{}").await);
    let empty_death = properties("straight").with_headers(headers(&[("x-death", list(vec![]))]));
    assert!(client.publish("wq.dead", "a", empty_death, b"{}").await);
    for why in [
        format!("'{unknown}', which is no item of the queue a"),
        "'nobody's', which is no item of the queue a".to_owned(),
        "'done' is no known type".to_owned(),
        "no correlation-id".to_owned(),
        "the queue 'nobody', which nobody defined".to_owned(),
        "has no x-death header".to_owned(),
        "x-death header is empty".to_owned(),
    ] {
        parked_because(&daemon, &why).await;
    }
    daemon.wait_until("all nine are parked", async |daemon: &Daemon| parked(daemon).await.len() == 9).await;
    let all = parked(&daemon).await;
    assert_eq!(all.iter().filter(|one| one["reason"].as_str().unwrap().contains("no type property")).count(), 2);
    let junk = all.iter().find(|one| one["queue"] == "wq.reports").expect("the junk is shown");
    assert_eq!((&junk["size"], &junk["source"]), (&json!(7), &json!("reports")));

    // About an item that is out in its first attempt.
    client.send("a", "r", &json!({})).await;
    let mut robot = client.robot("a").await;
    let delivery = take(&mut robot, "r").await;
    let about = id(&delivery);
    report("a", Some("it_exception"), Some(&about), Some(AMQPValue::LongLongInt(0)), b"{}").await;
    report("a", Some("it_exception"), Some(&about), Some(AMQPValue::LongLongInt(9)), b"{}").await;
    report("a", Some("progress"), Some(&about), Some(text("two")), b"{\"percent\": 250, \"colour\": 1}").await;
    report("a", Some("progress"), Some(&about), Some(list(vec![])), b"no json {").await;
    report("a", Some("started"), Some(&about), Some(text("1")), b"\xff\xfe").await;
    report("a", Some("business_exception"), Some(&about), None, b"the vendor is unknown").await;
    robot.ack(&delivery).await;
    robot.die().await;
    let item = item_in(&daemon, "a", "r", "exception: business").await;
    assert_eq!((&item["reason"], &item["attempt"]), (&json!("the vendor is unknown"), &json!(1)));
    let story = story(&daemon, &item).await;
    let expected = [
        "admitted",
        "noted: it_exception was reported for attempt 0; the item was queued in attempt 1",
        "noted: it_exception was reported for attempt 9; the item was queued in attempt 1",
        "progress: percent is 250, not a number from 0 to 100; it was left out; colour is no known field; it was left \
         out; wq-attempt is text, not a number; the open attempt was taken",
        "progress: no json { (wq-attempt is a list, not a number; the open attempt was taken)",
        "started: \u{fffd}\u{fffd}",
        "exception: the vendor is unknown",
    ];
    assert_eq!(story, expected);

    // Work done is never refused, whichever attempt says so.
    report("a", Some("processed"), Some(&about), Some(AMQPValue::LongLongInt(9)), b"{}").await;
    let item = item_in(&daemon, "a", "r", "processed").await;
    assert_eq!(
        super::story(&daemon, &item).await.last().unwrap(),
        "processed: by attempt 9, which was never handed out"
    );
    all_goes_on(&daemon, &client, "a", &json!({})).await;
}

#[tokio::test]
async fn priorities_and_headers_out_of_range_are_refused_or_ignored_by_lane() {
    let daemon = daemon("bad headers").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let odd = |name: &str, value: AMQPValue| headers(&[(name, value)]);
    for (reference, properties, part) in [
        ("priority", properties("priority").with_priority(255), "priority 255 is not in 0..31"),
        ("named", properties("named").with_headers(odd("wq-priority", text("urgent"))), "'urgent'"),
        ("due", properties("due").with_headers(odd("wq-due-at", text("tomorrow"))), "'tomorrow'"),
        ("before", properties("before").with_headers(odd("wq-not-before", AMQPValue::Boolean(true))), "wq-not-before"),
        ("label", properties("label").with_headers(odd("wq-label-site", table(&[]))), "wq-label-site: it is a table"),
        ("name", properties("name").with_headers(odd("wq-name", list(vec![]))), "wq-name: it is a list"),
        ("life", properties("life").with_headers(odd("wq-expires-at", AMQPValue::Void)), "wq-expires-at"),
        ("copy", properties("copy").with_headers(odd("traceparent", AMQPValue::Double(0.5))), "traceparent"),
    ] {
        enqueue(&client, "m", properties.clone(), b"{}").await;
        enqueue(&client, "d", properties, b"{}").await;
        let item = item_in(&daemon, "m", reference, "exception: invalid").await;
        assert!(reason(&item).contains(part), "{reference}: {}", reason(&item));
        let item = item_in(&daemon, "d", reference, "queued").await;
        // A stream keeps no lists and tables, so the copy shows nothing of those.
        let kept = !matches!(reference, "label" | "name" | "life");
        assert!(!kept || !ignored(&item).is_empty(), "{reference}: {item}");
    }
    // One that is wrong in three ways is told all three.
    let three = headers(&[("wq-due-at", text("soon")), ("wq-name", AMQPValue::Boolean(true))]);
    enqueue(&client, "m", properties("three").with_priority(99).with_headers(three), b"{}").await;
    let item = item_in(&daemon, "m", "three", "exception: invalid").await;
    for part in ["'soon'", "wq-name", "priority 99"] {
        assert!(reason(&item).contains(part), "{}", reason(&item));
    }
    // Times at the ends of what can be said.
    let ends =
        headers(&[("wq-due-at", AMQPValue::Timestamp(u64::MAX)), ("wq-not-before", text("9999-12-30T00:00:00Z"))]);
    enqueue(&client, "m", properties("ends").with_headers(ends), b"{}").await;
    let item = item_in(&daemon, "m", "ends", "exception: invalid").await;
    assert!(reason(&item).contains("out of range"), "{}", reason(&item));
    enqueue(&client, "m", properties("clock").with_timestamp(u64::MAX).with_expiration("4294967295".into()), b"{}")
        .await;
    item_in(&daemon, "m", "clock", "queued").await;
    all_goes_on(&daemon, &client, "m", &json!({})).await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn answers_go_only_where_they_may_and_say_when_they_cannot() {
    let daemon = daemon("bad replies").queues("queue: a\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (reference, reply_to) in [("robots", "wq.q.b"), ("daemon", "wq.intake"), ("other", "somebody")] {
        enqueue(&client, "a", properties(reference).with_reply_to(reply_to.into()), b"{}").await;
        let item = item_in(&daemon, "a", reference, "queued").await;
        assert_ignored(&item, &[&format!("reply-to '{reply_to}': not allowed")]);
    }
    enqueue(&client, "a", properties("absent").with_reply_to("reply.absent".into()), b"{}").await;
    let item = item_in(&daemon, "a", "absent", "queued").await;
    assert_eq!(ignored(&item), [] as [&str; 0]);
    daemon
        .wait_until("the timeline says that the answer went nowhere", async |daemon: &Daemon| {
            story(daemon, &item)
                .await
                .iter()
                .any(|line| line.starts_with("noted: the answer 'accepted' to reply.absent was not delivered"))
        })
        .await;
    enqueue(&client, "a", properties("gone").with_reply_to("amq.rabbitmq.reply-to.g1h2".into()), b"{}").await;
    item_in(&daemon, "a", "gone", "queued").await;
    all_goes_on(&daemon, &client, "a", &json!({})).await;
    assert_eq!(client.ready("wq.q.b").await, 0, "no answer became work");
}

#[tokio::test]
async fn bytes_of_any_kind_go_through_as_they_are() {
    let daemon = daemon("odd bytes").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let long = "r".repeat(255);
    let odd = "a\u{0}b\n\u{1b}[31m 'x' \"%_\u{1f600}";
    let bytes = headers(&[
        ("wq-label-site", AMQPValue::LongString("a\u{0}b".into())),
        ("wq-name", AMQPValue::LongString("n\u{0}".into())),
    ]);
    for queue in ["m", "d"] {
        enqueue(&client, queue, properties("empty"), b"").await;
        enqueue(&client, queue, properties("bytes"), b"\x00\xff\xfe\x00").await;
        enqueue(&client, queue, properties(&long), b"{}").await;
        enqueue(&client, queue, properties(odd).with_headers(bytes.clone()), b"{}").await;
        enqueue(&client, queue, BasicProperties::default(), b"nameless").await;
        let mut robot = client.robot(queue).await;
        for expected in ["empty", "bytes", long.as_str(), odd, ""] {
            let delivery = robot.next().await;
            let nameless = queue == "m" && expected.is_empty();
            let seen = if nameless { text_header(&delivery, "wq-reference") } else { Some(reference(&delivery)) };
            assert_eq!(seen.unwrap_or_default(), expected);
            let payload: &[u8] = match expected {
                "empty" => b"",
                "bytes" => b"\x00\xff\xfe\x00",
                "" => b"nameless",
                _ => b"{}",
            };
            assert_eq!(delivery.data, payload);
            if queue == "m" || !expected.is_empty() {
                robot.report(&delivery, "processed", &json!({"note": odd})).await;
            }
            robot.ack(&delivery).await;
        }
        robot.die().await;
        let known = if queue == "m" { 5 } else { 4 };
        daemon.wait_until_done(queue, known).await;
        daemon
            .wait_until("every copy was read", async |daemon: &Daemon| {
                daemon.items(&format!("queue={queue}")).await.iter().all(|item| {
                    item["reference"] != odd || (item["name"] == "n\u{0}" && item["labels"]["site"] == "a\u{0}b")
                })
            })
            .await;
        for item in daemon.items(&format!("queue={queue}")).await {
            assert_eq!((state_of(&item), &item["note"]), ("processed".to_owned(), &json!(odd)));
        }
        assert_eq!(daemon.item(queue, &long).await["state"], "processed");
    }
    assert_eq!(parked(&daemon).await, [] as [Value; 0]);
    all_goes_on(&daemon, &client, "m", &json!({})).await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn texts_that_are_no_utf_8_stop_nobody() {
    let daemon = daemon("no utf-8").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let values: &[(&[u8], &[u8])] = &[(b"wq-label-site", b"\xe5l")];
    let value = RawMessage {
        exchange: b"wq.items",
        key: b"m",
        message_id: Some(b"value"),
        headers: values,
        ..RawMessage::default()
    };
    raw::publish(&daemon.vhost, &value).await;
    assert!(reason(&item_in(&daemon, "m", "value", "exception: invalid").await).contains("wq-label-site"));

    let names: &[(&[u8], &[u8])] = &[(b"wq-\xe5", b"x")];
    for key in [&b"m"[..], b"d"] {
        for message in [
            RawMessage { message_id: Some(b"\xc5lesund"), body: b"1", ..RawMessage::default() },
            RawMessage { message_id: Some(b"names"), headers: names, body: b"2", ..RawMessage::default() },
            RawMessage {
                correlation_id: Some(b"\xff"),
                message_id: Some(b"about"),
                body: b"3",
                ..RawMessage::default()
            },
        ] {
            raw::publish(&daemon.vhost, &RawMessage { exchange: b"wq.items", key, ..message }).await;
        }
    }
    let report = RawMessage {
        exchange: b"wq.outcomes",
        key: b"m",
        correlation_id: Some(b"\xe5"),
        kind: Some(b"pr\xf8ve"),
        ..RawMessage::default()
    };
    raw::publish(&daemon.vhost, &report).await;
    daemon
        .wait_until("all were read", async |daemon: &Daemon| {
            daemon.items("queue=m").await.len() == 4
                && daemon.items("queue=d").await.len() == 3
                && parked(daemon).await.len() == 1
        })
        .await;
    all_goes_on(&daemon, &client, "m", &json!({})).await;
}
