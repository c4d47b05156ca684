//! S3's checksum headers and trailers, to and from the store's digests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use object_core::api::{Checksum, ChecksumKind, ChecksumScope, ExpectedDigests};
use object_core::digest::{len_of, name_of};
use s3s::dto::ChecksumType;
use s3s::{S3Result, TrailingHeaders, s3_error};

/// How the refusal of a trailer starts; the table of faults goes by it.
pub(crate) const BAD_TRAILER: &str = "MalformedTrailer";

/// Every algorithm and its header.
const ALGORITHMS: [(ChecksumKind, &str); 5] = [
    (ChecksumKind::Crc32, "x-amz-checksum-crc32"),
    (ChecksumKind::Crc32c, "x-amz-checksum-crc32c"),
    (ChecksumKind::Crc64Nvme, "x-amz-checksum-crc64nvme"),
    (ChecksumKind::Sha1, "x-amz-checksum-sha1"),
    (ChecksumKind::Sha256, "x-amz-checksum-sha256"),
];

/// The algorithm of a name; S3 takes them in any case.
pub(crate) fn kind(name: &str) -> S3Result<ChecksumKind> {
    let known = ALGORITHMS
        .iter()
        .find(|a| name_of(a.0).eq_ignore_ascii_case(name));
    known
        .map(|a| a.0)
        .ok_or_else(|| s3_error!(InvalidRequest, "{name} is not a checksum algorithm"))
}

/// The scope of `x-amz-checksum-type`.
pub(crate) fn scope(text: &str) -> S3Result<ChecksumScope> {
    match text {
        ChecksumType::COMPOSITE => Ok(ChecksumScope::Composite),
        ChecksumType::FULL_OBJECT => Ok(ChecksumScope::FullObject),
        _ => Err(s3_error!(InvalidRequest, "{text} is not a checksum type")),
    }
}

/// S3's word for a scope.
pub(crate) fn type_of(scope: ChecksumScope) -> ChecksumType {
    ChecksumType::from_static(match scope {
        ChecksumScope::Composite => ChecksumType::COMPOSITE,
        ChecksumScope::FullObject => ChecksumType::FULL_OBJECT,
    })
}

/// A value as headers show it; one made of parts' checksums ends in their number.
pub(crate) fn text(checksum: &Checksum, parts: Option<u16>) -> String {
    let value = STANDARD.encode(&checksum.value);
    match (checksum.scope, parts) {
        (ChecksumScope::Composite, Some(parts)) => format!("{value}-{parts}"),
        _ => value,
    }
}

/// The bytes of a value; the number of parts at its end is cut off.
pub(crate) fn value(kind: ChecksumKind, text: &str) -> S3Result<Vec<u8>> {
    let (name, len) = (name_of(kind), len_of(kind));
    let digits = text.split_once('-').map_or(text, |(digits, _)| digits);
    match STANDARD.decode(digits) {
        Ok(bytes) if bytes.len() == len => Ok(bytes),
        _ => Err(s3_error!(
            InvalidRequest,
            "the value of the {name} checksum is not base64 of {len} bytes"
        )),
    }
}

/// The checksum that comes ahead of a body, if one does.
pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Option<(ChecksumKind, Vec<u8>)>> {
    let mut found = None;
    for (kind, header) in ALGORITHMS {
        let Some(text) = headers.get(header) else {
            continue;
        };
        if found.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header"
            ));
        }
        let text = text
            .to_str()
            .map_err(|_| s3_error!(InvalidRequest, "{header} is not text"))?;
        found = Some((kind, value(kind, text)?));
    }
    Ok(found)
}

/// The MD5 of `Content-MD5`.
pub(crate) fn md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = headers.get("content-md5") else {
        return Ok(None);
    };
    let bytes = STANDARD
        .decode(text.as_bytes())
        .ok()
        .and_then(|b| b.try_into().ok());
    bytes
        .map(Some)
        .ok_or_else(|| s3_error!(InvalidDigest, "Content-MD5 is not base64 of 16 bytes"))
}

