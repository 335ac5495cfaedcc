//! What has to be on the broker, what is there, and what is to be done about it, as values.
//!
//! ```text
//! definitions, wishes, version -> desired::desired -> Topology --.
//!                  broker -> management's reading -> Observed ---+-> plan::plan -> Plan -> render
//! ```
//!
//! Pure: `broker::declare` makes a [`desired::Topology`] so at a session's start; a [`plan::Plan`] says what is left to do. [`access`] says
//! who needs which right for it.

pub mod access;
pub mod desired;
pub mod names;
pub mod observed;
pub mod plan;
pub mod render;
pub mod version;
