//! Request headers in the store's words, read from the raw headers: s3s' own types know one entity tag per condition,
//! one date format, and decode metadata.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use object_core::api::{
    ByteRange, Conditions, ContentHeaders, ETag, ETagMatch, ObjectHead, VersionId,
};
use s3s::{S3Request, S3Result, TrailingHeaders, s3_error};

const USER_PREFIX: &str = "x-amz-meta-";

/// The most bytes, names included, of all headers that are stored with an object.
const STORED_BYTES_MAX: usize = 8 << 10;

/// The headers as they were sent, when `tidy` took some away from s3s.
#[derive(Clone)]
pub(crate) struct Sent(pub(crate) HeaderMap);

/// The headers of a request as they were sent.
pub(crate) fn sent<T>(request: &S3Request<T>) -> &HeaderMap {
    request
        .extensions
        .get::<Sent>()
        .map_or(&request.headers, |sent| &sent.0)
}

/// The trailers of a request that passed through `tidy`.
#[derive(Clone)]
pub(crate) struct Trailers(pub(crate) TrailingHeaders);

/// The trailers of a request, when its body is sent in chunks.
pub(crate) fn trailers<T>(request: &S3Request<T>) -> Option<TrailingHeaders> {
    let tidied = || request.extensions.get::<Trailers>().map(|t| t.0.clone());
    request.trailing_headers.clone().or_else(tidied)
}

/// The conditions of a request on its own object.
pub(crate) fn conditions(headers: &HeaderMap) -> Conditions {
    Conditions {
        if_match: headers.get(header::IF_MATCH).map(|v| tags(v, false)),
        if_none_match: headers.get(header::IF_NONE_MATCH).map(|v| tags(v, true)),
        if_modified_since_ms: date(headers, &header::IF_MODIFIED_SINCE),
        if_unmodified_since_ms: date(headers, &header::IF_UNMODIFIED_SINCE),
        if_size: None,
    }
}

/// The conditions on the source of a copy.
pub(crate) fn source_conditions(headers: &HeaderMap) -> Conditions {
    let name = HeaderName::from_static;
    Conditions {
        if_match: headers
            .get("x-amz-copy-source-if-match")
            .map(|v| tags(v, false)),
        if_none_match: headers
            .get("x-amz-copy-source-if-none-match")
            .map(|v| tags(v, true)),
        if_modified_since_ms: date(headers, &name("x-amz-copy-source-if-modified-since")),
        if_unmodified_since_ms: date(headers, &name("x-amz-copy-source-if-unmodified-since")),
        if_size: None,
    }
}

/// `If-Range`: the range counts only while the object is the one that the caller knows.
pub(crate) fn add_if_range(conditions: &mut Conditions, unchanged: &HeaderValue) {
    let as_date = unchanged
        .to_str()
        .ok()
        .and_then(|text| httpdate::parse_http_date(text).ok());
    match as_date.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        Some(since) => conditions.if_unmodified_since_ms = u64::try_from(since.as_millis()).ok(),
        None => conditions.if_match = Some(tags(unchanged, false)),
    }
}

/// A list of entity tags, quoted or not; `*` means any. Weak ones count only when `weak` says so.
pub(crate) fn tags(value: &HeaderValue, weak: bool) -> ETagMatch {
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.trim() == "*" {
        return ETagMatch::Any;
    }
    let one = |tag: &str| {
        let tag = match tag.trim().strip_prefix("W/") {
            Some(tag) if weak => tag,
            Some(_) => return None,
            None => tag.trim(),
        };
        Some(ETag(tag.trim_matches('"').to_owned()))
    };
    ETagMatch::OneOf(text.split(',').filter_map(one).collect())
}

/// A date header in milliseconds; one that isn't a date is as good as absent.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let time = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).ok()
}

/// The range of a request: one that S3 can't read, and several at once, mean the whole object.
pub(crate) fn range(headers: &HeaderMap) -> Option<ByteRange> {
    let spec = headers
        .get(header::RANGE)?
        .to_str()
        .ok()?
        .trim()
        .strip_prefix("bytes=")?
        .trim();
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    match (first.trim(), last.trim()) {
        ("", len) => Some(ByteRange::Suffix(number(len)?)),
        (first, "") => Some(ByteRange::Between {
            first: number(first)?,
            last: None,
        }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::Between {
                first,
                last: Some(last),
            })
        }
    }
}

