//! The XML of S3: replies to read, bodies to write. Names are matched without their namespace.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let text =
        std::str::from_utf8(body).map_err(|_| Error::Reply("the XML is not UTF-8".to_owned()))?;
    quick_xml::de::from_str(text).map_err(|error| Error::Reply(error.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ErrorReply {
    pub code: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Buckets {
    #[serde(default)]
    pub buckets: BucketList,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct BucketList {
    #[serde(default, rename = "Bucket")]
    pub bucket: Vec<Bucket>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Bucket {
    pub name: String,
    #[serde(default)]
    pub creation_date: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Listing {
    #[serde(default)]
    pub contents: Vec<Content>,
    #[serde(default)]
    pub common_prefixes: Vec<Prefix>,
    pub next_continuation_token: Option<String>,
    #[serde(default)]
    pub encoding_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Content {
    pub key: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default, rename = "ETag")]
    pub etag: String,
    #[serde(default)]
    pub last_modified: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Prefix {
    pub prefix: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DeleteReply {
    #[serde(default, rename = "Error")]
    pub errors: Vec<DeleteError>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteError {
    #[serde(default)]
    pub key: String,
    pub code: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    pub upload_id: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Completed {
    #[serde(rename = "ETag")]
    pub etag: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Parts {
    #[serde(default)]
    pub part: Vec<Part>,
    #[serde(default)]
    pub is_truncated: bool,
    pub next_part_number_marker: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Part {
    pub part_number: u32,
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(default)]
    pub size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Uploads {
    #[serde(default)]
    pub upload: Vec<Upload>,
    #[serde(default)]
    pub is_truncated: bool,
    pub next_key_marker: Option<String>,
    pub next_upload_id_marker: Option<String>,
    #[serde(default)]
    pub encoding_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Upload {
    pub key: String,
    pub upload_id: String,
    #[serde(default)]
    pub initiated: String,
}

/// A name out of a listing that was asked for with `encoding-type=url`; some endpoints don't follow.
pub(crate) fn name(encoding: &str, text: String) -> Result<String> {
    if encoding != "url" {
        return Ok(text);
    }
    decoded(&text).ok_or_else(|| Error::Reply(format!("the encoded name {text:?}")))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => (digit(bytes.next()?)? << 4) | digit(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(out).ok()
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Whether a key survives as XML text at endpoints that trim it.
pub(crate) fn can_hold(key: &str) -> bool {
    !key.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
        && key.trim() == key
}

pub(crate) fn delete_body(keys: &[&String]) -> String {
    let mut body = String::from("<Delete><Quiet>true</Quiet>");
    for key in keys {
        body.push_str("<Object><Key>");
        body.push_str(&quick_xml::escape::escape(key.as_str()));
        body.push_str("</Key></Object>");
    }
    body.push_str("</Delete>");
    body
}

pub(crate) fn complete_body<'a>(parts: impl Iterator<Item = (u32, &'a str)>) -> String {
    let mut body = String::from("<CompleteMultipartUpload>");
    for (number, etag) in parts {
        body.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
            quick_xml::escape::escape(etag)
        ));
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_with_and_without_a_namespace() {
        for namespace in ["", " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""] {
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult{namespace}><Name>b</Name>\
                 <IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
                 <Contents><Key>a&amp;b</Key><Size>3</Size><ETag>&quot;e&quot;</ETag></Contents>\
                 <Contents><Key>c</Key><Size>4</Size></Contents>\
                 <CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes></ListBucketResult>"
            );
            let listing: Listing = parse(text.as_bytes()).unwrap();
            assert_eq!(listing.contents[0].key, "a&b");
            assert_eq!(listing.contents[0].etag, "\"e\"");
            assert_eq!(listing.contents[1].size, 4);
            assert_eq!(listing.common_prefixes[0].prefix, "d/");
            assert_eq!(listing.next_continuation_token.as_deref(), Some("t"));
        }
    }

    #[test]
    fn empty_lists() {
        let none: Buckets = parse(b"<R><Owner><ID>1</ID></Owner><Buckets/></R>").unwrap();
        assert!(none.buckets.bucket.is_empty());
        let none: Uploads = parse(b"<R><IsTruncated>false</IsTruncated></R>").unwrap();
        assert!(none.upload.is_empty() && !none.is_truncated);
        assert!(parse::<Completed>(b"<Error><Code>x</Code></Error>").is_err());
    }

    #[test]
    fn bodies_are_escaped() {
        let body = delete_body(&[&"<a>&".to_owned()]);
        assert!(body.contains("<Key>&lt;a&gt;&amp;</Key>"), "{body}");
        let body = complete_body([(1, "\"e\"")].into_iter());
        assert!(body.contains("<PartNumber>1</PartNumber>"), "{body}");
    }

    #[test]
    fn names_are_decoded_when_they_are_encoded() {
        assert_eq!(name("", "a+%20".to_owned()).unwrap(), "a+%20");
        assert_eq!(
            name("url", "a+b%2b%C3%bC".to_owned()).unwrap(),
            "a b+\u{fc}"
        );
        for bad in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert!(name("url", bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_xml_would_change() {
        assert!(can_hold("a b/\u{fc}<&>"));
        for bad in [" a", "a ", "a\n", "\u{1}", "\u{ffff}"] {
            assert!(!can_hold(bad), "{bad:?}");
        }
    }
}
