//! Multipart uploads.

use http::HeaderMap;
use ids::UploadId;
use object_core::api::{
    self, Caller, ChecksumKind, ChecksumScope, CompleteRequest, CreateUploadRequest, ETag,
    ListRequest, ObjectError, PART_NUMBER_MAX, PartInfo, PartRequest, UploadInfo,
};
use object_core::digest::name_of;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::lists::{Names, page_size, shown};
use super::objects::{part_number, size, source, source_refusal};
use super::{Service, etag, owner_of};
use crate::access::caller;
use crate::body::{self, Fault};
use crate::checksums::{self, fill_checksum};
use crate::errors::to_s3;
use crate::headers::{self, sent, signed, timestamp};
use crate::serve::Scheme;

/// More letters than the checksum of a part has: SHA-256 has 44, and a number of parts may follow.
const CHECKSUM_TEXT_MAX: usize = 64;

impl Service {
    pub(super) async fn new_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let caller = caller(&request)?;
        let checksum = upload_checksum(sent(&request))?;
        let create = CreateUploadRequest {
            headers: headers::content(sent(&request))?,
            bucket: request.input.bucket.clone(),
            key: request.input.key.clone(),
            checksum,
        };
        let upload = self
            .objects
            .create_upload(&caller, create)
            .await
            .map_err(to_s3)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(request.input.bucket),
            key: Some(request.input.key),
            upload_id: Some(upload.to_string()),
            checksum_algorithm: checksum.map(|(kind, _)| algorithm(kind)),
            checksum_type: checksum.map(|(_, scope)| checksums::type_of(scope)),
            ..Default::default()
        })
    }

    pub(super) async fn part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<UploadPartOutput> {
        let caller = caller(&request)?;
        let part = PartRequest {
            upload: upload_id(&request.input.upload_id)?,
            part: part_number(request.input.part_number)?,
            size: size(request.input.content_length)?,
            digests: checksums::expected(sent(&request), headers::trailers(&request))?,
            bucket: request.input.bucket,
            key: request.input.key,
        };
        let fault = Fault::default();
        let body = body::inbound(request.input.body, &fault);
        let written = self
            .objects
            .put_part(&caller, part, body)
            .await
            .map_err(|e| fault.explain(e))?;
        let mut out = UploadPartOutput {
            e_tag: Some(etag(&written.etag)),
            ..Default::default()
        };
        if let Some(sum) = &written.checksum {
            fill_checksum!(out, sum, None);
        }
        Ok(out)
    }

    pub(super) async fn part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<UploadPartCopyOutput> {
        let caller = caller(&request)?;
        let headers = sent(&request);
        let mut source = source(&request.input.copy_source, headers)?;
        source.range = headers::source_range(headers)?;
        let part = PartRequest {
            upload: upload_id(&request.input.upload_id)?,
            part: part_number(request.input.part_number)?,
            size: None,
            digests: Default::default(),
            bucket: request.input.bucket,
            key: request.input.key,
        };
        let written = self
            .objects
            .copy_part(&caller, part, source)
            .await
            .map_err(source_refusal)?;
        let mut result = CopyPartResult {
            e_tag: Some(etag(&written.etag)),
            last_modified: Some(timestamp(written.modified_ms)),
            ..Default::default()
        };
        if let Some(sum) = &written.checksum {
            fill_checksum!(result, sum, None);
        }
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..Default::default()
        })
    }

    pub(super) async fn complete(
        &self,
        mut request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let caller = caller(&request)?;
        let listed = request
            .input
            .multipart_upload
            .take()
            .and_then(|u| u.parts)
            .unwrap_or_default();
        let headers = sent(&request);
        let sum = checksums::from_headers(headers)?;
        if listed.is_empty() || listed.len() > usize::from(PART_NUMBER_MAX) {
            return Err(s3_error!(
                MalformedXML,
                "an object is made of 1 to {PART_NUMBER_MAX} parts"
            ));
        }
        let location = location(&request);
        let complete = CompleteRequest {
            upload: upload_id(&request.input.upload_id)?,
            parts: listed
                .into_iter()
                .map(listed_part)
                .collect::<S3Result<_>>()?,
            conditions: headers::conditions(headers),
            checksum: sum.map(|(_, value)| value),
            size: size(request.input.mpu_object_size)?,
            bucket: request.input.bucket.clone(),
            key: request.input.key.clone(),
        };
        let parts = u16::try_from(complete.parts.len()).ok();
        let written = self
            .objects
            .complete_upload(&caller, complete)
            .await
            .map_err(to_s3)?;
        let mut out = CompleteMultipartUploadOutput {
            bucket: Some(request.input.bucket),
            key: Some(request.input.key),
            location: Some(location),
            e_tag: Some(etag(&written.etag)),
            ..Default::default()
        };
        if let Some(sum) = &written.checksum {
            fill_checksum!(out, sum, parts);
            out.checksum_type = Some(checksums::type_of(sum.scope));
        }
        Ok(out)
    }

    pub(super) async fn abort(
        &self,
        caller: &Caller,
        input: AbortMultipartUploadInput,
    ) -> S3Result<()> {
        let upload = upload_id(&input.upload_id)?;
        self.objects
            .abort_upload(caller, &input.bucket, &input.key, upload)
            .await
            .map_err(to_s3)
    }

    pub(super) async fn parts(
        &self,
        caller: &Caller,
        input: ListPartsInput,
    ) -> S3Result<ListPartsOutput> {
        let upload = upload_id(&input.upload_id)?;
        let max = page_size(input.max_parts)?;
        let after = match input.part_number_marker {
            None => 0,
            Some(marker) => u16::try_from(marker).map_err(|_| {
                s3_error!(
                    InvalidArgument,
                    "part-number-marker is not the number of a part"
                )
            })?,
        };
        let listed = self
            .objects
            .list_parts(caller, &input.bucket, &input.key, upload, after, max)
            .await;
        let page = listed.map_err(to_s3)?;
        let owner = owner_of(caller, page.upload.owner);
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            checksum_algorithm: page.upload.checksum.map(|(kind, _)| algorithm(kind)),
            checksum_type: page
                .upload
                .checksum
                .map(|(_, scope)| checksums::type_of(scope)),
            initiator: Some(Initiator {
                display_name: owner.display_name.clone(),
                id: owner.id.clone(),
            }),
            owner: Some(owner),
            is_truncated: Some(page.next.is_some()),
            max_parts: Some(shown(max)),
            part_number_marker: Some(i32::from(after)),
            next_part_number_marker: page
                .next
                .or(page.parts.last().map(|p| p.part))
                .map(i32::from),
            parts: Some(page.parts.iter().map(part).collect()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        })
    }

    pub(super) async fn uploads(
        &self,
        caller: &Caller,
        input: ListMultipartUploadsInput,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let names = Names::new(input.encoding_type.as_ref())?;
        let max = page_size(input.max_uploads)?;
        let key_marker = input.key_marker.clone().filter(|m| !m.is_empty());
        // Without a key marker S3 ignores the upload's.
        let after = match input.upload_id_marker.as_deref() {
            Some(marker) if !marker.is_empty() && key_marker.is_some() => Some(
                marker
                    .parse::<UploadId>()
                    .map_err(|_| s3_error!(InvalidArgument, "Invalid uploadId marker"))?,
            ),
            _ => None,
        };
        let list = ListRequest {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|d| !d.is_empty()),
            after: key_marker,
            max_keys: max,
        };
        let page = self
            .objects
            .list_uploads(caller, list, after)
            .await
            .map_err(to_s3)?;
        let (next_key, next_upload) = page
            .next
            .map_or((None, None), |(key, upload)| (Some(key), upload));
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(names.common(page.common_prefixes)),
            delimiter: input
                .delimiter
                .filter(|d| !d.is_empty())
                .map(|d| names.write(d)),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: Some(names.write(input.key_marker.unwrap_or_default())),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            max_uploads: Some(shown(max)),
            next_key_marker: next_key.map(|k| names.write(k)),
            next_upload_id_marker: next_upload.map(|u| u.to_string()),
            prefix: Some(names.write(input.prefix.unwrap_or_default())),
            uploads: Some(
                page.uploads
                    .into_iter()
                    .map(|u| upload(names, caller, u))
                    .collect(),
            ),
            ..Default::default()
        })
    }
}

