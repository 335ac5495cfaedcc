//! Makes a [`Topology`] so. Idempotent: what is there already stays as it is.
//!
//! Order of effects: policies (they have to be there before their queue is), exchanges, queues, bindings of the other
//! lane away, bindings there. Reconciliation reads the policies back. Whatever a crash leaves undone is done by the next start.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind as Kind};

use super::connection::Session;
use super::management::Management;
use super::{BrokerError, answered, consume};
use crate::topology::desired::{Argument, Binding, Exchange, ExchangeKind, Queue, Topology};

/// Declares everything. Without the management API (`None`, or it does not answer) policies are left as they are, and
/// the answer says why.
///
/// # Errors
/// The first refusal of the broker, named. A queue that is there with other arguments is one.
pub async fn declare(
    session: &Session,
    management: Option<&Management>,
    topology: &Topology,
) -> Result<Option<String>, BrokerError> {
    let mut problem = None;
    match management {
        Some(management) => {
            for policy in &topology.policies {
                if let Err(error) = management.put_policy(policy).await {
                    problem = Some(error.to_string());
                    break;
                }
            }
        }
        None => problem = Some("broker.management_url is empty".to_owned()),
    }
    let channel = session.consuming_channel().await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange).await?;
    }
    let mut channel = channel;
    for queue in &topology.queues {
        if let Err(error) = declare_queue(&channel, queue).await {
            channel = keep_as_it_is(session, queue, error).await?;
        }
    }
    for binding in &topology.unbound {
        unbind(&channel, binding).await?;
    }
    for binding in &topology.bound {
        bind(&channel, binding).await?;
    }
    // A channel of its own that is closed again: nothing else may fail over a declaration.
    answered("close a channel", channel.close(200, "done".into())).await?;
    Ok(problem)
}

/// A robots' queue that is there with other arguments goes on as it is: robots and items are on it, and one queue is no
/// reason to stop all others. Answers a new channel, the refusal closed the old one.
async fn keep_as_it_is(session: &Session, queue: &Queue, error: BrokerError) -> Result<Channel, BrokerError> {
    if queue.key.is_none() {
        return Err(error);
    }
    let channel = session.consuming_channel().await?;
    if consume::count_ready(&channel, &queue.name).await.is_err() {
        return Err(error);
    }
    tracing::error!(
        queue = queue.name,
        error = &error as &dyn std::error::Error,
        "the queue is there with other arguments and is used as it is; to change them, empty it and delete it"
    );
    Ok(channel)
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
        arguments.insert((*name).into(), value);
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
