//! What has to be on the broker, as values: names, queue arguments, bindings and policies.
//!
//! Pure: [`desired::desired`] turns definitions and a broker version into a [`desired::Topology`];
//! `broker::declare` makes it so. [`access`] says who needs which right for it.

pub mod access;
pub mod desired;
pub mod names;
pub mod version;
