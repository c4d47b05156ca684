//! The one task that writes: batch after batch, each with one write and one sync.
//!
//! While a sync runs, the next batch gathers in the queue. Encoding happens where the write does, off the async threads.
//! The first failure fences: what is queued is answered with it, and so is every later call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::{File, Platform};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::core::{Core, Queued, Segment};
use crate::record::{self, Kind, Record};
use crate::segment::{self, Spare};
use crate::{WalError, WalOptions};

/// What the callers and the writer hold together.
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// There is something in the queue, or the log is closing.
    pub work: Notify,
    /// The queue's bound, in bytes.
    pub space: Semaphore,
    /// Whether the writer has ended.
    stopped: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(core: Core, queue_bytes_max: usize) -> Self {
        Shared {
            core: Mutex::new(core),
            work: Notify::new(),
            space: Semaphore::new(queue_bytes_max),
            stopped: watch::Sender::new(false),
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the writer has ended.
    pub(crate) async fn until_ended(&self) {
        // The sender is in `self`: it can't be gone.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Ends the log: answers everything that waits with the failure.
    pub(crate) fn fence(&self, error: &WalError, unsettled: Vec<Queued>) {
        let fenced = error.fenced();
        let queued = self.core().end(fenced.clone());
        self.space.close();
        for one in unsettled.into_iter().chain(queued) {
            (one.done)(Err(fenced.clone()));
        }
    }
}

/// The segment that is written to.
pub(crate) struct Active {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub salt: u64,
    pub head_len: u64,
    /// Where the next record goes; everything before is synced.
    pub end: u64,
}

pub(crate) struct Writer {
    pub shared: Arc<Shared>,
    pub platform: Arc<dyn Platform>,
    pub dir: Arc<str>,
    pub options: WalOptions,
    pub active: Active,
    pub spares: Vec<Spare>,
    pub buffer: Vec<u8>,
}

/// Says that the writer has ended, and fences when it didn't get to its own end: a panic must not leave callers waiting.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let already = self.0.core().ended.is_some();
        if !already {
            let error = WalError::Fenced {
                cause: "its writer was stopped".into(),
            };
            self.0.fence(&error, Vec::new());
        }
        self.0.stopped.send_replace(true);
    }
}

impl Writer {
    /// Runs until the log is closed or fenced.
    pub(crate) async fn run(mut self) {
        let _farewell = Farewell(self.shared.clone());
        let end = match self.write_all().await {
            Ok(()) => WalError::Closed,
            Err(error) => {
                tracing::error!(%error, "the write-ahead log is fenced");
                error
            }
        };
        self.shared.fence(&end, Vec::new());
    }

    async fn write_all(&mut self) -> Result<(), WalError> {
        self.collect().await?;
        while let Some((batch, bytes)) = self.next_batch().await {
            self.write_batch(batch, bytes).await?;
            self.collect().await?;
        }
        self.seal().await
    }

    async fn next_batch(&self) -> Option<(Vec<Queued>, usize)> {
        loop {
            {
                let mut core = self.shared.core();
                let (batch, bytes) = core.take_batch(self.options.batch_bytes_max);
                if !batch.is_empty() {
                    return Some((batch, bytes));
                }
                if core.closing || core.ended.is_some() {
                    return None;
                }
            }
            self.shared.work.notified().await;
        }
    }

    async fn write_batch(&mut self, batch: Vec<Queued>, bytes: usize) -> Result<(), WalError> {
        let batch = match self.make_durable(batch, bytes).await {
            Ok(batch) => batch,
            Err((batch, error)) => {
                self.shared.fence(&error, batch);
                return Err(error);
            }
        };
        let permits: usize = batch.iter().map(|queued| queued.permits as usize).sum();
        for queued in batch {
            (queued.done)(Ok(()));
        }
        self.shared.space.add_permits(permits);
        Ok(())
    }

    /// Writes and syncs a batch and takes it into the index.
    async fn make_durable(
        &mut self,
        batch: Vec<Queued>,
        bytes: usize,
    ) -> Result<Vec<Queued>, (Vec<Queued>, WalError)> {
        let full = self.active.end + bytes as u64 > self.options.segment_bytes;
        if full
            && self.active.end > self.active.head_len
            && let Err(error) = self.roll().await
        {
            return Err((batch, error));
        }
        let (batch, written) = self.write(batch).await;
        if let Err(error) = written {
            return Err((batch, error));
        }
        let offset = self.active.end;
        self.active.end += bytes as u64;
        let settled = self
            .shared
            .core()
            .settle(&batch, self.active.number, offset);
        match settled {
            Ok(()) => Ok(batch),
            Err(what) => Err((batch, WalError::Fenced { cause: what.into() })),
        }
    }

