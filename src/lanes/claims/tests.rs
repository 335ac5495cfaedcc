//! What is committed for those who claim, and what they may say of it.

use std::sync::Arc;
use std::time::Duration;

use super::desk::Ask;
use super::take::{Share, deliveries, ready};
use crate::definition::{Definitions, QueueDefinition};
use crate::item::door::NewItem;
use crate::item::lifecycle::{self, lease};
use crate::item::message::{Message, Properties};
use crate::item::report::{Report, read_said};
use crate::item::{Item, Lane, State, Timestamp};
use crate::lanes::leases::{Answer, Said, report};
use crate::lanes::ledger::Ledger;
use crate::lanes::live::{InForce, Live};
use crate::lanes::{Wakes, intake, now};
use crate::mirror::keys::Mark;
use crate::mirror::{Mirror, Tx, items, leases};

const LENGTH: Duration = Duration::from_secs(60);

struct Bench {
    _folder: tempfile::TempDir,
    mirror: Mirror,
    definitions: Arc<Definitions>,
    live: Live,
    wakes: Wakes,
}

impl Bench {
    /// A managed queue `m` and a direct one `d`.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        let queue = |key: &str, lane| {
            (key.to_owned(), Arc::new(QueueDefinition { lane, ..QueueDefinition::with_defaults(key) }))
        };
        let queues = [queue("m", Lane::Managed), queue("d", Lane::Direct)].into();
        let definitions = Arc::new(Definitions { queues, ..Definitions::default() });
        let live = Live::new(InForce { definitions: Arc::clone(&definitions), ..InForce::default() });
        Self { _folder: folder, mirror, definitions, live, wakes: Wakes::default() }
    }

    /// What one of those who ask gets of this message of the direct queue.
    async fn message(&self, body: &str, redelivered: bool, ask: Ask) -> Share {
        let properties = Properties { message_id: Some("r".to_owned()), ..Properties::default() };
        let message = Message { properties, body: body.as_bytes().to_vec(), redelivered, ..Message::default() };
        let definitions = Arc::clone(&self.definitions);
        let taken = self.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move { deliveries(tx, &definitions, "d", vec![message], vec![(ask, 1)]).await })
        });
        taken.await.unwrap().shares.pop().unwrap()
    }

    async fn enqueue(&self, reference: &str) {
        let new = NewItem {
            payload: b"{}".to_vec(),
            content_type: Some("application/json".to_owned()),
            reference: Some(reference.to_owned()),
            ..NewItem::default()
        };
        intake::enqueue(&self.mirror, &self.definitions.queues["m"], new, "t", |_| None).await.unwrap();
    }

    /// What those who ask get of what waits in the managed queue.
    async fn ready(&self, asks: Vec<Ask>) -> Vec<Share> {
        let definitions = Arc::clone(&self.definitions);
        let taken = self.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let definition = Arc::clone(&definitions.queues["m"]);
                ready(tx, &definitions, &definition, asks.into_iter().map(|ask| (ask, 1)).collect()).await
            })
        });
        taken.await.unwrap().shares
    }

    async fn step(&self, item: &Item, decide: impl FnOnce(&mut Ledger) + Send + 'static) {
        let (definitions, id) = (Arc::clone(&self.definitions), item.id);
        let written = self.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let mut ledger = Ledger::of(&definitions, items::by_id(tx, &[id].into()).await?);
                decide(&mut ledger);
                ledger.write(tx).await
            })
        });
        drop(written.await.unwrap());
    }

    async fn say(&self, share: &Share, kind: &str) -> Answer<Box<Item>> {
        let said = Said { item: share.items[0].0.id, lease: share.lease.clone(), user: None };
        let (saying, problems) = read_said(kind, serde_json::Map::new()).unwrap();
        report((&self.mirror, &self.live, &self.wakes), said, kind.to_owned(), saying, problems).await.unwrap()
    }

    async fn ended(&self, share: &Share) -> Option<String> {
        let (id, attempt) = (share.items[0].0.id, share.items[0].0.attempt);
        let lease =
            self.mirror.write(move |tx: &mut Tx| Box::pin(async move { leases::of_attempt(tx, id, attempt).await }));
        lease.await.unwrap().unwrap().ended.map(|(how, _)| how)
    }
}

fn ask(worker: &str) -> Ask {
    Ask { worker: worker.to_owned(), user: None, length: LENGTH, max: 1, mark: None }
}

fn ours(share: &Share) -> &Item {
    &share.items[0].0
}

