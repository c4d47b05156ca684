//! Who asks, and whether what they ask was signed.
//!
//! s3s checks the signature itself. This adds what it leaves out: headers that were put on a signed request afterwards
//! (a presigned PUT must not become a copy), and headers whose meaning the door doesn't support.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, Uri, header};
use object_core::api::{Caller, Objects};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::CopySource;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};

use crate::errors;
use crate::options::{KeyDirectory, KeyEntry};
use crate::trace::Trace;

/// Gives s3s the secrets.
pub(crate) struct Keys(pub(crate) Arc<dyn KeyDirectory>);

impl Keys {
    fn find(&self, access_key: &str) -> S3Result<KeyEntry> {
        self.0
            .find(access_key)
            .ok_or_else(|| match self.0.is_up_to_date() {
                true => s3_error!(
                    InvalidAccessKeyId,
                    "The AWS Access Key Id you provided does not exist in our records."
                ),
                false => s3_error!(
                    ServiceUnavailable,
                    "This node has not heard yet which access keys there are: try again."
                ),
            })
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        Ok(SecretKey::from(self.find(access_key)?.secret))
    }
}

/// The check between signature and operation; leaves the caller in the request's extensions.
pub(crate) struct Access {
    pub(crate) keys: Keys,
    pub(crate) objects: Arc<dyn Objects>,
    /// The region that signatures must be made for.
    pub(crate) region: String,
}

/// [`Access`] as s3s wants it.
pub(crate) struct SharedAccess(pub(crate) Arc<Access>);

#[async_trait::async_trait]
impl S3Access for SharedAccess {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let name = operation(cx.s3_op().name());
        if let Some(trace) = cx.extensions_mut().get::<Trace>().cloned() {
            trace.understood(name, cx.s3_path().get_bucket_name());
        }
        let admitted = cx.extensions_mut().get::<Admitted>().cloned();
        let caller = match admitted {
            Some(Admitted(caller)) => caller,
            None => self.0.admit(
                cx.credentials().map(|c| c.access_key.as_str()),
                cx.uri(),
                cx.headers(),
            )?,
        };
        if cx.headers().contains_key(EXPECTED_OWNER)
            || cx.headers().contains_key(EXPECTED_SOURCE_OWNER)
        {
            let bucket = cx.s3_path().get_bucket_name().map(str::to_owned);
            let headers = cx.headers().clone();
            self.0
                .check_owners(&caller, bucket.as_deref(), &headers)
                .await?;
        }
        cx.extensions_mut().insert(Admitted(caller));
        Ok(())
    }
}

