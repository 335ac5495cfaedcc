//! The benchmark behind `warrend bench`: what the lanes cost beside the broker itself, in one run on one broker.
//!
//! Every measurement has a virtual host of its own, made before it and deleted after it, in whatever way the run ends
//! short of a `kill -9`. Nothing outside of these is touched. Only numbers of one run can be compared: ratios travel
//! from machine to machine, items per second do not.
//!
//! [`plan`] has the ways, [`stage`] builds what each stands on, [`load`] is the same for all, [`daemon`] is the child that
//! serves our lanes, [`doors`] what the same costs over HTTP, [`process`] what it all takes of the machine, [`report`] what follows.

mod daemon;
pub mod doors;
mod load;
pub mod numbers;
pub mod plan;
mod process;
pub mod report;
mod site;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use load::Load;
use plan::{Plan, Way};
use report::{BrokerFacts, Cost, Latency, Machine, Measured, Report, Round};
use site::Site;
use stage::{Helper, QUEUE, Stage, Staged};

use crate::settings::BrokerSettings;

/// How often the broker is asked for its memory.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);

/// Items of the warm-up that is not counted, at most.
const WARM_UP: u32 = 2000;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("the management API refused to {operation}: {status} {body}")]
    Refused { operation: &'static str, status: u16, body: String },
    #[error("could not {operation}: {source}")]
    Amqp { operation: &'static str, source: lapin::Error },
    #[error("{0}")]
    Failed(String),
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    fn amqp(operation: &'static str) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Amqp { operation, source }
    }
}

/// A run and what it left behind.
pub struct Outcome {
    pub report: Result<Report, BenchError>,
    /// Virtual hosts that could not be deleted.
    pub left: Vec<String>,
}

/// What a run needs beside its plan.
pub struct Bench<'a> {
    pub broker: &'a BrokerSettings,
    /// What is started with `serve`.
    pub executable: PathBuf,
    /// Told what is going on.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

impl Bench<'_> {
    /// Measures everything, unless `interrupted` comes first, and takes away what it made.
    pub async fn run(&self, plan: &Plan, interrupted: impl Future<Output = ()>) -> Outcome {
        let id = uuid::Uuid::now_v7().simple().to_string();
        // The first half is the time, which another run of the same moment shares.
        let site = match Site::open(self.broker, &id[20..]).await {
            Ok(site) => site,
            Err(error) => return Outcome { report: Err(error), left: Vec::new() },
        };
        let report = tokio::select! {
            report = self.measure(&site, plan) => report,
            () = interrupted => Err(BenchError::Interrupted),
        };
        Outcome { report, left: site.clear().await }
    }

    async fn measure(&self, site: &Site, plan: &Plan) -> Result<Report, BenchError> {
        let mut measured: Vec<(Way, Measured)> = Way::ALL.iter().map(|way| (*way, Measured::default())).collect();
        let load = Load { items: plan.items, size: plan.size, rate: None };
        (self.progress)("warming up");
        let warm_up = Load { items: plan.items.min(WARM_UP), ..load };
        self.one(site, Way::Raw, warm_up).await?;
        for round in 1..=plan.rounds {
            for (way, so_far) in &mut measured {
                if so_far.unavailable.is_some() {
                    continue;
                }
                (self.progress)(&format!("round {round} of {}: {}", plan.rounds, way.name()));
                match self.one(site, *way, load).await? {
                    One::Measured(round, _) => so_far.rounds.push(round),
                    One::Unavailable(why) => so_far.unavailable = Some(why),
                }
            }
        }
        let mut passed = Vec::new();
        for round in 1..=plan.rounds {
            for what in doors::MEASURED {
                (self.progress)(&format!("round {round} of {}: {}", plan.rounds, doors::name(what)));
                let failed = |error| BenchError::Failed(format!("{}: {error}", doors::name(what)));
                let one = doors::pass(site, &self.executable, what, plan.items, plan.size).await.map_err(failed)?;
                passed.push((what, one));
            }
        }
        let paced = Load { items: plan.rate.saturating_mul(plan.seconds), rate: Some(plan.rate), ..load };
        for (way, so_far) in &mut measured {
            if !way.with_latency() || so_far.unavailable.is_some() {
                continue;
            }
            (self.progress)(&format!("latency at {} items/s: {}", plan.rate, way.name()));
            if let One::Measured(_, latency) = self.one(site, *way, paced).await? {
                so_far.latency = latency;
            }
        }
        Ok(Report {
            warrend: env!("CARGO_PKG_VERSION"),
            broker: BrokerFacts {
                version: site.version_text.clone(),
                node: site.node.clone(),
                queue_type: stage::type_name(site.version),
                on_this_machine: site.process.is_some(),
            },
            machine: Machine { cores: std::thread::available_parallelism().map_or(1, usize::from) },
            plan: plan.clone(),
            ways: report::lines(measured),
            doors: doors::lines(&passed),
        })
    }

    /// One measurement on a stage of its own.
    async fn one(&self, site: &Site, way: Way, load: Load) -> Result<One, BenchError> {
        let mut stage = match Stage::build(site, way, &self.executable).await? {
            Staged::Ready(stage) => stage,
            Staged::Unavailable(why) => return Ok(One::Unavailable(why)),
        };
        let measuring = measure_one(site, &mut stage, load);
        let (measured, broker_memory) = with_peak_memory(site, measuring).await;
        let (mut round, latency) = measured.map_err(|error| BenchError::Failed(format!("{}: {error}", way.name())))?;
        round.cost.broker_memory = broker_memory;
        stage.clear(site).await?;
        Ok(One::Measured(round, latency))
    }
}

