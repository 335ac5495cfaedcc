//! What of a payload is shown to whom may not see all of it: everything but the values at the paths that a definition names.
//!
//! A path is a JSON Pointer in which `*` stands for every element or key: `/customer/iban`, `/lines/*/price`. A value at such a
//! path is replaced whole by [`MARK`], so that not even its type is told; what is not there stays absent. All else is shown as it
//! was written, digit by digit. What is no JSON has no paths, so nothing of it is shown.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::definition::QueueDefinition;

/// What stands where a value is hidden.
pub const MARK: &str = "[masked]";

/// What may be shown of a payload without the right to reveal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// All of it: the queue hides nothing.
    Whole,
    /// JSON with hidden values replaced, also where there was none to hide.
    Part(Vec<u8>),
    /// Nothing: it is no JSON object or list, so nobody knows what stands where.
    Nothing,
}

/// What may be shown of a payload of a queue: whoever shows one asks here. Of a queue that nobody defines any more nobody knows
/// what it hid, so nothing of it is.
#[must_use]
pub fn masked(definition: Option<&QueueDefinition>, payload: &[u8], reveal: bool) -> Shown {
    match definition {
        _ if reveal => Shown::Whole,
        Some(definition) => mask(payload, &definition.mask),
        None => Shown::Nothing,
    }
}

/// What may be shown of a payload in whose queue these paths are hidden.
#[must_use]
pub fn mask(body: &[u8], paths: &[String]) -> Shown {
    if paths.is_empty() {
        return Shown::Whole;
    }
    let steps: Vec<Vec<String>> = paths.iter().map(|path| steps(path)).collect();
    let open: Vec<&[String]> = steps.iter().map(Vec::as_slice).collect();
    let Ok(text) = std::str::from_utf8(body) else { return Shown::Nothing };
    let mut out = String::with_capacity(text.len());
    // Values are passed over without recursion, and paths are short.
    match serde_json::from_str::<&RawValue>(text) {
        // A number alone may be any text.
        Ok(raw) if !raw.get().starts_with(['{', '[']) => Shown::Nothing,
        Ok(raw) if write(raw.get(), &open, &mut out).is_some() => Shown::Part(out.into_bytes()),
        _ => Shown::Nothing,
    }
}

/// Whether what is at this place, a JSON Pointer into a payload, is hidden, or holds what is: then no message may tell of it.
#[must_use]
pub fn touches(place: &str, paths: &[String]) -> bool {
    let place = steps(place);
    paths.iter().any(|path| steps(path).iter().zip(&place).all(|(step, at)| step == "*" || step == at))
}

/// What of a place may be told: at or below a hidden path no more than the path itself, for keys may be what is to be hidden.
#[must_use]
pub fn open_part<'p>(place: &'p str, paths: &[String]) -> &'p str {
    let at = steps(place);
    let hidden = |path: &String| {
        let path = steps(path);
        let is_below = path.len() <= at.len() && path.iter().zip(&at).all(|(step, at)| step == "*" || step == at);
        is_below.then_some(path.len())
    };
    let Some(length) = paths.iter().filter_map(hidden).min() else { return place };
    let end = place.match_indices('/').nth(length).map_or(place.len(), |(end, _)| end);
    &place[..end]
}

fn steps(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

/// Writes a value without what is at these paths in it. `None` where it cannot be read.
fn write(raw: &str, open: &[&[String]], out: &mut String) -> Option<()> {
    match raw.as_bytes().first()? {
        b'{' => {
            let members: Members<'_> = serde_json::from_str(raw).ok()?;
            out.push('{');
            for (index, (key, name, value)) in members.0.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(key);
                out.push(':');
                go_on(value.get(), open, |step| step == "*" || step == name, out)?;
            }
            out.push('}');
        }
        // What is to be hidden may lie in an element, or be written in the text: of another shape than was thought of.
        b'[' if !open
            .iter()
            .any(|path| path.first().is_some_and(|step| step == "*" || step.parse::<usize>().is_ok())) =>
        {
            hide(out);
        }
        b'"' => hide(out),
        b'[' => {
            let elements: Elements<'_> = serde_json::from_str(raw).ok()?;
            out.push('[');
            for (index, value) in elements.0.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                let number = index.to_string();
                go_on(value.get(), open, |step| step == "*" || *step == number, out)?;
            }
            out.push(']');
        }
        _ => out.push_str(raw),
    }
    Some(())
}

