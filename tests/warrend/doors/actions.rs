//! One action on many items: previewed, run, slowed down, stopped, cancelled and undone, against a real broker.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

const ACTIONS: &str = "/api/v1/items/actions";

async fn begin(daemon: &Daemon, body: Value) -> Value {
    let (status, job) = daemon.post(ACTIONS, &body).await;
    assert_eq!(status, 202, "{body}: {job}");
    job
}

async fn ask(daemon: &Daemon, job: &Value, verb: &str) -> (u16, Value) {
    let id = job["id"].as_str().expect("an id");
    daemon.post(&format!("{ACTIONS}/{id}/{verb}"), &json!({"by": "ann"})).await
}

async fn shown(daemon: &Daemon, job: &Value) -> Value {
    daemon.get(&format!("{ACTIONS}/{}", job["id"].as_str().expect("an id"))).await
}

/// Waits until a job is in a state, and answers it.
async fn until(daemon: &Daemon, job: &Value, state: &str) -> Value {
    daemon
        .wait_until(&format!("the job is {state}"), async |daemon: &Daemon| shown(daemon, job).await["state"] == state)
        .await;
    shown(daemon, job).await
}

async fn done(daemon: &Daemon, body: Value) -> Value {
    let job = begin(daemon, body).await;
    until(daemon, &job, "done").await
}

