//! Segments whose writers failed or went away: kept until a background job has their group give them up.
//!
//! The list is bounded; what does not fit stays pending in its group until the bound for pending segments.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ids::{GroupId, SegmentId};
use tokio::sync::Notify;

use crate::metrics::ObjectMetrics;

const KEPT_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Abandoned {
    segments: Mutex<VecDeque<(GroupId, SegmentId)>>,
    added: Notify,
}

impl Abandoned {
    /// Adds a segment and wakes the job.
    pub fn push(&self, group: GroupId, segment: SegmentId) {
        self.keep(group, segment);
        self.added.notify_one();
    }

    /// Adds a segment for the job's next run.
    pub fn keep(&self, group: GroupId, segment: SegmentId) {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if segments.len() < KEPT_MAX {
            segments.push_back((group, segment));
        }
    }

    /// Takes up to `max` segments out.
    pub fn take(&self, max: usize) -> Vec<(GroupId, SegmentId)> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let count = segments.len().min(max);
        segments.drain(..count).collect()
    }

    /// Waits until something was added.
    pub async fn added(&self) {
        self.added.notified().await;
    }
}

/// Held by a writer while its segment is pending; dropping it abandons the segment.
pub struct Pending {
    abandoned: Arc<Abandoned>,
    metrics: Arc<ObjectMetrics>,
    group: GroupId,
    /// The segment.
    pub segment: SegmentId,
    owned: bool,
}

impl Pending {
    /// For a segment that is about to begin.
    pub fn new(
        abandoned: Arc<Abandoned>,
        metrics: Arc<ObjectMetrics>,
        group: GroupId,
        segment: SegmentId,
    ) -> Self {
        Pending {
            abandoned,
            metrics,
            group,
            segment,
            owned: false,
        }
    }

    /// The segment has an owner now.
    pub fn committed(mut self) {
        self.owned = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.owned {
            self.metrics.segments_given_up_total.add(1);
            self.abandoned.push(self.group, self.segment);
        }
    }
}
