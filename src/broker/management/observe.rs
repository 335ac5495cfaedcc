//! Reading what is there: the observed side of a plan.
//!
//! Lists are read in pages and without statistics, so that a thousand queues cost the broker little. They are not one
//! snapshot: what changes meanwhile shows in the next plan.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::{try_join_all, try_join4};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Management, ManagementError, accepted};
use crate::topology::desired::{Binding, Policy};
use crate::topology::names::Names;
use crate::topology::observed::{Counts, Observed, ObservedExchange, ObservedQueue};
use crate::topology::version::Version;

/// The largest page the API gives.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    page_count: usize,
}

#[derive(Deserialize)]
struct QueueRow {
    name: String,
    /// The only one that every version gives of every queue.
    arguments: Map<String, Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
    durable: Option<bool>,
    auto_delete: Option<bool>,
    /// Null on quorum queues and streams.
    exclusive: Option<bool>,
    messages_ready: Option<u64>,
    messages_unacknowledged: Option<u64>,
    messages: Option<u64>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct ExchangeRow {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Map<String, Value>,
}

#[derive(Deserialize)]
struct BindingRow {
    source: String,
    destination: String,
    destination_type: String,
    routing_key: String,
    arguments: Map<String, Value>,
}

impl Management {
    /// What is on the broker under our prefix, which runs this version.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn observe(&self, version: Version, names: &Names) -> Result<Observed, ManagementError> {
        let vhost = self.vhost.as_str();
        let prefix = format!("^{}\\.", names.prefix().replace('.', "\\."));
        let ours = names.exchanges();
        let sources = ours.iter().map(|exchange| async move {
            let path = ["exchanges", vhost, exchange, "bindings", "source"];
            self.get::<Vec<BindingRow>>("list bindings", &path).await
        });
        let (queues, exchanges, bindings, policies) = try_join4(
            self.pages::<QueueRow>("list queues", &["queues", vhost], &prefix),
            self.pages::<ExchangeRow>("list exchanges", &["exchanges", vhost], &prefix),
            try_join_all(sources),
            self.policies(),
        )
        .await?;
        let (policies, operator_policies) = policies;
        let exchanges = exchanges.into_iter().filter(|row| ours.contains(&row.name)).map(exchange).collect();
        let (bindings, odd_bindings) = split(bindings.into_iter().flatten());
        let queues = queues.into_iter().map(queue).collect();
        Ok(Observed { version, exchanges, queues, bindings, odd_bindings, policies, operator_policies })
    }

