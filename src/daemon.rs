//! The composition root: starts and stops everything.

use crate::settings::Settings;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Where it cannot start, or a part of it fails for good.
pub async fn serve(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("this part is not here yet")
}
