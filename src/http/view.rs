//! The JSON forms of what the API answers. Field names and their order are the contract; absent is `null`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::attention::{self, AttentionView};
use super::breaker::BreakerView;
use super::outlook::Ahead;
use super::words::{ExceptionKind, ItemState, LaneWord, SlaWord, TypeWord};
use crate::definition::{QueueDefinition, QueueType};
use crate::item::breaker::Breaker;
use crate::item::request::Request;
use crate::item::timeline::Line;
use crate::item::{Item, ItemId, Kind, State, Timestamp, sla};
use crate::lanes;
use crate::lanes::live::InForce;
use crate::mirror::Counts;
use crate::status::Snapshot;

/// One page of anything.
#[derive(Serialize)]
pub(super) struct List<T> {
    pub items: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A list that is one page.
    pub(super) const fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// An item as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Item)]
pub(super) struct ItemView {
    #[schema(value_type = String, format = "uuid")]
    id: String,
    queue: String,
    reference: Option<String>,
    name: Option<String>,
    #[schema(value_type = ItemState)]
    state: &'static str,
    #[schema(value_type = Option<ExceptionKind>)]
    kind: Option<&'static str>,
    code: Option<String>,
    reason: Option<String>,
    note: Option<String>,
    result: Option<serde_json::Value>,
    progress: Option<u8>,
    priority: u8,
    #[schema(value_type = LaneWord)]
    lane: &'static str,
    attempt: u32,
    deliveries: u32,
    retries: u32,
    /// It is an exception after the last retry of its kind.
    retries_used_up: bool,
    requeues: u32,
    /// It counts as done because the broker's numbers say so, not because a robot did.
    inferred: bool,
    /// What was asked of it and waits for its message.
    pending: Option<PendingView>,
    possible_repeat: bool,
    ran_anyway: bool,
    ignored: Vec<String>,
    content_type: Option<String>,
    /// The payload is not kept any more.
    payload_gone: bool,
    labels: BTreeMap<String, String>,
    worker: Option<String>,
    assignee: Option<String>,
    /// The item whose end made this one.
    parent: Option<String>,
    /// The items that its own ends made, or found to be there.
    children: Vec<String>,
    enqueued_at: Timed,
    not_before: Option<Timed>,
    due_at: Option<Timed>,
    expires_at: Option<Timed>,
    dispatched_at: Option<Timed>,
    started_at: Option<Timed>,
    finished_at: Option<Timed>,
    #[schema(value_type = SlaWord)]
    sla: &'static str,
    revision: u32,
}

impl ItemView {
    /// `now` decides the `sla` of what is not finished.
    pub(super) fn new(item: Item, now: Timestamp) -> Self {
        let retries_used_up = item.retries_used_up();
        let sla = sla::standing(&item, now).word();
        Self {
            id: item.id.to_string(),
            queue: item.queue,
            reference: item.reference,
            name: item.name,
            state: item.state.word(),
            kind: item.state.kind().map(Kind::word),
            code: item.code,
            reason: item.reason,
            note: item.note,
            result: item.result,
            progress: item.progress,
            priority: item.priority,
            lane: item.lane.word(),
            attempt: item.attempt,
            deliveries: item.deliveries,
            retries: item.retries,
            retries_used_up,
            requeues: item.requeues,
            inferred: item.state == State::Processed && item.silent,
            pending: item.pending.map(PendingView::from),
            possible_repeat: item.possible_repeat,
            ran_anyway: item.ran_anyway,
            ignored: item.ignored,
            content_type: item.content_type,
            payload_gone: item.payload_gone,
            labels: item.labels,
            worker: item.worker,
            assignee: item.assignee,
            parent: item.parent.map(|parent| parent.to_string()),
            children: Vec::new(),
            enqueued_at: Timed(item.enqueued_at),
            not_before: item.not_before.map(Timed),
            due_at: item.due_at.map(Timed),
            expires_at: item.expires_at.map(Timed),
            dispatched_at: item.dispatched_at.map(Timed),
            started_at: item.started_at.map(Timed),
            finished_at: item.finished_at.map(Timed),
            sla,
            revision: item.revision,
        }
    }

