//! `warrend plan` against a real broker: what it names is what is to be done, and after that there is nothing.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::broker::{Vhost, broker, vhost};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: a\ntype: classic\n---\nqueue: b.c\nlane: direct\n---\nqueue: old\n";

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// `warrend plan` with this daemon's settings, whether it runs or not.
async fn plan(daemon: &Daemon, words: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = daemon.command();
    command.arg("plan").args(words).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
}

/// The plan as a value, after a look at how the command ended.
async fn planned(daemon: &Daemon, words: &[&str], code: i32) -> Value {
    let words: Vec<&str> = ["--output", "json"].into_iter().chain(words.iter().copied()).collect();
    let ran = plan(daemon, &words, &[]).await;
    assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err))
}

/// `bind wq.items a wq.intake` and the like, in order.
fn steps(plan: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |step: &Value| {
        let action = &step["action"];
        let what = match action["do"].as_str().expect("what it does") {
            "set_policy" | "remove_policy" => word(&action["policy"]["name"]),
            "create_exchange" => word(&action["exchange"]["name"]),
            "create_queue" => word(&action["queue"]["name"]),
            "bind" | "unbind" => ["exchange", "key", "queue"].map(|name| word(&action["binding"][name])).join(" "),
            "migrate" => word(&action["key"]),
            "delete" => word(&action["queue"]),
            _ => word(&action["name"]),
        };
        format!("{} {what}", word(&action["do"]))
    };
    plan["steps"].as_array().expect("steps").iter().map(line).collect()
}

fn notes(plan: &Value) -> Vec<String> {
    let notes = plan["notes"].as_array().expect("notes").iter();
    notes.map(|note| format!("{}: {}", note["about"].as_str().unwrap(), note["text"].as_str().unwrap())).collect()
}

async fn drop_binding(vhost: &Vhost, exchange: &str, key: &str, queue: &str) {
    vhost.management("DELETE", &format!("/api/bindings/{{vhost}}/e/{exchange}/q/{queue}/{key}"), None).await;
}

#[tokio::test]
async fn a_plan_names_what_is_missing_and_nothing_else() {
    let mut daemon = daemon("plan").queues(QUEUES).start().await;
    let empty = vhost("plan nothing").await;
    let from_nothing = plan(&daemon, &[], &[("WARREND__BROKER__AMQP_URL", &empty.amqp_url)]).await;
    assert_eq!(from_nothing.code, 2, "{}", from_nothing.err);
    for part in [
        "+ queue wq.q.b.c\n",
        "+ exchange wq.items (topic, else to wq.unrouted)\n",
        " to create, 0 to change, 0 to move, 0 to remove\n",
    ] {
        assert!(from_nothing.out.contains(part), "{part}\n{}", from_nothing.out);
    }
    assert!(!from_nothing.out.contains('\u{1b}'), "no colours in a file");

    // What the daemon declared at its start is all of it.
    let nothing = plan(&daemon, &[], &[]).await;
    assert_eq!((nothing.out.as_str(), nothing.code), ("Nothing to do: the broker is as the definitions say.\n", 0));
    assert_eq!(planned(&daemon, &[], 0).await["steps"], json!([]));

    assert!(daemon.stop().success());
    let vhost = &daemon.vhost;
    drop_binding(vhost, "wq.items", "a", "wq.intake").await;
    drop_binding(vhost, "wq.items", "b.c", "wq.tap").await;
    vhost.management("POST", "/api/bindings/{vhost}/e/wq.items/q/wq.q.a", Some(json!({"routing_key": "#"}))).await;
    let loose =
        json!({"pattern": r"^wq\.tap$", "definition": {"max-length-bytes": 7}, "priority": 100, "apply-to": "queues"});
    vhost.management("PUT", "/api/policies/{vhost}/wq.tap", Some(loose)).await;
    vhost.management("DELETE", "/api/queues/{vhost}/wq.q.old", None).await;
    vhost.management("DELETE", "/api/exchanges/{vhost}/wq.events", None).await;
    let broken = planned(&daemon, &[], 2).await;
    assert_eq!(
        steps(&broken),
        [
            "set_policy wq.tap",
            "create_exchange wq.events",
            "create_queue wq.q.old",
            "unbind wq.items # wq.q.a",
            "bind wq.items a wq.intake",
            "bind wq.items b.c wq.tap",
            "bind wq.dispatch old wq.q.old",
        ]
    );
    assert_eq!(broken["steps"][0]["action"]["before"]["definition"], json!({"max-length-bytes": 7}));
    assert_eq!(broken["summary"], json!({"create": 5, "change": 1, "move": 0, "remove": 1, "blocked": 0}));

    // A start does all of it.
    daemon.start_again().await;
    daemon.wait_until("nothing is left to do", async |daemon: &Daemon| plan(daemon, &[], &[]).await.code == 0).await;
    assert_eq!(planned(&daemon, &[], 0).await["steps"], json!([]));
}

