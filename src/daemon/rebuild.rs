//! `warrend mirror rebuild`, put together: the mirror, the broker and the definitions that the settings name.

use anyhow::Context as _;

use crate::broker::connection::Endpoint;
use crate::broker::management::Management;
use crate::broker::trust::Trust;
use crate::control::rebuild::{Rebuilt, Site, run};
use crate::definition::load;
use crate::failpoint;
use crate::mirror::Mirror;
use crate::settings::Settings;
use crate::topology::names::Names;

/// Learns what the broker has. The daemon must not run: the mirror is locked meanwhile.
///
/// # Errors
/// What the settings, the definitions, the mirror or the broker refuse.
pub async fn rebuild(settings: &Settings) -> anyhow::Result<Rebuilt> {
    failpoint::check().map_err(anyhow::Error::msg)?;
    let broker = &settings.broker;
    let definitions = load(&settings.definitions.dir)?;
    let trust = Trust::read(broker.ca_file.as_deref())?;
    let mirror = Mirror::open(&settings.mirror.url).await?;
    let mut failed = anyhow::anyhow!("broker.amqp_url is empty");
    for url in broker.amqp_url.expose() {
        let endpoint = Endpoint::new(url, broker.connect_timeout)?.trusting(&trust);
        let session = match endpoint.connect().await {
            Ok(session) => session,
            Err(error) => {
                failed = error.into();
                continue;
            }
        };
        let management = match &broker.management_url {
            Some(urls) => Some(Management::new(urls.expose(), endpoint.vhost(), &trust)?),
            None => None,
        };
        let site = Site {
            mirror: &mirror,
            definitions,
            names: &Names::new(&broker.prefix),
            session: &session,
            management: management.as_ref(),
            confirm_timeout: broker.confirm_timeout,
        };
        let rebuilt = run(site).await.context("the rebuild broke off; run it again, it goes on where it was");
        session.close().await;
        mirror.close().await;
        return rebuilt;
    }
    Err(failed)
}
