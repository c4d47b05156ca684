//! The crate `raft-wal`, with its default options.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ids::GroupId;
use platform::Platform;
use platform::system::SystemPlatform;
use raft_wal::{Done, Wal, WalError, WalOptions};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::{Appends, Contender, entry};

pub struct Ours;

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "raft-wal"
    }

    fn append(
        &self,
        dir: &Path,
        writers: u32,
        len: usize,
        until: Instant,
    ) -> anyhow::Result<Appends> {
        runtime()?.block_on(async {
            let wal = Arc::new(open(dir).await?);
            let tasks: Vec<_> = (0..writers)
                .map(|group| tokio::spawn(write(wal.clone(), group, len, until)))
                .collect();
            let mut appends = 0;
            for task in tasks {
                appends += task.await??;
            }
            let syncs = wal.stats().syncs;
            wal.close().await?;
            Ok(Appends { appends, syncs })
        })
    }

    fn fill(&self, dir: &Path, groups: u32, records: u64, len: usize) -> anyhow::Result<()> {
        const PER_CALL: u64 = 100;
        runtime()?.block_on(async {
            let wal = open(dir).await?;
            for first in (0..records / u64::from(groups)).step_by(PER_CALL as usize) {
                let until = (first + PER_CALL).min(records / u64::from(groups));
                for group in 0..groups {
                    let entries = (first..until)
                        .map(|index| Bytes::from(entry(index, len)))
                        .collect();
                    wal.append(GroupId(group), first, entries, Box::new(drop))
                        .await;
                }
            }
            Ok(wal.close().await?)
        })
    }

    fn open(&self, dir: &Path) -> anyhow::Result<u64> {
        runtime()?.block_on(async {
            let wal = open(dir).await?;
            let states = wal
                .groups()
                .into_iter()
                .filter_map(|group| wal.group(group));
            Ok(states.map(|state| state.next - state.first).sum())
        })
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

async fn open(dir: &Path) -> anyhow::Result<Wal> {
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(dir)?);
    Ok(Wal::open(platform, "wal", WalOptions::default()).await?)
}

async fn write(wal: Arc<Wal>, group: u32, len: usize, until: Instant) -> Result<u64, WalError> {
    let mut index = 0;
    while Instant::now() < until {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        wal.append(
            GroupId(group),
            index,
            vec![Bytes::from(entry(index, len))],
            done,
        )
        .await;
        receiver.await.unwrap_or(Err(WalError::Closed))?;
        index += 1;
    }
    Ok(index)
}
