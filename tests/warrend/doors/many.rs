//! Many items in one request, and files of them from the command line.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, PATIENCE, daemon};

const QUEUES: &str = "queue: invoices
unique: true
schema: {type: object, required: [n]}
---
queue: notes
---
queue: letters
lane: direct
---
queue: shut
paused: {intake: true}
";

const NDJSON: &str = "application/x-ndjson";

struct Answer {
    status: u16,
    media_type: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn tally(&self) -> [u64; 3] {
        let body = self.json();
        ["created", "same", "refused"].map(|name| body[name].as_u64().unwrap_or_else(|| panic!("{body}")))
    }

    /// `status` or, of a refused row, its code.
    fn said(&self) -> Vec<String> {
        let body = self.json();
        let results = body["results"].as_array().unwrap_or_else(|| panic!("{body}"));
        assert!(results.iter().enumerate().all(|(n, result)| result["index"] == n), "{body}");
        results.iter().map(|result| result["code"].as_str().or(result["status"].as_str()).unwrap().to_owned()).collect()
    }
}

async fn send(daemon: &Daemon, target: &str, media_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    send_with(daemon, target, &[("content-type", media_type)], body).await
}

async fn send_with(daemon: &Daemon, target: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
    let mut request = http.post(format!("{}/api/v1/queues/{target}", daemon.url())).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let media_type = answer.headers()["content-type"].to_str().expect("text").to_owned();
    Answer { status: answer.status().as_u16(), media_type, text: answer.text().await.expect("a body") }
}

async fn queued(daemon: &Daemon, queue: &str) -> u64 {
    daemon.queue(queue).await["counts"]["queued"].as_u64().expect("a count")
}

