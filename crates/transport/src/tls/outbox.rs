//! The sending side of a control connection: frames of many tasks, written by one.
//!
//! Senders encode into a shared batch; the writer takes the whole batch and writes it at once, so that frames that
//! pile up during one write leave together in the next.
//!
//! Invariants:
//! - at most [`OUTBOX_BYTES_MAX`] bytes wait;
//! - a write that makes no progress for [`STALL_MAX`] ends the connection.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::frame::Frame;
use crate::chunked::STALL_MAX;

/// Bytes that may wait to be written on one connection.
pub(super) const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// A batch that grew beyond this is not kept for the next round.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// The connection is closed: nothing will be sent any more.
#[derive(Debug)]
pub(super) struct Closed;

#[derive(Debug)]
pub(super) struct Outbox {
    batch: Mutex<Vec<u8>>,
    filled: Notify,
    room: Semaphore,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            batch: Mutex::default(),
            filled: Notify::new(),
            room: Semaphore::new(OUTBOX_BYTES_MAX),
        }
    }

    /// Waits for room, then queues the frame.
    pub(super) async fn push(&self, frame: &Frame) -> Result<(), Closed> {
        let room = self
            .room
            .acquire_many(frame.encoded_len() as u32)
            .await
            .map_err(|_| Closed)?;
        room.forget();
        self.append(frame);
        Ok(())
    }

    /// Queues a small frame without waiting; `false` when there is no room for it, and then it isn't sent.
    pub(super) fn try_push(&self, frame: &Frame) -> bool {
        match self.room.try_acquire_many(frame.encoded_len() as u32) {
            Ok(room) => {
                room.forget();
                self.append(frame);
                true
            }
            Err(_) => false,
        }
    }

    /// Lets every sender know that nothing more is sent.
    pub(super) fn close(&self) {
        self.room.close();
    }

    fn append(&self, frame: &Frame) {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = batch.is_empty();
        frame.encode(&mut batch);
        drop(batch);
        if was_empty {
            self.filled.notify_one();
        }
    }

    fn swap(&self, spare: Vec<u8>) -> Vec<u8> {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut batch, spare)
    }

    /// Writes what is queued until an error; the caller drops it to stop.
    pub(super) async fn run(&self, mut io: impl AsyncWrite + Unpin) -> io::Error {
        let mut spare = Vec::new();
        loop {
            let mut batch = self.swap(spare);
            if batch.is_empty() {
                spare = batch;
                self.filled.notified().await;
                continue;
            }
            if let Err(error) = write_with_progress(&mut io, &batch).await {
                return error;
            }
            self.room.add_permits(batch.len());
            batch.clear();
            spare = if batch.capacity() > KEPT_BYTES_MAX {
                Vec::new()
            } else {
                batch
            };
        }
    }
}

async fn write_with_progress(
    io: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(STALL_MAX, io.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    timeout(STALL_MAX, io.flush()).await?
}
