//! Which route asks for what, in one table. A route that is not in it is refused to everybody.
//!
//! Beside what its caller must be able to do, a row says what the route is about, which is how callers of some queues only
//! are held to them: by the path, by the queue of the item in the path, or by what the handler itself leaves out.

use super::problem::Problem;
use crate::who::Need;

/// What a route is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The queue whose key stands in the path: to others it is not there.
    Queue,
    /// The item whose id stands in the path: with its queue it is there or not.
    Item,
    /// Several queues: the handler shows and touches only those that its caller may.
    Filtered,
    /// The daemon as a whole: not for callers of some queues only.
    Whole,
    /// Nothing of any queue.
    Nothing,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub method: &'static str,
    /// As the router has it.
    pub path: &'static str,
    pub need: Need,
    pub scope: Scope,
}

const fn rule(method: &'static str, path: &'static str, need: Need, scope: Scope) -> Rule {
    Rule { method, path, need, scope }
}

/// Every route there may be.
pub(super) const TABLE: &[Rule] = &[
    rule("GET", "/healthz", Need::Nothing, Scope::Nothing),
    // Says no more than yes or no to those who may not read everything.
    rule("GET", "/readyz", Need::Nothing, Scope::Filtered),
    rule("GET", "/metrics", Need::Read, Scope::Whole),
    // What they say is in every copy of the program.
    rule("GET", "/api/openapi.json", Need::Nothing, Scope::Nothing),
    rule("GET", "/api/docs", Need::Nothing, Scope::Nothing),
    rule("GET", "/api/docs.css", Need::Nothing, Scope::Nothing),
    rule("GET", "/api/v1/queues", Need::Items, Scope::Filtered),
    rule("GET", "/api/v1/queues/{key}", Need::Items, Scope::Queue),
    rule("POST", "/api/v1/queues/{key}/items", Need::Enqueue, Scope::Queue),
    rule("POST", "/api/v1/queues/{key}/claim", Need::Work, Scope::Queue),
    rule("POST", "/api/v1/queues/{key}/pause", Need::Operate, Scope::Queue),
    rule("POST", "/api/v1/queues/{key}/resume", Need::Operate, Scope::Queue),
    rule("GET", "/api/v1/items", Need::Items, Scope::Filtered),
    rule("GET", "/api/v1/items/{id}", Need::Items, Scope::Item),
    rule("PATCH", "/api/v1/items/{id}", Need::Operate, Scope::Item),
    rule("GET", "/api/v1/items/{id}/timeline", Need::Items, Scope::Item),
    rule("GET", "/api/v1/items/{id}/attempts", Need::Items, Scope::Item),
    rule("GET", "/api/v1/items/{id}/payload", Need::Items, Scope::Item),
    rule("GET", "/api/v1/items/{id}/why", Need::Items, Scope::Item),
    rule("POST", "/api/v1/items/{id}/claim", Need::Work, Scope::Item),
    rule("POST", "/api/v1/items/{id}/outcome", Need::Work, Scope::Item),
    rule("POST", "/api/v1/items/{id}/heartbeat", Need::Work, Scope::Item),
    rule("POST", "/api/v1/items/{id}/return", Need::Work, Scope::Item),
    rule("POST", "/api/v1/items/{id}/hold", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/release", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/requeue", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/cancel", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/restore", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/notes", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/{id}/assign", Need::Operate, Scope::Item),
    rule("POST", "/api/v1/items/actions", Need::Operate, Scope::Filtered),
    rule("GET", "/api/v1/items/actions", Need::Operate, Scope::Filtered),
    rule("GET", "/api/v1/items/actions/{id}", Need::Operate, Scope::Filtered),
    rule("GET", "/api/v1/items/actions/{id}/results", Need::Operate, Scope::Filtered),
    rule("POST", "/api/v1/items/actions/{id}/cancel", Need::Operate, Scope::Filtered),
    rule("POST", "/api/v1/items/actions/{id}/run", Need::Operate, Scope::Filtered),
    rule("POST", "/api/v1/items/actions/{id}/resume", Need::Operate, Scope::Filtered),
    rule("POST", "/api/v1/items/actions/{id}/undo", Need::Operate, Scope::Filtered),
    rule("GET", "/api/v1/failures", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/failures/{fingerprint}", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/robots", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/events", Need::Items, Scope::Filtered),
    rule("GET", "/api/v1/export/items", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/export/attempts", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/parked", Need::Read, Scope::Filtered),
    rule("GET", "/api/v1/unrouted", Need::Read, Scope::Whole),
    rule("GET", "/api/v1/plan", Need::Administer, Scope::Whole),
    rule("POST", "/api/v1/apply", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/revisions", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/webhooks", Need::Administer, Scope::Whole),
    rule("POST", "/api/v1/webhooks", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/webhooks/{id}", Need::Administer, Scope::Whole),
    rule("PATCH", "/api/v1/webhooks/{id}", Need::Administer, Scope::Whole),
    rule("DELETE", "/api/v1/webhooks/{id}", Need::Administer, Scope::Whole),
    rule("POST", "/api/v1/webhooks/{id}/resume", Need::Administer, Scope::Whole),
    rule("POST", "/api/v1/webhooks/{id}/test", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/webhooks/{id}/deliveries", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/tokens", Need::Administer, Scope::Whole),
    rule("POST", "/api/v1/tokens", Need::Administer, Scope::Whole),
    rule("DELETE", "/api/v1/tokens/{id}", Need::Administer, Scope::Whole),
    rule("GET", "/api/v1/audit", Need::Administer, Scope::Whole),
];

/// What a request to this route needs. `HEAD` is asked as `GET` is.
///
/// # Errors
/// The answer to a request that no row is for.
pub(super) fn rule_for(method: &str, path: &str) -> Result<&'static Rule, Verdict> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut of_path = TABLE.iter().filter(|rule| rule.path == path).peekable();
    if of_path.peek().is_none() {
        return Err(Verdict::NoRow);
    }
    of_path.find(|rule| rule.method == method).ok_or(Verdict::NoMethod)
}

/// Why no row is for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The router knows the path and the table does not: a mistake of ours, so nobody gets through.
    NoRow,
    /// Neither knows the method there, as far as the table goes.
    NoMethod,
}

/// The methods of a path, as the header `Allow` lists them.
pub(super) fn allowed(path: &str) -> String {
    let mut methods: Vec<&str> = TABLE.iter().filter(|rule| rule.path == path).map(|rule| rule.method).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.join(",")
}

/// 403: a right is missing. Which one is no secret: the caller is known, and the table is in the documents.
pub(super) fn missing(need: Need) -> Problem {
    let (what, roles) = match need {
        Need::Nothing | Need::Items => ("see items", "any role"),
        Need::Read => ("read this", "viewer, operator or admin"),
        Need::Enqueue => ("put items in", "producer, operator or admin"),
        Need::Work => ("work on items", "worker, operator or admin"),
        Need::Operate => ("decide over items and queues", "operator or admin"),
        Need::Administer => ("administer the daemon", "admin"),
    };
    Problem::forbidden(format!("your roles do not let you {what}; it takes {roles}"))
}
