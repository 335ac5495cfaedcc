//! A real RabbitMQ for the tests, one for the whole test process, and a virtual host of its own for each test.
//!
//! The broker comes from the environment (`WARREND_TEST_AMQP_URL` and `WARREND_TEST_MANAGEMENT_URL`), from Docker, or from
//! `scripts/broker run`, which starts a private node; `WARREND_BROKER=docker|node` forces one of the last two. It goes when
//! the test process ends, in whatever way: what removes it waits for the other end of a pipe that only this process holds.
//! Where no broker can be had the tests fail; they are never left out.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::env;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};
use url::Url;
use uuid::Uuid;

/// The benchmark needs shovels.
const PLUGINS: &str = "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management].";
const DEFAULT_IMAGE: &str = "rabbitmq:4.3-management";
/// An image may have to be pulled first.
const DOCKER_START: Duration = Duration::from_secs(300);

pub struct TestBroker {
    /// Without a virtual host: `amqp://guest:guest@127.0.0.1:43211`.
    pub amqp_url: String,
    pub management_url: String,
    pub version: String,
    pub kind: Kind,
    /// Holds the pipe on which the broker's life hangs.
    leash: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Named in the environment: not ours.
    Env,
    Docker,
    /// Started by `scripts/broker`.
    Node,
}

/// The broker of this test process. The first caller waits until it is up.
pub fn broker() -> &'static TestBroker {
    static BROKER: OnceLock<TestBroker> = OnceLock::new();
    BROKER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A runtime of its own on a thread of its own: the caller may stand inside a runtime that ends with its test.
        let start = std::thread::spawn(|| match env::var("WARREND_BROKER").as_deref() {
            Err(_) => from_environment().unwrap_or_else(|| {
                from_docker().unwrap_or_else(|why| {
                    eprintln!("broker: no Docker: {why}");
                    from_script()
                })
            }),
            Ok("docker") => from_docker().unwrap_or_else(|why| panic!("WARREND_BROKER=docker, but {why}")),
            Ok("node") => from_script(),
            Ok(other) => panic!("WARREND_BROKER is docker or node, not {other:?}"),
        });
        start.join().unwrap_or_else(|_| panic!("there is no broker for the tests; the panic before this one says why"))
    })
}

/// Queues of `type: auto` are quorum queues on this version: what they dead-letter comes at least once, also if the
/// broker dies in that moment, and says how often it was handed out.
pub fn has_quorum_lanes(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(4), Some(3))
}

fn from_environment() -> Option<TestBroker> {
    let [amqp, management] = ["WARREND_TEST_AMQP_URL", "WARREND_TEST_MANAGEMENT_URL"]
        .map(|name| env::var(name).ok().filter(|url| !url.is_empty()));
    match (amqp, management) {
        (None, None) => None,
        (Some(amqp), Some(management)) => Some(answering(&amqp, &management, Kind::Env, None)),
        _ => panic!("set both WARREND_TEST_AMQP_URL and WARREND_TEST_MANAGEMENT_URL, or neither"),
    }
}

fn from_docker() -> Result<TestBroker, String> {
    let info = Command::new("docker").arg("info").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !info.is_ok_and(|status| status.success()) {
        return Err("`docker info` fails".into());
    }
    let image = env::var("WARREND_RABBITMQ_IMAGE").unwrap_or_else(|_| DEFAULT_IMAGE.into());
    let (image, tag) = match image.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image.to_owned(), tag.to_owned()),
        _ => (image, "latest".to_owned()),
    };
    let name = format!("warrend-test-{}", Uuid::now_v7().simple());
    // Before the container, so that there is no moment in which nobody would remove it.
    let guard = Command::new("sh")
        .args([
            "-c",
            r#"trap "" INT TERM HUP; cat; docker rm -fv "$1" || { sleep 1; docker rm -fv "$1"; }"#,
            "guard",
            &name,
        ])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("sh cannot be started: {e}"))?;

    let (up, is_up) = mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let request = GenericImage::new(image, tag)
                .with_exposed_port(5672.tcp())
                .with_exposed_port(15672.tcp())
                .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
                .with_container_name(name)
                .with_copy_to("/etc/rabbitmq/enabled_plugins", PLUGINS.as_bytes().to_vec())
                .with_startup_timeout(DOCKER_START);
            let started = async {
                let container = tokio::time::timeout(DOCKER_START, request.start()).await??;
                let host = container.get_host().await?;
                let [amqp, management] =
                    [container.get_host_port_ipv4(5672).await?, container.get_host_port_ipv4(15672).await?];
                anyhow::Ok((container, format!("{host}:{amqp}"), format!("{host}:{management}")))
            };
            match started.await {
                Ok((_container, amqp, management)) => {
                    let _ = up.send(Ok((amqp, management)));
                    std::future::pending::<()>().await; // dropping the container would remove it
                }
                Err(e) => {
                    let _ = up.send(Err(format!("Docker does not start RabbitMQ: {e:#}")));
                }
            }
        });
    });
    let (amqp, management) = is_up.recv().map_err(|_| "the thread that starts the container ended".to_owned())??;
    let [amqp, management] = [format!("amqp://guest:guest@{amqp}"), format!("http://guest:guest@{management}")];
    Ok(answering(&amqp, &management, Kind::Docker, Some(guard)))
}

