//! What is told of items whose queue hides something, and what they are written as.

use super::*;
use crate::item::action::Deed;
use crate::item::door::{Arrival, NewItem, admit};
use crate::item::{ItemId, Lane, Place, State};

const BODY: &str = r#"{"iban":"NO93","pin":1234,"accounts":{"NO5":1},"name":"Ola"}"#;

fn hiding() -> QueueDefinition {
    let mask = ["/iban", "/pin", "/accounts"].map(str::to_owned).into();
    QueueDefinition { mask, ..QueueDefinition::with_defaults("a") }
}

fn item(content_type: Option<&str>) -> Item {
    let id: ItemId = "00000000-0000-7000-8000-000000000001".parse().unwrap();
    let new = NewItem { content_type: content_type.map(str::to_owned), ..NewItem::default() };
    let arrival = Arrival { new, ..Arrival::default() };
    let definition = QueueDefinition::with_defaults("a");
    let item = admit(&definition, &arrival, 4, "h".to_owned(), id, Timestamp::UNIX_EPOCH);
    Item { state: State::Queued, place: Place::Ready, lane: Lane::Managed, ..item }
}

fn edit() -> Wish {
    Wish::of(Deed::Edit)
}

fn patch(json: &str) -> Wish {
    Wish { patch: Some(json.to_owned()), ..edit() }
}

fn merge(json: &str) -> Wish {
    Wish { merge: Some(json.to_owned()), ..edit() }
}

fn payload(json: &str) -> Wish {
    Wish { payload: Some(json.to_owned()), ..edit() }
}

/// A dry run about one item that carries this.
fn tried(definition: Option<&QueueDefinition>, body: &str, wish: Wish) -> Tried {
    let plan = Plan::of(wish, "ann".to_owned(), "1".to_owned(), true).unwrap();
    let carried = Carried { has: true, body: Some(body.as_bytes().to_vec()), ..Carried::default() };
    let default = QueueDefinition::with_defaults("a");
    let queue = Queue { definition: definition.unwrap_or(&default), is_defined: definition.is_some() };
    try_one(&item(Some(JSON)), &queue, &plan, &carried, Timestamp::UNIX_EPOCH)
}

/// Everything that is kept of it, and shown.
fn told(tried: &Tried) -> String {
    format!("{} {:?} {:?} {}", tried.outcome, tried.code, tried.reasons, serde_json::to_string(&tried.diff).unwrap())
}

