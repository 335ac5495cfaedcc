//! What an operator can set: built-in defaults, over them the YAML file, over that the environment.
//!
//! [`KEYS`] is the one list of settings: it drives loading, the checks and the test that holds `config/warrend.yaml`
//! to it. Everything is checked once, here; whoever takes a [`Settings`] checks nothing again. All mistakes are
//! reported together. Relative paths stay relative to the working directory.

mod check;
mod load;
mod roles;
mod secret;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use secret::{Secret, SecretUrls};

use crate::who::Rights;

/// Where the settings are looked for when nobody says otherwise; it may be absent.
pub const DEFAULT_PATH: &str = "config/warrend.yaml";

/// Environment variables with this prefix are settings: `WARREND__BROKER__AMQP_URL` is `broker.amqp_url`.
pub const ENV_PREFIX: &str = "WARREND__";

/// One setting as documented.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// As it would be written in the file.
    pub default: &'static str,
}

/// Every setting there is, in the order of `config/warrend.yaml`, which says what each is for.
pub const KEYS: [Key; 35] = [
    key("broker.amqp_url", "amqp://guest:guest@127.0.0.1:5672/%2f"),
    key("broker.management_url", "http://guest:guest@127.0.0.1:15672"),
    key("broker.prefix", "wq"),
    key("broker.connect_timeout", "10s"),
    key("broker.confirm_timeout", "30s"),
    key("broker.ca_file", ""),
    key("mirror.url", "sqlite://data/warrend.db"),
    key("http.listen", "127.0.0.1:7070"),
    key("http.auth", "auto"),
    key("http.tls_cert", ""),
    key("http.tls_key", ""),
    key("http.max_connections", "1000"),
    key("http.rate_limit", "1000"),
    key("oidc.issuer", ""),
    key("oidc.audience", ""),
    key("oidc.roles_claim", "roles"),
    key("oidc.name_claim", "sub"),
    key("oidc.roles", ""),
    key("definitions.dir", "config/queues"),
    key("control.reconcile_period", "30s"),
    key("control.observation_gap", "10s"),
    key("control.report_grace", "10s"),
    key("control.drift", "repair"),
    key("control.migration_patience", "5m"),
    key("control.recall_limit", "1000"),
    key("replies.allow", r"^reply\."),
    key("tap.max_bytes", "1GiB"),
    key("webhooks.allow_private", "false"),
    key("webhooks.allow_http", "false"),
    key("notify.secret", ""),
    key("smtp.url", ""),
    key("smtp.from", ""),
    key("log.filter", "info"),
    key("log.format", "text"),
    key("shutdown.deadline", "20s"),
];

const fn key(name: &'static str, default: &'static str) -> Key {
    Key { name, default }
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub broker: BrokerSettings,
    pub mirror: MirrorSettings,
    pub http: HttpSettings,
    /// Whose tokens are good beside the daemon's own.
    pub oidc: Option<OidcSettings>,
    pub definitions: DefinitionSettings,
    pub control: ControlSettings,
    pub replies: ReplySettings,
    pub tap: TapSettings,
    pub webhooks: WebhookSettings,
    pub notify: NotifySettings,
    /// `None`: no mails are sent.
    pub smtp: Option<SmtpSettings>,
    pub log: LogSettings,
    pub shutdown: ShutdownSettings,
}

/// How RabbitMQ is reached.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `amqp://` or `amqps://`, with user, password and virtual host, which is the same in all of them.
    pub amqp_url: SecretUrls,
    /// `http://` or `https://`; `None`: work without the management API (no migration, no deletion, no drift).
    pub management_url: Option<SecretUrls>,
    /// First part of every name warrend declares: `[a-z0-9][a-z0-9._-]*`.
    pub prefix: String,
    /// The longest one try to connect may take.
    pub connect_timeout: Duration,
    /// The longest wait for the broker to confirm a publish before the connection counts as lost.
    pub confirm_timeout: Duration,
    /// PEM file of the certificates that vouch for the broker, beside those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// Where the ledger of items is.
#[derive(Debug, Clone)]
pub struct MirrorSettings {
    /// `sqlite://PATH`.
    pub url: String,
}

/// The HTTP API.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Callers have to show who they are, whatever the address.
    pub auth_required: bool,
    /// PEM files of certificate and key; `None`: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Requests per second with one token; 0: any number.
    pub rate_limit: u32,
}

