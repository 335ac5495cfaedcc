//! The real binary, in a virtual host and a directory of its own: started, killed and started again by the tests.

#![allow(dead_code)]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tempfile::TempDir;
use url::Url;

use super::broker::{Vhost, vhost};
use super::own_broker::OwnBroker;
use super::relay::Relay;

/// How long anything may take that a test waits for, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The file that says by how many seconds its clock is ahead.
const CLOCK: &str = "clock";

/// Where one with TLS has its certificate and key.
pub const CERT: &str = "cert.pem";
pub const KEY: &str = "key.pem";

/// What a test's daemon is made of.
pub struct Setup {
    name: String,
    definitions: Vec<(String, String)>,
    settings: Vec<(String, String)>,
    vhost: Option<Vhost>,
    /// Where the daemon speaks AMQP, if not with the broker itself: `host:port`.
    way: Option<String>,
    heartbeat: Option<u16>,
    outlives_size_limits: bool,
    mirror: Option<PathBuf>,
    clock: bool,
    tls: bool,
}

/// A daemon and everything it stands on. Dropped, it is killed and its virtual host deleted.
pub struct Daemon {
    pub vhost: Arc<Vhost>,
    pub dir: TempDir,
    url: String,
    child: Option<std::process::Child>,
    http: reqwest::Client,
    starts: u32,
    outlives_size_limits: bool,
}

/// Begins the setup of a daemon, named after its test.
pub fn daemon(name: &str) -> Setup {
    Setup {
        name: name.to_owned(),
        definitions: Vec::new(),
        settings: Vec::new(),
        vhost: None,
        way: None,
        heartbeat: None,
        outlives_size_limits: false,
        mirror: None,
        clock: false,
        tls: false,
    }
}

impl Setup {
    /// Adds a file of queue definitions.
    pub fn queues(mut self, yaml: &str) -> Self {
        let name = format!("{}.yaml", self.definitions.len());
        self.definitions.push((name, yaml.to_owned()));
        self
    }

    /// Adds a setting by its environment name without the prefix, such as `CONTROL__REPORT_GRACE`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((format!("WARREND__{name}"), value.to_owned()));
        self
    }

    /// Lets it speak HTTPS, with a certificate of its own that vouches for itself.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Gives it a clock that can be set, see [`Daemon::set_clock`].
    pub fn clock(mut self) -> Self {
        self.clock = true;
        self
    }

    /// Puts it on a broker of the test's own.
    pub async fn on(mut self, broker: &OwnBroker) -> Self {
        self.vhost = Some(broker.vhost(&self.name).await);
        self
    }

    /// Puts it into a virtual host that is there.
    pub fn in_vhost(mut self, vhost: Vhost) -> Self {
        self.vhost = Some(vhost);
        self
    }

    /// Lets it begin with a copy of this mirror.
    pub fn with_mirror(mut self, mirror: &Path) -> Self {
        self.mirror = Some(mirror.to_owned());
        self
    }

    /// Leads its AMQP connections, and nobody else's, through a relay to the broker.
    pub fn through(mut self, relay: &Relay) -> Self {
        self.way = Some(relay.address());
        self
    }

    /// Has its connections beat so often, in seconds.
    pub fn heartbeat(mut self, seconds: u16) -> Self {
        self.heartbeat = Some(seconds);
        self
    }

    /// A file that grows beyond the process's limit is an error of the write then, and no signal that kills.
    pub fn outlives_size_limits(mut self) -> Self {
        self.outlives_size_limits = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Daemon {
        let vhost = match self.vhost {
            Some(vhost) => vhost,
            None => vhost(&self.name).await,
        };
        let mut amqp_url = Url::parse(&vhost.amqp_url).expect("an AMQP URL");
        if let Some((host, port)) = self.way.as_deref().and_then(|way| way.rsplit_once(':')) {
            amqp_url.set_host(Some(host)).expect("a host");
            amqp_url.set_port(port.parse().ok()).expect("a port");
        }
        // So that a connection that fell silent is noticed within a test's time.
        let heartbeat = self.heartbeat.or(self.way.is_some().then_some(2));
        amqp_url.set_query(heartbeat.map(|seconds| format!("heartbeat={seconds}")).as_deref());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let queues = dir.path().join("queues");
        fs::create_dir(&queues).expect("a directory");
        for (name, text) in &self.definitions {
            fs::write(queues.join(name), text).expect("a definition is written");
        }
        if let Some(mirror) = &self.mirror {
            fs::copy(mirror, dir.path().join("mirror.db")).expect("a copy of the mirror");
        }
        let port = free_port();
        let mut settings = String::new();
        for (section, key, value) in [
            ("broker", "amqp_url", amqp_url.to_string()),
            ("broker", "management_url", vhost.management_url.clone()),
            ("mirror", "url", format!("sqlite://{}", dir.path().join("mirror.db").display())),
            ("http", "listen", format!("127.0.0.1:{port}")),
            ("definitions", "dir", queues.display().to_string()),
        ] {
            settings.push_str(&format!("{section}.{key}: {value}\n"));
            if key == "listen" && self.tls {
                let file = |name: &str| dir.path().join(name).display().to_string();
                settings.push_str(&format!("http.tls_cert: {}\nhttp.tls_key: {}\n", file(CERT), file(KEY)));
            }
        }
        fs::write(dir.path().join("warrend.yaml"), nested(&settings)).expect("settings are written");
        fs::write(
            dir.path().join("env"),
            self.settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>(),
        )
        .expect("the environment is written");
        if self.clock {
            fs::write(dir.path().join(CLOCK), "0").expect("the clock is written");
        }
        if self.tls {
            new_certificate(dir.path());
        }
        let http = client(dir.path(), self.tls, None);
        let url = format!("{}://127.0.0.1:{port}", if self.tls { "https" } else { "http" });
        let outlives_size_limits = self.outlives_size_limits;
        let vhost = Arc::new(vhost);
        let mut daemon = Daemon { vhost, dir, url, child: None, http, starts: 0, outlives_size_limits };
        daemon.start_again().await;
        daemon
    }
}

