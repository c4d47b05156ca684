//! Objects: put, get, head, delete, copy.

use http::{HeaderMap, StatusCode};
use object_core::api::{
    self, ByteRange, Caller, ChecksumKind, CopyRequest, DeleteRequest, GetRequest, Got,
    ObjectError, PutRequest, Written,
};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::{Service, etag};
use crate::access::caller;
use crate::body::{self, Fault};
use crate::checksums::{self, fill_checksum};
use crate::errors::{self, to_s3};
use crate::headers::{self, Overrides, sent, signed, timestamp};

/// The most keys of one DeleteObjects.
const DELETE_KEYS_MAX: usize = 1000;

impl Service {
    pub(super) async fn put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<PutObjectOutput> {
        let caller = caller(&request)?;
        let headers = sent(&request);
        let put = PutRequest {
            size: size(request.input.content_length)?,
            headers: headers::content(headers)?,
            conditions: headers::conditions(headers),
            digests: checksums::expected(headers, headers::trailers(&request))?,
            bucket: request.input.bucket,
            key: request.input.key,
        };
        let fault = Fault::default();
        let body = body::inbound(request.input.body, &fault);
        let written = self
            .objects
            .put(&caller, put, body)
            .await
            .map_err(|e| fault.explain(e))?;
        let mut out = PutObjectOutput {
            e_tag: Some(etag(&written.etag)),
            ..Default::default()
        };
        if let Some(sum) = &written.checksum {
            fill_checksum!(out, sum, None);
            out.checksum_type = Some(checksums::type_of(sum.scope));
        }
        Ok(out)
    }

