//! Judging a request's conditions on the current object. Entity tags are compared as stored, without quotes.

use crate::api::{Conditions, ETag, ETagMatch};

/// What conditions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current<'a> {
    /// The entity tag.
    pub etag: &'a ETag,
    /// When it was written.
    pub modified_ms: u64,
    /// Its bytes.
    pub size: u64,
}

/// How a condition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// This condition does not hold; nothing is done.
    Precondition(&'static str),
    /// Only for reads: the caller has the current version.
    NotModified,
    /// Only for writes: a condition needs an object, and there is none.
    NoSuchKey,
}

/// Judges a read of an object that is there, in the order of RFC 9110, 13.2.2: If-Match, or else If-Unmodified-Since;
/// then If-None-Match, or else If-Modified-Since.
pub fn check_read(conditions: &Conditions, current: Current<'_>) -> Result<(), Failed> {
    match (&conditions.if_match, conditions.if_unmodified_since_ms) {
        (Some(wanted), _) if !matches(wanted, current.etag) => {
            return Err(Failed::Precondition("If-Match"));
        }
        (None, Some(since)) if seconds(current.modified_ms) > seconds(since) => {
            return Err(Failed::Precondition("If-Unmodified-Since"));
        }
        _ => {}
    }
    match (&conditions.if_none_match, conditions.if_modified_since_ms) {
        (Some(unwanted), _) if matches(unwanted, current.etag) => Err(Failed::NotModified),
        (None, Some(since)) if seconds(current.modified_ms) <= seconds(since) => {
            Err(Failed::NotModified)
        }
        _ => Ok(()),
    }
}

/// Judges a write over `current`, or where nothing is. If-Modified-Since means nothing for writes.
pub fn check_write(conditions: &Conditions, current: Option<Current<'_>>) -> Result<(), Failed> {
    let Some(current) = current else {
        return if conditions.if_match.is_some() {
            Err(Failed::NoSuchKey)
        } else {
            Ok(())
        };
    };
    match (&conditions.if_match, conditions.if_unmodified_since_ms) {
        (Some(wanted), _) if !matches(wanted, current.etag) => {
            return Err(Failed::Precondition("If-Match"));
        }
        (None, Some(since)) if seconds(current.modified_ms) > seconds(since) => {
            return Err(Failed::Precondition("If-Unmodified-Since"));
        }
        _ => {}
    }
    if conditions
        .if_none_match
        .as_ref()
        .is_some_and(|unwanted| matches(unwanted, current.etag))
    {
        return Err(Failed::Precondition("If-None-Match"));
    }
    if conditions.if_size.is_some_and(|size| size != current.size) {
        return Err(Failed::Precondition("x-amz-if-match-size"));
    }
    Ok(())
}

/// Whether an entity tag is one of those that are named.
pub fn matches(named: &ETagMatch, etag: &ETag) -> bool {
    match named {
        ETagMatch::Any => true,
        ETagMatch::OneOf(tags) => tags.contains(etag),
    }
}

/// HTTP dates have whole seconds: an object is not newer than the Last-Modified that was told of it.
fn seconds(ms: u64) -> u64 {
    ms / 1000
}
