//! What the daemon counts, for Prometheus (`GET /metrics`). Every name stands here; docs/operations.md explains them.

use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

const CONNECTED: &str = "warrend_broker_connected";
const BLOCKED: &str = "warrend_broker_blocked";
const SESSIONS: &str = "warrend_broker_sessions_total";
const SESSIONS_LOST: &str = "warrend_broker_sessions_failed_total";
const PUBLISHED: &str = "warrend_published_total";
const TAKEN: &str = "warrend_deliveries_committed_total";
const CLAIMED: &str = "warrend_claims_total";
const LEASES_LOST: &str = "warrend_leases_lost_total";
const TURNED_AWAY: &str = "warrend_http_turned_away_total";
const COMMITS: &str = "warrend_mirror_commits_total";
const COMMIT_SECONDS: &str = "warrend_mirror_commit_seconds";
const OUTWARD: &str = "warrend_outward_sent_total";
const OUTWARD_WAITING: &str = "warrend_outward_waiting";
const OUTWARD_LAG: &str = "warrend_outward_lag_seconds";
const WEBHOOKS_PAUSED: &str = "warrend_webhooks_paused";

/// What was counted up to now, as text; clones share it.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// In Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        self.upkeep();
        self.0.render()
    }

    /// Sums up what was recorded since. To be called now and again, or memory grows while nobody asks for the text.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Starts counting for this process, once; a later call answers the same.
pub fn install() -> Exposition {
    static EXPOSITION: OnceLock<Exposition> = OnceLock::new();
    EXPOSITION
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let exposition = Exposition(recorder.handle());
            // It fails where there is one already, and nobody but this function sets one.
            let _ = ::metrics::set_global_recorder(recorder);
            describe();
            exposition
        })
        .clone()
}

fn describe() {
    describe_gauge!(CONNECTED, "1 while a broker session is up");
    describe_gauge!(BLOCKED, "1 while the broker takes nothing from publishers (memory or disk alarm)");
    describe_counter!(SESSIONS, "Broker sessions that came up");
    describe_counter!(SESSIONS_LOST, "Broker sessions that failed, also before they came up");
    describe_counter!(PUBLISHED, "Messages published, by result: confirmed, refused (or returned), timed_out");
    describe_counter!(TAKEN, "Deliveries committed to the mirror, by pipeline");
    describe_counter!(CLAIMED, "Items claimed over HTTP");
    describe_counter!(LEASES_LOST, "Leases that ended without a word of whoever had them");
    describe_counter!(
        TURNED_AWAY,
        "Requests that were not let in, by reason: unknown (nothing good shown), tries, rate"
    );
    describe_counter!(COMMITS, "Transactions of the mirror, by result: committed, failed");
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "How long a transaction of the mirror took");
    describe_counter!(OUTWARD, "Attempts to send outward, by kind (webhook, notice) and result: ok, failed");
    describe_gauge!(OUTWARD_WAITING, "Messages that wait to be sent outward, also to webhooks that are paused");
    describe_gauge!(OUTWARD_LAG, Unit::Seconds, "How long ago the oldest of them happened");
    describe_gauge!(WEBHOOKS_PAUSED, "Webhooks that took nothing for a day and are left alone");
    gauge!(CONNECTED).set(0);
    gauge!(BLOCKED).set(0);
}

pub(crate) fn session_opened() {
    counter!(SESSIONS).increment(1);
    gauge!(CONNECTED).set(1);
}

pub(crate) fn session_closed() {
    gauge!(CONNECTED).set(0);
    gauge!(BLOCKED).set(0);
}

pub(crate) fn session_failed() {
    counter!(SESSIONS_LOST).increment(1);
}

pub(crate) fn blocked(is_blocked: bool) {
    gauge!(BLOCKED).set(i32::from(is_blocked));
}

pub(crate) fn published(confirmed: usize, refused: usize) {
    counter!(PUBLISHED, "result" => "confirmed").increment(confirmed as u64);
    counter!(PUBLISHED, "result" => "refused").increment(refused as u64);
}

pub(crate) fn publish_timed_out(messages: usize) {
    counter!(PUBLISHED, "result" => "timed_out").increment(messages as u64);
}

/// `pipeline` is `intake`, `reports` or `tap`.
pub(crate) fn taken(pipeline: &'static str, deliveries: usize) {
    counter!(TAKEN, "pipeline" => pipeline).increment(deliveries as u64);
}

pub(crate) fn claimed(items: usize) {
    counter!(CLAIMED).increment(items as u64);
}

pub(crate) fn leases_lost(leases: usize) {
    counter!(LEASES_LOST).increment(leases as u64);
}

/// `reason` is `unknown`, `tries` (too many of those from one address) or `rate`.
pub(crate) fn turned_away(reason: &'static str) {
    counter!(TURNED_AWAY, "reason" => reason).increment(1);
}

pub(crate) fn committed(took: Duration, worked: bool) {
    counter!(COMMITS, "result" => if worked { "committed" } else { "failed" }).increment(1);
    histogram!(COMMIT_SECONDS).record(took);
}

pub(crate) fn sent_outward(webhook: bool, taken: bool) {
    let (kind, result) = (if webhook { "webhook" } else { "notice" }, if taken { "ok" } else { "failed" });
    counter!(OUTWARD, "kind" => kind, "result" => result).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn outward(waiting: u64, lag_seconds: f64, paused: u64) {
    gauge!(OUTWARD_WAITING).set(waiting as f64);
    gauge!(OUTWARD_LAG).set(lag_seconds);
    gauge!(WEBHOOKS_PAUSED).set(paused as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let exposition = install();
        taken("a test", 3);
        blocked(true);
        let text = install().text();
        for line in ["warrend_deliveries_committed_total{pipeline=\"a test\"} 3", "# HELP warrend_broker_connected "] {
            assert!(text.contains(line), "{line} is not in:\n{}", exposition.text());
        }
    }
}
