//! How a command ends.

use std::io::Write;

/// The exit codes; 64 and above are those of BSD's `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: it failed, or the daemon said no.
    Failure,
    /// 2: there is something to do (`plan`).
    Changes,
    /// 64: the command was not understood.
    Usage,
    /// 65: bad definitions or data.
    Data,
    /// 69: the daemon, or the broker, cannot be reached.
    Unreachable,
    /// 78: bad settings.
    Settings,
}

impl Exit {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failure => 1,
            Self::Changes => 2,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unreachable => 69,
            Self::Settings => 78,
        }
    }
}

/// A command that did not do what it was asked, with what to say about it.
#[derive(Debug)]
pub(super) struct Failed {
    pub exit: Exit,
    /// Without the `error:` in front; empty where there is nothing to say.
    pub message: String,
}

impl Failed {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Says it on standard error.
    pub(super) fn print(&self) {
        if !self.message.is_empty() {
            // Standard error may be closed as well, and then there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {}", self.message);
        }
    }
}

impl From<std::io::Error> for Failed {
    /// What could not be written to standard output. A reader who has seen enough is none of our failures.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Failure, format!("cannot write the result: {error}"))
    }
}