#[tokio::test]
async fn every_row_has_a_result_in_every_form() {
    let daemon = daemon("many forms").queues(QUEUES).start().await;
    let rows = "{\"payload\": {\"n\": 1.10}, \"reference\": \"a\", \"priority\": \"high\", \"labels\": {\"site\": \"oslo\"}}\n\
        {\"payload\": {\"n\": 1.10}, \"reference\": \"a\"}\n\
        \n\
        {\"payload\": {\"n\": 2}, \"reference\": \"a\"}\n\
        {\"payload\": {}, \"reference\": \"b\"}\n\
        {\"payload\": {\"n\": 3}, \"priority\": 99, \"refrence\": 1}\n\
        nonsense\n\
        {\"payload\": {\"n\": 4}, \"expires_at\": \"2001-01-01T00:00:00Z\"}\n\
        {\"payload\": {\"n\": 5}}";
    let expected = ["created", "same", "duplicate", "schema", "unreadable", "unreadable", "expired", "created"];
    let answer = send(&daemon, "invoices/items", NDJSON, rows).await;
    assert_eq!((answer.status, answer.media_type.as_str()), (200, "application/json"), "{}", answer.text);
    assert_eq!(answer.said(), expected);
    assert_eq!(answer.tally(), [2, 1, 5]);
    let results = answer.json()["results"].clone();
    assert_eq!((&results[0]["id"], &results[1]["line"]), (&results[1]["id"], &json!(2)));
    assert_eq!((&results[2]["line"], &results[2]["kind"]), (&json!(4), &json!("duplicate")));
    let reasons = results[4]["reasons"].to_string();
    assert!(reasons.contains("no field 'refrence'"), "{reasons}");
    let item = daemon.item("invoices", "a").await;
    assert_eq!(
        (&item["id"], &item["priority"], &item["labels"]),
        (&results[0]["id"], &json!(8), &json!({"site": "oslo"}))
    );
    assert_eq!(daemon.payload(&item).await.unwrap(), r#"{"n":1.10}"#);
    // Refusals are answers, nothing of them is kept.
    assert_eq!(daemon.items("queue=invoices").await.len(), 2);

    // The same again, as an array: what had a reference is the same.
    let array = format!("  [{}]", rows.lines().filter(|row| row.starts_with('{')).collect::<Vec<_>>().join(",\n"));
    let answer = send(&daemon, "invoices/items", "application/json; charset=utf-8", array).await;
    assert_eq!(answer.said(), ["same", "same", "duplicate", "schema", "unreadable", "expired", "created"]);

    // As CSV, with a map, and results as NDJSON.
    let csv = "\u{feff}ref,n,label.site,due_at\r\nc,7,\"Ås, \"\"N\"\"\",2031-05-04T10:00:00+02:00\r\nd,x,,\r\ne,8,,tomorrow\r\nf,9\r\n";
    let headers = [("content-type", "text/csv"), ("accept", NDJSON)];
    let answer = send_with(&daemon, "invoices/items?map=ref:reference,n::number", &headers, csv).await;
    assert_eq!((answer.status, answer.media_type.as_str()), (200, NDJSON));
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[4], json!({"dry_run": false, "created": 1, "same": 0, "refused": 3}));
    let item = daemon.item("invoices", "c").await;
    assert_eq!((&item["labels"], &item["due_at"]), (&json!({"site": "Ås, \"N\""}), &json!("2031-05-04T08:00:00Z")));
    assert_eq!(daemon.payload(&item).await.unwrap(), r#"{"n":7}"#);
    for (line, expected) in lines[1..4].iter().zip(["n is 'x'", "due_at is 'tomorrow'", "2 cells"]) {
        assert!(line["reasons"].to_string().contains(expected), "{line}");
    }
    let answer = send(&daemon, "invoices/items", "application/json", "[]").await;
    assert_eq!((answer.status, answer.tally()), (200, [0, 0, 0]));
}

#[tokio::test]
async fn what_cannot_be_taken_is_said_before_or_at_the_place() {
    let daemon = daemon("many refusals").queues(QUEUES).start().await;
    let row = "{\"payload\": {\"n\": 1}}\n";
    for (target, media_type, status, word) in [
        ("nobody/items", NDJSON, 404, "not_found"),
        ("letters/items", NDJSON, 409, "direct_lane"),
        ("shut/items", NDJSON, 409, "paused"),
        ("notes/items", "application/xml", 415, "unsupported_media_type"),
        ("notes/items", "application/x-ndjson; charset=latin1", 415, "unsupported_media_type"),
        ("notes/items?atomic=maybe", NDJSON, 400, "bad_request"),
        ("notes/items?map=a:b", NDJSON, 400, "bad_request"),
        ("notes/items?map=a:b", "text/csv", 400, "bad_request"),
        ("notes/items?delimiter=x", "text/csv", 400, "bad_request"),
        ("notes/items?dry_run=true", "application/json", 400, "bad_request"),
        ("notes/items", "text/csv", 400, "bad_request"),
    ] {
        let body = if media_type == "text/csv" { "payload,a\n1,2\n" } else { row };
        let answer = send(&daemon, target, media_type, body).await;
        assert_eq!(
            (answer.status, answer.media_type.as_str()),
            (status, "application/problem+json"),
            "{target} {media_type}"
        );
        assert_eq!(answer.json()["type"], format!("urn:warrend:problem:{word}"), "{target} {media_type}");
    }
    assert_eq!(queued(&daemon, "notes").await, 0);

    // What breaks in the middle: the rows before stand, and the answer says so.
    let array = format!("[{},{}, {{\"payload\"]", row.trim(), row.trim());
    let answer = send(&daemon, "notes/items", "application/json", array.clone()).await;
    assert_eq!((answer.status, answer.media_type.as_str()), (400, "application/problem+json"));
    assert_eq!((answer.tally(), answer.said()), ([2, 0, 0], vec!["created".to_owned(), "created".to_owned()]));
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("line 1: a ] closes nothing"), "{}", answer.text);
    assert_eq!(queued(&daemon, "notes").await, 2);
    let answer = send(&daemon, "notes/items?atomic=true", "application/json", array).await;
    assert_eq!((answer.status, answer.json()["results"].clone()), (400, Value::Null));
    assert_eq!(queued(&daemon, "notes").await, 2);
}

