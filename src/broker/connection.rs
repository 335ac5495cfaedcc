//! One generation of connections: one for publishing, one for consuming, so that a broker that blocks publishers
//! (memory or disk alarm) still gets our acks.

use std::time::Duration;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection::AMQPMethod};
use futures::StreamExt as _;
use lapin::runtime::default_runtime;
use lapin::tcp::OwnedTLSConfig;
use lapin::types::AMQPValue;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::trust::Trust;
use super::{BrokerError, answered};
use crate::topology::version::Version;

/// Seconds after which a silent connection is dead, where the URL does not say.
const HEARTBEAT: u16 = 10;

/// The longest a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Longest `connection.start` frame that is read when asking for the version, in bytes.
const LONGEST_START: usize = 64 * 1024;

/// Where the broker is; checked, and with a heartbeat.
#[derive(Clone)]
pub struct Endpoint {
    uri: AMQPUri,
    timeout: Duration,
    trust: Trust,
}

/// Both connections of one generation. Dropping it closes them.
pub struct Session {
    publishing: Connection,
    consuming: Connection,
    /// Why the broker takes nothing on the publishing connection; `None` while it does.
    blocked: watch::Receiver<Option<String>>,
}

impl Endpoint {
    /// Reads an `amqp://` or `amqps://` URL.
    ///
    /// # Errors
    /// [`BrokerError::Url`] with what is wrong; the URL itself is not repeated, it holds a password.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url.parse().map_err(BrokerError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self { uri, timeout, trust: Trust::default() })
    }

    /// The same, believing these too.
    #[must_use]
    pub fn trusting(self, trust: &Trust) -> Self {
        Self { trust: trust.clone(), ..self }
    }

    /// Virtual host of the URL.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// `host:port`, for logs.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// By when the broker has noticed that a connection is gone, whatever became of it: it looks once per heartbeat and
    /// needs two looks that saw nothing, so three of them, and some.
    #[must_use]
    pub fn forgotten_after(&self) -> Duration {
        let heartbeat = self.uri.query.heartbeat.filter(|seconds| *seconds > 0).unwrap_or(HEARTBEAT);
        Duration::from_secs(u64::from(heartbeat) * 7 / 2)
    }

    /// Opens both connections.
    ///
    /// # Errors
    /// What the broker or the network say, or that it took too long.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        let operation = || format!("connect to RabbitMQ at {}", self.address());
        let open = async {
            let publishing = self.open("warrend publish").await?;
            let consuming = self.open("warrend consume").await?;
            let blocked = listen_for_blocks(&publishing);
            Ok(Session { publishing, consuming, blocked })
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(source)) => Err(BrokerError::Amqp { operation: operation(), source }),
            Err(_) => Err(BrokerError::TimedOut { operation: operation(), seconds: self.timeout.as_secs() }),
        }
    }

    async fn open(&self, name: &str) -> Result<Connection, lapin::Error> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let config = OwnedTLSConfig { identity: None, cert_chain: self.trust.pem() };
        Connection::connect_uri_with_config(self.uri.clone(), properties, config, default_runtime()?).await
    }

    /// Asks for the broker's version as AMQP's first frame tells it, without logging in. Only over plain TCP;
    /// `None` for `amqps`, where the management API has to say it.
    ///
    /// # Errors
    /// What the network says, or what came instead of a `connection.start`.
    pub async fn version(&self) -> Result<Option<(Version, String)>, BrokerError> {
        if self.uri.scheme != AMQPScheme::AMQP {
            return Ok(None);
        }
        let ask = async {
            let address = (self.uri.authority.host.as_str(), self.uri.authority.port);
            let mut stream = TcpStream::connect(address).await.map_err(|error| BrokerError::Lost(error.to_string()))?;
            read_version(&mut stream).await
        };
        match tokio::time::timeout(self.timeout, ask).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Err(BrokerError::Version("it did not answer in time".to_owned())),
        }
    }
}

/// Follows `connection.blocked` and `connection.unblocked`. Ends with the connection.
fn listen_for_blocks(connection: &Connection) -> watch::Receiver<Option<String>> {
    let (sender, blocked) = watch::channel(None);
    // The only listener: lapin splits the events among several.
    let mut events = connection.events_listener();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => drop(sender.send(Some(reason))),
                Event::ConnectionUnblocked => drop(sender.send(None)),
                _ => {}
            }
        }
    });
    blocked
}

async fn read_version(stream: &mut TcpStream) -> Result<(Version, String), BrokerError> {
    let broken = |error: std::io::Error| BrokerError::Version(error.to_string());
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.map_err(broken)?;
    let mut bytes = Vec::new();
    loop {
        let read = stream.read_buf(&mut bytes).await.map_err(broken)?;
        if let Ok((_, AMQPFrame::Method(_, AMQPClass::Connection(AMQPMethod::Start(start))))) = parse_frame(&bytes[..])
        {
            let version = match start.server_properties.inner().get("version") {
                Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
                _ => return Err(BrokerError::Version("its greeting names none".to_owned())),
            };
            let parsed =
                Version::parse(&version).ok_or_else(|| BrokerError::Version(format!("'{version}' is no version")))?;
            return Ok((parsed, version));
        }
        if read == 0 || bytes.len() > LONGEST_START {
            return Err(BrokerError::Version("what answered is no RabbitMQ".to_owned()));
        }
    }
}

impl Session {
    /// A channel for publishing.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn publishing_channel(&self) -> Result<Channel, BrokerError> {
        answered("open a channel", self.publishing.create_channel()).await
    }

    /// A channel for consuming, and for asking.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn consuming_channel(&self) -> Result<Channel, BrokerError> {
        answered("open a channel", self.consuming.create_channel()).await
    }

    /// Neither connection was lost.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.publishing.status().connected() && self.consuming.status().connected()
    }

    /// Why the broker takes nothing from publishers at the moment; `None` while it does. Changes with the alarm.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.clone()
    }

    /// Waits until the broker takes what is published.
    pub async fn unblocked(&self) {
        // Where nobody tells any more the connection is gone, and whoever uses it will notice.
        let _ = self.blocked.clone().wait_for(Option::is_none).await;
    }

    /// Says goodbye and answers whether the broker heard it from the connection that held deliveries. A blocked
    /// connection writes nothing, so nothing is waited for long.
    pub async fn close(&self) -> bool {
        let mut heard = false;
        for (connection, holds_deliveries) in [(&self.consuming, true), (&self.publishing, false)] {
            let goodbye = async {
                // lapin closes dropped channels on its own; a connection.close ahead of that is an error in its log. So
                // wait for an answer to something asked after the drops.
                if let Ok(fence) = connection.create_channel().await {
                    let _ = fence.close(200, "goodbye".into()).await;
                }
                connection.close(200, "goodbye".into()).await
            };
            match tokio::time::timeout(GOODBYE, goodbye).await {
                Ok(Ok(())) => heard |= holds_deliveries,
                Ok(Err(error)) => tracing::debug!(%error, "closing a connection"),
                Err(_) => tracing::warn!("a connection did not answer our goodbye within {} s", GOODBYE.as_secs()),
            }
        }
        heard
    }
}
