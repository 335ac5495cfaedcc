//! Where a message in the intake goes.

use super::*;

fn definitions(queues: &[(&str, Lane)]) -> Definitions {
    let queues = queues.iter().map(|(key, lane)| {
        let definition = QueueDefinition { lane: *lane, ..QueueDefinition::with_defaults(key) };
        ((*key).to_owned(), Arc::new(definition))
    });
    Definitions { queues: queues.collect(), ..Definitions::default() }
}

#[test]
fn copies_go_to_managed_queues_and_unknown_keys_are_named() {
    let definitions = definitions(&[("a", Lane::Managed), ("b", Lane::Managed), ("d", Lane::Direct)]);
    let keys = |routing_key: &str, copies: &[&str]| {
        let copies: Vec<String> = copies.iter().map(ToString::to_string).collect();
        let (found, problem) = match destinations(&definitions, routing_key, &copies) {
            Ok(found) => (found, None),
            Err((found, problem)) => (found, Some(problem)),
        };
        let found: Vec<String> = found.iter().map(|definition| definition.key.clone()).collect();
        (found.join(" "), problem.is_some())
    };
    assert_eq!(keys("a", &[]), ("a".into(), false));
    assert_eq!(keys("a", &["b", "a"]), ("a b".into(), false));
    assert_eq!(keys("a", &["d"]), ("a".into(), false));
    assert_eq!(keys("d", &["b"]), ("b".into(), false));
    assert_eq!(keys("d", &[]), ("d".into(), false));
    assert_eq!(keys("a", &["nobody"]), ("a".into(), true));
    assert_eq!(keys("nobody", &[]), (String::new(), true));
}
