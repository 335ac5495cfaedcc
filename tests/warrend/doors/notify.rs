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

#[tokio::test]
async fn a_notice_that_is_a_day_old_is_given_up_and_its_queue_shows_so_until_one_is_taken() {
    let hook = Receiver::start().await;
    hook.answers(503, std::time::Duration::ZERO);
    let yaml = format!(
        "queue: a\nschema: {{type: object}}\nnotify: [{{on: [exception], to: '{}', at_most: 100/1h}}]\n",
        hook.url
    );
    let mut daemon = daemon("notify give up")
        .queues(&yaml)
        .setting("WEBHOOKS__ALLOW_PRIVATE", "true")
        .setting("WEBHOOKS__ALLOW_HTTP", "true")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "old", &json!([1])).await;
    let failed = async |daemon: &Daemon, times: i64| {
        daemon
            .wait_until("it is noted", async |daemon: &Daemon| {
                daemon.count("SELECT max(failures) FROM targets").await >= times
            })
            .await;
    };
    failed(&daemon, 1).await;
    daemon.alter("UPDATE outgoing SET at = 1; UPDATE targets SET failures = 20, next_at = 1").await;
    failed(&daemon, 21).await;
    assert_eq!(daemon.count("SELECT count(*) FROM outgoing").await, 0);
    // A restart changes nothing of it.
    assert!(daemon.stop().success());
    daemon.start_again().await;
    let shown = async |daemon: &Daemon| daemon.queue("a").await["attention"].to_string();
    daemon.wait_until("it is shown", async |daemon: &Daemon| shown(daemon).await.contains("notify_not_taken")).await;
    let said = shown(&daemon).await;
    assert!(said.contains("127.0.0.1: it answered 503") && !said.contains("/hook"), "{said}");
    let log = daemon.log();
    assert!(log.contains("notices were not taken and are given up") && !log.contains("/hook"), "{log}");
    // The next one is taken.
    hook.answers(204, std::time::Duration::ZERO);
    let tried = hook.received().len();
    daemon.alter("UPDATE targets SET next_at = 1").await;
    client.send("a", "new", &json!([1])).await;
    let told = hook.wait_for(tried + 1).await;
    assert_eq!(told[tried].body()["data"]["event"]["data"]["reference"], "new");
    daemon
        .wait_until("it is shown no more", async |daemon: &Daemon| !shown(daemon).await.contains("notify_not_taken"))
        .await;
}
