//! The one table from the store's refusals to S3's codes and statuses.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use object_core::api::{ETag, ObjectError};
use s3s::dto::TimestampFormat;
use s3s::{S3Error, S3ErrorCode};

use crate::headers::timestamp;

/// A code that s3s doesn't list.
pub(crate) fn custom(
    code: &'static str,
    status: StatusCode,
    message: impl Into<String>,
) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message.into());
    error.set_status_code(status);
    error
}

/// S3's answer to a refusal. What a client must not read of it becomes the reason in the request's span.
pub(crate) fn to_s3(error: ObjectError) -> S3Error {
    use S3ErrorCode as C;
    let message = error.to_string();
    let code = match error {
        ObjectError::NoSuchBucket(_) => C::NoSuchBucket,
        ObjectError::BucketTaken => C::BucketAlreadyExists,
        ObjectError::BucketYours => C::BucketAlreadyOwnedByYou,
        ObjectError::BucketNotEmpty => C::BucketNotEmpty,
        ObjectError::BucketBusy => C::OperationAborted,
        ObjectError::BadBucketName { .. } => C::InvalidBucketName,
        ObjectError::TooManyBuckets(_) => C::TooManyBuckets,
        ObjectError::NoSuchKey => C::NoSuchKey,
        ObjectError::NoSuchVersion => C::NoSuchVersion,
        ObjectError::KeyTooLong(_) => C::KeyTooLongError,
        ObjectError::MetadataTooLarge(_) => C::MetadataTooLarge,
        ObjectError::NoSuchUpload => C::NoSuchUpload,
        ObjectError::InvalidPart => C::InvalidPart,
        ObjectError::InvalidPartOrder => C::InvalidPartOrder,
        ObjectError::BadPartNumber | ObjectError::InvalidArgument { .. } => C::InvalidArgument,
        ObjectError::PartTooSmall { .. } => C::EntityTooSmall,
        ObjectError::EntityTooLarge { .. } => C::EntityTooLarge,
        ObjectError::IncompleteBody { .. } | ObjectError::BodyFailed(_) => C::IncompleteBody,
        ObjectError::BadDigest(_) => C::BadDigest,
        ObjectError::PreconditionFailed(_) => C::PreconditionFailed,
        ObjectError::NotModified { etag, modified_ms } => {
            return not_modified(&etag, modified_ms, message);
        }
        ObjectError::InvalidRange { size } => return invalid_range(size, message),
        ObjectError::AccessDenied => C::AccessDenied,
        ObjectError::InvalidRequest(_) => C::InvalidRequest,
        ObjectError::NotImplemented(_) => C::NotImplemented,
        ObjectError::Unavailable(_) => return try_again(C::ServiceUnavailable, message),
        ObjectError::Internal(_) => {
            tracing::Span::current().record("reason", message.as_str());
            return S3Error::with_message(
                C::InternalError,
                "We encountered an internal error. Please try again.",
            );
        }
    };
    S3Error::with_message(code, message)
}

/// As [`to_s3`], for one of many in an answer that is good as a whole: nobody else logs it.
pub(crate) fn one_to_s3(error: ObjectError) -> S3Error {
    if let ObjectError::Internal(_) = &error {
        tracing::warn!(%error, "a part of a request failed");
    }
    to_s3(error)
}

/// A 503 that says when to come back.
pub(crate) fn try_again(code: S3ErrorCode, message: impl Into<String>) -> S3Error {
    with_header(
        S3Error::with_message(code, message.into()),
        header::RETRY_AFTER,
        HeaderValue::from_static("1"),
    )
}

/// A 304 names the version that the caller has by tag and time, as an answer with the object would.
fn not_modified(etag: &ETag, modified_ms: u64, message: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::NotModified, message);
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", etag.0)) {
        error = with_header(error, header::ETAG, tag);
    }
    let mut date: Vec<u8> = Vec::new();
    let written = timestamp(modified_ms).format(TimestampFormat::HttpDate, &mut date);
    match (written, HeaderValue::try_from(date)) {
        (Ok(()), Ok(date)) => with_header(error, header::LAST_MODIFIED, date),
        _ => error,
    }
}

fn invalid_range(size: u64, message: String) -> S3Error {
    let error = S3Error::with_message(S3ErrorCode::InvalidRange, message);
    match HeaderValue::try_from(format!("bytes */{size}")) {
        Ok(range) => with_header(error, header::CONTENT_RANGE, range),
        Err(_) => error,
    }
}

/// s3s replaces the headers of an error's answer by those given: its content type has to be among them.
fn with_header(mut error: S3Error, name: header::HeaderName, value: HeaderValue) -> S3Error {
    let mut headers = error.headers().cloned().unwrap_or_else(|| {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        headers
    });
    headers.insert(name, value);
    error.set_headers(headers);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_s3s_codes_and_statuses() {
        let cases = [
            (ObjectError::NoSuchBucket("b".into()), "NoSuchBucket", 404),
            (ObjectError::BucketTaken, "BucketAlreadyExists", 409),
            (ObjectError::BucketYours, "BucketAlreadyOwnedByYou", 409),
            (ObjectError::BucketNotEmpty, "BucketNotEmpty", 409),
            (ObjectError::BucketBusy, "OperationAborted", 409),
            (ObjectError::NoSuchKey, "NoSuchKey", 404),
            (ObjectError::KeyTooLong(2000), "KeyTooLongError", 400),
            (ObjectError::MetadataTooLarge(9999), "MetadataTooLarge", 400),
            (ObjectError::NoSuchUpload, "NoSuchUpload", 404),
            (
                ObjectError::PartTooSmall { part: 1, size: 1 },
                "EntityTooSmall",
                400,
            ),
            (
                ObjectError::EntityTooLarge { size: 9, max: 8 },
                "EntityTooLarge",
                400,
            ),
            (ObjectError::BadDigest("Content-MD5"), "BadDigest", 400),
            (
                ObjectError::PreconditionFailed("If-Match"),
                "PreconditionFailed",
                412,
            ),
            (
                ObjectError::NotModified {
                    etag: ETag("0".into()),
                    modified_ms: 0,
                },
                "NotModified",
                304,
            ),
            (ObjectError::InvalidRange { size: 3 }, "InvalidRange", 416),
            (ObjectError::AccessDenied, "AccessDenied", 403),
            (ObjectError::NotImplemented("tags"), "NotImplemented", 501),
            (
                ObjectError::Unavailable("no leader".into()),
                "ServiceUnavailable",
                503,
            ),
            (ObjectError::Internal("x".into()), "InternalError", 500),
        ];
        for (error, code, status) in cases {
            let answer = to_s3(error.clone());
            assert_eq!(answer.code().as_str(), code, "{error:?}");
            assert_eq!(
                answer.status_code().map(|s| s.as_u16()),
                Some(status),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_is_not_modified_is_named_by_tag_and_time() {
        let answer = to_s3(ObjectError::NotModified {
            etag: ETag("0f-2".into()),
            modified_ms: 784_111_777_999,
        });
        let headers = answer.headers().unwrap();
        assert_eq!(headers[header::ETAG], "\"0f-2\"");
        assert_eq!(
            headers[header::LAST_MODIFIED],
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }

    #[test]
    fn what_may_be_asked_again_says_when() {
        let answer = to_s3(ObjectError::Unavailable("no leader".into()));
        assert_eq!(answer.headers().unwrap()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn internal_failures_tell_the_client_nothing() {
        let answer = to_s3(ObjectError::Internal("/secret/path".into()));
        assert!(!answer.message().unwrap().contains("secret"));
    }
}