/// `command` as `$0` and `$@` of a shell script, in the same environment.
fn through_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// `a.b: c` lines as nested YAML.
fn nested(lines: &str) -> String {
    let mut text = String::new();
    let mut last = "";
    for line in lines.lines() {
        let (section, rest) = line.split_once('.').expect("a section");
        if section != last {
            text.push_str(&format!("{section}:\n"));
            last = section;
        }
        let (key, value) = rest.split_once(": ").expect("a value");
        text.push_str(&format!("  {key}: \"{value}\"\n"));
    }
    text
}

/// Writes another certificate and its key where a daemon with TLS looks for them.
pub fn new_certificate(dir: &Path) {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    fs::write(dir.join(KEY), made.signing_key.serialize_pem()).expect("a key is written");
    fs::write(dir.join(CERT), made.cert.pem()).expect("a certificate is written");
}

/// A client of the daemon there.
pub fn client(dir: &Path, tls: bool, token: Option<&str>) -> reqwest::Client {
    // Idle connections go long before the daemon closes them, or a request would meet that: one that stood still closes them
    // as soon as it goes on.
    let idle = Duration::from_secs(2);
    let mut client = reqwest::Client::builder().timeout(PATIENCE).pool_idle_timeout(idle).no_proxy();
    if tls {
        let pem = fs::read(dir.join(CERT)).expect("a certificate");
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).expect("a certificate"));
    }
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header");
        client = client.default_headers([(reqwest::header::AUTHORIZATION, value)].into_iter().collect());
    }
    client.build().expect("a client")
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Daemon {
    /// Starts the daemon (again) and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.wait_until("the daemon is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    /// Starts a daemon that dies at a fail point (`WARREND_FAIL_POINT`), and waits until it has.
    pub async fn die_at(&mut self, point: &str) {
        self.spawn_to_die_at(point);
        self.wait_until_dead(point).await;
    }

    /// Starts a daemon that dies at a fail point once it gets there.
    pub fn spawn_to_die_at(&mut self, point: &str) {
        self.spawn_with(&[("WARREND_FAIL_POINT", point)]);
    }

    /// Waits until a daemon that was to die at a fail point has died there.
    pub async fn wait_until_dead(&mut self, point: &str) {
        let began = Instant::now();
        let mut child = self.child.take().expect("it runs");
        let status = loop {
            if let Some(status) = child.try_wait().expect("its status") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it did not die at {point}\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let name = point.split([':', '=']).next().unwrap_or_default();
        let said = self.log().lines().rev().take(20).any(|line| line.contains(&format!("fail point {name} reached")));
        assert!(status.signal().is_some() && said, "it died otherwise at {point}: {status}\n{}", self.last_words());
    }

    pub fn spawn_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.command();
        if self.outlives_size_limits {
            command = through_shell(r#"trap "" XFSZ; exec "$0" "$@""#, &command);
        }
        self.child = Some(
            command
                .envs(environment.iter().copied())
                .arg("serve")
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a log file"))
                .stderr(log)
                .spawn()
                .expect("the binary starts"),
        );
    }

    /// A command of the binary with this daemon's settings, in a clean environment.
    pub fn command(&self) -> Command {
        let built = env!("CARGO_BIN_EXE_warrend").to_owned();
        // `make soak` measures the release build.
        let mut command = Command::new(std::env::var("WARREND_TEST_BINARY").unwrap_or(built));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREND_")) {
            command.env_remove(name);
        }
        let env = fs::read_to_string(self.dir.path().join("env")).expect("the environment");
        command.envs(env.lines().filter_map(|line| line.split_once('=')));
        command.arg("--config").arg(self.dir.path().join("warrend.yaml"));
        command.env("WARREND_URL", &self.url);
        let clock = self.dir.path().join(CLOCK);
        if clock.exists() {
            command.env("WARREND_CLOCK", clock);
        }
        command
    }

    /// Sets its clock ahead of everybody else's, or behind.
    pub fn set_clock(&self, ahead: jiff::SignedDuration) {
        let (new, clock) = (self.dir.path().join("clock.new"), self.dir.path().join(CLOCK));
        fs::write(&new, ahead.as_secs().to_string()).and_then(|()| fs::rename(new, clock)).expect("the clock is set");
    }

    /// It has not died by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("its status").is_none())
    }

    /// Waits until one that may die at a fail point on its way is ready, or has died.
    pub async fn until_ready_or_dead(&mut self) {
        let began = Instant::now();
        while self.is_running() && !self.is_ready().await {
            assert!(began.elapsed() < PATIENCE, "neither ready nor dead\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn is_ready(&self) -> bool {
        self.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the daemon is killed");
            child.wait().expect("the daemon is gone");
        }
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                return status;
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                return ExitStatus::from_raw(9);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGSTOP: it does nothing more, and nobody is told.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT after [`Self::pause`].
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    /// The process that runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Resident memory, MiB.
    pub fn memory(&self) -> u64 {
        self.status_mib("VmRSS:")
    }

    /// The most resident memory since it was started, MiB.
    pub fn peak_memory(&self) -> u64 {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux tells of its processes");
        let line = status.lines().find(|line| line.starts_with(name)).expect("its memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
        kib / 1024
    }

    /// From now on every request of this handle shows the token.
    pub fn show(&mut self, token: &str) {
        self.http = client(self.dir.path(), self.url.starts_with("https"), Some(token));
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn definitions_dir(&self) -> PathBuf {
        self.dir.path().join("queues")
    }

    pub fn mirror_path(&self) -> PathBuf {
        self.dir.path().join("mirror.db")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// GET of the API; fails the test unless it is a success.
    pub async fn get(&self, path: &str) -> Value {
        match self.get_with_status(path).await {
            Some((status, body)) if (200..300).contains(&status) => body,
            other => panic!("GET {path}: {other:?}\n{}", self.last_words()),
        }
    }

    /// `None` while nobody answers.
    pub async fn get_with_status(&self, path: &str) -> Option<(u16, Value)> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, body).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.request(method.parse().expect("a method"), format!("{}{path}", self.url)).json(body);
        let answer = request.send().await.expect("the daemon answers");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// One queue as the API shows it.
    pub async fn queue(&self, key: &str) -> Value {
        self.get(&format!("/api/v1/queues/{key}")).await
    }

    /// Every item that a query (`queue=a&state=exception`) answers, all pages.
    pub async fn items(&self, query: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/api/v1/items?limit=1000&{query}{cursor}")).await;
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// The one item of a reference.
    pub async fn item(&self, queue: &str, reference: &str) -> Value {
        let mut items = self.items(&format!("queue={queue}&reference={reference}")).await;
        assert_eq!(items.len(), 1, "items of {reference}: {items:?}");
        items.remove(0)
    }

    pub async fn timeline(&self, item: &Value) -> Vec<Value> {
        let id = item["id"].as_str().expect("an id");
        let answer = self.get(&format!("/api/v1/items/{id}/timeline")).await;
        answer["items"].as_array().expect("lines").clone()
    }

    /// What an item carries, as text; `None` where the daemon has it not.
    pub async fn payload(&self, item: &Value) -> Option<String> {
        let id = item["id"].as_str().expect("an id");
        let answer = self.http.get(format!("{}/api/v1/items/{id}/payload", self.url)).send().await.expect("an answer");
        if !answer.status().is_success() {
            return None;
        }
        Some(answer.text().await.expect("a body"))
    }

    /// Waits until a condition holds, looked at again and again. Fails the test after [`PATIENCE`], with the log's end.
    pub async fn wait_until(&self, what: &str, condition: impl AsyncFn(&Daemon) -> bool) {
        let began = Instant::now();
        while !condition(self).await {
            assert!(began.elapsed() < PATIENCE, "not within {} s: {what}\n{}", PATIENCE.as_secs(), self.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the queue has no open item.
    pub async fn wait_until_done(&self, queue: &str, expected: u64) {
        self.wait_until(&format!("{expected} items of {queue} are done"), async |daemon: &Daemon| {
            let counts = daemon.queue(queue).await["counts"].clone();
            let count = |state: &str| counts[state].as_u64().expect("a count");
            count("processed") + count("exception") + count("on_hold") + count("cancelled") == expected
                && count("queued") + count("processing") == 0
        })
        .await;
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Its mirror, whether it runs or not.
    pub async fn mirror(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.mirror_path()).connect().await.expect("the mirror")
    }

    /// A number from its mirror.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let mut mirror = self.mirror().await;
        let count = sqlx::query_scalar(sql).fetch_one(&mut mirror).await.expect("a number");
        mirror.close().await.expect("closed");
        count
    }

    /// Changes its mirror behind its back.
    pub async fn alter(&self, sql: &str) {
        let mut mirror = self.mirror().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut mirror).await.expect("it is done");
        mirror.close().await.expect("closed");
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.last_words());
        }
    }
}
