//! What is measured: the ways an item can take, and how many items of which size take them.

use serde::Serialize;

use crate::item::Lane;

/// How much is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Items per way and round.
    pub items: u32,
    pub rounds: u32,
    /// Bytes of an item's body, at least [`SMALLEST`].
    pub size: usize,
    /// Items per second while latency is measured.
    pub rate: u32,
    /// How long latency is measured, in seconds.
    pub seconds: u32,
}

/// The body carries the time at which it was sent, in 20 digits.
pub const SMALLEST: usize = 20;

/// The way of an item from its publish to its ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One queue.
    Raw,
    /// Two queues, a dynamic shovel of the broker between them.
    Shovel,
    /// Two queues, between them a bare client that publishes with confirm and acks then.
    Forwarder,
    /// A topic exchange with the robots' queue and a stream behind it: the direct lane without a daemon.
    FanOut,
    Direct,
    /// Every item reported processed, until the mirror knows all.
    DirectReports,
    Managed,
    ManagedReports,
}

impl Way {
    /// In the order in which a round takes them.
    pub const ALL: [Self; 8] = [
        Self::Raw,
        Self::Shovel,
        Self::Forwarder,
        Self::FanOut,
        Self::Direct,
        Self::DirectReports,
        Self::Managed,
        Self::ManagedReports,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Shovel => "shovel",
            Self::Forwarder => "forwarder",
            Self::FanOut => "fan-out",
            Self::Direct => "direct",
            Self::DirectReports => "direct, with reports",
            Self::Managed => "managed",
            Self::ManagedReports => "managed, with reports",
        }
    }

    /// The lane it takes; `None` for what the broker does without us.
    #[must_use]
    pub const fn lane(self) -> Option<Lane> {
        match self {
            Self::Raw | Self::Shovel | Self::Forwarder | Self::FanOut => None,
            Self::Direct | Self::DirectReports => Some(Lane::Direct),
            Self::Managed | Self::ManagedReports => Some(Lane::Managed),
        }
    }

    #[must_use]
    pub const fn with_reports(self) -> bool {
        matches!(self, Self::DirectReports | Self::ManagedReports)
    }

    /// The time from publish to delivery at a given rate is measured too.
    #[must_use]
    pub const fn with_latency(self) -> bool {
        matches!(self, Self::Raw | Self::Shovel | Self::Forwarder | Self::Direct | Self::Managed)
    }

    /// The ways it is compared with, besides `raw`.
    #[must_use]
    pub const fn compared_with(self) -> &'static [Self] {
        match self {
            Self::Raw | Self::Shovel | Self::Forwarder | Self::FanOut => &[],
            Self::Direct | Self::DirectReports => &[Self::FanOut],
            Self::Managed | Self::ManagedReports => &[Self::Shovel, Self::Forwarder],
        }
    }
}
