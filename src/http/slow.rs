//! Clients that take their time: bodies that hardly come, and answers that are hardly taken.
//!
//! Only time spent waiting for the client counts. A body may come in any pieces, as long as it keeps a pace that any network
//! keeps; whoever reads rows as they are made sends them in requests of their own.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The longest a body is waited for in all, beside what its bytes earn it.
const GRACE: Duration = Duration::from_secs(20);

/// Bytes that earn a body another second of waiting.
const PACE: u64 = 1024;

/// The longest nothing of an answer is taken.
const UNTAKEN: Duration = Duration::from_secs(60);

/// The body did not keep the pace.
#[derive(Debug)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body came too slowly: less than {PACE} bytes per second beyond the first {} s", GRACE.as_secs())
    }
}

impl Error for TooSlow {}

/// Whether that is what stands behind an error.
pub(super) fn is_too_slow(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TooSlow>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A body that has to keep the pace.
pub(super) struct Timed<B> {
    body: B,
    bytes: u64,
    waited: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Timed<B> {
    pub(super) const fn new(body: B) -> Self {
        Self { body, bytes: 0, waited: Duration::ZERO, since: None, timer: None }
    }

    fn earned(&self) -> Duration {
        GRACE + Duration::from_millis(self.bytes.saturating_mul(1000) / PACE)
    }
}

impl<B> Body for Timed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(since) = this.since.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                this.bytes += data.len() as u64;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let earned = this.earned();
        let waited = this.waited;
        let timer = match (this.since, &mut this.timer) {
            (Some(_), Some(timer)) => timer,
            (since, timer) => {
                let since = since.unwrap_or_else(Instant::now);
                this.since = Some(since);
                let end = since + earned.saturating_sub(waited);
                match timer {
                    Some(timer) => {
                        timer.as_mut().reset(end);
                        timer
                    }
                    None => timer.insert(Box::pin(tokio::time::sleep_until(end))),
                }
            }
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(Box::new(TooSlow))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream to a client that has to take what is written.
pub(super) struct Patient<S> {
    stream: S,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, timer: None }
    }

    /// Gives up a write that waits for too long.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(UNTAKEN)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing of the answer was taken for too long")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, closed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Pieces with the time that passes before each.
    struct Drip(VecDeque<(Duration, usize)>, Option<Pin<Box<Sleep>>>);

    impl Body for Drip {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let this = self.get_mut();
            let Some((wait, bytes)) = this.0.front().copied() else { return Poll::Ready(None) };
            let timer = this.1.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            ready!(timer.as_mut().poll(cx));
            this.1 = None;
            this.0.pop_front();
            Poll::Ready(Some(Ok(Frame::data(vec![0; bytes].into()))))
        }
    }

    async fn read(pieces: impl IntoIterator<Item = (u64, usize)>) -> Result<usize, bool> {
        let pieces = pieces.into_iter().map(|(seconds, bytes)| (Duration::from_secs(seconds), bytes)).collect();
        let body = axum::body::Body::new(Timed::new(Drip(pieces, None)));
        let read = axum::body::to_bytes(body, usize::MAX).await;
        read.map(|bytes| bytes.len()).map_err(|error| is_too_slow(&error))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_to_keep_the_pace() {
        assert_eq!(read([(0, 10), (19, 10)]).await, Ok(20));
        assert_eq!(read([(21, 10)]).await, Err(true), "nothing comes");
        assert_eq!(read(std::iter::repeat_n((1, 1), 60)).await, Err(true), "a byte per second");
        assert_eq!(read(std::iter::repeat_n((1, 1100), 600)).await, Ok(660_000), "slow, for long");
        assert_eq!(read([(0, 1_000_000), (300, 1)]).await, Ok(1_000_001), "what came earns a pause");
        assert_eq!(read([(0, 1_000), (300, 1)]).await, Err(true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_to_be_taken() {
        use tokio::io::AsyncWriteExt as _;
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut ours = Patient::new(ours);
        let error = ours.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (ours, mut other) = tokio::io::duplex(10);
        let mut ours = Patient::new(ours);
        let taking = tokio::spawn(async move {
            let mut taken = 0;
            while taken < 100 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                taken += tokio::io::AsyncReadExt::read(&mut other, &mut [0; 10]).await.unwrap();
            }
        });
        ours.write_all(&[0; 100]).await.unwrap();
        taking.await.unwrap();
        let _ = theirs.shutdown().await;
    }
}
