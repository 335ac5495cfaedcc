//! Bodies that are right, and everything that may be wrong with them.

use axum::response::IntoResponse as _;
use serde_json::json;

use super::*;

fn of(body: Value) -> Result<What, Problem> {
    read(body.to_string().as_bytes()).map(|(_, what)| what)
}

async fn faults(body: Value) -> Vec<String> {
    let text = body.to_string();
    let problem = of(body).err().unwrap_or_else(|| panic!("{text} is taken"));
    let response = problem.into_response();
    assert_eq!(response.status(), 400, "{text}");
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let problem: Value = serde_json::from_slice(&bytes).unwrap();
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| error["pointer"].as_str().unwrap_or_default().to_owned()).collect()
}

const ID: &str = "00000000-0000-7000-8000-000000000001";

#[test]
fn what_is_asked_is_read() {
    let asked = of(json!({
        "action": "requeue", "by": "ann", "why": "SAP is back", "dry_run": true, "rate": "50/s", "ramp": true,
        "filter": {"queue": "a", "state": "exception", "kind": ["it", "timeout"], "label": {"site": "oslo"},
                   "since": "2026-01-01T00:00:00Z", "q": "SAP", "fingerprint": "00ff"},
        "priority": "high", "delay": "5m", "patch": [{"op": "remove", "path": "/a"}],
    }))
    .ok()
    .unwrap();
    let Set::Filter(filter) = &asked.set else { panic!("{asked:?}") };
    assert_eq!((filter.states.as_slice(), filter.kinds.len(), filter.labels.len()), (&["exception"][..], 2, 1));
    assert_eq!(filter.fingerprint.as_deref(), Some("00ff"));
    assert_eq!((asked.dry_run, asked.wish.delay), (true, Some(300_000)));
    assert_eq!(asked.ramp.map(|ramp| ramp.steps), Some(STEPS.to_vec()));
    let asked = of(json!({"action": "assign", "ids": [ID, ID], "assignee": null})).ok().unwrap();
    assert!(matches!(&asked.set, Set::Ids(ids) if ids.len() == 2), "{asked:?}");
    let asked = of(json!({"action": "hold", "all": true})).ok().unwrap();
    assert!(matches!(&asked.set, Set::Filter(filter) if *filter == ItemFilter::default()), "{asked:?}");
    let asked =
        of(json!({"action": "release", "filter": {"queue": "a"}, "ramp": [1, 10], "ramp_wait": "5m"})).ok().unwrap();
    assert_eq!(asked.ramp.map(|ramp| (ramp.steps, ramp.patience)), Some((vec![1, 10], 300_000)));
}

#[tokio::test]
async fn everything_wrong_is_named_at_once() {
    for (body, pointers) in [
        (json!({}), vec!["/action", "/ids"]),
        (json!({"action": "burn", "ids": [ID]}), vec!["/action"]),
        (json!({"action": "undo", "ids": [ID]}), vec!["/action"]),
        (json!({"action": 7, "ids": [ID]}), vec!["/action"]),
        (json!({"action": "hold", "filter": {}}), vec!["/filter"]),
        (json!({"action": "hold", "filter": {"queue": null}}), vec!["/filter"]),
        (json!({"action": "hold", "ids": [], "filter": {"queue": "a"}}), vec!["/filter", "/ids"]),
        (json!({"action": "hold", "ids": ["x", ID, "y"]}), vec!["/ids/0", "/ids/2"]),
        (
            json!({"action": "hold", "filter": {"queu": "a", "state": "gone", "kind": 7, "due": "now", "label": [], "q": ""}}),
            vec!["/filter/q", "/filter/due", "/filter/state", "/filter/kind", "/filter/label", "/filter/queu"],
        ),
        // What a program says that found nothing is not everything.
        (
            json!({"action": "hold", "filter": {"queue": "a", "state": [], "kind": [], "label": {}, "reference": ""}}),
            vec!["/filter/reference", "/filter/state", "/filter/kind", "/filter/label"],
        ),
        (
            json!({"action": "hold", "filter": {"label": (0..21).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>()}}),
            vec!["/filter/label"],
        ),
        (json!({"action": "hold", "filter": {"label": {"a": "x".repeat(201)}}}), vec!["/filter/label"]),
        (json!({"action": "hold", "filter": [1]}), vec!["/filter"]),
        (
            json!({"action": "hold", "ids": [ID], "delay": "5m", "note": "x", "assignee": "bob"}),
            vec!["/delay", "/note", "/assignee"],
        ),
        (json!({"action": "hold", "ids": [ID], "ramp": true}), vec!["/ramp"]),
        (json!({"action": "release", "ids": [ID], "ramp": [0], "rate": "fast"}), vec!["/rate", "/ramp"]),
        (json!({"action": "release", "ids": [ID], "ramp_wait": "5m"}), vec!["/ramp_wait"]),
        (json!({"action": "edit", "ids": [ID]}), vec!["/action"]),
        (
            json!({"action": "edit", "ids": [ID], "patch": [{"op": "add"}], "merge_patch": {}}),
            vec!["/patch", "/patch", "/patch"],
        ),
        (json!({"action": "note", "ids": [ID]}), vec!["/note"]),
        (json!({"action": "assign", "ids": [ID]}), vec!["/assignee"]),
        (json!({"action": "hold", "ids": [ID], "by": "a\nb", "colour": "red"}), vec!["/by", "/colour"]),
    ] {
        let found = faults(body.clone()).await;
        assert_eq!(found, pointers, "{body}");
    }
}

#[test]
fn what_stands_twice_in_a_filter_is_refused() {
    let body = br#"{"action": "hold", "filter": {"queue": "a", "queue": "b"}}"#;
    assert!(read(body).is_err());
}
