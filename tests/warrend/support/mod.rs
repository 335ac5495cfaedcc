//! What the tests share.

pub mod amqp;
pub mod belt;
pub mod broker;
pub mod crew;
pub mod daemon;
pub mod frozen;
pub mod own_broker;
pub mod python;
pub mod raw;
pub mod relay;
pub mod stubborn;
