//! Bearer tokens that an OpenID Connect issuer signed.
//!
//! The issuer's keys come through discovery and are kept. They are asked for again when they are old, or when a token names
//! one that is not known, which is how new ones come in; never more often than [`APART`], whatever is shown. What was
//! verified is remembered a short while, so that a robot that asks often costs one verification.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::caller::{Kind, Who};
use super::gate;
use super::jwt::{self, Key};
use crate::item::Timestamp;
use crate::lanes::now;
use crate::mirror::tokens::HASH;
use crate::who::{Rights, is_safe};

/// How long keys are taken for what the issuer signs with, and how long they do while it cannot be asked.
const FRESH: Duration = Duration::from_mins(10);
const STALE: Duration = Duration::from_hours(24);

/// Between two tries to get keys.
const APART: Duration = Duration::from_secs(30);

/// The longest one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// How long what was verified is not verified again.
const REMEMBERED: Duration = Duration::from_mins(1);

/// Verified tokens that are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// What is known of the issuer, and what its claims mean here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// As the tokens have it in `iss`; discovery is below it.
    pub url: String,
    /// What tokens for this daemon have in `aud`.
    pub audience: String,
    /// The claim that says what somebody may do: a name, or a path like `realm_access.roles`.
    pub roles_claim: String,
    /// The claim that is the name in timelines.
    pub name_claim: String,
    /// What each value of it allows.
    pub rights: Vec<(String, Rights)>,
}

/// Verifies tokens of one issuer.
pub(super) struct Oidc {
    issuer: Issuer,
    http: reqwest::Client,
    keys: RwLock<Arc<Keys>>,
    /// When keys were last asked for; held while they are.
    asked: tokio::sync::Mutex<Option<Timestamp>>,
    verified: Mutex<HashMap<[u8; HASH], (Arc<Who>, Timestamp)>>,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Key>,
    at: Option<Timestamp>,
}

impl Keys {
    fn younger_than(&self, age: Duration, now: Timestamp) -> bool {
        self.at.is_some_and(|at| now.duration_since(at).unsigned_abs() < age)
    }

    /// Those that may have signed it.
    fn fitting(&self, token: &str) -> Vec<Key> {
        let Some((algorithm, kid)) = jwt::header(token) else { return Vec::new() };
        let fits = |key: &&Key| key.algorithm == algorithm && (kid.is_none() || key.kid == kid);
        self.keys.iter().filter(fits).cloned().collect()
    }
}

