//! Makes the broker as what is in force says, for as long as a session lasts: at its start, with each change, and every
//! `control.reconcile_period` to notice what somebody changed by hand.
//!
//! Order of effects of a pass: 1. look at the broker; 2. plan; 3. note which migrations begin, in the mirror; 4. do what
//! nobody notices, rebind queue by queue, carry migrations on; 5. let dispatch begin where its queue is there now. A crash
//! leaves a broker that is between two plans; the next pass makes the rest of it.
//!
//! Without the management API control is blind: it declares what it can declare over AMQP, moves and deletes nothing, and
//! says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, Order, Orders, Refusal};
use super::in_words;
use super::migrate::{self, told};
use super::pass::{Made, Why};
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::declare::declare;
use crate::broker::management::Management;
use crate::lanes::Context;
use crate::lanes::live::InForce;
use crate::mirror::MirrorError;
use crate::mirror::control::MigrationStep;
use crate::status::MigrationSeen;
use crate::topology::desired::{Binding, Topology, Wishes, desired};
use crate::topology::observed::Observed;
use crate::topology::plan::{Facts, plan};
use crate::topology::version::Version;

/// While a way waits to be opened, or the management API to come back.
const SOON: Duration = Duration::from_millis(500);
const BLIND_AGAIN: Duration = Duration::from_secs(5);

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
    pub(super) made: Option<Made>,
    /// Keys of migrations that run in this session.
    pub(super) running: BTreeSet<String>,
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
    pub fn new(context: Context, management: Option<Management>, rules: Rules, tap_bytes: u64, desk: Desk) -> Self {
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

    /// Serves one session, and the orders that come while it lasts.
    ///
    /// # Errors
    /// Where what every queue needs cannot be made.
    pub async fn run(&mut self, seat: Seat, mut orders: Orders) -> Result<(), ConductError> {
        let mut migrations = JoinSet::new();
        // A former session may have ended with some of them in hand.
        self.running.clear();
        let mut wait = Duration::ZERO;
        loop {
            let order = tokio::select! {
                () = seat.stop.cancelled() => break,
                order = orders.recv() => order,
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
        self.let_straight(&topology, &BTreeSet::new());
        self.made = Some(Made::blindly(&in_force, &self.context.live.now()));
        Ok(shortfall.unreachable)
    }

    /// Every way from `wq.items` to where this queue's items go.
    pub(super) fn ways_in(&self, key: &str) -> [Binding; 3] {
        let names = &self.context.names;
        [names.tap(), names.robots(key), names.intake()].map(|queue| Binding {
            exchange: names.items(),
            queue,
            key: key.to_owned(),
        })
    }

    pub(super) fn desired(&self, in_force: &InForce, version: Version) -> Topology {
        let wishes = Wishes { paused: in_force.held(), straight_closed: in_force.closed.clone() };
        desired(&in_force.definitions, &wishes, version, &self.context.names, self.tap_bytes)
    }

    /// Keys of queues that are in the middle of a migration.
    pub(super) fn busy(&self) -> BTreeSet<String> {
        let migrations = self.context.status.snapshot().migrations;
        let rolled_back = MigrationStep::RolledBack.word();
        migrations.into_iter().filter(|seen| seen.step != rolled_back).map(|seen| seen.queue).collect()
    }

    pub(super) async fn facts(&self) -> Result<Facts, MirrorError> {
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
        let (rolled_back, under_way): (Vec<_>, Vec<_>) =
            migrations.into_iter().partition(|migration| migration.step == MigrationStep::RolledBack);
        Ok(Facts {
            open: Some(self.context.mirror.open_items().await?),
            retired: self.context.definitions().retired.keys().cloned().collect(),
            migrating: under_way.into_iter().map(|migration| migration.queue).collect(),
            rolled_back: rolled_back
                .into_iter()
                .map(|migration| (migration.queue, migration.problem.unwrap_or_default()))
                .collect(),
        })
    }

    fn migration_ended(&mut self, ended: Result<Ended, JoinError>) {
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
}

/// A migration's end in this session.
pub(super) struct Ended {
    pub key: String,
    pub result: Result<(), migrate::MigrateError>,
}
