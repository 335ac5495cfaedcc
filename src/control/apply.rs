//! Executes the steps of a plan. Every step is idempotent; what a crash leaves undone is in the next plan.
//!
//! Order of effects: policies (they have to be there before their queue is), exchanges, queues, then bindings queue by
//! queue ([`super::rebind`] has their order). Migrations and deletions are begun here and run by themselves.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde::Serialize;

use super::in_words;
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::declare::Declarer;
use crate::broker::management::Management;
use crate::failpoint;
use crate::topology::desired::{Binding, Queue};
use crate::topology::plan::{Action, Plan, Step};

/// Steps of one kind that are under way at once.
const AT_ONCE: usize = 8;

/// What came of an order to apply.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Applied {
    pub plan: Plan,
    /// Steps that were done.
    pub done: usize,
    /// Keys of queues whose migration has begun and goes on.
    pub migrating: BTreeSet<String>,
    /// Keys of retired queues that are gone.
    pub deleted: BTreeSet<String>,
    /// What could not be done and why, for people.
    pub problems: Vec<String>,
    /// Keys of queues that could not be made.
    #[serde(skip)]
    pub missing: BTreeSet<String>,
}

/// Bindings from `wq.items` that change for one work queue, all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rebinding {
    pub unbind: Vec<Binding>,
    pub bind: Vec<Binding>,
}

/// What of a plan is not done here.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// By work queue.
    pub rebindings: BTreeMap<String, Rebinding>,
    pub migrate: Vec<Step>,
    pub delete: Vec<Step>,
}

/// Does the steps that nobody notices, and answers those that need care.
///
/// # Errors
/// Where one of our own exchanges or queues cannot be made: nothing works without them.
pub(super) async fn make(
    session: &Session,
    management: &Management,
    steps: &[Step],
    items: &str,
    applied: &mut Applied,
) -> Result<Rest, BrokerError> {
    let policies: Vec<&Step> = (steps.iter())
        .filter(|step| matches!(step.action, Action::SetPolicy { .. } | Action::RemovePolicy { .. }))
        .collect();
    for done in join_all(lots(&policies).map(|lot| policies_one_by_one(management, lot))).await {
        note(applied, done);
    }

    let declarer = Declarer::open(session).await?;
    for step in steps {
        if let Action::CreateExchange { exchange } = &step.action {
            declarer.exchange(exchange).await?;
            failpoint::reach("apply.stepped").await;
            applied.done += 1;
        }
    }
    let (own, robots): (Vec<_>, Vec<_>) = (steps.iter())
        .filter_map(|step| match &step.action {
            Action::CreateQueue { queue } => Some(queue),
            _ => None,
        })
        .partition(|queue| queue.key.is_none());
    for queue in own {
        declarer.queue(queue).await?;
        failpoint::reach("apply.stepped").await;
        applied.done += 1;
    }
    declarer.close().await?;
    let fresh: BTreeSet<&str> = robots.iter().filter_map(|queue| queue.key.as_deref()).collect();
    let things: Vec<Thing<'_>> = robots.iter().map(|queue| Thing::Queue(queue)).collect();
    side_by_side(session, &things, applied).await;

    let mut rest = Rest::default();
    let mut bindings = Vec::new();
    for step in steps {
        match (&step.action, &step.key) {
            (Action::Unbind { binding }, Some(key)) if binding.exchange == items => {
                rest.rebindings.entry(key.clone()).or_default().unbind.push(binding.clone());
            }
            (Action::Bind { binding }, Some(key)) if binding.exchange == items && !fresh.contains(key.as_str()) => {
                rest.rebindings.entry(key.clone()).or_default().bind.push(binding.clone());
            }
            (Action::Unbind { binding }, _) => bindings.push(Thing::Unbound(binding)),
            (Action::Bind { binding }, _) => bindings.push(Thing::Bound(binding)),
            (Action::Migrate { .. }, _) => rest.migrate.push(step.clone()),
            (Action::Delete { .. }, _) => rest.delete.push(step.clone()),
            (Action::Blocked { name, cure, .. }, _) => applied.problems.push(format!("{name}: {cure}")),
            _ => {}
        }
    }
    side_by_side(session, &bindings, applied).await;
    Ok(rest)
}

/// One declaration.
#[derive(Clone, Copy)]
enum Thing<'s> {
    Queue(&'s Queue),
    Bound(&'s Binding),
    Unbound(&'s Binding),
}

/// Declares in some lots at once, each in order: every declaration waits for a commit of the broker, and side by side they
/// share it.
async fn side_by_side(session: &Session, things: &[Thing<'_>], applied: &mut Applied) {
    for (done, missing) in join_all(lots(things).map(|lot| one_by_one(session, lot))).await {
        note(applied, done);
        applied.missing.extend(missing);
    }
}

/// What each came to, and the keys of queues that could not be made. A refusal closes the channel: what comes after it gets
/// another one.
async fn one_by_one(session: &Session, things: &[Thing<'_>]) -> (Vec<Option<String>>, BTreeSet<String>) {
    let mut done = Vec::with_capacity(things.len());
    let mut missing = BTreeSet::new();
    let mut declarer = None;
    for thing in things {
        let made = match declarer.take() {
            Some(open) => Ok(open),
            None => Declarer::open(session).await,
        };
        let made = match made {
            Ok(open) => match thing {
                Thing::Queue(queue) => open.queue(queue).await,
                Thing::Bound(binding) => open.bind(binding).await,
                Thing::Unbound(binding) => open.unbind(binding).await,
            }
            .map(|()| open),
            Err(error) => Err(error),
        };
        failpoint::reach("apply.stepped").await;
        match made {
            Ok(open) => {
                declarer = Some(open);
                done.push(None);
            }
            Err(error) => {
                if let Thing::Queue(Queue { key: Some(key), .. }) = thing {
                    missing.insert(key.clone());
                }
                done.push(Some(in_words(&error)));
            }
        }
    }
    if let Some(open) = declarer {
        // Dropped it would be closed as well.
        let _ = open.close().await;
    }
    (done, missing)
}

fn note(applied: &mut Applied, done: impl IntoIterator<Item = Option<String>>) {
    for problem in done {
        match problem {
            None => applied.done += 1,
            Some(problem) => applied.problems.push(problem),
        }
    }
}

async fn policies_one_by_one(management: &Management, steps: &[&Step]) -> Vec<Option<String>> {
    let mut done = Vec::with_capacity(steps.len());
    for step in steps {
        done.push(policy(management, step).await);
    }
    done
}

fn lots<T>(things: &[T]) -> std::slice::Chunks<'_, T> {
    things.chunks(things.len().div_ceil(AT_ONCE).max(1))
}

async fn policy(management: &Management, step: &Step) -> Option<String> {
    let done = match &step.action {
        Action::SetPolicy { policy, .. } => management.put_policy(policy).await,
        Action::RemovePolicy { policy } => management.remove_policy(&policy.name).await,
        _ => Ok(()),
    };
    failpoint::reach("apply.stepped").await;
    done.err().map(|error| in_words(&error))
}
