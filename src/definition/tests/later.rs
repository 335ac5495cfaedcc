//! Keys that say what becomes of items later on: what is read of them, and chains.

use super::super::rules::Occasion;
use super::*;
use crate::item::Kind;

const VALUES: &str = "\
max_working: 5
acks: report_required
breaker: {after: 3}
on_processed: b
on_exception: {business: b, poison: b}
notify: [{on: [exception, at_risk, exception.it], to: 'https://example.com/hook'}]
mask: [/customer/iban]
";

#[test]
fn every_value_is_read() {
    let source = Source { path: "q/x.yaml".into(), text: format!("queue: x\n{VALUES}") };
    let queue = check::read_alone(&source).expect("it is read");
    assert_eq!((queue.max_working, queue.acks), (Some(5), Acks::ReportRequired));
    assert_eq!(queue.breaker, Some(Breaker { after: 3, pause: Duration::from_mins(5) }));
    assert_eq!(queue.on_processed.as_deref(), Some("b"));
    assert_eq!(queue.on_exception.keys().copied().collect::<Vec<_>>(), [Kind::Business, Kind::Poison]);
    let notice = queue.notify.first().expect("a notice");
    assert_eq!(
        (notice.on.as_slice(), notice.to.as_str()),
        (&[Occasion::Exception, Occasion::AtRisk, Occasion::Kind(Kind::It)][..], "https://example.com/hook")
    );
    assert_eq!((notice.at_most.times, notice.at_most.within), (1, Duration::from_mins(15)));
    assert_eq!(queue.mask, ["/customer/iban"]);
}

#[test]
fn whoever_writes_a_path_otherwise_is_told_how() {
    for (written, help) in [
        ("customer.iban", "/customer/iban"),
        ("$.customer.iban", "/customer/iban"),
        ("lines[*].price", "/lines/*/price"),
        ("$['customer']['iban']", "/customer/iban"),
        ("$.lines[0]", "/lines/0"),
        ("a b", "/a b"),
        ("a\tb", "/customer/iban"),
    ] {
        let found = mistakes(&format!("queue: x\nmask: [{}]", serde_json::json!(written)));
        assert!(found.len() == 1 && found[0].contains(&format!("write it as a JSON Pointer: {help}")), "{found:?}");
        assert!(found[0].starts_with("2:8 "), "{found:?}");
    }
    assert_eq!(
        mistakes("queue: x\nmask: [/customer/iban, /lines/*/price, /a~1b, /bank account]"),
        Vec::<String>::new()
    );
    assert_eq!(mistakes("defaults: {mask: [/a]}\n---\nqueue: x\nlane: direct"), Vec::<String>::new());
}

fn cycles(text: &str) -> Vec<String> {
    let all = mistakes(text).into_iter();
    all.filter_map(|found| Some(found.split_once("never ends: ")?.1.split(" (").next()?.to_owned())).collect()
}

#[test]
fn chains_that_never_end_are_named_in_full() {
    for (text, expected) in [
        ("queue: a\non_processed: a", vec!["a -> a"]),
        ("queue: a\non_processed: b\n---\nqueue: b\non_exception: {it: a}", vec!["a -> b -> a"]),
        (
            "queue: a\non_processed: b\n---\nqueue: b\non_processed: c\n---\nqueue: c\non_processed: b",
            vec!["b -> c -> b"],
        ),
        (
            "queue: a\non_processed: b\non_exception: {it: c}\n---\nqueue: b\non_processed: a\n---\nqueue: c\non_processed: a",
            vec!["a -> b -> a", "a -> c -> a"],
        ),
        // Two ways to one queue are no cycle.
        ("queue: a\non_processed: c\non_exception: {it: b}\n---\nqueue: b\non_processed: c\n---\nqueue: c", vec![]),
        ("defaults: {on_exception: {it: r}}\n---\nqueue: a\n---\nqueue: r", vec!["r -> r"]),
        ("defaults: {on_exception: {it: r}}\n---\nqueue: a\n---\nqueue: r\non_exception: {}", vec![]),
        ("defaults: {on_processed: r}\n---\nqueue: a\n---\nqueue: r\non_processed: none", vec![]),
    ] {
        assert_eq!(cycles(text), expected, "{text}");
    }
}

#[test]
fn a_very_long_chain_is_walked_and_named_in_short() {
    let text: String = (0..3_000).map(|n| format!("queue: q{n}\non_processed: q{}\n---\n", (n + 1) % 3_000)).collect();
    let definitions: Vec<(String, String)> =
        text.split("---\n").enumerate().map(|(n, text)| (format!("q/{n:05}.yaml"), text.to_owned())).collect();
    let files: Vec<(&str, &str)> = definitions.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let found = check(&sources(&files), &schemas).expect_err("it never ends");
    assert_eq!(found.len(), 1);
}
