//! The broker that is measured on: what it is, and the virtual hosts that are made on it and taken away again.
//!
//! Every virtual host is noted before it is asked for and forgotten once it is gone, so that [`Site::clear`] takes away
//! whatever an end at any moment left.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::uri::AMQPUri;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use super::{BenchError, process};
use crate::broker::connection::Endpoint;
use crate::broker::management::IDLE;
use crate::settings::BrokerSettings;
use crate::topology::version::Version;

/// A broker under load may take long to delete a virtual host.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Two periods of the broker's statistics, and some.
const FIRST_STATISTICS: Duration = Duration::from_secs(12);

pub(super) struct Site {
    api: Api,
    amqp: Url,
    /// Who works in the virtual hosts.
    user: String,
    pub version: Version,
    pub version_text: String,
    pub node: String,
    /// The node's process, where it runs on this machine and can be told.
    pub process: Option<u32>,
    /// Begins the names of this run's virtual hosts.
    prefix: String,
    count: AtomicU32,
    made: Arc<Made>,
}

/// Names of virtual hosts that are there, or may be.
#[derive(Default)]
struct Made {
    names: Mutex<Vec<String>>,
    /// Held while one is being made: to delete it in the same moment might come too early.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// A virtual host of one measurement.
pub(super) struct Vhost {
    pub name: String,
    /// With a password; not for printing.
    pub amqp_url: String,
    /// With a password; not for printing.
    pub management_url: String,
}

#[derive(Clone)]
struct Api {
    http: reqwest::Client,
    base: Url,
}

impl Site {
    /// Asks the broker who it is, and whether we may make virtual hosts. Changes nothing.
    pub(super) async fn open(settings: &BrokerSettings, id: &str) -> Result<Self, BenchError> {
        let Some(management_url) = &settings.management_url else {
            return Err(BenchError::Settings(
                "broker.management_url is empty; virtual hosts are made there".to_owned(),
            ));
        };
        let unusable =
            |key: &'static str| move |error: url::ParseError| BenchError::Settings(format!("{key}: {error}"));
        let base = Url::parse(management_url.first()).map_err(unusable("broker.management_url"))?;
        let amqp = Url::parse(settings.amqp_url.first()).map_err(unusable("broker.amqp_url"))?;
        let api = Api::new(base)?;
        api.needs_administrator().await?;
        let endpoint = Endpoint::new(settings.amqp_url.first(), settings.connect_timeout)
            .map_err(|error| BenchError::Settings(error.to_string()))?;
        // Over TLS the first measurement finds out.
        endpoint.version().await.map_err(|error| {
            BenchError::Unreachable(format!("the broker at {} cannot be reached: {error}", endpoint.address()))
        })?;

        let overview = api.get("say its version", &["overview"]).await?;
        let version_text = overview["rabbitmq_version"].as_str().unwrap_or_default().to_owned();
        let version = Version::parse(&version_text).ok_or_else(|| {
            BenchError::Unreachable("what answers at broker.management_url says no version of RabbitMQ".to_owned())
        })?;
        let node = overview["node"].as_str().unwrap_or_default().to_owned();
        let uri: AMQPUri = amqp.as_str().parse().map_err(BenchError::Settings)?;
        let user = uri.authority.userinfo.username.clone();
        let os_pid = api.os_pid(&node).await;
        let process = match os_pid {
            Some(os_pid) if is_here(&uri).await => process::broker_process(&node, &os_pid),
            _ => None,
        };
        Ok(Self {
            api,
            amqp,
            user,
            version,
            version_text,
            node,
            process,
            prefix: format!("warrend-bench-{id}"),
            count: AtomicU32::new(0),
            made: Arc::default(),
        })
    }

    /// Makes a virtual host.
    pub(super) async fn vhost(&self) -> Result<Vhost, BenchError> {
        let name = format!("{}-{}", self.prefix, self.count.fetch_add(1, Ordering::Relaxed) + 1);
        let (api, made, user, vhost) = (self.api.clone(), Arc::clone(&self.made), self.user.clone(), name.clone());
        // Asked for to the end, also when nobody waits for it any more.
        let held = Arc::clone(&self.made.making).lock_owned().await;
        let making = tokio::spawn(async move {
            let _held = held;
            made.note(&vhost);
            api.send(Method::PUT, "make a virtual host", &["vhosts", &vhost], Some(json!({}))).await?;
            let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
            api.send(Method::PUT, "give permissions", &["permissions", &vhost, &user], Some(everything)).await
        });
        making.await.map_err(|error| BenchError::Failed(format!("a virtual host was not made: {error}")))??;
        let mut amqp = self.amqp.clone();
        amqp.set_path(&name);
        Ok(Vhost { name, amqp_url: amqp.to_string(), management_url: self.api.base.to_string() })
    }