/// The address of a request's object, in the style that the client uses: the host or the path names the bucket.
fn location<T>(request: &S3Request<T>) -> String {
    let scheme = request.extensions.get::<Scheme>().copied();
    let scheme = scheme.unwrap_or(Scheme::Http).name();
    let host = sent(request).get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
    format!("{scheme}://{host}{}", request.uri.path())
}

fn algorithm(kind: ChecksumKind) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(name_of(kind))
}

/// An upload id that nobody handed out is an upload that doesn't exist.
fn upload_id(text: &str) -> S3Result<UploadId> {
    text.parse().map_err(|_| to_s3(ObjectError::NoSuchUpload))
}

/// `x-amz-checksum-algorithm` and `-type`; S3's default is composite, except for CRC64NVME, which only covers objects.
fn upload_checksum(headers: &HeaderMap) -> S3Result<Option<(ChecksumKind, ChecksumScope)>> {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or(""));
    let scope = text("x-amz-checksum-type")
        .map(checksums::scope)
        .transpose()?;
    let Some(kind) = text("x-amz-checksum-algorithm")
        .map(checksums::kind)
        .transpose()?
    else {
        return match scope {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "x-amz-checksum-type needs x-amz-checksum-algorithm"
            )),
        };
    };
    let default = match kind {
        ChecksumKind::Crc64Nvme => ChecksumScope::FullObject,
        _ => ChecksumScope::Composite,
    };
    Ok(Some((kind, scope.unwrap_or(default))))
}

