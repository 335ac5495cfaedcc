//! Where a page ended of lists that are put together from sums: failures and robots.

use std::fmt;
use std::str::FromStr;

use super::BadCursor;
use super::cursor::{seal, unseal};

/// The order of a list of failures, the greatest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureSort {
    /// Seen last.
    #[default]
    LastSeen,
    /// Seen for the first time last.
    FirstSeen,
    /// Most items that are it now.
    Count,
    /// Most often seen.
    Seen,
}

impl FailureSort {
    pub const ALL: [Self; 4] = [Self::LastSeen, Self::FirstSeen, Self::Count, Self::Seen];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::LastSeen => "last_seen",
            Self::FirstSeen => "first_seen",
            Self::Count => "count",
            Self::Seen => "seen",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.word() == word)
    }
}

/// Behind which failure a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureCursor {
    pub sort: FailureSort,
    /// What the order goes by.
    pub key: i64,
    pub fingerprint: String,
}

/// Behind which robot a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RobotCursor {
    /// Empty: those without one, in this queue.
    pub name: String,
    pub queue: String,
}

impl fmt::Display for FailureCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&seal(&format!("failures:{}:{}:{}", self.sort.word(), self.key, self.fingerprint)))
    }
}

impl FromStr for FailureCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let text = unseal(text).ok_or(BadCursor)?;
        let parts: Vec<&str> = text.splitn(4, ':').collect();
        let ["failures", sort, key, fingerprint] = parts[..] else { return Err(BadCursor) };
        let sort = FailureSort::from_word(sort).ok_or(BadCursor)?;
        Ok(Self { sort, key: key.parse().map_err(|_| BadCursor)?, fingerprint: fingerprint.to_owned() })
    }
}

impl fmt::Display for RobotCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No key of a queue has a colon.
        f.write_str(&seal(&format!("robots:{}:{}", self.queue, self.name)))
    }
}

impl FromStr for RobotCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let text = unseal(text).ok_or(BadCursor)?;
        let (queue, name) = text.strip_prefix("robots:").and_then(|text| text.split_once(':')).ok_or(BadCursor)?;
        Ok(Self { name: name.to_owned(), queue: queue.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_as_they_went_out_and_belong_to_one_list() {
        for sort in FailureSort::ALL {
            let cursor = FailureCursor { sort, key: -7, fingerprint: "abc".to_owned() };
            assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
            assert_eq!(cursor.to_string().parse::<RobotCursor>(), Err(BadCursor));
            assert_eq!(FailureSort::from_word(sort.word()), Some(sort));
        }
        for name in ["", "a:b", &"ø".repeat(200)] {
            let cursor = RobotCursor { name: name.to_owned(), queue: "q".to_owned() };
            assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
            assert_eq!(cursor.to_string().parse::<FailureCursor>(), Err(BadCursor));
        }
        for text in ["failures:odd:1:a", "failures:seen:x:a", "failures:seen:1", "robots:q", "robots"] {
            let sealed = seal(text);
            assert!(sealed.parse::<FailureCursor>().is_err() && sealed.parse::<RobotCursor>().is_err(), "{text}");
        }
    }
}
