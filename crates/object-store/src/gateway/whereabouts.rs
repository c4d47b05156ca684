//! Where an object is, by the same computation that reads and writes use.

use ids::{BlockId, SegmentId};
use object_core::api::{BlockPlace, Caller, Result, Whereabouts};
use object_core::meta::{Answer, BLOCKS_PER_PAGE, BlockRecord, PieceContent, Query, Stored};

use crate::gateway::{Context, Target, ask};

/// The most blocks that one answer names.
const BLOCKS_MAX: usize = 100_000;

impl Context {
    pub async fn whereabouts(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
    ) -> Result<Whereabouts> {
        let target = self.target(caller, bucket, key).await?;
        let (head, stored) = self.head_of(&target, None).await?;
        let segments: Vec<SegmentId> = match &stored {
            Stored::Inline(_) => Vec::new(),
            Stored::Segments(segments) => segments
                .iter()
                .filter_map(|piece| match piece.content {
                    PieceContent::Blocks(segment) => Some(segment),
                    PieceContent::Inline(_) => None,
                })
                .collect(),
        };
        let mut blocks = Vec::new();
        for segment in &segments {
            self.places_of(&target, *segment, &mut blocks).await?;
        }
        Ok(Whereabouts {
            bucket: target.bucket.id,
            key_slot: target.at.slot,
            group: target.group,
            group_servers: self.placement.current().group_servers(target.group),
            size: head.size,
            inline: matches!(stored, Stored::Inline(_)),
            segments,
            blocks,
        })
    }

    async fn places_of(
        &self,
        target: &Target,
        segment: SegmentId,
        places: &mut Vec<BlockPlace>,
    ) -> Result<()> {
        let mut number = 0;
        while places.len() < BLOCKS_MAX {
            let query = Query::Blocks {
                segment,
                from: number,
                max: BLOCKS_PER_PAGE as u32,
            };
            let Answer::Blocks(records) = self.meta.query(target.group, &query).await? else {
                return ask::misfit();
            };
            if records.is_empty() {
                return Ok(());
            }
            for record in records {
                let block = BlockId {
                    group: target.group,
                    segment,
                    number,
                };
                places.push(self.place_of(block, record));
                number += 1;
            }
        }
        Ok(())
    }

    fn place_of(&self, block: BlockId, record: BlockRecord) -> BlockPlace {
        let servers = self
            .placement
            .at(record.epoch)
            .map(|map| map.block_servers(&block))
            .unwrap_or_default();
        BlockPlace {
            block,
            len: record.len,
            epoch: record.epoch,
            servers,
            missing: record.missing,
        }
    }
}
