//! What holds dispatch up beside the window: `max_working`, and the breaker.

use lapin::message::Delivery;
use serde_json::{Value, json};

use super::item_in;
use crate::control::rebind::wait_for_ways;
use crate::control::{Listener, definition, run};
use crate::support::amqp::{Client, Robot, reference};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

/// Items that went out and have not ended.
async fn working(daemon: &Daemon, queue: &str) -> usize {
    let open = daemon.items(&format!("queue={queue}&state=queued,processing")).await;
    open.iter().filter(|item| item["attempt"] == 1).count()
}

#[tokio::test]
async fn no_more_are_worked_than_the_definition_allows() {
    let daemon = daemon("max working").queues("queue: a\nmax_working: 3\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..40 {
        let properties = super::properties(&format!("r-{number}")).with_priority(if number % 2 == 0 { 1 } else { 8 });
        super::enqueue(&client, "a", properties, b"{}").await;
    }
    daemon.wait_until("three are out", async |_: &Daemon| client.ready("wq.q.a").await == 3).await;
    // A place gets free with each end, whichever it is, and only then.
    let mut robot = client.robot("a").await;
    let first = robot.next().await;
    assert_eq!((working(&daemon, "a").await, client.ready("wq.q.a").await), (3, 2));
    robot.report(&first, "hold", &json!({})).await;
    robot.ack(&first).await;
    item_in(&daemon, "a", &reference(&first), "on_hold").await;
    daemon.wait_until("another one is out", async |daemon: &Daemon| working(daemon, "a").await == 3).await;
    robot.die().await;
    // Changes count at once.
    definition(&daemon, 0, "queue: a\nmax_working: 7\n");
    daemon.wait_until("seven are out", async |_: &Daemon| client.ready("wq.q.a").await == 7).await;
    definition(&daemon, 0, "queue: a\nmax_working: 2\n");
    daemon
        .wait_until("it is in force", async |daemon: &Daemon| {
            daemon.get("/api/v1/revisions").await["items"].as_array().unwrap().len() == 3
        })
        .await;
    let crew = Crew::hire(&daemon.vhost, "a", 5, |_| Ending::Processed).await;
    let mut most = Vec::new();
    while daemon.queue("a").await["counts"]["processed"] != 39 {
        most.push(working(&daemon, "a").await);
    }
    crew.dismiss().await;
    let falls = most.iter().skip_while(|out| **out > 2).all(|out| *out <= 2);
    assert!(falls && most.iter().all(|out| *out <= 7), "{most:?}");
}

async fn breaker(daemon: &Daemon, queue: &str, state: &str) -> Value {
    daemon
        .wait_until(&format!("the breaker of {queue} is {state}"), async |daemon: &Daemon| {
            daemon.queue(queue).await["breaker"]["state"] == state
        })
        .await;
    daemon.queue(queue).await["breaker"].clone()
}

async fn fails(robot: &mut Robot, seconds: usize) {
    let delivery = robot.next().await;
    fail(robot, &delivery, seconds).await;
}

async fn fail(robot: &Robot, delivery: &Delivery, seconds: usize) {
    let why = json!({"reason": format!("no answer in {seconds} s")});
    robot.report(delivery, "it_exception", &why).await;
    robot.ack(delivery).await;
}

