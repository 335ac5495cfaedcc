//! The Python programs under examples/python, run as a user runs them.

#![allow(dead_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::broker::Vhost;
use super::daemon::PATIENCE;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An interpreter that has pika: `WARREND_PYTHON`, else what `scripts/python` finds or makes.
fn interpreter() -> &'static str {
    static INTERPRETER: OnceLock<String> = OnceLock::new();
    INTERPRETER.get_or_init(|| match std::env::var("WARREND_PYTHON") {
        Ok(python) if !python.is_empty() => python,
        _ => {
            let script = format!("{ROOT}/scripts/python");
            let found = Command::new(&script).stderr(Stdio::inherit()).output().expect("scripts/python runs");
            assert!(found.status.success(), "{script} finds no python3 with pika; it says above why");
            String::from_utf8(found.stdout).expect("a path").trim().to_owned()
        }
    })
}

fn example(name: &str) -> Command {
    let mut command = Command::new(interpreter());
    command.arg(format!("{ROOT}/examples/python/{name}")).stdin(Stdio::null());
    command
}

/// Sends JSON lines with `producer.py` and answers what it printed. Fails where it does.
pub async fn produce(vhost: &Vhost, queue: &str, lines: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), lines).expect("the items are written");
    let mut command = example("producer.py");
    command.args(["--queue", queue, "--amqp", &vhost.amqp_url]).arg(file.path());
    let output = tokio::task::spawn_blocking(move || command.output().expect("the producer runs"));
    let output = output.await.expect("the producer ends");
    assert!(output.status.success(), "producer.py: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Processes of `robot_habits.py` and the log they share. They are killed when this is dropped.
pub struct Robots {
    dir: TempDir,
    amqp: String,
    queue: String,
    running: Vec<Child>,
    dying: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Robots {
    pub fn of(vhost: &Vhost, queue: &str) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            amqp: vhost.amqp_url.clone(),
            queue: queue.to_owned(),
            running: Vec::new(),
            dying: None,
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("robots.jsonl")
    }

    fn command(&self, name: &str, habit: &str) -> Command {
        let says = File::options().create(true).append(true).open(self.dir.path().join("says")).expect("a file");
        let mut command = example("robot_habits.py");
        command.args(["--habit", habit, "--name", name, "--queue", &self.queue, "--amqp", &self.amqp, "--log"]);
        command.arg(self.log_path()).stdout(says.try_clone().expect("a file")).stderr(says);
        command
    }

    /// Starts a robot of a habit.
    pub fn start(&mut self, name: &str, habit: &str) {
        let child = self.command(name, habit).spawn().expect("the robot starts");
        self.running.push(child);
    }

    /// Starts a robot that dies with every delivery, and starts it anew whenever it did, `lives` times in all.
    pub fn start_dying(&mut self, name: &str, lives: u32) {
        let over = CancellationToken::new();
        let (token, mut command) = (over.clone(), self.command(name, "dying"));
        let task = tokio::spawn(async move {
            for _ in 0..lives {
                let mut child = command.spawn().expect("the robot starts");
                while child.try_wait().expect("its state").is_none() {
                    if token.is_cancelled() {
                        let _ = child.kill();
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if token.is_cancelled() {
                    return;
                }
            }
        });
        self.dying = Some((over, task));
    }

    /// What they wrote down: one line per delivery that they settled or died of.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// Waits until their log says what is asked for.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        let began = Instant::now();
        while !condition(&self.log()) {
            let says = || fs::read_to_string(self.dir.path().join("says")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "not within {} s: {what}\n{}", PATIENCE.as_secs(), says());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends them, with nothing in hand if the caller waited for that.
    pub async fn end(&mut self) {
        if let Some((over, task)) = self.dying.take() {
            over.cancel();
            task.await.expect("the last one is gone");
        }
        self.kill();
    }

    fn kill(&mut self) {
        for mut child in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Robots {
    fn drop(&mut self) {
        if let Some((over, _)) = &self.dying {
            over.cancel();
        }
        self.kill();
    }
}