/// `scripts/broker run` says where the broker is, in one line, and takes it away when its stdin closes.
fn from_script() -> TestBroker {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/broker");
    let mut child = Command::new(script)
        .arg("run")
        .env("WARREND_BROKER", "node")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{script} cannot be started: {e}"));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("what scripts/broker says is text");
    let words: Vec<&str> = line.split_whitespace().collect();
    let [amqp, management, _version, _kind] = words[..] else {
        panic!(
            "no broker for the tests: neither the environment names one, nor can Docker or rabbitmq-server be started; scripts/broker says above why"
        )
    };
    answering(amqp, management, Kind::Node, Some(child))
}

/// The broker, once its management API says which version it is.
fn answering(amqp: &str, management: &str, kind: Kind, leash: Option<Child>) -> TestBroker {
    let mut broker = TestBroker {
        amqp_url: amqp.trim_end_matches('/').to_owned(),
        management_url: management.trim_end_matches('/').to_owned(),
        version: String::new(),
        kind,
        leash,
    };
    runtime().block_on(async {
        let mut last = Value::Null;
        for _ in 0..120 {
            match request(&broker.management_url, "GET", "/api/overview", None).await {
                Ok((200, overview)) => {
                    let version = overview["rabbitmq_version"].as_str();
                    broker.version = version.map(str::to_owned).expect("the API tells its version");
                    return;
                }
                Ok((status, _)) => last = json!(status),
                Err(e) => last = json!(e.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("the management API of the {kind:?} broker does not answer: {last}");
    });
    broker
}

/// A virtual host that lives as long as its test.
pub struct Vhost {
    pub name: String,
    /// With the virtual host, encoded.
    pub amqp_url: String,
    pub management_url: String,
}

/// A fresh virtual host on the broker of this test process.
pub async fn vhost(test_name: &str) -> Vhost {
    let broker = tokio::task::spawn_blocking(broker).await.expect("the broker starts");
    Vhost::create(&broker.amqp_url, &broker.management_url, test_name).await
}

impl Vhost {
    /// A fresh virtual host on the broker at these addresses.
    pub async fn create(broker_amqp_url: &str, management_url: &str, test_name: &str) -> Self {
        let name = format!("{test_name} {}", &Uuid::now_v7().simple().to_string()[20..]);
        let amqp_url = format!("{broker_amqp_url}/{}", encoded(&name));
        let vhost = Self { name, amqp_url, management_url: management_url.to_owned() };
        vhost.management("PUT", "/api/vhosts/{vhost}", Some(json!({}))).await;
        let user = Url::parse(broker_amqp_url).expect("an AMQP URL").username().to_owned();
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        vhost.management("PUT", &format!("/api/permissions/{{vhost}}/{user}"), Some(everything)).await;
        vhost
    }

    /// One call of the management API, `{vhost}` in the path is this one. Fails the test unless the answer is a success;
    /// an empty answer is null.
    pub async fn management(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.try_management(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// As `management`, with the status instead of the assertion.
    pub async fn try_management(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let path = path.replace("{vhost}", &encoded(&self.name));
        request(&self.management_url, method, &path, body)
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: the management API does not answer: {e}"))
    }
}

impl Drop for Vhost {
    /// On a thread of its own: here may be a runtime, or none.
    fn drop(&mut self) {
        let (url, path) = (self.management_url.clone(), format!("/api/vhosts/{}", encoded(&self.name)));
        let _ = std::thread::spawn(move || runtime().block_on(request(&url, "DELETE", &path, None)).map(drop)).join();
    }
}

/// A user of the broker that lives as long as its test.
pub struct User {
    pub name: String,
    password: String,
    management_url: String,
}

impl Vhost {
    /// A fresh user without any rights.
    pub async fn user(&self, what: &str, tags: &str) -> User {
        let unique = Uuid::now_v7().simple().to_string();
        let user = User {
            name: format!("{what}-{}", &unique[20..]),
            password: unique,
            management_url: self.management_url.clone(),
        };
        let about = json!({"password": user.password, "tags": tags});
        self.management("PUT", &format!("/api/users/{}", encoded(&user.name)), Some(about)).await;
        user
    }
}

impl User {
    /// The same URL, for this user to log in.
    pub fn at(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("a URL");
        url.set_username(&self.name).expect("a user name");
        url.set_password(Some(&self.password)).expect("a password");
        url.as_str().trim_end_matches('/').to_owned()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let (url, path) = (self.management_url.clone(), format!("/api/users/{}", encoded(&self.name)));
        let _ = std::thread::spawn(move || runtime().block_on(request(&url, "DELETE", &path, None)).map(drop)).join();
    }
}

/// A percent-encoded path segment.
pub fn encoded(segment: &str) -> String {
    url::form_urlencoded::byte_serialize(segment.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A client per call: connections of a pool belong to the runtime of one test.
async fn request(base: &str, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), reqwest::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
    let method = method.parse().expect("an HTTP method");
    let mut request = client.request(method, format!("{base}{path}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(if text.is_empty() { Value::Null } else { Value::String(text) })))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
