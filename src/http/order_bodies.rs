//! What may be said when something is asked of an item: the members that are read, and the schemas that document them.

use serde_json::Value;

use super::view::{ItemView, Timed};
use super::words::{PriorityBody, body};

body! {
    /// Who asks, and what for.
    #[schema(as = Order)]
    PlainBody, PLAIN {
        /// Who asks, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
    }
}

body! {
    /// Who gives it up, and what for.
    #[schema(as = CancelOrder)]
    CancelBody, CANCEL {
        /// Who asks, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// Of a dispatched item: dropped when it next passes the daemon, without looking for it.
        on_sight: Option<bool>,
    }
}

body! {
    /// What is to be other than it is; `null` takes a name or a time away.
    #[schema(as = Edit)]
    EditBody, EDIT {
        /// Who asks, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// Any JSON.
        #[schema(required = false)]
        payload: Value,
        priority: Option<PriorityBody>,
        name: Option<String>,
        due_at: Option<Timed>,
        expires_at: Option<Timed>,
        not_before: Option<Timed>,
    }
}

body! {
    /// To be worked again, with what is to be other than it is.
    #[schema(as = RequeueOrder)]
    RequeueBody, REQUEUE {
        /// Who asks, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// Like `30s` or `5m`, instead of `not_before`.
        delay: Option<String>,
        /// Any JSON.
        #[schema(required = false)]
        payload: Value,
        priority: Option<PriorityBody>,
        name: Option<String>,
        due_at: Option<Timed>,
        expires_at: Option<Timed>,
        not_before: Option<Timed>,
    }
}

body! {
    /// Something to be read beside the item.
    #[schema(as = Note)]
    NoteBody, NOTE {
        /// Who writes it, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(min_length = 1, max_length = 10_000)]
        note: String,
    }
}

body! {
    /// Who is to look after the item.
    #[schema(as = Assignment)]
    AssignBody, ASSIGN {
        /// Who asks, for the timeline.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
        #[schema(max_length = 10_000)]
        why: Option<String>,
        /// `null` is nobody.
        #[schema(required, min_length = 1, max_length = 100)]
        assignee: Option<String>,
    }
}

/// What may come of something that was asked of an item.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "documents what is answered")]
pub(super) enum Ordered {
    /// Done
    #[response(status = 200)]
    Done(ItemView),
    /// It waits, as `pending` says, until the item's message is found
    #[response(status = 202)]
    Waits(ItemView),
    /// The item is not where this could be done: `wrong_state`, `in_progress`, `out_of_reach`, `request_pending`, `life_over`, `no_payload`, `still_to_come`
    #[response(status = 409)]
    Refused,
    /// `invalid`: the queue's definition does not let it be so, for these reasons
    #[response(status = 422)]
    Invalid,
}
