//! Keeps the definitions in force: read at the start, and again whenever their directory may have changed.
//!
//! Order of effects of a change:
//! 1. read and check the directory (nothing changes; a set with a mistake ends here, and the last good one stays);
//! 2. commit: the revision with its files, queues that are retired or defined again, an event;
//! 3. put it in force for every pipeline; 4. wake control, which makes the broker so.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | nothing | read again at the start |
//! | 2 | the revision | the start finds the same files, adds nothing, and makes the broker so |

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::watch;
use crate::definition::change::{Change, What, changes};
use crate::definition::{Definitions, Fingerprint, LoadError, Loaded, QueueDefinition, from_kept_files, read_dir};
use crate::failpoint;
use crate::lanes::live::{InForce, Live};
use crate::lanes::{Wakes, now};
use crate::mirror::control::{Event, MigrationStep, Revision, add_events, add_revision, forget_retired, retire};
use crate::mirror::{Mirror, MirrorError, Tx};
use crate::status::Status;

/// For file systems that tell of no changes.
const POLL: Duration = Duration::from_secs(10);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Keeps the definitions of one directory in force; clones share it.
#[derive(Clone)]
pub struct Keeper {
    dir: PathBuf,
    mirror: Mirror,
    live: Live,
    wakes: Arc<Wakes>,
    status: Arc<Status>,
    /// What was looked at last, good or bad: one change at a time.
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

/// Why there is nothing to work with, or why a change was not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error(transparent)]
    Definitions(#[from] LoadError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

impl Keeper {
    /// Reads the directory and what was in force before, and puts it in force. Where the directory cannot be used, the
    /// newest set that was in force goes on, and the status says why.
    ///
    /// # Errors
    /// Where there is neither a usable directory nor a former set.
    pub async fn start(
        dir: &Path,
        mirror: &Mirror,
        wakes: &Arc<Wakes>,
        status: &Arc<Status>,
    ) -> Result<Self, KeeperError> {
        let latest = mirror.latest_revision().await?;
        let loaded = load(dir).await;
        let mut keeper = Self {
            dir: dir.to_owned(),
            mirror: mirror.clone(),
            live: Live::new(InForce::default()),
            wakes: Arc::clone(wakes),
            status: Arc::clone(status),
            seen: Arc::default(),
        };
        let former = latest.as_ref().map(|revision| from_kept_files(&revision.files));
        let mut in_force = InForce {
            paused: mirror.pauses().await?.into_iter().map(|pause| (pause.queue, pause.paused)).collect(),
            broken: mirror.open_breakers().await?,
            unready: under_way(mirror).await?,
            ..InForce::default()
        };
        let mut definitions = match former {
            Some(Ok(former)) => former,
            Some(Err(error)) => {
                tracing::error!("the newest revision of the definitions cannot be read by this version: {error}");
                Definitions::default()
            }
            None => Definitions::default(),
        };
        definitions.retired = retired(mirror).await?;
        definitions.formerly_direct = mirror.queues_with_direct_items_out().await?;
        in_force.definitions = Arc::new(definitions);
        keeper.live = Live::new(in_force);
        match (&loaded.definitions, latest) {
            (Ok(_), Some(latest)) if latest.fingerprint == loaded.fingerprint.to_string() => {
                *keeper.seen.lock().await = Some(loaded.fingerprint);
            }
            (Ok(_), _) | (Err(_), Some(_)) => drop(keeper.take(loaded, "start").await?),
            (Err(_), None) => {
                loaded.definitions?;
            }
        }
        Ok(keeper)
    }

    /// What is in force.
    #[must_use]
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// Looks at the directory whenever it may have changed, until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let changes = watch::changes(self.dir.clone(), POLL).await;
        loop {
            while let Err(error) = self.reload("directory").await {
                let KeeperError::Mirror(error) = error else { break };
                tracing::warn!(error = &error as &dyn std::error::Error, "a change of the definitions cannot be noted");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.next() => {}
            }
        }
    }

    /// Reads the directory, and puts it in force where it changed. Answers what changed.
    ///
    /// # Errors
    /// What is wrong with the directory, also where that was said before; the last good set stays in force.
    pub async fn reload(&self, who: &str) -> Result<Vec<Change>, KeeperError> {
        self.take(load(&self.dir).await, who).await
    }

    async fn take(&self, loaded: Loaded, who: &str) -> Result<Vec<Change>, KeeperError> {
        let mut seen = self.seen.lock().await;
        let news = *seen != Some(loaded.fingerprint);
        match loaded.definitions {
            Ok(definitions) => {
                let changes = if news {
                    self.put_in_force(definitions, loaded.files, &loaded.fingerprint.to_string(), who).await?
                } else {
                    Vec::new()
                };
                *seen = Some(loaded.fingerprint);
                self.status.update(|status| status.definitions_problem = None);
                Ok(changes)
            }
            Err(error) => {
                if news {
                    tracing::error!("the definitions are wrong, the last good set stays in force:\n{error}");
                    *seen = Some(loaded.fingerprint);
                }
                self.status.update(|status| status.definitions_problem = Some(error.to_string()));
                if who == "start" { Ok(Vec::new()) } else { Err(error.into()) }
            }
        }
    }

    async fn put_in_force(
        &self,
        mut definitions: Definitions,
        files: BTreeMap<String, String>,
        fingerprint: &str,
        who: &str,
    ) -> Result<Vec<Change>, MirrorError> {
        let before = self.live.definitions();
        let changes = changes(&before, &definitions);
        let latest = self.mirror.latest_revision().await?;
        if latest.as_ref().is_some_and(|latest| latest.fingerprint == fingerprint) {
            // What was in force before a set that was wrong.
            return Ok(Vec::new());
        }
        let at = now();
        let named =
            |what: What| changes.iter().filter(move |change| change.what == what).map(|change| change.queue.clone());
        let (removed, added): (Vec<String>, Vec<String>) =
            (named(What::Removed).collect(), named(What::Added).collect());
        let revision = Revision {
            seq: 0,
            at,
            who: who.to_owned(),
            fingerprint: fingerprint.to_owned(),
            changes: json!(changes),
            files,
        };
        let last_with_them = latest.map(|latest| latest.seq);
        let (gone, back, told) = (removed.clone(), added.clone(), json!(changes));
        let seq = self
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let seq = add_revision(tx, &revision).await?;
                    for queue in &gone {
                        retire(tx, queue, last_with_them.unwrap_or(seq), at).await?;
                    }
                    for queue in &back {
                        forget_retired(tx, queue).await?;
                    }
                    let body = json!({ "revision": seq, "who": revision.who, "changes": told });
                    add_events(tx, &[Event { kind: "control.revision".to_owned(), at, body }]).await?;
                    Ok(seq)
                })
            })
            .await?;
        failpoint::reach("definitions.committed").await;

        definitions.retired = before.retired.clone();
        definitions.formerly_direct.clone_from(&before.formerly_direct);
        definitions.formerly_direct.extend(before.direct().map(|queue| queue.key.clone()));
        for queue in &removed {
            definitions.retired.extend(before.queues.get(queue).map(|queue| (queue.key.clone(), Arc::clone(queue))));
        }
        for (key, definition) in &mut definitions.queues {
            definitions.retired.remove(key);
            // Who compares by identity sees the same.
            if let Some(same) = before.queues.get(key).filter(|_| !changes.iter().any(|change| change.queue == *key)) {
                *definition = Arc::clone(same);
            }
        }
        self.live.update(|in_force| {
            // Until control has declared it.
            in_force.unready.extend(added);
            in_force.definitions = Arc::new(definitions);
        });
        tracing::info!(revision = seq, who, changes = changes.len(), "new definitions are in force");
        self.wakes.control.notify_one();
        self.wakes.timers.notify_one();
        self.wakes.events.notify_one();
        Ok(changes)
    }
}

