//! `warrend access`, and what RabbitMQ makes of the rights it gives: each user is logged in as.

use std::path::Path;
use std::process::Command;

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ErrorKind, ExchangeKind};
use serde_json::{Value, json};

use crate::support::amqp::{Client, headers, text};
use crate::support::broker::{User, Vhost, broker, encoded, vhost};
use crate::support::daemon::{Daemon, PATIENCE, daemon};

const QUEUES: &str = "queue: a\n---\nqueue: b\n---\nqueue: d\nlane: direct\n---\nqueue: x.y\n";

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// `warrend access` as the broker's administrator, with the definitions of a directory.
async fn access(vhost: &Vhost, queues: &Path, words: &[&str]) -> Ran {
    access_as(&vhost.management_url, vhost, queues, words).await
}

async fn access_as(management_url: &str, vhost: &Vhost, queues: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrend"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREND_")) {
        command.env_remove(name);
    }
    command
        .current_dir(queues)
        .env("WARREND__BROKER__AMQP_URL", &vhost.amqp_url)
        .env("WARREND__BROKER__MANAGEMENT_URL", management_url)
        .env("WARREND__DEFINITIONS__DIR", queues)
        .arg("access")
        .args(words);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
}

/// A directory of definitions.
fn definitions() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("queues.yaml"), QUEUES).unwrap();
    dir
}

/// What a user has in the virtual host: the three permissions, and its topic permissions.
async fn rights(vhost: &Vhost, user: &User) -> Option<(Value, Value)> {
    let name = encoded(&user.name);
    let (status, permissions) = vhost.try_management("GET", &format!("/api/permissions/{{vhost}}/{name}"), None).await;
    let (_, topics) = vhost.try_management("GET", &format!("/api/topic-permissions/{{vhost}}/{name}"), None).await;
    (status == 200).then_some((permissions, topics))
}

/// Before it a CC header goes past topic permissions.
fn checks_cc() -> bool {
    let numbers: Vec<u32> = broker().version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers >= vec![4, 0, 3]
}

/// The broker refuses it with 403.
async fn refused<T>(client: &Client, what: &str, attempt: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) {
    let channel = client.another_channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let Err(error) = attempt(&channel).await else { panic!("it may {what}") };
    let ErrorKind::ProtocolError(error) = error.kind() else { panic!("{what}: {error}") };
    assert_eq!(error.get_id(), 403, "{what}: {error}");
}

async fn publish_with(channel: &Channel, to: (&str, &str), properties: BasicProperties) -> lapin::Result<()> {
    let (exchange, key) = to;
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties).await?;
    confirm.await.map(|confirmation| assert!(confirmation.is_ack(), "{exchange} {key}"))
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    publish_with(channel, (exchange, key), BasicProperties::default()).await
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.map(drop)
}

async fn get(channel: &Channel, queue: &str) -> lapin::Result<()> {
    channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await
}

/// What neither producers nor robots may, whoever they are.
async fn may_not_build_or_break(client: &Client, its_own: &str) {
    refused(client, "declare a queue", async |channel| declare(channel, "wq.q.new").await).await;
    refused(client, "declare any queue", async |channel| declare(channel, "other").await).await;
    refused(client, "declare an exchange", async |channel| {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare("wq.mine".into(), ExchangeKind::Fanout, options, FieldTable::default()).await
    })
    .await;
    refused(client, "bind", async |channel| bind(channel, its_own, "wq.items", "#").await).await;
    refused(client, "delete", async |channel| {
        channel.queue_delete("wq.q.a".into(), QueueDeleteOptions::default()).await
    })
    .await;
    refused(client, "purge another's", async |channel| {
        channel.queue_purge("wq.q.b".into(), QueuePurgeOptions::default()).await
    })
    .await;
    for queue in ["wq.q.b", "wq.q.x.y", "wq.intake", "wq.reports", "wq.tap", "wq.unrouted", "wq.meta"] {
        refused(client, &format!("take from {queue}"), async |channel| get(channel, queue).await).await;
        refused(client, &format!("consume {queue}"), async |channel| consume(channel, queue).await).await;
    }
    for (exchange, key) in [
        ("", "wq.q.a"),
        ("", "wq.reports"),
        ("", its_own),
        ("wq.dispatch", "a"),
        ("wq.dead", ""),
        ("wq.events", "item.processed.a"),
        ("wq.unrouted", "a"),
        ("amq.topic", "a"),
    ] {
        refused(client, &format!("publish to '{exchange}' {key}"), async |channel| {
            publish(channel, exchange, key).await
        })
        .await;
    }
}

