//! Writes the block index to disk now and then, so that a start after a crash reads few headers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_core::api::{ObjectError, Result};

use crate::jobs::{Job, JobProgress};
use crate::volume::BlockStore;

const EVERY: Duration = Duration::from_secs(300);

/// See the module.
pub struct WriteIndex {
    store: Arc<BlockStore>,
}

impl WriteIndex {
    pub(super) fn new(store: Arc<BlockStore>) -> Self {
        WriteIndex { store }
    }
}

#[async_trait]
impl Job for WriteIndex {
    fn name(&self) -> &'static str {
        "block-index"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let written = self.store.checkpoint().await;
        written.map_err(|error| ObjectError::Unavailable(error.to_string()))?;
        progress.done = 1;
        Ok(())
    }
}
