//! Where people's orders to control wait for the session that carries them out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use super::apply::Applied;
use crate::topology::plan::Plan;

/// Orders that may wait; a person's patience is shorter than that.
const WAITING: usize = 16;

/// The longest an order may take, the waits of a deletion included.
const PATIENCE: Duration = Duration::from_secs(90);

/// Something a person asks control for.
pub enum Order {
    /// What would be done.
    Plan { retire: BTreeSet<String>, answer: Answer<Plan> },
    /// Do it; `retire` names retired queues that may go with what is in them. A migration that was rolled back is tried
    /// again.
    Apply { retire: BTreeSet<String>, who: String, answer: Answer<Applied> },
}

/// The orders, for as long as one session serves them.
pub type Orders = OwnedMutexGuard<mpsc::Receiver<Order>>;

pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no connection to the broker right now; /readyz says why")]
    NoSession,
    #[error("control is blind: {0}")]
    Blind(String),
    #[error("{0}")]
    Failed(String),
}

/// A handle for those who order; clones share it.
#[derive(Clone)]
pub struct Desk {
    orders: mpsc::Sender<Order>,
    /// The session's control takes it for as long as it lasts.
    inbox: Arc<Mutex<mpsc::Receiver<Order>>>,
}

impl Default for Desk {
    fn default() -> Self {
        let (orders, inbox) = mpsc::channel(WAITING);
        Self { orders, inbox: Arc::new(Mutex::new(inbox)) }
    }
}

impl Desk {
    /// What would be done, with `retire` as the words given.
    ///
    /// # Errors
    /// Where nobody can say.
    pub async fn plan(&self, retire: BTreeSet<String>) -> Result<Plan, Refusal> {
        self.order(|answer| Order::Plan { retire, answer }).await
    }

    /// Does what is to be done.
    ///
    /// # Errors
    /// Where nothing could be done.
    pub async fn apply(&self, retire: BTreeSet<String>, who: String) -> Result<Applied, Refusal> {
        self.order(|answer| Order::Apply { retire, who, answer }).await
    }

    async fn order<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, Refusal> {
        // With the inbox at hand nobody serves it.
        if self.inbox.try_lock().is_ok() {
            return Err(Refusal::NoSession);
        }
        let (sender, answer) = oneshot::channel();
        self.orders
            .try_send(order(sender))
            .map_err(|_| Refusal::Failed("too many orders wait; try again".to_owned()))?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refusal::NoSession),
            Err(_) => Err(Refusal::Failed(format!(
                "it took longer than {} s and goes on; the plan shows what is left",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// For a session before it says that it is there. What waited for a former session is dropped, and its callers told.
    pub async fn serve(&self) -> Orders {
        let mut inbox = Arc::clone(&self.inbox).lock_owned().await;
        while inbox.try_recv().is_ok() {}
        inbox
    }
}
