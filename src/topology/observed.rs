//! What is on the broker under our prefix, as values: the other side of a plan.
//!
//! `broker::management` reads it. Only what a plan is made from stands here, in RabbitMQ's own words where they are
//! stored so: arguments and policies come back as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::desired::{Binding, Policy};
use super::version::Version;

/// A look at the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub version: Version,
    /// Our exchanges by name.
    pub exchanges: BTreeMap<String, ObservedExchange>,
    /// Queues under our prefix by name.
    pub queues: BTreeMap<String, ObservedQueue>,
    /// From our exchanges to queues, without arguments. Foreign queues are among them.
    pub bindings: BTreeSet<Binding>,
    /// From our exchanges to queues, with arguments: nothing that we made, and they route as the others do.
    pub odd_bindings: BTreeSet<Binding>,
    /// Every policy of the virtual host by name, ours and others'.
    pub policies: BTreeMap<String, Policy>,
    /// Every operator policy of the virtual host by name. They are merged with what applies, and the stricter value wins.
    pub operator_policies: BTreeMap<String, Policy>,
}

impl Observed {
    /// A broker on which there is nothing of ours.
    #[must_use]
    pub const fn nothing(version: Version) -> Self {
        Self {
            version,
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            bindings: BTreeSet::new(),
            odd_bindings: BTreeSet::new(),
            policies: BTreeMap::new(),
            operator_policies: BTreeMap::new(),
        }
    }
}

/// An exchange as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedExchange {
    /// `topic`, `direct`, `fanout`, or another.
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// Exchange that gets what no binding takes.
    pub alternate: Option<String>,
}

/// A queue as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedQueue {
    /// `quorum`, `classic`, `stream`, or another.
    pub kind: String,
    pub arguments: Map<String, Value>,
    pub durable: bool,
    pub auto_delete: bool,
    /// It goes with the connection that made it.
    pub exclusive: bool,
    /// Seconds old, `None` where the broker did not say.
    pub counts: Counts,
    /// Name of the policy in effect.
    pub policy: Option<String>,
}

/// How many messages are in a queue, some seconds ago; `None` where the broker did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for a robot.
    pub ready: Option<u64>,
    /// With robots.
    pub unacked: Option<u64>,
    /// Both, and what waits for a broker-side retry.
    pub total: Option<u64>,
}