/// The range of `x-amz-copy-source-range`, which must be `bytes=first-last`.
pub(crate) fn source_range(headers: &HeaderMap) -> S3Result<Option<ByteRange>> {
    let Some(value) = headers.get("x-amz-copy-source-range") else {
        return Ok(None);
    };
    let mut as_range = HeaderMap::with_capacity(1);
    as_range.insert(header::RANGE, value.clone());
    match range(&as_range) {
        Some(range @ ByteRange::Between { last: Some(_), .. }) => Ok(Some(range)),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last"
        )),
    }
}

/// The version that a request names.
pub(crate) fn version(text: Option<&str>) -> S3Result<Option<VersionId>> {
    match text {
        None => Ok(None),
        Some("null") => Ok(Some(VersionId::Null)),
        Some(text) if text.len() == 32 => match u128::from_str_radix(text, 16) {
            Ok(number) => Ok(Some(VersionId::Numbered(number))),
            Err(_) => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
        },
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
    }
}

/// The headers that are stored with an object.
pub(crate) fn content(headers: &HeaderMap) -> S3Result<ContentHeaders> {
    let text = |name: &str| -> S3Result<Option<String>> {
        let Some(value) = headers.get(name) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value.as_bytes());
        let text =
            text.map_err(|_| s3_error!(InvalidArgument, "the header {name} is not UTF-8"))?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    };
    let mut content = ContentHeaders {
        content_type: text("content-type")?,
        cache_control: text("cache-control")?,
        content_disposition: text("content-disposition")?,
        content_encoding: text("content-encoding")?.and_then(|e| without_transfer_coding(&e)),
        content_language: text("content-language")?,
        expires: text("expires")?,
        website_redirect: text("x-amz-website-redirect-location")?,
        storage_class: None,
        user: Default::default(),
    };
    for name in headers.keys() {
        let Some(key) = name
            .as_str()
            .strip_prefix(USER_PREFIX)
            .filter(|k| !k.is_empty())
        else {
            continue;
        };
        let mut values = Vec::new();
        for value in headers.get_all(name) {
            let value = std::str::from_utf8(value.as_bytes());
            values.push(
                value.map_err(|_| s3_error!(InvalidArgument, "the header {name} is not UTF-8"))?,
            );
        }
        content.user.insert(key.to_owned(), values.join(","));
    }
    if stored_bytes(&content) > STORED_BYTES_MAX {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size of {STORED_BYTES_MAX} bytes"
        ));
    }
    Ok(content)
}

fn stored_bytes(content: &ContentHeaders) -> usize {
    let named = [
        ("content-type", &content.content_type),
        ("cache-control", &content.cache_control),
        ("content-disposition", &content.content_disposition),
        ("content-encoding", &content.content_encoding),
        ("content-language", &content.content_language),
        ("expires", &content.expires),
        ("x-amz-website-redirect-location", &content.website_redirect),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, text)| Some(name.len() + text.as_ref()?.len()));
    let user = content
        .user
        .iter()
        .map(|(key, text)| USER_PREFIX.len() + key.len() + text.len());
    named.chain(user).sum()
}

/// `aws-chunked` says how the body travelled, not what the object is.
fn without_transfer_coding(encoding: &str) -> Option<String> {
    let kept: Vec<&str> = encoding
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty() && !e.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Values that a signed GET or HEAD asks to be answered instead of the stored ones.
#[derive(Default)]
pub(crate) struct Overrides {
    pub(crate) content_type: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) expires: Option<String>,
}

