//! TLS, over real handshakes: of the API, and towards a broker whose certificate only a file vouches for.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::support::broker::vhost;
use crate::support::daemon::{CERT, Daemon, KEY, client, daemon, new_certificate};

const QUEUES: &str = "queue: invoices
";

#[tokio::test]
async fn the_api_speaks_tls_and_its_certificate_is_renewed_without_a_restart() {
    let mut daemon = daemon("tls api").queues(QUEUES).tls().start().await;
    let (status, _) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": 1})).await;
    assert_eq!(status, 201);
    let stranger = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    assert!(stranger.get(format!("{}/healthz", daemon.url())).send().await.is_err(), "nobody vouches for it");
    let plain = daemon.url().replace("https://", "http://");
    assert!(stranger.get(format!("{plain}/healthz")).send().await.is_err(), "it speaks nothing else");

    let cert = daemon.dir.path().join(CERT);
    let listed = daemon.command().env("WARREND_CA_FILE", &cert).args(["items", "list", "--output", "json"]).output();
    let listed = listed.expect("the binary runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    // Without --url it is where the settings say, by https.
    let mut command = daemon.command();
    command.env_remove("WARREND_URL").args(["queues", "--ca-file"]).arg(&cert);
    let listed = command.output().expect("the binary runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(!daemon.command().args(["items", "list"]).output().expect("it runs").status.success());

    // Files that do not do leave the one in use in use; then comes a good one.
    let before = fs::read(&cert).expect("a certificate");
    fs::write(daemon.dir.path().join(KEY), "nothing").expect("written");
    daemon
        .wait_until("it says that the new files do not do", async |daemon: &Daemon| {
            daemon.log().contains("the certificate in use stays in use")
        })
        .await;
    assert_eq!(daemon.get("/healthz").await["alive"], true);
    new_certificate(daemon.dir.path());
    assert_ne!(fs::read(&cert).expect("a certificate"), before);
    daemon
        .wait_until("the new certificate is shown", async |daemon: &Daemon| {
            let renewed = client(daemon.dir.path(), true, None);
            renewed.get(format!("{}/healthz", daemon.url())).send().await.is_ok()
        })
        .await;
    assert!(daemon.stop().success());
}

#[tokio::test]
async fn a_certificate_that_does_not_do_is_said_at_the_start() {
    let mut daemon = daemon("tls start").queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    let cert = daemon.dir.path().join("none.pem");
    let cert = cert.to_str().expect("a path");
    for (settings, part) in [
        (&[("WARREND__HTTP__TLS_CERT", cert)][..], "http.tls_key"),
        (&[("WARREND__HTTP__TLS_CERT", cert), ("WARREND__HTTP__TLS_KEY", cert)], "none.pem"),
        (&[("WARREND__BROKER__CA_FILE", cert)], "broker.ca_file"),
    ] {
        let ended = daemon.command().envs(settings.iter().copied()).arg("serve").output().expect("the binary runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(part), "{said}");
    }
}

/// Speaks TLS in front of what speaks plainly; answers its port.
async fn in_front_of(address: String, acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, address) = (acceptor.clone(), address.clone());
            tokio::spawn(async move {
                let mut outer = acceptor.accept(stream).await?;
                let mut inner = TcpStream::connect(address).await?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    port
}

fn address(url: &Url) -> String {
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

#[tokio::test]
async fn a_broker_is_believed_whose_certificate_a_file_vouches_for() {
    let folder = tempfile::tempdir().expect("a directory");
    new_certificate(folder.path());
    let (cert, key) = (folder.path().join(CERT), folder.path().join(KEY));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&cert).expect("a certificate")],
            PrivateKeyDer::from_pem_file(&key).expect("a key"),
        )
        .expect("they belong together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let vhost = vhost("tls broker").await;
    let mut amqp = Url::parse(&vhost.amqp_url).expect("a URL");
    let mut management = Url::parse(&vhost.management_url).expect("a URL");
    let ports =
        (in_front_of(address(&amqp), acceptor.clone()).await, in_front_of(address(&management), acceptor).await);
    amqp.set_host(Some("localhost")).expect("a host");
    amqp.set_port(Some(ports.0)).expect("a port");
    management.set_host(Some("localhost")).expect("a host");
    management.set_port(Some(ports.1)).expect("a port");
    let https = |url: &Url| {
        let text = url.as_str();
        text.replacen("amqp://", "amqps://", 1).replacen("http://", "https://", 1)
    };
    let daemon = daemon("tls broker")
        .queues(QUEUES)
        .in_vhost(vhost)
        .setting("BROKER__AMQP_URL", &https(&amqp))
        .setting("BROKER__MANAGEMENT_URL", &https(&management))
        .setting("BROKER__CA_FILE", cert.to_str().expect("a path"))
        .start()
        .await;
    let ready = daemon.get("/readyz").await;
    assert_eq!((&ready["checks"]["broker"]["ok"], &ready["checks"]["management"]["ok"]), (&json!(true), &json!(true)));
    let (status, item) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": 1})).await;
    assert_eq!(status, 201);
    daemon
        .wait_until("it is dispatched", async |daemon: &Daemon| {
            let item: Value = daemon.get(&format!("/api/v1/items/{}", item["id"].as_str().expect("an id"))).await;
            item["dispatched_at"].is_string()
        })
        .await;
}
