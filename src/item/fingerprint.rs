//! What makes two failures alike: queue, kind, code, and the reason without what differs from item to item.

use sha2::{Digest, Sha256};

use super::Kind;

/// Characters of a reason that are looked at: what comes after is a stack trace, or somebody's data.
const LOOKED_AT: usize = 1_000;

/// The fingerprint of a failure, 16 hex digits: alike failures of one queue have the same, and others another.
#[must_use]
pub fn fingerprint(queue: &str, kind: Kind, code: Option<&str>, reason: Option<&str>) -> String {
    use std::fmt::Write as _;
    // These reasons are ours, and tell of the robot that had it last.
    let reason = reason.filter(|_| !matches!(kind, Kind::Timeout | Kind::Poison));
    let parts = [queue, kind.word(), code.unwrap_or_default(), &normal(reason.unwrap_or_default())];
    // No part can have the byte that stands between them, so none can pass for two.
    let digest = Sha256::digest(parts.map(|part| part.replace('\0', " ")).join("\0"));
    digest.iter().take(8).fold(String::with_capacity(16), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A reason without what differs from item to item: words with a digit (numbers, times, ids, addresses) are one `#`
/// each, and so are several that nothing but punctuation parts.
fn normal(reason: &str) -> String {
    let looked_at: String = reason.chars().take(LOOKED_AT).flat_map(char::to_lowercase).collect();
    let mut text = String::with_capacity(looked_at.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let mut rest = looked_at.as_str();
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|c| is_word(c) != in_word).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        if !in_word {
            // However it is spaced or broken into lines.
            let spaced = part.split_whitespace().collect::<Vec<_>>().join(" ");
            let (before, behind) = (part.starts_with(char::is_whitespace), part.ends_with(char::is_whitespace));
            text.push_str(if before { " " } else { "" });
            text.push_str(&spaced);
            text.push_str(if behind && !spaced.is_empty() { " " } else { "" });
        } else if part.contains(|c: char| c.is_numeric()) {
            // `10.0.0.1`, `12:30:05.5`, `a/1/2`: one thing.
            let joined = text.trim_end_matches(['.', ',', ':', '/', '+']);
            if joined.ends_with('#') {
                text.truncate(joined.len());
            } else {
                text.push('#');
            }
        } else {
            text.push_str(part);
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_item_to_item_is_left_out() {
        for (reason, expected) in [
            ("", ""),
            ("SAP is down", "sap is down"),
            ("Timeout after 30 s", "timeout after # s"),
            ("no answer of 10.0.0.17:8080 at 12:30:05.123", "no answer of # at #"),
            ("vendor 4711, 4712 are locked", "vendor #, # are locked"),
            ("item 018f3a6e-7d3b-7a10-beef-cafebabe0001 is gone", "item # is gone"),
            ("host srv-12 (eu) said: 503", "host # (eu) said: #"),
            ("a\n  broken\tline ", "a broken line"),
            ("retry-after was given", "retry-after was given"),
            ("Følgeseddel 7 mangler", "følgeseddel # mangler"),
            ("٣ items", "# items"),
        ] {
            assert_eq!(normal(reason), expected, "{reason}");
        }
    }

    #[test]
    fn alike_failures_have_the_same_and_others_another() {
        let one = fingerprint("a", Kind::It, Some("E1"), Some("no answer in 30 s"));
        assert_eq!(one.len(), 16);
        assert_eq!(one, fingerprint("a", Kind::It, Some("E1"), Some("No answer in 45 s")));
        for other in [
            fingerprint("b", Kind::It, Some("E1"), Some("no answer in 30 s")),
            fingerprint("a", Kind::Generic, Some("E1"), Some("no answer in 30 s")),
            fingerprint("a", Kind::It, Some("E2"), Some("no answer in 30 s")),
            fingerprint("a", Kind::It, None, Some("no answer in 30 s")),
            fingerprint("a", Kind::It, Some("E1"), Some("wrong password")),
            fingerprint("a", Kind::It, Some("E1"), None),
        ] {
            assert_ne!(one, other);
        }
        // Nothing at a border can pass for something else.
        assert_ne!(fingerprint("a", Kind::It, Some("E\0r"), None), fingerprint("a", Kind::It, Some("E"), Some("r")));
        let poison = |robot: &str| fingerprint("a", Kind::Poison, None, Some(&format!("the last known is {robot}")));
        assert_eq!(poison("ann"), poison("bob"), "whichever robot it was");
        // What only begins to differ far behind is alike.
        let long = |end: &str| fingerprint("a", Kind::It, None, Some(&format!("{}{end}", "x ".repeat(600))));
        assert_eq!(long("one"), long("another"));
    }
}
