//! What somebody who listens wants to hear: patterns for the types of events, and for the keys of queues.
//!
//! In a pattern `*` stands for any run of characters, dots as well. No pattern at all is every event.

use super::event::Event;

/// Every type of event there is, as docs/events.md lists them. What begins with `item.exception.` ends with a kind.
pub const TYPES: &[&str] = &[
    "item.queued",
    "item.processing",
    "item.processed",
    "item.exception.business",
    "item.exception.it",
    "item.exception.generic",
    "item.exception.timeout",
    "item.exception.expired",
    "item.exception.poison",
    "item.exception.invalid",
    "item.exception.duplicate",
    "item.exception.missing",
    "item.exception.unreported",
    "item.on_hold",
    "item.cancelled",
    "item.retry",
    "item.edited",
    "item.request_refused",
    "item.ignored_header",
    "control.revision",
    "control.action_done",
    "control.action_stopped",
    "control.action_cancelled",
    "control.drift",
    "control.webhook_paused",
    "queue.paused",
    "queue.resumed",
    "queue.breaker_opened",
    "queue.breaker_closed",
    "queue.migrating",
    "queue.migrated",
    "queue.migration_rolled_back",
    "queue.redispatched",
    "queue.nack_loop",
    "queue.deleted",
    "sla.at_risk",
    "sla.late",
];

/// The longest pattern, in characters.
const LONGEST: usize = 120;

/// What somebody wants to hear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Of these types; empty: of all.
    pub types: Vec<String>,
    /// About these queues; empty: about all, and what is about no queue.
    pub queues: Vec<String>,
}

impl Wish {
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let of_type = self.types.is_empty() || self.types.iter().any(|pattern| fits(pattern, &event.kind));
        let of_queue = self.queues.is_empty()
            || event.queue.as_ref().is_some_and(|queue| self.queues.iter().any(|pattern| fits(pattern, queue)));
        of_type && of_queue
    }
}

/// Whether the whole text is as the pattern says.
#[must_use]
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Behind the last `*`, and how far of the text it stands for by now.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
        } else if pattern.get(at) == Some(&text[read]) {
            at += 1;
            read += 1;
        } else if let Some((behind, taken)) = star {
            star = Some((behind, taken + 1));
            at = behind;
            read = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// What is wrong with a pattern for types: one that fits no type there is would be silence.
#[must_use]
pub fn wrong_type(pattern: &str) -> Option<String> {
    if pattern.chars().count() <= LONGEST && TYPES.iter().any(|kind| fits(pattern, kind)) {
        return None;
    }
    let shown: String = pattern.chars().take(LONGEST).collect();
    Some(format!("'{shown}' fits no type of event; there are {}", TYPES.join(", ")))
}

/// What is wrong with a pattern for keys of queues.
#[must_use]
pub fn wrong_queue(pattern: &str) -> Option<String> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '*');
    if !pattern.is_empty() && pattern.chars().count() <= LONGEST && pattern.chars().all(valid) {
        return None;
    }
    let shown: String = pattern.chars().take(LONGEST).collect();
    Some(format!("'{shown}' can be no queue's key: lower-case letters, digits, '-', '_', '.', and * for any of them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Timestamp;

    #[test]
    fn what_a_star_stands_for() {
        for (pattern, text, expected) in [
            ("item.exception.*", "item.exception.it", true),
            ("item.exception.*", "item.exception", false),
            ("item.*", "item.exception.it", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*b", "ab", true),
            ("*b", "abc", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("**", "x", true),
            ("*.late", "sla.late", true),
            ("*a*a*a*a*a*a*a*b", &"a".repeat(60), false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn who_hears_what() {
        let event = |kind: &str, queue: Option<&str>| Event {
            id: String::new(),
            kind: kind.to_owned(),
            queue: queue.map(str::to_owned),
            subject: None,
            at: Timestamp::UNIX_EPOCH,
            body: "{}".to_owned(),
        };
        let late = event("sla.late", Some("a.b"));
        let drift = event("control.drift", None);
        for (types, queues, expected) in [
            (&[][..], &[][..], (true, true)),
            (&["sla.*"], &[], (true, false)),
            (&["control.*", "sla.late"], &[], (true, true)),
            (&[], &["a.*"], (true, false)),
            (&[], &["b"], (false, false)),
            (&["item.*"], &["a.b"], (false, false)),
            // What is about no queue is heard by who asked for no queue.
            (&[], &["*"], (true, false)),
        ] {
            let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
            let wish = Wish { types: list(types), queues: list(queues) };
            assert_eq!((wish.wants(&late), wish.wants(&drift)), expected, "{wish:?}");
        }
    }

    #[test]
    fn a_pattern_that_would_be_silence_is_wrong() {
        let stars = "*".repeat(LONGEST + 1);
        let stars = stars.as_str();
        for (pattern, right) in
            [("item.*", true), ("*", true), ("item.exeption.*", false), ("", false), ("sla.late", true), (stars, false)]
        {
            assert_eq!(wrong_type(pattern).is_none(), right, "{pattern}");
        }
        for (pattern, right) in [("a.*", true), ("*", true), ("", false), ("A", false), ("a b", false)] {
            assert_eq!(wrong_queue(pattern).is_none(), right, "{pattern}");
        }
    }

    /// Of the table in docs/events.md: `item.queued.<key>`, `item.exception.<kind>.<key>`, `control.a`, `.b`.
    #[test]
    fn the_types_are_those_of_the_documents() {
        let text = include_str!("../../docs/events.md");
        let rows = text.lines().skip_while(|line| !line.starts_with("| routing key")).skip(2);
        let mut told = std::collections::BTreeSet::new();
        for row in rows.take_while(|line| line.starts_with('|')) {
            let column = row.trim_start_matches('|').split('|').next().unwrap();
            let mut domain = String::new();
            for name in column.split('`').skip(1).step_by(2) {
                let name = name.trim_end_matches(".<key>");
                match name.split_once('.').unwrap() {
                    ("", rest) => drop(told.insert(format!("{domain}.{rest}"))),
                    (of, "exception.<kind>") => {
                        told.extend(crate::item::Kind::ALL.iter().map(|kind| format!("{of}.exception.{kind}")));
                    }
                    (of, _) => {
                        of.clone_into(&mut domain);
                        told.insert(name.to_owned());
                    }
                }
            }
        }
        assert_eq!(told, TYPES.iter().map(ToString::to_string).collect());
    }
}
