//! A TCP relay that stands between a client and the broker, and does to their connections what networks do.
//!
//! Bytes are never lost, doubled or reordered while a connection lives; a connection that ends, ends as told.

#![allow(dead_code)]

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// Bytes taken from one side before the other has them.
const CHUNK: usize = 16 * 1024;

pub struct Relay {
    address: String,
    shared: Arc<Shared>,
    door: JoinHandle<()>,
}

struct Shared {
    /// `host:port` of the broker.
    target: String,
    refusing: AtomicBool,
    stalled: watch::Sender<bool>,
    /// The newest order to all connections that were there when it was given.
    order: watch::Sender<Order>,
    over: watch::Sender<bool>,
    carried: AtomicUsize,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    GoOn,
    /// Both sides are reset.
    Cut,
    /// The client's side is reset; the broker's stays open and silent.
    LoseClient,
    /// The broker's side is reset; the client's stays open and silent.
    LoseBroker,
}

impl Relay {
    /// Listens on a port of its own and leads to the broker of this URL.
    pub async fn to(amqp_url: &str) -> Self {
        let url = Url::parse(amqp_url).expect("an AMQP URL");
        let target = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let shared = Arc::new(Shared {
            target,
            refusing: AtomicBool::new(false),
            stalled: watch::channel(false).0,
            order: watch::channel(Order::GoOn).0,
            over: watch::channel(false).0,
            carried: AtomicUsize::new(0),
        });
        let door = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, door }
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Resets all present connections.
    pub fn cut(&self) {
        self.shared.order.send_replace(Order::Cut);
    }

    /// Lets nobody in (a connection is reset as soon as it is made), or everybody again. Present ones go on.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Carries no byte in either direction, on present and new connections, or goes on with them.
    pub fn stall(&self, stall: bool) {
        self.shared.stalled.send_replace(stall);
    }

    /// Resets the client's side of all present connections. To the broker they stay open and silent, so that it
    /// believes the client alive until its heartbeat tells.
    pub fn half_open(&self) {
        self.shared.order.send_replace(Order::LoseClient);
    }

    /// The other way round: the broker sees its side reset, the client hears nothing any more.
    pub fn half_open_for_the_client(&self) {
        self.shared.order.send_replace(Order::LoseBroker);
    }

    /// Connections that carry bytes, or would if they were not stalled.
    pub fn carried(&self) -> usize {
        self.shared.carried.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.door.abort();
        self.shared.over.send_replace(true);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refusing.load(Ordering::SeqCst) {
            reset(&client);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut over = shared.over.subscribe();
            tokio::select! {
                () = serve(client, &shared) => {}
                _ = over.wait_for(|over| *over) => {}
            }
        });
    }
}

/// With this the drop of a stream is a reset, not a goodbye.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn serve(mut client: TcpStream, shared: &Shared) {
    let mut orders = shared.order.subscribe();
    let Ok(mut broker) = TcpStream::connect(&shared.target).await else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    shared.carried.fetch_add(1, Ordering::SeqCst);
    let order = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let (up, down) = (carry(from_client, to_broker, shared), carry(from_broker, to_client, shared));
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => if ended.is_ok() { Order::GoOn } else { Order::Cut },
            order = next(&mut orders) => order,
        }
    };
    shared.carried.fetch_sub(1, Ordering::SeqCst);
    match order {
        // Both have said goodbye.
        Order::GoOn => {}
        Order::Cut => {
            reset(&client);
            reset(&broker);
        }
        Order::LoseClient => {
            reset(&client);
            drop(client);
            silence(broker, orders).await;
        }
        Order::LoseBroker => {
            reset(&broker);
            drop(broker);
            silence(client, orders).await;
        }
    }
}

async fn next(orders: &mut watch::Receiver<Order>) -> Order {
    if orders.changed().await.is_err() {
        return pending().await;
    }
    *orders.borrow_and_update()
}

/// Keeps a side open without a byte until it is cut.
async fn silence(side: TcpStream, mut orders: watch::Receiver<Order>) {
    while next(&mut orders).await != Order::Cut {}
    reset(&side);
}

/// Takes bytes here and brings them there. While the relay is stalled it holds what it has in hand.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, shared: &Shared) -> io::Result<()> {
    let mut stalled = shared.stalled.subscribe();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        let _ = stalled.wait_for(|stalled| !stalled).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..read]).await?;
    }
}
