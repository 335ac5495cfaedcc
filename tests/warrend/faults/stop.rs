//! The end of a daemon that was asked to, and the one daemon that a mirror file has.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::crew::{Crew, Ending, Producer};
use crate::support::daemon::daemon;

/// `shutdown.deadline` as it is built in.
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_under_load_it_ends_in_time_and_says_for_what_it_waited() {
    const ROUNDS: usize = 400;
    const STOPS: usize = 3;
    let mut daemon = daemon("stop").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let managed = Crew::hire(&daemon.vhost, "m", 2, |_| Ending::Processed).await;
    let direct = Crew::hire(&daemon.vhost, "d", 2, |_| Ending::Processed).await;
    let mut producer = Producer::start(&daemon.vhost, &["m", "d"], ROUNDS).await;
    for stop in 1..=STOPS {
        producer.allow(ROUNDS / STOPS);
        producer.has_sent((stop - 1) * (ROUNDS / STOPS) + 20).await;
        let said_before = daemon.log().len();
        let began = Instant::now();
        let status = daemon.stop();
        assert_eq!(status.code(), Some(0), "{status}\n{}", daemon.log());
        assert!(began.elapsed() < DEADLINE, "it took {:?}", began.elapsed());
        let log = daemon.log();
        let said = &log[said_before..];
        for line in ["told to stop: finishing what is in hand", "stopped"] {
            assert!(said.contains(line), "the log does not say '{line}':\n{said}");
        }
        // Which pipelines are among them is open: whoever has nothing in hand may be gone before it could be waited for.
        let waited = said.lines().any(|line| line.contains("waiting for ") && line.contains("broker"));
        assert!(waited, "the log does not say whom it waited for:\n{said}");
        // lapin may call its own goodbye an error; what counts is what the daemon says.
        for line in ["did not end within", "ended badly", "WARN warrend", "ERROR warrend"] {
            assert!(!said.contains(line), "{said}");
        }
        daemon.start_again().await;
    }
    producer.finish().await;
    for (queue, crew) in [("m", managed), ("d", direct)] {
        daemon.wait_until_done(queue, ROUNDS as u64).await;
        let seen = crew.dismiss().await;
        let items = daemon.items(&format!("queue={queue}")).await;
        let references: HashSet<&str> = items.iter().map(|item| item["reference"].as_str().unwrap()).collect();
        assert_eq!((items.len(), references.len()), (ROUNDS, ROUNDS));
        for item in &items {
            assert_eq!(json!([item["state"], item["attempt"]]), json!(["processed", 1]), "{item}");
        }
        // What a stop finishes is marked: nothing has to go out twice.
        assert_eq!(seen.len(), ROUNDS, "{queue} was delivered more than once");
        assert_eq!(daemon.queue(queue).await["unaccounted"], 0);
    }
}

#[tokio::test]
async fn a_mirror_that_is_in_use_is_refused_by_name() {
    let mut daemon = daemon("two daemons").queues("queue: a\n").start().await;
    let mut command = daemon.command();
    command.arg("serve").stdin(Stdio::null());
    let second = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    let expected = format!("the mirror at {} is in use by another warrend daemon", daemon.mirror_path().display());
    assert!(said.contains(&expected), "{said}");

    // The first is none the worse for it, and what a killed one leaves does not stop the next.
    assert_eq!(daemon.get_with_status("/readyz").await.map(|(status, _)| status), Some(200));
    daemon.kill();
    daemon.start_again().await;
}
