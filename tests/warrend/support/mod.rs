//! What the tests share.

pub mod amqp;
pub mod belt;
pub mod broker;
pub mod crew;
pub mod daemon;
pub mod finished;
pub mod frozen;
pub mod issuer;
pub mod listener;
pub mod own_broker;
pub mod python;
pub mod raw;
pub mod receiver;
pub mod relay;
pub mod stubborn;

/// A number that a run of random things takes from the environment.
pub fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}
