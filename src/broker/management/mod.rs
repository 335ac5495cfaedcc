//! RabbitMQ's management API, as far as control needs it: the version, policies, a queue's counters, and
//! [what there is](Management::observe).
//!
//! Its numbers lag (5-10 s), so nothing that moves items decides by them alone. Fields that a broker version does not
//! know are absent and read as zero.

mod observe;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::trust::Trust;
use crate::topology::desired::Policy;
use crate::topology::version::Version;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept: shorter than the minute after which the broker closes it, or a request would meet that.
pub const IDLE: Duration = Duration::from_secs(30);

/// A client for one virtual host.
#[derive(Clone)]
pub struct Management {
    pub(super) http: reqwest::Client,
    /// Nodes of one cluster: any of them can answer.
    bases: Arc<[Url]>,
    /// The one that answered last; clones share it.
    answering: Arc<AtomicUsize>,
    pub(super) vhost: String,
}

/// What went wrong with the management API. No variant repeats the URL: it holds a password.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error("broker.management_url is not usable: {0}")]
    Url(String),
    #[error("the management API does not answer")]
    Unreachable(#[source] reqwest::Error),
    #[error("the management API refused to {operation}: {status} {body}")]
    Refused { operation: &'static str, status: u16, body: String },
    #[error("the management API answered something else than expected to {operation}")]
    Unreadable { operation: &'static str, source: reqwest::Error },
}

/// A queue's counters, some seconds old.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QueueStats {
    /// Waiting for a robot.
    #[serde(rename = "messages_ready")]
    pub ready: u64,
    /// Bytes of the bodies of those.
    #[serde(rename = "message_bytes_ready")]
    pub ready_bytes: u64,
    /// With robots.
    #[serde(rename = "messages_unacknowledged")]
    pub unacked: u64,
    /// Waiting for a broker-side delayed retry (4.3).
    #[serde(rename = "messages_delayed")]
    pub delayed: u64,
    /// Dead letters not yet taken by their target (quorum).
    #[serde(rename = "messages_dlx")]
    pub dead_lettering: u64,
    pub consumers: u64,
    /// The one policy in force, if any.
    pub policy: Option<String>,
    #[serde(rename = "message_stats")]
    rates: Rates,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Rates {
    ack: u64,
    deliver_get: u64,
    redeliver: u64,
}

impl QueueStats {
    /// Nothing ready, with robots, delayed or dying.
    #[must_use]
    pub const fn at_rest(&self) -> bool {
        self.ready == 0 && self.held() == 0
    }

    /// With robots, delayed or dying.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.unacked + self.delayed + self.dead_lettering
    }

    /// Bytes of a body on average, of what waits; `None` while that is nothing.
    #[must_use]
    pub const fn mean_size(&self) -> Option<u64> {
        self.ready_bytes.checked_div(self.ready)
    }

    /// Acks since the queue was made or its broker started. A purge does not raise it.
    #[must_use]
    pub const fn acks(&self) -> u64 {
        self.rates.ack
    }

    /// Deliveries and gets since then, those of messages that had come back among them.
    #[must_use]
    pub const fn delivered(&self) -> u64 {
        self.rates.deliver_get
    }

    /// Those of messages that had come back.
    #[must_use]
    pub const fn redelivered(&self) -> u64 {
        self.rates.redeliver
    }
}

impl Management {
    /// Reads `http(s)://user:password@host:port` URLs. One that does not answer passes the request on to the next.
    ///
    /// # Errors
    /// Where one is none, without repeating it: it holds a password.
    pub fn new<'u>(urls: impl Iterator<Item = &'u str>, vhost: &str, trust: &Trust) -> Result<Self, ManagementError> {
        let bases: Arc<[Url]> =
            urls.map(Url::parse).collect::<Result<_, _>>().map_err(|error| ManagementError::Url(error.to_string()))?;
        let mut http = reqwest::Client::builder().timeout(TIMEOUT).pool_idle_timeout(IDLE);
        if bases.iter().all(|base| base.scheme() == "http") {
            // Without TLS nothing is to fail on a machine that has no CA certificates.
            http = http.tls_certs_only([]);
        } else {
            http = trust.certificates().fold(http, reqwest::ClientBuilder::add_root_certificate);
        }
        let http = http.build().map_err(ManagementError::Unreachable)?;
        Ok(Self { http, bases, answering: Arc::default(), vhost: vhost.to_owned() })
    }

    /// The broker's version.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn version(&self) -> Result<Option<(Version, String)>, ManagementError> {
        #[derive(Deserialize)]
        struct Overview {
            rabbitmq_version: String,
        }
        let overview: Overview = self.get("say its version", &["overview"]).await?;
        Ok(Version::parse(&overview.rabbitmq_version).map(|version| (version, overview.rabbitmq_version)))
    }

    /// A queue's counters; `None` where the queue is not there.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn queue(&self, name: &str) -> Result<Option<QueueStats>, ManagementError> {
        match self.get("describe a queue", &["queues", &self.vhost, name]).await {
            Ok(stats) => Ok(Some(stats)),
            Err(ManagementError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether anything is bound to an exchange: a queue, or another exchange. This is no statistic and does not lag, but a node
    /// of a cluster may not have heard yet of what another just did.
    ///
    /// # Errors
    /// Where the API does not answer as it should, and where there is no such exchange.
    pub async fn is_bound(&self, exchange: &str) -> Result<bool, ManagementError> {
        let path = ["exchanges", &self.vhost, exchange, "bindings", "source"];
        let bindings: Vec<serde::de::IgnoredAny> = self.get("list bindings", &path).await?;
        Ok(!bindings.is_empty())
    }

    /// Sets a policy, replacing one of its name.
    ///
    /// # Errors
    /// Where the API does not answer or refuses it.
    pub async fn put_policy(&self, policy: &Policy) -> Result<(), ManagementError> {
        let operation = "set a policy";
        let body = json!({
            "pattern": policy.pattern,
            "definition": policy.definition,
            "priority": policy.priority,
            "apply-to": policy.apply_to,
        });
        let path = ["policies", &self.vhost, &policy.name];
        let answer = self.send(&path, |url| self.http.put(url).json(&body)).await?;
        accepted(operation, answer).await.map(|_| ())
    }

    /// Removes a policy; one that is not there is gone already.
    ///
    /// # Errors
    /// Where the API does not answer or refuses it.
    pub async fn remove_policy(&self, name: &str) -> Result<(), ManagementError> {
        let path = ["policies", &self.vhost, name];
        let answer = self.send(&path, |url| self.http.delete(url)).await?;
        match accepted("remove a policy", answer).await {
            Ok(_) | Err(ManagementError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn get<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        path: &[&str],
    ) -> Result<T, ManagementError> {
        let answer = self.send(path, |url| self.http.get(url)).await?;
        let answer = accepted(operation, answer).await?;
        answer.json().await.map_err(|source| ManagementError::Unreadable { operation, source: source.without_url() })
    }

    /// Sends a request that may be sent twice, to whoever answers.
    pub(super) async fn send(
        &self,
        path: &[&str],
        request: impl Fn(Url) -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ManagementError> {
        let first = self.answering.load(Ordering::Relaxed);
        let mut silent = Err(ManagementError::Url("there is none".to_owned()));
        for turn in first..first + self.bases.len() {
            let base = &self.bases[turn % self.bases.len()];
            match request(url(base, path)).send().await {
                Ok(answer) => {
                    self.answering.store(turn % self.bases.len(), Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => silent = Err(ManagementError::Unreachable(error.without_url())),
            }
        }
        silent
    }
}

fn url(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("api").extend(path);
    }
    url
}

pub(super) async fn accepted(
    operation: &'static str,
    answer: reqwest::Response,
) -> Result<reqwest::Response, ManagementError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.text().await.unwrap_or_default();
    Err(ManagementError::Refused { operation, status: status.as_u16(), body: body.chars().take(500).collect() })
}
