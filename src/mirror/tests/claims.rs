//! Claims and marks.

use super::super::dispatch::{Allowance, Claimed, Sent, claim, mark_dispatched, unconfirmed};
use super::super::{items, records};
use super::*;
use crate::definition::{Order, QueueDefinition};
use crate::item::door::{self, Arrival, NewItem};
use crate::item::{Item, ItemId, Timestamp};

const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// So many new items of one priority, in order, that were tried so often before.
async fn admit(bench: &Bench, count: usize, attempt: u32) -> Vec<ItemId> {
    let definition = QueueDefinition::with_defaults("a");
    let new: Vec<Item> = (0..count)
        .map(|_| {
            let arrival = Arrival { new: NewItem::default(), ..Arrival::default() };
            let id = ItemId::new(uuid::Uuid::now_v7());
            Item { attempt, ..door::admit(&definition, &arrival, 4, door::content_hash(b""), id, AT) }
        })
        .collect();
    let ids = new.iter().map(|item| item.id).collect();
    let admitted = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            items::insert(tx, &new.iter().map(|item| (item, false)).collect::<Vec<_>>()).await?;
            let bodies: Vec<(ItemId, &[u8])> = new.iter().map(|item| (item.id, &b"body"[..])).collect();
            records::insert_payloads(tx, &bodies).await
        })
    });
    admitted.await.unwrap();
    ids
}

async fn next(bench: &Bench, count: u32) -> Vec<Claimed> {
    let claimed = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move { claim(tx, "a", 4, Order::Fifo, Allowance { items: count, bytes: 1 << 20 }, AT).await })
    });
    claimed.await.unwrap().items
}

fn ids(claimed: &[Claimed]) -> Vec<ItemId> {
    claimed.iter().map(|item| item.id).collect()
}

#[tokio::test]
async fn claims_keep_the_order_of_admission_however_many_they_are() {
    for count in [1, 2, 17, 65, 300] {
        let bench = Bench::new().await;
        let admitted = admit(&bench, count, 0).await;
        let claimed = next(&bench, 500).await;
        assert_eq!(ids(&claimed), admitted, "{count}");
        assert!(claimed.iter().all(|item| item.attempt == 1 && item.payload == b"body"), "{count}");
        let sent: Vec<Sent> = claimed.iter().map(Sent::of).collect();
        bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { mark_dispatched(tx, &sent).await })).await.unwrap();
        let left = bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { unconfirmed(tx, "a", 500).await }));
        assert_eq!(left.await.unwrap(), [], "{count}");
    }
}
