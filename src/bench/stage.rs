//! What has to stand before items can take a way: a virtual host of its own, queues in it, and whoever carries items on.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use tokio::task::JoinSet;

use super::BenchError;
use super::daemon::Daemon;
use super::load::{Route, WINDOW, connect, consume, open_channel, taken};
use super::plan::Way;
use super::site::{Site, Vhost};
use crate::definition::{Definitions, QueueDefinition};
use crate::item::Lane;
use crate::topology::desired::{Argument, Wishes, desired};
use crate::topology::names::Names;
use crate::topology::version::Version;

/// The one work queue of every daemon.
pub(super) const QUEUE: &str = "bench";

/// Where the bare forwarder and the shovel begin and end.
const FROM: &str = "from";
const TO: &str = "to";

/// Everything one measurement stands on.
pub(super) struct Stage {
    pub vhost: Vhost,
    pub route: Route,
    pub helper: Helper,
}

/// Who carries items on.
pub(super) enum Helper {
    /// The broker itself.
    Nobody,
    Forwarder(Box<Forwarder>),
    Daemon(Daemon),
}

/// A stage, or why this broker cannot have it.
pub(super) enum Staged {
    Ready(Box<Stage>),
    Unavailable(String),
}

impl Stage {
    pub(super) async fn build(site: &Site, way: Way, executable: &Path) -> Result<Staged, BenchError> {
        let vhost = site.vhost().await?;
        let names = Names::new("wq");
        let route = |exchange: &str, key: &str, robots: &str| Route {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            robots: robots.to_owned(),
            reports: way.with_reports(),
        };
        let mut helper = Helper::Nobody;
        let route = match way {
            Way::Raw => {
                prepare(&vhost, site.version, &[FROM], Copies::None).await?;
                route("", FROM, FROM)
            }
            Way::FanOut => {
                prepare(&vhost, site.version, &[FROM], Copies::Stream).await?;
                route(ITEMS, FROM, FROM)
            }
            Way::Forwarder => {
                prepare(&vhost, site.version, &[FROM, TO], Copies::None).await?;
                helper = Helper::Forwarder(Box::new(Forwarder::start(&vhost).await?));
                route("", FROM, TO)
            }
            Way::Shovel => {
                prepare(&vhost, site.version, &[FROM, TO], Copies::None).await?;
                if let Some(why) = site.shovel(&vhost, FROM, TO).await? {
                    site.delete(&vhost.name).await?;
                    return Ok(Staged::Unavailable(why));
                }
                wait_for_consumer(&vhost, FROM).await?;
                route("", FROM, TO)
            }
            Way::Direct | Way::DirectReports | Way::Managed | Way::ManagedReports => {
                let definition = match way.lane() {
                    Some(Lane::Direct) => format!("queue: {QUEUE}\nlane: direct\n"),
                    _ => format!("queue: {QUEUE}\nwindow: {WINDOW}\n"),
                };
                helper = Helper::Daemon(Daemon::start(executable, &vhost, &definition).await?);
                route(&names.items(), QUEUE, &names.robots(QUEUE))
            }
        };
        Ok(Staged::Ready(Box::new(Self { vhost, route, helper })))
    }

    /// Ends who carries on, and takes the virtual host away.
    pub(super) async fn clear(self, site: &Site) -> Result<(), BenchError> {
        match self.helper {
            Helper::Nobody => {}
            Helper::Forwarder(forwarder) => forwarder.stop().await,
            Helper::Daemon(daemon) => daemon.stop().await?,
        }
        site.delete(&self.vhost.name).await
    }
}

const ITEMS: &str = "items";

/// Whether a stream gets a copy of everything.
#[derive(PartialEq, Eq)]
enum Copies {
    None,
    Stream,
}

/// Declares queues of the type that robots' queues have on this broker, and what leads to them.
async fn prepare(vhost: &Vhost, version: Version, queues: &[&str], copies: Copies) -> Result<(), BenchError> {
    let connection = connect(vhost).await?;
    let channel = open_channel(&connection).await?;
    for queue in queues {
        declare(&channel, queue, robots_type(version)).await?;
    }
    if copies == Copies::Stream {
        let mut stream = FieldTable::default();
        stream.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        declare(&channel, "copies", stream).await?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(ITEMS.into(), ExchangeKind::Topic, options, FieldTable::default())
            .await
            .map_err(BenchError::amqp("declare an exchange"))?;
        for queue in [FROM, "copies"] {
            channel
                .queue_bind(queue.into(), ITEMS.into(), FROM.into(), QueueBindOptions::default(), FieldTable::default())
                .await
                .map_err(BenchError::amqp("bind a queue"))?;
        }
    }
    connection.close(200, "done".into()).await.map_err(BenchError::amqp("close a connection"))
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) -> Result<(), BenchError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, arguments).await;
    declared.map(|_| ()).map_err(BenchError::amqp("declare a queue"))
}

