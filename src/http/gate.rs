//! The gate: which caller a request is from, by what it shows.
//!
//! Tokens are looked up in memory; the table is read anew after each change of it, in the handler that made the change, so
//! that a revoked token is refused from the answer on. Nothing is written per request: uses are kept in memory and noted
//! together now and then.
//!
//! Authentication is off only while nobody can be told from anybody: on a loopback address where no token was ever made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use super::caller::{Kind, Who};
use crate::item::Timestamp;
use crate::lanes::now;
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
    /// Also where no token was ever made.
    always: bool,
    known: RwLock<Arc<Known>>,
    /// Held over each reading of the tokens: the last one in has the newest.
    reading: tokio::sync::Mutex<()>,
    /// When tokens were used since that was last noted, by id.
    uses: Mutex<HashMap<String, Timestamp>>,
    nobody: Arc<Who>,
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

/// What is shown is not good, or nothing is shown where something has to be. Why is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unknown;

impl Default for Gate {
    /// Open as long as no token is read.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Gate {
    /// A gate without tokens; `always`: closed also while there are none.
    #[must_use]
    pub fn new(always: bool) -> Self {
        let nobody = Arc::new(Who {
            name: NOBODY.to_owned(),
            kind: Kind::Nobody,
            rights: Rights::all(),
            token: None,
            expires_at: None,
            gone: CancellationToken::new(),
        });
        Self(Arc::new(Inner {
            always,
            known: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            uses: Mutex::default(),
            nobody,
        }))
    }

    /// Whether callers have to show who they are.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.always || self.known().ever
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
                Arc::new(Who {
                    name: token.name,
                    kind: Kind::Token,
                    rights: token.rights,
                    token: Some(token.id),
                    expires_at: token.expires_at,
                    gone: CancellationToken::new(),
                })
            });
            known.tokens.insert(short, Entry { hash: token.hash, who });
        }
        let gone: Vec<Arc<Who>> = (before.tokens.iter())
            .filter(|(short, _)| !known.tokens.contains_key(short))
            .map(|(_, entry)| Arc::clone(&entry.who))
            .collect();
        if known.ever {
            // From the first token on nobody is served who shows none.
            self.0.nobody.gone.cancel();
        }
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        for who in gone {
            who.gone.cancel();
        }
        Ok(())
    }

    /// Who shows these headers.
    ///
    /// # Errors
    /// Where they show nothing that is good here, and something has to be shown.
    pub(super) fn who(&self, headers: &HeaderMap) -> Result<Arc<Who>, Unknown> {
        let known = self.known();
        if !self.0.always && !known.ever {
            return Ok(Arc::clone(&self.0.nobody));
        }
        let secret = bearer(headers).ok_or(Unknown)?;
        let at = now();
        let hash = hash(secret);
        let entry = known.tokens.get(&short(&hash)).ok_or(Unknown)?;
        let same: bool = entry.hash.ct_eq(&hash).into();
        if !same || entry.who.expires_at.is_some_and(|end| end <= at) {
            return Err(Unknown);
        }
        if let Some(id) = &entry.who.token {
            let mut uses = self.0.uses.lock().unwrap_or_else(PoisonError::into_inner);
            match uses.get_mut(id) {
                Some(last) => *last = at,
                None => drop(uses.insert(id.clone(), at)),
            }
        }
        Ok(Arc::clone(&entry.who))
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
