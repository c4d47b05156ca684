//! The one place where refusals of groups, directory and conditions become errors of the store.

use object_core::api::{BodyError, ObjectError, ObjectHead, VersionId};
use object_core::conditions::Failed;
use object_core::meta::{Outcome, Refused};

use crate::placement::DirectoryError;

/// The error of a refused command on the bucket of this name.
pub fn refused(bucket: &str, refused: Refused) -> ObjectError {
    match refused {
        Refused::Fenced => ObjectError::Unavailable(format!(
            "the bucket `{bucket}` is being deleted: look whether it is gone, or try again"
        )),
        Refused::SlotNotEmpty => ObjectError::BucketNotEmpty,
        Refused::Precondition(what) => ObjectError::PreconditionFailed(condition_name(&what)),
        Refused::NoSuchKey => ObjectError::NoSuchKey,
        Refused::NoSuchUpload => ObjectError::NoSuchUpload,
        Refused::InvalidPart => ObjectError::InvalidPart,
        Refused::InvalidPartOrder => ObjectError::InvalidPartOrder,
        Refused::PartTooSmall { part, size } => ObjectError::PartTooSmall { part, size },
        Refused::TooLarge { size } => ObjectError::EntityTooLarge {
            size,
            max: object_core::api::OBJECT_BYTES_MAX,
        },
        Refused::BadDigest => ObjectError::BadDigest("checksum"),
        Refused::InvalidRequest(why) => ObjectError::InvalidRequest(why),
        Refused::SegmentGone => ObjectError::Unavailable(
            "the upload took too long and was given up: send it again".into(),
        ),
        Refused::PageOutOfOrder => {
            ObjectError::Internal("a page of blocks came out of order".into())
        }
        Refused::Overtaken => ObjectError::BucketBusy,
        Refused::OldEpoch { newest } => ObjectError::Unavailable(format!(
            "this node has not heard of epoch {newest}, which says where blocks go now: try again"
        )),
    }
}

/// The error of a read of what a key does not have.
pub fn absent(version: Option<VersionId>) -> ObjectError {
    match version {
        None | Some(VersionId::Null) => ObjectError::NoSuchKey,
        Some(VersionId::Numbered(_)) => ObjectError::NoSuchVersion,
    }
}

/// The error of an outcome that isn't the expected one.
pub fn unexpected(bucket: &str, outcome: Outcome) -> ObjectError {
    match outcome {
        Outcome::Refused(why) => refused(bucket, why),
        _ => ObjectError::Internal("a group's outcome does not fit the command".into()),
    }
}

/// Success, if the command was carried out.
pub fn done(bucket: &str, outcome: Outcome) -> Result<(), ObjectError> {
    match outcome {
        Outcome::Done => Ok(()),
        other => Err(unexpected(bucket, other)),
    }
}

/// The error of a read of an object for which a condition does not hold.
pub fn condition(failed: Failed, head: &ObjectHead) -> ObjectError {
    match failed {
        Failed::NotModified => ObjectError::NotModified {
            etag: head.etag.clone(),
            modified_ms: head.modified_ms,
        },
        Failed::Precondition(what) => ObjectError::PreconditionFailed(what),
        Failed::NoSuchKey => ObjectError::NoSuchKey,
    }
}

/// The error of the directory about the bucket of this name.
pub fn directory(name: &str, error: DirectoryError) -> ObjectError {
    match error {
        DirectoryError::Taken(_) => ObjectError::BucketTaken,
        DirectoryError::TooMany(max) => ObjectError::TooManyBuckets(max),
        DirectoryError::Gone => ObjectError::NoSuchBucket(name.to_owned()),
        DirectoryError::Overtaken => ObjectError::BucketBusy,
        DirectoryError::Unavailable(why) => ObjectError::Unavailable(why),
    }
}

/// The error of a body that broke off.
pub fn body(error: BodyError) -> ObjectError {
    ObjectError::BodyFailed(error.0)
}

fn condition_name(what: &str) -> &'static str {
    const NAMES: [&str; 5] = [
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "x-amz-if-match-size",
    ];
    NAMES
        .into_iter()
        .find(|name| *name == what)
        .unwrap_or("condition")
}
