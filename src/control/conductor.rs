//! Makes the broker as what is in force says, for as long as a session lasts: at its start, with each change, and every
//! `control.reconcile_period` to notice what somebody changed by hand.
//!
//! Order of effects of a pass: 1. look at the broker; 2. plan; 3. note which migrations begin, in the mirror; 4. do what
//! nobody notices, rebind queue by queue, carry migrations on; 5. let dispatch begin where its queue is there now. A crash
//! leaves a broker that is between two plans; the next pass makes the rest of it.
//!
//! Without the management API control is blind: it declares what it can declare over AMQP, moves and deletes nothing, and
//! says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply::{self, Applied};
use super::desk::{Desk, Order, Refusal};
use super::in_words;
use super::migrate::{self, Job, told};
use super::rebind::rebind;
use super::retire;
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::declare::declare;
use crate::broker::management::Management;
use crate::definition::{Definitions, Paused};
use crate::item::Lane;
use crate::lanes::live::InForce;
use crate::lanes::{Context, LaneError, now};
use crate::mirror::control::{Event, Migration, MigrationStep, add_events, end_migration, set_migration};
use crate::mirror::{MirrorError, Tx};
use crate::status::{DriftSeen, MigrationSeen};
use crate::topology::desired::{Binding, Topology, Wishes, aside, desired};
use crate::topology::observed::Observed;
use crate::topology::plan::{Action, Facts, Plan, plan};
use crate::topology::render;
use crate::topology::version::Version;

/// While a way waits to be opened, or the management API to come back.
const SOON: Duration = Duration::from_millis(500);
const BLIND_AGAIN: Duration = Duration::from_secs(5);

/// Migrations that are carried on at once.
const MIGRATIONS: usize = 4;

/// How control works.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Between two looks at the broker for nothing (`control.reconcile_period`).
    pub period: Duration,
    /// How far apart two looks have to be that show that nobody holds anything (`control.observation_gap`).
    pub gap: Duration,
    /// How long a migration waits for what robots hold (`control.migration_patience`).
    pub patience: Duration,
    /// Whether drift is undone, or only told of (`control.drift`).
    pub repair: bool,
}

/// Control of one daemon, through all its sessions.
pub struct Conductor {
    pub context: Context,
    pub management: Option<Management>,
    pub rules: Rules,
    /// Bounds the tap.
    pub tap_bytes: u64,
    pub desk: Desk,
    /// What was in force when the broker was last made so: what differs then is drift.
    made: Option<Made>,
    /// Keys of migrations that run in this session.
    running: BTreeSet<String>,
}

#[derive(Clone)]
struct Made {
    definitions: Arc<Definitions>,
    paused: BTreeMap<String, Paused>,
    closed: BTreeSet<String>,
    unready: BTreeSet<String>,
}

impl Made {
    fn of(in_force: &InForce) -> Self {
        Self {
            definitions: Arc::clone(&in_force.definitions),
            paused: in_force.paused.clone(),
            closed: in_force.closed.clone(),
            unready: in_force.unready.clone(),
        }
    }

    fn is(&self, in_force: &InForce) -> bool {
        Arc::ptr_eq(&self.definitions, &in_force.definitions)
            && self.paused == in_force.paused
            && self.closed == in_force.closed
            && self.unready == in_force.unready
    }
}

/// Why a pass was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConductError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// One session, as control sees it.
#[derive(Clone)]
pub struct Seat {
    pub session: Arc<Session>,
    pub version: Version,
    pub stop: CancellationToken,
}

impl Conductor {
    #[must_use]
    pub fn new(
        context: Context,
        management: Option<Management>,
        rules: Rules,
        tap_bytes: u64,
        desk: Desk,
    ) -> Self {
        Self { context, management, rules, tap_bytes, desk, made: None, running: BTreeSet::new() }
    }

    /// Makes the broker so that a session can begin. Answers the keys of robots' queues that it has to do without.
    ///
    /// # Errors
    /// Where what every queue needs cannot be made.
    pub async fn establish(&mut self, seat: &Seat) -> Result<BTreeSet<String>, ConductError> {
        match self.observe(seat).await {
            Ok(observed) => {
                let applied = self.pass(seat, &observed, &BTreeSet::new(), &mut JoinSet::new(), Why::Start).await?;
                for problem in &applied.problems {
                    tracing::error!("control: {problem}");
                }
                Ok(applied.missing)
            }
            Err(problem) => self.blindly(seat, &problem).await,
        }
    }

