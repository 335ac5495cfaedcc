//! The gate: which caller a request is from, by what it shows.
//!
//! Tokens are looked up in memory; the table is read anew after each change of it, in the handler that made the change, so
//! that a revoked token is refused from the answer on. Nothing is written per request: uses are kept in memory and noted
//! together now and then.
//!
//! Authentication is off only while nobody can be told from anybody: on a loopback address where no token was ever made.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::{Kind, Who};
use super::limits::{Bucket, Tries};
use super::oidc::{Issuer, Oidc};
use crate::item::Timestamp;
use crate::lanes::now;
use crate::metrics;
use crate::mirror::tokens::{self, HASH};
use crate::mirror::{Mirror, MirrorError, Tx};
use crate::who::Rights;

/// What every token begins with, so that people and scanners of leaked secrets know one when they see it.
pub const PREFIX: &str = "wrd_";

/// The name of whoever asks where nobody has to say who they are.
pub(super) const NOBODY: &str = "api";

/// What is asked of callers; clones share it.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    rules: Rules,
    known: RwLock<Arc<Known>>,
    /// Held over each reading of the tokens: the last one in has the newest.
    reading: tokio::sync::Mutex<()>,
    /// When tokens were used since that was last noted, by id.
    uses: Mutex<HashMap<String, Timestamp>>,
    nobody: Arc<Who>,
    oidc: Option<Arc<Oidc>>,
    tries: Tries,
    /// When failed tries were last logged, and how many there were since.
    logged: Mutex<(Option<Timestamp>, u64)>,
}

/// What is asked of callers.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// They have to show who they are, also where no token was ever made.
    pub always: bool,
    /// Requests per second with one token; 0: any number.
    pub per_second: u32,
    /// Whose tokens are good too.
    pub issuer: Option<Issuer>,
}

/// The tokens that may be used.
#[derive(Default)]
struct Known {
    /// By the beginning of their hash, which says nothing of the secret.
    tokens: HashMap<u128, Entry>,
    /// There is one, or was.
    ever: bool,
}

struct Entry {
    hash: [u8; HASH],
    who: Arc<Who>,
}

/// Why nobody is let in. More than that is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// What is shown is not good, or nothing is.
    Unknown,
    /// The same too often from one address; not before that time again.
    TooOften(Duration),
}

/// Requests at once, in seconds of the rate.
const BURST: f64 = 2.0;

/// Between two lines of the log about failed tries, in seconds.
const LOG_APART: f64 = 10.0;

impl Default for Gate {
    /// Open as long as no token is read.
    fn default() -> Self {
        Self::with(Rules::default(), None)
    }
}

impl Gate {
    /// A gate that knows no tokens yet.
    ///
    /// # Errors
    /// Where no HTTP client for the issuer can be made.
    pub fn new(rules: Rules) -> Result<Self, String> {
        let oidc = rules.issuer.clone().map(Oidc::new).transpose()?;
        Ok(Self::with(rules, oidc))
    }

    fn with(rules: Rules, oidc: Option<Oidc>) -> Self {
        let nobody = Who::new(NOBODY.to_owned(), Kind::Nobody, vec![Rights::all()], None, None);
        Self(Arc::new(Inner {
            rules,
            known: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            uses: Mutex::default(),
            nobody: Arc::new(nobody),
            oidc: oidc.map(Arc::new),
            tries: Tries::default(),
            logged: Mutex::default(),
        }))
    }