impl Oidc {
    /// # Errors
    /// Where no HTTP client can be made.
    pub(super) fn new(issuer: Issuer) -> Result<Self, String> {
        let mut http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("warrend/", env!("CARGO_PKG_VERSION")));
        if issuer.url.starts_with("http://") {
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self {
            issuer,
            http,
            keys: RwLock::default(),
            asked: tokio::sync::Mutex::default(),
            verified: Mutex::default(),
        })
    }

    /// Who shows this token, where it was verified a moment ago.
    pub(super) fn remembered(&self, token: &str) -> Option<Arc<Who>> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let (who, until) = verified.get(&gate::hash(token))?;
        (*until > now()).then(|| Arc::clone(who))
    }

    /// Who shows this token; `None` where it is not good.
    pub(super) async fn verify(self: &Arc<Self>, token: &str) -> Option<Arc<Who>> {
        // What has not the form of one costs no question to anybody.
        jwt::header(token)?;
        let at = now();
        let mut keys = self.kept();
        let usable = !keys.fitting(token).is_empty() && keys.younger_than(STALE, at);
        if !usable || !keys.younger_than(FRESH, at) {
            // Goes on though whoever asks hangs up: else nobody who is in a hurry would ever have the keys.
            let own = Arc::clone(self);
            let _ = tokio::spawn(async move { own.ask(at, usable).await }).await;
            keys = self.kept();
        }
        if !keys.younger_than(STALE, at) {
            return None;
        }
        let Issuer { url, audience, .. } = &self.issuer;
        let claims = keys.fitting(token).iter().find_map(|key| jwt::claims(token, key, url, audience))?;
        let who = Arc::new(self.who(&claims)?);
        let until = at.checked_add(REMEMBERED).ok()?.min(who.expires_at?);
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= MOST_REMEMBERED {
            verified.retain(|_, (_, until)| *until > at);
        }
        if verified.len() < MOST_REMEMBERED {
            verified.insert(gate::hash(token), (Arc::clone(&who), until));
        }
        Some(who)
    }

    fn who(&self, claims: &Value) -> Option<Who> {
        let name = printable(claim(claims, &self.issuer.name_claim)?.as_str()?)?;
        let expires_at = Timestamp::from_second(claims["exp"].as_i64()?).ok()?;
        let values = words(claim(claims, &self.issuer.roles_claim));
        let given = |(value, _): &&(String, Rights)| values.contains(value);
        let rights = self.issuer.rights.iter().filter(given).map(|(_, rights)| rights.clone()).collect();
        Some(Who::new(name, Kind::Oidc, rights, None, Some(expires_at)))
    }

    fn kept(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the issuer for its keys, unless that was just done. Whoever has `usable` ones does not wait for another who asks.
    async fn ask(&self, at: Timestamp, usable: bool) {
        let mut asked = match self.asked.try_lock() {
            Ok(asked) => asked,
            Err(_) if usable => return,
            Err(_) => self.asked.lock().await,
        };
        if asked.is_some_and(|last| at.duration_since(last).unsigned_abs() < APART) {
            return;
        }
        *asked = Some(at);
        match self.fetch().await {
            Ok(keys) => {
                tracing::debug!(issuer = self.issuer.url, keys = keys.len(), "the issuer's keys");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Keys { keys, at: Some(at) });
            }
            Err(error) => tracing::warn!(issuer = self.issuer.url, error, "cannot get the issuer's keys"),
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let base = self.issuer.url.trim_end_matches('/');
        let found = self.json(&format!("{base}/.well-known/openid-configuration")).await?;
        // Whoever answers has to be who was asked for.
        if found["issuer"].as_str() != Some(&self.issuer.url) {
            return Err(format!("discovery names another issuer, {}", found["issuer"]));
        }
        let uri = found["jwks_uri"].as_str().ok_or("discovery names no jwks_uri")?;
        if !Url::parse(uri).is_ok_and(|uri| is_safe(&uri)) {
            return Err("the jwks_uri is not https".to_owned());
        }
        let keys = jwt::keys(&self.json(uri).await?);
        if keys.is_empty() {
            return Err("there is no key for RS256, ES256 or EdDSA".to_owned());
        }
        Ok(keys)
    }

    async fn json(&self, url: &str) -> Result<Value, String> {
        let failed = |error: reqwest::Error| {
            let mut text = error.without_url().to_string();
            if let Some(source) = text.is_empty().then_some("no answer") {
                text.push_str(source);
            }
            text
        };
        let mut answer =
            self.http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_ANSWER {
                return Err("the answer is too long".to_owned());
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("the answer is no JSON: {error}"))
    }
}

/// A claim by its name, else by a path with dots.
fn claim<'c>(claims: &'c Value, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| name.split('.').try_fold(claims, |at, step| at.get(step)))
}

/// A list of texts, or a text with words.
fn words(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(text)) => text.split(' ').map(str::to_owned).collect(),
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// A name without spaces, which set it apart from what it says of others; `None` for what is none.
fn printable(name: &str) -> Option<String> {
    const LONGEST: usize = 100;
    let mut text = String::new();
    for c in name.chars() {
        if c.is_control() {
            return None;
        }
        let _ = text.write_char(if c.is_whitespace() { '_' } else { c });
    }
    (!text.is_empty() && text.chars().count() <= LONGEST).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let claims = json!({"roles": ["a", 1, "b c"], "realm_access": {"roles": ["x"]}, "https://x.y/roles": "p q"});
        assert_eq!(words(claim(&claims, "roles")), ["a", "b c"]);
        assert_eq!(words(claim(&claims, "realm_access.roles")), ["x"]);
        assert_eq!(words(claim(&claims, "https://x.y/roles")), ["p", "q"]);
        assert_eq!(words(claim(&claims, "nothing.here")), [""; 0]);
    }

    #[test]
    fn names_hold_no_spaces() {
        assert_eq!(printable("Ann Lee").as_deref(), Some("Ann_Lee"));
        assert_eq!(printable("flow for\u{a0}ann").as_deref(), Some("flow_for_ann"));
        for name in ["", "a\nb", &"x".repeat(101)] {
            assert_eq!(printable(name), None);
        }
    }
}