#[tokio::test]
async fn alike_failures_in_a_row_pause_dispatch_until_one_that_is_tried_works() {
    let mut daemon = daemon("breaker")
        .queues("queue: a\nwindow: 1\nretry: {it: {limit: 0}}\nbreaker: {after: 3, pause: 4s}\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let mut events = Listener::on(&daemon).await;
    assert_eq!(
        daemon.queue("a").await["breaker"],
        json!({"state": "closed", "since": null, "until": null, "fingerprint": null, "failures": 0})
    );
    for number in 0..10 {
        client.send("a", &format!("r-{number}"), &json!({})).await;
    }
    let mut robot = client.robot("a").await;
    for seconds in 0..3 {
        fails(&mut robot, seconds).await;
    }
    let open = breaker(&daemon, "a", "open").await;
    let opened = events.hears("queue.breaker_opened.a").await.body.clone();
    assert_eq!(json!([opened["fingerprint"], opened["failures"]]), json!([open["fingerprint"], 3]));
    assert_eq!(opened["until"], open["until"]);
    // What was out already goes on: one with the robot and one ready, at most. It fails too, and only counts.
    let mut failed = 3;
    while working(&daemon, "a").await > 0 {
        fails(&mut robot, failed).await;
        failed += 1;
        daemon
            .wait_until("the failure is counted", async |daemon: &Daemon| {
                daemon.queue("a").await["counts"]["exception"] == failed
            })
            .await;
    }
    assert!(failed <= 5, "{failed} went out");
    let open = breaker(&daemon, "a", "open").await;
    assert_eq!(json!([open["failures"], open["until"]]), json!([failed, opened["until"]]));
    robot.die().await;
    // Open also after a restart, and then one is tried, and no more.
    daemon.kill();
    daemon.start_again().await;
    let mut robot = client.robot("a").await;
    let tried = robot.next().await;
    let trying = breaker(&daemon, "a", "trying").await;
    assert_eq!(json!([trying["since"], trying["failures"]]), json!([open["until"], failed]));
    assert_eq!((client.ready("wq.q.a").await, working(&daemon, "a").await), (0, 1), "one alone is tried");
    fail(&robot, &tried, 100).await;
    let again = breaker(&daemon, "a", "open").await;
    assert_eq!(json!([again["fingerprint"], again["failures"]]), json!([open["fingerprint"], failed + 1]));

    let tried = robot.next().await;
    breaker(&daemon, "a", "trying").await;
    assert_eq!((client.ready("wq.q.a").await, working(&daemon, "a").await), (0, 1), "one alone is tried");
    robot.done(&tried).await;
    breaker(&daemon, "a", "closed").await;
    assert_eq!(events.hears("queue.breaker_closed.a").await.body["who"], "policy");
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::Processed).await;
    robot.die().await;
    daemon.wait_until_done("a", 10).await;
    crew.dismiss().await;
    events.listen().await;
    let of_breakers: Vec<&str> = events.kinds().into_iter().filter(|kind| kind.contains("breaker")).collect();
    assert_eq!(of_breakers, ["queue.breaker_opened.a", "queue.breaker_opened.a", "queue.breaker_closed.a"]);
}

#[tokio::test]
async fn people_close_a_breaker_and_a_direct_queues_holds_what_arrives() {
    let daemon = daemon("breaker resume")
        .queues("queue: m\nwindow: 1\nretry: {it: {limit: 5, backoff: {first: 1s}}}\nbreaker: {after: 1, pause: 1h}\n")
        .queues("queue: d\nlane: direct\nretry: {it: {limit: 0}}\nbreaker: {after: 1, pause: 1h}\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let mut events = Listener::on(&daemon).await;
    for queue in ["m", "d"] {
        client.send(queue, "fails", &json!({})).await;
        let mut robot = client.robot(queue).await;
        fails(&mut robot, 1).await;
        // A retry is a failure too.
        let open = breaker(&daemon, queue, "open").await;
        assert_eq!(open["failures"], 1);
        robot.die().await;
    }
    wait_for_ways(&daemon, "d", &["wq.intake"]).await;
    for queue in ["m", "d"] {
        client.send(queue, "waits", &json!({})).await;
        assert_eq!(item_in(&daemon, queue, "waits", "queued").await["attempt"], 0, "{queue}");
        assert_eq!(client.ready(&format!("wq.q.{queue}")).await, 0);
    }
    assert!(run(&daemon, &["queues"]).await.out.contains("breaker open"));
    for queue in ["m", "d"] {
        let ran = run(&daemon, &["queues", "resume", queue, "--dispatch"]).await;
        assert_eq!((ran.code, ran.out), (0, format!("{queue}: dispatch open, intake open\n")), "{}", ran.err);
        assert_eq!(daemon.queue(queue).await["breaker"]["state"], "closed");
        let crew = Crew::hire(&daemon.vhost, queue, 1, |_| Ending::Processed).await;
        item_in(&daemon, queue, "waits", "processed").await;
        crew.dismiss().await;
        assert_ne!(events.hears(&format!("queue.breaker_closed.{queue}")).await.body["who"], "policy");
    }
    wait_for_ways(&daemon, "d", &["wq.q.d", "wq.tap"]).await;
}
