//! Columns are those that are shown and documented, and cells no formulas.

use super::*;
use crate::http::view::tests::item;
use crate::item::attempts::Attempt;

fn names(view: &impl serde::Serialize) -> Vec<String> {
    // In the order of the view, which a map does not keep.
    let text = serde_json::to_string(view).unwrap();
    let fields = object(view);
    let mut names: Vec<String> = fields.keys().cloned().collect();
    names.sort_by_key(|name| text.find(&format!("\"{name}\":")).unwrap());
    names
}

#[test]
fn columns_are_the_fields_that_the_api_shows() {
    let mut fields = names(&ItemView::new(item(), now()));
    // Over by the time that anybody reads it.
    fields.retain(|name| name != "lease_until");
    assert_eq!(fields, ITEM_COLUMNS);
    let attempt = AttemptView::from(Attempt::default());
    assert_eq!([["item", "queue", "reference"].map(str::to_owned).to_vec(), names(&attempt)].concat(), ATTEMPT_COLUMNS);
}

#[test]
fn every_column_is_documented() {
    let page = include_str!("../../../docs/export.md");
    let (_, columns) = page.split_once("## Items").unwrap();
    let (items, attempts) = columns.split_once("## Attempts").unwrap();
    for (part, columns) in [(items, [ITEM_COLUMNS, PAYLOAD_COLUMNS].concat()), (attempts, ATTEMPT_COLUMNS.to_vec())] {
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let documented: Vec<&str> = rows.map(|(name, _)| name).collect();
        assert_eq!(documented, columns);
    }
}

#[test]
fn payloads_are_shown_as_what_they_are() {
    for (body, encoding, text) in [
        (&b"{ \"n\": 1.10,\n \"s\": \"a b\" }"[..], "json", "{\"n\":1.10,\"s\":\"a b\"}"),
        (b"<xml/>", "text", "<xml/>"),
        (b"\xff\x00", "base64", "/wA="),
        (b"", "text", ""),
    ] {
        let shown = Payload::shown(body.to_vec());
        assert_eq!((shown.encoding, shown.text.as_str()), (encoding, text));
    }
}

#[test]
fn cells_are_kept_from_being_formulas() {
    let mut exported = Exported { fields: Map::new(), payload: Some(Payload::shown(b"=1+1".to_vec())) };
    exported.fields.insert("reason".to_owned(), "@SUM(A1)".into());
    exported.fields.insert("priority".to_owned(), 4.into());
    exported.fields.insert("labels".to_owned(), serde_json::json!({"=a": "b"}));
    let cells = |raw| ["payload", "reason", "priority", "labels", "gone"].map(|column| exported.cell(column, raw));
    assert_eq!(cells(false), ["'=1+1", "'@SUM(A1)", "4", "{\"=a\":\"b\"}", ""]);
    assert_eq!(cells(true), ["=1+1", "@SUM(A1)", "4", "{\"=a\":\"b\"}", ""]);
    assert_eq!(exported.json("payload"), "\"=1+1\"");
}
