//! One attempt to send a message over HTTP: signed, to an address that may be spoken to, and to no other.
//!
//! Names are resolved by a resolver of our own that leaves out what may not be spoken to; the connection goes to what it answered, so
//! that a name cannot mean one address when it is checked and another when it is used. Redirects are not followed, proxies of the
//! environment are not used, and of an answer only its head is read.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use url::{Host, Url};

use super::address::forbidden;
use super::backoff::Outcome;
use super::sign::signatures;
use super::text;
use crate::lanes::now;
use crate::mirror::outward::Message;

/// The longest an endpoint may take, as Standard Webhooks recommends.
const TIMEOUT: Duration = Duration::from_secs(20);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What an error says at most, in characters.
const LONGEST_ERROR: usize = 300;

/// Where may be sent to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Addresses of this machine and of private networks.
    pub private: bool,
    /// Without TLS.
    pub http: bool,
}

impl Allowed {
    /// Why nothing can be sent to this URL, as far as that is known without asking for its address.
    ///
    /// # Errors
    /// What is wrong and what is allowed.
    pub fn check(self, url: &Url) -> Result<(), String> {
        match url.scheme() {
            "https" => {}
            "http" if self.http => {}
            "http" => return Err("it has to begin with https:// (webhooks.allow_http allows http)".to_owned()),
            _ => return Err("it has to begin with https://".to_owned()),
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(name)) if !name.is_empty() => None,
            _ => return Err("it names no host".to_owned()),
        };
        match address.filter(|_| !self.private).and_then(forbidden) {
            Some(why) => Err(refusal(why)),
            None => Ok(()),
        }
    }
}

fn refusal(why: &str) -> String {
    format!("nothing is sent to its address: {why} (webhooks.allow_private allows it)")
}

/// Resolves names to what may be spoken to.
struct Resolver {
    allowed: Allowed,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let good: Vec<SocketAddr> =
                found.iter().copied().filter(|address| allowed.private || forbidden(address.ip()).is_none()).collect();
            if good.is_empty() {
                let why = found.iter().find_map(|address| forbidden(address.ip()));
                return Err(Box::from(why.map_or("its name has no address".to_owned(), refusal)));
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

/// Sends messages over HTTP; clones share its connections.
#[derive(Clone)]
pub struct Sender {
    allowed: Allowed,
    plain: Arc<OnceLock<Result<reqwest::Client, String>>>,
    tls: Arc<OnceLock<Result<reqwest::Client, String>>>,
}

impl Sender {
    #[must_use]
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, plain: Arc::default(), tls: Arc::default() }
    }

    /// Where it may send to.
    #[must_use]
    pub const fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// One attempt; signed with each of these secrets.
    pub async fn send(&self, url: &str, secrets: &[String], message: &Message) -> Outcome {
        match self.attempt(url, secrets, message).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed { status: None, error: shortened(&error), retry_after: None },
        }
    }

    async fn attempt(&self, url: &str, secrets: &[String], message: &Message) -> Result<Outcome, String> {
        let url = Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
        self.allowed.check(&url)?;
        let client = self.client(url.scheme() == "https")?;
        let (at, body) = (now().as_second(), text::body(message));
        let mut request = client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", at);
        let signature = signatures(secrets.iter().map(String::as_str), &message.id, at, &body);
        if !signature.is_empty() {
            request = request.header("webhook-signature", signature);
        }
        let answer = request.body(body).send().await.map_err(|error| in_words(&error.without_url()))?;
        let status = answer.status();
        Ok(match status.as_u16() {
            200..=299 => Outcome::Taken { status: Some(status.as_u16()) },
            410 => Outcome::Gone,
            code => Outcome::Failed {
                status: Some(code),
                error: match code {
                    300..=399 => format!("it answered {status}: redirects are not followed, set the URL it leads to"),
                    _ => format!("it answered {status}"),
                },
                retry_after: retry_after(answer.headers()),
            },
        })
    }

    fn client(&self, tls: bool) -> Result<reqwest::Client, String> {
        let build = || {
            let mut client = reqwest::Client::builder()
                .user_agent(concat!("warrend/", env!("CARGO_PKG_VERSION")))
                .timeout(TIMEOUT)
                .connect_timeout(CONNECT_TIMEOUT)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(1)
                .pool_idle_timeout(Duration::from_secs(30))
                .dns_resolver(Arc::new(Resolver { allowed: self.allowed }));
            if !tls {
                // Without TLS nothing is to fail on a machine that has no CA certificates.
                client = client.tls_certs_only([]);
            }
            client.build().map_err(|error| in_words(&error))
        };
        let slot = if tls { &self.tls } else { &self.plain };
        slot.get_or_init(build).clone()
    }
}

/// Seconds; a date is as good as nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The innermost cause says most.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() && error.is_connect() {
        return format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
    }
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_ERROR).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_sent_to() {
        let nothing = Allowed::default();
        let all = Allowed { private: true, http: true };
        for (url, strictly, freely) in [
            ("https://example.com/hook", true, true),
            ("http://example.com/hook", false, true),
            ("https://127.0.0.1/", false, true),
            ("https://0x7f.1/", false, true),
            ("https://2130706433/", false, true),
            ("https://[::1]/", false, true),
            ("https://[::ffff:10.0.0.1]/", false, true),
            ("https://8.8.8.8/", true, true),
            ("ftp://example.com/", false, false),
            ("mailto:a@b", false, false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!((nothing.check(&url).is_ok(), all.check(&url).is_ok()), (strictly, freely), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_where_it_is_resolved() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sender = Sender::new(Allowed { private: false, http: true });
        let message = text::gap("g", 1, None, crate::item::Timestamp::UNIX_EPOCH);
        let outcome = sender.send("http://localhost:9/", &[], &message).await;
        let Outcome::Failed { status: None, error, .. } = outcome else { panic!("{outcome:?}") };
        assert!(error.contains("webhooks.allow_private"), "{error}");
    }
}