/// An OpenID Connect issuer.
#[derive(Debug, Clone)]
pub struct OidcSettings {
    /// As tokens name it.
    pub issuer: String,
    pub audience: String,
    /// The claim that says what somebody may do.
    pub roles_claim: String,
    /// The claim that is somebody's name.
    pub name_claim: String,
    /// What each value of it allows.
    pub rights: Vec<(String, Rights)>,
}

/// The queues.
#[derive(Debug, Clone)]
pub struct DefinitionSettings {
    /// Directory of `*.yaml` queue definitions.
    pub dir: PathBuf,
}

/// Reconciliation and its waits.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Time between two looks at what is defined, mirrored and on the broker.
    pub reconcile_period: Duration,
    /// Time between the two observations that must agree before an ack without a report is inferred.
    pub observation_gap: Duration,
    /// The longest a bare reject waits for its report before it is judged.
    pub report_grace: Duration,
    /// What becomes of a topology that somebody changed by hand.
    pub drift: Drift,
    /// The longest a migration waits for what robots hold before it is rolled back.
    pub migration_patience: Duration,
    /// Ready messages of a robots' queue that are looked through for what people ask of one, at most; 0: none.
    pub recall_limit: u64,
}

/// What becomes of drift, beside being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// It is undone.
    Repair,
    /// It stays until somebody applies.
    Report,
}

/// Answers to producers.
#[derive(Debug, Clone)]
pub struct ReplySettings {
    /// Queue names a `reply-to` may name, besides RabbitMQ's direct reply-to.
    pub allow: regex_lite::Regex,
}

/// The stream of copies of the direct lane.
#[derive(Debug, Clone)]
pub struct TapSettings {
    /// Bytes it keeps on the broker; the oldest copies go first.
    pub max_bytes: u64,
}

/// Where webhooks and notices may be sent to.
#[derive(Debug, Clone, Copy)]
pub struct WebhookSettings {
    /// Also to addresses of this machine and of private networks.
    pub allow_private: bool,
    /// Also without TLS.
    pub allow_http: bool,
}

/// Notices of definitions.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    /// What signs those that go over HTTP; `None`: nothing does.
    pub secret: Option<Secret>,
}

/// The mail server.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// `smtp://` or `smtps://`, with user and password.
    pub url: SecretUrls,
    /// Who the mails are from: an address, or `Name <address>`.
    pub from: String,
}

/// The log on standard error.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Which lines, in the syntax of `EnvFilter`.
    pub filter: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The end of the daemon.
#[derive(Debug, Clone)]
pub struct ShutdownSettings {
    /// The longest the daemon takes to finish what it has in hand.
    pub deadline: Duration,
}

impl Settings {
    /// Reads the settings of this process: defaults, the file, the environment.
    ///
    /// With `file` that file has to exist; without it [`DEFAULT_PATH`] is read if it is there.
    ///
    /// # Errors
    /// [`SettingsError::Read`] where the file cannot be read or is no YAML, [`SettingsError::Wrong`] with every mistake.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        load::load(file, std::env::vars_os())
    }

    /// The built-in defaults, with nothing read from outside.
    ///
    /// # Errors
    /// None in a released version: a test holds the defaults to the checks.
    pub fn builtin() -> Result<Self, SettingsError> {
        load::layers(None, Vec::new())
    }
}

/// Why there are no settings to work with.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the settings in {}: {reason}", path.display())]
    Read { path: PathBuf, reason: String },
    #[error("{}", list(.0))]
    Wrong(Vec<Mistake>),
}

/// One thing wrong in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting, or the unknown name as it was written.
    pub key: String,
    /// As it was written, passwords masked; `None` where the name itself is the mistake.
    pub value: Option<String>,
    /// The file or the environment variable it was read from.
    pub origin: String,
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = '{value}'")?;
        }
        write!(f, " ({}): {}; {}", self.origin, self.cause, self.cure)
    }
}

fn list(mistakes: &[Mistake]) -> String {
    let mut text = match mistakes.len() {
        1 => "a setting is wrong:".to_owned(),
        n => format!("{n} settings are wrong:"),
    };
    for mistake in mistakes {
        text.push_str("\n  ");
        text.push_str(&mistake.to_string());
    }
    text
}
