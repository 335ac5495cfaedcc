//! The daemon's connections to the broker are cut, stalled and left half open under load. Producers and robots keep
//! theirs. The daemon's heartbeat is 2 s here, so it and the broker notice a silent connection soon.

use super::{Doubles, QUEUES, goes_on_and_balances, under_load};
use crate::support::broker::broker;
use crate::support::daemon::Daemon;
use crate::support::relay::Relay;
use crate::support::stubborn::Load;

async fn relay() -> Relay {
    let broker = tokio::task::spawn_blocking(broker).await.expect("the broker starts");
    Relay::to(&broker.amqp_url).await
}

/// Sessions the daemon began so far.
fn sessions(daemon: &Daemon) -> usize {
    daemon.log().matches("topology declared").count()
}

async fn has_a_new_session(daemon: &Daemon, before: usize) {
    daemon.wait_until("the daemon begins a new session", async |daemon: &Daemon| sessions(daemon) > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let relay = relay().await;
    let daemon = under_load("cut").through(&relay).start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);
    for cut in 0..4 {
        load.confirms(20 + 15 * cut).await;
        let before = sessions(&daemon);
        relay.cut();
        if cut == 2 {
            // And nobody is there for a while.
            relay.refuse(true);
            daemon
                .wait_until("it cannot connect", async |daemon: &Daemon| {
                    daemon.log().matches("no broker session").count() > cut + 1
                })
                .await;
            relay.refuse(false);
        }
        has_a_new_session(&daemon, before).await;
    }
    goes_on_and_balances(&daemon, load, Doubles::Marked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stall_lose_and_double_nothing() {
    let relay = relay().await;
    let daemon = under_load("stall").through(&relay).start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);

    // Shorter than any heartbeat: what was on its way goes on where it was.
    load.confirms(30).await;
    relay.stall(true);
    load.confirms(5).await;
    relay.stall(false);
    load.confirms(30).await;

    // Until somebody gives up.
    let before = sessions(&daemon);
    relay.stall(true);
    daemon
        .wait_until("the daemon gives the connections up", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 503)
        })
        .await;
    load.confirms(20).await;
    relay.stall(false);
    has_a_new_session(&daemon, before).await;
    goes_on_and_balances(&daemon, load, Doubles::Marked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_only_one_side_lost_lose_and_double_nothing() {
    let relay = relay().await;
    let daemon = under_load("half open").through(&relay).start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);
    for round in 0..2 {
        // The broker believes the daemon alive and holds what it handed out until its heartbeat tells.
        load.confirms(30).await;
        let before = sessions(&daemon);
        relay.half_open();
        has_a_new_session(&daemon, before).await;

        // The other way round: the daemon believes the broker alive.
        load.confirms(30 + round).await;
        let before = sessions(&daemon);
        relay.half_open_for_the_client();
        has_a_new_session(&daemon, before).await;
    }
    goes_on_and_balances(&daemon, load, Doubles::Marked).await;
}
