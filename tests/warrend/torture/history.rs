//! What happened in a run, as far as those outside the daemon can tell: every publish, delivery, report and fault, with
//! its time, kept for the checker and written as NDJSON while it happens.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::Timestamp;
use serde::Serialize;

use crate::support::stubborn::Sent;

#[derive(Clone, Debug, Serialize)]
pub struct Event {
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    #[serde(flatten)]
    pub what: What,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    Began {
        seed: u64,
        seconds: u64,
        broker: String,
    },
    /// A producer published, over AMQP or HTTP, and knows by now what became of it.
    Published(Publish),
    /// A robot has a delivery in hand.
    Delivered {
        hand: Hand,
        body: String,
        redelivered: bool,
        habit: String,
    },
    /// A robot published a report and knows what became of it.
    Reported {
        hand: Hand,
        kind: String,
        outcome: Outcome,
    },
    /// A robot let go of its delivery.
    Released {
        hand: Hand,
        how: Release,
    },
    /// The operator asks something of an item (no status yet), or was answered.
    Asked {
        verb: String,
        item: String,
        queue: String,
        status: Option<u16>,
    },
    /// The nemesis did something: `daemon killed`, `broker started`.
    Fault {
        name: String,
    },
    /// The nemesis waited in vain.
    Stood {
        what: String,
    },
}

/// One publish of an item.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Publish {
    pub queue: String,
    pub reference: Option<String>,
    /// Its own in every item: `{"token": "u-17"}`.
    pub body: String,
    pub outcome: Outcome,
    /// It has a life of its own (`expiration`).
    pub expires: bool,
}

/// A delivery in a robot's hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hand {
    pub robot: String,
    pub queue: String,
    /// `message-id`: the item's id, or the producer's reference on a first direct delivery.
    pub id: Option<String>,
    /// `wq-attempt`; `None` on a first direct delivery.
    pub attempt: Option<i64>,
}

/// What the sender of a message knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Confirmed,
    Refused,
    Doubtful,
}

impl From<Sent> for Outcome {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Confirmed => Self::Confirmed,
            Sent::Refused => Self::Refused,
            Sent::Doubtful => Self::Doubtful,
        }
    }
}

/// How a robot let go of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    Acked,
    Rejected,
    /// Nacked with requeue, which the contract advises against.
    Requeued,
    /// It died with the delivery in hand.
    Died,
    /// It wanted to settle it, and its connection was lost: perhaps the broker knows, perhaps not.
    Unsure,
}

/// The events so far, in memory and in a file.
pub struct History {
    path: PathBuf,
    kept: Mutex<(Vec<Event>, BufWriter<File>)>,
}

impl History {
    /// Writes to a file of its own under the target directory.
    pub fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(folder).expect("the target directory");
        let path = folder.join(format!("{name}.ndjson"));
        let file = BufWriter::new(File::create(&path).expect("a file for the history"));
        Self { path, kept: Mutex::new((Vec::new(), file)) }
    }

    pub fn note(&self, what: What) {
        let mut kept = self.kept.lock().expect("nobody panicked in it");
        let event = Event { at: Timestamp::now(), what };
        serde_json::to_writer(&mut kept.1, &event).expect("it is written");
        kept.1.write_all(b"\n").expect("it is written");
        kept.0.push(event);
    }

    pub fn fault(&self, name: &str) {
        self.note(What::Fault { name: name.to_owned() });
    }

    /// Adds lines that are no events of the run, such as what the API said at the end.
    pub fn append(&self, lines: impl Iterator<Item = serde_json::Value>) {
        let mut kept = self.kept.lock().expect("nobody panicked in it");
        for line in lines {
            writeln!(kept.1, "{line}").expect("it is written");
        }
        kept.1.flush().expect("it is written");
    }

    pub fn events(&self) -> Vec<Event> {
        self.kept.lock().expect("nobody panicked in it").0.clone()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deliveries of a queue so far.
    pub fn deliveries(&self, queue: &str) -> usize {
        let kept = self.kept.lock().expect("nobody panicked in it");
        kept.0.iter().filter(|event| matches!(&event.what, What::Delivered { hand, .. } if hand.queue == queue)).count()
    }
}