#[test]
fn who_guesses_what_is_hidden_is_told_the_same_whether_it_is_right() {
    let hiding = hiding();
    let cases: [fn(&str) -> Wish; 8] = [
        |pin| merge(&format!(r#"{{"pin":{pin}}}"#)),
        |pin| merge(&format!(r#"{{"pin":{pin},"name":"Kari"}}"#)),
        |pin| patch(&format!(r#"[{{"op":"replace","path":"/pin","value":{pin}}}]"#)),
        |pin| patch(&format!(r#"[{{"op":"add","path":"/pin","value":{pin}}}]"#)),
        |pin| patch(&format!(r#"[{{"op":"test","path":"/pin","value":{pin}}}]"#)),
        |pin| payload(&format!(r#"{{"iban":"NO93","pin":{pin},"accounts":{{"NO5":1}},"name":"Ola"}}"#)),
        |key| patch(&format!(r#"[{{"op":"remove","path":"/accounts/{}"}}]"#, key.replace("1234", "NO5"))),
        |key| merge(&format!(r#"{{"accounts":{{"{}":null}}}}"#, key.replace("1234", "NO5"))),
    ];
    for (number, wish) in cases.into_iter().enumerate() {
        let (right, wrong) = (tried(Some(&hiding), BODY, wish("1234")), tried(Some(&hiding), BODY, wish("99")));
        assert_eq!(told(&right), told(&wrong), "{number}");
        assert_ne!(right.outcome, Outcome::Unchanged, "{number}");
    }
    // What is open is told, also there.
    assert_eq!(tried(Some(&hiding), BODY, merge(r#"{"name":"Ola"}"#)).outcome, Outcome::Unchanged);
    let open = tried(Some(&hiding), BODY, merge(r#"{"name":"Kari","pin":1}"#));
    let [diff] = open.diff.as_slice() else { panic!("{:?}", open.diff) };
    assert_eq!((diff.path.as_str(), diff.before.as_deref()), ("/name", Some("\"Ola\"")));
    assert_eq!(
        tried(Some(&hiding), BODY, patch(r#"[{"op":"test","path":"/name","value":"x"}]"#)).code,
        Some("test_failed")
    );
}

#[test]
fn nothing_is_told_of_a_payload_whose_queue_nobody_defines_nor_of_one_of_another_shape() {
    let hiding = hiding();
    for (definition, body) in
        [(None, BODY), (Some(&hiding), r#"[{"iban":"NO93","pin":1234}]"#), (Some(&hiding), "\"NO93 1234\"")]
    {
        for wish in [
            patch(r#"[{"op":"test","path":"/iban","value":0}]"#),
            patch(r#"[{"op":"test","path":"/0","value":0}]"#),
            patch(r#"[{"op":"test","path":"","value":0}]"#),
            patch(r#"[{"op":"copy","from":"/0/iban","path":"/x"}]"#),
            patch(r#"[{"op":"replace","path":"","value":{"n":1}}]"#),
            merge(r#"{"n":1}"#),
            payload("1"),
        ] {
            let what = format!("{body} {wish:?}");
            let tried = tried(definition, body, wish);
            let told = told(&tried);
            assert!(!told.contains("NO93") && !told.contains("1234"), "{what}: {told}");
        }
    }
    assert_eq!(tried(None, BODY, patch(r#"[{"op":"test","path":"/iban","value":0}]"#)).code, Some("masked"));
    let open = QueueDefinition::with_defaults("a");
    let test = tried(Some(&open), BODY, patch(r#"[{"op":"test","path":"/iban","value":0}]"#));
    assert!(test.code == Some("test_failed") && told(&test).contains("NO93"), "nothing is hidden there");
}

#[test]
fn a_payload_for_all_is_json_and_undo_gives_each_its_type_back() {
    let definition = QueueDefinition::with_defaults("a");
    let queue = Queue { definition: &definition, is_defined: true };
    for content_type in [Some("application/pdf"), None] {
        let before = item(content_type);
        let plan = Plan::of(payload("{}"), "ann".to_owned(), "1".to_owned(), false).unwrap();
        let carried = Carried { has: true, body: Some(b"%PDF".to_vec()), ..Carried::default() };
        let go = try_one(&before, &queue, &plan, &carried, Timestamp::UNIX_EPOCH).go.unwrap();
        let mut after = before.clone();
        assert!(matches!(people::order(&mut after, &go.order, true, Timestamp::UNIX_EPOCH), Verdict::Done(_)));
        assert_eq!(after.content_type.as_deref(), Some(JSON));

        let plan = Plan::of(Wish::of(Deed::Undo), "ann".to_owned(), "2".to_owned(), false).unwrap();
        let left = Left { former: go.former, kept: Some(4), after: after.revision };
        let carried = Carried { has: true, body: Some(b"{}".to_vec()), left: Some(left), former: carried.body };
        let back = try_one(&after, &queue, &plan, &carried, Timestamp::UNIX_EPOCH);
        let Some(go) = back.go else { panic!("{content_type:?}: {:?} {:?}", back.code, back.reasons) };
        assert_eq!(go.payload.as_deref(), Some(&b"%PDF"[..]));
        assert!(matches!(people::order(&mut after, &go.order, true, Timestamp::UNIX_EPOCH), Verdict::Done(_)));
        assert_eq!(after.content_type, before.content_type);
    }
    // The same bytes under another type are another payload.
    let plan = Plan::of(payload("1"), "ann".to_owned(), "1".to_owned(), false).unwrap();
    for (content_type, expected) in [(JSON, Outcome::Unchanged), ("text/plain", Outcome::Done)] {
        let carried = Carried { has: true, body: Some(b"1".to_vec()), ..Carried::default() };
        let tried = try_one(&item(Some(content_type)), &queue, &plan, &carried, Timestamp::UNIX_EPOCH);
        assert_eq!(tried.outcome, expected, "{content_type}");
    }
}
