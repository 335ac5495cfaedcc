//! The ways of an item through the daemon, one file per pipeline.
pub mod intake;
