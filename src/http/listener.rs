//! The listener: takes connections, one task each, and gives up those that only hold a place.
//!
//! What a client can hold is bounded in number (`http.max_connections`) and in time: the TLS handshake, the headers, a body
//! that comes (see [`super::slow`]) and an answer that is not taken each have theirs. The time an answer takes to be made has none, so that long polls and streams of events last. An idle
//! connection is closed like one whose headers do not come. When places get scarce, headers get less time.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::slow::{Patient, Timed};
use super::tls::Tls;

/// The longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The longest a request's headers may take, from the end of the answer before.
const HEADERS: Duration = Duration::from_secs(30);

/// The same once more than half of all places are taken.
const HEADERS_IN_A_CROWD: Duration = Duration::from_secs(5);

/// Headers of one request, and bytes of all of them.
const MOST_HEADERS: usize = 100;
const HEADER_BYTES: usize = 64 * 1024;

/// How soon to look again where the machine gives no more connections.
const NO_CONNECTIONS: Duration = Duration::from_millis(500);

/// What a listener holds its clients to.
#[derive(Clone)]
pub struct Rules {
    /// Connections at a time.
    pub max_connections: usize,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// Takes connections until `stop`, then finishes the requests in hand. The caller bounds how long that may take.
pub(super) async fn run(router: Router, listener: TcpListener, rules: Rules, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(rules.max_connections));
    let connections = TaskTracker::new();
    let mut full = false;
    loop {
        if places.available_permits() == 0 && !full {
            tracing::warn!(connections = rules.max_connections, "every place for a connection is taken; others wait");
        }
        full = places.available_permits() == 0;
        let Some(Ok(place)) = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await else { break };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                let _ = stop.run_until_cancelled(tokio::time::sleep(NO_CONNECTIONS)).await;
                continue;
            }
        };
        let crowded = places.available_permits() * 2 < rules.max_connections;
        let headers = if crowded { HEADERS_IN_A_CROWD } else { HEADERS };
        let connection = Connection { router: router.clone(), peer, headers, stop: stop.clone(), _place: place };
        connections.spawn(connection.take(stream, rules.tls.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// It was gone before it was taken.
fn is_of_the_client(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

struct Connection {
    router: Router,
    peer: SocketAddr,
    headers: Duration,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn take(self, stream: TcpStream, tls: Option<Tls>) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream).await };
        let stop = self.stop.clone();
        let shaken = stop.run_until_cancelled(tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream))).await;
        match shaken {
            Some(Ok(Ok(stream))) => self.serve(stream).await,
            Some(Ok(Err(error))) => tracing::debug!(peer = %self.peer, %error, "no TLS handshake"),
            Some(Err(_)) | None => {}
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { router, peer, headers, stop, _place } = self;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Timed::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(headers)
            .max_headers(MOST_HEADERS)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke");
        }
    }
}
