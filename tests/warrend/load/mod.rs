//! Many items at once, in each place where they may wait. `WARREND_SOAK_ITEMS` says how many (`make soak`: a million).

mod waiting;

use futures::{StreamExt as _, stream};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

use crate::support::broker::Vhost;

/// Publishes in flight at once.
const IN_FLIGHT: usize = 1000;

const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// Items that wait, and how many bytes each has.
const ITEMS: usize = 20_000;
const BODY: usize = 4 * 1024;

/// The bytes where there are more items than usual: a million is enough to see, and has to fit on a disk.
const SOAK_BODY: usize = 512;

fn items() -> usize {
    std::env::var("WARREND_SOAK_ITEMS").map_or(ITEMS, |items| items.parse().expect("a number"))
}

/// Sends items of these numbers to a queue, each confirmed.
pub async fn publish(vhost: &Vhost, queue: &str, numbers: std::ops::Range<usize>) {
    publish_sized(vhost, queue, numbers, if items() > ITEMS { SOAK_BODY } else { BODY }).await;
}

async fn publish_sized(vhost: &Vhost, queue: &str, numbers: std::ops::Range<usize>, bytes: usize) {
    publish_with(vhost, queue, numbers, bytes, &FieldTable::default()).await;
}

async fn publish_with(vhost: &Vhost, queue: &str, numbers: std::ops::Range<usize>, bytes: usize, headers: &FieldTable) {
    let connection = Connection::connect(&vhost.amqp_url, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let body = vec![b'x'; bytes];
    stream::iter(numbers)
        .map(|number| {
            let (channel, body) = (&channel, &body);
            async move {
                let properties = BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_headers(headers.clone())
                    .with_message_id(format!("item-{number}").as_str().into());
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let publish = channel.basic_publish("wq.items".into(), queue.into(), options, body, properties);
                let confirmation = publish.await.expect("published").await.expect("confirmed");
                assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "{queue} did not take it");
            }
        })
        .buffer_unordered((IN_FLIGHT_BYTES / bytes).clamp(1, IN_FLIGHT))
        .for_each(|()| std::future::ready(()))
        .await;
}