    /// One buffer, one write, one sync.
    async fn write(&mut self, batch: Vec<Queued>) -> (Vec<Queued>, Result<(), WalError>) {
        let (file, salt, at) = (self.active.file.clone(), self.active.salt, self.active.end);
        let mut buffer = std::mem::take(&mut self.buffer);
        let (batch, mut buffer, result) = self
            .platform
            .blocking(move || {
                encode(&mut buffer, &batch, salt, at);
                let result = match buffer.is_empty() {
                    true => Ok(None),
                    false => write_and_sync(&*file, at, &buffer).map(Some),
                };
                (batch, buffer, result)
            })
            .await;
        buffer.clear();
        buffer.shrink_to(self.options.batch_bytes_max);
        self.buffer = buffer;
        let result = result.map(|sync_micros| {
            let mut core = self.shared.core();
            core.stats.batches += 1;
            core.stats.syncs += u64::from(sync_micros.is_some());
            core.stats.sync_micros_total += sync_micros.unwrap_or(0);
        });
        (batch, result)
    }

    /// Starts a new segment whose head carries every group's small state.
    async fn roll(&mut self) -> Result<(), WalError> {
        let number = self.active.number + 1;
        let states = self.shared.core().index.states();
        let mut salt = [0; 8];
        self.platform.fill_random(&mut salt);
        let salt = u64::from_le_bytes(salt);
        let head = segment::encode_head(number, salt, self.active.end, &states);
        let head_len = head.len() as u64;
        let (disk, dir) = (self.platform.disk(), self.dir.clone());
        let spare = self.spares.pop();
        let file = self
            .platform
            .blocking(move || segment::create(&*disk, &dir, number, &head, spare))
            .await?;
        let path = segment::path(&self.dir, number).into();
        let segment = Segment {
            file: file.clone(),
            path,
            salt,
            len: head_len,
        };
        self.shared.core().segments.insert(number, segment);
        self.active = Active {
            number,
            file,
            salt,
            head_len,
            end: head_len,
        };
        Ok(())
    }

    /// Takes the oldest segments that nothing needs out of the log.
    async fn collect(&mut self) -> Result<(), WalError> {
        loop {
            let dead = self.shared.core().take_dead_segment(self.active.number);
            let Some((number, Segment { file, len, .. })) = dead else {
                return Ok(());
            };
            let (disk, dir) = (self.platform.disk(), self.dir.clone());
            // A reader that still holds the file must go on finding the old bytes.
            let reusable = Arc::strong_count(&file) == 1
                && self.spares.len() < self.options.spare_segments_max
                && len <= self.options.segment_bytes.saturating_mul(2);
            if reusable {
                let spare = self
                    .platform
                    .blocking(move || segment::retire(&*disk, &dir, number, file))
                    .await?;
                self.spares.push(spare);
            } else {
                self.platform
                    .blocking(move || segment::remove(&*disk, &dir, number))
                    .await?;
            }
        }
    }

    /// Says at the end of a clean run that everything before was synced.
    async fn seal(&mut self) -> Result<(), WalError> {
        if self.shared.core().ended.is_some() {
            return Ok(());
        }
        let (file, salt, at) = (self.active.file.clone(), self.active.salt, self.active.end);
        let written = self.platform.blocking(move || {
            let mut buffer = Vec::new();
            let seal = Record {
                kind: Kind::Seal,
                group: ids::GroupId(0),
                index: 0,
                payload: &[],
            };
            record::encode(&mut buffer, salt, at as u32, at as u32, &seal);
            write_and_sync(&*file, at, &buffer)
        });
        written.await.map(|_| ())
    }
}

fn encode(buffer: &mut Vec<u8>, batch: &[Queued], salt: u64, at: u64) {
    for queued in batch {
        queued.change.for_each(|record| {
            let offset = at as u32 + buffer.len() as u32;
            record::encode(buffer, salt, offset, at as u32, &record);
        });
    }
}

/// Returns how long the sync took, in microseconds.
fn write_and_sync(file: &dyn File, at: u64, bytes: &[u8]) -> Result<u64, WalError> {
    file.write_at(at, bytes)
        .map_err(WalError::io("write to its segment"))?;
    let started = Instant::now();
    file.sync().map_err(WalError::io("sync its segment"))?;
    Ok(started.elapsed().as_micros() as u64)
}
