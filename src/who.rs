//! Who may do what: roles, patterns of queues, and both together as rights. Values and decisions, nothing else.
//!
//! A role says what may be done, a pattern where. Both are needed: a worker of `hr-*` claims in `hr-leave` and sees nothing
//! of `invoices`. Revealing what a definition masks is a right of its own that no role brings along.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Characters of a token's name.
pub const LONGEST_NAME: usize = 64;

/// What a token's name may be, said to whoever wrote another.
pub const NAME_FORM: &str = "1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '@'";

/// Whether a token may be called that. No spaces: they set a name apart from what it says of others.
#[must_use]
pub fn is_token_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// Whether keys that vouch for somebody may come from there: over `https`, or from this machine.
#[must_use]
pub fn is_safe(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && here)
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Nothing: anybody may.
    Nothing,
    /// To see queues and items: whoever works with them has to.
    Items,
    /// To see everything else that is shown of work: failures, robots, figures, what is parked.
    Read,
    /// To put items in.
    Enqueue,
    /// To work on items: claim, report, keep, give back.
    Work,
    /// To decide over items and queues: every action, pause and resume.
    Operate,
    /// To decide over the daemon: definitions, tokens, webhooks, the audit log.
    Administer,
}

/// What somebody is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Producer,
    Worker,
    Operator,
    Admin,
}

impl Role {
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Producer, Self::Worker, Self::Operator, Self::Admin];
    pub const WORDS: &'static str = "viewer, producer, worker, operator, admin";

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Producer => "producer",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }

    /// Whether this role alone is enough.
    #[must_use]
    pub const fn grants(self, need: Need) -> bool {
        match (self, need) {
            (_, Need::Nothing | Need::Items) | (Self::Admin, _) => true,
            (_, Need::Administer) => false,
            (Self::Operator, _) => true,
            (Self::Viewer, need) => matches!(need, Need::Read),
            (Self::Producer, need) => matches!(need, Need::Enqueue),
            (Self::Worker, need) => matches!(need, Need::Work),
        }
    }
}

/// Keys of queues: letters, digits, `.`, `_` and `-` stand for themselves, `*` for any text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no pattern of queues; write keys like invoices or hr-*, of a-z, 0-9, '.', '_', '-' and '*'")]
pub struct NoPattern;

/// The longest pattern, in bytes: as long as the longest key.
const LONGEST_PATTERN: usize = 100;