fn hide(out: &mut String) {
    out.push('"');
    out.push_str(MARK);
    out.push('"');
}

/// Writes what lies one step deeper.
fn go_on(raw: &str, open: &[&[String]], is_here: impl Fn(&String) -> bool, out: &mut String) -> Option<()> {
    let deeper: Vec<&[String]> = open
        .iter()
        .filter_map(|path| path.split_first())
        .filter(|(step, _)| is_here(step))
        .map(|(_, rest)| rest)
        .collect();
    if deeper.iter().any(|rest| rest.is_empty()) {
        hide(out);
        return Some(());
    }
    if deeper.is_empty() {
        out.push_str(raw);
        return Some(());
    }
    write(raw, &deeper, out)
}

/// An object's members as they are written, repeated ones too: each as its key with its marks, its name, and its value.
struct Members<'a>(Vec<(&'a str, String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    let name = serde_json::from_str(key.get()).map_err(serde::de::Error::custom)?;
                    members.push((key.get(), name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Elements<'de>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }

        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn where_nobody_knows_what_is_hidden_nothing_is_shown() {
        let open = QueueDefinition::with_defaults("q");
        let hiding = QueueDefinition { mask: vec!["/a".to_owned()], ..open.clone() };
        for (definition, payload, reveal, expected) in [
            (Some(&open), "x", false, Shown::Whole),
            (Some(&hiding), "x", false, Shown::Nothing),
            (Some(&hiding), "{\"a\":1}", false, Shown::Part(b"{\"a\":\"[masked]\"}".to_vec())),
            (Some(&hiding), "{\"a\":1}", true, Shown::Whole),
            (None, "{}", false, Shown::Nothing),
            (None, "{}", true, Shown::Whole),
        ] {
            assert_eq!(super::masked(definition, payload.as_bytes(), reveal), expected);
        }
    }

    fn masked(body: &str, hidden: &[&str]) -> String {
        match mask(body.as_bytes(), &paths(hidden)) {
            Shown::Whole => "whole".to_owned(),
            Shown::Part(part) => String::from_utf8(part).unwrap(),
            Shown::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn values_at_the_paths_are_hidden_and_all_else_is_as_written() {
        for (body, hidden, expected) in [
            (r#"{"a": 1}"#, &[][..], "whole"),
            ("not json", &[], "whole"),
            (
                r#"{"iban": "NO93", "n": 12345678901234567890.10}"#,
                &["/iban"],
                r#"{"iban":"[masked]","n":12345678901234567890.10}"#,
            ),
            (r#"{"a": {"b": {"c": [1]}}}"#, &["/a/b"], r#"{"a":{"b":"[masked]"}}"#),
            (r#"{"a": null, "b": true}"#, &["/a", "/b"], r#"{"a":"[masked]","b":"[masked]"}"#),
            (
                r#"{"lines": [{"price": 1, "n": 2}, {"n": 3}, 4]}"#,
                &["/lines/*/price"],
                r#"{"lines":[{"price":"[masked]","n":2},{"n":3},4]}"#,
            ),
            (r#"{"lines": [1, 2, 3]}"#, &["/lines/1"], r#"{"lines":[1,"[masked]",3]}"#),
            (r#"{"0": 1, "1": {"x": 2}}"#, &["/0", "/*/x"], r#"{"0":"[masked]","1":{"x":"[masked]"}}"#),
            (r#"[{"a": 1}]"#, &["/*/a"], r#"[{"a":"[masked]"}]"#),
            // Written twice, or with an escape: hidden each time, for readers differ in which one counts.
            (r#"{"a": 1, "a": 2, "\u0061": 3}"#, &["/a"], r#"{"a":"[masked]","a":"[masked]","\u0061":"[masked]"}"#),
            (r#"{"a/b": 1, "m~n": 2}"#, &["/a~1b", "/m~0n"], r#"{"a/b":"[masked]","m~n":"[masked]"}"#),
            // The wider path counts.
            (r#"{"a": {"b": 1, "c": 2}}"#, &["/a/b", "/a"], r#"{"a":"[masked]"}"#),
            (r#"{"a": {"b": 1, "c": 2}}"#, &["/*/b", "/a/c"], r#"{"a":{"b":"[masked]","c":"[masked]"}}"#),
            // Nothing is there to be hidden.
            (r#"{"A": 1, "b": 2}"#, &["/a", "/b/c"], r#"{"A":1,"b": 2}"#),
            // Another shape than was thought of.
            (r#""text""#, &["/a"], "nothing"),
            ("11019912345", &["/a"], "nothing"),
            (r#"{"a": "{\"b\": 1}", "c": 1}"#, &["/a/b"], r#"{"a":"[masked]","c":1}"#),
            (r#"[{"a": 1}]"#, &["/a"], r#""[masked]""#),
            (r#"{"a": [{"b": 1}], "c": [2]}"#, &["/a/b"], r#"{"a":"[masked]","c":[2]}"#),
            // Whatever cannot be read.
            ("not json", &["/a"], "nothing"),
            ("", &["/a"], "nothing"),
            (r#"{"a": 1"#, &["/a"], "nothing"),
            (r#"{"a": 1} {"a": 2}"#, &["/b"], "nothing"),
            ("\u{feff}{\"a\": 1}", &["/a"], "nothing"),
        ] {
            let expected = expected.replace("\"b\": 2}", "\"b\":2}");
            assert_eq!(masked(body, hidden), expected, "{body} {hidden:?}");
        }
        assert_eq!(mask(b"{\"a\": \"\xff\"}", &paths(&["/b"])), Shown::Nothing);
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(masked(&deep, &["/0"]), r#"["[masked]"]"#, "however deep it is nested");
    }

    #[test]
    fn keys_below_what_is_hidden_are_not_told() {
        let hidden = paths(&["/accounts", "/lines/*/price"]);
        for (place, open) in [
            ("", ""),
            ("/name", "/name"),
            ("/accounts", "/accounts"),
            ("/accounts/NO93/x", "/accounts"),
            ("/lines/3", "/lines/3"),
            ("/lines/3/price/y", "/lines/3/price"),
        ] {
            assert_eq!(open_part(place, &hidden), open);
        }
    }

    #[test]
    fn places_on_the_way_to_what_is_hidden_tell_nothing() {
        let hidden = paths(&["/customer/iban", "/lines/*/price"]);
        for (place, expected) in [
            ("", true),
            ("/customer", true),
            ("/customer/iban", true),
            ("/customer/iban/x", true),
            ("/customer/name", false),
            ("/lines/3/price", true),
            ("/lines/3", true),
            ("/lines/3/n", false),
        ] {
            assert_eq!(touches(place, &hidden), expected, "{place}");
        }
        assert!(!touches("", &[]));
    }

    proptest! {
        #[test]
        fn a_secret_is_never_shown(key in "[a-z~/\"\\\\\u{e5}]{1,6}", before in any::<Option<u32>>(), in_list in any::<bool>()) {
            let secret = "s3cr3t";
            let object = serde_json::json!({ "before": before, key.clone(): [secret, {"deep": secret}], "z": 1 });
            let (body, pointer) = if in_list { (serde_json::json!([object]), "/*") } else { (object, "") };
            let path = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            match mask(body.to_string().as_bytes(), &[path]) {
                Shown::Part(part) => {
                    let part = String::from_utf8(part).unwrap();
                    prop_assert!(!part.contains(secret), "{part}");
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&part).is_ok(), "{part}");
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