    /// With the items that its ends made or found.
    pub(super) fn with_children(self, children: &[ItemId]) -> Self {
        Self { children: children.iter().map(ToString::to_string).collect(), ..self }
    }
}

/// A request that waits, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Pending)]
struct PendingView {
    action: &'static str,
    by: String,
    why: Option<String>,
    since: Timed,
    on_sight: bool,
}

impl From<Request> for PendingView {
    fn from(request: Request) -> Self {
        Self {
            action: request.action.word(),
            by: request.who,
            why: request.why,
            since: Timed(request.at),
            on_sight: request.on_sight,
        }
    }
}

/// A moment as RFC 3339 text.
pub(super) struct Timed(pub(super) Timestamp);

impl Serialize for Timed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A queue as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueListed)]
pub(super) struct QueueView {
    key: String,
    title: String,
    description: Option<String>,
    owner: Option<String>,
    labels: BTreeMap<String, String>,
    #[schema(value_type = LaneWord)]
    lane: &'static str,
    #[serde(rename = "type")]
    #[schema(value_type = TypeWord)]
    queue_type: &'static str,
    paused: PausedView,
    /// `null` where the definition has none.
    breaker: Option<BreakerView>,
    /// Not defined any more: it goes on to robots and takes nothing new.
    retired: bool,
    /// Its robots' queue is being made anew, or that was rolled back.
    migration: Option<MigrationView>,
    counts: CountsView,
    /// Messages ready on the broker; `null` where not seen yet.
    ready: Option<u64>,
    /// Messages with robots; `null` without the management API.
    unacked: Option<u64>,
    consumers: Option<u64>,
    unaccounted: u64,
    attention: Vec<AttentionView>,
}

/// One queue alone: also what becomes of it, which takes a look at everything that is due.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
pub(super) struct OneQueueView {
    #[serde(flatten)]
    queue: QueueView,
    sla: SlaView,
    forecast: ForecastView,
}

/// Open items that are due some day, by how they stand.
#[derive(Serialize, ToSchema)]
#[schema(as = Sla)]
struct SlaView {
    in_time: u64,
    at_risk: u64,
    late: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Forecast)]
struct ForecastView {
    drain_at: Option<Timed>,
    late: Option<u64>,
    robots_needed: Option<u64>,
}

impl OneQueueView {
    pub(super) fn new(queue: QueueView, ahead: Ahead) -> Self {
        let Ahead { at, sla, forecast } = ahead;
        let drain_at = forecast.drain_in.and_then(|seconds| {
            let span = Duration::try_from_secs_f64(seconds.ceil()).ok()?;
            at.checked_add(span).ok()
        });
        Self {
            queue,
            sla: SlaView { in_time: sla.in_time, at_risk: sla.at_risk, late: sla.late },
            forecast: ForecastView {
                drain_at: drain_at.map(Timed),
                late: forecast.late,
                robots_needed: forecast.robots_needed,
            },
        }
    }
}

/// What is paused, by definition or by command.
#[derive(Serialize, ToSchema)]
#[schema(as = Paused)]
pub(super) struct PausedView {
    pub dispatch: bool,
    pub intake: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Migration)]
struct MigrationView {
    step: &'static str,
    why: String,
    since: Timed,
    problem: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Counts)]
struct CountsView {
    queued: u64,
    processing: u64,
    processed: u64,
    on_hold: u64,
    exception: u64,
    cancelled: u64,
    exceptions: BTreeMap<&'static str, u64>,
}

