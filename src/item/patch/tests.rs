//! The examples of RFC 6902 and RFC 7396, and what must not change on the way.

use super::*;

fn apply(document: &str, patch: &str) -> Result<String, Misfit> {
    let patch = Patch::read(patch).unwrap_or_else(|wrong| panic!("{patch}: {wrong:?}"));
    let mut document = Node::read(document.as_bytes()).unwrap();
    patch.apply(&mut document, None).map(|()| document.write())
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
    for (document, patch, cause, part) in [
        (
            r#"{"baz":"qux"}"#,
            r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
            Cause::Test,
            r#"'/baz' for "bar", and there is "qux""#,
        ),
        (r#"{"a":"10"}"#, r#"[{"op":"test","path":"/a","value":10}]"#, Cause::Test, "tests"),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/b","value":null}]"#, Cause::Test, "there is nothing"),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, Cause::Unfit, "'/baz/bat'"),
        (
            r#"{"a":1}"#,
            r#"[{"op":"test","path":"/a","value":1},{"op":"remove","path":"/b"}]"#,
            Cause::Unfit,
            "operation 1",
        ),
        (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/2","value":1}]"#, Cause::Unfit, "'/a/2'"),
        (r#"{"a":[1]}"#, r#"[{"op":"remove","path":"/a/01"}]"#, Cause::Unfit, "'/a/01'"),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a","path":"/a/c"}]"#, Cause::Unfit, "into itself"),
    ] {
        let misfit = apply(document, patch).unwrap_err();
        assert!(misfit.cause == cause && misfit.text.contains(part), "{document} {patch}: {misfit:?}");
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
    // However it is put: one at a time, or as much as a patch may have at ever deeper places.
    let op = |op: &str, path: &str, value: &str| format!(r#"{{"op":"{op}","path":"{path}","value":{value}}}"#);
    let one_by_one: Vec<String> = (0..600).map(|n| op("add", &"/0".repeat(n), "[]")).collect();
    let nested = format!("{}1{}", "{\"\":".repeat(120), "}".repeat(120));
    let replaced: Vec<String> = (0..100).map(|n| op("replace", &"/".repeat(120 * n), &nested)).collect();
    let moved = [
        op("replace", "/a", &nested),
        op("add", "/b", &nested),
        format!(r#"{{"op":"move","from":"/a","path":"/b{}"}}"#, "/".repeat(119)),
    ];
    for (document, patch) in [("[]", one_by_one.as_slice()), ("1", &replaced), (r#"{"a":1}"#, &moved)] {
        let misfit = apply(document, &format!("[{}]", patch.join(","))).unwrap_err();
        assert!(misfit.cause == Cause::Unfit && misfit.text.contains("put at"), "{misfit:?}");
    }
    let as_deep_as_can_be = apply("1", &format!("[{}]", op("replace", "", &nested))).unwrap();
    assert!(Node::read(as_deep_as_can_be.as_bytes()).is_ok());
}

#[test]
fn a_patch_tells_nothing_of_what_is_hidden() {
    use crate::item::mask::{Shown, mask};

    let body = r#"{"pin":1,"accounts":{"NO93":5},"lines":[{"price":7,"n":1},{"n":2}],"open":"x"}"#;
    let hidden: Vec<String> = ["/pin", "/accounts", "/lines/*/price"].map(str::to_owned).into();
    let numbered = vec!["/lines/1".to_owned()];
    let apply = |patch: &str, body: &str, paths: &[String]| {
        let Shown::Part(part) = mask(body.as_bytes(), paths) else { panic!("{body}") };
        let mut veil = Veil::of(Node::read(&part).unwrap(), paths);
        let mut document = Node::read(body.as_bytes()).unwrap();
        let applied = Patch::read(patch).unwrap().apply(&mut document, Some(&mut veil));
        applied.map(|()| veil.document.write()).map_err(|misfit| misfit.cause)
    };
    for patch in [
        r#"[{"op":"test","path":"/pin","value":1}]"#,
        r#"[{"op":"test","path":"","value":1}]"#,
        r#"[{"op":"test","path":"/lines/0","value":1}]"#,
        r#"[{"op":"copy","from":"/lines","path":"/x"}]"#,
        r#"[{"op":"move","from":"/pin","path":"/x"}]"#,
        // Which keys there are below, and of what type they are.
        r#"[{"op":"replace","path":"/accounts/NO93","value":1}]"#,
        r#"[{"op":"remove","path":"/accounts/NO94"}]"#,
        r#"[{"op":"add","path":"/accounts/x","value":1}]"#,
        r#"[{"op":"add","path":"/pin/-","value":1}]"#,
        r#"[{"op":"test","path":"/accounts/NO94","value":1}]"#,
        r#"[{"op":"copy","from":"/open","path":"/accounts/x"}]"#,
    ] {
        assert_eq!(apply(patch, body, &hidden), Err(Cause::Masked), "{patch}");
    }
    for (patch, cause) in [
        (r#"[{"op":"test","path":"/open","value":"y"}]"#, Cause::Test),
        (r#"[{"op":"remove","path":"/absent/x"}]"#, Cause::Unfit),
    ] {
        assert_eq!(apply(patch, body, &hidden), Err(cause), "{patch}");
    }
    // What the patch brought itself is no secret of the document.
    let patch = r#"[{"op":"replace","path":"/pin","value":2},{"op":"test","path":"/pin","value":2},
        {"op":"test","path":"/lines/1","value":{"n":2}},{"op":"remove","path":"/lines/0"},{"op":"remove","path":"/accounts"}]"#;
    assert_eq!(apply(patch, body, &hidden).unwrap(), r#"{"pin":2,"lines":[{"n":2}],"open":"x"}"#);
    // Another number would show it.
    for patch in [r#"[{"op":"add","path":"/lines/0","value":1}]"#, r#"[{"op":"remove","path":"/lines/0"}]"#] {
        assert_eq!(apply(patch, body, &numbered), Err(Cause::Masked), "{patch}");
    }
    // Of another shape than was thought of: the list is hidden whole.
    let list = r#"[{"pin":1}]"#;
    let shown = mask(list.as_bytes(), &hidden[..1]);
    assert_eq!(shown, Shown::Part(br#""[masked]""#.to_vec()));
    for patch in [r#"[{"op":"test","path":"/0","value":{"pin":1}}]"#, r#"[{"op":"remove","path":"/0/pin"}]"#] {
        assert_eq!(apply(patch, list, &hidden[..1]), Err(Cause::Masked), "{patch}");
    }
}

#[test]
fn fifty_thousand_members_take_no_longer_than_they_have_to() {
    let many = |value: &str| {
        let members: Vec<String> = (0..50_000).map(|n| format!(r#""{n}":{value}"#)).collect();
        Node::read(format!("{{{}}}", members.join(",")).as_bytes()).unwrap()
    };
    let (one, two) = (many("1"), many("2"));
    // Looked for one by one this is a matter of minutes.
    let began = std::time::Instant::now();
    let merged = Node::read(b"{}").unwrap().merged(&one).merged(&two);
    assert_eq!(merged, two);
    assert_eq!(merged.clone().merged(&many("null")).write(), "{}");
    assert!(merged.means(&two) && !merged.means(&one));
    assert_eq!(one.differences(&two, 3).len(), 3);
    assert_eq!(one.differences(&two, usize::MAX).len(), 50_000);
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
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
        // Members that stand twice: the last one counts, here and there.
        (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":4,"c":5,"d":null,"c":6}"#, r#"{"a":1,"b":2,"a":4,"c":6}"#),
        (r#"{"a":1,"a":3}"#, r#"{"a":null}"#, "{}"),
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
