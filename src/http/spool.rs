//! Results of many rows, kept until the request is read: a client that does not read while it sends would wait for us, and
//! we for it. Some are kept in memory, more in a file that nobody else can open and that is gone with the answer.

use std::io::SeekFrom;

use axum::body::{Body, Bytes};
use futures::Stream;
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// Bytes kept in memory.
const IN_MEMORY: usize = 256 * 1024;

/// Bytes read back at once.
const PIECE: usize = 64 * 1024;

/// Results, each on a line of its own.
#[derive(Default)]
pub(super) struct Spool {
    /// What is not in the file yet, or all where there is none.
    fresh: Vec<u8>,
    file: Option<File>,
    any: bool,
}

impl Spool {
    /// Adds a result.
    pub(super) async fn add(&mut self, result: &impl Serialize) -> std::io::Result<()> {
        if std::mem::replace(&mut self.any, true) {
            self.fresh.push(b'\n');
        }
        serde_json::to_writer(&mut self.fresh, result)?;
        if self.fresh.len() > IN_MEMORY {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(File::from_std(tempfile::tempfile()?)),
            };
            file.write_all(&self.fresh).await?;
            self.fresh.clear();
        }
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        !self.any
    }

    /// An answer that begins with `head`, has the results with `joint` between them, and ends with `tail`.
    pub(super) async fn into_body(mut self, head: String, joint: &'static str, tail: String) -> std::io::Result<Body> {
        if let Some(file) = &mut self.file {
            file.flush().await?;
            file.seek(SeekFrom::Start(0)).await?;
        }
        Ok(Body::from_stream(self.pieces(head, joint, tail)))
    }

    fn pieces(self, head: String, joint: &'static str, tail: String) -> impl Stream<Item = std::io::Result<Bytes>> {
        let Self { fresh, file, .. } = self;
        let left = (Some(head), file, Some(fresh), Some(tail));
        futures::stream::try_unfold(left, move |(head, mut file, fresh, tail)| async move {
            if let Some(head) = head {
                return Ok(Some((Bytes::from(head), (None, file, fresh, tail))));
            }
            if let Some(open) = &mut file {
                let mut piece = Vec::with_capacity(PIECE);
                if open.take(PIECE as u64).read_to_end(&mut piece).await? > 0 {
                    return Ok(Some((joined(&piece, joint), (None, file, fresh, tail))));
                }
            }
            if let Some(fresh) = fresh {
                return Ok(Some((joined(&fresh, joint), (None, None, None, tail))));
            }
            Ok(tail.map(|tail| (Bytes::from(tail), (None, None, None, None))))
        })
    }
}

/// No line's end stands inside a result, so those that are there stand between two.
fn joined(piece: &[u8], joint: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(piece.len() + 1024);
    for byte in piece {
        if *byte == b'\n' {
            bytes.extend_from_slice(joint.as_bytes());
        } else {
            bytes.push(*byte);
        }
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn results_come_out_as_they_went_in_however_many() {
        for count in [0, 1, 3, 50_000] {
            let mut spool = Spool::default();
            for n in 0..count {
                spool.add(&serde_json::json!({"n": n, "text": "a\nb"})).await.unwrap();
            }
            assert_eq!((spool.is_empty(), spool.file.is_some()), (count == 0, count > 3));
            let body = spool.into_body("[".to_owned(), ",\n", "]".to_owned()).await.unwrap();
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            let read: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read.len(), count);
            assert!(read.iter().enumerate().all(|(n, value)| value["n"] == n && value["text"] == "a\nb"));
        }
    }
}