fn listed_part(listed: CompletedPart) -> S3Result<api::CompletedPart> {
    let (Some(number), Some(tag)) = (listed.part_number, listed.e_tag) else {
        return Err(s3_error!(
            MalformedXML,
            "a part is listed with its number and its ETag"
        ));
    };
    let sums = [
        (ChecksumKind::Crc32, listed.checksum_crc32),
        (ChecksumKind::Crc32c, listed.checksum_crc32c),
        (ChecksumKind::Crc64Nvme, listed.checksum_crc64nvme),
        (ChecksumKind::Sha1, listed.checksum_sha1),
        (ChecksumKind::Sha256, listed.checksum_sha256),
    ];
    let sum = sums
        .into_iter()
        .find_map(|(kind, text)| text.map(|t| part_checksum(kind, &t)));
    Ok(api::CompletedPart {
        part: part_number(number)?,
        etag: part_tag(tag.value())?,
        checksum: sum.transpose()?,
    })
}

/// The ETag of a part is an MD5, with or without quotes. What else is listed is no part's, and might be of any length.
fn part_tag(text: &str) -> S3Result<ETag> {
    let digits = text.trim_matches('"');
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(to_s3(ObjectError::InvalidPart));
    }
    Ok(ETag(digits.to_owned()))
}

fn part_checksum(kind: ChecksumKind, text: &str) -> S3Result<Vec<u8>> {
    if text.len() > CHECKSUM_TEXT_MAX {
        return Err(to_s3(ObjectError::InvalidPart));
    }
    checksums::value(kind, text)
}

fn part(info: &PartInfo) -> Part {
    let mut part = Part {
        e_tag: Some(etag(&info.etag)),
        last_modified: Some(timestamp(info.modified_ms)),
        part_number: Some(i32::from(info.part)),
        size: Some(signed(info.size)),
        ..Default::default()
    };
    if let Some(sum) = &info.checksum {
        fill_checksum!(part, sum, None);
    }
    part
}

fn upload(names: Names, caller: &Caller, info: UploadInfo) -> MultipartUpload {
    let owner = owner_of(caller, info.owner);
    MultipartUpload {
        checksum_algorithm: info.checksum.map(|(kind, _)| algorithm(kind)),
        checksum_type: info.checksum.map(|(_, scope)| checksums::type_of(scope)),
        initiated: Some(timestamp(info.created_ms)),
        initiator: Some(Initiator {
            display_name: owner.display_name.clone(),
            id: owner.id.clone(),
        }),
        owner: Some(owner),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(info.upload.to_string()),
        key: Some(names.write(info.key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(tag: &str, sum: Option<String>) -> S3Result<api::CompletedPart> {
        listed_part(CompletedPart {
            part_number: Some(1),
            e_tag: Some(s3s::dto::ETag::Strong(tag.to_owned())),
            checksum_sha256: sum,
            ..Default::default()
        })
    }

    fn code(listed: S3Result<api::CompletedPart>) -> String {
        listed.unwrap_err().code().as_str().to_owned()
    }

    #[test]
    fn an_object_is_where_the_client_finds_it() {
        let of = |scheme: Option<Scheme>, host: &'static str, path: &'static str| {
            let mut request = S3Request {
                input: (),
                method: http::Method::POST,
                uri: http::Uri::from_static(path),
                headers: HeaderMap::new(),
                extensions: http::Extensions::new(),
                credentials: None,
                region: None,
                service: None,
                trailing_headers: None,
            };
            let host = http::HeaderValue::from_static(host);
            request.headers.insert(http::header::HOST, host);
            if let Some(scheme) = scheme {
                request.extensions.insert(scheme);
            }
            location(&request)
        };
        assert_eq!(
            of(Some(Scheme::Https), "s3.lan:7300", "/bkt/a%20b?uploadId=1"),
            "https://s3.lan:7300/bkt/a%20b"
        );
        assert_eq!(
            of(Some(Scheme::Http), "bkt.s3.lan", "/a/b?uploadId=1"),
            "http://bkt.s3.lan/a/b"
        );
        assert_eq!(of(None, "s3.lan", "/bkt/a"), "http://s3.lan/bkt/a");
    }

    #[test]
    fn parts_are_listed_with_an_md5_in_quotes_or_not() {
        let md5 = "0123456789abcdef".repeat(2);
        for tag in [md5.clone(), format!("\"{md5}\"")] {
            assert_eq!(listed(&tag, None).unwrap().etag, ETag(md5.clone()));
        }
        let long = "f".repeat(100_000);
        let others = [
            String::new(),
            "x".into(),
            format!("{md5}-1"),
            "g".repeat(32),
        ];
        for tag in others.iter().chain([&long]) {
            assert_eq!(code(listed(tag, None)), "InvalidPart", "{}", tag.len());
        }
    }

    #[test]
    fn checksums_of_listed_parts_have_their_length() {
        let md5 = "0".repeat(32);
        let sum = format!("{}=", "A".repeat(43));
        let part = listed(&md5, Some(sum.clone())).unwrap();
        assert_eq!(part.checksum, Some(vec![0; 32]));
        let long = format!("{sum}-{}", "1".repeat(100_000));
        assert_eq!(code(listed(&md5, Some(long))), "InvalidPart");
        assert_eq!(code(listed(&md5, Some("AAAA".into()))), "InvalidRequest");
    }
}