#[tokio::test]
async fn a_plan_says_what_a_change_of_definitions_does() {
    let mut daemon = daemon("plan change").queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    let changed = "queue: a\ntype: classic\npriorities: {normal: 1, top: 12}\n---\nqueue: b.c\n";
    std::fs::write(daemon.definitions_dir().join("0.yaml"), changed).unwrap();

    let kept = planned(&daemon, &[], 2).await;
    let rest = [
        "unbind wq.items b.c wq.tap",
        "unbind wq.items old wq.intake",
        "unbind wq.items b.c wq.q.b.c",
        "bind wq.items b.c wq.intake",
        "migrate a",
    ];
    assert_eq!(steps(&kept), rest);
    let migrate = &kept["steps"][4];
    assert_eq!(migrate["action"]["differs"], json!([{"what": "x-max-priority", "before": "8", "after": "12"}]));
    assert_eq!(migrate["risk"]["mark"], "moves");
    assert!(notes(&kept).iter().any(|note| note.starts_with("retired: old is not defined")), "{:?}", notes(&kept));

    let said = planned(&daemon, &["--retire", "old"], 2).await;
    assert_eq!(steps(&said), rest.iter().copied().chain(["delete wq.q.old"]).collect::<Vec<_>>());
    assert_eq!(said["steps"][5]["risk"]["mark"], "loses");
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone_and_what_shadows_is_named() {
    let daemon = daemon("plan foreign").queues("queue: a\n").start().await;
    let vhost = &daemon.vhost;
    vhost.management("PUT", "/api/queues/{vhost}/audit", Some(json!({"durable": true}))).await;
    for exchange in ["wq.items", "wq.events"] {
        let path = format!("/api/bindings/{{vhost}}/e/{exchange}/q/audit");
        vhost.management("POST", &path, Some(json!({"routing_key": "#"}))).await;
    }
    let policy = |pattern: &str, definition: Value, priority: i64| json!({"pattern": pattern, "definition": definition, "priority": priority, "apply-to": "queues"});
    let ops = policy(r"^wq\.tap$", json!({"max-length-bytes": 5_000_000}), 500);
    vhost.management("PUT", "/api/policies/{vhost}/ops", Some(ops)).await;
    let caps = policy(r"^wq\.", json!({"max-length": 1_000_000}), 0);
    vhost.management("PUT", "/api/operator-policies/{vhost}/caps", Some(caps)).await;
    let plan = planned(&daemon, &[], 0).await;
    let notes = notes(&plan);
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (note, part) in notes.iter().zip([
        "The policy ops (priority 500, ours 100) stands before ours on wq.tap: max-length-bytes of the definitions is not",
        "The operator policy caps sets max-length 1000000 on wq.reports, wq.unrouted, wq.intake, wq.meta, wq.q.a:",
    ]) {
        assert!(note.contains(part), "{part}: {note}");
    }
}

#[tokio::test]
async fn without_a_broker_it_says_why_and_what_to_do() {
    let daemon = daemon("plan alone").queues("queue: a\n").start().await;
    let somewhere = broker().amqp_url.clone() + "/no-such-vhost";
    for (environment, code, parts) in [
        (("WARREND__BROKER__MANAGEMENT_URL", "http://127.0.0.1:1"), 69, ["does not answer", "--offline VERSION"]),
        (("WARREND__BROKER__MANAGEMENT_URL", ""), 78, ["broker.management_url is empty", "--offline VERSION"]),
        (("WARREND__BROKER__AMQP_URL", &somewhere), 1, ["404", "virtual host no-such-vhost"]),
        (("WARREND__DEFINITIONS__DIR", "no/such/folder"), 65, ["cannot read the definitions", "no/such/folder"]),
    ] {
        let ran = plan(&daemon, &[], &[environment]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{environment:?}: {}", ran.err);
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{environment:?}: {}", ran.err);
    }
    let offline = plan(&daemon, &["--offline", "3.10"], &[("WARREND__BROKER__MANAGEMENT_URL", "")]).await;
    assert_eq!(offline.code, 2, "{}", offline.err);
    assert!(offline.out.contains("x-max-priority: 8"), "{}", offline.out);
}
