//! Definitions as admins write them, good and bad.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::*;

mod editors;
mod golden;
mod hostile;
mod later;

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(path, text)| Source { path: PathBuf::from(path), text: (*text).to_owned() }).collect()
}

/// Schemas that exist beside the definitions of a test.
fn schemas(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("q/good.json" | "q/sub/good.json" | "q/sub/../good.json") => Ok(r#"{"type": "object"}"#.to_owned()),
        Some("q/broken.json") => Ok("{\"type\":\n  objekt}".to_owned()),
        Some("q/wrong.json") => Ok(r#"{"type": "objekt"}"#.to_owned()),
        Some("q/remote.json") => Ok(r#"{"$ref": "file:///etc/passwd"}"#.to_owned()),
        _ => Err("no such file".to_owned()),
    }
}

fn check_one(text: &str) -> Result<Definitions, Diagnostics> {
    check(&sources(&[("q/x.yaml", text)]), &schemas)
}

#[track_caller]
fn queue(text: &str) -> Arc<QueueDefinition> {
    let definitions = check_one(text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    definitions.queues.into_values().next().expect("one queue")
}

/// Every mistake as `line:column message (help)`.
fn mistakes(text: &str) -> Vec<String> {
    let Err(found) = check_one(text) else { return Vec::new() };
    found
        .iter()
        .map(|d| match &d.help {
            Some(help) => format!("{}:{} {} ({help})", d.line, d.column, d.message),
            None => format!("{}:{} {}", d.line, d.column, d.message),
        })
        .collect()
}

#[test]
fn a_key_is_enough() {
    let queue = queue("queue: invoices");
    assert_eq!(format!("{queue:?}"), format!("{:?}", QueueDefinition::with_defaults("invoices")));
}

#[test]
fn every_key_is_read() {
    let queue = queue(
        "queue: a.b-c_1\ntitle: T\ndescription: |\n  two\n  lines\nowner: o@example.com\nlabels: {process: p2p, site: 'no'}\n\
         lane: managed\ntype: classic\npriorities: {normal: 0, top: 31}\nexpires_after: 7d\ndue_after: 1h30m\nunique: true\n\
         schema: good.json\norder: deadline\nwindow: 7\ncrash_limit: 1\nmax_payload: 16MiB\nretry:\n  it: {limit: 1, backoff: {first: 5s, factor: 1.5, max: 1m, jitter: 0%}}\n  \
         timeout: {backoff: {factor: 3}}\n  requeue: {limit: 0}\npaused: {intake: true}\nkeep: {processed: 90d, exception: forever, payload: 1d}\n",
    );
    assert_eq!((queue.key.as_str(), queue.title.as_str()), ("a.b-c_1", "T"));
    assert_eq!(queue.description.as_deref(), Some("two\nlines"));
    assert_eq!(queue.owner.as_deref(), Some("o@example.com"));
    assert_eq!(queue.labels.get("site").map(String::as_str), Some("no"));
    assert_eq!((queue.lane, queue.queue_type, queue.order), (Lane::Managed, QueueType::Classic, Order::Deadline));
    assert_eq!((queue.priorities.normal(), queue.priorities.highest()), (0, 31));
    assert_eq!(queue.expires_after, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(queue.due_after, Some(Duration::from_secs(5_400)));
    assert!(queue.unique && queue.schema.is_some());
    assert_eq!((queue.window, queue.crash_limit, queue.max_payload), (7, 1, 16 << 20));
    assert_eq!(queue.retry.it.limit, 1);
    assert!((queue.retry.it.backoff.factor - 1.5).abs() < f64::EPSILON);
    assert_eq!((queue.retry.it.backoff.max, queue.retry.it.backoff.jitter), (Duration::from_secs(60), 0.0));
    let day = Duration::from_hours(24);
    assert_eq!(queue.keep, Keep { processed: Some(90 * day), payload: Some(day), ..Keep::default() });
    // What a partial map leaves out keeps its default.
    assert_eq!((queue.retry.timeout.limit, queue.retry.timeout.backoff.factor), (0, 3.0));
    assert_eq!(queue.retry.timeout.backoff.first, Duration::from_secs(30));
    assert_eq!((queue.retry.generic, queue.retry.requeue_limit), (RetryPolicy::default().generic, 0));
    assert_eq!(queue.paused, Paused { dispatch: false, intake: true });
}

#[test]
fn good_values_in_all_their_spellings() {
    for text in [
        "",
        "# nothing yet\n",
        "---\n---\n",
        "\u{feff}queue: x",
        "queue: 'x'\r\nunique: false\r\n",
        "queue: \"12\"",
        "queue: x\nexpires_after: never\ndue_after: never",
        "queue: x\nmax_payload: 4096",
        "queue: x\nschema: none",
        "queue: x\nschema: sub/good.json",
        "queue: x\nschema: sub/../good.json",
        "queue: x\nschema: {type: object, properties: {a: {enum: [1, -1, 1.5, null, true]}}}",
        "queue: x\nlane: direct\nunique: false\nschema: none\norder: fifo\nwindow: 200\nmax_payload: 1MiB",
        "queue: x\nlane: direct\nexpires_after: 1h\ntype: quorum",
        "queue: x\nretry: {it: &same {limit: 2}, timeout: *same}",
        "defaults: {}",
        "queue: x\n---\nqueue: y\n",
    ] {
        assert_eq!(mistakes(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn bad_values_name_place_cause_and_cure() {
    let mut wrong = Vec::new();
    for (text, expected) in [
        ("queue: x\nprioritys: {}", "2:1 unknown key 'prioritys' (did you mean 'priorities'?)"),
        ("queue: x\nmaxPayload: 1MiB", "2:1 unknown key 'maxPayload' (did you mean 'max_payload'?)"),
        ("title: x", "1:1 'queue' is missing (every queue has a key: queue: invoices)"),
        ("queue: x\ntitle:", "2:1 'title' has no value (give it a value, or remove the key to get the default)"),
        (
            "queue: x\ntitle: a\ntitle: b",
            "3:1 key 'title' stands here twice (it stands on line 2 already; remove one of them)",
        ),
        ("queue: x\ntitle: 1.0", "2:8 expected text, found the number 1.0 (write it in quotes: \"1.0\")"),
        ("queue: x\ntitle: ''", "2:8 expected text, found none between the quotes"),
        ("queue: x\nlabels: {a: 007, b: 12}", "2:21 expected text, found the number 12 (write it in quotes: \"12\")"),
        ("queue: x\nlabels: [a]", "2:9 expected a map of keys and values, found a list"),
        (
            "queue: Vendor Invoices",
            "1:8 expected a key of 1 to 100 lower-case letters, digits, '-', '_' and '.', found the text 'Vendor Invoices' (did you mean 'vendor-invoices'?)",
        ),
        ("queue: 12", "1:8 expected text, found the number 12 (write it in quotes: \"12\")"),
        ("queue: x\nunique: no", "2:9 expected true or false, found the text 'no' (write false, without quotes)"),
        (
            "queue: x\nlane: managd",
            "2:7 expected 'managed' or 'direct', found the text 'managd' (did you mean 'managed'?)",
        ),
        ("queue: x\ntype: stream", "2:7 expected 'auto', 'quorum' or 'classic', found the text 'stream'"),
        (
            "queue: x\npriorities: {low: 1}",
            "2:13 no priority is named 'normal' (name the one that items get which ask for none, e.g. normal: 4)",
        ),
        ("queue: x\npriorities: {normal: 32}", "2:22 expected 0 to 31, found the number 32"),
        ("queue: x\npriorities: {normal: -1}", "2:22 expected 0 to 31, found the number -1"),
        ("queue: x\nwindow: 0", "2:9 expected 1 to 100000, found the number 0"),
        ("queue: x\nwindow: \"200\"", "2:9 expected a whole number, found the text '200' (write 200, without quotes)"),
        ("queue: x\nwindow: 1_000", "2:9 expected a whole number, found the text '1_000' (write 1000, without quotes)"),
        ("queue: x\nwindow: 1.5", "2:9 expected a whole number, found the number 1.5"),
        ("queue: x\ncrash_limit: 1001", "2:14 expected 1 to 1000, found the number 1001"),
        ("queue: x\nexpires_after: 0s", "2:16 a duration has to be longer than 0"),
        (
            "queue: x\nkeep: {processed: 59s}",
            "2:19 what is finished is kept for 1m at least (what is said of an item may come a little after its end; write 1m or more)",
        ),
        (
            "queue: x\nexpires_after: none",
            "2:16 expected a duration or 'never', found the text 'none' (did you mean 'never'?)",
        ),
        (
            "queue: x\ndue_after: 30",
            "2:12 expected a duration, found the number 30 (write a whole number and its unit: 30s, 5m, 8h, 7d or 1h30m)",
        ),
        ("queue: x\nmax_payload: 17MiB", "2:14 expected a size of 1 byte to 16MiB, found the text '17MiB'"),
        ("queue: x\nmax_payload: 0", "2:14 expected a size of 1 byte to 16MiB, found the number 0"),
        (
            "queue: x\nmax_payload: 1mb",
            "2:14 expected a size, found the text '1mb' (write a whole number and its unit, 1MiB, 512KiB or 100KB, or a number of bytes: 4096)",
        ),
        (
            "queue: x\nretry: {business: {limit: 1}}",
            "2:9 unknown key 'business' (known here: it, generic, timeout, requeue)",
        ),
        ("queue: x\nretry: {it: {limit: 1001}}", "2:21 expected 0 to 1000, found the number 1001"),
        ("queue: x\nretry: {it: {backoff: {factor: 0.5}}}", "2:32 expected 1 to 100, found the number 0.5"),
        ("queue: x\nretry: {it: {backoff: {factor: .inf}}}", "2:32 expected a number, found the text '.inf'"),
        (
            "queue: x\nretry: {it: {backoff: {jitter: 0.2}}}",
            "2:32 expected a share from 0% to 100%, found the number 0.2 (write it with its sign: 20%)",
        ),
        (
            "queue: x\nretry: {it: {backoff: {jitter: 101%}}}",
            "2:32 expected a share from 0% to 100%, found the text '101%' (write it with its sign: 20%)",
        ),
        ("queue: x\nretry: {requeue: {backoff: 1s}}", "2:19 unknown key 'backoff' (known here: limit)"),
        ("queue: x\nschema: missing.json", "2:9 cannot read the schema 'missing.json': no such file"),
        (
            "queue: x\nschema: ../good.json",
            "2:9 '../good.json' is no file of this directory (keep the schema beside the definitions and name it relative to them)",
        ),
        (
            "queue: x\nschema: /q/good.json",
            "2:9 '/q/good.json' is no file of this directory (keep the schema beside the definitions and name it relative to them)",
        ),
        (
            "queue: x\nschema: broken.json",
            "2:3 this is no JSON: expected value (it is named as a schema at q/x.yaml:2:9)",
        ),
        (
            "queue: x\nschema: {a: 1, a: 2}",
            "2:16 key 'a' stands here twice (it stands on line 2 already; remove one of them)",
        ),
        (
            "queue: x\nschema: [a]",
            "2:9 expected a JSON Schema, found a list (write 'none', the name of a JSON file beside this one, or the schema itself as a map)",
        ),
        (
            "queue: x\nlane: direct\nwindow: 5",
            "3:1 'window' needs the managed lane, this queue takes the direct one (remove it, or write 'lane: managed')",
        ),
        (
            "queue: x\n---\nqueue: x",
            "3:1 queue 'x' is defined twice (the first definition is at q/x.yaml:1:1; give one of them another key)",
        ),
        (
            "queue: x\n<<: {title: y}",
            "2:1 unknown key '<<' (known here: queue, title, description, owner, labels, lane, type, priorities, expires_after, due_after, at_risk, calendar, unique, schema, order, window, max_working, acks, processing_timeout, retry, crash_limit, breaker, on_processed, on_exception, notify, paused, mask, keep, max_payload)",
        ),
        ("- queue: x", "1:1 expected a map of keys and values, found a list"),
        (
            "defaults: {queue: x}",
            "1:12 'queue' names one queue, defaults are for all (remove it; the queues stand in documents of their own)",
        ),
        (
            "defaults: {}\nqueue: x",
            "2:1 'queue' stands beside 'defaults', which needs a document of its own (remove it)",
        ),
        (
            "defaults: {}\n---\ndefaults: {}",
            "3:1 a directory has one set of defaults, this is another (the first ones are at q/x.yaml:1:1; make them one)",
        ),
        ("queue: [", "1:8 unclosed bracket '['"),
        ("queue: !include x", "1:17 unsupported tag `!include`"),
        ("? [a]\n: b", "1:3 a key is a word, not a list or a map"),
    ] {
        let found = mistakes(text);
        if found != [expected] {
            wrong.push(format!(
                "{text}
  expected {expected}
  found    {found:?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.join(
            "
"
        )
    );
}

#[test]
fn a_schema_that_is_none_is_refused_where_it_is_named() {
    for (text, start) in [
        (
            "queue: x\nschema: wrong.json",
            "1:10 this is no JSON Schema: 'objekt' is no type of JSON (did you mean 'object'?)",
        ),
        ("queue: x\nschema: {type: objekt}", "2:16 this is no JSON Schema: 'objekt' is no type of JSON"),
        ("queue: x\nschema: {pattern: '('}", "2:19 this is no JSON Schema: '(' is no regular expression"),
        (
            "queue: x\nschema: {$schema: 'http://json-schema.org/draft-07/schema'}",
            "2:19 this is no JSON Schema: schemas are read as JSON Schema 2020-12",
        ),
        ("queue: x\nschema: remote.json", "1:10 this is no JSON Schema: 'file:///etc/passwd' is not in this schema"),
    ] {
        let found = mistakes(text);
        assert!(found.len() == 1 && found[0].starts_with(start), "{text}: {found:?}");
    }
}

#[test]
fn the_direct_lane_names_every_key_that_needs_the_other() {
    let found = mistakes("queue: x\nunique: true\nschema: {}\norder: deadline\nmax_payload: 1KiB\nlane: direct");
    assert_eq!(found.iter().map(|found| &found[..4]).collect::<Vec<_>>(), ["2:1 ", "3:1 ", "4:1 ", "5:1 "]);
}

#[test]
fn defaults_lie_under_every_queue_of_the_directory() {
    let files = sources(&[
        (
            "q/a.yaml",
            "queue: a\npaused: {dispatch: false}\nlabels: {own: yes}\nretry: {generic: {limit: 2}}\nwindow: 5",
        ),
        ("q/b.yaml", "queue: b"),
        (
            "q/z.yaml",
            "defaults: {owner: ops, window: 9, labels: {site: oslo}, retry: {it: {limit: 7}}, paused: {dispatch: true, intake: true}}",
        ),
    ]);
    let definitions = check(&files, &schemas).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let [a, b] = ["a", "b"].map(|key| definitions.get(key).expect("defined").clone());
    assert_eq!((a.window, b.window), (5, 9));
    assert_eq!((a.labels.len(), b.labels.len()), (2, 1));
    assert_eq!((a.retry.it.limit, a.retry.generic.limit, b.retry.generic.limit), (7, 2, 0));
    assert_eq!([a.paused.dispatch, a.paused.intake, b.paused.dispatch], [false, true, true]);
    assert_eq!((b.owner.as_deref(), b.title.as_str()), (Some("ops"), "b"));
}

#[test]
fn a_default_that_the_direct_lane_cannot_have_is_named_with_both_places() {
    let files = sources(&[
        ("q/d.yaml", "defaults: {unique: true}"),
        ("q/x.yaml", "queue: x\nlane: direct"),
        ("q/y.yaml", "queue: y\nlane: direct\nunique: false"),
    ]);
    let found = check(&files, &schemas).expect_err("x cannot be unique");
    assert_eq!(
        found.to_string(),
        "\
q/x.yaml:2:1: 'unique', set by the defaults at q/d.yaml:1:12, needs the managed lane, this queue takes the direct one
 2 | lane: direct
   | ^^^^
help: write 'unique: false' here, or write 'lane: managed'

1 mistake in the definitions"
    );
}

#[test]
fn one_run_reports_every_mistake_of_every_file() {
    let files = sources(&[
        (
            "q/b.yaml",
            "queue: invoices\nprioritys: {normal: 4}\nunique: yes\nretry:\n  it: {limit: many, backof: {first: 1s}}\n",
        ),
        ("q/a.yaml", "queue: invoices\nwindow: 0\n---\ntitle: Nameless\nmask: [a]\n---\nqueue: 'c\n"),
    ]);
    let found = check(&files, &schemas).expect_err("full of mistakes");
    insta::assert_snapshot!(found.to_string(), @r"
    q/a.yaml:1:1: queue 'invoices' is defined twice
     1 | queue: invoices
       | ^^^^^
    help: the first definition is at q/b.yaml:1:1; give one of them another key

    q/a.yaml:2:9: expected 1 to 100000, found the number 0
     2 | window: 0
       |         ^

    q/a.yaml:4:1: 'queue' is missing
     4 | title: Nameless
       | ^
    help: every queue has a key: queue: invoices

    q/a.yaml:5:8: expected a payload path, found the text 'a'
     5 | mask: [a]
       |        ^
    help: write it as a JSON Pointer: /a

    q/a.yaml:7:8: unclosed quote
     7 | queue: 'c
       |        ^

    q/b.yaml:2:1: unknown key 'prioritys'
     2 | prioritys: {normal: 4}
       | ^^^^^^^^^
    help: did you mean 'priorities'?

    q/b.yaml:3:9: expected true or false, found the text 'yes'
     3 | unique: yes
       |         ^^^
    help: write true, without quotes

    q/b.yaml:5:15: expected a whole number, found the text 'many'
     5 |   it: {limit: many, backof: {first: 1s}}
       |               ^^^^

    q/b.yaml:5:21: unknown key 'backof'
     5 |   it: {limit: many, backof: {first: 1s}}
       |                     ^^^^^^
    help: did you mean 'backoff'?

    9 mistakes in the definitions
    ");
}

#[test]
fn diagnostics_are_json_for_tools() {
    let found = check_one("queue: x\nlane: managd").expect_err("no such lane");
    assert_eq!(
        serde_json::to_value(found.iter().collect::<Vec<_>>()).expect("JSON"),
        json!([{
            "file": "q/x.yaml", "line": 2, "column": 7, "length": 6, "source": "lane: managd",
            "message": "expected 'managed' or 'direct', found the text 'managd'", "help": "did you mean 'managed'?",
        }])
    );
}

#[test]
fn a_directory_is_read_as_a_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(load(dir.path()).expect("an empty directory is fine").queues.is_empty());
    let missing = load(&dir.path().join("none")).expect_err("no such directory");
    assert!(matches!(missing, LoadError::Read { .. }));

    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("written");
    write("a.yaml", b"queue: a\nschema: s.json");
    write("s.json", b"{}");
    write("b.yml", b"queue: b");
    write(".hidden.yaml", b"queue: [");
    write("notes.txt", b"queue: [");
    let keys: Vec<String> = load(dir.path()).expect("good files").queues.into_keys().collect();
    assert_eq!(keys, ["a", "b"]);

    let before = read_dir(dir.path()).fingerprint;
    assert_eq!(read_dir(dir.path()).fingerprint, before, "nothing changed");
    let mut seen = vec![before];
    for (name, text) in [
        ("a.yaml", "queue: a\nschema: s.json\n"),
        ("s.json", "{\"type\": \"object\"}"),
        ("s.json", "{"),
        ("b.yml", "queue: c"),
        ("b.yml", "queue: ["),
        ("more.yaml", ""),
    ] {
        write(name, text.as_bytes());
        let now = read_dir(dir.path()).fingerprint;
        assert!(!seen.contains(&now), "{name} changed");
        seen.push(now);
    }
    write("notes.txt", b"nobody reads this");
    assert_eq!(seen.last(), Some(&read_dir(dir.path()).fingerprint));
    fs::rename(dir.path().join("more.yaml"), dir.path().join("renamed.yaml")).expect("renamed");
    assert!(!seen.contains(&read_dir(dir.path()).fingerprint), "another name is another set");
    fs::remove_file(dir.path().join("s.json")).expect("removed");
    assert!(!seen.contains(&read_dir(dir.path()).fingerprint), "a schema is gone");
    assert_ne!(read_dir(&dir.path().join("none")).fingerprint, before);
    write("a.yaml", b"queue: a\nschema: s.json");
    write("s.json", b"{}");
    write("b.yml", b"queue: b");
    fs::remove_file(dir.path().join("renamed.yaml")).expect("removed");
    assert_eq!(read_dir(dir.path()).fingerprint, before, "all is as it was");

    write("c.yaml", b"queue: c\n# caf\xe9\n");
    write("d.yaml", b"queue: a");
    fs::create_dir(dir.path().join("e.yaml")).expect("created");
    fs::File::create(dir.path().join("f.yaml")).and_then(|file| file.set_len(11 << 20)).expect("created");
    let LoadError::Invalid(found) = load(dir.path()).expect_err("bad files") else { panic!("the directory is there") };
    let found: Vec<&str> = found.iter().map(|found| found.message.as_str()).collect();
    assert_eq!(
        found,
        [
            "cannot be read: it is not UTF-8 text: line 2, column 6 has bytes that are no characters",
            "queue 'a' is defined twice",
            "cannot be read: it is not a file",
            "cannot be read: it is larger than 10MiB",
        ]
    );
}