impl Access {
    /// The caller of a request whose signature was checked.
    pub(crate) fn admit(
        &self,
        key: Option<&str>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> S3Result<Arc<Caller>> {
        let key =
            key.ok_or_else(|| S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"))?;
        check_signed(uri, headers, &self.region)?;
        check_supported(headers)?;
        Ok(Arc::new(self.keys.find(key)?.caller))
    }

    /// Refuses when a bucket isn't owned by whom the caller expects.
    async fn check_owners(
        &self,
        caller: &Caller,
        bucket: Option<&str>,
        headers: &HeaderMap,
    ) -> S3Result<()> {
        let source = headers
            .get("x-amz-copy-source")
            .and_then(|s| CopySource::parse(s.to_str().ok()?).ok());
        let source = match &source {
            Some(CopySource::Bucket { bucket, .. }) => Some(&**bucket),
            _ => None,
        };
        for (expected, bucket) in [(EXPECTED_OWNER, bucket), (EXPECTED_SOURCE_OWNER, source)] {
            let (Some(expected), Some(bucket)) = (headers.get(expected), bucket) else {
                continue;
            };
            let info = self
                .objects
                .head_bucket(caller, bucket)
                .await
                .map_err(errors::to_s3)?;
            if expected.as_bytes() != info.owner.to_string().as_bytes() {
                return Err(s3_error!(
                    AccessDenied,
                    "the bucket {bucket} is not owned by the expected account"
                ));
            }
        }
        Ok(())
    }
}

const EXPECTED_OWNER: &str = "x-amz-expected-bucket-owner";
const EXPECTED_SOURCE_OWNER: &str = "x-amz-source-expected-bucket-owner";

/// The caller of a request that was admitted; only the door itself puts it there.
#[derive(Clone)]
pub(crate) struct Admitted(pub(crate) Arc<Caller>);

/// The name of an operation for observers: those that the door has something to say to, so that the set is bounded.
fn operation(name: &str) -> &'static str {
    const NAMES: [&str; 24] = [
        "ListBuckets",
        "CreateBucket",
        "HeadBucket",
        "DeleteBucket",
        "GetBucketLocation",
        "GetBucketAcl",
        "GetBucketVersioning",
        "PutObject",
        "GetObject",
        "HeadObject",
        "DeleteObject",
        "DeleteObjects",
        "CopyObject",
        "GetObjectAttributes",
        "ListObjects",
        "ListObjectsV2",
        "ListObjectVersions",
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPartCopy",
        "ListParts",
        "ListMultipartUploads",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
    ];
    NAMES.into_iter().find(|n| *n == name).unwrap_or("Other")
}

/// The caller that [`Access`] left in a request.
pub(crate) fn caller<T>(request: &S3Request<T>) -> S3Result<Arc<Caller>> {
    let found = request.extensions.get::<Admitted>().cloned().map(|a| a.0);
    found.ok_or_else(|| S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"))
}

/// Headers with S3's prefix that may be added without a signature: they can't change what is done.
const HARMLESS: [&str; 3] = ["x-amz-content-sha256", "x-amz-date", "x-amz-user-agent"];

fn check_signed(uri: &Uri, headers: &HeaderMap, region: &str) -> S3Result<()> {
    let Signed {
        scope,
        headers: signed,
        lifetime,
    } = signed(uri, headers)?;
    if !scope.ends_with("/s3/aws4_request") {
        return Err(s3_error!(
            AuthorizationHeaderMalformed,
            "the credential must be scoped to the service s3"
        ));
    }
    let found = scope.rsplit('/').nth(2).unwrap_or("");
    if found != region {
        return Err(s3_error!(
            AuthorizationHeaderMalformed,
            "the region '{found}' is wrong; expecting '{region}'"
        ));
    }
    if lifetime.is_some_and(|seconds| seconds > LIFETIME_MAX_S) {
        return Err(errors::custom(
            "AuthorizationQueryParametersError",
            StatusCode::BAD_REQUEST,
            format!("X-Amz-Expires must be at most {LIFETIME_MAX_S} seconds, which is a week"),
        ));
    }
    let covers = |name: &str| signed.split(';').any(|s| s.eq_ignore_ascii_case(name));
    if !covers("host") {
        return Err(s3_error!(AccessDenied, "the header host was not signed"));
    }
    for name in headers.keys().map(header::HeaderName::as_str) {
        if name.starts_with("x-amz-") && !HARMLESS.contains(&name) && !covers(name) {
            return Err(s3_error!(
                AccessDenied,
                "There were headers present in the request which were not signed: {name}"
            ));
        }
    }
    Ok(())
}

/// The longest that a presigned URL may live.
const LIFETIME_MAX_S: u64 = 7 * 24 * 3600;

/// What a signature says that it covers.
#[derive(Default)]
struct Signed<'a> {
    scope: Cow<'a, str>,
    /// Names, separated by `;`.
    headers: Cow<'a, str>,
    /// Of a presigned URL, in seconds. What is no number is refused before.
    lifetime: Option<u64>,
}

/// Reads the same place that s3s read: the query when it has a signature, else the header.
fn signed<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> S3Result<Signed<'a>> {
    let mut presigned = false;
    let mut found = Signed::default();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
        match name.as_ref() {
            "X-Amz-Signature" => presigned = true,
            "X-Amz-SignedHeaders" => found.headers = value,
            "X-Amz-Credential" => found.scope = value,
            "X-Amz-Expires" => found.lifetime = value.parse().ok(),
            _ => {}
        }
    }
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    match authorization {
        Some(_) if presigned => Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed"
        )),
        Some(text) => {
            let field = |name: &str| {
                let rest = text.split_once(name).map_or("", |(_, rest)| rest);
                Cow::Borrowed(rest.split([',', ' ']).next().unwrap_or(""))
            };
            Ok(Signed {
                scope: field("Credential="),
                headers: field("SignedHeaders="),
                lifetime: None,
            })
        }
        None => Ok(found),
    }
}

/// Headers that change what a request means and that the door has nothing for.
const UNSUPPORTED: [&str; 4] = [
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-grant-",
];
const UNSUPPORTED_EXACT: [&str; 6] = [
    "x-amz-tagging",
    "x-amz-write-offset-bytes",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-initiated-time",
    "x-amz-mfa",
];

