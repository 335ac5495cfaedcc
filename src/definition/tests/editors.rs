//! The JSON Schema for editors beside the checker: what is wrong in form, both refuse; what is right, both take.

use serde_json::Value;

use super::super::draft::KEYS;
use super::super::node::{self, Node};
use super::*;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/queues")
}

#[test]
fn the_samples_load() {
    let definitions = load(&samples()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let keys: Vec<&str> = definitions.queues.keys().map(String::as_str).collect();
    assert_eq!(keys, ["invoices", "refunds", "reminders", "returns", "shipments"]);
    let invoices = definitions.get("invoices").and_then(|queue| queue.schema.clone()).expect("a schema");
    let good =
        json!({"vendor": "V1001", "number": "2026-17", "amount": 1250.5, "currency": "NOK", "due": "2026-12-01"});
    assert_eq!(invoices.violations(&good, &[]), Vec::<String>::new());
    assert!(invoices.violations(&json!({"vendor": "", "amount": 0}), &[]).len() >= 4);
}

/// A document as an editor's validator sees it.
pub(super) fn plain(node: &Node) -> Value {
    match &node.value {
        node::Value::Null => Value::Null,
        node::Value::Bool(value) => json!(value),
        node::Value::Int(number) => json!(i64::try_from(*number).expect("small")),
        node::Value::Float(number) => json!(number),
        node::Value::Text(text) => json!(text),
        node::Value::List(items) => items.iter().map(plain).collect(),
        node::Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), plain(&entry.value))).collect(),
    }
}

pub(super) fn editor_schema() -> (Value, PayloadSchema) {
    let source: Value = serde_json::from_str(JSON_SCHEMA).expect("JSON");
    let schema = PayloadSchema::compile(source.clone()).expect("a JSON Schema");
    (source, schema)
}

#[test]
fn the_schema_for_editors_knows_the_keys_that_work_and_no_others() {
    let (source, _) = editor_schema();
    let names = |pointer: &str| -> Vec<String> {
        source.pointer(pointer).and_then(Value::as_object).expect(pointer).keys().cloned().collect()
    };
    let mut known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(names("/$defs/queue/properties"), known);
    known.retain(|name| *name != "queue");
    assert_eq!(names("/$defs/defaults/properties/defaults/properties"), known);
}

#[test]
fn the_schema_for_editors_accepts_the_samples() {
    let (_, schema) = editor_schema();
    let mut seen = 0;
    for entry in fs::read_dir(samples()).expect("samples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path).expect("text");
            assert!(text.starts_with("# yaml-language-server: $schema=../../src/definition/definition.schema.json\n"));
            for document in node::documents(&text, &mut node::ROOM.clone()).0 {
                assert_eq!(schema.violations(&plain(&document), &[]), Vec::<String>::new(), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 6);
}

#[test]
fn the_schema_for_editors_rejects_what_the_check_rejects() {
    let (_, schema) = editor_schema();
    for text in [
        "title: x",
        "queue: Invoices",
        "queue: x\nprioritys: {}",
        "queue: x\ntitle:",
        "queue: x\nlabels: {a: 1}",
        "queue: x\nunique: 'yes'",
        "queue: x\nlane: managd",
        "queue: x\npriorities: {low: 1}",
        "queue: x\npriorities: {normal: 32}",
        "queue: x\nwindow: 0",
        "queue: x\nexpires_after: 0s",
        "queue: x\nexpires_after: 30m1h",
        "queue: x\ndue_after: 30",
        "queue: x\nmax_payload: 1mb",
        "queue: x\nretry: {business: {limit: 1}}",
        "queue: x\nretry: {it: {backoff: {jitter: 0.2}}}",
        "queue: x\nretry: {it: {backoff: {jitter: 101%}}}",
        "queue: x\nschema: {type: objekt}",
        "queue: x\nlane: direct\nunique: true",
        "defaults: {queue: x}",
        "defaults: {}\nqueue: x",
    ] {
        assert!(!mistakes(text).is_empty(), "the check accepts {text}");
        let document = &node::documents(text, &mut node::ROOM.clone()).0[0];
        assert!(!schema.violations(&plain(document), &[]).is_empty(), "the schema accepts {text}");
    }
}
