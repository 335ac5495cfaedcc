//! What holds for all routes: tags, idempotency keys, the frame of every answer, and the words of problems.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::definition::Paused;
use crate::mirror::keys::{self, Mark};

const ITEMS: &str = "/api/v1/queues/invoices/items";
const NEW: &str = r#"{"payload": {"n": 1}, "reference": "R-1"}"#;

impl Bench {
    async fn asked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn keyed(&self, key: &str, path: &str, body: &str) -> Answer {
        self.asked("POST", path, &[("idempotency-key", key)], body).await
    }

    async fn references(&self) -> Vec<String> {
        let items = self.get("/api/v1/items?sort=oldest").await.json();
        items["items"].as_array().unwrap().iter().map(|item| item["reference"].to_string()).collect()
    }
}

impl Answer {
    fn word(&self) -> String {
        self.problem();
        self.json()["type"].as_str().unwrap().trim_start_matches("urn:warrend:problem:").to_owned()
    }

    fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

#[tokio::test]
async fn a_key_is_answered_once_and_then_again_the_same() {
    let bench = Bench::new().await;
    let first = bench.keyed("k-1", ITEMS, NEW).await;
    assert_eq!((first.status, first.is_replayed()), (StatusCode::CREATED, false));
    // What happened to the item meanwhile does not change what was answered.
    let item = format!("/api/v1/items/{}", first.json()["id"].as_str().unwrap());
    assert_eq!(bench.asked("POST", &format!("{item}/hold"), &[], "{}").await.status, StatusCode::OK);
    let again = bench.keyed("k-1", ITEMS, NEW).await;
    assert_eq!((again.status, again.is_replayed()), (StatusCode::CREATED, true));
    assert_eq!(again.body, first.body);
    for header in ["location", "etag", "content-type"] {
        assert_eq!(again.headers[header], first.headers[header]);
    }
    assert_eq!(bench.references().await.len(), 1);

    // Another body, another path, another key.
    let other = bench.keyed("k-1", ITEMS, r#"{"payload": {"n": 2}}"#).await;
    assert_eq!((other.status, other.word()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused".to_owned()));
    let other = bench.keyed("k-1", &format!("{item}/notes"), NEW).await;
    assert_eq!(other.word(), "idempotency_key_reused");
    assert_eq!(bench.keyed("k-2", ITEMS, NEW).await.status, StatusCode::CREATED);
    assert_eq!(bench.references().await.len(), 2);
}

#[tokio::test]
async fn edits_and_refusals_have_keys_too() {
    let bench = Bench::with_item().await;
    let note = |key: &'static str| {
        bench.keyed(key, "/api/v1/items/00000000-0000-0000-0000-000000000001/notes", r#"{"note": "once"}"#)
    };
    let (first, again) = (note("n").await, note("n").await);
    assert_eq!((first.status, again.is_replayed()), (StatusCode::OK, true));
    assert_eq!(first.body, again.body);
    let lines = bench.get(&format!("/api/v1/items/{ID}/timeline")).await.json();
    assert_eq!(lines["items"].as_array().unwrap().len(), 1);

    // A refusal changed nothing, so it is judged again.
    let other = bench.post(ITEMS, "application/json", "{\"payload\": 7}").await.headers["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let refused = bench.keyed("r", &format!("{other}/release"), "{}").await;
    assert_eq!(refused.word(), "wrong_state");
    assert_eq!(bench.asked("POST", &format!("{other}/hold"), &[], "{}").await.status, StatusCode::OK);
    let released = bench.keyed("r", &format!("{other}/release"), "{}").await;
    assert_eq!((released.status, released.is_replayed()), (StatusCode::OK, false));
    assert!(bench.keyed("r", &format!("{other}/release"), "{}").await.is_replayed());
    assert_eq!(bench.keyed("b", ITEMS, "{").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(bench.keyed("b", ITEMS, NEW).await.status, StatusCode::CREATED);
    assert_eq!(bench.keyed("", ITEMS, NEW).await.word(), "bad_request");
}

#[tokio::test]
async fn a_chunk_that_a_paused_queue_refused_comes_in_under_the_same_key() {
    let bench = Bench::new().await;
    let chunk = || {
        let rows = format!("{NEW}\n");
        let request = Request::post(format!("{ITEMS}?atomic=true"))
            .header("content-type", "application/x-ndjson")
            .header("idempotency-key", "chunk");
        bench.send(request.body(Body::from(rows)).unwrap())
    };
    let paused = |intake| {
        let asked = Paused { intake, ..Paused::default() };
        bench.api.live.update(|live| {
            live.paused.insert("invoices".to_owned(), asked);
        });
    };
    paused(true);
    assert_eq!(chunk().await.word(), "paused");
    paused(false);
    let taken = chunk().await;
    assert_eq!((taken.status, &taken.json()["created"]), (StatusCode::OK, &json!(1)));
    assert!(chunk().await.is_replayed());
    assert_eq!(bench.references().await.len(), 1);
}

#[tokio::test]
async fn a_body_in_any_pieces_with_or_without_a_mark_is_one_item_or_many() {
    let bench = Bench::new().await;
    for (n, (body, status)) in
        [("{\"payload\": 1}", StatusCode::CREATED), ("[{\"payload\": 1}]", StatusCode::OK)].into_iter().enumerate()
    {
        for text in [body.to_owned(), format!("\u{feff}{body}"), format!("\u{feff} \n{body}")] {
            let pieces: Vec<_> = text.bytes().map(|byte| std::io::Result::Ok(vec![byte])).collect();
            let answer = bench.post(ITEMS, "application/json", Body::from_stream(futures::stream::iter(pieces))).await;
            assert_eq!(answer.status, status, "{n} {text}");
        }
    }
    // As many blanks as a body may have, in pieces that were once looked at over and over.
    let blanks = futures::stream::iter((0..20_481).map(|_| std::io::Result::Ok(vec![b' '; 1024])));
    let answer = bench.post(ITEMS, "application/json", Body::from_stream(blanks)).await;
    assert_eq!(answer.word(), "too_large");
}

#[tokio::test]
async fn where_nothing_is_a_key_leaves_nothing() {
    let bench = Bench::new().await;
    // A body that never ends is not waited for either.
    let endless = Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>());
    let request = Request::post("/api/v1/nowhere").header("idempotency-key", "k").body(endless).unwrap();
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), bench.send(request)).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let noted = bench.api.mirror.used_key("nobody", "k", Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(noted, None);
}

#[tokio::test]
async fn a_key_whose_request_is_under_way_or_whose_answer_is_lost_is_not_done_again() {
    let bench = Bench::new().await;
    let (one, other) = tokio::join!(bench.keyed("k", ITEMS, NEW), bench.keyed("k", ITEMS, NEW));
    let mut found = [&one, &other].map(|answer| (answer.status.as_u16(), answer.is_replayed()));
    found.sort_unstable();
    assert!([[(201, false), (409, false)], [(201, false), (201, true)]].contains(&found), "{found:?}");
    assert_eq!(bench.references().await.len(), 1);

    // As a crash leaves it, after the work was committed and before its answer was kept.
    let print = {
        let answer = bench.keyed("probe", "/api/v1/queues/invoices/pause", "{}").await;
        assert_eq!(answer.status, StatusCode::OK);
        let since = Timestamp::UNIX_EPOCH;
        bench.api.mirror.used_key("nobody:api", "probe", since).await.unwrap().unwrap().request
    };
    let now = crate::lanes::now();
    let mark = Mark::new("nobody:api".to_owned(), "lost".to_owned(), print, now, Timestamp::UNIX_EPOCH);
    let work = bench.run("UPDATE meta SET value = value");
    keys::under(Arc::new(mark), work).await;
    let answer = bench.keyed("lost", "/api/v1/queues/invoices/pause", "{}").await;
    assert_eq!((answer.status, answer.word()), (StatusCode::CONFLICT, "outcome_unknown".to_owned()));
}

#[tokio::test]
async fn an_edit_meant_for_another_revision_is_refused() {
    let bench = Bench::with_item().await;
    let path = format!("/api/v1/items/{ID}");
    let item = bench.get(&path).await;
    assert_eq!(item.headers["etag"], "\"2\"");
    let edit = async |tag: &str| bench.asked("PATCH", &path, &[("if-match", tag)], r#"{"name": "n"}"#).await;
    for tag in ["\"1\"", "\"3\"", "W/\"2\"", "\"1\", W/\"2\""] {
        let refused = edit(tag).await;
        assert_eq!(
            (refused.status, refused.word()),
            (StatusCode::PRECONDITION_FAILED, "precondition_failed".to_owned())
        );
        assert!(refused.problem().0.contains("revision 2"), "{}", refused.problem().0);
    }
    assert_eq!(edit("2").await.word(), "bad_request");
    let done = edit("\"1\", \"2\"").await;
    assert_eq!((done.status, &done.headers["etag"]), (StatusCode::OK, &"\"3\"".parse().unwrap()));
    assert_eq!(edit("\"2\"").await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(edit("*").await.status, StatusCode::OK);
    let hold = async |tag| bench.asked("POST", &format!("{path}/hold"), &[("if-match", tag)], "{}").await.status;
    assert_eq!([hold("\"3\"").await, hold("\"4\"").await], [StatusCode::PRECONDITION_FAILED, StatusCode::OK]);

    let look = async |tag| bench.asked("GET", &path, &[("if-none-match", tag)], "").await;
    let known = look("\"5\"").await;
    assert_eq!(
        (known.status, known.body.len(), &known.headers["etag"]),
        (StatusCode::NOT_MODIFIED, 0, &"\"5\"".parse().unwrap())
    );
    assert_eq!(look("\"4\"").await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_answer_is_framed() {
    let bench = Bench::new().await;
    for path in ["/healthz", "/api/v1/queues", "/nowhere", "/api/v1/items/x", "/api/openapi.json"] {
        let answer = bench.get(path).await;
        assert_eq!(
            (&answer.headers["x-content-type-options"], &answer.headers["cache-control"]),
            (&"nosniff".parse().unwrap(), &"no-store".parse().unwrap()),
            "{path}"
        );
        assert_eq!(answer.headers["x-request-id"].len(), 36, "{path}");
    }
    let named = bench.asked("GET", "/healthz", &[("x-request-id", "mine-7")], "").await;
    assert_eq!(named.headers["x-request-id"], "mine-7");
    let long = bench.asked("GET", "/healthz", &[("x-request-id", &"x".repeat(101))], "").await;
    assert_eq!(long.headers["x-request-id"].len(), 36);
    let head = bench.asked("HEAD", "/api/v1/queues", &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    let options = bench.asked("OPTIONS", "/api/v1/queues", &[], "").await;
    assert_eq!(
        (options.word(), &options.headers["allow"]),
        ("method_not_allowed".to_owned(), &"GET,HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn pages_show_each_item_once_while_items_change() {
    for (sort, of_those_that_come) in [("newest", 0), ("oldest", 6)] {
        let bench = Bench::new().await;
        let put = async |reference: String| {
            let item = json!({"payload": null, "reference": reference}).to_string();
            bench.post(ITEMS, "application/json", item).await.json()["id"].as_str().unwrap().to_owned()
        };
        let mut ids = Vec::new();
        for n in 0..6 {
            ids.push(put(format!("first-{n}")).await);
        }
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = bench.get(&format!("/api/v1/items?limit=2&sort={sort}{cursor}")).await.json();
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            // What was shown and what is to come changes its state, its priority and its name, and more comes.
            for (at, verb) in [(pages, "hold"), (5 - pages, "cancel")] {
                bench.ask("POST", &format!("/api/v1/items/{}/{verb}", ids[at]), "", "{}").await;
            }
            let edit = r#"{"priority": 8, "due_at": "2030-01-01T00:00:00Z", "name": "n"}"#;
            for id in &ids {
                bench.ask("PATCH", &format!("/api/v1/items/{id}"), "", edit).await;
            }
            // Three pages are what was there; what comes meanwhile is bounded, so that the list has an end.
            if pages < 3 {
                put(format!("new-{sort}-{pages}-a")).await;
                put(format!("new-{sort}-{pages}-b")).await;
            }
            pages += 1;
        }
        let first: Vec<&String> = seen.iter().filter(|id| ids.contains(id)).collect();
        let mut expected: Vec<&String> = ids.iter().collect();
        if sort == "newest" {
            expected.reverse();
        }
        assert_eq!(first, expected, "{sort}: each once, in order");
        assert_eq!(seen.len() - first.len(), of_those_that_come, "{sort}");
    }
}

/// The words in the table of docs/http.md, and those that stand in the code.
#[test]
fn every_problem_has_its_word_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("docs/http.md")).unwrap();
    let table = docs.split("### Every type").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = regex_lite::Regex::new(r"(?m)^\| `([a-z_]+)` \| \d{3}").unwrap();
    let documented: BTreeSet<String> = row.captures_iter(table).map(|found| found[1].to_owned()).collect();

    // A word is the text that begins a problem's constructor, after the status where it has one, or is what a refusal becomes.
    let made = regex_lite::Regex::new(
        r#"(?:\b(?:conflict|unavailable|Self::new|Problem::new)\(\s*(?:(?:StatusCode::[A-Z_]+|status),\s*)?|Refusal::\w+[^=;]*=> )"([a-z_]+)""#,
    )
    .unwrap();
    let mut words = BTreeSet::new();
    // Of refusals, which the handlers pass on.
    let refusals = fs::read_to_string(root.join("src/item/lifecycle/people.rs")).unwrap();
    let refused = regex_lite::Regex::new(r#"Self::\w+[^=;]*=> "([a-z_]+)""#).unwrap();
    words.extend(refused.captures_iter(&refusals).map(|found| found[1].to_owned()));
    let mut folders = vec![root.join("src/http")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                words.extend(made.captures_iter(&text).map(|found| found[1].to_owned()));
            }
        }
    }
    assert!(words.len() > 20, "{words:?}");
    assert_eq!(words, documented);
}