/// How one measurement went.
enum One {
    Measured(Round, Option<Latency>),
    Unavailable(String),
}

async fn measure_one(site: &Site, stage: &mut Stage, load: Load) -> Result<(Round, Option<Latency>), BenchError> {
    let daemon_pid = match &stage.helper {
        Helper::Daemon(daemon) => Some(daemon.pid()),
        Helper::Nobody | Helper::Forwarder(_) => None,
    };
    let cpu = || {
        let of = |pid: Option<u32>| pid.and_then(process::cpu_seconds);
        [of(daemon_pid), of(site.process), of(Some(std::process::id()))]
    };
    let before = cpu();
    let carried = load::carry(&stage.vhost, &stage.route, load).await?;
    let (mut time, mut behind) = (carried.time, None);
    if let Helper::Daemon(daemon) = &mut stage.helper {
        daemon.wait_for_items(QUEUE, load.items, stage.route.reports).await?;
        if stage.route.reports {
            time = carried.watch.time();
        } else {
            behind = Some(carried.watch.time().saturating_sub(time).as_secs_f64());
        }
    }
    let after = cpu();
    let thousands = f64::from(load.items) / 1000.0;
    let taken = |which: usize| Some((after[which]? - before[which]?) / thousands);
    let round = Round {
        seconds: time.as_secs_f64(),
        items_per_second: f64::from(load.items) / time.as_secs_f64(),
        mirror_behind_seconds: behind,
        cost: Cost {
            daemon_cpu: taken(0),
            broker_cpu: taken(1),
            client_cpu: taken(2),
            daemon_memory: daemon_pid.and_then(process::peak_memory),
            broker_memory: None,
        },
    };
    Ok((round, Latency::of(&carried.latencies, carried.behind.as_secs_f64() * 1000.0)))
}

/// The most memory that the broker told of meanwhile.
async fn with_peak_memory<T>(site: &Site, work: impl Future<Output = T>) -> (T, Option<u64>) {
    let mut work = std::pin::pin!(work);
    let mut peak = None;
    loop {
        let look = async {
            let memory = site.memory().await;
            tokio::time::sleep(MEMORY_PERIOD).await;
            memory
        };
        tokio::select! {
            done = &mut work => return (done, peak.max(site.memory().await)),
            memory = look => peak = peak.max(memory),
        }
    }
}
