//! Where a page ended, as text that a client only carries back.
//!
//! A cursor is the sort key and number of the page's last row with a checksum, in hex. The checksum is no secret: it
//! finds cursors that were cut, altered or meant for another list, so that they are refused and not misread. Whoever
//! forges a valid one can do no more than start a page elsewhere.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// The order of a list of items. Ties go by admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Last admitted first.
    #[default]
    Newest,
    /// First admitted first.
    Oldest,
    /// Highest priority first, then oldest.
    Priority,
    /// Earliest `due_at` first, those without one last, then oldest.
    Due,
}

impl Sort {
    pub const ALL: [Self; 4] = [Self::Newest, Self::Oldest, Self::Priority, Self::Due];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Priority => "priority",
            Self::Due => "due",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.word() == word)
    }
}

/// Behind which item a page starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemCursor {
    /// The order it belongs to.
    pub(super) sort: Sort,
    /// Priority or due time of that item; `None` where the order has no key besides admission, or the item no due time.
    pub(super) key: Option<i64>,
    pub(super) seq: i64,
}

impl ItemCursor {
    /// The order of the list it was handed out for; the next page has to ask for the same.
    #[must_use]
    pub const fn sort(&self) -> Sort {
        self.sort
    }
}

/// Behind which parked message a page starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedCursor(pub(super) i64);

/// A cursor that is a number alone, and the name of its list.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident, $list:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub(super) i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&seal(&format!(concat!($list, ":{}"), self.0)))
            }
        }

        impl FromStr for $name {
            type Err = BadCursor;

            fn from_str(text: &str) -> Result<Self, BadCursor> {
                let text = unseal(text).ok_or(BadCursor)?;
                let seq = text.strip_prefix(concat!($list, ":")).ok_or(BadCursor)?;
                seq.parse().map(Self).map_err(|_| BadCursor)
            }
        }
    };
}

numbered! {
    /// Behind which job a page starts.
    ActionCursor, "actions"
}
numbered! {
    /// Behind which item of a job a page starts.
    ResultCursor, "results"
}

/// The text is no cursor of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor that this list handed out")]
pub struct BadCursor;

impl fmt::Display for ItemCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.map(|key| key.to_string()).unwrap_or_default();
        f.write_str(&seal(&format!("items:{}:{key}:{}", self.sort.word(), self.seq)))
    }
}

impl FromStr for ItemCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let text = unseal(text).ok_or(BadCursor)?;
        let parts: Vec<&str> = text.split(':').collect();
        let ["items", sort, key, seq] = parts[..] else { return Err(BadCursor) };
        let sort = Sort::from_word(sort).ok_or(BadCursor)?;
        let key = match (sort, key) {
            (Sort::Newest | Sort::Oldest | Sort::Due, "") => None,
            (Sort::Priority | Sort::Due, key) => Some(key.parse().map_err(|_| BadCursor)?),
            _ => return Err(BadCursor),
        };
        Ok(Self { sort, key, seq: seq.parse().map_err(|_| BadCursor)? })
    }
}

impl fmt::Display for ParkedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&seal(&format!("parked:{}", self.0)))
    }
}

impl FromStr for ParkedCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let text = unseal(text).ok_or(BadCursor)?;
        let seq = text.strip_prefix("parked:").ok_or(BadCursor)?;
        seq.parse().map(Self).map_err(|_| BadCursor)
    }
}

/// Bytes of the SHA-256 in front of the text.
const CHECKSUM: usize = 4;

pub(super) fn seal(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(CHECKSUM).chain(text.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unseal(cursor: &str) -> Option<String> {
    // The longest holds a robot's name; a limit keeps a hostile one from being worked on at all.
    if !cursor.is_ascii() || cursor.len() > 2_000 || !cursor.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..cursor.len()).step_by(2).map(|at| u8::from_str_radix(cursor.get(at..at + 2)?, 16).ok()).collect();
    let bytes = bytes?;
    let (checksum, text) = bytes.split_at_checked(CHECKSUM)?;
    let text = std::str::from_utf8(text).ok()?;
    (Sha256::digest(text)[..CHECKSUM] == *checksum).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cursors_come_back_as_they_went_out() {
        for cursor in [
            ItemCursor { sort: Sort::Newest, key: None, seq: 7 },
            ItemCursor { sort: Sort::Priority, key: Some(31), seq: i64::MAX },
            ItemCursor { sort: Sort::Due, key: Some(-5), seq: 1 },
            ItemCursor { sort: Sort::Due, key: None, seq: 1 },
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!(ParkedCursor(3).to_string().parse(), Ok(ParkedCursor(3)));
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        assert_eq!(ParkedCursor(3).to_string().parse::<ItemCursor>(), Err(BadCursor));
        let items = ItemCursor { sort: Sort::Oldest, key: None, seq: 3 };
        assert_eq!(items.to_string().parse::<ParkedCursor>(), Err(BadCursor));
    }

    #[test]
    fn forged_texts_with_a_right_checksum_are_still_read_strictly() {
        for text in
            ["items:newest:5:1", "items:priority::1", "items:due:x:1", "items:oldest::", "items:odd::1", "items", ""]
        {
            assert_eq!(seal(text).parse::<ItemCursor>(), Err(BadCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in ".{0,40}") {
            prop_assert_eq!(text.parse::<ItemCursor>(), Err(BadCursor));
        }

        #[test]
        fn one_altered_character_is_noticed(at in 0usize..40, to in "[0-9a-f]") {
            let cursor = ItemCursor { sort: Sort::Priority, key: Some(4), seq: 123_456 }.to_string();
            let at = at % cursor.len();
            let mut altered = cursor.clone();
            altered.replace_range(at..=at, &to);
            prop_assert!(altered == cursor || altered.parse::<ItemCursor>().is_err());
        }
    }
}
