//! What the tests share.

pub mod amqp;
pub mod broker;
pub mod daemon;
pub mod raw;
