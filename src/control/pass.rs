//! One pass of control: look, plan, do ([`super::conductor`] has the order of effects).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::apply::{self, Applied};
use super::conductor::{ConductError, Conductor, Ended, Seat};
use super::deleted;
use super::in_words;
use super::migrate::{self, Job};
use super::rebind::rebind;
use super::retire;
use crate::definition::{Definitions, Paused};
use crate::item::Lane;
use crate::lanes::live::InForce;
use crate::lanes::{LaneError, now};
use crate::mirror::control::{Event, Migration, MigrationStep, add_events, end_migration, set_migration};
use crate::mirror::{MirrorError, Tx};
use crate::status::DriftSeen;
use crate::topology::desired::{Queue, Topology, Wishes, aside, desired};
use crate::topology::observed::Observed;
use crate::topology::plan::{Action, Plan, plan};
use crate::topology::render;

/// Migrations that are carried on at once.
const MIGRATIONS: usize = 4;

/// How long a migration may take to notice that its session is over.
const CLEARANCE: Duration = Duration::from_secs(3);

/// So many items are out soon: for so long arrivals may wait unrouted.
const SOON_OUT: u64 = 500;

/// What was in force when the broker was made so.
#[derive(Clone)]
pub(super) struct Made {
    definitions: Arc<Definitions>,
    paused: BTreeMap<String, Paused>,
    closed: BTreeSet<String>,
    unready: BTreeSet<String>,
    /// As far as AMQP alone can: what the management API shows more later on is no drift.
    blindly: bool,
}

impl Made {
    pub(super) fn blindly(planned: &InForce, now: &InForce) -> Self {
        Self { blindly: true, ..Self::of(planned, now) }
    }

    /// A definition or a command that came since it was `planned` is not made yet; what is closed and unready `now` is
    /// control's own doing.
    pub(super) fn of(planned: &InForce, now: &InForce) -> Self {
        Self {
            blindly: false,
            definitions: Arc::clone(&planned.definitions),
            paused: planned.held(),
            closed: now.closed.clone(),
            unready: now.unready.clone(),
        }
    }

    pub(super) fn is(&self, in_force: &InForce) -> bool {
        Arc::ptr_eq(&self.definitions, &in_force.definitions)
            && self.paused == in_force.held()
            && self.closed == in_force.closed
            && self.unready == in_force.unready
    }
}

/// Why a pass is made.
#[derive(Clone, Copy)]
pub(super) enum Why<'a> {
    /// A session begins.
    Start,
    /// Something changed, or it is time.
    Look,
    /// This person said so.
    Word(&'a str),
}

impl Conductor {
    /// A word, or another definition, is a reason to try again.
    pub(super) async fn forget_rolled_back(&self) -> Result<(), MirrorError> {
        for migration in self.context.mirror.migrations().await? {
            if migration.step == MigrationStep::RolledBack {
                let queue = migration.queue;
                self.context
                    .mirror
                    .write(move |tx: &mut Tx| Box::pin(async move { end_migration(tx, &queue).await }))
                    .await?;
            }
        }
        Ok(())
    }

