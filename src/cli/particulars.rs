//! What may be said of an item beside what it carries, by whichever command.

use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Particulars {
    /// A number from 0 to 31, higher goes first, or a name of the queue's priorities
    #[arg(long)]
    priority: Option<String>,
    /// What people call the item
    #[arg(long)]
    pub name: Option<String>,
    /// Late after this time (RFC 3339, like 2026-05-04T08:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub due_at: Option<String>,
    /// Not to be started after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub expires_at: Option<String>,
    /// Not to be started before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<String>,
}

impl Particulars {
    /// The priority as the API takes it: a number, or a name.
    pub(super) fn priority(&self) -> Option<serde_json::Value> {
        self.priority.as_deref().map(|text| text.parse::<i64>().map_or_else(|_| text.into(), Into::into))
    }
}
