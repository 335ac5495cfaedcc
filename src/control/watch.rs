//! When definitions may have changed: wakes whoever reads them.
//!
//! A wake carries nothing. Whoever is woken reads the directory and compares it with what it knows, so a wake too many
//! costs a look, and one that is lost costs the time until the next poll. What wakes:
//!
//! - an event of the file system anywhere under the directory, once nothing more comes for [`Pace::quiet`];
//! - a directory that went, came, or is another one under the same name: seen by a look at its inode, because events come
//!   from what was watched and say nothing of a link further up the path;
//! - SIGHUP, at once;
//! - the poll, for file systems that have no events (NFS), and where the kernel's limit of watches is reached.
//!
//! The watch is armed anew before each wake for an event: then it covers directories and links that were made meanwhile, and
//! what happens after the wake is noticed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How patient it is.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two wakes for nothing.
    poll: Duration,
    /// Editors and checkouts write in several steps: a change is told once nothing follows it for this long ...
    quiet: Duration,
    /// ... and where something always follows, after this long.
    longest: Duration,
    /// How often the directory is looked at: is it there, and the same?
    look: Duration,
}

/// Tells that a directory may have changed. Dropped, it watches no more.
pub struct Changes {
    wake: Arc<Notify>,
    _watching: DropGuard,
}

impl Changes {
    /// Waits until something may have changed since the last answer. Safe to drop: nothing is lost with it.
    pub async fn next(&self) {
        self.wake.notified().await;
    }
}

/// Watches `dir` and all below it, also where it is not there yet; `poll` is the time between two wakes for nothing.
/// From the answer on everything is noticed, and SIGHUP does not end the process any more.
pub async fn changes(dir: PathBuf, poll: Duration) -> Changes {
    let pace = Pace {
        poll,
        quiet: Duration::from_millis(300),
        longest: Duration::from_secs(1),
        look: Duration::from_millis(500),
    };
    changes_by(dir, pace, arm).await
}

/// How a directory is watched. Blocking: it walks the directory.
type Arm = fn(&Path, Arc<Notify>) -> notify::Result<RecommendedWatcher>;

async fn changes_by(dir: PathBuf, pace: Pace, arm: Arm) -> Changes {
    let hangups = signal(SignalKind::hangup())
        .inspect_err(|error| tracing::warn!(%error, "SIGHUP does not reload: it cannot be listened to"))
        .ok();
    let mut watch = Watch { dir, pace, arm, events: Arc::default(), armed: None, identity: None, complained: false };
    watch.arm_anew().await;
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    tokio::spawn(watch.run(hangups, Arc::clone(&wake), stop.clone()));
    Changes { wake, _watching: stop.drop_guard() }
}

struct Watch {
    dir: PathBuf,
    pace: Pace,
    arm: Arm,
    /// Notified by the file system.
    events: Arc<Notify>,
    /// `None` where the directory is not there or cannot be watched.
    armed: Option<RecommendedWatcher>,
    /// Of the directory when it was armed last.
    identity: Option<(u64, u64)>,
    /// It was said that it cannot be watched.
    complained: bool,
}

impl Watch {
    async fn run(mut self, mut hangups: Option<Signal>, wake: Arc<Notify>, stop: CancellationToken) {
        let (mut poll, mut look) = (every(self.pace.poll), every(self.pace.look));
        // Both begin with a tick at once.
        poll.tick().await;
        look.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = hangup(&mut hangups) => {}
                () = self.events.notified() => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = hangup(&mut hangups) => {}
                        () = self.quiet() => {}
                    }
                    self.arm_anew().await;
                }
                _ = poll.tick() => if self.armed.is_none() {
                    self.arm_anew().await;
                },
                _ = look.tick() => {
                    if identity(&self.dir).await == self.identity {
                        continue;
                    }
                    self.arm_anew().await;
                }
            }
            wake.notify_one();
        }
    }

    /// Waits until no more events come.
    async fn quiet(&self) {
        let quiet = async { while timeout(self.pace.quiet, self.events.notified()).await.is_ok() {} };
        let _ = timeout(self.pace.longest, quiet).await;
    }

    async fn arm_anew(&mut self) {
        // Of those the kernel has few.
        self.armed = None;
        // Before it is armed: if the directory is replaced meanwhile, the next look sees it.
        self.identity = identity(&self.dir).await;
        let (arm, dir, events) = (self.arm, self.dir.clone(), Arc::clone(&self.events));
        let Ok(armed) = tokio::task::spawn_blocking(move || arm(&dir, events)).await else { return };
        match armed {
            Ok(armed) => {
                self.armed = Some(armed);
                self.complained = false;
            }
            // Whoever is woken says that it cannot be read.
            Err(_) if self.identity.is_none() => {}
            Err(_) if self.complained => {}
            Err(error) => {
                tracing::warn!(
                    dir = %self.dir.display(),
                    %error,
                    "the directory cannot be watched; it is read every {} s instead, and at once after SIGHUP. If a limit is \
                     reached raise fs.inotify.max_user_instances and fs.inotify.max_user_watches",
                    self.pace.poll.as_secs_f32()
                );
                self.complained = true;
            }
        }
    }
}

