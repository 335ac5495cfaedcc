//! A URL with a password in it that no log line can print.

use std::fmt;

use url::Url;

/// A URL whose password shows in neither `Debug` nor `Display`; [`SecretUrl::expose`] has all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    #[must_use]
    pub const fn new(url: Url) -> Self {
        Self(url)
    }

    /// The URL with its password, for whoever connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.0.as_str()))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// Hides what may be a password. Works on the text, because a URL that cannot be read may hold one as well: everything
/// between the first `:` of the user part and the last `@` goes.
pub(super) fn masked(text: &str) -> String {
    let Some(at) = text.rfind('@') else { return text.to_owned() };
    let start = text.find("://").map_or(0, |scheme| scheme + 3).min(at);
    let user = text[start..at].find(':').map_or("***", |colon| &text[start..start + colon]);
    let secret = if user == "***" { "" } else { ":***" };
    format!("{}{user}{secret}{}", &text[..start], &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_however_broken_the_url_is() {
        for (text, shown) in [
            ("amqp://guest:secret@host:5672/%2f", "amqp://guest:***@host:5672/%2f"),
            ("amqp://guest:se@cr:et@host", "amqp://guest:***@host"),
            ("amqp:/guest:secret@host", "amqp:***@host"),
            ("guest:secret@", "guest:***@"),
            ("http://token@host", "http://***@host"),
            ("@://x", "***@://x"),
            ("http://host:15672", "http://host:15672"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn debug_and_display_hide_the_password() {
        let url = SecretUrl::new(Url::parse("amqp://guest:secret@host/%2f").unwrap());
        assert!(!format!("{url} {url:?}").contains("secret"));
        assert!(url.expose().contains("secret"));
    }
}
