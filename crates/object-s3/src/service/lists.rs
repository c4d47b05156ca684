//! Lists of a bucket's keys, in S3's three forms.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use object_core::api::{Caller, ListPage, ListRequest, ListedObject, PAGE_KEYS_MAX};
use object_core::digest::name_of;
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::{Service, etag, owner_of};
use crate::errors::to_s3;
use crate::headers::{signed, timestamp};

impl Service {
    pub(super) async fn list_v1(
        &self,
        caller: &Caller,
        input: ListObjectsInput,
    ) -> S3Result<ListObjectsOutput> {
        let names = Names::new(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let list = list_request(
            input.bucket.clone(),
            &input.prefix,
            &input.delimiter,
            input.marker.clone(),
            max,
        );
        let page = self.objects.list(caller, list).await.map_err(to_s3)?;
        Ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(names.write(input.prefix.unwrap_or_default())),
            marker: Some(names.write(input.marker.unwrap_or_default())),
            max_keys: Some(shown(max)),
            is_truncated: Some(page.next.is_some()),
            next_marker: page.next.clone().map(|n| names.write(n)),
            delimiter: input
                .delimiter
                .filter(|d| !d.is_empty())
                .map(|d| names.write(d)),
            encoding_type: input.encoding_type,
            common_prefixes: Some(names.prefixes(&page)),
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|o| names.object(caller, o, true))
                    .collect(),
            ),
            request_charged: None,
        })
    }

    pub(super) async fn list_v2(
        &self,
        caller: &Caller,
        input: ListObjectsV2Input,
    ) -> S3Result<ListObjectsV2Output> {
        let names = Names::new(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let after = match &input.continuation_token {
            Some(token) => Some(read_token(token)?),
            None => input.start_after.clone(),
        };
        let list = list_request(
            input.bucket.clone(),
            &input.prefix,
            &input.delimiter,
            after,
            max,
        );
        let page = self.objects.list(caller, list).await.map_err(to_s3)?;
        let owners = input.fetch_owner.unwrap_or(false);
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(names.write(input.prefix.unwrap_or_default())),
            start_after: input.start_after.map(|s| names.write(s)),
            max_keys: Some(shown(max)),
            key_count: Some(shown(page.objects.len() + page.common_prefixes.len())),
            is_truncated: Some(page.next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: page.next.as_ref().map(|next| URL_SAFE_NO_PAD.encode(next)),
            delimiter: input
                .delimiter
                .filter(|d| !d.is_empty())
                .map(|d| names.write(d)),
            encoding_type: input.encoding_type,
            common_prefixes: Some(names.prefixes(&page)),
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|o| names.object(caller, o, owners))
                    .collect(),
            ),
            request_charged: None,
        })
    }

    /// Every object has one version, `null`, which is the latest.
    pub(super) async fn list_versions(
        &self,
        caller: &Caller,
        input: ListObjectVersionsInput,
    ) -> S3Result<ListObjectVersionsOutput> {
        let names = Names::new(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        if input
            .version_id_marker
            .as_ref()
            .is_some_and(|m| !m.is_empty())
            && input.key_marker.is_none()
        {
            return Err(s3_error!(
                InvalidArgument,
                "A version-id marker cannot be specified without a key marker."
            ));
        }
        let list = list_request(
            input.bucket.clone(),
            &input.prefix,
            &input.delimiter,
            input.key_marker.clone(),
            max,
        );
        let page = self.objects.list(caller, list).await.map_err(to_s3)?;
        let next_is_key =
            page.next.is_some() && page.next.as_ref() == page.objects.last().map(|o| &o.key);
        Ok(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(names.write(input.prefix.unwrap_or_default())),
            key_marker: Some(names.write(input.key_marker.unwrap_or_default())),
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
            max_keys: Some(shown(max)),
            is_truncated: Some(page.next.is_some()),
            next_key_marker: page.next.clone().map(|n| names.write(n)),
            next_version_id_marker: next_is_key.then(|| "null".to_owned()),
            delimiter: input
                .delimiter
                .filter(|d| !d.is_empty())
                .map(|d| names.write(d)),
            encoding_type: input.encoding_type,
            common_prefixes: Some(names.prefixes(&page)),
            versions: Some(
                page.objects
                    .into_iter()
                    .map(|o| names.version(caller, o))
                    .collect(),
            ),
            ..Default::default()
        })
    }
}

