//! Fail points: places where a debug build can be made to die or to dawdle, so that tests can crash it at each step.
//!
//! `WARREND_FAIL_POINT=intake.committed` kills the process, as if by `kill -9`, the first time it gets there;
//! `intake.committed:3` the third time; `mirror.commit=sleep:300` waits 300 ms each time instead. Several are separated
//! by commas. `WARREND_CLOCK=FILE` sets the clock: the file says by how many seconds it is ahead, and may change while it runs.
//! In a release build none of this exists.

/// Every fail point, in the order of the pipelines. Each pipeline's header says what a crash there leaves.
pub const POINTS: &[&str] = &[
    "start.declared",
    "start.claimed",
    "intake.read",
    "intake.committed",
    "intake.acked",
    "enqueue.committed",
    "many.committed",
    "orders.committed",
    "recall.got",
    "recall.committed",
    "recall.acked",
    "claims.got",
    "claims.committed",
    "claims.acked",
    "claims.taken",
    "leases.committed",
    "leases.ended",
    "dispatch.claimed",
    "publish.handed_over",
    "dispatch.published",
    "dispatch.returned",
    "dispatch.repeating",
    "reports.read",
    "reports.committed",
    "reports.acked",
    "reports.judged",
    "chain.noted",
    "breaker.told",
    "tap.read",
    "tap.committed",
    "tap.acked",
    "answers.published",
    "answers.removed",
    "changes.published",
    "changes.removed",
    "changes.unheard",
    "feed.distributed",
    "outward.sent",
    "outward.noted",
    "unrouted.published",
    "unrouted.committed",
    "unrouted.acked",
    "timers.expired",
    "timers.promoted",
    "timers.crossed",
    "timeouts.ended",
    "retention.removed",
    "actions.receiving",
    "actions.begun",
    "actions.changed",
    "actions.collected",
    "actions.acted",
    "actions.settled",
    "reconcile.settled",
    "witness.taken",
    "witness.looked",
    "rebuild.committed",
    "rebuild.acked",
    "rebuild.learnt",
    "definitions.committed",
    "apply.stepped",
    "deleted.claimed",
    "rebind.unbound",
    "rebind.bound",
    "migrate.begun",
    "migrate.published",
    "migrate.acked",
    "migrate.emptied",
    "migrate.deleted",
    "migrate.declared",
    "migrate.refilled",
    "migrate.ended",
    "migrate.rolled_back",
    "retire.committed",
    "retire.deleted",
    "mirror.begun",
    "mirror.commit",
    "mirror.committed",
];

#[cfg(debug_assertions)]
pub use armed::{ahead, check, reach};

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
#[allow(clippy::unused_async, reason = "the debug build waits here")]
pub async fn reach(_point: &'static str) {}

/// By how much the clock is set ahead: by nothing, in a release build.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn ahead() -> jiff::SignedDuration {
    jiff::SignedDuration::ZERO
}

/// Nothing, in a release build.
///
/// # Errors
/// None.
#[cfg(not(debug_assertions))]
pub const fn check() -> Result<(), String> {
    Ok(())
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    const VARIABLE: &str = "WARREND_FAIL_POINT";
    const CLOCK: &str = "WARREND_CLOCK";

    /// By how much the clock is set ahead; what is no number of seconds sets nothing.
    #[must_use]
    pub fn ahead() -> jiff::SignedDuration {
        static FILE: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os(CLOCK)).as_ref();
        let seconds = file.and_then(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        jiff::SignedDuration::from_secs(seconds.unwrap_or(0))
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Action {
        /// At the n-th time, counted from 1.
        Die(u32),
        Sleep(Duration),
    }

    struct Armed {
        action: Action,
        times: AtomicU32,
    }

    fn armed() -> &'static Result<HashMap<String, Armed>, String> {
        static ARMED: OnceLock<Result<HashMap<String, Armed>, String>> = OnceLock::new();
        ARMED.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            text.split(',').filter(|part| !part.is_empty()).map(read).collect()
        })
    }

    fn read(text: &str) -> Result<(String, Armed), String> {
        let wrong = || format!("{VARIABLE}: '{text}' reads neither POINT, POINT:TIMES nor POINT=sleep:MILLISECONDS");
        let (point, action) = if let Some((point, millis)) = text.split_once("=sleep:") {
            (point, Action::Sleep(Duration::from_millis(millis.parse().map_err(|_| wrong())?)))
        } else if let Some((point, times)) = text.split_once(':') {
            (point, Action::Die(times.parse().map_err(|_| wrong())?))
        } else {
            (text, Action::Die(1))
        };
        if !super::POINTS.contains(&point) {
            return Err(format!("{VARIABLE}: there is no fail point '{point}', only {}", super::POINTS.join(", ")));
        }
        Ok((point.to_owned(), Armed { action, times: AtomicU32::new(0) }))
    }

    /// Whether the environment's fail points are ones.
    ///
    /// # Errors
    /// Which are not.
    pub fn check() -> Result<(), String> {
        armed().as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Dies or dawdles here where the environment says so.
    pub async fn reach(point: &'static str) {
        debug_assert!(super::POINTS.contains(&point), "{point} is not in the list");
        let Some(armed) = armed().as_ref().ok().and_then(|armed| armed.get(point)) else { return };
        match &armed.action {
            Action::Die(at) => {
                if armed.times.fetch_add(1, Ordering::Relaxed) + 1 == *at {
                    // Written past the log, which may be buffered somewhere.
                    eprintln!("fail point {point} reached: the process dies here");
                    std::process::abort();
                }
            }
            Action::Sleep(span) => tokio::time::sleep(*span).await,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_a_fail_point_reads() {
            for (text, point, action) in [
                ("intake.read", "intake.read", Action::Die(1)),
                ("intake.read:3", "intake.read", Action::Die(3)),
                ("mirror.commit=sleep:300", "mirror.commit", Action::Sleep(Duration::from_millis(300))),
            ] {
                let (read_point, armed) = read(text).unwrap();
                assert_eq!((read_point.as_str(), armed.action), (point, action));
            }
            for text in ["intake", "intake.read:x", "intake.read=sleep:", "intake.read=burn"] {
                assert!(read(text).is_err(), "{text}");
            }
        }
    }
}