/// Everything that a request says about its body's digests.
pub(crate) fn expected(
    headers: &HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<ExpectedDigests> {
    let mut digests = ExpectedDigests {
        md5: md5(headers)?,
        ..Default::default()
    };
    let ahead = from_headers(headers)?;
    let announced = announced(headers)?;
    match (ahead, announced) {
        (Some(_), Some(_)) => {
            return Err(s3_error!(
                InvalidRequest,
                "one checksum, ahead of the body or behind it"
            ));
        }
        (Some((kind, value)), None) => {
            digests.checksum = Some(kind);
            digests.value = Some(value);
        }
        (None, Some((kind, header))) => {
            let Some(trailers) = trailers else {
                return Err(s3_error!(
                    InvalidRequest,
                    "x-amz-trailer needs a body that is sent in chunks"
                ));
            };
            digests.checksum = Some(kind);
            digests.trailing = Some(Box::new(move || trailing(&trailers, kind, header)));
        }
        (None, None) => {}
    }
    check_algorithm(headers, digests.checksum)?;
    Ok(digests)
}

fn announced(headers: &HeaderMap) -> S3Result<Option<(ChecksumKind, &'static str)>> {
    let Some(names) = headers.get("x-amz-trailer") else {
        return Ok(None);
    };
    let name = names.to_str().unwrap_or("").trim().trim_end_matches(',');
    let known = ALGORITHMS.iter().find(|a| a.1.eq_ignore_ascii_case(name));
    known.map(|a| Some(*a)).ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "The value specified in the x-amz-trailer header is not supported: {name}"
        )
    })
}

fn trailing(
    trailers: &TrailingHeaders,
    kind: ChecksumKind,
    header: &str,
) -> Result<Option<Vec<u8>>, String> {
    let text = trailers
        .read(|t| t.get(header).map(|v| v.to_str().unwrap_or("").to_owned()))
        .flatten();
    let text = text.ok_or_else(|| format!("{BAD_TRAILER}: the body ended without {header}"))?;
    value(kind, &text)
        .map(Some)
        .map_err(|e| format!("{BAD_TRAILER}: {}", e.message().unwrap_or_default()))
}

/// `x-amz-sdk-checksum-algorithm` says which checksum comes along: one has to, and it has to be that.
fn check_algorithm(headers: &HeaderMap, sent: Option<ChecksumKind>) -> S3Result<()> {
    let Some(name) = headers.get("x-amz-sdk-checksum-algorithm") else {
        return Ok(());
    };
    match (kind(name.to_str().unwrap_or(""))?, sent) {
        (_, None) => Err(s3_error!(
            InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
        )),
        (named, Some(sent)) if named != sent => Err(s3_error!(
            InvalidRequest,
            "Value for x-amz-sdk-checksum-algorithm header is invalid."
        )),
        _ => Ok(()),
    }
}

/// Fills the five checksum fields of an answer.
macro_rules! fill_checksum {
    ($out:expr, $checksum:expr, $parts:expr) => {{
        let text = $crate::checksums::text($checksum, $parts);
        match $checksum.kind {
            ChecksumKind::Crc32 => $out.checksum_crc32 = Some(text),
            ChecksumKind::Crc32c => $out.checksum_crc32c = Some(text),
            ChecksumKind::Crc64Nvme => $out.checksum_crc64nvme = Some(text),
            ChecksumKind::Sha1 => $out.checksum_sha1 = Some(text),
            ChecksumKind::Sha256 => $out.checksum_sha256 = Some(text),
        }
    }};
}
pub(crate) use fill_checksum;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_composite_value_shows_its_parts_and_is_read_without_them() {
        let sum = Checksum {
            kind: ChecksumKind::Crc32,
            scope: ChecksumScope::Composite,
            value: vec![1, 2, 3, 4],
        };
        assert_eq!(text(&sum, Some(3)), "AQIDBA==-3");
        assert_eq!(
            value(ChecksumKind::Crc32, "AQIDBA==-3").unwrap(),
            [1, 2, 3, 4]
        );
        assert!(value(ChecksumKind::Sha1, "AQIDBA==").is_err());
    }

    #[test]
    fn two_checksums_are_one_too_many() {
        let both = headers(&[
            ("x-amz-checksum-crc32", "AQIDBA=="),
            ("x-amz-checksum-crc32c", "AQIDBA=="),
        ]);
        assert!(expected(&both, None).is_err());
        let one = expected(&headers(&[("x-amz-checksum-crc32c", "AQIDBA==")]), None).unwrap();
        assert_eq!(
            (one.checksum, one.value),
            (Some(ChecksumKind::Crc32c), Some(vec![1, 2, 3, 4]))
        );
    }

    #[test]
    fn an_announced_algorithm_must_come_along() {
        assert!(expected(&headers(&[("x-amz-sdk-checksum-algorithm", "CRC32")]), None).is_err());
        let other = [
            ("x-amz-sdk-checksum-algorithm", "SHA1"),
            ("x-amz-checksum-crc32", "AQIDBA=="),
        ];
        assert!(expected(&headers(&other), None).is_err());
    }

    #[test]
    fn content_md5_is_sixteen_bytes_of_base64() {
        assert_eq!(
            md5(&headers(&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])).unwrap(),
            Some([0; 16])
        );
        assert_eq!(
            md5(&headers(&[("content-md5", "AAAA")]))
                .unwrap_err()
                .code()
                .as_str(),
            "InvalidDigest"
        );
    }
}