fn arm(dir: &Path, events: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let tell = move |event| {
        if matters(&event) {
            events.notify_one();
        }
    };
    let mut watcher = RecommendedWatcher::new(tell, Config::default())?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Reading changes nothing; without this the reader would wake itself for ever. An error may hide anything.
fn matters(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(access)) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Which directory it is, links followed; `None` where there is none.
async fn identity(dir: &Path) -> Option<(u64, u64)> {
    let about = tokio::fs::metadata(dir).await.ok()?;
    Some((about.dev(), about.ino()))
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Never answers where SIGHUP cannot be listened to.
async fn hangup(hangups: &mut Option<Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange, MetadataKind, ModifyKind, RemoveKind};
    use tempfile::TempDir;
    use tokio::sync::RwLock;

    use super::*;

    /// No test waits for it: what is noticed is noticed by itself.
    const NEVER: Duration = Duration::from_secs(3600);
    const QUICK: Pace = Pace {
        poll: NEVER,
        quiet: Duration::from_millis(60),
        longest: Duration::from_millis(500),
        look: Duration::from_millis(100),
    };
    const PATIENCE: Duration = Duration::from_secs(20);

    /// SIGHUP reaches everybody in this process, so its test runs alone.
    static SIGNALS: RwLock<()> = RwLock::const_new(());

    /// Waits for a wake, and until what follows from the same cause is over: the next one has another. Answers how many
    /// there were.
    async fn noticed(changes: &Changes, what: &str) -> usize {
        assert!(timeout(PATIENCE, changes.next()).await.is_ok(), "not noticed: {what}");
        let mut wakes = 1;
        while timeout((QUICK.quiet + QUICK.look) * 2, changes.next()).await.is_ok() {
            wakes += 1;
        }
        wakes
    }

    async fn quick(dir: &Path) -> Changes {
        changes_by(dir.to_owned(), QUICK, arm).await
    }

    /// A directory with one file, at `definitions` in a directory of the test's own.
    fn directory() -> (TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("definitions");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.yaml"), "queue: a\n").unwrap();
        (home, dir)
    }

    #[tokio::test]
    async fn what_is_written_renamed_and_deleted_is_noticed() {
        let _calm = SIGNALS.read().await;
        let (_home, dir) = directory();
        let changes = quick(&dir).await;
        fs::write(dir.join("a.yaml"), "queue: b\n").unwrap();
        noticed(&changes, "written in place").await;
        fs::write(dir.join(".a.swp"), "queue: c\n").unwrap();
        fs::rename(dir.join(".a.swp"), dir.join("a.yaml")).unwrap();
        noticed(&changes, "renamed over").await;
        fs::create_dir(dir.join("schemas")).unwrap();
        noticed(&changes, "a directory made").await;
        fs::write(dir.join("schemas/a.json"), "{}").unwrap();
        noticed(&changes, "written below it").await;
        fs::remove_file(dir.join("a.yaml")).unwrap();
        noticed(&changes, "deleted").await;
    }

    #[tokio::test]
    async fn a_swap_of_links_is_noticed_each_time() {
        let _calm = SIGNALS.read().await;
        let (_home, dir) = directory();
        fs::remove_file(dir.join("a.yaml")).unwrap();
        // As Kubernetes mounts a ConfigMap.
        let put = |version: &str| {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("a.yaml"), format!("queue: a\ntitle: {version}\n")).unwrap();
            symlink(version, dir.join("..data_tmp")).unwrap();
            fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        };
        put("..1");
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
        let changes = quick(&dir).await;
        for version in ["..2", "..3"] {
            put(version);
            noticed(&changes, version).await;
        }
    }

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_is_watched_again() {
        let _calm = SIGNALS.read().await;
        let (home, dir) = directory();
        let changes = quick(&dir).await;
        for turn in ["at once", "later"] {
            fs::remove_dir_all(&dir).unwrap();
            if turn == "later" {
                noticed(&changes, "gone").await;
            }
            fs::create_dir(&dir).unwrap();
            noticed(&changes, "there again").await;
            fs::write(dir.join("a.yaml"), "queue: b\n").unwrap();
            noticed(&changes, "written after that").await;
        }
        // Another one under the same name, and the old one lives on elsewhere.
        fs::create_dir(home.path().join("new")).unwrap();
        fs::rename(&dir, home.path().join("old")).unwrap();
        fs::rename(home.path().join("new"), &dir).unwrap();
        noticed(&changes, "replaced").await;
        fs::write(dir.join("b.yaml"), "queue: b\n").unwrap();
        noticed(&changes, "written to the new one").await;
    }

    #[tokio::test]
    async fn a_link_further_up_the_path_is_followed_to_where_it_leads_now() {
        let _calm = SIGNALS.read().await;
        let home = tempfile::tempdir().unwrap();
        let current = home.path().join("current");
        for release in ["one", "two"] {
            fs::create_dir_all(home.path().join(release).join("queues")).unwrap();
        }
        symlink("one", &current).unwrap();
        let changes = quick(&current.join("queues")).await;
        symlink("two", home.path().join("next")).unwrap();
        fs::rename(home.path().join("next"), &current).unwrap();
        noticed(&changes, "the link").await;
        fs::write(home.path().join("two/queues/a.yaml"), "queue: a\n").unwrap();
        noticed(&changes, "written where it leads").await;
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_yet_is_noticed_when_it_comes() {
        let _calm = SIGNALS.read().await;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("not/yet");
        let changes = quick(&dir).await;
        fs::create_dir_all(&dir).unwrap();
        noticed(&changes, "made").await;
        fs::write(dir.join("a.yaml"), "queue: a\n").unwrap();
        noticed(&changes, "written").await;
    }

    #[tokio::test]
    async fn many_changes_in_a_row_are_one_and_reading_is_none() {
        let _calm = SIGNALS.read().await;
        let (_home, dir) = directory();
        let changes = quick(&dir).await;
        for n in 0..50 {
            fs::write(dir.join(format!("{n}.yaml")), "queue: a\n").unwrap();
        }
        assert!(noticed(&changes, "written").await < 5, "each of them was told");
        for entry in fs::read_dir(&dir).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
        // A wake for reading would come within that.
        assert!(timeout((QUICK.quiet + QUICK.look) * 2, changes.next()).await.is_err(), "woken without a change");
    }

    #[tokio::test]
    async fn sighup_asks_to_look_again() {
        let _alone = SIGNALS.write().await;
        let (_home, dir) = directory();
        let changes = changes(dir.clone(), NEVER).await;
        for _ in 0..2 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
            noticed(&changes, "SIGHUP").await;
        }
        fs::write(dir.join("b.yaml"), "queue: b\n").unwrap();
        noticed(&changes, "written").await;
    }

    #[tokio::test]
    async fn without_watches_the_poll_remains() {
        let _calm = SIGNALS.read().await;
        let (_home, dir) = directory();
        let full: Arm = |_, _| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        let changes = changes_by(dir, Pace { poll: Duration::from_millis(20), ..QUICK }, full).await;
        for _ in 0..3 {
            assert!(timeout(PATIENCE, changes.next()).await.is_ok(), "the poll");
        }
    }

    #[test]
    fn only_reading_changes_nothing() {
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Read), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), true),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), true),
            (EventKind::Remove(RemoveKind::Folder), true),
            // Too many events at once: some were dropped.
            (EventKind::Other, true),
        ] {
            assert_eq!(matters(&Ok(Event::new(kind))), expected, "{kind:?}");
        }
        assert!(matters(&Err(notify::Error::generic("odd"))));
    }
}