    pub(super) async fn get(
        &self,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let caller = caller(&request)?;
        let overrides = overrides(request.uri.query());
        let input = &mut request.input;
        let (bucket, key) = (
            std::mem::take(&mut input.bucket),
            std::mem::take(&mut input.key),
        );
        let asked = Asked {
            part: input.part_number,
            version: input.version_id.take(),
            bucket,
            key,
        };
        let show_sums = input.checksum_mode.take().is_some();
        let headers = sent(&request);
        let got = self.read(&caller, asked, headers, Read::Bytes).await?;
        let mut out = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(signed(got.len)),
            content_range: content_range(&got),
            e_tag: Some(etag(&got.head.etag)),
            last_modified: Some(timestamp(got.head.modified_ms)),
            parts_count: request.input.part_number.and(got.head.parts).map(i32::from),
            ..Default::default()
        };
        if let Some(sum) = got
            .head
            .checksum
            .as_ref()
            .filter(|_| show_sums && !got.partial)
        {
            fill_checksum!(out, sum, got.head.parts);
            out.checksum_type = Some(checksums::type_of(sum.scope));
        }
        let stored = headers::stored(&got.head, &overrides);
        out.body = Some(body::outbound(got.body, got.len));
        Ok(S3Response::with_headers(out, stored))
    }

    pub(super) async fn head(
        &self,
        mut request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let caller = caller(&request)?;
        let overrides = overrides(request.uri.query());
        let input = &mut request.input;
        let (bucket, key) = (
            std::mem::take(&mut input.bucket),
            std::mem::take(&mut input.key),
        );
        let asked = Asked {
            part: input.part_number,
            version: input.version_id.take(),
            bucket,
            key,
        };
        let show_sums = input.checksum_mode.take().is_some();
        let headers = sent(&request);
        let got = self.read(&caller, asked, headers, Read::Head).await?;
        let mut out = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(signed(got.len)),
            content_range: content_range(&got),
            e_tag: Some(etag(&got.head.etag)),
            last_modified: Some(timestamp(got.head.modified_ms)),
            parts_count: request.input.part_number.and(got.head.parts).map(i32::from),
            ..Default::default()
        };
        if let Some(sum) = got
            .head
            .checksum
            .as_ref()
            .filter(|_| show_sums && !got.partial)
        {
            fill_checksum!(out, sum, got.head.parts);
            out.checksum_type = Some(checksums::type_of(sum.scope));
        }
        Ok(S3Response::with_headers(
            out,
            headers::stored(&got.head, &overrides),
        ))
    }

    async fn read(
        &self,
        caller: &Caller,
        asked: Asked,
        sent: &HeaderMap,
        read: Read,
    ) -> S3Result<Got> {
        let by_part = asked.part.is_some();
        let range = match asked.part {
            None => headers::range(sent),
            Some(_) if sent.contains_key(http::header::RANGE) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Cannot specify both Range header and partNumber query parameter"
                ));
            }
            Some(part) => Some(ByteRange::Part(part_number(part)?)),
        };
        let get = GetRequest {
            bucket: asked.bucket,
            key: asked.key,
            version: headers::version(asked.version.as_deref())?,
            range,
            conditions: headers::conditions(sent),
        };
        let if_range = sent.get(http::header::IF_RANGE).filter(|_| range.is_some());
        let got = match if_range {
            None => self.ask(caller, get, read).await,
            Some(unchanged) => {
                let mut guarded = get.clone();
                headers::add_if_range(&mut guarded.conditions, unchanged);
                match self.ask(caller, guarded, read).await {
                    Err(ObjectError::PreconditionFailed(_)) => {
                        self.ask(caller, GetRequest { range: None, ..get }, read)
                            .await
                    }
                    other => other,
                }
            }
        };
        got.map_err(|error| match error {
            ObjectError::InvalidRange { .. } if by_part => no_such_part(),
            other => to_s3(other),
        })
    }

    async fn ask(&self, caller: &Caller, get: GetRequest, read: Read) -> api::Result<Got> {
        match read {
            Read::Bytes => self.objects.get(caller, get).await,
            Read::Head => self.objects.head(caller, get).await,
        }
    }

    pub(super) async fn delete(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<DeleteObjectOutput> {
        let caller = caller(&request)?;
        let mut conditions = headers::conditions(sent(&request));
        conditions.if_size = request
            .input
            .if_match_size
            .map(|s| size(Some(s)))
            .transpose()?
            .flatten();
        let delete = DeleteRequest {
            version: headers::version(request.input.version_id.as_deref())?,
            bucket: request.input.bucket,
            key: request.input.key,
            conditions,
        };
        self.objects.delete(&caller, delete).await.map_err(to_s3)?;
        Ok(DeleteObjectOutput {
            version_id: request.input.version_id,
            ..Default::default()
        })
    }

    pub(super) async fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<DeleteObjectsOutput> {
        let caller = caller(&request)?;
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        let quiet = delete.quiet.unwrap_or(false);
        if delete.objects.is_empty() || delete.objects.len() > DELETE_KEYS_MAX {
            return Err(s3_error!(
                MalformedXML,
                "a request names 1 to {DELETE_KEYS_MAX} keys"
            ));
        }
        self.must_have(&caller, &bucket).await?;
        let named: Vec<_> = delete
            .objects
            .iter()
            .map(|o| (o.key.clone(), o.version_id.clone()))
            .collect();
        let mut refused = Vec::new();
        let mut asked = Vec::with_capacity(named.len());
        for (at, object) in delete.objects.into_iter().enumerate() {
            match one_delete(&bucket, object) {
                Ok(one) => asked.push((at, one)),
                Err(error) => refused.push((at, error)),
            }
        }
        let (places, requests): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let results = self.objects.delete_many(&caller, requests).await;
        let mut answers: Vec<(usize, Result<(), S3Error>)> = places
            .into_iter()
            .zip(results.into_iter().map(|r| r.map_err(errors::one_to_s3)))
            .collect();
        answers.extend(refused.into_iter().map(|(at, error)| (at, Err(error))));
        answers.sort_by_key(|(at, _)| *at);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ((_, answer), (key, version_id)) in answers.into_iter().zip(named) {
            match answer {
                Ok(()) if quiet => {}
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(key),
                    version_id,
                    ..Default::default()
                }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    key: Some(key),
                    version_id,
                }),
            }
        }
        Ok(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..Default::default()
        })
    }

    pub(super) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let caller = caller(&request)?;
        let headers = sent(&request);
        let replace = match request
            .input
            .metadata_directive
            .as_ref()
            .map(MetadataDirective::as_str)
        {
            None | Some(MetadataDirective::COPY) => None,
            Some(MetadataDirective::REPLACE) => Some(headers::content(headers)?),
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
        };
        let copy = CopyRequest {
            source: source(&request.input.copy_source, headers)?,
            replace_headers: replace,
            conditions: headers::conditions(headers),
            checksum: request
                .input
                .checksum_algorithm
                .as_ref()
                .map(|a| checksums::kind(a.as_str()))
                .transpose()?,
            bucket: request.input.bucket,
            key: request.input.key,
        };
        let written = self
            .objects
            .copy(&caller, copy)
            .await
            .map_err(source_refusal)?;
        Ok(CopyObjectOutput {
            copy_object_result: Some(copied(&written)),
            ..Default::default()
        })
    }
}

