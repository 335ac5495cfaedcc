//! One attempt to send a notice by mail.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use url::Url;

use super::backoff::Outcome;
use super::text;
use crate::mirror::outward::Message;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The mail server, and who the mails are from.
#[derive(Clone)]
pub struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Post {
    /// A mail server by its URL, `smtp://USER:PASSWORD@HOST:PORT` or `smtps://...`. Over `smtp` TLS is asked for with STARTTLS:
    /// where the URL has a password it has to be there, else it is used where it is.
    ///
    /// # Errors
    /// What cannot be used, without the password.
    pub fn new(url: &Url, from: &str) -> Result<Self, String> {
        let from = from.parse().map_err(|error| format!("smtp.from: {error}"))?;
        let mut url = url.clone();
        let chosen = url.query_pairs().any(|(name, _)| name == "tls");
        if url.scheme() == "smtp" && !chosen {
            let tls = if url.password().is_some() { "required" } else { "opportunistic" };
            url.query_pairs_mut().append_pair("tls", tls);
        }
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str())
            .map_err(|error| format!("smtp.url: {error}"))?
            .timeout(Some(TIMEOUT))
            .build();
        Ok(Self { transport, from })
    }

    /// One attempt, to the address of a `mailto:` URL.
    pub(super) async fn send(&self, to: &str, message: &Message) -> Outcome {
        match self.attempt(to, message).await {
            Ok(()) => Outcome::Taken { status: None },
            Err(error) => {
                let error = error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
                Outcome::Failed { status: None, error, retry_after: None }
            }
        }
    }

    async fn attempt(&self, to: &str, message: &Message) -> Result<(), String> {
        let (subject, body) = text::mail(message);
        let to: Mailbox = recipient(to)?;
        let id = format!("<{}@warrend>", message.id.replace('/', "."));
        let mail = MessageBuilder::new()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            // The same each time it is sent: mail servers and readers know it for a repeat.
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN)
            .body(body)
            .map_err(|error| error.to_string())?;
        // More than a server's slowness at every step.
        match tokio::time::timeout(3 * TIMEOUT, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(in_words(&error)),
            Err(_) => Err("the mail server does not answer".to_owned()),
        }
    }
}

/// The one address of a `mailto:` URL; what stands behind a `?` is not obeyed.
fn recipient(to: &str) -> Result<Mailbox, String> {
    let address = to.strip_prefix("mailto:").unwrap_or(to);
    let address = address.split('?').next().unwrap_or_default();
    address.parse().map_err(|error| format!("'{address}' is no address of mail: {error}"))
}

fn in_words(error: &lettre::transport::smtp::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("the mail server: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_recipient_and_nothing_else() {
        assert_eq!(recipient("mailto:ops@example.com").unwrap().to_string(), "ops@example.com");
        assert_eq!(recipient("mailto:ops@example.com?bcc=evil@example.com").unwrap().to_string(), "ops@example.com");
        // What a definition lets through.
        for right in ["o'brien+ops@mail.example.com", "a.b_c-d@x", "{x}!#$&*/=^`|~@example.com"] {
            assert_eq!(recipient(&format!("mailto:{right}")).unwrap().to_string(), right);
        }
        for wrong in ["mailto:", "mailto:a", "mailto:a@b,c@d", "mailto:a@b\r\nBcc: c@d"] {
            assert!(recipient(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers_are_known_by_their_urls() {
        let post = |url: &str, from: &str| Post::new(&Url::parse(url).unwrap(), from).map(|_| ());
        assert_eq!(post("smtp://user:pw@mail.example.com:587", "warrend <ops@example.com>"), Ok(()));
        assert_eq!(post("smtps://mail.example.com", "ops@example.com"), Ok(()));
        assert!(post("smtp://mail.example.com", "nobody").unwrap_err().starts_with("smtp.from"));
    }
}