async fn load(dir: &Path) -> Loaded {
    let dir = dir.to_owned();
    let at = dir.clone();
    tokio::task::spawn_blocking(move || read_dir(&dir)).await.unwrap_or_else(|error| {
        // It does not panic, and nobody aborts it.
        tracing::error!(%error, "reading the definitions ended badly");
        read_dir(&at)
    })
}

/// Queues whose migration has begun and not ended.
async fn under_way(mirror: &Mirror) -> Result<BTreeSet<String>, MirrorError> {
    let migrations = mirror.migrations().await?;
    let under_way = migrations.into_iter().filter(|migration| migration.step != MigrationStep::RolledBack);
    Ok(under_way.map(|migration| migration.queue).collect())
}

/// Retired queues, each as the last revision that has it defines it.
pub(super) async fn retired(mirror: &Mirror) -> Result<BTreeMap<String, Arc<QueueDefinition>>, MirrorError> {
    let mut sets: BTreeMap<i64, Definitions> = BTreeMap::new();
    let mut retired = BTreeMap::new();
    for (queue, seq) in mirror.retired().await? {
        let set = match sets.entry(seq) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let files = mirror.revision(seq).await?.map(|revision| revision.files).unwrap_or_default();
                place.insert(from_kept_files(&files).unwrap_or_default())
            }
        };
        let definition = set.queues.get(&queue).cloned();
        let definition = definition.unwrap_or_else(|| {
            tracing::warn!(queue, "what the retired queue was defined as cannot be read; it goes on with the defaults");
            Arc::new(QueueDefinition::with_defaults(&queue))
        });
        retired.insert(queue, definition);
    }
    Ok(retired)
}