/// The type of a robots' queue (`auto`) on this version, and on classic its priorities; nothing else that robots' queues
/// have, so that the bare ways stay bare.
fn robots_type(version: Version) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in type_arguments(version) {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(number) => AMQPValue::LongLongInt(number),
        };
        table.insert(name.into(), value);
    }
    table
}

/// `quorum` or `classic`.
pub(super) fn type_name(version: Version) -> String {
    type_arguments(version)
        .into_iter()
        .find_map(|(_, value)| match value {
            Argument::Text(text) => Some(text),
            Argument::Number(_) => None,
        })
        .unwrap_or_default()
}

fn type_arguments(version: Version) -> Vec<(String, Argument)> {
    let definition = QueueDefinition::with_defaults(QUEUE);
    let definitions = Definitions { queues: [(QUEUE.to_owned(), definition.into())].into(), ..Definitions::default() };
    let topology = desired(&definitions, &Wishes::default(), version, &Names::new("wq"), 1);
    let robots = topology.queues.into_iter().find(|queue| queue.key.is_some());
    let arguments = robots.map(|queue| queue.arguments).unwrap_or_default();
    arguments.into_iter().filter(|(name, _)| matches!(name.as_str(), "x-queue-type" | "x-max-priority")).collect()
}

/// A shovel starts by itself some time after it was asked for.
async fn wait_for_consumer(vhost: &Vhost, queue: &str) -> Result<(), BenchError> {
    let connection = connect(vhost).await?;
    let channel = open_channel(&connection).await?;
    let looking = async {
        loop {
            let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
            let seen = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
            if seen.map_err(BenchError::amqp("look at a queue"))?.consumer_count() > 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), looking).await;
    waited.map_err(|_| BenchError::Failed("the shovel did not start within 60 s".to_owned()))??;
    connection.close(200, "done".into()).await.map_err(BenchError::amqp("close a connection"))
}

/// A client with nothing in it: consume, publish with confirm, ack, many at once.
pub(super) struct Forwarder {
    /// Ends with the forwarder.
    task: JoinSet<()>,
    connections: [Connection; 2],
}

impl Forwarder {
    async fn start(vhost: &Vhost) -> Result<Self, BenchError> {
        let (reading, writing) = (connect(vhost).await?, connect(vhost).await?);
        let (from, to) = (open_channel(&reading).await?, open_channel(&writing).await?);
        to.confirm_select(ConfirmSelectOptions::default()).await.map_err(BenchError::amqp("switch confirms on"))?;
        let consumer = consume(&from, FROM, WINDOW).await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let forwarded = consumer
                .map(|delivery| forward(taken(Some(delivery)), &to))
                .buffer_unordered(WINDOW.into())
                .try_for_each(async |()| Ok(()))
                .await;
            // Then items stop arriving, and the measurement ends over it.
            if let Err(error) = forwarded {
                tracing::warn!(%error, "the forwarder ended");
            }
        });
        Ok(Self { task, connections: [reading, writing] })
    }

    async fn stop(mut self) {
        self.task.shutdown().await;
        for connection in self.connections {
            // Whatever it says: the measurement is over.
            let _ = connection.close(200, "done".into()).await;
        }
    }
}

async fn forward(delivery: Result<lapin::message::Delivery, BenchError>, to: &Channel) -> Result<(), BenchError> {
    let delivery = delivery?;
    let options = BasicPublishOptions::default();
    let confirm = to.basic_publish("".into(), TO.into(), options, &delivery.data, delivery.properties.clone()).await;
    let confirmation =
        confirm.map_err(BenchError::amqp("forward an item"))?.await.map_err(BenchError::amqp("forward an item"))?;
    if confirmation.is_nack() {
        return Err(BenchError::Failed("the broker did not take a forwarded item".to_owned()));
    }
    delivery.ack(BasicAckOptions::default()).await.map(|_| ()).map_err(BenchError::amqp("ack"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_queues_have_the_type_of_robots_queues_and_no_more() {
        let text = |text: &str| Argument::Text(text.to_owned());
        for (version, name, expected) in [
            ("4.3.6", "quorum", vec![("x-queue-type".to_owned(), text("quorum"))]),
            (
                "3.10.8",
                "classic",
                vec![("x-max-priority".to_owned(), Argument::Number(8)), ("x-queue-type".to_owned(), text("classic"))],
            ),
        ] {
            let version = Version::parse(version).unwrap();
            assert_eq!((type_arguments(version), type_name(version).as_str()), (expected, name));
        }
    }
}
