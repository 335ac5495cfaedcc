//! The broker goes away under load, in the middle of everything, and comes back. The daemon runs all the while.
//!
//! Each item here is reported and then acked, which classic queues keep to the letter too. What they do not promise (a
//! reject or an expiry in the moment of a crash) is not asked of them.

use super::{Doubles, QUEUES, goes_on_and_balances, under_load};
use crate::support::daemon::Daemon;
use crate::support::own_broker::OwnBroker;
use crate::support::stubborn::Load;

async fn knows_that_it_is_gone(daemon: &Daemon) {
    daemon
        .wait_until("the daemon misses its broker", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 503)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_and_started_loses_and_doubles_nothing() {
    let broker = OwnBroker::start().await;
    let daemon = under_load("broker stopped").on(&broker).await.start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);
    load.confirms(50).await;
    broker.stop().await;
    knows_that_it_is_gone(&daemon).await;
    broker.start_again().await;
    goes_on_and_balances(&daemon, load, Doubles::Marked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_started_loses_and_doubles_nothing() {
    let broker = OwnBroker::start().await;
    let daemon = under_load("broker killed").on(&broker).await.start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);
    for _ in 0..2 {
        load.confirms(50).await;
        broker.kill().await;
        knows_that_it_is_gone(&daemon).await;
        broker.start_again().await;
    }
    // A killed classic queue may forget that it had handed a message out, and that it was acked: then the daemon cannot
    // tell a repeat from the same work sent anew.
    let doubles = if broker.has_quorum_lanes() { Doubles::Marked } else { Doubles::Silent };
    goes_on_and_balances(&daemon, load, doubles).await;
}
