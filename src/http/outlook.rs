//! What becomes of a queue. Summed up when somebody asks, and no oftener than its cost allows: with a million items that
//! are due one look takes a second, with some thousand a few milliseconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::definition::QueueDefinition;
use crate::item::Timestamp;
use crate::item::forecast::{Forecast, Outlook, Pace, forecast};
use crate::lanes::now;
use crate::mirror::{Mirror, MirrorError, SlaCounts, Waits};

/// Looks at one queue take this share of the time at most, however often it is asked for.
const SHARE: u32 = 20;

/// The last look at each queue.
#[derive(Debug, Clone, Default)]
pub struct Looks {
    queues: Arc<Mutex<HashMap<String, Last>>>,
}

/// Held while somebody looks.
type Last = Arc<tokio::sync::Mutex<Option<Look>>>;

#[derive(Debug, Clone)]
struct Look {
    at: Timestamp,
    waits: Waits,
    pace: Option<Pace>,
    good_until: Instant,
}

/// What is shown.
pub(super) struct Ahead {
    pub at: Timestamp,
    pub sla: SlaCounts,
    pub forecast: Forecast,
}

impl Looks {
    /// Looks ahead for one queue with so many robots at work. Who asks while somebody looks gets the same answer.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub(super) async fn ahead(
        &self,
        mirror: &Mirror,
        definition: &QueueDefinition,
        robots: Option<u64>,
    ) -> Result<Ahead, MirrorError> {
        let place = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(queues.entry(definition.key.clone()).or_default())
        };
        let mut last = place.lock().await;
        let look = match last.take() {
            Some(look) if Instant::now() < look.good_until => look,
            _ => Look::take(mirror, &definition.key).await?,
        };
        *last = Some(look.clone());
        drop(last);
        let Look { at, waits: Waits { backlog, sla }, pace, .. } = look;
        let forecast = forecast(&Outlook { backlog, pace, robots, order: definition.order });
        Ok(Ahead { at, sla, forecast })
    }
}

impl Look {
    async fn take(mirror: &Mirror, queue: &str) -> Result<Self, MirrorError> {
        let (began, at) = (Instant::now(), now());
        let waits = mirror.waits(queue, at).await?;
        let pace = Pace::of(&mirror.handled(queue).await?);
        let cost: Duration = began.elapsed();
        Ok(Self { at, waits, pace, good_until: began + cost * SHARE })
    }
}
