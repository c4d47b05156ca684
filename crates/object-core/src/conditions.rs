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

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> ETag {
        ETag(text.into())
    }

    fn one_of(text: &str) -> Option<ETagMatch> {
        Some(ETagMatch::OneOf(vec![tag("other"), tag(text)]))
    }

    fn read(conditions: Conditions) -> Result<(), Failed> {
        check_read(
            &conditions,
            Current {
                etag: &tag("a"),
                modified_ms: 5_700,
                size: 3,
            },
        )
    }

    fn write(conditions: Conditions) -> Result<(), Failed> {
        check_write(
            &conditions,
            Some(Current {
                etag: &tag("a"),
                modified_ms: 5_700,
                size: 3,
            }),
        )
    }

    #[test]
    fn reads_follow_the_order_of_the_rfc() {
        let none = Conditions::default;
        assert_eq!(read(none()), Ok(()));
        assert_eq!(
            read(Conditions {
                if_match: one_of("a"),
                ..none()
            }),
            Ok(())
        );
        assert_eq!(
            read(Conditions {
                if_match: one_of("b"),
                ..none()
            }),
            Err(Failed::Precondition("If-Match"))
        );
        assert_eq!(
            read(Conditions {
                if_match: Some(ETagMatch::Any),
                ..none()
            }),
            Ok(())
        );
        assert_eq!(
            read(Conditions {
                if_none_match: one_of("a"),
                ..none()
            }),
            Err(Failed::NotModified)
        );
        assert_eq!(
            read(Conditions {
                if_none_match: Some(ETagMatch::Any),
                ..none()
            }),
            Err(Failed::NotModified)
        );
        assert_eq!(
            read(Conditions {
                if_none_match: one_of("b"),
                ..none()
            }),
            Ok(())
        );
        let unmodified = |since| Conditions {
            if_unmodified_since_ms: Some(since),
            ..none()
        };
        assert_eq!(
            read(unmodified(4_000)),
            Err(Failed::Precondition("If-Unmodified-Since"))
        );
        assert_eq!(read(unmodified(5_000)), Ok(()));
        let modified = |since| Conditions {
            if_modified_since_ms: Some(since),
            ..none()
        };
        assert_eq!(read(modified(5_000)), Err(Failed::NotModified));
        assert_eq!(read(modified(4_000)), Ok(()));
    }

    #[test]
    fn tags_outweigh_dates_and_412_outweighs_304() {
        let all = |if_match, if_none_match| Conditions {
            if_match,
            if_none_match,
            if_unmodified_since_ms: Some(0),
            if_modified_since_ms: Some(9_000),
            if_size: None,
        };
        assert_eq!(read(all(one_of("a"), one_of("b"))), Ok(()));
        assert_eq!(
            read(all(one_of("a"), one_of("a"))),
            Err(Failed::NotModified)
        );
        assert_eq!(
            read(all(one_of("b"), one_of("a"))),
            Err(Failed::Precondition("If-Match"))
        );
    }

    #[test]
    fn writes_over_something_fail_with_412() {
        let none = Conditions::default;
        assert_eq!(write(none()), Ok(()));
        assert_eq!(
            write(Conditions {
                if_match: one_of("a"),
                ..none()
            }),
            Ok(())
        );
        assert_eq!(
            write(Conditions {
                if_match: one_of("b"),
                ..none()
            }),
            Err(Failed::Precondition("If-Match"))
        );
        let create_only = Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..none()
        };
        assert_eq!(
            write(create_only),
            Err(Failed::Precondition("If-None-Match"))
        );
        assert_eq!(
            write(Conditions {
                if_size: Some(3),
                ..none()
            }),
            Ok(())
        );
        assert!(
            write(Conditions {
                if_size: Some(4),
                ..none()
            })
            .is_err()
        );
        assert_eq!(
            write(Conditions {
                if_modified_since_ms: Some(9_000),
                ..none()
            }),
            Ok(())
        );
    }

    #[test]
    fn writes_over_nothing_need_what_if_match_names() {
        let none = Conditions::default;
        assert_eq!(
            check_write(
                &Conditions {
                    if_match: one_of("a"),
                    ..none()
                },
                None
            ),
            Err(Failed::NoSuchKey)
        );
        assert_eq!(
            check_write(
                &Conditions {
                    if_match: Some(ETagMatch::Any),
                    ..none()
                },
                None
            ),
            Err(Failed::NoSuchKey)
        );
        assert_eq!(
            check_write(
                &Conditions {
                    if_none_match: Some(ETagMatch::Any),
                    ..none()
                },
                None
            ),
            Ok(())
        );
        assert_eq!(
            check_write(
                &Conditions {
                    if_size: Some(4),
                    ..none()
                },
                None
            ),
            Ok(())
        );
    }
}
