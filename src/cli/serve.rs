//! `warrend serve`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failed};
use crate::settings::{LogFormat, LogSettings, Settings};

pub(super) fn run(settings: Settings) -> Result<(), Failed> {
    start_log(&settings.log);
    let failed = |error: anyhow::Error| Failed::new(Exit::Failure, format!("{error:#}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| failed(error.into()))?.block_on(crate::daemon::serve(settings)).map_err(failed)
}

/// Log lines go to standard error: standard output is for results.
fn start_log(settings: &LogSettings) {
    let filter = EnvFilter::new(&settings.filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only where a log runs already.
    let _ = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