fn list_request(
    bucket: String,
    prefix: &Option<String>,
    delimiter: &Option<String>,
    after: Option<String>,
    max_keys: usize,
) -> ListRequest {
    ListRequest {
        bucket,
        prefix: prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone().filter(|d| !d.is_empty()),
        after: after.filter(|a| !a.is_empty()),
        max_keys,
    }
}

/// The asked page size, within S3's bounds.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    match asked.map(usize::try_from) {
        None => Ok(PAGE_KEYS_MAX),
        Some(Ok(max)) => Ok(max.min(PAGE_KEYS_MAX)),
        Some(Err(_)) => Err(s3_error!(
            InvalidArgument,
            "a page can't have fewer than 0 entries"
        )),
    }
}

/// A small number as S3's types have it.
pub(super) fn shown(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn read_token(token: &str) -> S3Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let key = bytes
        .and_then(|b| String::from_utf8(b).ok())
        .filter(|k| !k.is_empty());
    key.ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "The continuation token provided is incorrect"
        )
    })
}

/// How names are written into XML: as they are, or percent-encoded when the client asks so (XML can't carry all keys).
#[derive(Clone, Copy)]
pub(super) struct Names {
    encoded: bool,
}

impl Names {
    pub(super) fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Names { encoded: false }),
            Some(EncodingType::URL) => Ok(Names { encoded: true }),
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "Invalid Encoding Method specified in Request"
            )),
        }
    }

    pub(super) fn write(self, name: String) -> String {
        if self.encoded { encode(&name) } else { name }
    }

    fn prefixes(self, page: &ListPage) -> Vec<CommonPrefix> {
        self.common(page.common_prefixes.iter().cloned())
    }

    pub(super) fn common(self, prefixes: impl IntoIterator<Item = String>) -> Vec<CommonPrefix> {
        prefixes
            .into_iter()
            .map(|p| CommonPrefix {
                prefix: Some(self.write(p)),
            })
            .collect()
    }

    fn object(self, caller: &Caller, listed: ListedObject, owner: bool) -> Object {
        Object {
            checksum_algorithm: listed.checksum_kind.map(|k| vec![algorithm(k)]),
            checksum_type: None,
            e_tag: Some(etag(&listed.etag)),
            last_modified: Some(timestamp(listed.modified_ms)),
            owner: owner.then(|| owner_of(caller, listed.owner)),
            restore_status: None,
            size: Some(signed(listed.size)),
            storage_class: Some(ObjectStorageClass::from_static(
                ObjectStorageClass::STANDARD,
            )),
            key: Some(self.write(listed.key)),
        }
    }

    fn version(self, caller: &Caller, listed: ListedObject) -> ObjectVersion {
        ObjectVersion {
            checksum_algorithm: listed.checksum_kind.map(|k| vec![algorithm(k)]),
            checksum_type: None,
            e_tag: Some(etag(&listed.etag)),
            is_latest: Some(true),
            last_modified: Some(timestamp(listed.modified_ms)),
            owner: Some(owner_of(caller, listed.owner)),
            restore_status: None,
            size: Some(signed(listed.size)),
            storage_class: Some(ObjectVersionStorageClass::from_static(
                ObjectVersionStorageClass::STANDARD,
            )),
            version_id: Some("null".to_owned()),
            key: Some(self.write(listed.key)),
        }
    }
}

fn algorithm(kind: object_core::api::ChecksumKind) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(name_of(kind))
}

fn encode(name: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(name.len() + 16);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_opaque_and_come_back() {
        let token = URL_SAFE_NO_PAD.encode("a/ü b");
        assert_eq!(read_token(&token).unwrap(), "a/ü b");
        for bad in ["", "!!", "gA"] {
            assert_eq!(
                read_token(bad).unwrap_err().code().as_str(),
                "InvalidArgument",
                "{bad}"
            );
        }
    }

    #[test]
    fn names_are_encoded_on_request_only() {
        let url = Names::new(Some(&EncodingType::from_static("url"))).unwrap();
        assert_eq!(url.write("a/b c+\u{1}é".into()), "a/b%20c%2B%01%C3%A9");
        assert_eq!(Names::new(None).unwrap().write("b c".into()), "b c");
        assert!(Names::new(Some(&EncodingType::from_static("xml"))).is_err());
    }

    #[test]
    fn page_sizes_are_capped() {
        assert_eq!(page_size(None).unwrap(), 1000);
        assert_eq!(page_size(Some(5000)).unwrap(), 1000);
        assert_eq!(page_size(Some(0)).unwrap(), 0);
        assert!(page_size(Some(-1)).is_err());
    }
}
