//! A producer that keeps to no rules: AMQP written by hand, for bytes that a client library does not let through.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::broker::Vhost;

/// A message whose texts are bytes.
#[derive(Default)]
pub struct RawMessage<'m> {
    pub exchange: &'m [u8],
    pub key: &'m [u8],
    pub correlation_id: Option<&'m [u8]>,
    pub message_id: Option<&'m [u8]>,
    pub kind: Option<&'m [u8]>,
    /// Names and texts.
    pub headers: &'m [(&'m [u8], &'m [u8])],
    pub body: &'m [u8],
}

/// Publishes one message with confirm, on a connection of its own.
pub async fn publish(vhost: &Vhost, message: &RawMessage<'_>) {
    let url = Url::parse(&vhost.amqp_url).expect("a URL");
    let address = (url.host_str().expect("a host").to_owned(), url.port().expect("a port"));
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"AMQP\0\0\x09\x01").await.expect("written");
    await_method(&mut stream, (10, 10)).await;
    let login = [b"\0", url.username().as_bytes(), b"\0", url.password().unwrap_or_default().as_bytes()].concat();
    let start_ok = [&[0, 10, 0, 11, 0, 0, 0, 0][..], &short(b"PLAIN"), &long(&login), &short(b"en_US")].concat();
    write_frame(&mut stream, 1, 0, &start_ok).await;
    await_method(&mut stream, (10, 30)).await;
    write_frame(&mut stream, 1, 0, &[0, 10, 0, 31, 0, 1, 0, 2, 0, 0, 0, 0]).await;
    write_frame(&mut stream, 1, 0, &[&[0, 10, 0, 40][..], &short(vhost.name.as_bytes()), &[0, 0]].concat()).await;
    await_method(&mut stream, (10, 41)).await;
    write_frame(&mut stream, 1, 1, &[0, 20, 0, 10, 0]).await;
    await_method(&mut stream, (20, 11)).await;
    write_frame(&mut stream, 1, 1, &[0, 85, 0, 10, 0]).await;
    await_method(&mut stream, (85, 11)).await;

    let publish = [&[0, 60, 0, 40, 0, 0][..], &short(message.exchange), &short(message.key), &[0]].concat();
    write_frame(&mut stream, 1, 1, &publish).await;
    write_frame(&mut stream, 2, 1, &content_header(message)).await;
    if !message.body.is_empty() {
        write_frame(&mut stream, 3, 1, message.body).await;
    }
    await_method(&mut stream, (60, 80)).await;
}

fn content_header(message: &RawMessage<'_>) -> Vec<u8> {
    // In the order of the flags' bits; delivery-mode is always 2.
    let mut flags: u16 = 1 << 13 | 1 << 12;
    let table: Vec<u8> =
        message.headers.iter().flat_map(|(name, text)| [short(name), b"S".to_vec(), long(text)].concat()).collect();
    let mut properties = [long(&table), vec![2]].concat();
    for (bit, text) in [(10, message.correlation_id), (7, message.message_id), (5, message.kind)] {
        if let Some(text) = text {
            flags |= 1 << bit;
            properties.extend(short(text));
        }
    }
    let size = u64::try_from(message.body.len()).expect("a size");
    [&[0, 60, 0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes(), &properties].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("at most 255 bytes")][..], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a size").to_be_bytes()[..], text].concat()
}

async fn write_frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let size = u32::try_from(payload.len()).expect("a size");
    let frame = [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[0xce]].concat();
    stream.write_all(&frame).await.expect("written");
}

/// Reads frames until this method comes; a close is a failure.
async fn await_method(stream: &mut TcpStream, method: (u16, u16)) {
    loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.expect("a frame");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(size).expect("a size") + 1];
        stream.read_exact(&mut payload).await.expect("a frame's payload");
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        if head[0] != 1 {
            continue;
        }
        let got = (number(0), number(2));
        assert!(!matches!(got, (10, 50) | (20, 40)), "closed: {}", String::from_utf8_lossy(&payload));
        if got == method {
            return;
        }
    }
}
