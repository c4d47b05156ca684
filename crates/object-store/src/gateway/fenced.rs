//! Requests that meet a fence.
//!
//! A fence says that the bucket is being deleted, or was. This node may know an old bucket of the name, so the registry is
//! asked once, and the request goes to the bucket that has the name now. What the registry said is remembered for as long
//! as the directory here knows the old one.
//!
//! - For a write nothing is decided while a deletion is under way: it may be called off.
//! - A read that meets a fence again found nothing: the name has a bucket, and what is fenced is empty.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ids::BucketId;
use object_core::api::{Caller, ObjectError, Result};
use object_core::meta::{Answer, Command, Content, Outcome, Refused};

use crate::gateway::{Context, Target, refusals, usable};
use crate::placement::{BucketEntry, BucketState, DirectoryError};

/// Buckets that are remembered; past it all are forgotten, and asked for anew.
const SUCCESSORS_MAX: usize = 1000;

/// Buckets that have the names of older ones, which the directory here still knows.
#[derive(Debug, Default)]
pub struct Successors(Mutex<BTreeMap<BucketId, BucketEntry>>);

impl Successors {
    /// The bucket that is known to have followed this one; else this one.
    pub fn newest(&self, known: BucketEntry) -> BucketEntry {
        let successors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        successors.get(&known.id).cloned().unwrap_or(known)
    }

    fn note(&self, old: BucketId, new: BucketEntry) {
        let mut successors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if successors.len() >= SUCCESSORS_MAX {
            successors.clear();
        }
        successors.insert(old, new);
    }
}

/// What fenced slots are to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// A sign that their bucket may be gone.
    MaybeGone,
    /// Empty, and nothing else: their bucket was there meanwhile.
    Empty,
}

impl Closed {
    /// What a group said; nothing, where its slots are fenced and that means that they are empty.
    pub fn judge(self, answer: Result<Answer>) -> Result<Option<Answer>> {
        match answer {
            Err(error) if self == Closed::Empty && is_fence(&error) => Ok(None),
            answer => answer.map(Some),
        }
    }
}

/// The error of a question that met a fence. It has no name, because a group knows none: no door gets to see it.
pub fn fence() -> ObjectError {
    ObjectError::NoSuchBucket(String::new())
}

fn is_fence(error: &ObjectError) -> bool {
    matches!(error, ObjectError::NoSuchBucket(name) if name.is_empty())
}

impl Context {
    /// Does a read of a bucket, and once more if it met a fence: then in the bucket that has the name now.
    pub async fn read_past_fence<T, F>(
        &self,
        caller: &Caller,
        bucket: &str,
        read: impl Fn(Closed) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match read(Closed::MaybeGone).await {
            Err(error) if is_fence(&error) => {}
            result => return result,
        }
        usable(caller, bucket, self.ask_registry(bucket).await)?;
        read(Closed::Empty).await
    }

    /// As [`Context::read_past_fence`], of one key: what a fenced slot has of it is `absent`.
    pub async fn read_key_past_fence<T, F>(
        &self,
        caller: &Caller,
        bucket: &str,
        absent: ObjectError,
        read: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let result = self.read_past_fence(caller, bucket, |_| read()).await;
        result.map_err(|error| if is_fence(&error) { absent } else { error })
    }

    /// The error of a request that can't be done twice, if it met a fence where it read: by then it has written nothing.
    pub async fn met_fence(
        &self,
        caller: &Caller,
        bucket: &str,
        error: ObjectError,
    ) -> ObjectError {
        if !is_fence(&error) {
            return error;
        }
        match usable(caller, bucket, self.ask_registry(bucket).await) {
            Ok(now) if now.state == BucketState::Active => made_anew(),
            Ok(now) => refusals::refused(&now.name, Refused::Fenced),
            Err(error) => error,
        }
    }

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
        let found = self.ask_registry(&fenced.name).await;
        let found = found.map_err(|error| refusals::directory(&fenced.name, error))?;
        let bucket = found.ok_or_else(|| ObjectError::NoSuchBucket(fenced.name.clone()))?;
        match bucket.state {
            BucketState::Deleting(_) => Err(refusals::refused(&fenced.name, Refused::Fenced)),
            // Whoever may use the old bucket may use this one only if its owner is the same; else the door asks anew.
            BucketState::Active if bucket.owner != fenced.owner => Err(made_anew()),
            BucketState::Active => Ok(bucket),
        }
    }

    /// The bucket that has a name now. It is remembered if the directory here knows an older one.
    async fn ask_registry(
        &self,
        name: &str,
    ) -> std::result::Result<Option<BucketEntry>, DirectoryError> {
        // In this order: then the registry's answer is the newer.
        let known = self.directory.get(name).await?;
        let now = self.directory.get_now(name).await?;
        if let (Some(known), Some(now)) = (&known, &now)
            && known.id != now.id
        {
            self.successors.note(known.id, now.clone());
        }
        Ok(now)
    }
}

/// Whether a command is about blocks that were announced for one bucket and can't go to another.
fn has_segment(command: &Command) -> bool {
    match command {
        Command::BeginSegment { .. } | Command::BeginSegmentIn { .. } => true,
        Command::PutObject { content, .. } | Command::PutPart { content, .. } => {
            matches!(content, Content::Segment { .. })
        }
        _ => false,
    }
}

fn made_anew() -> ObjectError {
    ObjectError::Unavailable("the bucket was deleted and made anew: send it again".into())
}

#[cfg(test)]
mod tests {
    use ids::UserId;

    use super::*;

    fn bucket(id: usize) -> BucketEntry {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(id as u64).to_be_bytes());
        BucketEntry {
            id: BucketId(bytes),
            name: "bucket".into(),
            owner: UserId([1; 16]),
            owner_name: "owner".into(),
            created_ms: 1,
            key_slots: 8,
            state: BucketState::Active,
        }
    }

    #[test]
    fn successors_are_known_by_the_older_bucket_and_bounded() {
        let successors = Successors::default();
        assert_eq!(successors.newest(bucket(1)), bucket(1));
        successors.note(bucket(1).id, bucket(2));
        successors.note(bucket(1).id, bucket(3));
        assert_eq!(successors.newest(bucket(1)), bucket(3));
        assert_eq!(successors.newest(bucket(3)), bucket(3));
        for old in 10..10 + 2 * SUCCESSORS_MAX {
            successors.note(bucket(old).id, bucket(2));
        }
        assert!(successors.0.lock().unwrap().len() <= SUCCESSORS_MAX);
    }

    #[test]
    fn only_an_error_without_a_name_is_a_fence() {
        let gone = ObjectError::NoSuchBucket("bucket".into());
        assert!(is_fence(&fence()) && !is_fence(&gone));
        assert_eq!(Closed::Empty.judge(Err(fence())), Ok(None));
        assert_eq!(Closed::MaybeGone.judge(Err(fence())), Err(fence()));
        assert_eq!(Closed::Empty.judge(Err(gone.clone())), Err(gone));
        let answer = Answer::Blocks(Vec::new());
        let judged = Closed::MaybeGone.judge(Ok(answer.clone()));
        assert_eq!(judged, Ok(Some(answer)));
    }
}