/// Waits for the one item of a reference to be in this state.
async fn item_is(daemon: &Daemon, queue: &str, reference: &str, state: &str) -> Value {
    let query = format!("queue={queue}&reference={reference}");
    daemon
        .wait_until(&format!("{reference} of {queue} is {state}"), async |daemon: &Daemon| {
            daemon.items(&query).await.iter().any(|item| item["state"] == state)
        })
        .await;
    daemon.item(queue, reference).await
}

fn no_problem(daemon: &Daemon, ready: &Value) {
    assert_eq!(ready["checks"]["management"], json!({"ok": true, "detail": "no problem known"}));
    let log = daemon.log();
    for word in ["ACCESS_REFUSED", "access to", "policies were left", "no broker session", "refused to"] {
        assert!(!log.contains(word), "{word}:\n{log}");
    }
}

#[tokio::test]
async fn everybody_works_with_the_rights_given_and_with_no_more() {
    let (vhost, dir) = (vhost("access").await, definitions());
    let erp = vhost.user("erp", "").await;
    let robots = vhost.user("robots", "").await;
    let own = vhost.user("warrend", "policymaker").await;
    let (producer, robot) = (format!("{}=a,d", erp.name), format!("{}=a,d", robots.name));
    let reply = format!("{}=reply.erp", erp.name);
    let others = ["--producer", &producer, "--reply-queue", &reply, "--robot", &robot, "--apply"];
    let ran = access(&vhost, dir.path(), &others).await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    for exchange in ["wq.items", "wq.outcomes"] {
        assert!(ran.err.contains(&format!("there is no exchange {exchange} yet")), "{}", ran.err);
    }
    let ran = access(&vhost, dir.path(), &["--daemon", &own.name, "--apply"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("no right here"), "{}", ran.out);

    // The daemon declares everything with its own user, and nothing else helps it.
    let (amqp_url, management_url) = (own.at(&vhost.amqp_url), own.at(&vhost.management_url));
    let mut daemon = daemon("access")
        .queues(QUEUES)
        .setting("BROKER__AMQP_URL", &amqp_url)
        .setting("BROKER__MANAGEMENT_URL", &management_url)
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .setting("CONTROL__OBSERVATION_GAP", "6s")
        .in_vhost(vhost)
        .start()
        .await;
    let connections = daemon.vhost.management("GET", "/api/vhosts/{vhost}/connections", None).await;
    let users: Vec<&Value> = connections.as_array().expect("a list").iter().map(|one| &one["user"]).collect();
    assert!(users.iter().all(|user| **user == own.name.as_str()), "{users:?}");

    let ran = access(&daemon.vhost, dir.path(), &others).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("it can purge its queues"), "{}", ran.out);
    assert_eq!(ran.out.contains("a CC or BCC header goes past these keys"), !checks_cc(), "{}", ran.out);
    let erp_client = Client::connect_to(&erp.at(&daemon.vhost.amqp_url)).await;
    let robot_client = Client::connect_to(&robots.at(&daemon.vhost.amqp_url)).await;
    producer_asks_and_is_answered(&daemon, &erp_client, &robot_client).await;
    the_robot_works(&daemon, &erp_client, &robot_client).await;

    may_not_build_or_break(&erp_client, "reply.erp").await;
    for queue in ["wq.q.a", "wq.q.d"] {
        refused(&erp_client, "take items", async |channel| get(channel, queue).await).await;
    }
    for (exchange, key) in [("wq.items", "b"), ("wq.items", "x.y"), ("wq.items", "a.b"), ("wq.outcomes", "a")] {
        refused(&erp_client, &format!("publish to {exchange} {key}"), async |channel| {
            publish(channel, exchange, key).await
        })
        .await;
    }
    may_not_build_or_break(&robot_client, "wq.q.a").await;
    for (exchange, key) in [("wq.outcomes", "b"), ("wq.outcomes", "x.y"), ("wq.items", "a")] {
        refused(&robot_client, &format!("publish to {exchange} {key}"), async |channel| {
            publish(channel, exchange, key).await
        })
        .await;
    }
    a_cc_header_is_as_the_command_said(&daemon, &erp_client).await;

    no_problem(&daemon, &daemon.get("/readyz").await);
    let policies = daemon.vhost.management("GET", "/api/policies/{vhost}", None).await;
    assert!(policies.as_array().expect("a list").iter().any(|policy| policy["name"] == "wq.tap"), "{policies}");

    // What waits for a queue goes through wq.items again once it is defined.
    let anybody = Client::connect(&daemon.vhost).await;
    anybody.send("later", "L", &json!({})).await;
    assert!(daemon.stop().success());
    std::fs::write(daemon.definitions_dir().join("later.yaml"), "queue: later\n").unwrap();
    daemon.start_again().await;
    item_is(&daemon, "later", "L", "queued").await;
    no_problem(&daemon, &daemon.get("/readyz").await);
}

