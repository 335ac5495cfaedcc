//! How long a thousand queues take. Measured by hand: `cargo test --test warrend a_thousand_queues -- --ignored --nocapture`.

use std::time::Instant;

use super::{define, run};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
#[ignore = "a measurement"]
async fn a_thousand_queues() {
    let daemon = daemon("a thousand").queues("queue: a\n").start().await;
    let all: String = (0..1000).map(|n| format!("---\nqueue: q{n:04}\n")).collect();
    define(&daemon, "all.yaml", &all);
    let began = Instant::now();
    daemon
        .wait_until("all are in force", async |daemon: &Daemon| {
            daemon.log().contains("changes=1000") && run(daemon, &["plan"]).await.code == 0
        })
        .await;
    let made = began.elapsed();
    let began = Instant::now();
    assert_eq!(run(&daemon, &["plan"]).await.code, 0);
    eprintln!(
        "1000 queues: in force and on the broker after {:.1} s, an empty plan {:.2} s",
        made.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
}
