//! Notices of definitions: by mail and over HTTP, and no more of them than is asked for.

use serde_json::json;

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};
use crate::support::receiver::{MailServer, Receiver};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn queues(hook: &str) -> String {
    format!(
        "queue: a\ntitle: Invoices\nschema: {{type: object}}\nnotify:\n  \
         - {{on: [exception], to: 'mailto:ops@example.com', at_most: 1/10s}}\n  \
         - {{on: [exception.invalid], to: '{hook}', at_most: 100/1h}}\n  \
         - {{on: [exception.it, late], to: '{hook}', at_most: 100/1h}}\n"
    )
}

#[tokio::test]
async fn notices_go_out_by_mail_and_http_and_what_is_held_back_is_told() {
    let (mail, hook) = (MailServer::start().await, Receiver::start().await);
    let mut daemon = daemon("notify")
        .queues(&queues(&hook.url))
        .setting("SMTP__URL", &mail.url)
        .setting("SMTP__FROM", "warrend <warrend@example.com>")
        .setting("NOTIFY__SECRET", SECRET)
        .setting("WEBHOOKS__ALLOW_PRIVATE", "true")
        .setting("WEBHOOKS__ALLOW_HTTP", "true")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "right", &json!({})).await;
    // Wrong by the schema.
    for n in 0..5 {
        client.send("a", &format!("wrong {n}"), &json!([4929])).await;
    }
    let told = hook.wait_for(5).await;
    for (n, one) in told.iter().enumerate() {
        let body = one.body();
        assert_eq!((one.kind().as_str(), one.signed_with(SECRET)), ("notice", 1), "{one:?}");
        assert_eq!(
            (&body["data"]["queue"], &body["data"]["event"]["data"]["reference"]),
            (&json!("a"), &json!(format!("wrong {n}")))
        );
        assert!(!one.text.contains("4929"), "the payload is quoted: {}", one.text);
    }
    // The first goes out at once; the others together, once there is room, whether the daemon lived on or not.
    let first = mail.wait_for(1).await.remove(0);
    assert!(
        first.contains("RCPT TO:<ops@example.com>") && first.contains("MAIL FROM:<warrend@example.com>"),
        "{first}"
    );
    assert!(first.contains("Subject: [warrend] a: exception (invalid)"), "{first}");
    assert!(!first.contains("4929"), "the payload is quoted: {first}");
    daemon
        .wait_until("all that was sent is noted", async |daemon: &Daemon| {
            daemon.count("SELECT count(DISTINCT event || target) FROM deliveries WHERE error IS NULL").await == 6
        })
        .await;
    daemon.kill();
    daemon.start_again().await;
    let mut told = 0;
    let mut seen = 0;
    while told < 5 {
        let mails = mail.wait_for(seen + 1).await;
        for one in &mails[seen..] {
            let more = one.lines().find_map(|line| line.strip_prefix("And ")?.split(' ').next()?.parse::<u32>().ok());
            told += 1 + more.unwrap_or(0);
        }
        seen = mails.len();
    }
    assert_eq!(told, 5, "each is told or counted");
    assert!(seen <= 3, "{seen} mails within two times of the limit");
}

#[tokio::test]
async fn a_rule_that_wants_a_mail_server_says_that_there_is_none() {
    let daemon =
        daemon("notify none").queues("queue: a\nnotify: [{on: [late], to: 'mailto:ops@example.com'}]\n").start().await;
    daemon
        .wait_until("it is shown", async |daemon: &Daemon| {
            daemon.queue("a").await["attention"].to_string().contains("smtp.url is not set")
        })
        .await;
    assert!(daemon.log().contains("smtp.url is not set"));
}