    /// Deletes a virtual host with everything in it.
    pub(super) async fn delete(&self, name: &str) -> Result<(), BenchError> {
        match self.api.send(Method::DELETE, "delete a virtual host", &["vhosts", name], None).await {
            Ok(_) | Err(BenchError::Refused { status: 404, .. }) => {
                self.made.forget(name);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes what is left. Answers those that would not go.
    pub(super) async fn clear(&self) -> Vec<String> {
        let _held = self.made.making.lock().await;
        for name in self.made.all() {
            // Those that stay are the answer.
            let _ = self.delete(&name).await;
        }
        self.made.all()
    }

    /// Starts a dynamic shovel between two queues. `Some`: this broker has none, and what it says of it.
    pub(super) async fn shovel(&self, vhost: &Vhost, from: &str, to: &str) -> Result<Option<String>, BenchError> {
        // Without a host: the shovel runs in the broker and connects to it directly.
        let uri = format!("amqp:///{}", vhost.name);
        let value = json!({
            "src-protocol": "amqp091", "src-uri": uri, "src-queue": from, "src-prefetch-count": 1000,
            "dest-protocol": "amqp091", "dest-uri": uri, "dest-queue": to,
            "ack-mode": "on-confirm",
        });
        let path = ["parameters", "shovel", &vhost.name, "bench"];
        match self.api.send(Method::PUT, "start a shovel", &path, Some(json!({ "value": value }))).await {
            Ok(_) => Ok(None),
            Err(BenchError::Refused { status: 400, body, .. }) if body.contains("not found") => {
                Ok(Some("the plugin rabbitmq_shovel is not enabled on this broker".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// The node's memory as it says itself, in bytes, some seconds old.
    pub(super) async fn memory(&self) -> Option<u64> {
        self.api.get("describe its node", &["nodes", &self.node]).await.ok()?["mem_used"].as_u64()
    }
}

impl Made {
    fn note(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }

    fn forget(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != name);
    }

    fn all(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Api {
    fn new(base: Url) -> Result<Self, BenchError> {
        let mut http = reqwest::Client::builder().timeout(TIMEOUT).pool_idle_timeout(IDLE);
        if base.scheme() == "http" {
            // Without TLS nothing is to fail on a machine that has no CA certificates.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|error| BenchError::Failed(format!("cannot start: {error}")))?;
        Ok(Self { http, base })
    }

    async fn needs_administrator(&self) -> Result<(), BenchError> {
        let who = match self.get("say who we are", &["whoami"]).await {
            Err(BenchError::Refused { status: 401, .. }) => {
                return Err(BenchError::Failed(
                    "the broker does not know the user and password of broker.management_url".to_owned(),
                ));
            }
            who => who?,
        };
        if is_administrator(&who["tags"]) {
            return Ok(());
        }
        let name = who["name"].as_str().unwrap_or_default();
        Err(BenchError::Failed(format!(
            "the benchmark makes virtual hosts of its own, which takes an administrator; '{name}' of \
             broker.management_url is none"
        )))
    }

    /// The node's process as it knows it itself. A young node says so only with its first statistics, and some are told to
    /// make none: `None` after a while.
    async fn os_pid(&self, node: &str) -> Option<String> {
        let asking = async {
            loop {
                if let Ok(facts) = self.get("describe its node", &["nodes", node]).await
                    && let Some(os_pid) = facts["os_pid"].as_str()
                {
                    return os_pid.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(FIRST_STATISTICS, asking).await.ok()
    }

    async fn get(&self, operation: &'static str, path: &[&str]) -> Result<Value, BenchError> {
        self.send(Method::GET, operation, path, None).await
    }

    async fn send(
        &self,
        method: Method,
        operation: &'static str,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Value, BenchError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        // The address holds a password.
        let lost = |error: reqwest::Error| {
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            BenchError::Unreachable(format!(
                "the management API (broker.management_url) cannot be reached: {error}{cause}"
            ))
        };
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        let text = answer.text().await.map_err(lost)?;
        if status.is_success() {
            return Ok(serde_json::from_str(&text).unwrap_or(Value::Null));
        }
        let body = text.chars().take(500).collect();
        Err(BenchError::Refused { operation, status: status.as_u16(), body })
    }
}

/// A list of tags, or the text with commas that older versions answer.
fn is_administrator(tags: &Value) -> bool {
    match tags {
        Value::String(text) => text.split(',').any(|tag| tag.trim() == "administrator"),
        Value::Array(tags) => tags.iter().any(|tag| tag == "administrator"),
        _ => false,
    }
}

/// A connection to it leads from an address of this machine to the same one.
async fn is_here(uri: &AMQPUri) -> bool {
    let address = (uri.authority.host.as_str(), uri.authority.port);
    let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return false };
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(here), Ok(there)) => here.ip() == there.ip(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_says_so_in_a_list_or_in_a_text() {
        for (tags, expected) in [
            (json!(["management", "administrator"]), true),
            (json!("policymaker, administrator"), true),
            (json!(["monitoring"]), false),
            (json!("administrators"), false),
            (json!(null), false),
        ] {
            assert_eq!(is_administrator(&tags), expected, "{tags}");
        }
    }
}
