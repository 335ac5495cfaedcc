//! warrend: work queues for robots, people and integrations on RabbitMQ.
//!
//! The layers and what each may know of are drawn in ARCHITECTURE.md and held by a test.

#![forbid(unsafe_code)]

pub mod bench;
pub mod broker;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod definition;
pub mod failpoint;
pub mod http;
pub mod item;
pub mod lanes;
pub mod metrics;
pub mod mirror;
pub mod rows;
pub mod settings;
pub mod status;
pub mod topology;
pub mod units;
pub mod who;
