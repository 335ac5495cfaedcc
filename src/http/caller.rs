//! Who asks, and the guard in front of every route that finds it out and holds it to the table of [`super::access`].
//!
//! What a caller may not know of is answered like what is not there, and before anything else of the request is looked at:
//! neither words nor times tell which it was.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::access::{Scope, Verdict, allowed, missing, rule_for};
use super::control::name;
use super::gate::Refused;
use super::hosts;
use super::items::{no_such_item, read_id};
use super::limits::Bucket;
use super::problem::Problem;
use super::queues::no_such_queue;
use crate::item::Timestamp;
use crate::lanes::now;
use crate::mirror::audit::{Actor, Entry};
use crate::who::{Need, Rights};

/// How a caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By an API token.
    Token,
    /// By a token of the OpenID Connect issuer.
    Oidc,
    /// Not at all: authentication is off, or the route asks for nothing.
    Nobody,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Oidc => "oidc",
            Self::Nobody => "nobody",
        }
    }
}

/// Somebody with rights.
#[derive(Debug)]
pub(super) struct Who {
    pub name: String,
    pub kind: Kind,
    /// Any of them is enough, for what it grants where it grants it.
    pub rights: Vec<Rights>,
    /// Id of the token that was shown.
    pub token: Option<String>,
    pub expires_at: Option<Timestamp>,
    /// Cancelled once the rights are taken away.
    pub gone: CancellationToken,
    /// How often requests may come; none until the first.
    pub bucket: Mutex<Option<Bucket>>,
}

impl Who {
    pub(super) fn new(
        name: String,
        kind: Kind,
        rights: Vec<Rights>,
        token: Option<String>,
        expires_at: Option<Timestamp>,
    ) -> Self {
        Self { name, kind, rights, token, expires_at, gone: CancellationToken::new(), bucket: Mutex::default() }
    }
}

/// Who asks; cheap to clone. Handlers take it as an argument.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    who: Arc<Who>,
    /// What the route asks for: only rights that grant it say in which queues.
    need: Need,
    /// Where the request came from, where that is known.
    from: Option<IpAddr>,
}

impl Caller {
    /// Shown to be who they are, by whatever.
    pub(super) fn is_known(&self) -> bool {
        self.who.kind != Kind::Nobody
    }

    /// The name for timelines and the audit log.
    pub(super) fn name(&self) -> &str {
        &self.who.name
    }

    /// Who a change is by, where the body may say `by`. Of somebody who is known the name comes first whatever the body
    /// says: `flow for ann`. Names of tokens hold no spaces, so no other caller has that name.
    ///
    /// # Errors
    /// Where `by` is no name.
    pub(super) fn actor(&self, by: Option<String>) -> Result<String, Problem> {
        let by = by.map(name).transpose()?;
        Ok(match by {
            None => self.name().to_owned(),
            Some(by) if self.who.kind == Kind::Nobody || by == self.name() => by,
            Some(by) => format!("{} for {by}", self.name()),
        })
    }

    /// The same for the audit log, with the name that the timeline has.
    pub(super) fn audited(&self, who: String) -> Actor {
        Actor { who, kind: self.who.kind.word(), source: self.from }
    }

    /// An entry of the audit log about what this caller does now.
    pub(super) fn entry(
        &self,
        who: String,
        action: &'static str,
        target: Option<String>,
        detail: serde_json::Value,
    ) -> Entry {
        Entry { at: now(), actor: self.audited(who), action, target, outcome: "done", detail }
    }

    /// May do what this route does somewhere.
    fn can(&self) -> bool {
        self.who.rights.iter().any(|rights| rights.grant(self.need))
    }

    /// May do what this route does in this queue.
    pub(super) fn may(&self, queue: &str) -> bool {
        self.who.rights.iter().any(|rights| rights.grant(self.need) && rights.may(queue))
    }

    /// May do what this route does in every queue.
    pub(super) fn everywhere(&self) -> bool {
        self.may_everywhere(self.need)
    }

    /// May do this in every queue.
    pub(super) fn may_everywhere(&self, need: Need) -> bool {
        self.who.rights.iter().any(|rights| rights.grant(need) && rights.everywhere())
    }

    /// The patterns of the queues in which this caller may do what this route does; `None`: every one.
    pub(super) fn patterns(&self) -> Option<Vec<String>> {
        let granting = self.who.rights.iter().filter(|rights| rights.grant(self.need));
        (!self.everywhere()).then(|| granting.flat_map(|rights| &rights.queues).map(ToString::to_string).collect())
    }

    /// May see what the definition of this queue masks.
    pub(super) fn reveals(&self, queue: &str) -> bool {
        self.who.rights.iter().any(|rights| rights.grant(self.need) && rights.may(queue) && rights.reveal)
    }

    /// The id of the token that was shown.
    pub(super) fn token(&self) -> Option<&str> {
        self.who.token.as_deref()
    }

    /// What sets this caller apart from every other; names of people and of tokens may be alike.
    pub(super) fn whose(&self) -> String {
        format!("{}:{}", self.who.kind.word(), self.token().unwrap_or(self.name()))
    }

    /// The keys of the queues a list may be about; `None` where it may be about every one.
    pub(super) async fn queues(&self, api: &Api) -> Result<Option<Vec<String>>, Problem> {
        if self.everywhere() {
            return Ok(None);
        }
        let in_force = api.live.now();
        let mut keys = api.mirror.queues_with_items().await?;
        keys.extend(in_force.served().cloned());
        Ok(Some(keys.into_iter().filter(|key| self.may(key)).collect()))
    }

