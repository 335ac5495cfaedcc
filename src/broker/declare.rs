//! Makes a [`Topology`] so. Idempotent: what is there already stays as it is.
//!
//! Order of effects: policies (they have to be there before their queue is), exchanges, queues, bindings of the other
//! lane away, bindings there. Reconciliation reads the policies back. Whatever a crash leaves undone is done by the next start.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind as Kind};

use super::connection::Session;
use super::management::Management;
use super::{BrokerError, answered, consume};
use crate::topology::desired::{Argument, Binding, Exchange, ExchangeKind, Queue, Topology};

/// What could not be made so.
#[derive(Debug, Default)]
pub struct Shortfall {
    /// Why policies were left as they are: no management API (`None` was handed in, or it does not answer).
    pub policies: Option<String>,
    /// Keys of robots' queues that can neither be declared nor looked at, for example because their node is down.
    pub unreachable: BTreeSet<String>,
}

/// Declares everything, as far as it can be done.
///
/// # Errors
/// The first refusal of the broker, named, but for robots' queues: one of them is no reason to stop all others.
pub async fn declare(
    session: &Session,
    management: Option<&Management>,
    topology: &Topology,
) -> Result<Shortfall, BrokerError> {
    let mut shortfall = Shortfall::default();
    match management {
        Some(management) => {
            for policy in &topology.policies {
                if let Err(error) = management.put_policy(policy).await {
                    shortfall.policies = Some(error.to_string());
                    break;
                }
            }
        }
        None => shortfall.policies = Some("broker.management_url is empty".to_owned()),
    }
    let channel = session.consuming_channel().await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange).await?;
    }
    let mut channel = channel;
    let mut left_out = BTreeSet::new();
    for queue in &topology.queues {
        if let Err(error) = declare_queue(&channel, queue).await {
            channel = session.consuming_channel().await?;
            if !keep_as_it_is(session, queue, &error).await? {
                let Some(key) = &queue.key else { return Err(error) };
                tracing::error!(
                    queue = queue.name,
                    error = &error as &dyn std::error::Error,
                    "the queue can neither be declared nor looked at; the others go on without it"
                );
                shortfall.unreachable.insert(key.clone());
                left_out.insert(queue.name.as_str());
            }
        }
    }
    for binding in topology.unbound.iter().filter(|binding| !left_out.contains(binding.queue.as_str())) {
        unbind(&channel, binding).await?;
    }
    for binding in topology.bound.iter().filter(|binding| !left_out.contains(binding.queue.as_str())) {
        bind(&channel, binding).await?;
    }
    // A channel of its own that is closed again: nothing else may fail over a declaration.
    answered("close a channel", channel.close(200, "done".into())).await?;
    Ok(shortfall)
}

/// Declares one queue; one that is there with other arguments is used as it is, and the log says so.
///
/// # Errors
/// Where it can neither be declared nor looked at.
pub async fn declare_or_keep(session: &Session, queue: &Queue) -> Result<(), BrokerError> {
    let declarer = Declarer::open(session).await?;
    match declarer.queue(queue).await {
        Ok(()) => declarer.close().await,
        Err(error) if keep_as_it_is(session, queue, &error).await? => Ok(()),
        Err(error) => Err(error),
    }
}

/// A queue that is there with other arguments goes on as it is: work is on it. Answers whether it is there.
async fn keep_as_it_is(session: &Session, queue: &Queue, error: &BrokerError) -> Result<bool, BrokerError> {
    // A channel of its own: a look at what is not there closes it.
    let channel = session.consuming_channel().await?;
    if consume::count_ready(&channel, &queue.name).await.is_err() {
        return Ok(false);
    }
    answered("close a channel", channel.close(200, "done".into())).await?;
    tracing::error!(
        queue = queue.name,
        error = error as &dyn std::error::Error,
        "the queue is there with other arguments and is used as it is; `warrend plan` says what differs and what to do"
    );
    Ok(true)
}

/// Makes single things so, on a channel of its own. A refusal closes the channel: then another one is to be opened.
pub struct Declarer {
    channel: Channel,
}

impl Declarer {
    /// Opens its channel.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn open(session: &Session) -> Result<Self, BrokerError> {
        Ok(Self { channel: session.consuming_channel().await? })
    }

    /// # Errors
    /// What the broker refuses.
    pub async fn exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        declare_exchange(&self.channel, exchange).await
    }

    /// # Errors
    /// What the broker refuses.
    pub async fn queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        declare_queue(&self.channel, queue).await
    }

    /// # Errors
    /// What the broker refuses.
    pub async fn bind(&self, binding: &Binding) -> Result<(), BrokerError> {
        bind(&self.channel, binding).await
    }

    /// # Errors
    /// What the broker refuses.
    pub async fn unbind(&self, binding: &Binding) -> Result<(), BrokerError> {
        unbind(&self.channel, binding).await
    }

    /// Messages ready in a queue, exact at this moment.
    ///
    /// # Errors
    /// Where it is not there.
    pub async fn ready(&self, queue: &str) -> Result<u64, BrokerError> {
        consume::count_ready(&self.channel, queue).await
    }

    /// Deletes a queue with whatever is in it. Who asks has seen that nothing is: the conditions that RabbitMQ offers
    /// delete what robots hold (classic), or close the connection (quorum).
    ///
    /// # Errors
    /// What the broker refuses.
    pub async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        let delete = self.channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        answered(format!("delete the queue {queue}"), delete).await.map(|_| ())
    }

    /// # Errors
    /// Where the connection is gone.
    pub async fn close(self) -> Result<(), BrokerError> {
        answered("close a channel", self.channel.close(200, "done".into())).await
    }
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange) -> Result<(), BrokerError> {
    let kind = match exchange.kind {
        ExchangeKind::Topic => Kind::Topic,
        ExchangeKind::Direct => Kind::Direct,
        ExchangeKind::Fanout => Kind::Fanout,
    };
    let mut arguments = FieldTable::default();
    if let Some(alternate) = &exchange.alternate {
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.as_str().into()));
    }
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declare = channel.exchange_declare(exchange.name.as_str().into(), kind, options, arguments);
    answered(format!("declare the exchange {}", exchange.name), declare).await
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), BrokerError> {
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert(name.as_str().into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declare = channel.queue_declare(queue.name.as_str().into(), options, arguments);
    answered(format!("declare the queue {} ({})", queue.name, queue.why), declare).await?;
    if queue.key.is_some() {
        tracing::info!(queue = queue.name, "{}", queue.why);
    }
    Ok(())
}

async fn bind(channel: &Channel, binding: &Binding) -> Result<(), BrokerError> {
    let (queue, exchange, key) = parts(binding);
    let bind = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
    answered(format!("bind {} to {}", binding.queue, binding.exchange), bind).await
}

async fn unbind(channel: &Channel, binding: &Binding) -> Result<(), BrokerError> {
    let (queue, exchange, key) = parts(binding);
    let unbind = channel.queue_unbind(queue, exchange, key, FieldTable::default());
    answered(format!("unbind {} from {}", binding.queue, binding.exchange), unbind).await
}

fn parts(binding: &Binding) -> (lapin::types::ShortString, lapin::types::ShortString, lapin::types::ShortString) {
    (binding.queue.as_str().into(), binding.exchange.as_str().into(), binding.key.as_str().into())
}
