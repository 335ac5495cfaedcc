//! What somebody changes by hand on the broker: noticed, told, and undone where the settings say so.

use serde_json::{Value, json};

use super::{Listener, define, drift, is_there, run, sessions, ways};
use crate::support::amqp::Client;
use crate::support::broker::{Vhost, broker, vhost};
use crate::support::daemon::{Daemon, Setup, daemon};

fn looking_often(name: &str) -> Setup {
    daemon(name).queues("queue: a\n---\nqueue: b\n").setting("CONTROL__RECONCILE_PERIOD", "1s")
}

/// One change by hand and what the daemon calls it.
struct Hand {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    told: &'static str,
}

fn hands() -> Vec<Hand> {
    let gone = |what, path, told| Hand { what, method: "DELETE", path, body: None, told };
    vec![
        gone("a binding", "/api/bindings/{vhost}/e/wq.items/q/wq.intake/a", "wq.items -[a]-> wq.intake"),
        Hand {
            what: "our policy",
            method: "PUT",
            path: "/api/policies/{vhost}/wq.tap",
            body: Some(
                json!({"pattern": r"^wq\.tap$", "definition": {"max-length-bytes": 7}, "priority": 100, "apply-to": "queues"}),
            ),
            told: "wq.tap",
        },
        gone("a robots' queue", "/api/queues/{vhost}/wq.q.a", "wq.q.a"),
        gone("an exchange", "/api/exchanges/{vhost}/wq.events", "wq.events"),
        Hand {
            what: "a way past the door",
            method: "POST",
            path: "/api/bindings/{vhost}/e/wq.items/q/wq.q.a",
            body: Some(json!({"routing_key": "#"})),
            told: "wq.items -[#]-> wq.q.a",
        },
    ]
}

impl Hand {
    async fn change(&self, vhost: &Vhost) {
        vhost.management(self.method, self.path, self.body.clone()).await;
    }

    fn is_told(&self, drift: &Value) -> bool {
        drift["steps"].as_array().into_iter().flatten().any(|step| step.as_str().unwrap().contains(self.told))
    }
}

