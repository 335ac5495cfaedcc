//! URLs with a password in them that no log line can print.

use std::fmt;

use url::Url;

/// URLs of one service, to be tried in turn. Their passwords show in neither `Debug` nor `Display`;
/// [`SecretUrls::expose`] has all of them.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrls(Vec<Url>);

impl SecretUrls {
    /// At least one is expected; without any there is nothing to try.
    #[must_use]
    pub const fn new(urls: Vec<Url>) -> Self {
        Self(urls)
    }

    /// The URLs with their passwords, for whoever connects, in the order to try them.
    pub fn expose(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Url::as_str)
    }

    /// The first of them; empty where there is none.
    #[must_use]
    pub fn first(&self) -> &str {
        self.expose().next().unwrap_or_default()
    }
}

impl fmt::Display for SecretUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<String> = self.expose().map(masked).collect();
        f.write_str(&urls.join(","))
    }
}

impl fmt::Debug for SecretUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrls({self})")
    }
}

/// A text that no log line can print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
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
        let url = |host: &str| Url::parse(&format!("amqp://guest:secret@{host}/%2f")).unwrap();
        let urls = SecretUrls::new(vec![url("a"), url("b")]);
        assert!(!format!("{urls} {urls:?}").contains("secret"));
        assert_eq!(urls.to_string(), "amqp://guest:***@a/%2f,amqp://guest:***@b/%2f");
        assert!(urls.expose().all(|url| url.contains("secret")));
    }
}