/// Over its channel and over a queue of its own.
async fn producer_asks_and_is_answered(daemon: &Daemon, erp: &Client, robots: &Client) {
    declare(&erp.channel, "reply.erp").await.expect("its own queue");
    let channel = erp.another_channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut direct = channel
        .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, FieldTable::default())
        .await
        .expect("direct reply-to needs no right");
    let asking = |reference: &str, reply_to: &str| {
        BasicProperties::default().with_message_id(reference.into()).with_reply_to(reply_to.into())
    };
    let kind = |answer: &Delivery| answer.properties.kind().as_ref().map(ToString::to_string).unwrap_or_default();
    let channel_asks = asking("direct", "amq.rabbitmq.reply-to").with_delivery_mode(2);
    publish_with(&channel, ("wq.items", "a"), channel_asks).await.expect("published");
    assert!(erp.publish("wq.items", "a", asking("queue", "reply.erp"), b"{}").await);
    work_off(robots, "a", 2).await;
    let mut said = Vec::new();
    while said.last().is_none_or(|kind| kind != "processed") {
        let next = tokio::time::timeout(PATIENCE, direct.next()).await.expect("an answer on the channel");
        said.push(kind(&next.expect("a consumer").expect("an answer")));
    }
    assert_eq!(said, ["accepted", "processed"]);
    for expected in ["accepted", "processed"] {
        daemon.wait_until("an answer in the queue", async |_: &Daemon| erp.ready("reply.erp").await > 0).await;
        assert_eq!(kind(&erp.take("reply.erp").await.expect("an answer")), expected);
    }
}

async fn work_off(robots: &Client, queue: &str, items: usize) {
    let mut robot = robots.robot(queue).await;
    for _ in 0..items {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
    }
    robot.die().await;
}

/// Reports, rejects, acks without a word, and empties its queue.
async fn the_robot_works(daemon: &Daemon, erp: &Client, robots: &Client) {
    erp.send("d", "straight", &json!({})).await;
    work_off(robots, "d", 1).await;
    assert_eq!(item_is(daemon, "d", "straight", "processed").await["lane"], "direct");
    let mut robot = robots.robot("a").await;
    erp.send("a", "rejected", &json!({})).await;
    let delivery = robot.next().await;
    robot.reject(&delivery).await;
    assert_eq!(item_is(daemon, "a", "rejected", "exception").await["kind"], "generic");
    erp.send("a", "silent", &json!({})).await;
    let delivery = robot.next().await;
    robot.ack(&delivery).await;
    // Found over the management API, with the daemon's own user.
    assert_eq!(item_is(daemon, "a", "silent", "processed").await["inferred"], true);
    robot.die().await;
    assert_eq!(robots.ready("wq.q.a").await, 0);
    erp.send("a", "purged", &json!({})).await;
    daemon.wait_until("it is with the robots", async |_: &Daemon| robots.ready("wq.q.a").await == 1).await;
    let channel = robots.another_channel().await;
    assert_eq!(channel.queue_purge("wq.q.a".into(), QueuePurgeOptions::default()).await.expect("purged"), 1);
}

async fn a_cc_header_is_as_the_command_said(daemon: &Daemon, erp: &Client) {
    let cc = AMQPValue::FieldArray(vec![text("b")].into());
    let to_both = BasicProperties::default().with_message_id("cc".into()).with_headers(headers(&[("CC", cc)]));
    if checks_cc() {
        refused(erp, "reach b by a CC header", async |channel| publish_with(channel, ("wq.items", "a"), to_both).await)
            .await;
    } else {
        assert!(erp.publish("wq.items", "a", to_both, b"{}").await);
        item_is(daemon, "b", "cc", "queued").await;
    }
}