#[tokio::test]
async fn a_dry_run_keeps_nothing_and_all_or_nothing_means_it() {
    let daemon = daemon("many terms").queues(QUEUES).start().await;
    let rows = |count: u32| -> String {
        (0..count).map(|n| format!("{{\"payload\": {{\"n\": {n}}}, \"reference\": \"r-{n}\"}}\n")).collect()
    };
    let twice = format!(
        "{}{}",
        rows(1200),
        "{\"payload\": {\"n\": 7}, \"reference\": \"r-3\"}\n{\"payload\": {\"n\": 4}, \"reference\": \"r-4\"}\n"
    );
    let answer = send(&daemon, "invoices/items?dry_run=true", NDJSON, twice.clone()).await;
    assert_eq!((answer.status, answer.tally()), (200, [1200, 1, 1]));
    let body = answer.json();
    assert_eq!((&body["dry_run"], &body["results"][0]["id"]), (&json!(true), &Value::Null));
    assert_eq!(queued(&daemon, "invoices").await, 0);

    let answer = send(&daemon, "invoices/items?atomic=true", NDJSON, twice.clone()).await;
    assert_eq!((answer.status, answer.json()["type"].as_str()), (422, Some("urn:warrend:problem:rows_refused")));
    assert_eq!(answer.tally(), [0, 0, 1]);
    assert_eq!(answer.json()["results"][0]["index"], 1200);
    assert_eq!(queued(&daemon, "invoices").await, 0);
    let bad = format!("{}nonsense\n{{\"payload\": {{}}}}\n", rows(3));
    let answer = send(&daemon, "invoices/items?atomic=true", NDJSON, bad).await;
    assert_eq!((answer.status, answer.tally()), (422, [0, 0, 2]));
    assert_eq!(queued(&daemon, "invoices").await, 0);
    let answer = send(&daemon, "invoices/items?atomic=true", NDJSON, rows(10_001)).await;
    assert_eq!((answer.status, answer.json()["type"].as_str()), (413, Some("urn:warrend:problem:too_large")));
    assert_eq!(queued(&daemon, "invoices").await, 0);
    let answer = send(&daemon, "invoices/items?atomic=true", NDJSON, rows(1200)).await;
    assert_eq!((answer.status, answer.tally()), (200, [1200, 0, 0]));
    let answer = send(&daemon, "invoices/items", NDJSON, twice).await;
    assert_eq!((answer.status, answer.tally()), (200, [0, 1201, 1]));
}

