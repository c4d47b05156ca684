//! Writes that meet a fence.
//!
//! A fence says that the bucket is being deleted, or was. This node may know an old bucket of the name, so the registry is
//! asked once, and the write goes to the bucket that has the name now. Nothing is decided while a deletion is under way: it
//! may be called off.

use object_core::api::{ObjectError, Result};
use object_core::meta::{Command, Content, Outcome, Refused};

use crate::gateway::{Context, Target, refusals};
use crate::placement::{BucketEntry, BucketState};

impl Context {
    /// Has the key's group carry out a command about the key.
    pub async fn propose_at(&self, target: &Target, mut command: Command) -> Result<Outcome> {
        let outcome = self.meta.propose(target.group, &command).await?;
        if outcome != Outcome::Refused(Refused::Fenced) {
            return Ok(outcome);
        }
        let bucket = self.behind_fence(&target.bucket).await?;
        if bucket.id != target.bucket.id && has_segment(&command) {
            return Err(made_anew());
        }
        let now = self.target_in(&bucket, &target.at.key);
        if let Some(at) = command.key_mut() {
            *at = now.at;
        }
        self.meta.propose(now.group, &command).await
    }

    /// The bucket in use that has the name of a fenced one.
    async fn behind_fence(&self, fenced: &BucketEntry) -> Result<BucketEntry> {
        let found = self.directory.get_now(&fenced.name).await;
        let found = found.map_err(|error| refusals::directory(&fenced.name, error))?;
        let bucket = found.ok_or_else(|| ObjectError::NoSuchBucket(fenced.name.clone()))?;
        match bucket.state {
            BucketState::Deleting(_) => Err(refusals::refused(&fenced.name, Refused::Fenced)),
            // Whoever may use the old bucket may use this one only if its owner is the same; else the door asks anew.
            BucketState::Active if bucket.owner != fenced.owner => Err(made_anew()),
            BucketState::Active => Ok(bucket),
        }
    }
}

/// Whether a command is about blocks that were announced for one bucket and can't go to another.
fn has_segment(command: &Command) -> bool {
    match command {
        Command::BeginSegment { .. } => true,
        Command::PutObject { content, .. } | Command::PutPart { content, .. } => {
            matches!(content, Content::Segment { .. })
        }
        _ => false,
    }
}

fn made_anew() -> ObjectError {
    ObjectError::Unavailable("the bucket was deleted and made anew: send it again".into())
}
