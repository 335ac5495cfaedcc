//! What may be said when an action is begun: the members that are read, and the schemas that document them.

use serde_json::Value;

use super::super::view::Timed;
use super::super::words::{ExceptionKind, ItemState, PriorityBody, body};

body! {
    /// One action on many items.
    #[schema(as = ActionOrder)]
    ActionBody, ACTION {
        /// `hold`, `release`, `requeue`, `cancel`, `restore`, `edit`, `note` or `assign`.
        action: String,
        /// Which items; or `filter`.
        #[schema(min_items = 1, max_items = 100_000)]
        ids: Option<Vec<String>>,
        filter: Option<FilterBody>,
        /// Every item there is is meant: instead of a filter, or with an empty one.
        all: Option<bool>,
        /// Who asks, for the timelines.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// Changes nothing, and shows what would become of each item.
        dry_run: Option<bool>,
        /// So many items in a time, like `50/s` or `10/15m`.
        rate: Option<String>,
        /// `true`, or the sizes of its steps. For requeue, release and restore.
        #[schema(required = false)]
        ramp: Value,
        /// How long a step is waited for, like `10m`; an hour where nothing is said.
        ramp_wait: Option<String>,
        /// Cancel: of a dispatched item, dropped when it next passes the daemon.
        on_sight: Option<bool>,
        /// Requeue: like `30s` or `5m`, instead of `not_before`.
        delay: Option<String>,
        /// Edit and requeue: any JSON, the same for each item.
        #[schema(required = false)]
        payload: Value,
        /// Edit and requeue: a JSON Patch (RFC 6902) of each item's payload.
        #[schema(value_type = Option<Vec<Object>>, min_items = 1, max_items = 1_000)]
        patch: Option<Vec<Value>>,
        /// Edit and requeue: a JSON Merge Patch (RFC 7396) of each item's payload.
        #[schema(required = false)]
        merge_patch: Value,
        /// Edit and requeue, as the members that follow; `null` takes a name or a time away.
        priority: Option<PriorityBody>,
        name: Option<String>,
        due_at: Option<Timed>,
        expires_at: Option<Timed>,
        not_before: Option<Timed>,
        /// Note: what is written.
        #[schema(max_length = 10_000)]
        note: Option<String>,
        /// Assign: to whom; `null` is nobody.
        #[schema(min_length = 1, max_length = 100)]
        assignee: Option<String>,
    }
}

body! {
    /// Which items: those that meet everything that is given.
    #[schema(as = ActionFilter)]
    FilterBody, FILTER {
        /// The queue's key.
        #[schema(max_length = 200)]
        queue: Option<String>,
        /// Any of them.
        state: Option<Vec<ItemState>>,
        /// Any of them.
        kind: Option<Vec<ExceptionKind>>,
        #[schema(max_length = 200)]
        reference: Option<String>,
        /// All of them: an object of texts.
        #[schema(value_type = Option<Object>)]
        label: Option<Value>,
        /// Due before.
        due: Option<Timed>,
        /// Enqueued or changed since.
        since: Option<Timed>,
        /// Text in reference, name, reason or code.
        #[schema(max_length = 200)]
        q: Option<String>,
        /// Failed alike.
        #[schema(max_length = 200)]
        fingerprint: Option<String>,
    }
}

body! {
    /// Who asks.
    #[schema(as = ActionWord)]
    OnlyBy, ONLY_BY {
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
    }
}

body! {
    /// How an action is to be taken back.
    #[schema(as = UndoOrder)]
    UndoBody, UNDO {
        /// Who asks, for the timelines.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// Changes nothing, and shows what would become of each item.
        dry_run: Option<bool>,
        /// So many items in a time, like `50/s` or `10/15m`.
        rate: Option<String>,
    }
}