#[tokio::test]
async fn a_direct_message_is_dropped_as_a_repeat_only_while_its_item_is_open() {
    let bench = Bench::new().await;
    let first = bench.message("{}", false, ask("ann")).await;
    assert!(!ours(&first).possible_repeat);
    // Its ack did not get through.
    assert_eq!(bench.message("{}", true, ask("bob")).await.items.len(), 0);
    // Of the same reference, but other work; the tap is behind.
    let other = bench.message("[]", true, ask("bob")).await;
    assert!(ours(&other).id != ours(&first).id && ours(&other).possible_repeat);
    assert!(matches!(bench.say(&first, "processed").await, Answer::Done(item) if item.state == State::Processed));
    // The same was sent again, a robot that had it died, and the tap is behind: nobody may take it for done.
    let again = bench.message("{}", true, ask("cy")).await;
    assert!(ours(&again).id != ours(&first).id, "it is worked");
    assert!(ours(&again).possible_repeat && ours(&again).stub, "its copy finds it");
}

#[tokio::test]
async fn what_a_holder_says_is_never_taken_for_what_somebody_else_said() {
    let bench = Bench::new().await;
    bench.enqueue("r").await;
    let ann = bench.ready(vec![ask("ann")]).await.pop().unwrap();
    bench
        .step(ours(&ann), |ledger| {
            ledger.step_all(|item, rules, moment| lease::lose(item, 1, 1, LENGTH, rules, moment.now));
        })
        .await;
    let bob = bench.ready(vec![ask("bob")]).await.pop().unwrap();
    assert_eq!((ours(&bob).attempt, bench.ended(&ann).await.as_deref()), (2, Some(lease::LOST)));
    // Ann's work counts, and bob's attempt is over with it.
    assert!(matches!(bench.say(&ann, "processed").await, Answer::Done(item) if item.state == State::Processed));
    assert_eq!(bench.ended(&ann).await.as_deref(), Some("said processed"));
    assert_eq!(bench.ended(&bob).await.as_deref(), Some("dropped"));
    assert!(matches!(bench.say(&bob, "hold").await, Answer::Lost(_)));
    let before = bench.mirror.timeline(ours(&bob).id).await.unwrap().len();
    assert!(matches!(bench.say(&bob, "processed").await, Answer::Done(_)));
    assert_eq!(bench.mirror.timeline(ours(&bob).id).await.unwrap().len(), before + 1, "it is on the timeline");
    assert!(matches!(bench.say(&bob, "processed").await, Answer::Done(_)));
    assert_eq!(bench.mirror.timeline(ours(&bob).id).await.unwrap().len(), before + 1, "once");

    // Over AMQP somebody ends the attempt by the same word.
    bench.enqueue("s").await;
    let cy = bench.ready(vec![ask("cy")]).await.pop().unwrap();
    bench
        .step(ours(&cy), |ledger| {
            let (saying, problems) = read_said("hold", serde_json::Map::new()).unwrap();
            let said = Report { saying, attempt: Some(1), robot: None, user: None, problems };
            ledger.step_all(|item, rules, moment| Some(lifecycle::report(item, &said, rules, moment)));
        })
        .await;
    assert_eq!(bench.ended(&cy).await.as_deref(), Some("hold"));
    assert!(matches!(bench.say(&cy, "hold").await, Answer::Lost(_)), "cy was not heard");
}

#[tokio::test]
async fn who_asks_with_an_idempotency_key_has_it_noted_with_what_they_get() {
    let bench = Bench::new().await;
    let (at, since) = (now(), Timestamp::UNIX_EPOCH);
    let mark = |key: &str| Arc::new(Mark::new("ann".to_owned(), key.to_owned(), "request".to_owned(), at, since));
    let with = |key: &str| Ask { mark: Some(mark(key)), ..ask("ann") };
    bench.enqueue("r").await;
    let shares = bench.ready(vec![with("has"), with("has none")]).await;
    assert_eq!((shares[0].items.len(), shares[1].items.len()), (1, 0));
    assert_eq!(bench.message("{}", false, with("has a message")).await.items.len(), 1);
    for (key, noted) in [("has", true), ("has none", false), ("has a message", true)] {
        assert_eq!(bench.mirror.used_key("ann", key, since).await.unwrap().is_some(), noted, "{key}");
    }
}

#[tokio::test]
async fn what_is_claimed_is_counted_where_it_matters() {
    let bench = Bench::new().await;
    for reference in ["r", "s", "t"] {
        bench.enqueue(reference).await;
    }
    bench.ready(vec![ask("ann"), ask("bob")]).await;
    assert_eq!(bench.mirror.leased("m").await.unwrap(), 2);
    assert_eq!(bench.mirror.leased("d").await.unwrap(), 0);
    assert_eq!(bench.mirror.working("m").await.unwrap(), 2);
}
