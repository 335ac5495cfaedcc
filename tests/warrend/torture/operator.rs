//! A person with little patience: holds, releases, cancels, restores, edits and requeues items over HTTP, as the dice say,
//! and notes what was answered.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::history::{History, What};

/// Who asks, in every item's timeline.
pub const NAME: &str = "operator";

/// Between two orders, ms.
const PACE: std::ops::Range<u64> = 50..400;

pub async fn run(
    url: String,
    queues: Vec<&'static str>,
    history: Arc<History>,
    mut random: fastrand::Rng,
    enough: CancellationToken,
) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().expect("a client");
    while !enough.is_cancelled() {
        let queue = queues[random.usize(0..queues.len())];
        let state = ["queued", "queued", "queued", "on_hold", "cancelled", "exception"][random.usize(0..6)];
        let list = format!("{url}/api/v1/items?queue={queue}&state={state}&limit=20");
        let items: Value = match http.get(list).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let items = items["items"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(item) = items.get(random.usize(0..items.len().max(1))) {
            let verb = match state {
                "queued" => ["hold", "cancel", "edit"][random.usize(0..3)],
                "on_hold" => "release",
                "cancelled" => "restore",
                _ => "requeue",
            };
            let item = item["id"].as_str().expect("an id").to_owned();
            let asked =
                |status| What::Asked { verb: verb.to_owned(), item: item.clone(), queue: queue.to_owned(), status };
            history.note(asked(None));
            let body = json!({ "by": NAME });
            let call = match verb {
                "edit" => {
                    let body = json!({"by": NAME, "priority": random.u8(0..10), "name": "edited"});
                    http.patch(format!("{url}/api/v1/items/{item}")).json(&body)
                }
                verb => http.post(format!("{url}/api/v1/items/{item}/{verb}")).json(&body),
            };
            if let Ok(answer) = call.send().await {
                history.note(asked(Some(answer.status().as_u16())));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(PACE))).await;
    }
}