impl QueueView {
    /// `status` says what was seen of the queue on the broker.
    pub(super) fn new(
        definition: &QueueDefinition,
        in_force: &InForce,
        counts: &Counts,
        status: &Snapshot,
        unaccounted: u64,
        breaker: Option<&Breaker>,
    ) -> Self {
        let seen = status.queues.get(&definition.key).copied().unwrap_or_default();
        let paused = in_force.paused(&definition.key);
        let migration = status.migrations.iter().find(|migration| migration.queue == definition.key);
        Self {
            key: definition.key.clone(),
            title: definition.title.clone(),
            description: definition.description.clone(),
            owner: definition.owner.clone(),
            labels: definition.labels.clone(),
            lane: definition.lane.word(),
            queue_type: match definition.queue_type {
                QueueType::Auto => "auto",
                QueueType::Quorum => "quorum",
                QueueType::Classic => "classic",
            },
            paused: PausedView { dispatch: paused.dispatch, intake: paused.intake },
            breaker: definition.breaker.map(|_| BreakerView::new(breaker, lanes::now())),
            retired: in_force.definitions.retired.contains_key(&definition.key),
            migration: migration.map(|migration| MigrationView {
                step: migration.step,
                why: migration.why.clone(),
                since: Timed(migration.since),
                problem: migration.problem.clone(),
            }),
            counts: CountsView {
                queued: counts.queued,
                processing: counts.processing,
                processed: counts.processed,
                on_hold: counts.on_hold,
                exception: counts.exception,
                cancelled: counts.cancelled,
                exceptions: counts.exceptions.iter().map(|(kind, count)| (kind.word(), *count)).collect(),
            },
            ready: seen.ready,
            unacked: seen.unacked,
            consumers: seen.consumers,
            unaccounted,
            attention: attention::of(&definition.key, status),
        }
    }
}

/// A timeline's line as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Line)]
pub(super) struct LineView {
    revision: u32,
    at: Timed,
    actor: String,
    user: Option<String>,
    event: String,
    why: Option<String>,
    attempt: u32,
    state: String,
}

impl From<Line> for LineView {
    fn from(line: Line) -> Self {
        Self {
            revision: line.revision,
            at: Timed(line.at),
            actor: line.actor,
            user: line.user,
            event: line.event.into_owned(),
            why: line.why,
            attempt: line.attempt,
            state: line.state,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::item::{Lane, Place};

    pub(in crate::http) fn item() -> Item {
        let time = |second| Timestamp::from_second(second).unwrap();
        Item {
            id: ItemId::new(uuid::Uuid::from_u128(1)),
            queue: "invoices".to_owned(),
            lane: Lane::Managed,
            reference: Some("INV-1".to_owned()),
            name: None,
            state: State::Queued,
            place: Place::Ready,
            code: None,
            reason: None,
            note: None,
            result: None,
            progress: None,
            priority: 4,
            attempt: 0,
            deliveries: 0,
            retries: 0,
            requeues: 0,
            silent: false,
            rejected_at: None,
            possible_repeat: false,
            ran_anyway: false,
            ignored: Vec::new(),
            stub: false,
            content_type: Some("application/json".to_owned()),
            size: Some(2),
            payload_gone: false,
            content_hash: None,
            labels: BTreeMap::new(),
            worker: None,
            traceparent: None,
            reply_to: None,
            correlation_id: None,
            enqueued_at: time(0),
            not_before: None,
            ready_at: time(0),
            due_at: None,
            expires_at: None,
            dispatched_at: None,
            started_at: None,
            finished_at: None,
            assignee: None,
            parent: None,
            pending: None,
            cancelled_from: None,
            at_risk_at: None,
            sla_next: None,
            fingerprint: None,
            revision: 1,
        }
    }

    #[test]
    fn an_item_reads_exactly_the_documented_fields() {
        let shown = serde_json::to_string(&ItemView::new(item(), Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(
            shown,
            r#"{"id":"00000000-0000-0000-0000-000000000001","queue":"invoices","reference":"INV-1","name":null,"state":"queued","kind":null,"code":null,"reason":null,"note":null,"result":null,"progress":null,"priority":4,"lane":"managed","attempt":0,"deliveries":0,"retries":0,"retries_used_up":false,"requeues":0,"inferred":false,"pending":null,"possible_repeat":false,"ran_anyway":false,"ignored":[],"content_type":"application/json","payload_gone":false,"labels":{},"worker":null,"assignee":null,"parent":null,"children":[],"enqueued_at":"1970-01-01T00:00:00Z","not_before":null,"due_at":null,"expires_at":null,"dispatched_at":null,"started_at":null,"finished_at":null,"sla":"none","revision":1}"#
        );
    }

    #[test]
    fn only_a_processed_item_without_a_report_is_inferred() {
        for (state, silent, inferred) in [
            (State::Processed, true, true),
            (State::Processed, false, false),
            (State::Exception(Kind::Generic), true, false),
        ] {
            assert_eq!(ItemView::new(Item { state, silent, ..item() }, Timestamp::UNIX_EPOCH).inferred, inferred);
        }
    }
}