/// The stored headers as an answer gives them back.
pub(crate) fn stored(head: &ObjectHead, overrides: &Overrides) -> HeaderMap {
    let h = &head.headers;
    let mut out = HeaderMap::with_capacity(12 + h.user.len());
    let mut add = |name: HeaderName, over: &Option<String>, stored: &Option<String>| {
        let Some(text) = over.as_ref().or(stored.as_ref()) else {
            return;
        };
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            out.insert(name, value);
        }
    };
    add(
        header::CONTENT_TYPE,
        &overrides.content_type,
        &h.content_type,
    );
    add(
        header::CACHE_CONTROL,
        &overrides.cache_control,
        &h.cache_control,
    );
    add(
        header::CONTENT_DISPOSITION,
        &overrides.content_disposition,
        &h.content_disposition,
    );
    add(
        header::CONTENT_ENCODING,
        &overrides.content_encoding,
        &h.content_encoding,
    );
    add(
        header::CONTENT_LANGUAGE,
        &overrides.content_language,
        &h.content_language,
    );
    add(header::EXPIRES, &overrides.expires, &h.expires);
    add(
        HeaderName::from_static("x-amz-website-redirect-location"),
        &None,
        &h.website_redirect,
    );
    if !out.contains_key(header::CONTENT_TYPE) {
        out.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("binary/octet-stream"),
        );
    }
    for (key, text) in &h.user {
        let name = HeaderName::try_from(format!("{USER_PREFIX}{key}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(text.as_bytes())) {
            out.insert(name, value);
        }
    }
    out
}

/// A time of the store as s3s writes it.
pub(crate) fn timestamp(ms: u64) -> s3s::dto::Timestamp {
    s3s::dto::Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

/// A length or size as S3's types have it.
pub(crate) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn ranges_are_read_as_s3_reads_them() {
        let of = |value| range(&one(header::RANGE, value));
        assert_eq!(
            of("bytes=0-9"),
            Some(ByteRange::Between {
                first: 0,
                last: Some(9)
            })
        );
        assert_eq!(
            of("bytes=5-"),
            Some(ByteRange::Between {
                first: 5,
                last: None
            })
        );
        assert_eq!(of("bytes=-7"), Some(ByteRange::Suffix(7)));
        for ignored in [
            "bytes=9-0",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-2",
        ] {
            assert_eq!(of(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn entity_tags_come_in_lists_quoted_or_not() {
        let list = HeaderValue::from_static("\"a\", W/\"b\",c");
        let owned =
            |tags: &[&str]| ETagMatch::OneOf(tags.iter().map(|t| ETag((*t).into())).collect());
        assert_eq!(tags(&list, true), owned(&["a", "b", "c"]));
        assert_eq!(tags(&list, false), owned(&["a", "c"]));
        assert_eq!(tags(&HeaderValue::from_static("*"), false), ETagMatch::Any);
    }

    #[test]
    fn dates_come_in_all_formats_of_http_and_others_are_ignored() {
        let of = |value| conditions(&one(header::IF_MODIFIED_SINCE, value)).if_modified_since_ms;
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(of("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(of("yesterday"), None);
    }

    #[test]
    fn the_transfer_coding_is_not_stored() {
        assert_eq!(without_transfer_coding("aws-chunked"), None);
        assert_eq!(
            without_transfer_coding("gzip, aws-chunked"),
            Some("gzip".into())
        );
    }

    #[test]
    fn all_stored_headers_together_are_bounded() {
        let of = |types: usize, controls: usize| {
            let text = |len| HeaderValue::try_from("x".repeat(len)).unwrap();
            let headers = HeaderMap::from_iter([
                (header::CONTENT_TYPE, text(types)),
                (header::CACHE_CONTROL, text(controls)),
            ]);
            content(&headers).map_err(|error| error.code().as_str().to_owned())
        };
        let names = "content-type".len() + "cache-control".len();
        assert!(of(4 << 10, (4 << 10) - names).is_ok());
        assert_eq!(
            of(4 << 10, (4 << 10) - names + 1).unwrap_err(),
            "MetadataTooLarge"
        );
    }

    #[test]
    fn metadata_comes_back_as_it_was_sent() {
        let mut sent = HeaderMap::new();
        sent.insert(
            "x-amz-meta-raw",
            HeaderValue::from_bytes("grün".as_bytes()).unwrap(),
        );
        sent.insert(
            "x-amz-meta-word",
            HeaderValue::from_static("=?UTF-8?B?Z3LDvG4=?="),
        );
        sent.insert("content-type", HeaderValue::from_static("text/plain"));
        let headers = content(&sent).unwrap();
        let head = ObjectHead {
            version: VersionId::Null,
            size: 0,
            etag: ETag(String::new()),
            modified_ms: 0,
            headers,
            checksum: None,
            parts: None,
            owner: Default::default(),
        };
        assert_eq!(stored(&head, &Overrides::default()), sent);
    }
}
