//! A broker of a test's own, to be killed, stopped, started and alarmed: `scripts/broker run` with commands on its stdin.
//!
//! It is of the same kind as the broker of the other tests; where that one comes from the environment, whatever this
//! machine can start. It goes with the test, in whatever way that ends: its life hangs on the pipe this holds.

#![allow(dead_code)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::broker::{Vhost, has_quorum_lanes};

pub struct OwnBroker {
    /// Without a virtual host: `amqp://guest:guest@127.0.0.1:28128`.
    pub amqp_url: String,
    pub management_url: String,
    pub version: String,
    script: Arc<Mutex<Script>>,
}

/// The running script: lines in, one line out for each.
struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl OwnBroker {
    /// Starts one and waits until it is up.
    pub async fn start() -> Self {
        tokio::task::spawn_blocking(start)
            .await
            .expect("there is a broker for this test; scripts/broker says above why not")
    }

    /// A fresh virtual host on it.
    pub async fn vhost(&self, test_name: &str) -> Vhost {
        Vhost::create(&self.amqp_url, &self.management_url, test_name).await
    }

    /// kill -9.
    pub async fn kill(&self) {
        self.tell("kill").await;
    }

    /// It ends as it should.
    pub async fn stop(&self) {
        self.tell("stop").await;
    }

    /// It is up again, with its data and its ports.
    pub async fn start_again(&self) {
        self.tell("start").await;
    }

    /// It blocks whoever publishes, as when memory runs out.
    pub async fn alarm(&self) {
        self.tell("alarm").await;
    }

    /// It does so no more.
    pub async fn calm(&self) {
        self.tell("calm").await;
    }

    /// As [`has_quorum_lanes`] of its version.
    pub fn has_quorum_lanes(&self) -> bool {
        has_quorum_lanes(&self.version)
    }

    async fn tell(&self, command: &'static str) {
        let script = Arc::clone(&self.script);
        let answer = tokio::task::spawn_blocking(move || script.lock().expect("nobody panicked in it").obey(command));
        assert_eq!(answer.await.expect("the script answers"), format!("ok {command}"));
    }
}

fn start() -> OwnBroker {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/broker");
    let mut child = Command::new(path)
        .arg("run")
        .env_remove("WARREND_TEST_AMQP_URL")
        .env_remove("WARREND_TEST_MANAGEMENT_URL")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{path} cannot be started: {e}"));
    let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
    let mut script = Script { child, stdin, stdout };
    let line = script.answer();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [amqp, management, version, _kind] = words[..] else { panic!("scripts/broker says '{line}'") };
    OwnBroker {
        amqp_url: amqp.to_owned(),
        management_url: management.to_owned(),
        version: version.to_owned(),
        script: Arc::new(Mutex::new(script)),
    }
}

impl Script {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("what scripts/broker says is text");
        line.trim_end().to_owned()
    }

    fn obey(&mut self, command: &str) -> String {
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        stdin.write_all(format!("{command}\n").as_bytes()).expect("scripts/broker listens");
        self.answer()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