    /// Serves one session until it ends.
    ///
    /// # Errors
    /// Where what every queue needs cannot be made.
    pub async fn run(&mut self, seat: Seat) -> Result<(), ConductError> {
        let desk = self.desk.clone();
        let mut inbox = desk.serve().await;
        let mut migrations = JoinSet::new();
        let mut wait = Duration::ZERO;
        loop {
            let order = tokio::select! {
                () = seat.stop.cancelled() => break,
                order = inbox.recv() => order,
                () = self.context.wakes.control.notified() => None,
                Some(ended) = migrations.join_next() => { self.migration_ended(ended); None }
                () = tokio::time::sleep(wait) => None,
            };
            wait = match self.serve(&seat, order, &mut migrations).await {
                Ok(wait) => wait,
                Err(ConductError::Mirror(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "control could not work");
                    BLIND_AGAIN
                }
                Err(error) => return Err(error),
            };
        }
        // They stop with the session, and go on with the next.
        while migrations.join_next().await.is_some() {}
        self.running.clear();
        Ok(())
    }

    /// One look, with what somebody ordered; answers how long to wait for the next.
    async fn serve(
        &mut self,
        seat: &Seat,
        order: Option<Order>,
        migrations: &mut JoinSet<Ended>,
    ) -> Result<Duration, ConductError> {
        let observed = match self.observe(seat).await {
            Ok(observed) => observed,
            Err(problem) => {
                match order {
                    Some(Order::Plan { answer, .. }) => drop(answer.send(Err(Refusal::Blind(problem.clone())))),
                    Some(Order::Apply { answer, .. }) => drop(answer.send(Err(Refusal::Blind(problem.clone())))),
                    None => {}
                }
                if !self.made.as_ref().is_some_and(|made| made.is(&self.context.live.now())) {
                    self.blindly(seat, &problem).await?;
                }
                return Ok(if self.management.is_some() { BLIND_AGAIN } else { self.rules.period });
            }
        };
        match order {
            Some(Order::Plan { retire, answer }) => {
                let in_force = self.context.live.now();
                let facts = self.facts().await?;
                let topology = self.desired(&in_force, seat.version);
                let _ = answer.send(Ok(plan(&topology, &observed, &self.context.names, &facts, &retire)));
            }
            Some(Order::Apply { retire, who, answer }) => {
                self.forget_rolled_back().await?;
                match self.pass(seat, &observed, &retire, migrations, Why::Word(&who)).await {
                    Ok(applied) => drop(answer.send(Ok(applied))),
                    Err(error) => {
                        let _ = answer.send(Err(Refusal::Failed(error.to_string())));
                        return Err(error);
                    }
                }
            }
            None => {
                let applied = self.pass(seat, &observed, &BTreeSet::new(), migrations, Why::Look).await?;
                for problem in &applied.problems {
                    tracing::error!("control: {problem}");
                }
            }
        }
        let in_force = self.context.live.now();
        let waits = in_force.closed.iter().any(|key| !in_force.unready.contains(key));
        Ok(if waits { SOON } else { self.rules.period })
    }

    /// What is on the broker; in words why that cannot be said.
    async fn observe(&self, seat: &Seat) -> Result<Observed, String> {
        let observed = match &self.management {
            None => Err("broker.management_url is empty".to_owned()),
            Some(management) => {
                let observed = management.observe(seat.version, &self.context.names).await;
                observed.map_err(|error| in_words(&error))
            }
        };
        let problem = observed.as_ref().err().cloned();
        self.context.status.update(|status| {
            if status.management_problem.is_none() && problem.is_some() {
                tracing::warn!("control is blind: {}", problem.as_deref().unwrap_or_default());
            }
            status.management_problem.clone_from(&problem);
        });
        observed
    }

    /// Declares what AMQP alone can declare.
    async fn blindly(&mut self, seat: &Seat, problem: &str) -> Result<BTreeSet<String>, ConductError> {
        let in_force = self.context.live.now();
        let mut topology = self.desired(&in_force, seat.version);
        topology.unbound.extend(in_force.definitions.retired.keys().flat_map(|key| self.ways_in(key)));
        // A queue that is in the middle of something is left to the migration.
        self.facts().await?;
        let keys = self.busy();
        let busy: BTreeSet<String> = keys.iter().map(|key| self.context.names.robots(key)).collect();
        topology.queues.retain(|queue| !busy.contains(&queue.name));
        topology.bound.retain(|binding| !busy.contains(&binding.queue));
        let shortfall = declare(&seat.session, None, &topology).await?;
        tracing::info!("declared what can be declared without the management API ({problem})");
        self.let_dispatch(&BTreeSet::new(), &keys);
        self.made = Some(Made::of(&self.context.live.now()));
        Ok(shortfall.unreachable)
    }

    /// Every way from `wq.items` to where this queue's items go.
    fn ways_in(&self, key: &str) -> [Binding; 3] {
        let names = &self.context.names;
        [names.tap(), names.robots(key), names.intake()].map(|queue| Binding {
            exchange: names.items(),
            queue,
            key: key.to_owned(),
        })
    }

    fn desired(&self, in_force: &InForce, version: Version) -> Topology {
        let wishes = Wishes { paused: in_force.paused.clone(), straight_closed: in_force.closed.clone() };
        desired(&in_force.definitions, &wishes, version, &self.context.names, self.tap_bytes)
    }