    /// Looks, plans and does.
    pub(super) async fn pass(
        &mut self,
        seat: &Seat,
        observed: &Observed,
        retire: &BTreeSet<String>,
        migrations: &mut JoinSet<Ended>,
        why: Why<'_>,
    ) -> Result<Applied, ConductError> {
        let names = self.context.names.clone();
        if self.made.as_ref().is_some_and(|made| !Arc::ptr_eq(&made.definitions, &self.context.live.definitions())) {
            self.forget_rolled_back().await?;
        }
        self.facts().await?;
        self.close_ways(observed).await?;
        let in_force = self.context.live.now();
        let unchanged = self.made.as_ref().is_some_and(|made| made.is(&in_force) && !made.blindly);
        let facts = self.facts().await?;
        let topology = self.desired(&in_force, seat.version);
        let first = plan(&topology, observed, &names, &facts, retire);
        let drifted = unchanged && !first.is_empty() && !matches!(why, Why::Word(_)) && has_work(&first);
        self.tell_of(&first, drifted).await?;
        if drifted && !self.rules.repair {
            return self.only_what_every_queue_needs(seat, first, why).await;
        }

        let begun = self.begin_migrations(&first).await?;
        let todo = if begun.is_empty() {
            first.clone()
        } else {
            // Their direct ways are closed first.
            let in_force = self.context.live.now();
            let facts = self.facts().await?;
            plan(&self.desired(&in_force, seat.version), observed, &names, &facts, retire)
        };
        let mut applied = Applied { plan: first, ..Applied::default() };
        let Some(management) = self.management.clone() else { return Ok(applied) };
        deleted::claim_again(&self.context, &seat.session, &todo.steps, &self.busy()).await?;
        let rest = apply::make(&seat.session, &management, &todo.steps, &names.items(), &mut applied).await?;
        let mut left = BTreeSet::new();
        for (key, rebinding) in &rest.rebindings {
            if matches!(why, Why::Start) && !rebinding.unbind.is_empty() && !rebinding.bind.is_empty() {
                // Who reads the intake and who dispatches do not work yet, and have to be waited for.
                left.insert(key.clone());
                continue;
            }
            match rebind(&self.context, &seat.session, key, rebinding, &seat.stop).await {
                Ok(()) => applied.done += rebinding.unbind.len() + rebinding.bind.len(),
                Err(LaneError::Mirror(error)) => return Err(error.into()),
                Err(LaneError::Broker(error)) if !seat.session.is_alive() => return Err(error.into()),
                Err(error) => {
                    left.insert(key.clone());
                    applied.problems.push(format!("{key}: {}", in_words(&error)));
                }
            }
        }
        let said = rest.delete.iter().filter_map(|step| match &step.action {
            Action::Delete { key, .. } => Some(key),
            _ => None,
        });
        for key in said {
            let who = match why {
                Why::Word(who) => who,
                Why::Start | Why::Look => continue,
            };
            if self.busy().contains(key) {
                let problem = "its migration is under way; give the word again once it is over";
                applied.problems.push(format!("{key} stays: {problem}"));
                continue;
            }
            let gap = self.rules.gap;
            match retire::delete(&self.context, &seat.session, &management, gap, (key, who), &seat.stop).await {
                Ok(_) => {
                    applied.done += 1;
                    applied.deleted.insert(key.clone());
                }
                Err(problem) => applied.problems.push(problem),
            }
        }
        if !matches!(why, Why::Start) {
            self.carry_on(seat, &left, migrations).await?;
        }
        applied.migrating = begun;
        self.facts().await?;
        let busy = self.busy();
        self.let_dispatch(&applied.missing, &busy);
        self.let_straight(&self.desired(&self.context.live.now(), seat.version), &left);
        // What could not be done is no drift when it is seen again. What is blocked never is.
        let blocked = todo.steps.iter().filter(|step| matches!(step.action, Action::Blocked { .. })).count();
        let whole = left.is_empty() && applied.problems.len() == blocked;
        self.made = whole.then(|| Made::of(&in_force, &self.context.live.now()));
        Ok(applied)
    }

    /// Drift that is only told of: but without our own exchanges and queues no session can begin.
    async fn only_what_every_queue_needs(
        &self,
        seat: &Seat,
        plan: Plan,
        why: Why<'_>,
    ) -> Result<Applied, ConductError> {
        let mut applied = Applied { plan, ..Applied::default() };
        let (Why::Start, Some(management)) = (why, &self.management) else { return Ok(applied) };
        let (names, mut steps) = (&self.context.names, Vec::new());
        for step in &applied.plan.steps {
            match &step.action {
                Action::CreateQueue { queue: Queue { key: Some(key), .. } } => {
                    applied.missing.insert(key.clone());
                }
                Action::CreateQueue { .. } | Action::CreateExchange { .. } => steps.push(step.clone()),
                Action::Bind { binding }
                    if names.key_of(&binding.queue).is_none() && binding.exchange != names.items() =>
                {
                    steps.push(step.clone());
                }
                _ => {}
            }
        }
        apply::make(&seat.session, management, &steps, &names.items(), &mut applied).await?;
        Ok(applied)
    }

