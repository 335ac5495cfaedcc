//! The daemon's HTTP API as the commands use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use url::{Host, Url};

use super::exit::{Exit, Failed};
use super::output::one_line;

/// A daemon that does not take the connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest silence while an answer comes: longer than an order to control may take.
const READ_TIMEOUT: Duration = Duration::from_secs(100);

/// What a client shows, and whom it believes.
#[derive(Default)]
pub(super) struct Shown {
    /// The whole header, marked as a secret.
    pub token: Option<header::HeaderValue>,
    pub ca: Vec<reqwest::Certificate>,
}

pub(super) struct Client {
    base: Url,
    http: reqwest::Client,
}

impl Client {
    /// A client of the daemon at `url`.
    pub(super) fn new(url: &str, shown: Shown) -> Result<Self, Failed> {
        let usage = |why: String| Failed::new(Exit::Usage, format!("'{url}' is no address of a daemon: {why}"));
        let base = Url::parse(url).map_err(|error| usage(format!("{error}; write it like http://127.0.0.1:7070")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(usage("it has to begin with http:// or https://".to_owned()));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("warrend/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // What is shown is for this daemon, not for whoever it may name.
            .redirect(reqwest::redirect::Policy::none());
        // A proxy of the environment cannot reach this machine's own address.
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        if let Some(token) = shown.token {
            http = http.default_headers([(header::AUTHORIZATION, token)].into_iter().collect());
        }
        for certificate in shown.ca {
            http = http.add_root_certificate(certificate);
        }
        if base.scheme() == "http" {
            // Without TLS nothing is to fail on a machine that has no CA certificates.
            http = http.tls_certs_only([]);
        }
        let http =
            http.build().map_err(|error| Failed::new(Exit::Failure, format!("cannot start: {}", chain(&error))))?;
        Ok(Self { base, http })
    }

    /// Where the daemon is, without what somebody may have written there to be let in.
    pub(super) fn base(&self) -> String {
        let mut base = self.base.clone();
        // Of what has no host nothing is to be taken away.
        let _ = base.set_username("").and_then(|()| base.set_password(None));
        base.into()
    }

    /// A client of the daemon that listens at `address` on this machine.
    pub(super) fn listening_at(address: SocketAddr, tls: bool, shown: Shown) -> Result<Self, Failed> {
        let mut address = address;
        if address.ip().is_unspecified() {
            let local = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
            address.set_ip(local);
        }
        Self::new(&format!("{}://{address}", if tls { "https" } else { "http" }), shown)
    }

    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failed> {
        let response = self.send(self.http.get(self.url(path, query)?)).await?;
        self.json(response).await
    }

    /// What lies at `path`, as it is.
    pub(super) async fn get_bytes(&self, path: &[&str]) -> Result<Vec<u8>, Failed> {
        let response = self.send(self.http.get(self.url(path, &[])?)).await?;
        Ok(response.bytes().await.map_err(|error| self.unreachable(&error))?.to_vec())
    }

    pub(super) async fn post(&self, path: &[&str], json: String) -> Result<(StatusCode, Value), Failed> {
        let request = self.http.post(self.url(path, &[])?).header(header::CONTENT_TYPE, "application/json").body(json);
        let response = self.send(request).await?;
        Ok((response.status(), self.json(response).await?))
    }

    pub(super) async fn patch(&self, path: &[&str], json: String) -> Result<(StatusCode, Value), Failed> {
        let request = self.http.patch(self.url(path, &[])?).header(header::CONTENT_TYPE, "application/json").body(json);
        let response = self.send(request).await?;
        Ok((response.status(), self.json(response).await?))
    }

    /// Sends rows as NDJSON. Answers also what is no success, where it says what became of single rows.
    pub(super) async fn upload(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        key: Option<&str>,
        rows: String,
    ) -> Result<(StatusCode, Value), Failed> {
        let mut request = self.http.post(self.url(path, query)?).header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.body(rows).send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok((status, self.json(response).await?));
        }
        let body = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Value>(&body) {
            Ok(problem) if problem["results"].is_array() => Ok((status, problem)),
            _ => Err(Failed::new(Exit::Failure, refusal(status, &body))),
        }
    }

    /// One page of an export: its bytes as they come, and the cursor of the next one.
    pub(super) async fn page(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        mut take: impl FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<Option<String>, Failed> {
        let mut response = self.send(self.http.get(self.url(path, query)?)).await?;
        let next = response.headers().get("next-cursor").and_then(|next| next.to_str().ok()).map(str::to_owned);
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            take(&piece)?;
        }
        Ok(next)
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Result<Url, Failed> {
        // These two would be taken for steps in the path, however they are encoded.
        if let Some(step) = path.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(Failed::new(Exit::Usage, format!("'{step}' names nothing")));
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        url.set_query(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Takes away what lies at `path`. Answers what is said of it, null where that is nothing.
    pub(super) async fn delete(&self, path: &[&str]) -> Result<Value, Failed> {
        let response = self.send(self.http.delete(self.url(path, &[])?)).await?;
        if response.status() == StatusCode::NO_CONTENT { Ok(Value::Null) } else { self.json(response).await }
    }

    /// A stream of events, behind the last one that was heard.
    pub(super) async fn stream(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        last: Option<&str>,
    ) -> Result<Response, Failed> {
        let mut request = self.http.get(self.url(path, query)?);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.send(request).await
    }

    /// The next bytes of a stream; `None` at its end.
    pub(super) async fn next(&self, response: &mut Response) -> Result<Option<Vec<u8>>, Failed> {
        let bytes = response.chunk().await.map_err(|error| self.unreachable(&error))?;
        Ok(bytes.map(|bytes| bytes.to_vec()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failed> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        let mut text = refusal(status, &body);
        if status == StatusCode::UNAUTHORIZED {
            text.push_str("\n  show one with the variable WARREND_TOKEN or with --token-file FILE");
        }
        Err(Failed::new(Exit::Failure, text))
    }

    async fn json(&self, response: Response) -> Result<Value, Failed> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|_| {
            Failed::new(Exit::Failure, format!("what {} answers is no JSON; is a warrend daemon there?", self.base))
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failed {
        let reason = chain(error);
        Failed::new(
            Exit::Unreachable,
            format!(
                "the daemon at {} cannot be reached: {reason}\n  is it running (warrend serve), and is --url right?",
                self.base
            ),
        )
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The innermost cause says most ("connection refused"); what is around it repeats the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A problem as a person reads it: title, detail, and every single fault on a line of its own.
fn refusal(status: StatusCode, body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let Some(title) = problem["title"].as_str() else {
        return format!("the daemon answered {status}, without a problem that can be read");
    };
    let detail = problem["detail"].as_str().unwrap_or_default();
    let faults: Vec<&str> =
        problem["errors"].as_array().into_iter().flatten().filter_map(|fault| fault["detail"].as_str()).collect();
    let mut text = format!("{title} ({})", status.as_u16());
    if !detail.is_empty() {
        text.extend(["\n  ", &one_line(detail)]);
    }
    for fault in faults.iter().filter(|fault| **fault != detail) {
        text.extend(["\n  - ", &one_line(fault)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode as Code;
    use axum::routing::get;

    use super::*;

    fn client(url: &str) -> Result<Client, Failed> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(url, Shown::default())
    }

    #[test]
    fn addresses_of_daemons_are_checked() {
        for url in ["", "localhost:7070", "ftp://x", "mailto:x"] {
            assert_eq!(client(url).err().map(|failed| failed.exit), Some(Exit::Usage), "{url}");
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (listen, base) in [("0.0.0.0:80", "http://127.0.0.1/"), ("[::]:7070", "http://[::1]:7070/")] {
            assert_eq!(
                Client::listening_at(listen.parse().unwrap(), false, Shown::default())
                    .ok()
                    .map(|c| c.base.to_string())
                    .as_deref(),
                Some(base)
            );
        }
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        let client = client("http://host/base/?x=1").ok().unwrap();
        let url = client.url(&["queues", "a/b?c"], &[("label", "a=b&c".to_owned())]).ok().unwrap();
        assert_eq!(url.as_str(), "http://host/base/api/v1/queues/a%2Fb%3Fc?label=a%3Db%26c");
        for segment in ["", ".", ".."] {
            assert!(client.url(&["items", segment], &[]).is_err());
        }
    }

    #[test]
    fn problems_read_well() {
        let body = r#"{"title": "The item is refused", "detail": "no\u001b", "errors": [{"detail": "one"}, {"detail": "two"}]}"#;
        assert_eq!(
            refusal(StatusCode::UNPROCESSABLE_ENTITY, body),
            "The item is refused (422)\n  no \n  - one\n  - two"
        );
        let single = r#"{"title": "T", "detail": "same", "errors": [{"detail": "same"}]}"#;
        assert_eq!(refusal(StatusCode::BAD_REQUEST, single), "T (400)\n  same");
        assert!(refusal(StatusCode::BAD_GATEWAY, "<html>").contains("502"));
    }

    #[tokio::test]
    async fn answers_refusals_and_silence_are_told_apart() {
        let router = Router::new()
            .route("/api/v1/ok", get(|| async { "{\"a\":1}" }))
            .route("/api/v1/odd", get(|| async { "<html>" }))
            .route("/api/v1/no", get(|| async { (Code::CONFLICT, "{\"title\":\"No\"}") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let client = client(&format!("http://{address}")).ok().unwrap();

        assert_eq!(client.get(&["ok"], &[]).await.ok().unwrap()["a"], 1);
        assert_eq!(client.get_bytes(&["odd"]).await.ok().unwrap(), b"<html>");
        for (path, exit) in [("odd", Exit::Failure), ("no", Exit::Failure), ("nothing", Exit::Failure)] {
            assert_eq!(client.get(&[path], &[]).await.err().unwrap().exit, exit, "{path}");
        }
        server.abort();
        let _ = server.await;
        assert_eq!(client.get(&["ok"], &[]).await.err().unwrap().exit, Exit::Unreachable);
    }
}
