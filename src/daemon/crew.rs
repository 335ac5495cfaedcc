//! Named tasks that end together, and whom a stop waits for.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

/// Named tasks that end together.
#[derive(Default)]
pub(super) struct Crew {
    tasks: JoinSet<anyhow::Result<()>>,
    names: BTreeMap<tokio::task::Id, String>,
}

impl Crew {
    pub(super) fn spawn<E: Into<anyhow::Error>>(
        &mut self,
        name: impl Into<String>,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(async move { work.await.map_err(Into::into) });
        self.names.insert(task.id(), name.into());
    }

    /// Waits for the next task to end: its name and how. `None` where none is left.
    pub(super) async fn next(&mut self) -> Option<(String, anyhow::Result<()>)> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(anyhow::Error::from(error))),
        };
        Some((self.names.remove(&id).unwrap_or_default(), result))
    }

    fn who(&self) -> String {
        self.names.values().cloned().collect::<Vec<_>>().join(", ")
    }

    /// Waits for everybody, within `deadline`, and says whom.
    pub(super) async fn finish(mut self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        while !self.names.is_empty() {
            tracing::info!("waiting for {}", self.who());
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(Some((name, Err(error)))) => tracing::warn!("{name} ended badly: {error:#}"),
                Ok(Some((_, Ok(())))) => {}
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!(
                        "{} did not end within {} s and is left; what it had not committed comes again after the next start",
                        self.who(),
                        deadline.as_secs()
                    );
                    self.tasks.abort_all();
                    return;
                }
            }
        }
    }
}