/// Every result of a job, page by page.
async fn results(daemon: &Daemon, job: &Value, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let id = job["id"].as_str().expect("an id");
        let page = daemon.get(&format!("{ACTIONS}/{id}/results?limit=7{query}{cursor}")).await;
        all.extend(page["items"].as_array().expect("results").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn enqueue(daemon: &Daemon, queue: &str, body: Value) -> Value {
    let (status, item) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
    assert_eq!(status, 201, "{item}");
    item
}

/// Items that wait in the mirror: nothing is dispatched.
async fn waiting(name: &str, more: &str, payloads: &[Value]) -> (Daemon, Vec<Value>) {
    let daemon = daemon(name).queues(&format!("queue: a\npaused: {{dispatch: true}}\n{more}")).start().await;
    let mut items = Vec::new();
    for (number, payload) in payloads.iter().enumerate() {
        items.push(enqueue(&daemon, "a", json!({"payload": payload, "reference": format!("r{number}")})).await);
    }
    (daemon, items)
}

async fn state(daemon: &Daemon, item: &Value) -> String {
    let id = item["id"].as_str().expect("an id");
    daemon.get(&format!("/api/v1/items/{id}")).await["state"].as_str().expect("a state").to_owned()
}

#[tokio::test]
async fn what_a_filter_matches_is_held_and_given_back_with_a_result_each() {
    let payloads: Vec<Value> = (0..20).map(|n| json!({"n": n})).collect();
    let (daemon, items) = waiting("actions hold", "", &payloads).await;
    done(&daemon, json!({"action": "cancel", "ids": [items[0]["id"]]})).await;
    let body = json!({"action": "hold", "filter": {"queue": "a"}, "by": "ann", "why": "SAP is down"});
    let job = done(&daemon, body).await;
    assert_eq!(
        (&job["counts"]["total"], &job["counts"]["done"], &job["counts"]["refused"]),
        (&json!(20), &json!(19), &json!(1))
    );
    assert_eq!((&job["by"], &job["why"], &job["counts"]["left"]), (&json!("ann"), &json!("SAP is down"), &json!(0)));
    let all = results(&daemon, &job, "").await;
    assert_eq!(all.len(), 20);
    let refused = results(&daemon, &job, "&outcome=refused").await;
    assert_eq!((refused.len(), &refused[0]["code"], &refused[0]["item"]), (1, &json!("wrong_state"), &items[0]["id"]));
    let held = all.iter().find(|result| result["item"] == items[1]["id"]).expect("its result");
    assert_eq!(
        (&held["outcome"], &held["revision_before"], &held["revision_after"]),
        (&json!("done"), &json!(1), &json!(2))
    );
    let line = daemon.timeline(&items[1]).await.pop().expect("a line");
    assert_eq!((&line["event"], &line["actor"]), (&json!("held"), &json!("ann")));
    assert_eq!(line["why"], format!("SAP is down (action {})", job["id"].as_str().unwrap()));

    // Taken back: those that are as they were left, and not the one that somebody touched.
    let id = items[5]["id"].as_str().unwrap();
    daemon.post(&format!("/api/v1/items/{id}/notes"), &json!({"note": "mine"})).await;
    let (status, undo) = ask(&daemon, &job, "undo").await;
    assert_eq!((status, &undo["action"], &undo["undo_of"]), (202, &json!("undo"), &job["id"]), "{undo}");
    let undo = until(&daemon, &undo, "done").await;
    assert_eq!((&undo["counts"]["total"], &undo["counts"]["done"]), (&json!(19), &json!(18)), "{undo}");
    let left = results(&daemon, &undo, "&outcome=refused").await;
    assert_eq!((&left[0]["code"], &left[0]["item"]), (&json!("changed_since"), &items[5]["id"]));
    assert_eq!(
        (state(&daemon, &items[5]).await.as_str(), state(&daemon, &items[6]).await.as_str()),
        ("on_hold", "queued")
    );
    assert_eq!(shown(&daemon, &job).await["undone_by"], undo["id"]);
    assert_eq!(ask(&daemon, &job, "undo").await.0, 409, "once is enough");

    // A cancel is taken back to the state before.
    let cancel =
        done(&daemon, json!({"action": "cancel", "filter": {"queue": "a", "state": ["queued", "on_hold"]}})).await;
    assert_eq!(cancel["counts"]["done"], 19);
    let undo = until(&daemon, &ask(&daemon, &cancel, "undo").await.1, "done").await;
    assert_eq!(undo["counts"]["done"], 19);
    assert_eq!(
        (state(&daemon, &items[5]).await.as_str(), state(&daemon, &items[6]).await.as_str()),
        ("on_hold", "queued")
    );
    let jobs = daemon.get(&format!("{ACTIONS}?limit=2")).await;
    assert_eq!((&jobs["items"][0]["id"], jobs["next"].is_string()), (&undo["id"], true));
    let next = daemon.get(&format!("{ACTIONS}?limit=2&cursor={}", jobs["next"].as_str().unwrap())).await;
    assert_eq!(next["items"][0]["action"], "undo");
}

#[tokio::test]
async fn an_edit_is_previewed_with_its_differences_and_every_mistake_and_then_done_to_just_those() {
    let schema = "schema: {type: object, required: [vendor], properties: {total: {type: number, maximum: 100}, vendor: {type: string}}}\n";
    let payloads = [json!({"vendor": "a", "total": 1}), json!({"vendor": "b", "total": 2}), json!({"vendor": "c"})];
    let (daemon, items) = waiting("actions edit", schema, &payloads).await;
    let patch = json!([{"op": "test", "path": "/total", "value": 1}, {"op": "replace", "path": "/total", "value": 500}, {"op": "remove", "path": "/vendor"}]);
    let body = json!({"action": "edit", "filter": {"queue": "a"}, "patch": patch, "dry_run": true});
    let wrong = until(&daemon, &begin(&daemon, body).await, "previewed").await;
    let would = &wrong["preview"]["would"];
    assert_eq!((&would["total"], &would["invalid"], &would["refused"]), (&json!(3), &json!(1), &json!(2)), "{wrong}");
    let sample =
        wrong["preview"]["samples"].as_array().unwrap().iter().find(|sample| sample["would"] == "invalid").unwrap();
    assert_eq!((sample["reasons"].as_array().unwrap().len(), &sample["code"]), (2, &json!("schema")), "{sample}");
    assert_eq!(sample["diff"][1], json!({"path": "/vendor", "before": "\"a\"", "after": null}), "{sample}");
    assert_eq!(daemon.payload(&items[0]).await.as_deref(), Some(r#"{"total":1,"vendor":"a"}"#), "nothing is changed");
    let told = results(&daemon, &wrong, "").await;
    assert_eq!(
        (&told[0]["would"], &told[0]["outcome"], &told[1]["code"]),
        (&json!("invalid"), &Value::Null, &json!("test_failed"))
    );

    let patch =
        json!([{"op": "add", "path": "/total", "value": 12.50}, {"op": "add", "path": "/checked", "value": true}]);
    let body = json!({"action": "edit", "filter": {"queue": "a"}, "patch": patch, "priority": "high", "dry_run": true});
    let job = until(&daemon, &begin(&daemon, body).await, "previewed").await;
    assert_eq!(
        (&job["preview"]["would"]["done"], &job["preview"]["queues"]["a"]["queued"]),
        (&json!(3), &json!(3)),
        "{job}"
    );
    // One that comes later is not swept in, one that is gone meanwhile is told.
    let late = enqueue(&daemon, "a", json!({"payload": {"vendor": "d"}})).await;
    done(&daemon, json!({"action": "cancel", "ids": [items[1]["id"]]})).await;
    let (status, running) = ask(&daemon, &job, "run").await;
    assert_eq!(status, 202, "{running}");
    let job = until(&daemon, &job, "done").await;
    assert_eq!((&job["counts"]["done"], &job["counts"]["refused"]), (&json!(2), &json!(1)), "{job}");
    assert_eq!(daemon.payload(&items[0]).await.as_deref(), Some(r#"{"total":12.5,"vendor":"a","checked":true}"#));
    assert_eq!(daemon.payload(&items[2]).await.as_deref(), Some(r#"{"vendor":"c","total":12.5,"checked":true}"#));
    assert_eq!(daemon.payload(&late).await.as_deref(), Some(r#"{"vendor":"d"}"#));
    assert_eq!(daemon.item("a", "r0").await["priority"], 8);
    let again =
        done(&daemon, json!({"action": "edit", "ids": [items[0]["id"]], "merge_patch": {"checked": true}})).await;
    assert_eq!(again["counts"]["unchanged"], 1);
    assert_eq!(ask(&daemon, &job, "run").await.0, 409);

    let undo = until(&daemon, &ask(&daemon, &job, "undo").await.1, "done").await;
    assert_eq!(undo["counts"]["done"], 2, "{undo}");
    assert_eq!(daemon.payload(&items[0]).await.as_deref(), Some(r#"{"total":1,"vendor":"a"}"#));
    assert_eq!(daemon.item("a", "r0").await["priority"], 4);
    let nobody = "00000000-0000-7000-8000-00000000000f";
    let ids = json!([nobody, items[0]["id"], nobody, items[0]["id"]]);
    let job = done(&daemon, json!({"action": "assign", "ids": ids, "assignee": "bob"})).await;
    assert_eq!(
        (&job["ids"], &job["counts"]["done"], &job["counts"]["not_found"]),
        (&json!(2), &json!(1), &json!(1)),
        "{job}"
    );
    assert_eq!(results(&daemon, &job, "").await[0]["item"], nobody);
    assert_eq!(daemon.get_with_status(&format!("{ACTIONS}/nope")).await.unwrap().0, 404);
    assert_eq!(daemon.post(ACTIONS, &json!({"action": "hold", "filter": {}})).await.0, 400);
}

#[tokio::test]
async fn dispatched_items_are_taken_back_and_what_a_robot_has_is_said() {
    let daemon = daemon("actions recall").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..10 {
        client.send("a", &format!("r{number}"), &json!({"n": number})).await;
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 10).await;
    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    let job = done(&daemon, json!({"action": "hold", "filter": {"queue": "a"}, "by": "ann"})).await;
    let counts = &job["counts"];
    assert_eq!((&counts["done"], &counts["refused"], &counts["waiting"]), (&json!(9), &json!(1), &json!(0)), "{job}");
    let refused = results(&daemon, &job, "&outcome=refused").await;
    assert_eq!(refused[0]["code"], "not_taken_back", "{refused:?}");
    robot.done(&delivery).await;
    daemon
        .wait_until("the one is done", async |daemon: &Daemon| daemon.queue("a").await["counts"]["processed"] == 1)
        .await;
    assert_eq!(daemon.queue("a").await["counts"]["on_hold"], 9);
    let undo = until(&daemon, &ask(&daemon, &job, "undo").await.1, "done").await;
    assert_eq!(undo["counts"]["done"], 9, "{undo}");
    for _ in 0..9 {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
    }
    daemon.wait_until_done("a", 10).await;
}

/// Items that failed: `failing` says why, all alike.
async fn failed(name: &str, count: usize) -> Daemon {
    let daemon = daemon(name).queues("queue: a\nretry: {it: {limit: 0}}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..count {
        client.send("a", &format!("r{number}"), &json!({"n": number})).await;
    }
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::ItException).await;
    daemon
        .wait_until("all failed", async |daemon: &Daemon| {
            daemon.queue("a").await["counts"]["exception"].as_u64() == Some(count as u64)
        })
        .await;
    crew.dismiss().await;
    daemon
}

#[tokio::test]
async fn a_ramp_goes_on_while_it_goes_well_and_to_the_end() {
    let daemon = failed("actions ramp", 40).await;
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::Processed).await;
    let fingerprint = daemon.count("SELECT count(DISTINCT fingerprint) FROM items").await;
    assert_eq!(fingerprint, 1);
    let body = json!({"action": "requeue", "filter": {"queue": "a", "kind": "it"}, "ramp": [1, 2, 5], "by": "ann"});
    let job = done(&daemon, body).await;
    assert_eq!(
        (&job["counts"]["done"], &job["ramp"]["step"], &job["stopped"]),
        (&json!(40), &json!(4), &Value::Null),
        "{job}"
    );
    daemon.wait_until_done("a", 40).await;
    assert_eq!(daemon.queue("a").await["counts"]["processed"], 40);
    crew.dismiss().await;
    // The steps were waited for: what came later went out after what came earlier was done.
    let mut mirror = daemon.mirror().await;
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT (SELECT max(at) FROM timeline WHERE item = items.id AND event = 'requeued'), finished_at FROM items ORDER BY seq",
    )
    .fetch_all(&mut mirror)
    .await
    .unwrap();
    for (before, after) in [(0..1, 1..3), (1..3, 3..8), (3..8, 8..40)] {
        let ended = rows[before].iter().map(|(_, ended)| *ended).max().unwrap();
        assert!(rows[after].iter().all(|(requeued, _)| *requeued > ended), "{rows:?}");
    }
}

#[tokio::test]
async fn a_ramp_stops_when_the_same_failure_comes_back() {
    let daemon = failed("actions ramp stops", 30).await;
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::ItException).await;
    let body =
        json!({"action": "requeue", "filter": {"queue": "a", "state": "exception"}, "ramp": [2, 10], "by": "ann"});
    let job = until(&daemon, &begin(&daemon, body).await, "stopped").await;
    let counts = &job["counts"];
    assert_eq!((&counts["done"], &counts["left"]), (&json!(2), &json!(28)), "{job}");
    let known = daemon.count("SELECT count(*) FROM items WHERE fingerprint IS NOT NULL").await;
    assert_eq!(known, 30);
    let fingerprint = job["stopped"]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert!(job["stopped"]["reason"].as_str().unwrap().contains("same failure"), "{job}");
    assert_eq!(daemon.items(&format!("fingerprint={fingerprint}")).await.len(), 30);
    assert_eq!(daemon.items(&format!("queue=a&fingerprint={fingerprint}")).await.len(), 30);
    assert_eq!(daemon.items("fingerprint=0000").await.len(), 0);
    crew.dismiss().await;
    // Somebody repaired it, and it goes on with what is left.
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::Processed).await;
    assert_eq!(ask(&daemon, &job, "resume").await.0, 202);
    let job = until(&daemon, &job, "done").await;
    assert_eq!(job["counts"]["done"], 30, "{job}");
    daemon
        .wait_until("the rest is done", async |daemon: &Daemon| daemon.queue("a").await["counts"]["processed"] == 28)
        .await;
    assert_eq!(ask(&daemon, &job, "resume").await.0, 409);
    crew.dismiss().await;
}

#[tokio::test]
async fn a_rate_is_kept_to_and_a_cancel_takes_effect_at_once() {
    let payloads: Vec<Value> = (0..60).map(|n| json!(n)).collect();
    let (daemon, _) = waiting("actions rate", "", &payloads).await;
    let job = begin(&daemon, json!({"action": "hold", "filter": {"queue": "a"}, "rate": "10/s"})).await;
    assert_eq!(job["rate"], "10/s");
    daemon
        .wait_until("it began", async |daemon: &Daemon| shown(daemon, &job).await["counts"]["done"].as_u64() > Some(0))
        .await;
    let (status, cancelled) = ask(&daemon, &job, "cancel").await;
    let did = cancelled["counts"]["done"].as_u64().unwrap();
    assert!(status == 200 && cancelled["state"] == "cancelled" && did < 50, "{cancelled}");
    assert_eq!(ask(&daemon, &job, "cancel").await.0, 409);
    // Another job, begun later, does the rest; what was cancelled never did more.
    let rest = done(&daemon, json!({"action": "hold", "filter": {"queue": "a", "state": "queued"}})).await;
    assert_eq!(rest["counts"]["done"].as_u64().unwrap(), 60 - did);
    assert_eq!(shown(&daemon, &job).await["counts"]["done"].as_u64().unwrap(), did);
    let lines = daemon.count("SELECT count(*) FROM timeline WHERE event = 'held'").await;
    assert_eq!(lines, 60);
}

#[tokio::test]
async fn twenty_thousand_items_are_held_beside_working_robots_without_much_memory() {
    let daemon = daemon("actions many").queues("queue: a\npaused: {dispatch: true}\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    fill(&daemon, 20_000).await;
    let crew = Crew::hire(&daemon.vhost, "b", 2, |_| Ending::Processed).await;
    let before = daemon.memory();
    let job = begin(&daemon, json!({"action": "hold", "filter": {"queue": "a"}, "why": "all of it"})).await;
    for number in 0..200 {
        client.send("b", &format!("r{number}"), &json!({})).await;
    }
    daemon.wait_until_done("b", 200).await;
    let job = until(&daemon, &job, "done").await;
    assert_eq!(job["counts"]["done"], 20_000, "{job}");
    assert_eq!(daemon.queue("a").await["counts"]["on_hold"], 20_000);
    assert!(daemon.memory() < before + 60, "{} MiB after {before} MiB", daemon.memory());
    crew.dismiss().await;
}

/// Puts items into `a`, past the door.
async fn fill(daemon: &Daemon, count: u32) {
    daemon
        .alter(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
             INSERT INTO items (id, queue, lane, state, place, priority, attempt, deliveries, retries, requeues, silent, \
             possible_repeat, ran_anyway, stub, size, content_type, enqueued_at, ready_at, revision) \
             SELECT printf('00000000-0000-7000-8000-%012x', n), 'a', 'managed', 'queued', 'ready', 4, 0, 0, 0, 0, 0, 0, 0, 0, \
             60, 'application/json', 1, 1, 1 FROM n; \
             INSERT INTO payloads (seq, body) SELECT seq, CAST(printf('{{\"vendor\":\"v%d\",\"total\":12.50,\"lines\":[1,2,3,4]}}', seq) AS BLOB) \
             FROM items WHERE queue = 'a'"
        ))
        .await;
}

#[tokio::test]
#[ignore = "a figure: cargo test --release --test warrend actions_a_second -- --ignored --nocapture"]
async fn actions_a_second() {
    let daemon = daemon("actions figure").queues("queue: a\npaused: {dispatch: true}\n").start().await;
    fill(&daemon, 50_000).await;
    let patch = json!([{"op": "replace", "path": "/vendor", "value": "x"}]);
    for body in [
        json!({"action": "hold", "filter": {"queue": "a"}, "dry_run": true}),
        json!({"action": "hold", "filter": {"queue": "a"}}),
        json!({"action": "edit", "filter": {"queue": "a"}, "patch": patch}),
    ] {
        let began = std::time::Instant::now();
        let what = format!("{} dry_run={}", body["action"], body["dry_run"]);
        let job = begin(&daemon, body).await;
        daemon
            .wait_until("it is over", async |daemon: &Daemon| {
                matches!(shown(daemon, &job).await["state"].as_str(), Some("done" | "previewed"))
            })
            .await;
        println!("{what}: {:.0} items/s", 50_000.0 / began.elapsed().as_secs_f64());
    }
}

#[tokio::test]
async fn the_command_line_previews_does_and_takes_back() {
    let (daemon, items) = waiting("actions cli", "", &[json!({"n": 1.50, "b": 1}), json!({"n": 2}), json!([])]).await;
    let run = |words: Vec<String>| {
        let mut command = daemon.command();
        command.args(words).stdin(std::process::Stdio::null());
        let output = command.output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let file = daemon.path().join("patch.json");
    std::fs::write(&file, r#"[{"op": "replace", "path": "/b", "value": 2}]"#).unwrap();
    let file = file.display().to_string();

    let (code, out, err) = run(words(&format!("items edit --queue a --patch {file} --dry-run")));
    assert_eq!(code, Some(0), "{out}{err}");
    for part in ["3 items, nothing changed yet", "1 would be done", "2 would be invalid", "/b: 1 -> 2", "3 queued"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, _, err) = run(words(&format!("items edit --queue a --patch {file}")));
    assert!(code == Some(64) && err.contains("--yes"), "nobody is there to be asked: {err}");
    let (code, out, err) = run(words(&format!("items edit --queue a --patch {file} --yes")));
    assert!(code == Some(1) && out.contains("1 done") && err.contains("2 items were left alone"), "{out}{err}");
    assert_eq!(daemon.payload(&items[0]).await.as_deref(), Some(r#"{"b":2,"n":1.5}"#));
    let id = out.split_whitespace().nth(1).expect("its id").to_owned();
    let (code, out, err) = run(words(&format!("actions results {id} --outcome invalid")));
    assert!(code == Some(0) && out.contains("invalid") && out.contains("patch"), "{out}{err}");
    let (code, out, err) = run(words(&format!("actions undo {id}")));
    assert!(code == Some(0) && out.contains("1 done"), "{out}{err}");
    assert_eq!(daemon.payload(&items[0]).await.as_deref(), Some(r#"{"b":1,"n":1.5}"#));
    let (code, out, _) = run(words("items assign --queue a bob --yes"));
    assert!(code == Some(0) && out.contains("3 done"), "{out}");
    assert_eq!(daemon.item("a", "r1").await["assignee"], "bob");
    let (code, out, _) = run(words("actions list --output json"));
    let jobs: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, jobs["items"].as_array().map(Vec::len)), (Some(0), Some(4)), "{out}");
    let (code, out, _) = run(words(&format!("actions show {id}")));
    assert!(code == Some(0) && out.contains("undone_by"), "{out}");
}

#[tokio::test]
async fn an_edit_of_dispatched_items_is_taken_back_though_they_went_out_again() {
    let daemon = daemon("actions edit out").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..3 {
        client.send("a", &format!("r{number}"), &json!({"n": number})).await;
    }
    let all_out = async || {
        daemon
            .wait_until("all are ready for robots", async |daemon: &Daemon| {
                let out = daemon.count("SELECT count(*) FROM items WHERE place = 'broker' AND pending IS NULL").await;
                out == 3 && client.ready("wq.q.a").await == 3
            })
            .await;
    };
    all_out().await;
    let body = json!({"action": "edit", "filter": {"queue": "a"}, "merge_patch": {"n": 9}, "priority": "high"});
    let job = done(&daemon, body).await;
    assert_eq!(job["counts"]["done"], 3, "{job}");
    all_out().await;
    let undo = until(&daemon, &ask(&daemon, &job, "undo").await.1, "done").await;
    assert_eq!(undo["counts"]["done"], 3, "{undo} {:?}", results(&daemon, &undo, "").await);
    for number in 0..3 {
        let item = daemon.item("a", &format!("r{number}")).await;
        assert_eq!(daemon.payload(&item).await, Some(format!(r#"{{"n":{number}}}"#)));
        assert_eq!(item["priority"], 4);
    }
}

#[tokio::test]
async fn large_payloads_are_written_and_taken_back_without_much_memory() {
    let daemon =
        daemon("actions large").queues("queue: a\nmax_payload: 2MiB\npaused: {dispatch: true}\n").start().await;
    fill(&daemon, 150).await;
    let text = "x".repeat(1_000_000);
    let before = daemon.memory();
    let large = done(&daemon, json!({"action": "edit", "filter": {"queue": "a"}, "merge_patch": {"text": text}})).await;
    assert_eq!(large["counts"]["done"], 150, "{large}");
    let small = done(&daemon, json!({"action": "edit", "filter": {"queue": "a"}, "payload": {}})).await;
    assert_eq!(small["counts"]["done"], 150, "{small}");
    assert_eq!(daemon.count("SELECT sum(length(body)) FROM payloads").await, 300);
    let undo = until(&daemon, &ask(&daemon, &small, "undo").await.1, "done").await;
    assert_eq!(undo["counts"]["done"], 150, "{undo}");
    assert!(daemon.count("SELECT sum(length(body)) FROM payloads").await > 150_000_000);
    assert!(daemon.memory() < before + 60, "{} MiB after {before} MiB", daemon.memory());
}

#[tokio::test]
async fn what_is_not_in_the_audit_log_is_not_done() {
    let (daemon, _) = waiting("actions audit", "", &[json!(1), json!(2)]).await;
    let refuse = "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END";
    daemon.alter(refuse).await;
    let body = json!({"action": "hold", "filter": {"queue": "a"}});
    let (status, problem) = daemon.post(ACTIONS, &body).await;
    assert!(status >= 500, "{problem}");
    assert_eq!(daemon.count("SELECT count(*) FROM actions").await, 0);
    daemon.alter("DROP TRIGGER no_audit").await;
    let job = done(&daemon, body).await;
    assert_eq!(job["counts"]["done"], 2, "{job}");
    assert_eq!(daemon.count("SELECT count(*) FROM audit WHERE action = 'action.begin'").await, 1);
}

#[tokio::test]
async fn an_undo_that_is_cancelled_leaves_its_action_to_another() {
    let payloads: Vec<Value> = (0..10).map(|n| json!(n)).collect();
    let (daemon, items) = waiting("actions undo", "", &payloads).await;
    let job = begin(&daemon, json!({"action": "hold", "filter": {"queue": "a"}, "rate": "1/h"})).await;
    daemon.wait_until("one is held", async |daemon: &Daemon| shown(daemon, &job).await["counts"]["done"] == 1).await;
    assert_eq!(ask(&daemon, &job, "undo").await.0, 409, "it goes on");
    // As if its ramp had stopped it.
    let id = job["id"].as_str().expect("an id");
    daemon.alter(&format!("UPDATE actions SET state = 'stopped' WHERE id = '{id}'")).await;
    let (status, undo) = ask(&daemon, &job, "undo").await;
    assert_eq!(status, 202, "{undo}");
    let undo = until(&daemon, &undo, "done").await;
    assert_eq!((&undo["counts"]["done"], state(&daemon, &items[0]).await.as_str()), (&json!(1), "queued"));
    let (status, problem) = ask(&daemon, &job, "resume").await;
    assert!(status == 409 && problem.to_string().contains("is undone by"), "{problem}");

    let job = done(&daemon, json!({"action": "hold", "filter": {"queue": "a"}})).await;
    let id = job["id"].as_str().expect("an id");
    let (_, first) = daemon.post(&format!("{ACTIONS}/{id}/undo"), &json!({"rate": "1/h"})).await;
    daemon
        .wait_until("one is taken back", async |daemon: &Daemon| shown(daemon, &first).await["counts"]["done"] == 1)
        .await;
    assert_eq!(ask(&daemon, &job, "undo").await.0, 409, "it is being undone");
    assert_eq!(ask(&daemon, &first, "cancel").await.0, 200);
    let second = until(&daemon, &ask(&daemon, &job, "undo").await.1, "done").await;
    assert_eq!((&second["counts"]["done"], &second["counts"]["refused"]), (&json!(9), &json!(1)), "{second}");
    assert_eq!(daemon.queue("a").await["counts"]["queued"], 10);
}

#[tokio::test]
async fn what_cannot_be_read_stops_one_action_alone_and_no_dry_run_acts() {
    let (daemon, items) = waiting("actions broken", "", &[json!(1), json!(2)]).await;
    let client = Client::connect(&daemon.vhost).await;
    let kinds = ["control.action_cancelled", "control.action_stopped", "control.action_done"];
    client.listen_to(&kinds).await;
    let broken = items[0]["id"].as_str().expect("an id");
    daemon.alter(&format!("UPDATE items SET labels = 'no object' WHERE id = '{broken}'")).await;
    let dry = begin(&daemon, json!({"action": "hold", "ids": [broken], "dry_run": true})).await;
    let dry = until(&daemon, &dry, "cancelled").await;
    assert!(dry["stopped"]["reason"].as_str().is_some_and(|why| why.contains("labels")), "{dry}");
    assert_eq!((ask(&daemon, &dry, "resume").await.0, ask(&daemon, &dry, "run").await.0), (409, 409));
    let wet = begin(&daemon, json!({"action": "hold", "ids": [broken]})).await;
    until(&daemon, &wet, "stopped").await;
    // One whose item waits, as it seems.
    daemon.alter(&format!("UPDATE action_items SET outcome = 'waiting' WHERE item = '{broken}'")).await;
    let other = done(&daemon, json!({"action": "hold", "ids": [items[1]["id"]]})).await;
    assert_eq!(other["counts"]["done"], 1, "{other}");
    // A row of an action that cannot be read keeps nobody from the others.
    let id = wet["id"].as_str().expect("an id");
    daemon.alter(&format!("UPDATE actions SET wish = '{{}}' WHERE id = '{id}'")).await;
    let jobs = daemon.get(&format!("{ACTIONS}?limit=2")).await;
    assert_eq!((jobs["items"].as_array().map(Vec::len), jobs["next"].is_string()), (Some(1), true), "{jobs}");
    daemon.wait_until("all are told", async |_: &Daemon| client.ready("heard").await >= 3).await;
    for kind in kinds {
        assert_eq!(client.take("heard").await.expect("an event").routing_key.as_str(), kind);
    }
}

#[tokio::test]
async fn a_ramp_over_restored_failures_is_no_row_of_failures() {
    let daemon = failed("actions ramp restore", 4).await;
    let filter = json!({"queue": "a"});
    let cancelled = done(&daemon, json!({"action": "cancel", "filter": filter})).await;
    assert_eq!(cancelled["counts"]["done"], 4, "{cancelled}");
    let job = done(&daemon, json!({"action": "restore", "filter": filter, "ramp": [1, 2]})).await;
    assert_eq!((&job["counts"]["done"], &job["stopped"]), (&json!(4), &Value::Null), "{job}");
    assert_eq!(daemon.queue("a").await["counts"]["exception"], 4);
}
