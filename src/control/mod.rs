//! What the daemon does by itself: timers on the mirror's clock, setting mirror and broker against each other, and noticing
//! that definitions may have changed.

pub mod reconcile;
pub mod timers;
pub mod watch;
