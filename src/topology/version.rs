//! The broker's version, which decides what can be asked of it.

use std::fmt;

/// Major and minor number of RabbitMQ; patches make no difference to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Quorum queues with 32 strict priorities.
    pub const STRICT_PRIORITIES: Self = Self { major: 4, minor: 3 };
    /// A delivery limit of 20 that has to be switched off; before it, -1 expels at the first return.
    pub const DEFAULT_DELIVERY_LIMIT: Self = Self { major: 4, minor: 0 };
    /// The policy key `consumer-timeout`.
    pub const CONSUMER_TIMEOUT_POLICY: Self = Self { major: 3, minor: 12 };
    /// The oldest that is supported.
    pub const OLDEST: Self = Self { major: 3, minor: 10 };

    /// Reads `4.3.6` and the like; `None` where it does not start with two numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']);
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let read = |text| Version::parse(text);
        assert_eq!(read("4.3.6"), Some(Version { major: 4, minor: 3 }));
        assert_eq!(read("3.13.0-rc.1"), Some(Version { major: 3, minor: 13 }));
        assert_eq!(read("4"), None);
        assert_eq!(read("four.three"), None);
        assert!(read("3.13.7") > read("3.9.1"));
    }
}
