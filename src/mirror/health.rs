//! What stands behind an error of the database, and how the mirror is right now: whether its last commit worked, and
//! whether damage was met since it was opened.
//!
//! Whoever meets an error tells it here; each change is logged once, with place, cause and cure.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::MirrorError;

/// Why the database could not do what it was asked to, as far as that is no fault of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No room on the disk.
    Full,
    /// Another process holds the database's lock.
    Locked,
    /// The operating system failed to read or write the files.
    Disk,
    /// The files may not be written.
    ReadOnly,
    /// Pages of the file are not what was written there.
    Damaged,
}

impl Trouble {
    /// What the error tells; `None` where it tells of none of these.
    pub(super) fn of(error: &sqlx::Error) -> Option<Self> {
        if matches!(error, sqlx::Error::Io(_)) {
            return Some(Self::Disk);
        }
        let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
        // The low byte is SQLite's primary result code; the rest says more of the same.
        match code & 0xff {
            13 => Some(Self::Full),
            5 | 6 => Some(Self::Locked),
            10 | 14 => Some(Self::Disk),
            3 | 8 => Some(Self::ReadOnly),
            11 | 26 => Some(Self::Damaged),
            _ => None,
        }
    }

    /// It may be over by itself, or by what is done outside, while the daemon runs.
    #[must_use]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Damaged)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "its disk is full: make room",
            Self::Locked => "another process holds its lock: end that one's transaction",
            Self::Disk => "its disk cannot be read or written: see the kernel's log, quotas and limits",
            Self::ReadOnly => "its files may not be written: see their permissions and how the disk is mounted",
            Self::Damaged => "its file is damaged: see 'A damaged mirror' in docs/operations.md",
        })
    }
}

/// Shared by the writer, which knows whether it can write, and by every reader that may meet damage.
#[derive(Debug)]
pub(super) struct Health {
    path: PathBuf,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Why the last commit did not work.
    unwritable: Option<String>,
    /// The first damage met.
    damaged: Option<String>,
}

impl Health {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: watch::Sender::new(State::default()) }
    }

    /// Everything that is wrong, in words; `None` where nothing is known to be.
    pub(super) fn problem(&self) -> Option<String> {
        let state = self.state.borrow();
        let said = [&state.unwritable, &state.damaged];
        let said: Vec<&str> = said.into_iter().flatten().map(String::as_str).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    pub(super) fn is_writable(&self) -> bool {
        self.state.borrow().unwritable.is_none()
    }

    /// Returns at once, or when a commit has worked again.
    pub(super) async fn until_writable(&self) {
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = self.state.subscribe().wait_for(|state| state.unwritable.is_none()).await;
    }

    pub(super) fn committed(&self) {
        if self.state.send_if_modified(|state| state.unwritable.take().is_some()) {
            tracing::info!(mirror = %self.path.display(), "the mirror can be written again");
        }
    }

    pub(super) fn not_committed(&self, reason: &str) {
        let new = self.state.send_if_modified(|state| {
            let new = state.unwritable.as_deref() != Some(reason);
            state.unwritable = Some(reason.to_owned());
            new
        });
        if new {
            tracing::error!(
                mirror = %self.path.display(),
                "the mirror could not commit; nothing of this group is kept, and nothing is taken in until it can: {reason}"
            );
        }
    }

    /// Notes what an error says of damage.
    pub(super) fn note(&self, error: &MirrorError) {
        if error.trouble() != Some(Trouble::Damaged) {
            return;
        }
        let said = in_words(error);
        let first = self.state.send_if_modified(|state| {
            let first = state.damaged.is_none();
            if first {
                state.damaged = Some(said.clone());
            }
            first
        });
        if first {
            tracing::error!(mirror = %self.path.display(), "{said}. What still works goes on");
        }
    }
}

/// The error with its cause, and what to do.
pub(super) fn in_words(error: &MirrorError) -> String {
    let mut said = error.to_string();
    if let MirrorError::Sql { source, .. } = error {
        said.push_str(&format!(" ({})", cause(source)));
        if let Some(trouble) = error.trouble() {
            said.push_str(&format!(": {trouble}"));
        }
    }
    said
}

/// Why a transaction could not be begun or committed, and what to do.
pub(super) fn reason(error: &sqlx::Error) -> String {
    let cause = cause(error);
    Trouble::of(error).map_or_else(|| cause.clone(), |trouble| format!("{cause}: {trouble}"))
}

/// What SQLite itself says, where it said it.
fn cause(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}
