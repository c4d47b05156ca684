//! Removing blocks: marked dead on disk first, then out of the index, then out of their files' space.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ids::{BlockId, GroupId, SegmentId};

use super::file::{Ticket, Volume};
use super::index::Place;
use super::{BlockError, BlockStore, DIR, io_error};

/// What a delete does about volumes that take no more writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnFence {
    Fail,
    Skip,
}

impl BlockStore {
    /// Removes blocks; returns how many of them were there. Durable when it returns.
    pub async fn delete(&self, ids: &[BlockId]) -> Result<usize, BlockError> {
        self.delete_by_volume(ids, OnFence::Fail).await
    }

    /// As [`BlockStore::delete`], but leaves alone what lies in fenced volumes: nothing can be made durable there before
    /// the next start of this node.
    pub async fn delete_unfenced(&self, ids: &[BlockId]) -> Result<usize, BlockError> {
        self.delete_by_volume(ids, OnFence::Skip).await
    }

    async fn delete_by_volume(
        &self,
        ids: &[BlockId],
        on_fence: OnFence,
    ) -> Result<usize, BlockError> {
        let mut by_volume: BTreeMap<u32, Vec<(BlockId, Place)>> = BTreeMap::new();
        for id in ids {
            if let Some(place) = self.place(id) {
                by_volume
                    .entry(place.volume)
                    .or_default()
                    .push((*id, place));
            }
        }
        let mut count = 0;
        for (number, dead) in by_volume {
            let Some(volume) = self.volume(number) else {
                continue;
            };
            let skip = on_fence == OnFence::Skip;
            if skip && volume.fence_reason().is_some() {
                continue;
            }
            match self.delete_in(&volume, dead).await {
                Ok(gone) => count += gone,
                Err(BlockError::Fenced { .. }) if skip => {}
                Err(error) => return Err(error),
            }
        }
        self.remove_spent().await?;
        Ok(count)
    }

    /// Removes all blocks of segments, as [`BlockStore::delete_unfenced`].
    pub async fn delete_segments(
        &self,
        group: GroupId,
        segments: &[SegmentId],
    ) -> Result<usize, BlockError> {
        let blocks: Vec<BlockId> = {
            let index = self.index();
            segments
                .iter()
                .flat_map(|segment| index.of_segment(group, *segment))
                .collect()
        };
        self.delete_unfenced(&blocks).await
    }

    async fn delete_in(
        &self,
        volume: &Arc<Volume>,
        dead: Vec<(BlockId, Place)>,
    ) -> Result<usize, BlockError> {
        let _gate = self.deletes.read().await;
        let checkpoint = self.checkpoint.load(Ordering::Relaxed);
        let (writer, marks) = (volume.clone(), dead.clone());
        let marked = self
            .platform
            .blocking(move || mark_dead(&writer, checkpoint, &marks))
            .await?;
        if let Some(ticket) = marked {
            volume.sync_up_to(&self.platform, ticket).await?;
        }
        let mut gone = Vec::new();
        {
            let mut index = self.index_mut();
            for (id, place) in dead {
                if index.remove(&id, place) {
                    volume.drop_live(place.len);
                    gone.push(place);
                }
            }
        }
        self.changes.fetch_add(gone.len() as u64, Ordering::Relaxed);
        let (writer, count) = (volume.clone(), gone.len());
        let punch = move || {
            gone.iter()
                .for_each(|place| writer.punch(place.offset(), place.len))
        };
        self.platform.blocking(punch).await;
        Ok(count)
    }

    pub(super) async fn remove_spent(&self) -> Result<(), BlockError> {
        let spent: Vec<u32> = {
            let mut volumes = self.volumes_mut();
            let spent: Vec<u32> = volumes
                .iter()
                .filter(|(_, v)| v.is_spent())
                .map(|(number, _)| *number)
                .collect();
            spent.iter().for_each(|number| drop(volumes.remove(number)));
            spent
        };
        if spent.is_empty() {
            return Ok(());
        }
        let disk = self.platform.disk();
        let remove = move || {
            for number in spent {
                disk.remove(&Volume::path(number))?;
            }
            disk.sync_dir(DIR)
        };
        self.platform
            .blocking(remove)
            .await
            .map_err(io_error("remove a volume"))
    }
}

fn mark_dead(
    volume: &Volume,
    checkpoint: u64,
    dead: &[(BlockId, Place)],
) -> Result<Option<Ticket>, BlockError> {
    volume
        .touch(checkpoint)
        .map_err(io_error("mark a volume as touched"))?;
    let mut last = None;
    for (_, place) in dead {
        last = Some(
            volume
                .mark_dead(place.offset())
                .map_err(io_error("mark a block dead"))?,
        );
    }
    Ok(last)
}
