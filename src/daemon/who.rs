//! Who may ask over HTTP: the gate as the settings have it, and the first token.

use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Gate, GateRules, Issuer, ListenerRules, Tls};
use crate::item::Timestamp;
use crate::lanes::{new_id, now};
use crate::mirror::audit::{self, Actor, Entry};
use crate::mirror::tokens::{self, Token};
use crate::mirror::{Mirror, Tx};
use crate::settings::{HttpSettings, Settings};
use crate::who::Rights;

/// How often uses of tokens are noted.
const NOTE_USES: Duration = Duration::from_secs(30);

/// Descriptors that are not for connections of the API: the mirror's, the broker's, files.
const OTHER_FILES: u64 = 150;

/// The gate, with the tokens there are.
///
/// # Errors
/// Where the API would be open to whoever reaches it, or to nobody.
pub(super) async fn gate(settings: &Settings, mirror: &Mirror) -> anyhow::Result<Gate> {
    let issuer = settings.oidc.clone().map(|oidc| Issuer {
        url: oidc.issuer,
        audience: oidc.audience,
        roles_claim: oidc.roles_claim,
        name_claim: oidc.name_claim,
        rights: oidc.rights,
    });
    let rules = GateRules { always: settings.http.auth_required, per_second: settings.http.rate_limit, issuer };
    let gate = Gate::new(rules).map_err(anyhow::Error::msg).context("oidc.issuer")?;
    gate.read_tokens(mirror).await?;
    let listen = settings.http.listen;
    let cure = "make the first API token (warrend token create --local --name admin --role admin), or set oidc.issuer";
    anyhow::ensure!(
        gate.is_closed() || listen.ip().to_canonical().is_loopback(),
        "http.listen is {listen}, which others can reach, and nobody would have to show who they are; {cure}, or listen on \
         127.0.0.1"
    );
    anyhow::ensure!(
        gate.has_keys() || !settings.http.auth_required,
        "http.auth is required, and there is no API token that may be used and no oidc.issuer: nobody could ask anything; {cure}"
    );
    if gate.is_closed() {
        if !gate.has_keys() {
            tracing::warn!("every API token is revoked or expired, so nobody can ask anything; {cure}");
        }
        if settings.http.tls.is_none() && !listen.ip().to_canonical().is_loopback() {
            tracing::warn!(
                "http.tls_cert is empty: tokens cross the network for all to read, unless something in front of this does TLS"
            );
        }
    } else {
        tracing::info!(
            "the HTTP API asks nobody who they are: it listens to this machine alone, and no API token was ever made"
        );
    }
    Ok(gate)
}

/// What the listener holds its clients to.
///
/// # Errors
/// Where certificate and key cannot be used.
pub(super) fn listener(settings: &HttpSettings) -> anyhow::Result<ListenerRules> {
    let tls = settings.tls.as_ref().map(|(cert, key)| Tls::read(cert, key)).transpose()?;
    let wanted = u64::try_from(settings.max_connections).unwrap_or(u64::MAX);
    let most = descriptors(wanted.saturating_add(OTHER_FILES)).saturating_sub(OTHER_FILES).max(10);
    if most < wanted {
        tracing::warn!("http.max_connections is {wanted}, and this process may have no more than {most} (ulimit -n)");
    }
    Ok(ListenerRules { max_connections: usize::try_from(most.min(wanted)).unwrap_or(usize::MAX), tls })
}

/// Asks for as many descriptors; answers how many there may be.
fn descriptors(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let (Some(now), most) = (limit.current, limit.maximum.unwrap_or(u64::MAX)) else { return u64::MAX };
    if now >= wanted {
        return now;
    }
    let raised = wanted.min(most);
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }) {
        Ok(()) => raised,
        Err(_) => now,
    }
}

/// Notes when tokens were used, until `stop`.
pub(super) async fn note_uses(gate: Gate, mirror: Mirror, stop: CancellationToken) {
    let mut ends = false;
    while !ends {
        ends = stop.run_until_cancelled(tokio::time::sleep(NOTE_USES)).await.is_none();
        if let Err(error) = gate.note_uses(&mirror).await {
            tracing::debug!(%error, "when tokens were used is not noted");
        }
    }
}

/// A token that is made on the daemon's machine, without it.
#[derive(Debug, Clone)]
pub struct FirstToken {
    pub name: String,
    pub rights: Rights,
    /// Good for so long; `None`: until it is revoked.
    pub good_for: Option<Duration>,
    /// Who makes it.
    pub who: String,
}

/// Makes a token in the mirror itself, which nobody else may have open; answers it and its secret.
///
/// # Errors
/// [`crate::mirror::MirrorError::InUse`] while the daemon runs; where the name is taken, or the mirror cannot be written.
pub async fn first_token(settings: &Settings, wanted: FirstToken) -> anyhow::Result<(Token, String)> {
    let mirror = Mirror::open(&settings.mirror.url).await?;
    let secret = http::new_secret().map_err(|error| anyhow::anyhow!("no randomness for a secret: {error}"))?;
    let at = now();
    let token = Token {
        id: new_id().to_string(),
        name: wanted.name,
        hash: http::hash(&secret),
        rights: wanted.rights,
        created_at: at,
        created_by: wanted.who.clone(),
        expires_at: wanted.good_for.map(|time| at.checked_add(time)).transpose()?,
        last_used_at: None,
        revoked_at: None,
        revoked_by: None,
    };
    let made = token.clone();
    let entry = created(&token, Actor { who: wanted.who, kind: "local", source: None }, at);
    let added = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let added = tokens::add(tx, &token).await?;
                if added {
                    audit::append(tx, &entry).await?;
                }
                Ok(added)
            })
        })
        .await;
    mirror.close().await;
    anyhow::ensure!(added?, "there is a token named '{}' already; choose another name, or revoke that one", made.name);
    Ok((made, secret))
}

/// The entry of the audit log about a new token.
fn created(token: &Token, actor: Actor, at: Timestamp) -> Entry {
    Entry { at, actor, action: "token.create", target: Some(token.id.clone()), outcome: "done", detail: token.terms() }
}
