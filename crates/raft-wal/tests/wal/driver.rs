//! Calls with results that a test can wait for or look at.

use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::channel::oneshot;
use ids::GroupId;
use raft_wal::{Done, Wal, WalError, WalOptions};

pub const SMALL: WalOptions = WalOptions {
    segment_bytes: 4096,
    cache_bytes: 1500,
    batch_bytes_max: 2000,
    queue_bytes_max: 1 << 20,
    spare_segments_max: 1,
};

/// The result of a call, once it is there.
pub type Answer = Arc<Mutex<Option<Result<(), WalError>>>>;

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub fn noted() -> (Answer, Done) {
    let answer = Answer::default();
    let noted = answer.clone();
    (
        answer,
        Box::new(move |result| *noted.lock().unwrap() = Some(result)),
    )
}

/// Gives `call` a `done` and waits until it is called.
pub async fn durable<F: Future<Output = ()>>(call: impl FnOnce(Done) -> F) -> Result<(), WalError> {
    let (sender, receiver) = oneshot::channel();
    call(Box::new(move |result| drop(sender.send(result)))).await;
    receiver.await.unwrap()
}

pub async fn append(wal: &Wal, group: u32, first: u64, entries: &[&str]) -> Result<(), WalError> {
    let entries = entries
        .iter()
        .map(|entry| Bytes::copy_from_slice(entry.as_bytes()))
        .collect();
    durable(|done| wal.append(GroupId(group), first, entries, done)).await
}

pub async fn purge(wal: &Wal, group: u32, through: u64) -> Result<(), WalError> {
    durable(|done| wal.purge(GroupId(group), through, Bytes::from_static(b"mark"), done)).await
}

/// Waits until everything that was called before is answered.
pub async fn settle(wal: &Wal) -> Result<(), WalError> {
    durable(|done| wal.append(GroupId(0), 0, Vec::new(), done)).await
}
