//! A daemon of the benchmark's own: this very executable with `serve`, its settings in the environment, its mirror and
//! its definition in a temporary directory (on the disk that `TMPDIR` names).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::BenchError;
use super::site::Vhost;
use crate::settings::ENV_PREFIX;

/// The longest it may take to be ready, to catch up, or to stop.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often it is asked; what is waited for counts in the measurement.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A running daemon. Dropped, it is killed.
pub(super) struct Daemon {
    child: Child,
    dir: TempDir,
    door: Door,
}

/// Its HTTP API; clones share its connections.
#[derive(Clone)]
pub(super) struct Door {
    url: String,
    http: reqwest::Client,
}

impl Door {
    fn of(port: u16) -> Result<Self, BenchError> {
        // Whatever proxy the environment names: this is on this machine, and no TLS.
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).tcp_nodelay(true).timeout(PATIENCE).build();
        let http = http.map_err(|error| BenchError::Failed(format!("cannot start: {error}")))?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), http })
    }

    /// `None` where it does not answer well.
    async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?.error_for_status().ok()?;
        let text = answer.text().await.ok()?;
        Some(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Its answer, null where that has no body.
    pub(super) async fn post(&self, path: &str, content_type: &str, body: String) -> Result<Value, BenchError> {
        let failed = |error: &dyn std::fmt::Display| BenchError::Failed(format!("POST {path}: {error}"));
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", content_type).body(body);
        let answer = request.send().await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| failed(&error))?;
        match status.is_success() {
            true => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
            false => Err(failed(&format!("{status} {text}"))),
        }
    }
}

impl Daemon {
    /// Starts `executable` for one definition and waits until it is ready.
    pub(super) async fn start(executable: &Path, vhost: &Vhost, definition: &str) -> Result<Self, BenchError> {
        let (child, dir, port) = spawn(executable, vhost, definition)
            .map_err(|error| BenchError::Failed(format!("cannot start a daemon: {error}")))?;
        let mut daemon = Self { child, dir, door: Door::of(port)? };
        daemon.wait_until("ready", async |daemon| daemon.door.get("/readyz").await.is_some()).await?;
        Ok(daemon)
    }

    /// A door of a client's own, with connections of its own.
    pub(super) fn new_door(&self) -> Result<Door, BenchError> {
        Ok(Door { url: self.door.url.clone(), ..Door::of(0)? })
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the mirror has this many items of a queue, processed ones alone if `processed`.
    pub(super) async fn wait_for_items(&mut self, queue: &str, items: u32, processed: bool) -> Result<(), BenchError> {
        let path = format!("/api/v1/queues/{queue}");
        let (items, what) = (u64::from(items), if processed { "done with all items" } else { "aware of all items" });
        self.wait_until(what, async |daemon| {
            daemon.door.get(&path).await.is_some_and(|queue| count(&queue["counts"], processed) >= items)
        })
        .await
    }

    async fn wait_until(&mut self, what: &str, condition: impl AsyncFn(&Self) -> bool) -> Result<(), BenchError> {
        let wait = async {
            while !condition(&*self).await {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(self.failed(&format!("it ended before it was {what}: {status}")));
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(waited) => waited,
            Err(_) => Err(self.failed(&format!("it was not {what} within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Ends it well, and takes its directory away.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .map_err(|error| BenchError::Failed(format!("cannot stop the daemon: {error}")))?;
        let wait = async {
            loop {
                match self.child.try_wait() {
                    Ok(Some(status)) => return Ok(status),
                    Ok(None) => tokio::time::sleep(ASK_AGAIN).await,
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(&format!("told to stop it ended badly: {status}"))),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.failed(&format!("it did not stop within {} s", PATIENCE.as_secs()))),
        }
    }

    /// With the end of its log, which goes away with its directory.
    fn failed(&self, what: &str) -> BenchError {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n  ");
        BenchError::Failed(format!("the benchmark's daemon: {what}; the end of its log:\n  {end}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(executable: &Path, vhost: &Vhost, definition: &str) -> std::io::Result<(Child, TempDir, u16)> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("queues"))?;
    fs::write(path("queues").join("bench.yaml"), definition)?;
    let log = File::create(path("log"))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new(executable);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(ENV_PREFIX) {
            command.env_remove(name);
        }
    }
    for (name, value) in [
        ("BROKER__AMQP_URL", vhost.amqp_url.clone()),
        ("BROKER__MANAGEMENT_URL", vhost.management_url.clone()),
        ("MIRROR__URL", format!("sqlite://{}", path("mirror.db").display())),
        ("HTTP__LISTEN", format!("127.0.0.1:{port}")),
        ("DEFINITIONS__DIR", path("queues").display().to_string()),
    ] {
        command.env(format!("{ENV_PREFIX}{name}"), value);
    }
    // In there is no settings file.
    command.arg("serve").current_dir(dir.path());
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    Ok((child, dir, port))
}

/// Items that a queue's counts tell of.
fn count(counts: &Value, processed: bool) -> u64 {
    if processed {
        return counts["processed"].as_u64().unwrap_or(0);
    }
    counts.as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_are_counted_in_every_state_or_processed() {
        let counts = json!({"queued": 3, "processing": 2, "processed": 10, "exceptions": {"it": 4}});
        assert_eq!((count(&counts, false), count(&counts, true)), (15, 10));
        assert_eq!((count(&json!(null), false), count(&json!({}), true)), (0, 0));
    }
}