#[tokio::test]
async fn drift_is_noticed_told_and_repaired_and_nobody_else_notices() {
    let daemon = looking_often("drift").setting("CONTROL__DRIFT", "repair").start().await;
    let mut listener = Listener::on(&daemon).await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("b").await;
    for hand in hands() {
        hand.change(&daemon.vhost).await;
        daemon
            .wait_until(&format!("{} is noticed", hand.what), async |daemon: &Daemon| {
                let seen = drift(daemon).await;
                hand.is_told(&seen) && seen["repaired"] == true
            })
            .await;
        daemon.wait_until("it is as it was", async |daemon: &Daemon| run(daemon, &["plan"]).await.code == 0).await;
        if hand.told == "wq.events" {
            // Its bindings went with it.
            listener.bind().await;
        } else {
            let heard = listener.hears("control.drift").await;
            assert!(hand.is_told(&heard.body), "{}: {:?}", hand.what, heard.body);
        }
    }
    for key in ["a", "b"] {
        client.send(key, "r", &json!({})).await;
    }
    let delivery = robot.next().await;
    robot.done(&delivery).await;
    daemon.wait_until_done("b", 1).await;
    daemon.wait_until("a is served again", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    assert_eq!(sessions(&daemon), 1, "{}", daemon.log());
}

#[tokio::test]
async fn drift_is_only_reported_where_the_settings_say_so() {
    let mut daemon = looking_often("drift report").setting("CONTROL__DRIFT", "report").start().await;
    let mut listener = Listener::on(&daemon).await;
    let hand = &hands()[0];
    hand.change(&daemon.vhost).await;
    daemon
        .wait_until("it is noticed", async |daemon: &Daemon| {
            let seen = drift(daemon).await;
            hand.is_told(&seen) && seen["repaired"] == false
        })
        .await;
    listener.hears("control.drift").await;
    assert!(!ways(&daemon, "wq.items").await.contains("a -> wq.intake"));
    let applied = run(&daemon, &["apply"]).await;
    assert_eq!(applied.code, 0, "{}{}", applied.out, applied.err);
    assert!(ways(&daemon, "wq.items").await.contains("a -> wq.intake"));
    daemon.wait_until("it is over", async |daemon: &Daemon| drift(daemon).await.is_null()).await;
    listener.listen().await;
    assert_eq!(listener.kinds().iter().filter(|kind| **kind == "control.drift").count(), 1, "told once");

    // What no session can do without is made all the same.
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.intake", None).await;
    daemon
        .wait_until("the intake is there again", async |daemon: &Daemon| {
            is_there(daemon, "wq.intake").await && daemon.get_with_status("/readyz").await.unwrap().0 == 200
        })
        .await;
    assert!(daemon.stop().success());
}

#[tokio::test]
async fn a_policy_of_an_operator_is_named_and_not_fought() {
    let daemon = looking_often("drift foreign").start().await;
    let ops =
        json!({"pattern": r"^wq\.", "definition": {"max-length": 1_000_000}, "priority": 500, "apply-to": "queues"});
    daemon.vhost.management("PUT", "/api/policies/{vhost}/ops", Some(ops)).await;
    daemon
        .wait_until("the plan names it", async |daemon: &Daemon| {
            daemon.get("/api/v1/plan").await["notes"].to_string().contains("The policy ops ")
        })
        .await;
    daemon
        .wait_until("the log names it", async |daemon: &Daemon| {
            daemon.log().lines().any(|line| line.contains("another policy stands before ours") && line.contains("ops"))
        })
        .await;
    let plan = run(&daemon, &["plan"]).await;
    assert_eq!((plan.code, plan.out.contains("The policy ops ")), (0, true), "{}", plan.out);
    assert_eq!(drift(&daemon).await, Value::Null);
    let there = daemon.vhost.management("GET", "/api/policies/{vhost}/ops", None).await;
    assert_eq!(there["priority"], 500);
}

/// As an upgrade from 3.x leaves them: without `x-delivery-limit`, which only 4.x knows.
#[tokio::test]
async fn own_queues_from_before_an_upgrade_are_used_and_never_expel() {
    for management in [true, false] {
        let vhost = vhost("upgraded").await;
        for (queue, more) in [("wq.reports", json!({})), ("wq.meta", json!({"x-max-length": 1}))] {
            let mut arguments = json!({"x-queue-type": "quorum"});
            arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let body = json!({"durable": true, "arguments": arguments});
            vhost.management("PUT", &format!("/api/queues/{{vhost}}/{queue}"), Some(body)).await;
        }
        let mut setup = daemon("upgraded").queues("queue: a\n").in_vhost(vhost);
        if !management {
            setup = setup.setting("BROKER__MANAGEMENT_URL", "");
        }
        let daemon = setup.start().await;
        let client = Client::connect(&daemon.vhost).await;
        client.send("a", "r", &json!({})).await;
        let mut robot = client.robot("a").await;
        let delivery = robot.next().await;
        robot.done(&delivery).await;
        daemon.wait_until_done("a", 1).await;
        if !broker().version.starts_with("4.") {
            continue;
        }
        if management {
            let policies = daemon.vhost.management("GET", "/api/policies/{vhost}", None).await;
            for queue in ["wq.reports", "wq.meta"] {
                let ours = policies.as_array().unwrap().iter().find(|policy| policy["name"] == queue);
                assert_eq!(ours.unwrap()["definition"], json!({"delivery-limit": -1}));
            }
            let plan = run(&daemon, &["plan"]).await;
            assert_eq!(plan.code, 0, "{}{}", plan.out, plan.err);
        } else {
            assert!(daemon.log().contains("is used as it is"), "{}", daemon.log());
        }
    }
}

#[tokio::test]
async fn what_is_blocked_is_said_and_stops_nobody() {
    let vhost = vhost("blocked").await;
    let odd = json!({"durable": true, "arguments": {"x-queue-type": "quorum", "x-max-length": 1_000_000}});
    vhost.management("PUT", "/api/queues/{vhost}/wq.reports", Some(odd)).await;
    let daemon = daemon("blocked").queues("queue: a\n").in_vhost(vhost).start().await;
    let plan = daemon.get("/api/v1/plan").await;
    assert_eq!(plan["steps"][0]["action"]["do"], "blocked", "{plan}");
    let applied = run(&daemon, &["apply"]).await;
    assert!(applied.code == 1 && applied.out.contains("Not done: wq.reports"), "{}{}", applied.out, applied.err);
    // A change reaches the broker all the same.
    define(&daemon, "b.yaml", "queue: b\n");
    daemon.wait_until("it is there", async |daemon: &Daemon| is_there(daemon, "wq.q.b").await).await;
}