    /// Which direct ways stay closed: those of queues that are made anew, and those that were closed and behind which the
    /// mirror still has items that go first.
    async fn close_ways(&self, observed: &Observed) -> Result<(), MirrorError> {
        let in_force = self.context.live.now();
        let (mut closed, busy) = (BTreeSet::new(), self.busy());
        for definition in in_force.definitions.queues.values().filter(|definition| definition.lane == Lane::Direct) {
            let key = definition.key.as_str();
            let [_, straight, door] = self.ways_in(key);
            let is_open = observed.bindings.contains(&straight);
            let is_new = !observed.queues.contains_key(&straight.queue);
            let migrates = busy.contains(key);
            let behind = !is_open && !is_new && (!observed.bindings.contains(&door) || self.much_is_ahead(key).await?);
            if migrates || (behind && !in_force.paused(key).intake) {
                closed.insert(key.to_owned());
            }
        }
        if closed != in_force.closed {
            self.context.live.update(|in_force| in_force.closed = closed);
        }
        Ok(())
    }

    /// The mirror has more of this queue than goes out while its way is changed. Not that it has nothing: with producers
    /// that never rest that would never be.
    async fn much_is_ahead(&self, key: &str) -> Result<bool, MirrorError> {
        let goes_out = self.context.wakes.dispatching.borrow().contains(key);
        let at_most = if goes_out { SOON_OUT } else { 0 };
        Ok(self.context.mirror.before_dispatch(key, at_most + 1).await? > at_most)
    }

    /// Notes the migrations that a plan asks for, and puts in force that their queues are left alone. Answers their keys.
    async fn begin_migrations(&self, plan: &Plan) -> Result<BTreeSet<String>, MirrorError> {
        let mut begun = BTreeSet::new();
        for step in &plan.steps {
            let Action::Migrate { key, .. } = &step.action else { continue };
            let at = now();
            let migration = Migration {
                queue: key.clone(),
                step: MigrationStep::Draining,
                why: step.why.clone(),
                began_at: at,
                step_at: at,
                problem: None,
            };
            let body = json!({ "queue": key, "why": step.why });
            let event = Event { kind: format!("queue.migrating.{key}"), at, body };
            self.context
                .mirror
                .write(move |tx: &mut Tx| {
                    Box::pin(async move {
                        set_migration(tx, &migration).await?;
                        add_events(tx, &[event]).await
                    })
                })
                .await?;
            begun.insert(key.clone());
        }
        if !begun.is_empty() {
            self.context.wakes.events.notify_one();
            let direct: BTreeSet<String> = self.context.definitions().direct().map(|queue| queue.key.clone()).collect();
            self.context.live.update(|in_force| {
                in_force.closed.extend(begun.intersection(&direct).cloned());
                in_force.unready.extend(begun.iter().cloned());
            });
        }
        Ok(begun)
    }

