//! What makes two failures alike: kind, code, and the reason without what differs from item to item ([`super::fold`]).
//!
//! Not the queue: the same failure in two queues is one failure that affects both. Whoever keeps fingerprints keeps the queue
//! beside them.

use sha2::{Digest, Sha256};

use super::Kind;
use super::fold::fold;

/// Raised whenever the same failure would get another fingerprint than before: the mirror then folds anew what it holds.
pub const VERSION: u32 = 2;

/// The fingerprint of a failure, 16 hex digits: alike failures have the same, and others another.
#[must_use]
pub fn fingerprint(kind: Kind, code: Option<&str>, reason: Option<&str>) -> String {
    use std::fmt::Write as _;
    // These reasons are ours, and tell of the robot that had it last.
    let reason = reason.filter(|_| !matches!(kind, Kind::Timeout | Kind::Poison));
    // What the door refuses is at a place in the payload, written like a path in a file system.
    let reason = fold(reason.unwrap_or_default(), kind != Kind::Invalid);
    let parts = [kind.word(), code.unwrap_or_default(), &reason];
    // No part can have the byte that stands between them, so none can pass for two.
    let digest = Sha256::digest(parts.map(|part| part.replace('\0', " ")).join("\0"));
    digest.iter().take(8).fold(String::with_capacity(16), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_failures_have_the_same_and_others_another() {
        let one = fingerprint(Kind::It, Some("E1"), Some("no answer in 30 s"));
        assert_eq!(one.len(), 16);
        assert_eq!(one, fingerprint(Kind::It, Some("E1"), Some("No answer in 45 s")));
        for other in [
            fingerprint(Kind::Generic, Some("E1"), Some("no answer in 30 s")),
            fingerprint(Kind::It, Some("E2"), Some("no answer in 30 s")),
            fingerprint(Kind::It, None, Some("no answer in 30 s")),
            fingerprint(Kind::It, Some("E1"), Some("wrong password")),
            fingerprint(Kind::It, Some("E1"), None),
        ] {
            assert_ne!(one, other);
        }
        // Nothing at a border can pass for something else.
        assert_ne!(fingerprint(Kind::It, Some("E\0r"), None), fingerprint(Kind::It, Some("E"), Some("r")));
        let poison = |robot: &str| fingerprint(Kind::Poison, None, Some(&format!("the last known is {robot}")));
        assert_eq!(poison("ann"), poison("bob"), "whichever robot it was");
        // What only begins to differ far behind is alike.
        let long = |end: &str| fingerprint(Kind::It, None, Some(&format!("{}{end}", "x ".repeat(600))));
        assert_eq!(long("one"), long("another"));
    }

    #[test]
    fn the_places_of_a_refused_payload_are_told_apart() {
        let refused = |reason: &str| fingerprint(Kind::Invalid, Some("schema"), Some(reason));
        assert_eq!(refused("/customer/data.x: \"7\" is no number"), refused("/customer/data.x: \"ab\" is no number"));
        assert_ne!(refused("/customer/data.x: \"7\" is no number"), refused("/customer/data.y: \"7\" is no number"));
    }

    /// A change of this value asks for a new [`VERSION`]: mirrors hold it.
    #[test]
    fn what_mirrors_hold_stays_what_it_is() {
        assert_eq!(fingerprint(Kind::It, Some("E1"), Some("no answer of 10.0.0.1 in 30 s")), "ba6a1f9e3caeeabe");
    }
}