impl FromStr for Pattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Self, NoPattern> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-*".contains(&c);
        let fits = !text.is_empty() && text.len() <= LONGEST_PATTERN && text.bytes().all(allowed);
        fits.then(|| Self(text.to_owned())).ok_or(NoPattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Every queue.
    #[must_use]
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    fn is_any(&self) -> bool {
        self.0.bytes().all(|c| c == b'*')
    }

    /// Whether this key is meant.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let (pattern, key) = (self.0.as_bytes(), key.as_bytes());
        let (mut p, mut k) = (0, 0);
        // Where the last `*` stood, and how far it reaches so far: it takes one more where the rest does not fit.
        let mut star = None;
        while k < key.len() {
            match (pattern.get(p), star) {
                (Some(b'*'), _) => {
                    star = Some((p, k));
                    p += 1;
                }
                (Some(c), _) if *c == key[k] => (p, k) = (p + 1, k + 1),
                (_, Some((at, reach))) => {
                    star = Some((at, reach + 1));
                    (p, k) = (at + 1, reach + 1);
                }
                _ => return false,
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

/// What somebody may do, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub roles: BTreeSet<Role>,
    /// Any of them; none is no queue at all.
    pub queues: Vec<Pattern>,
    /// May see what a definition masks.
    pub reveal: bool,
}

impl Rights {
    /// Everything, everywhere.
    #[must_use]
    pub fn all() -> Self {
        Self { roles: BTreeSet::from([Role::Admin]), queues: vec![Pattern::any()], reveal: true }
    }

    #[must_use]
    pub fn none() -> Self {
        Self { roles: BTreeSet::new(), queues: Vec::new(), reveal: false }
    }

    /// One of the roles is enough for this.
    #[must_use]
    pub fn grant(&self, need: Need) -> bool {
        need == Need::Nothing || self.roles.iter().any(|role| role.grants(need))
    }

    /// Every queue is meant, also those that nobody has defined yet.
    #[must_use]
    pub fn everywhere(&self) -> bool {
        self.queues.iter().any(Pattern::is_any)
    }

    /// This queue is meant.
    #[must_use]
    pub fn may(&self, queue: &str) -> bool {
        self.queues.iter().any(|pattern| pattern.matches(queue))
    }

    /// What makes no sense about them, for people.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.roles.is_empty() {
            faults.push(("roles", format!("roles is empty; name at least one of {}", Role::WORDS)));
        }
        if self.queues.is_empty() {
            faults.push(("queues", "queues is empty; name keys or patterns like hr-*, or * for all".to_owned()));
        } else if self.roles.contains(&Role::Admin) && !self.everywhere() {
            let why = "an admin decides over the whole daemon and cannot be limited to queues; give the role operator, \
                       or queues *";
            faults.push(("queues", why.to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_keys() {
        for (pattern, key, meant) in [
            ("invoices", "invoices", true),
            ("invoices", "invoices2", false),
            ("invoices", "invoice", false),
            ("hr-*", "hr-leave", true),
            ("hr-*", "hr-", true),
            ("hr-*", "hr", false),
            ("*", "", true),
            ("*", "anything", true),
            ("**", "anything", true),
            ("*-in", "a-in-in", true),
            ("*-in", "a-in-out", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a.c", "abc", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(key), meant, "{pattern} {key}");
        }
        for text in ["", "HR", "a b", "a/b", "a?", "ä", "a\0", "x".repeat(101).as_str()] {
            assert_eq!(text.parse::<Pattern>(), Err(NoPattern), "{text}");
        }
    }

    #[test]
    fn a_pattern_of_stars_does_not_take_for_ever() {
        let pattern: Pattern = "a*".repeat(50).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(49)));
        assert!(!pattern.matches(&format!("{}b", "b".repeat(1000))));
    }

    #[test]
    fn roles_grant_what_the_documents_say() {
        use Need::{Administer, Enqueue, Items, Nothing, Operate, Read, Work};
        let needs = [Nothing, Items, Read, Enqueue, Work, Operate, Administer];
        for (role, granted) in [
            (Role::Viewer, "1110000"),
            (Role::Producer, "1101000"),
            (Role::Worker, "1100100"),
            (Role::Operator, "1111110"),
            (Role::Admin, "1111111"),
        ] {
            for (need, expected) in needs.into_iter().zip(granted.chars()) {
                assert_eq!(role.grants(need), expected == '1', "{role:?} {need:?}");
            }
        }
        assert!(Rights::none().grant(Nothing) && !Rights::none().grant(Items) && !Rights::none().may("a"));
        assert!(Rights::all().grant(Administer) && Rights::all().everywhere() && Rights::all().faults().is_empty());
    }

    #[test]
    fn rights_that_make_no_sense_are_named_all_at_once() {
        let places = |rights: Rights| rights.faults().into_iter().map(|(place, _)| place).collect::<Vec<_>>();
        assert_eq!(places(Rights::none()), ["roles", "queues"]);
        let limited =
            |role| Rights { roles: BTreeSet::from([role]), queues: vec!["hr-*".parse().unwrap()], reveal: false };
        assert_eq!(places(limited(Role::Admin)), ["queues"]);
        assert_eq!(places(limited(Role::Operator)), [""; 0]);
    }

    #[test]
    fn keys_come_over_a_safe_way() {
        for (url, safe) in [
            ("https://login.example/", true),
            ("http://127.0.0.1:1/", true),
            ("http://localhost/", true),
            ("http://login.example/", false),
            ("http://localhost.example/", false),
            ("file:///etc/passwd", false),
            ("x", false),
        ] {
            assert_eq!(Url::parse(url).is_ok_and(|url| is_safe(&url)), safe, "{url}");
        }
    }

    #[test]
    fn a_tokens_name_has_no_spaces() {
        for (name, fits) in [("flow", true), ("a.b_c-d@e", true), ("", false), ("a b", false), ("\u{e9}", false)] {
            assert_eq!(is_token_name(name), fits, "{name}");
        }
        assert!(is_token_name(&"x".repeat(64)) && !is_token_name(&"x".repeat(65)));
    }
}
