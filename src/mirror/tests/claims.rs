//! Claims, marks and what is given back.

use super::super::dispatch::{Allowance, Claimed, Sent, claim, give_back, mark_dispatched, unconfirmed};
use super::super::{items, records};
use super::*;
use crate::definition::{Order, QueueDefinition};
use crate::item::door::{self, Arrival, NewItem};
use crate::item::{Item, ItemId, Place, Timestamp};

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

async fn load(bench: &Bench, id: ItemId) -> Item {
    let loaded = bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { items::by_id(tx, &[id].into()).await }));
    loaded.await.unwrap().remove(0)
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

#[tokio::test]
async fn what_is_given_back_goes_out_next_as_if_it_had_not_been_claimed() {
    let bench = Bench::new().await;
    let admitted = admit(&bench, 5, 0).await;
    let claimed = next(&bench, 3).await;
    let surplus: Vec<Sent> = claimed[1..].iter().map(Sent::of).collect();
    // The last of them is out by now: only what is still claimed comes back.
    let sent = [Sent::of(&claimed[2])];
    let gave = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            mark_dispatched(tx, &sent).await?;
            give_back(tx, &surplus, AT).await
        })
    });
    gave.await.unwrap();
    let item = load(&bench, admitted[1]).await;
    assert_eq!((item.place, item.attempt, item.rejected_at), (Place::Ready, 0, None));
    assert_eq!(load(&bench, admitted[2]).await.place, Place::Broker);
    let again = next(&bench, 500).await;
    assert_eq!(ids(&again), [admitted[1], admitted[3], admitted[4]]);
    assert!(again.iter().all(|item| item.attempt == 1));
}

#[tokio::test]
async fn a_retry_that_is_given_back_still_counts_the_dead_letter_before_it() {
    let bench = Bench::new().await;
    let admitted = admit(&bench, 1, 2).await;
    let surplus: Vec<Sent> = next(&bench, 1).await.iter().map(Sent::of).collect();
    bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { give_back(tx, &surplus, AT).await })).await.unwrap();
    let item = load(&bench, admitted[0]).await;
    assert_eq!((item.place, item.attempt, item.rejected_at), (Place::Ready, 2, Some(AT)));
}
