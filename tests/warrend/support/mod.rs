//! What the tests share.

pub mod broker;