    /// Starts what is noted and does not run, but for queues that something still leads into (`open`).
    async fn carry_on(
        &mut self,
        seat: &Seat,
        open: &BTreeSet<String>,
        running: &mut JoinSet<Ended>,
    ) -> Result<(), MirrorError> {
        let Some(management) = self.management.clone() else { return Ok(()) };
        // Retired queues too: one may have been retired in the middle of it.
        let mut definitions = Definitions::clone(&self.context.definitions());
        definitions.queues.extend(std::mem::take(&mut definitions.retired));
        let wishes = Wishes::default();
        let everything = desired(&definitions, &wishes, seat.version, &self.context.names, self.tap_bytes);
        for migration in self.context.mirror.migrations().await? {
            if migration.step == MigrationStep::RolledBack
                || self.running.contains(&migration.queue)
                || open.contains(&migration.queue)
                || running.len() >= MIGRATIONS
            {
                continue;
            }
            let key = migration.queue.clone();
            let robots = everything.queues.iter().find(|queue| queue.key.as_deref() == Some(key.as_str()));
            let Some(robots) = robots.cloned() else { continue };
            let job = Job {
                context: self.context.clone(),
                management: management.clone(),
                migration,
                robots,
                aside: aside(&self.context.names, &key, seat.version),
                gap: self.rules.gap,
                patience: self.rules.patience,
            };
            let (session, stop) = (Arc::clone(&seat.session), seat.stop.clone());
            self.running.insert(key.clone());
            running.spawn(async move {
                let result = tokio::select! {
                    result = migrate::run(job, &session, stop.clone()) => result,
                    // A blocked connection lets it notice nothing; what it had in hand is moved again.
                    () = async { stop.cancelled().await; tokio::time::sleep(CLEARANCE).await } => Ok(()),
                };
                Ended { key, result }
            });
        }
        Ok(())
    }

    /// What waits unrouted for a direct queue goes straight to it from now on, where its own way is there.
    pub(super) fn let_straight(&self, topology: &Topology, left: &BTreeSet<String>) {
        let items = self.context.names.items();
        let straight = topology.bound.iter().filter(|binding| binding.exchange == items);
        let straight = straight.filter(|binding| binding.queue == self.context.names.robots(&binding.key));
        let open: BTreeSet<String> =
            straight.map(|binding| binding.key.clone()).filter(|key| !left.contains(key)).collect();
        if self.context.live.now().open != open {
            self.context.live.update(|in_force| in_force.open = open);
        }
    }

    /// Dispatch may begin wherever the queue is there.
    pub(super) fn let_dispatch(&self, missing: &BTreeSet<String>, busy: &BTreeSet<String>) {
        let unready: BTreeSet<String> = missing.union(busy).cloned().collect();
        if self.context.live.now().unready != unready {
            self.context.live.update(|in_force| in_force.unready = unready);
        }
    }

    /// Shows and tells what differs though nothing was changed by us.
    async fn tell_of(&self, plan: &Plan, drifted: bool) -> Result<(), MirrorError> {
        let before = self.context.status.snapshot().drift;
        if !drifted {
            if before.as_ref().is_some_and(|seen| !seen.repaired) && !has_work(plan) {
                self.context.status.update(|status| status.drift = None);
            }
            return Ok(());
        }
        let repaired = self.rules.repair;
        let steps: Vec<String> = plan.steps.iter().map(render::line).collect();
        if before.as_ref().is_some_and(|seen| !seen.repaired && !repaired && seen.steps == steps) {
            return Ok(());
        }
        let at = now();
        tracing::warn!(steps = steps.join("; "), repaired, "the broker was changed by somebody else");
        let body = json!({ "steps": steps, "repaired": repaired });
        let event = Event { kind: "control.drift".to_owned(), at, body };
        self.context.mirror.write(move |tx: &mut Tx| Box::pin(async move { add_events(tx, &[event]).await })).await?;
        self.context.wakes.events.notify_one();
        self.context.status.update(|status| status.drift = Some(DriftSeen { at, steps, repaired }));
        Ok(())
    }
}

/// Whether there is a step that somebody does; what is blocked waits for a person.
fn has_work(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| !matches!(step.action, Action::Blocked { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_while_it_was_made_is_not_made() {
        let planned = InForce::default();
        let mut now = planned.clone();
        now.closed.insert("a".to_owned());
        now.unready.insert("a".to_owned());
        assert!(Made::of(&planned, &now).is(&now));
        now.paused.insert("a".to_owned(), Paused { dispatch: false, intake: true });
        assert!(!Made::of(&planned, &now).is(&now));
        let changed = InForce { definitions: Arc::default(), ..planned.clone() };
        assert!(!Made::of(&planned, &changed).is(&changed));
    }
}
