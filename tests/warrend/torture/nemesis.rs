//! Breaks the daemon, its broker and the connections between them, again and again, as the seed says. One fault at a
//! time, but for one kind that takes both processes; after each everything is healed for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::{History, What};
use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::own_broker::OwnBroker;
use crate::support::relay::Relay;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    DaemonKilled,
    DaemonStopped,
    BrokerStopped,
    BrokerKilled,
    BothKilled,
    Cut,
    /// Cut again as soon as they are there.
    Storm,
    Stalled,
    /// The daemon is killed with everything on its way.
    StalledAndKilled,
    HalfOpen,
    HalfOpenForTheDaemon,
    Alarm,
}

/// One round of them, in an order of its own each time. What is over soon comes more often.
const FAULTS: [Fault; 15] = [
    Fault::DaemonKilled,
    Fault::DaemonKilled,
    Fault::DaemonKilled,
    Fault::DaemonStopped,
    Fault::BrokerStopped,
    Fault::BrokerKilled,
    Fault::BothKilled,
    Fault::Cut,
    Fault::Cut,
    Fault::Storm,
    Fault::Stalled,
    Fault::StalledAndKilled,
    Fault::HalfOpen,
    Fault::HalfOpenForTheDaemon,
    Fault::Alarm,
];

/// Direct items that robots get while the daemon is away, before it may come back.
const DIRECT_WITHOUT_DAEMON: usize = 3;

pub struct Nemesis<'n> {
    pub daemon: &'n mut Daemon,
    pub broker: &'n OwnBroker,
    pub relay: &'n Relay,
    pub history: Arc<History>,
    pub random: fastrand::Rng,
    /// The queue that has to go on without the daemon.
    pub direct: &'static str,
}

impl Nemesis<'_> {
    /// Goes on until it is time, and leaves everything healed. Answers how many faults there were.
    pub async fn rage(&mut self, until: Instant) -> usize {
        // A killed classic queue may lose what is rejected or expires in that moment, and forget what it handed out.
        let possible: Vec<Fault> = FAULTS
            .into_iter()
            .filter(|fault| self.broker.has_quorum_lanes() || !matches!(fault, Fault::BrokerKilled | Fault::BothKilled))
            .collect();
        let mut round: Vec<Fault> = Vec::new();
        let mut faults = 0;
        while Instant::now() < until {
            if round.is_empty() {
                round.clone_from(&possible);
                self.random.shuffle(&mut round);
            }
            let Some(fault) = round.pop() else { return faults };
            faults += 1;
            self.strike(fault).await;
            self.breathe(300..2000).await;
        }
        faults
    }

    async fn breathe(&mut self, milliseconds: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }

    fn note(&self, name: &str) {
        eprintln!("torture: {} {name}", jiff::Timestamp::now());
        self.history.fault(name);
    }

    async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::DaemonKilled => {
                self.daemon.kill();
                self.note("daemon killed");
                self.without_daemon().await;
                if self.random.bool() {
                    self.note("daemon started");
                    self.daemon.spawn();
                    self.breathe(0..1500).await;
                    self.daemon.kill();
                    self.note("daemon killed in its start");
                }
                self.start_daemon().await;
            }
            Fault::DaemonStopped => {
                self.note("daemon told to stop");
                let status = self.daemon.stop();
                if !status.success() {
                    self.history.note(What::Stood { what: format!("the daemon, told to stop, ended with {status}") });
                }
                self.note("daemon stopped");
                self.without_daemon().await;
                self.start_daemon().await;
            }
            Fault::BrokerStopped => {
                self.note("broker told to stop");
                self.broker.stop().await;
                self.breathe(0..2000).await;
                self.start_broker().await;
            }
            Fault::BrokerKilled => {
                self.broker.kill().await;
                self.note("broker killed");
                self.breathe(0..2000).await;
                self.start_broker().await;
            }
            Fault::BothKilled => {
                self.broker.kill().await;
                self.note("broker killed");
                self.breathe(0..300).await;
                self.daemon.kill();
                self.note("daemon killed without a broker");
                if self.random.bool() {
                    self.note("daemon started");
                    self.daemon.spawn();
                    self.start_broker().await;
                    self.daemon_is_ready().await;
                } else {
                    self.start_broker().await;
                    self.start_daemon().await;
                }
            }
            Fault::Cut => {
                for _ in 0..self.random.usize(1..4) {
                    self.relay.cut();
                    self.note("connections cut");
                    self.breathe(0..2500).await;
                }
            }
            Fault::Storm => {
                for _ in 0..self.random.usize(3..12) {
                    self.relay.cut();
                    self.note("connections cut");
                    self.breathe(20..700).await;
                }
            }
            Fault::StalledAndKilled => {
                self.relay.stall(true);
                self.note("connections stalled");
                self.breathe(0..1500).await;
                self.daemon.kill();
                self.note("daemon killed");
                self.relay.stall(false);
                self.without_daemon().await;
                self.start_daemon().await;
            }
            Fault::Stalled => {
                self.relay.stall(true);
                self.note("connections stalled");
                self.breathe(200..8000).await;
                self.relay.stall(false);
                self.note("connections go on");
            }
            Fault::HalfOpen => {
                self.relay.half_open();
                self.note("connections lost by the daemon alone");
                self.breathe(0..6000).await;
            }
            Fault::HalfOpenForTheDaemon => {
                self.relay.half_open_for_the_client();
                self.note("connections lost by the broker alone");
                self.breathe(0..6000).await;
            }
            Fault::Alarm => {
                self.note("alarm");
                self.broker.alarm().await;
                self.breathe(500..5000).await;
                self.broker.calm().await;
                self.note("calm");
            }
        }
    }

    /// The direct lane has to go on.
    async fn without_daemon(&mut self) {
        let (before, began) = (self.history.deliveries(self.direct), Instant::now());
        while self.history.deliveries(self.direct) < before + DIRECT_WITHOUT_DAEMON {
            if began.elapsed() > PATIENCE {
                self.history.note(What::Stood { what: "the direct lane, without the daemon".to_owned() });
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.breathe(0..1500).await;
    }

    async fn start_daemon(&mut self) {
        self.note("daemon started");
        self.daemon.spawn();
        self.daemon_is_ready().await;
    }

    async fn daemon_is_ready(&mut self) {
        self.daemon
            .wait_until("the daemon is ready", async |daemon: &Daemon| {
                daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
            })
            .await;
    }

    async fn start_broker(&mut self) {
        self.broker.start_again().await;
        self.note("broker started");
    }
}