    /// Whose streams are counted together; `None` where nobody has to show who they are.
    pub(super) fn counted_as(&self) -> Option<String> {
        (self.who.kind != Kind::Nobody).then(|| format!("{}:{}", self.who.kind.word(), self.name()))
    }

    /// Waits until what was shown is good no more: revoked or expired. For answers that go on for long.
    pub(super) async fn gone(&self) {
        let Some(end) = self.who.expires_at else { return self.who.gone.cancelled().await };
        // A sleep of nothing still waits for the clock's next tick, and whoever only looks would miss it.
        if end <= now() {
            return;
        }
        let left = end.duration_since(now());
        let left = std::time::Duration::try_from(left).unwrap_or_default();
        tokio::select! {
            () = self.who.gone.cancelled() => {}
            () = tokio::time::sleep(left) => {}
        }
    }

    /// Nobody, with no right: for routes that ask for none.
    fn stranger(from: Option<IpAddr>) -> Self {
        let who = Who::new("nobody".to_owned(), Kind::Nobody, Vec::new(), None, None);
        Self { who: Arc::new(who), need: Need::Nothing, from }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The guard has put it there; a route that went round the guard serves nobody.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// Stands in front of every route.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&api, &mut parts).await {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => *refusal,
    }
}

async fn admit(api: &Api, parts: &mut Parts) -> Result<Caller, Box<Response>> {
    let refused = |problem: Problem| Box::new(problem.into_response());
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
    if !api.gate.is_closed() && !hosts::are_here(parts) {
        return Err(refused(hosts::misdirected()));
    }
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let rule = match path.as_ref().map(|path| rule_for(parts.method.as_str(), path.as_str())) {
        // Nothing is there, for nobody.
        None => return Ok(Caller::stranger(from)),
        Some(Ok(rule)) => rule,
        Some(Err(Verdict::NoMethod)) => {
            return Err(Box::new(no_such_method(parts, path.as_ref().map_or("", MatchedPath::as_str))));
        }
        Some(Err(Verdict::NoRow)) => {
            tracing::error!(
                path = path.as_ref().map(MatchedPath::as_str),
                "no row of the table of access is for a route"
            );
            return Err(refused(Problem::forbidden("nobody may do this")));
        }
    };
    let caller = match api.gate.who(&parts.headers, from).await {
        Ok(who) => Caller { who, need: rule.need, from },
        Err(_) if rule.need == Need::Nothing => Caller::stranger(from),
        Err(Refused::Unknown) => return Err(refused(Problem::unauthorized())),
        Err(Refused::TooOften(wait)) => return Err(refused(Problem::too_many(wait))),
    };
    if rule.need != Need::Nothing
        && let Err(wait) = api.gate.in_time(&caller.who)
    {
        return Err(refused(Problem::too_many(wait)));
    }
    if !caller.can() && rule.need != Need::Nothing {
        return Err(refused(missing(rule.need)));
    }
    if !caller.everywhere() {
        held(api, parts, rule.scope, &caller).await.map_err(refused)?;
    }
    Ok(caller)
}

/// Holds a caller of some queues only to these.
async fn held(api: &Api, parts: &mut Parts, scope: Scope, caller: &Caller) -> Result<(), Problem> {
    match scope {
        Scope::Nothing | Scope::Filtered => Ok(()),
        Scope::Whole => Err(Problem::forbidden("this is about every queue, and you may see some of them only")),
        Scope::Queue => {
            let key = segment(api, parts).await?;
            if caller.may(&key) { Ok(()) } else { Err(no_such_queue(&key)) }
        }
        Scope::Item => {
            let id = segment(api, parts).await?;
            match api.mirror.queue_of(read_id(&id)?).await? {
                Some(queue) if caller.may(&queue) => Ok(()),
                _ => Err(no_such_item(&id)),
            }
        }
    }
}

async fn segment(api: &Api, parts: &mut Parts) -> Result<String, Problem> {
    let super::extract::Segment(text) = super::extract::Segment::from_request_parts(parts, api).await?;
    Ok(text)
}

fn no_such_method(parts: &Parts, path: &str) -> Response {
    let mut response = super::method_refused(&parts.method, &parts.uri).into_response();
    if let Ok(value) = HeaderValue::from_str(&allowed(path)) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::who::Role;

    /// Somebody with every role in these queues, who asks for this.
    pub(in crate::http) fn caller_of(need: Need, queues: &[&str]) -> Caller {
        let queues = queues.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let rights = Rights { roles: Role::ALL.into_iter().collect(), queues, reveal: false };
        let who = Who::new("ann".to_owned(), Kind::Token, vec![rights], None, None);
        Caller { who: Arc::new(who), need, from: None }
    }

    #[tokio::test]
    async fn whoever_looks_sees_that_a_token_expired_or_was_revoked() {
        let caller = |expires_at: Option<Timestamp>| {
            let who = Who::new("t".to_owned(), Kind::Oidc, Vec::new(), None, expires_at);
            Caller { who: Arc::new(who), need: Need::Items, from: None }
        };
        let over = caller(now().checked_sub(Duration::from_millis(1)).ok());
        assert!(over.gone().now_or_never().is_some());
        let good = caller(now().checked_add(Duration::from_hours(1)).ok());
        assert!(good.gone().now_or_never().is_none());
        good.who.gone.cancel();
        assert!(good.gone().now_or_never().is_some());
        assert!(caller(None).gone().now_or_never().is_none());
    }
}