/// Refuses headers whose meaning the door has nothing for.
pub(crate) fn check_supported(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-") || value.is_empty() {
            continue;
        }
        let value = value.as_bytes();
        let supported = match name {
            "x-amz-acl" => matches!(value, b"private" | b"bucket-owner-full-control"),
            "x-amz-object-ownership" => value == b"BucketOwnerEnforced",
            "x-amz-bucket-object-lock-enabled" | "x-amz-bypass-governance-retention" => {
                value.eq_ignore_ascii_case(b"false")
            }
            "x-amz-storage-class" if value != b"STANDARD" => {
                return Err(s3_error!(
                    InvalidStorageClass,
                    "the only storage class is STANDARD"
                ));
            }
            _ => {
                !UNSUPPORTED.iter().any(|p| name.starts_with(p))
                    && !UNSUPPORTED_EXACT.contains(&name)
            }
        };
        if !supported {
            let message = format!(
                "A header you provided implies functionality that is not implemented: {name}"
            );
            return Err(errors::custom(
                "NotImplemented",
                StatusCode::NOT_IMPLEMENTED,
                message,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    http::HeaderName::from_static(n),
                    http::HeaderValue::from_static(v),
                )
            })
            .collect()
    }

    #[test]
    fn a_header_added_after_signing_is_refused() {
        let uri = "/b/k?X-Amz-Signature=0&X-Amz-SignedHeaders=host%3Bx-amz-acl&x=1\
            &X-Amz-Credential=a%2F20260101%2Fus-east-1%2Fs3%2Faws4_request";
        let uri = Uri::from_static(uri);
        assert!(
            check_signed(
                &uri,
                &headers(&[("x-amz-acl", "private"), ("range", "bytes=0-1")]),
                "us-east-1",
            )
            .is_ok()
        );
        let copy = check_signed(
            &uri,
            &headers(&[("x-amz-copy-source", "/other/secret")]),
            "us-east-1",
        )
        .unwrap_err();
        assert_eq!(copy.code().as_str(), "AccessDenied");
        let mut both = headers(&[("x-amz-copy-source", "/other/secret")]);
        both.insert(
            "authorization",
            "AWS4-HMAC-SHA256 SignedHeaders=host;x-amz-copy-source"
                .parse()
                .unwrap(),
        );
        assert_eq!(
            check_signed(&uri, &both, "us-east-1")
                .unwrap_err()
                .code()
                .as_str(),
            "InvalidArgument"
        );
    }

    #[test]
    fn the_authorization_header_lists_what_was_signed() {
        let with = |list: &str| {
            let mut all = headers(&[("x-amz-date", "x"), ("x-amz-meta-a", "1")]);
            let scope = "a/20260101/us-east-1/s3/aws4_request";
            let text =
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={list}, Signature=0");
            all.insert("authorization", text.parse().unwrap());
            check_signed(&Uri::from_static("/b/k"), &all, "us-east-1").is_ok()
        };
        assert!(with("host;x-amz-date;x-amz-meta-a"));
        assert!(!with("host;x-amz-date"));
        assert!(!with("x-amz-date;x-amz-meta-a"));
    }

    #[test]
    fn headers_without_support_are_refused_not_ignored() {
        for (name, value) in [
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-acl", "public-read"),
            ("x-amz-grant-read", "id=1"),
        ] {
            let error = check_supported(&headers(&[(name, value)])).unwrap_err();
            assert_eq!(
                (error.code().as_str(), error.status_code().unwrap().as_u16()),
                ("NotImplemented", 501),
                "{name}"
            );
        }
        let fine = [
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-meta-x", "y"),
        ];
        assert!(check_supported(&headers(&fine)).is_ok());
    }

    #[test]
    fn a_signature_for_another_region_or_longer_than_a_week_is_refused() {
        let check = |region: &str, lifetime: u64| {
            let uri = format!(
                "/b/k?X-Amz-Signature=0&X-Amz-SignedHeaders=host&X-Amz-Expires={lifetime}\
                 &X-Amz-Credential=a%2F20260101%2F{region}%2Fs3%2Faws4_request"
            );
            check_signed(&uri.parse().unwrap(), &headers(&[]), "us-east-1")
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(check("us-east-1", 604_800), Ok(()));
        assert_eq!(
            check("us-west-2", 60),
            Err("AuthorizationHeaderMalformed".into())
        );
        assert_eq!(
            check("us-east-1", 604_801),
            Err("AuthorizationQueryParametersError".into())
        );
    }
}