#[tokio::test]
async fn nothing_is_set_where_something_is_missing_and_what_is_set_replaces_what_was() {
    let (vhost, dir) = (vhost("access missing").await, definitions());
    let erp = vhost.user("erp", "policymaker").await;
    let own = vhost.user("warrend", "monitoring").await;
    let producer = format!("{}=a", erp.name);

    // Printed, nothing is set.
    let ran = access(&vhost, dir.path(), &["--producer", &producer, "--daemon", &own.name]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("rabbitmqctl set_permissions -p '"), "{}", ran.out);
    assert!(ran.out.contains(r"'^$' '^wq\.items$' '^$'"), "{}", ran.out);
    assert_eq!(rights(&vhost, &erp).await, None);

    // A user is missing, another misses its tag: both are said, and nobody gets anything.
    let words = ["--robot", "nobody=a", "--producer", &producer, "--daemon", &own.name, "--apply"];
    let ran = access(&vhost, dir.path(), &words).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
    assert!(ran.err.contains("nothing was set") && ran.err.contains("rabbitmqctl add_user nobody"), "{}", ran.err);
    let tags = format!("rabbitmqctl set_user_tags {} monitoring policymaker", own.name);
    assert!(ran.err.contains(&tags), "{}", ran.err);
    assert_eq!((rights(&vhost, &erp).await, rights(&vhost, &own).await), (None, None));

    // Keys that nobody defined.
    let wrong = format!("{}=x.u", erp.name);
    let ran = access(&vhost, dir.path(), &["--producer", &wrong, "--apply"]).await;
    assert_eq!(ran.code, 65);
    assert!(ran.err.contains("no queue 'x.u' is defined; did you mean 'x.y'?"), "{}", ran.err);

    // Whoever is no administrator, and a broker that is not there.
    let words = ["--producer", producer.as_str(), "--apply"];
    let ran = access_as(&erp.at(&vhost.management_url), &vhost, dir.path(), &words).await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("nothing was set. It takes an administrator"), "{}", ran.err);
    let ran = access_as("http://guest:guest@127.0.0.1:1", &vhost, dir.path(), &words).await;
    assert_eq!(ran.code, 69, "{}", ran.err);
    assert!(ran.err.contains("nothing was set") && !ran.err.contains("guest"), "{}", ran.err);

    // What was there is replaced, and told.
    for exchange in ["wq.items", "wq.outcomes"] {
        let topic = json!({"type": "topic", "durable": true});
        vhost.management("PUT", &format!("/api/exchanges/{{vhost}}/{exchange}"), Some(topic)).await;
    }
    let before = json!({"configure": ".*", "write": ".*", "read": ""});
    let name = encoded(&erp.name);
    vhost.management("PUT", &format!("/api/permissions/{{vhost}}/{name}"), Some(before)).await;
    let ran = access(&vhost, dir.path(), &["--producer", &producer, "--apply", "--output", "json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&shown["applied"], &shown["vhost"]), (&json!(true), &json!(vhost.name)));
    assert_eq!(shown["broker_version"], broker().version.as_str());
    assert_eq!(shown["users"][0]["before"]["permissions"], json!({"configure": ".*", "write": ".*", "read": ""}));
    let known = shown["users"][0]["know"].to_string();
    assert!(known.contains("it has the tag policymaker"), "{known}");
    let (permissions, topics) = rights(&vhost, &erp).await.expect("rights");
    let three = ["configure", "write", "read"].map(|right| permissions[right].clone());
    assert_eq!(three, ["^$", r"^wq\.items$", "^$"].map(Value::from));
    assert_eq!((&topics[0]["exchange"], &topics[0]["write"]), (&json!("wq.items"), &json!("^a$")));

    // The same user as robot too, then as daemon alone: no topic permission is left that would hold it back.
    let robot = format!("{}=x.y", erp.name);
    let ran = access(&vhost, dir.path(), &["--producer", &producer, "--robot", &robot, "--apply"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let (permissions, topics) = rights(&vhost, &erp).await.expect("rights");
    assert_eq!((&permissions["read"], topics.as_array().map(Vec::len)), (&json!(r"^wq\.q\.x\.y$"), Some(2)));
    let ran = access(&vhost, dir.path(), &["--daemon", &erp.name, "--apply"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let (_, topics) = rights(&vhost, &erp).await.expect("rights");
    assert!(topics.as_array().is_none_or(Vec::is_empty), "{topics}");
}