    /// Keys of queues that are in the middle of a migration.
    fn busy(&self) -> BTreeSet<String> {
        let migrations = self.context.status.snapshot().migrations;
        let rolled_back = MigrationStep::RolledBack.word();
        migrations.into_iter().filter(|seen| seen.step != rolled_back).map(|seen| seen.queue).collect()
    }

    async fn facts(&self) -> Result<Facts, MirrorError> {
        let migrations = self.context.mirror.migrations().await?;
        let seen = migrations.iter().map(|migration| MigrationSeen {
            queue: migration.queue.clone(),
            step: migration.step.word(),
            why: migration.why.clone(),
            since: migration.began_at,
            problem: migration.problem.clone(),
        });
        let seen: Vec<MigrationSeen> = seen.collect();
        self.context.status.update(|status| status.migrations = seen);
        let migrating = migrations.into_iter().map(|migration| migration.queue).collect();
        Ok(Facts { open: Some(self.context.mirror.open_items().await?), migrating })
    }

    /// A word, or another definition, is a reason to try again.
    async fn forget_rolled_back(&self) -> Result<(), MirrorError> {
        for migration in self.context.mirror.migrations().await? {
            if migration.step == MigrationStep::RolledBack {
                let queue = migration.queue;
                self.context.mirror.write(move |tx: &mut Tx| Box::pin(async move { end_migration(tx, &queue).await })).await?;
            }
        }
        Ok(())
    }

    /// Looks, plans and does.
    async fn pass(
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
        let unchanged = self.made.as_ref().is_some_and(|made| made.is(&in_force));
        let facts = self.facts().await?;
        let topology = self.desired(&in_force, seat.version);
        let first = plan(&topology, observed, &names, &facts, retire);
        let drifted = unchanged && !first.is_empty() && !matches!(why, Why::Word(_)) && has_work(&first);
        self.tell_of(&first, drifted).await?;
        if drifted && !self.rules.repair {
            return Ok(Applied { plan: first, ..Applied::default() });
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
        let rest = apply::make(&seat.session, &management, &todo.steps, &names.items(), &mut applied).await?;
        let mut left = false;
        for (key, rebinding) in &rest.rebindings {
            if matches!(why, Why::Start) && !rebinding.unbind.is_empty() && !rebinding.bind.is_empty() {
                // Who reads the intake and who dispatches do not work yet, and have to be waited for.
                left = true;
                continue;
            }
            match rebind(&self.context, &seat.session, key, rebinding, &seat.stop).await {
                Ok(()) => applied.done += rebinding.unbind.len() + rebinding.bind.len(),
                Err(LaneError::Mirror(error)) => return Err(error.into()),
                Err(LaneError::Broker(error)) if !seat.session.is_alive() => return Err(error.into()),
                Err(error) => applied.problems.push(format!("{key}: {}", in_words(&error))),
            }
        }
        for step in &rest.delete {
            let Action::Delete { key, .. } = &step.action else { continue };
            let who = match why {
                Why::Word(who) => who,
                Why::Start | Why::Look => continue,
            };
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
            self.carry_on(seat, migrations).await?;
        }
        applied.migrating = begun;
        self.facts().await?;
        let busy = self.busy();
        self.let_dispatch(&applied.missing, &busy);
        // What could not be done is no drift when it is seen again.
        let whole = !left && applied.problems.is_empty();
        self.made = whole.then(|| Made::of(&self.context.live.now()));
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
            let behind = !is_open
                && !is_new
                && (!observed.bindings.contains(&door) || self.context.mirror.any_before_dispatch(key).await?);
            if migrates || (behind && !in_force.paused(key).intake) {
                closed.insert(key.to_owned());
            }
        }
        if closed != in_force.closed {
            self.context.live.update(|in_force| in_force.closed = closed);
        }
        Ok(())
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

    /// Starts what is noted and does not run.
    async fn carry_on(
        &mut self,
        seat: &Seat,
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
            running.spawn(async move { Ended { key, result: migrate::run(job, &session, stop).await } });
        }
        Ok(())
    }

    fn migration_ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok(Ended { key, result }) => {
                self.running.remove(&key);
                if let Err(error) = result {
                    tracing::warn!(queue = key, "a migration broke off and goes on: {}", told(error));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a migration ended badly and goes on with the next session");
            }
        }
    }

    /// Dispatch may begin wherever the queue is there.
    fn let_dispatch(&self, missing: &BTreeSet<String>, busy: &BTreeSet<String>) {
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

/// Why a pass is made.
#[derive(Clone, Copy)]
enum Why<'a> {
    /// A session begins.
    Start,
    /// Something changed, or it is time.
    Look,
    /// This person said so.
    Word(&'a str),
}

struct Ended {
    key: String,
    result: Result<(), migrate::MigrateError>,
}

/// Whether there is a step that somebody does; what is blocked waits for a person.
fn has_work(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| !matches!(step.action, Action::Blocked { .. }))
}
