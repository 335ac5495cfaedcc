//! What the daemon does by itself: it keeps the definitions in force and makes the broker so, runs timers on the mirror's
//! clock, and sets mirror and broker against each other.
//!
//! ```text
//! directory -> watch -> keeper -> what is in force -> conductor -> plan -> apply (rebind, migrate, retire) -> broker
//! ```

mod account;
pub mod actions;
pub mod apply;
mod attention;
pub mod conductor;
mod deleted;
pub mod desk;
pub mod forget;
pub mod keeper;
/// Idempotency keys are forgotten in time.
pub mod keys;
pub mod leases;
mod migrate;
mod pass;
pub mod pause;
mod rebind;
pub mod rebuild;
pub mod reconcile;
pub mod retention;
mod retire;
pub mod timeouts;
pub mod timers;
pub mod watch;
pub mod witness;

/// An error with its causes, in one line.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