/// Which object a GET or HEAD names.
struct Asked {
    bucket: String,
    key: String,
    version: Option<String>,
    part: Option<i32>,
}

#[derive(Clone, Copy)]
enum Read {
    Bytes,
    Head,
}

/// A source that is not modified fails a condition, and a range beyond a source is a bad argument; only reads answer 304
/// and 416.
pub(super) fn source_refusal(error: ObjectError) -> S3Error {
    to_s3(match error {
        ObjectError::NotModified { .. } => ObjectError::PreconditionFailed("x-amz-copy-source-if"),
        ObjectError::InvalidRange { size } => ObjectError::InvalidArgument {
            name: "x-amz-copy-source-range",
            why: format!("the source has {size} bytes"),
        },
        other => other,
    })
}

/// A part that the object does not have.
fn no_such_part() -> S3Error {
    errors::custom(
        "InvalidPartNumber",
        StatusCode::RANGE_NOT_SATISFIABLE,
        "The requested partnumber is not satisfiable",
    )
}

pub(super) fn source(source: &CopySource, headers: &HeaderMap) -> S3Result<api::CopySource> {
    let CopySource::Bucket {
        bucket,
        key,
        version_id,
    } = source
    else {
        return Err(s3_error!(
            NotImplemented,
            "a copy's source is a bucket and a key"
        ));
    };
    Ok(api::CopySource {
        bucket: bucket.to_string(),
        key: key.to_string(),
        version: headers::version(version_id.as_deref())?,
        conditions: headers::source_conditions(headers),
        range: None,
    })
}

fn copied(written: &Written) -> CopyObjectResult {
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&written.etag)),
        last_modified: Some(timestamp(written.modified_ms)),
        ..Default::default()
    };
    if let Some(sum) = &written.checksum {
        fill_checksum!(result, sum, None);
        result.checksum_type = Some(checksums::type_of(sum.scope));
    }
    result
}

fn one_delete(bucket: &str, object: ObjectIdentifier) -> S3Result<DeleteRequest> {
    if object.last_modified_time.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "deleting by time of modification is not available yet"
        ));
    }
    let if_match = object.e_tag.map(|tag| match tag.into_value() {
        any if any == "*" => api::ETagMatch::Any,
        tag => api::ETagMatch::OneOf(vec![api::ETag(tag)]),
    });
    Ok(DeleteRequest {
        bucket: bucket.to_owned(),
        key: object.key,
        version: headers::version(object.version_id.as_deref())?,
        conditions: api::Conditions {
            if_match,
            if_size: object.size.map(|s| size(Some(s))).transpose()?.flatten(),
            ..Default::default()
        },
    })
}

fn content_range(got: &Got) -> Option<String> {
    let last = (got.offset + got.len).checked_sub(1)?;
    got.partial
        .then(|| format!("bytes {}-{}/{}", got.offset, last, got.head.size))
}

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    match u16::try_from(number) {
        Ok(part) if (1..=api::PART_NUMBER_MAX).contains(&part) => Ok(part),
        _ => Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and {}, inclusive",
            api::PART_NUMBER_MAX
        )),
    }
}

/// A length that a request announces.
pub(super) fn size(length: Option<i64>) -> S3Result<Option<u64>> {
    let Some(length) = length else {
        return Ok(None);
    };
    u64::try_from(length)
        .map(Some)
        .map_err(|_| s3_error!(InvalidArgument, "a length can't be negative"))
}

fn overrides(query: Option<&str>) -> Overrides {
    let mut found = Overrides::default();
    let Some(query) = query.filter(|q| q.contains("response-")) else {
        return found;
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match name.as_ref() {
            "response-content-type" => &mut found.content_type,
            "response-cache-control" => &mut found.cache_control,
            "response-content-disposition" => &mut found.content_disposition,
            "response-content-encoding" => &mut found.content_encoding,
            "response-content-language" => &mut found.content_language,
            "response-expires" => &mut found.expires,
            _ => continue,
        };
        *place = Some(value.into_owned());
    }
    found
}