#[tokio::test]
async fn a_chunk_with_a_key_comes_in_once() {
    let daemon = daemon("many keys").queues(QUEUES).start().await;
    let rows: String = (0..1500).map(|n| format!("{{\"payload\":{n}}}\n")).collect::<String>() + "odd\n";
    let headers = [("content-type", NDJSON), ("idempotency-key", "chunk-1")];
    let first = send_with(&daemon, "notes/items", &headers, rows.clone()).await;
    assert_eq!((first.status, first.tally()), (200, [1500, 0, 1]));
    let again = send_with(&daemon, "notes/items", &headers, rows.clone()).await;
    assert_eq!((again.status, again.text == first.text), (200, true));
    assert_eq!(queued(&daemon, "notes").await, 1500);
    for target in ["notes/items", "invoices/items"] {
        let other = send_with(&daemon, target, &headers, "{\"payload\":{\"n\":1}}\n").await;
        assert_eq!(
            (other.status, other.json()["type"].as_str()),
            (422, Some("urn:warrend:problem:idempotency_key_reused"))
        );
    }
    let long = "x".repeat(256);
    let bad =
        send_with(&daemon, "notes/items", &[("content-type", NDJSON), ("idempotency-key", &long)], rows.clone()).await;
    assert_eq!(bad.status, 400);
    let many: String = (0..10_001).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    assert_eq!(
        send_with(&daemon, "notes/items", &[("content-type", NDJSON), ("idempotency-key", "k")], many).await.status,
        413
    );
    assert_eq!(queued(&daemon, "notes").await, 1500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_rows_take_no_more_memory_than_a_few_thousand() {
    rows_in_flat_memory("many memory", 50_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some minutes: a soak, made by hand"]
async fn a_million_rows_take_no_more_memory_than_a_few_thousand() {
    rows_in_flat_memory("many million", 1_000_000).await;
}

async fn rows_in_flat_memory(name: &str, count: u32) {
    let daemon = daemon(name).queues(QUEUES).start().await;
    let row =
        |n: u32| format!("{{\"payload\":{{\"n\":{n},\"text\":\"{}\"}},\"reference\":\"r-{n}\"}}\n", "x".repeat(600));
    let warm: String = (0..5000).map(row).collect();
    assert_eq!(send(&daemon, "notes/items", NDJSON, warm).await.tally(), [5000, 0, 0]);
    let before = daemon.peak_memory();
    // Through a socket of our own, so that this process does not hold it all either.
    let url = url::Url::parse(daemon.url()).unwrap();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let began = Instant::now();
    let answer = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "POST /api/v1/queues/invoices/items HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        // Nothing is read before everything was sent.
        for first in (0..count).step_by(100) {
            let piece: String = (first..count.min(first + 100)).map(row).collect();
            write!(socket, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        }
        socket.write_all(b"0\r\n\r\n").unwrap();
        let mut head = vec![0; 4096];
        let read = socket.read(&mut head).unwrap();
        let mut bytes = read;
        let mut last = head[..read].to_vec();
        let mut buffer = vec![0; 65536];
        while let Ok(read @ 1..) = socket.read(&mut buffer) {
            bytes += read;
            last = buffer[..read].to_vec();
        }
        (String::from_utf8_lossy(&head[..read]).into_owned(), bytes, String::from_utf8_lossy(&last).into_owned())
    })
    .await
    .unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let (head, bytes, last) = answer;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("\"created\":{count},\"same\":0,\"refused\":0")), "{head}");
    assert!(bytes > 100 * count as usize && last.ends_with("0\r\n\r\n"), "{bytes} {last}");
    let grown = daemon.peak_memory().saturating_sub(before);
    eprintln!("{count} rows in {seconds:.1} s: {:.0} rows/s, {grown} MiB more at the peak", f64::from(count) / seconds);
    assert!(grown < 40, "{grown} MiB more than with a few thousand rows");
    assert_eq!(queued(&daemon, "invoices").await, u64::from(count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_goes_away_leaves_whole_batches() {
    let daemon = daemon("many broken").queues(QUEUES).start().await;
    let url = url::Url::parse(daemon.url()).unwrap();
    let mut socket = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).unwrap();
    write!(
        socket,
        "POST /api/v1/queues/notes/items HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\ncontent-length: 1000000\r\n\r\n"
    )
    .unwrap();
    for n in 0..1300 {
        writeln!(socket, "{{\"payload\":{n},\"reference\":\"r-{n}\"}}").unwrap();
    }
    daemon.wait_until("two batches are in", async |daemon: &Daemon| queued(daemon, "notes").await >= 1000).await;
    drop(socket);
    // The same once more, whole: what is in is the same while it is open.
    let rows: String = (0..1300).map(|n| format!("{{\"payload\":{n},\"reference\":\"r-{n}\"}}\n")).collect();
    let answer = send(&daemon, "notes/items", NDJSON, rows).await;
    let [created, same, refused] = answer.tally();
    assert!(created + same == 1300 && same >= 1000 && refused == 0, "{}", answer.text);
    assert_eq!(queued(&daemon, "notes").await, 1300);
}

/// `warrend import` of files in the daemon's folder: how it ended, and what it printed.
async fn import(daemon: &Daemon, words: &[&str]) -> (i32, String, String) {
    let mut command = daemon.command();
    command.current_dir(daemon.path()).arg("import").args(words).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn files_are_imported_and_refused_rows_come_back_to_be_repaired() {
    let daemon = daemon("import files").queues(QUEUES).start().await;
    let write = |name: &str, text: &str| std::fs::write(daemon.path().join(name), text).unwrap();
    write("a.csv", "no;n;due\nA-1;1;4.5.2031 08:00\nA-2;x;\nA-3;3;soon\nA-1;9;\n");
    let words = [
        "a.csv",
        "--queue",
        "invoices",
        "--map",
        "no:reference,due:due_at,n::number",
        "--dates",
        "dmy",
        "--time-zone",
        "Europe/Oslo",
        "--delimiter",
        ";",
    ];
    let (code, out, err) = import(&daemon, &[&words[..], &["--dry-run"]].concat()).await;
    assert_eq!(code, 65, "{out}{err}");
    assert_eq!(
        out,
        "a.csv: 4 rows, 1 created, 0 there already, 3 refused, see a.csv.refused.csv (nothing was kept: a dry run)\n"
    );
    assert_eq!(queued(&daemon, "invoices").await, 0);
    let (code, out, err) = import(&daemon, &words).await;
    assert_eq!((code, err.contains("some rows were refused")), (65, true), "{out}{err}");
    assert_eq!(daemon.item("invoices", "A-1").await["due_at"], "2031-05-04T06:00:00Z");
    let refused = std::fs::read_to_string(daemon.path().join("a.csv.refused.csv")).unwrap();
    let lines: Vec<&str> = refused.lines().collect();
    assert_eq!(lines[0], "no;n;due;refused_line;refused_code;refused_reasons");
    assert!(lines[1].starts_with("A-2;x;;3;unreadable;"), "{refused}");
    assert!(lines[3].starts_with("A-1;9;;5;duplicate;"), "{refused}");
    // Repaired, it is imported with the same options.
    write("b.csv", &refused.replace("A-2;x", "A-2;2").replace("soon", "1.6.2031").replace("A-1;9", "A-4;9"));
    let (code, out, err) = import(&daemon, &[&["b.csv"], &words[1..]].concat()).await;
    assert_eq!((code, out.as_str()), (0, "b.csv: 3 rows, 3 created, 0 there already, 0 refused\n"), "{err}");
    assert_eq!(daemon.payload(&daemon.item("invoices", "A-4").await).await.unwrap(), r#"{"n":9}"#);

    write(
        "pad.csv",
        "Name,Input,Expires in,Processing notes,Priority,Unique reference,Status,Delay until\n\
        One,\"{\"\"n\"\": 1}\",12/31/2031,,100,P-1,0,\nTwo,\"{\"\"n\"\": 2}\",,,300,P-2,1,\n",
    );
    write("up.csv", "Reference,Priority,Deadline,n\nU-1,High,2031-05-04,1\n");
    let (code, out, err) = import(&daemon, &["pad.csv", "up.csv", "--queue", "invoices", "--output", "json"]).await;
    assert_eq!(code, 65, "{out}{err}");
    let done: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&done[0]["created"], &done[0]["refused"], &done[1]["created"]),
        (&json!(1), &json!(1), &json!(1)),
        "{out}"
    );
    let item = daemon.item("invoices", "P-1").await;
    assert_eq!(
        (&item["name"], &item["priority"], &item["expires_at"]),
        (&json!("One"), &json!(8), &json!("2031-12-31T00:00:00Z"))
    );
    assert_eq!(daemon.item("invoices", "U-1").await["due_at"], "2031-05-04T00:00:00Z");

    write("c.json", "[{\"payload\": {\"n\": 1},\n\"reference\": \"C-1\"}, {\"payload\": 7}]");
    let (code, out, _) = import(&daemon, &["c.json", "--queue", "invoices", "--atomic"]).await;
    assert_eq!(code, 65);
    assert!(out.ends_with("(nothing was kept: all or nothing)\n"), "{out}");
    let refused = std::fs::read_to_string(daemon.path().join("c.json.refused.ndjson")).unwrap();
    let refused: Value = serde_json::from_str(&refused).unwrap();
    assert_eq!((&refused["code"], &refused["row"]), (&json!("schema"), &json!({"payload": 7})));
    assert!(daemon.items("queue=invoices&reference=C-1").await.is_empty());

    for (words, expected) in [
        (&["none.csv", "--queue", "invoices"][..], 1),
        (&["a.csv", "--queue", "nobody"], 1),
        (&["a.csv", "--queue", "letters"], 1),
        (&["c.json", "--format", "csv", "--queue", "invoices"], 65),
    ] {
        let (code, out, err) = import(&daemon, words).await;
        assert_eq!((code, out.as_str()), (expected, ""), "{words:?}: {err}");
    }
    // Of what was done before a file that fails the summary is told.
    let (code, out, err) = import(&daemon, &[&["a.csv", "none.csv"], &words[1..]].concat()).await;
    assert_eq!((code, out.lines().count()), (1, 1), "{out}{err}");
    assert!(out.starts_with("a.csv: 4 rows, 1 created, 0 there already, 3 refused, see "), "{out}");
    assert!(err.contains("none.csv"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_broke_off_goes_on_without_doubling() {
    let mut daemon = daemon("import resume").queues(QUEUES).start().await;
    // Without references nothing but the chunks' keys tells rows from each other.
    let rows: String =
        (0..5000).map(|n| if n % 1000 == 7 { "odd\n".to_owned() } else { format!("{{\"payload\":{n}}}\n") }).collect();
    std::fs::write(daemon.path().join("r.ndjson"), rows).unwrap();
    daemon.kill();
    daemon.spawn_to_die_at("many.committed:3");
    daemon.wait_until("it is ready to die", async |daemon: &Daemon| daemon.is_ready().await).await;
    let (code, out, err) = import(&daemon, &["r.ndjson", "--queue", "notes"]).await;
    assert_eq!((code, out.as_str()), (69, ""), "{err}");
    assert!(err.contains("2000 rows are done; --resume goes on"), "{err}");
    daemon.wait_until_dead("many.committed:3").await;
    daemon.start_again().await;
    // The third chunk is in, and nobody knows of it.
    assert_eq!(queued(&daemon, "notes").await, 2997);
    // Neither another run nor a look at what would be spoils the refused rows of the one that broke off.
    for more in [&[][..], &["--dry-run"], &["--atomic"]] {
        let (code, _, err) = import(&daemon, &[&["r.ndjson", "--queue", "notes"], more].concat()).await;
        assert_eq!((code, err.contains("--resume goes on, --again begins anew")), (1, true), "{err}");
    }
    let (code, out, err) = import(&daemon, &["r.ndjson", "--queue", "notes", "--resume"]).await;
    assert_eq!(code, 65, "{err}");
    assert!(out.contains("5000 rows, 4995 created, 0 there already, 5 refused"), "{out}");
    assert_eq!(queued(&daemon, "notes").await, 4995);
    let refused = std::fs::read_to_string(daemon.path().join("r.ndjson.refused.ndjson")).unwrap();
    assert_eq!(refused.lines().count(), 5, "{refused}");
    assert!(!daemon.path().join("r.ndjson.import.json").exists());
}

/// Measured by hand: `cargo test --test warrend what_many_rows_cost -- --ignored --nocapture`, with `WARREND_TEST_BINARY`
/// naming a release build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, made by hand"]
async fn what_many_rows_cost() {
    const ROWS: u32 = 50_000;
    let yaml = "queue: http\npaused: {dispatch: true}\n---\nqueue: amqp\npaused: {dispatch: true}\n";
    let daemon = daemon("many cost").queues(yaml).start().await;
    let payload = |n: u32| format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(900));
    let mut took = Vec::new();
    let began = Instant::now();
    for first in (0..ROWS).step_by(1000) {
        let rows: String = (first..first + 1000)
            .map(|n| format!("{{\"payload\":{},\"reference\":\"r-{n}\"}}\n", payload(n)))
            .collect();
        let sent = Instant::now();
        assert_eq!(send(&daemon, "http/items", NDJSON, rows).await.tally(), [1000, 0, 0]);
        took.push(sent.elapsed().as_secs_f64());
    }
    let seconds = began.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let of = |percent: usize| took[(took.len() - 1) * percent / 100] * 1000.0;
    eprintln!(
        "HTTP, NDJSON in chunks of 1000: {:.0} rows/s, a chunk {:.0} ms at the median, {:.0} ms at p99",
        f64::from(ROWS) / seconds,
        of(50),
        of(99)
    );
    let whole: String =
        (0..ROWS).map(|n| format!("{{\"payload\":{},\"reference\":\"w-{n}\"}}\n", payload(n))).collect();
    let began = Instant::now();
    assert_eq!(send(&daemon, "http/items", NDJSON, whole).await.tally(), [u64::from(ROWS), 0, 0]);
    eprintln!("HTTP, NDJSON in one request: {:.0} rows/s", f64::from(ROWS) / began.elapsed().as_secs_f64());
    let client = Client::connect(&daemon.vhost).await;
    let began = Instant::now();
    for first in (0..ROWS).step_by(1000) {
        let sent = (first..first + 1000).map(|n| {
            let properties = lapin::BasicProperties::default()
                .with_message_id(format!("r-{n}").into())
                .with_content_type("application/json".into())
                .with_delivery_mode(2);
            let (client, body) = (&client, payload(n));
            async move { client.publish("wq.items", "amqp", properties, body.as_bytes()).await }
        });
        assert!(futures::future::join_all(sent).await.into_iter().all(|taken| taken));
    }
    let confirmed = began.elapsed().as_secs_f64();
    daemon.wait_until("all are in", async |daemon: &Daemon| queued(daemon, "amqp").await == u64::from(ROWS)).await;
    eprintln!(
        "AMQP: {:.0} rows/s confirmed, {:.0} rows/s in the mirror",
        f64::from(ROWS) / confirmed,
        f64::from(ROWS) / began.elapsed().as_secs_f64()
    );
}