    /// One queue as it is; `None` where it is not there.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn observe_queue(&self, name: &str) -> Result<Option<ObservedQueue>, ManagementError> {
        match self.get::<QueueRow>("describe a queue", &["queues", &self.vhost, name]).await {
            Ok(row) => Ok(Some(queue(row).1)),
            Err(ManagementError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every policy of the virtual host, and every operator policy.
    async fn policies(&self) -> Result<(BTreeMap<String, Policy>, BTreeMap<String, Policy>), ManagementError> {
        let by_name = |list: Vec<Policy>| list.into_iter().map(|policy| (policy.name.clone(), policy)).collect();
        let policies = self.get("list policies", &["policies", &self.vhost]).await?;
        let operators = self.get("list operator policies", &["operator-policies", &self.vhost]).await?;
        Ok((by_name(policies), by_name(operators)))
    }

    /// Everything whose name fits a regular expression, page by page.
    async fn pages<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        path: &[&str],
        pattern: &str,
    ) -> Result<Vec<T>, ManagementError> {
        let mut all = Vec::new();
        for number in 1.. {
            let (page, size) = (number.to_string(), PAGE.to_string());
            let query = [
                ("page", page.as_str()),
                ("page_size", size.as_str()),
                ("name", pattern),
                ("use_regex", "true"),
                ("disable_stats", "true"),
                ("enable_queue_totals", "true"),
            ];
            let answer = self.send(path, |url| self.http.get(url).query(&query)).await?;
            let page: Page<T> = match accepted(operation, answer).await {
                Ok(answer) => answer
                    .json()
                    .await
                    .map_err(|source| ManagementError::Unreadable { operation, source: source.without_url() })?,
                // There was one more page a moment ago.
                Err(ManagementError::Refused { status: 400, .. }) if number > 1 => break,
                Err(error) => return Err(error),
            };
            all.extend(page.items);
            if number >= page.page_count {
                break;
            }
        }
        Ok(all)
    }
}

fn exchange(row: ExchangeRow) -> (String, ObservedExchange) {
    let alternate = row.arguments.get("alternate-exchange").and_then(Value::as_str).map(str::to_owned);
    let exchange = ObservedExchange {
        kind: row.kind,
        durable: row.durable,
        auto_delete: row.auto_delete,
        internal: row.internal,
        alternate,
    };
    (row.name, exchange)
}

fn queue(row: QueueRow) -> (String, ObservedQueue) {
    // A queue whose node is down comes without its type on old versions.
    let declared = || row.arguments.get("x-queue-type").and_then(Value::as_str).map(str::to_owned);
    let kind = row.kind.or_else(declared).unwrap_or_else(|| "classic".to_owned());
    let queue = ObservedQueue {
        kind,
        arguments: row.arguments,
        durable: row.durable.unwrap_or(true),
        auto_delete: row.auto_delete.unwrap_or(false),
        exclusive: row.exclusive.unwrap_or(false),
        counts: Counts { ready: row.messages_ready, unacked: row.messages_unacknowledged, total: row.messages },
        policy: row.policy.filter(|name| !name.is_empty()),
    };
    (row.name, queue)
}

/// Bindings to queues: those without arguments, and those with.
fn split(rows: impl Iterator<Item = BindingRow>) -> (BTreeSet<Binding>, BTreeSet<Binding>) {
    let (mut plain, mut odd) = (BTreeSet::new(), BTreeSet::new());
    for row in rows.filter(|row| row.destination_type == "queue") {
        let side = if row.arguments.is_empty() { &mut plain } else { &mut odd };
        side.insert(Binding { exchange: row.source, queue: row.destination, key: row.routing_key });
    }
    (plain, odd)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(row: Value) -> ObservedQueue {
        queue(serde_json::from_value(row).unwrap()).1
    }

    #[test]
    fn a_queue_is_read_as_each_version_tells_it() {
        // 4.3, classic and quorum; 3.10, declared without a type; a stream, of which nobody counts anything.
        let classic = read(json!({"arguments": {"x-max-priority": 8, "x-queue-type": "classic"}, "auto_delete": false,
            "durable": true, "exclusive": false, "messages": 1, "messages_ready": 1, "messages_unacknowledged": 0,
            "name": "wq.q.a", "policy": "wq.q.a", "state": "running", "type": "classic"}));
        assert_eq!((classic.kind.as_str(), classic.policy.as_deref()), ("classic", Some("wq.q.a")));
        assert_eq!(classic.counts, Counts { ready: Some(1), unacked: Some(0), total: Some(1) });
        let plain =
            read(json!({"arguments": {}, "auto_delete": false, "durable": true, "exclusive": false, "name": "p"}));
        assert_eq!((plain.kind.as_str(), plain.policy, plain.counts), ("classic", None, Counts::default()));
        let stream = read(json!({"arguments": {"x-queue-type": "stream"}, "auto_delete": false, "durable": true,
            "exclusive": null, "name": "wq.tap", "totals": null, "type": "stream"}));
        assert_eq!((stream.kind.as_str(), stream.exclusive), ("stream", false));
        let down = read(json!({"arguments": {"x-queue-type": "quorum"}, "name": "q", "state": "down"}));
        assert_eq!(down.kind, "quorum");
    }

    #[test]
    fn bindings_to_exchanges_are_nobodys_business_and_those_with_arguments_are_apart() {
        let row = |destination: &str, kind: &str, arguments: Value| {
            serde_json::from_value(json!({"source": "wq.items", "destination": destination, "destination_type": kind,
                "routing_key": "a", "arguments": arguments, "properties_key": "a"}))
            .unwrap()
        };
        let rows = [
            row("amq.topic", "exchange", json!({})),
            row("wq.q.a", "queue", json!({})),
            row("b", "queue", json!({"x": 1})),
        ];
        let (plain, odd) = split(rows.into_iter());
        let queues = |bindings: &BTreeSet<Binding>| bindings.iter().map(|one| one.queue.clone()).collect::<Vec<_>>();
        assert_eq!((queues(&plain), queues(&odd)), (vec!["wq.q.a".to_owned()], vec!["b".to_owned()]));
    }
}
