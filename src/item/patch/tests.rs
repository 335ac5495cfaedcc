//! The examples of RFC 6902 and RFC 7396, and what must not change on the way.

use super::*;

fn apply(document: &str, patch: &str) -> Result<String, Misfit> {
    let patch = Patch::read(patch).unwrap_or_else(|wrong| panic!("{patch}: {wrong:?}"));
    patch.apply(Node::read(document.as_bytes()).unwrap()).map(|node| node.write())
}

#[test]
fn the_examples_of_rfc_6902() {
    for (document, patch, expected) in [
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"foo":"bar","baz":"qux"}"#),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            r#"{"foo":["bar","qux","baz"]}"#,
        ),
        (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#),
        (r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            r#"{"baz":"boo","foo":"bar"}"#,
        ),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            r#"{"foo":["all","cows","eat","grass"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2.0}]"#,
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            r#"{"foo":"bar","child":{"grandchild":{}}}"#,
        ),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, r#"{"/":9,"~1":10}"#),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            r#"{"foo":["bar",["abc","def"]]}"#,
        ),
        (r#"{"a":1}"#, r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"a":1,"b":1}"#),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":[1]}]"#, "[1]"),
        (
            r#"{"a":{"b":1}}"#,
            r#"[{"op":"test","path":"/a","value":{"b":1}},{"op":"move","from":"/a","path":"/a"}]"#,
            r#"{"a":{"b":1}}"#,
        ),
    ] {
        assert_eq!(apply(document, patch).as_deref(), Ok(expected), "{document} {patch}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    for (document, patch, is_test, part) in [
        (
            r#"{"baz":"qux"}"#,
            r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
            true,
            r#"'/baz' for "bar", and there is "qux""#,
        ),
        (r#"{"a":"10"}"#, r#"[{"op":"test","path":"/a","value":10}]"#, true, "tests"),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/b","value":null}]"#, true, "there is nothing"),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, false, "'/baz/bat'"),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":1},{"op":"remove","path":"/b"}]"#, false, "operation 1"),
        (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/2","value":1}]"#, false, "'/a/2'"),
        (r#"{"a":[1]}"#, r#"[{"op":"remove","path":"/a/01"}]"#, false, "'/a/01'"),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a","path":"/a/c"}]"#, false, "into itself"),
    ] {
        let misfit = apply(document, patch).unwrap_err();
        assert!(misfit.is_test == is_test && misfit.text.contains(part), "{document} {patch}: {misfit:?}");
    }
}

#[test]
fn every_mistake_of_a_patch_is_told_at_once() {
    for (patch, mistakes) in [
        ("{}", 1),
        ("[", 1),
        ("[]", 1),
        (r#"[{"op":"spam","path":"/a"},{"op":"add","path":"a"},{"op":"copy","path":"/~2"},7]"#, 1 + 2 + 2 + 1),
    ] {
        assert_eq!(Patch::read(patch).unwrap_err().len(), mistakes, "{patch}: {:?}", Patch::read(patch));
    }
}

#[test]
fn what_is_not_touched_stays_as_it_was_written() {
    let document =
        r#" { "total" : 12.10, "id": 123456789012345678901234567890, "name":"B\u00f8 \"x\\\"", "b":1e2, "a" : [ ] } "#;
    let expected = r#"{"total":12.10,"id":123456789012345678901234567890,"name":"B\u00f8 \"x\\\"","b":1E3,"a":[]}"#;
    assert_eq!(apply(document, r#"[{"op":"replace","path":"/b","value":1E3}]"#).as_deref(), Ok(expected));
    let twice = r#"{"a":1,"a":2}"#;
    assert_eq!(apply(twice, r#"[{"op":"replace","path":"/a","value":3}]"#).as_deref(), Ok(r#"{"a":1,"a":3}"#));
    assert_eq!(apply(twice, r#"[{"op":"remove","path":"/a"}]"#).as_deref(), Ok("{}"));
}

#[test]
fn nothing_grows_or_nests_without_end() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    assert!(Node::read(deep.as_bytes()).unwrap_err().contains("levels"));
    let doubling: Vec<String> = (0..60).map(|n| format!(r#"{{"op":"copy","from":"","path":"/x{n}"}}"#)).collect();
    let misfit = apply(r#"{"a":"some text"}"#, &format!("[{}]", doubling.join(","))).unwrap_err();
    assert!(misfit.text.contains("grow") || misfit.text.contains("put at"), "{misfit:?}");
    let deeper: Vec<String> =
        (0..600).map(|n| format!(r#"{{"op":"add","path":"{}","value":[]}}"#, "/0".repeat(n))).collect();
    assert!(apply("[]", &format!("[{}]", deeper.join(","))).is_err());
}

#[test]
fn the_examples_of_rfc_7396() {
    for (document, patch, expected) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        let merged = Node::read(document.as_bytes()).unwrap().merged(&Node::read(patch.as_bytes()).unwrap());
        assert_eq!(merged.write(), expected, "{document} {patch}");
    }
}

#[test]
fn what_differs_is_told_by_place() {
    let read = |text: &str| Node::read(text.as_bytes()).unwrap();
    let (before, after) = (read(r#"{"a":1,"b":[1,2],"c/d":true}"#), read(r#"{"a":2,"b":[1],"e":{}}"#));
    let told: Vec<String> = before
        .differences(&after, 10)
        .into_iter()
        .map(|found| format!("{} {} {}", found.path, found.before.unwrap_or_default(), found.after.unwrap_or_default()))
        .collect();
    assert_eq!(told, ["/a 1 2", "/b/1 2 ", "/c~1d true ", "/e  {}"]);
    assert_eq!(before.differences(&after, 2).len(), 2);
    assert!(before.differences(&before, 2).is_empty());
}