    /// Whether callers have to show who they are.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.rules.always || self.0.oidc.is_some() || self.known().ever
    }

    /// Whether anybody could show something good: there is a token that may be used, or an issuer.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let at = now();
        let good = |entry: &Entry| entry.who.expires_at.is_none_or(|end| end > at);
        self.0.oidc.is_some() || self.known().tokens.values().any(good)
    }

    /// Reads the tokens; to be called after each change of them. Whoever holds a token that is gone is told so.
    ///
    /// # Errors
    /// Where the mirror cannot be read: then the tokens known before stay.
    pub async fn read_tokens(&self, mirror: &Mirror) -> Result<(), MirrorError> {
        let _reading = self.0.reading.lock().await;
        let all = mirror.tokens().await?;
        let before = self.known();
        let mut known = Known { tokens: HashMap::new(), ever: !all.is_empty() };
        for token in all.into_iter().filter(|token| token.revoked_at.is_none()) {
            let short = short(&token.hash);
            // The same `Who` as before, for those who hold it already.
            let who = before.tokens.get(&short).map(|entry| Arc::clone(&entry.who));
            let who = who.unwrap_or_else(|| {
                Arc::new(Who::new(token.name, Kind::Token, vec![token.rights], Some(token.id), token.expires_at))
            });
            known.tokens.insert(short, Entry { hash: token.hash, who });
        }
        let gone: Vec<Arc<Who>> = (before.tokens.iter())
            .filter(|(short, _)| !known.tokens.contains_key(short))
            .map(|(_, entry)| Arc::clone(&entry.who))
            .collect();
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        if self.is_closed() {
            // From the first token on nobody is served who shows none.
            self.0.nobody.gone.cancel();
        }
        for who in gone {
            who.gone.cancel();
        }
        Ok(())
    }

    /// Who shows these headers.
    ///
    /// # Errors
    /// Where they show nothing that is good here, and something has to be shown.
    pub(super) async fn who(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Result<Arc<Who>, Refused> {
        if !self.is_closed() {
            return Ok(Arc::clone(&self.0.nobody));
        }
        let at = now();
        // Nothing shown is no try: probes ask for what is open.
        let Some(secret) = bearer(headers) else { return Err(Refused::Unknown) };
        if let Some(who) = self.own(secret, at) {
            return Ok(who);
        }
        if let Some(oidc) = self.0.oidc.as_ref().filter(|_| !secret.starts_with(PREFIX)) {
            if let Some(who) = oidc.remembered(secret) {
                return Ok(who);
            }
            if let Some(who) = oidc.verify(secret).await {
                return Ok(who);
            }
        }
        let refused = self.0.tries.failed(from, at).err().map_or(Refused::Unknown, Refused::TooOften);
        Err(self.failed(refused, from, at))
    }

    /// Who has this API token.
    fn own(&self, secret: &str, at: Timestamp) -> Option<Arc<Who>> {
        let hash = hash(secret);
        let known = self.known();
        let entry = known.tokens.get(&short(&hash))?;
        let same: bool = entry.hash.ct_eq(&hash).into();
        if !same || entry.who.expires_at.is_some_and(|end| end <= at) {
            return None;
        }
        if let Some(id) = &entry.who.token {
            let mut uses = self.0.uses.lock().unwrap_or_else(PoisonError::into_inner);
            match uses.get_mut(id) {
                Some(last) => *last = at,
                None => drop(uses.insert(id.clone(), at)),
            }
        }
        Some(Arc::clone(&entry.who))
    }

    /// Takes one of the requests that somebody may make.
    ///
    /// # Errors
    /// After how long there is one again.
    pub(super) fn in_time(&self, who: &Who) -> Result<(), Duration> {
        if self.0.rules.per_second == 0 || who.kind == Kind::Nobody {
            return Ok(());
        }
        let (at, rate) = (now(), f64::from(self.0.rules.per_second));
        let mut bucket = who.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = bucket.get_or_insert(Bucket::full(rate * BURST, at)).take(at, rate, rate * BURST);
        if taken.is_err() {
            metrics::turned_away("rate");
        }
        taken
    }

    /// Counts a failed try, and logs them now and then.
    fn failed(&self, refused: Refused, from: Option<IpAddr>, at: Timestamp) -> Refused {
        metrics::turned_away(if refused == Refused::Unknown { "unknown" } else { "tries" });
        let mut logged = self.0.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.1 += 1;
        if logged.0.is_none_or(|last| at.duration_since(last).as_secs_f64().abs() >= LOG_APART) {
            let from = from.map_or_else(|| "somewhere".to_owned(), |from| from.to_string());
            tracing::warn!(tries = logged.1, last_from = from, "requests showed no token that may be used");
            *logged = (Some(at), 0);
        }
        refused
    }

    /// Notes in the mirror when tokens were used since it was last asked to.
    ///
    /// # Errors
    /// Where the mirror cannot be written: then these uses are forgotten.
    pub async fn note_uses(&self, mirror: &Mirror) -> Result<(), MirrorError> {
        let uses = std::mem::take(&mut *self.0.uses.lock().unwrap_or_else(PoisonError::into_inner));
        if uses.is_empty() {
            return Ok(());
        }
        let uses: Vec<(String, Timestamp)> = uses.into_iter().collect();
        mirror.write(move |tx: &mut Tx| Box::pin(async move { tokens::note_use(tx, &uses).await })).await
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A new secret: 256 bits by chance, and what it is known by.
///
/// # Errors
/// Where the machine has no randomness to give.
pub fn new_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{PREFIX}{digits}"))
}

/// What is kept of a secret.
#[must_use]
pub fn hash(secret: &str) -> [u8; HASH] {
    Sha256::digest(secret.as_bytes()).into()
}

fn short(hash: &[u8; HASH]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}

/// What `Authorization: Bearer ...` brings; `None` where it is not there once, or is something else.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_in_one_way_only() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with(&["Bearer wrd_x"]).as_deref(), Some("wrd_x"));
        assert_eq!(with(&["bearer  wrd_x "]).as_deref(), Some("wrd_x"));
        for values in [&[][..], &["wrd_x"], &["Bearer"], &["Bearer "], &["Basic d3Jk"], &["Bearer a", "Bearer a"]] {
            assert_eq!(with(values), None, "{values:?}");
        }
    }
}
