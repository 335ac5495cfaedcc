//! What is written of an attempt where it ends: beside the line that ends it, so that it costs no row of its own.

use super::super::report::{Death, Report, Saying};
use super::super::retry::Retry;
use super::super::timeline::Ended;
use super::super::{Item, Kind, State, Timestamp};
use super::lease::LOST;
use super::{Step, is_out};

/// The newest attempt as it was before a decision.
pub(super) struct Begun {
    attempt: u32,
    /// It is the one that is open.
    out: bool,
    /// Who said that they started it, or told of its progress.
    robot: Option<String>,
    dispatched_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    deliveries: u32,
}

/// What the item does not keep of why an attempt ended.
#[derive(Default)]
pub(super) struct Cause {
    /// The exception that a retry answers.
    pub kind: Option<Kind>,
    pub code: Option<String>,
    pub reason: Option<String>,
    /// As the robot says afterwards.
    pub started_at: Option<Timestamp>,
    /// A robot said so: then it had it.
    pub by_robot: bool,
}

impl Cause {
    pub(super) fn said(report: &Report) -> Self {
        match &report.saying {
            Saying::Exception { failure, code, reason, started_at, .. } => Self {
                kind: Some(failure.kind()),
                code: code.clone(),
                reason: reason.clone(),
                started_at: *started_at,
                by_robot: true,
            },
            Saying::Processed { started_at, .. } => Self { started_at: *started_at, by_robot: true, ..Self::default() },
            _ => Self { by_robot: true, ..Self::default() },
        }
    }
}

impl Begun {
    pub(super) fn of(item: &Item) -> Self {
        let told = item.started_at.is_some() || item.progress.is_some();
        Self {
            attempt: item.attempt,
            out: is_out(item),
            robot: item.worker.clone().filter(|_| told),
            dispatched_at: item.dispatched_at,
            started_at: item.started_at,
            deliveries: item.deliveries,
        }
    }

    /// Writes the end of an attempt into the step's line, where it is one.
    pub(super) fn ends(self, item: &Item, step: &mut Step, cause: Cause) {
        let Some(line) = step.line.as_mut() else { return };
        let outcome = match (line.event.as_ref(), item.state) {
            ("exception", State::Exception(kind)) => kind.word(),
            ("retry", _) => cause.kind.map_or("generic", Kind::word),
            ("requeued", _) => "requeue",
            ("processed", _) => "processed",
            ("hold", _) => "hold",
            ("cancelled", _) if self.out => "cancelled",
            ("recalled", _) => "recalled",
            (LOST, _) => "lease_lost",
            ("returned", _) => "returned",
            _ => return,
        };
        if line.attempt == 0 {
            return;
        }
        let own = line.attempt == self.attempt;
        // Whoever spoke of it, or rejected it, had it.
        let deliveries = item.deliveries.max(u32::from(cause.by_robot || item.silent));
        let waits = || item.ready_at.duration_since(line.at).as_millis().max(0);
        let mut ended = Ended {
            attempt: line.attempt,
            outcome: outcome.to_owned(),
            robot: if cause.by_robot { item.worker.clone() } else { self.robot.clone() },
            dispatched_at: self.dispatched_at.filter(|_| own),
            started_at: cause.started_at.or(self.started_at.filter(|_| own)),
            deliveries: if own { deliveries } else { 0 },
            code: item.code.clone().or(cause.code),
            reason: item.reason.clone().or(cause.reason),
            delay_ms: (item.state == State::Queued).then(|| u64::try_from(waits()).unwrap_or(u64::MAX)),
            silent: item.silent,
            dropped: None,
        };
        if !own && self.out {
            ended.dropped = Some(Box::new(Ended {
                attempt: self.attempt,
                outcome: "dropped".to_owned(),
                robot: self.robot,
                dispatched_at: self.dispatched_at,
                started_at: self.started_at,
                deliveries: self.deliveries,
                ..Ended::default()
            }));
        }
        line.ended = Some(Box::new(ended));
    }
}

/// An exception that retries did not help says so, beside what the robot said.
pub(super) fn tell_of_retries(item: &Item, step: &mut Step, retry: Option<Retry>) {
    let (Some(retry), Some(line)) = (retry.filter(|_| item.retries > 0), step.line.as_mut()) else { return };
    let used_up = format!("retries are used up: {} of {}", item.retries, retry.limit);
    line.why = Some(match line.why.take() {
        Some(why) => format!("{why}; {used_up}"),
        None => used_up,
    });
}

/// What is known of who had it last, to be put behind a reason; empty where nobody told.
pub(super) fn last_start(item: &Item) -> String {
    match (&item.worker, item.started_at) {
        (Some(robot), Some(at)) => format!("; the last known is {robot}, which started at {at:.0}"),
        _ => String::new(),
    }
}

/// Why the broker gave an attempt up, in what it counted.
pub(super) fn deaths(item: &Item, death: &Death) -> String {
    let deliveries = item.deliveries.max(1);
    let last = last_start(item);
    match death.failures {
        Some(failures) if failures > 0 && failures < deliveries => {
            format!("robots died in {failures} of {deliveries} deliveries of this attempt{last}")
        }
        _ => format!("robots died in {deliveries} deliveries of this attempt{last}"),
    }
}
