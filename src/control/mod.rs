//! What the daemon does by itself: timers on the mirror's clock, and setting mirror and broker against each other.

pub mod reconcile;
pub mod timers;
