//! A store in memory, good enough to stand behind the door: object_core's rules over a map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use ids::{BucketId, UploadId, UserId};
use object_core::api::*;
use object_core::conditions::{self, Current, Failed};
use object_core::digest::{BodyDigest, Digests};
use object_core::names;
use tokio::sync::Semaphore;

pub struct Fake {
    state: Mutex<State>,
    /// GETs of keys that start with `hold` wait for one of these.
    pub release: Semaphore,
    /// Counts GETs that wait.
    pub waiting: tokio::sync::watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    clock_ms: u64,
    ids: u8,
    buckets: BTreeMap<String, (BucketInfo, BTreeMap<String, Stored>)>,
    uploads: BTreeMap<UploadId, Upload>,
}

#[derive(Clone)]
struct Stored {
    head: ObjectHead,
    bytes: Bytes,
    parts: Vec<Range<usize>>,
}

struct Upload {
    bucket: String,
    info: UploadInfo,
    headers: ContentHeaders,
    parts: BTreeMap<u16, (PartInfo, Bytes)>,
}

impl Default for Fake {
    fn default() -> Self {
        let state = State {
            clock_ms: 1_700_000_000_000,
            ..Default::default()
        };
        Fake {
            state: Mutex::new(state),
            release: Semaphore::new(0),
            waiting: tokio::sync::watch::channel(0).0,
        }
    }
}

impl State {
    fn now(&mut self) -> u64 {
        self.clock_ms += 1000;
        self.clock_ms
    }

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        [self.ids; 16]
    }

    fn bucket(&mut self, caller: &Caller, name: &str) -> Result<&mut BTreeMap<String, Stored>> {
        let (info, objects) = self
            .buckets
            .get_mut(name)
            .ok_or_else(|| ObjectError::NoSuchBucket(name.into()))?;
        if info.owner != caller.user && !caller.admin {
            return Err(ObjectError::AccessDenied);
        }
        Ok(objects)
    }

    fn upload(
        &mut self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        id: UploadId,
    ) -> Result<&mut Upload> {
        self.bucket(caller, bucket)?;
        let upload = self
            .uploads
            .get_mut(&id)
            .filter(|u| u.bucket == bucket && u.info.key == key);
        upload.ok_or(ObjectError::NoSuchUpload)
    }
}

fn current(stored: &Stored) -> Current<'_> {
    Current {
        etag: &stored.head.etag,
        modified_ms: stored.head.modified_ms,
        size: stored.head.size,
    }
}

fn not_read(failed: Failed, head: &ObjectHead) -> ObjectError {
    match failed {
        Failed::Precondition(name) => ObjectError::PreconditionFailed(name),
        Failed::NotModified => ObjectError::NotModified {
            etag: head.etag.clone(),
            modified_ms: head.modified_ms,
        },
        Failed::NoSuchKey => ObjectError::NoSuchKey,
    }
}

fn not_written(failed: Failed) -> ObjectError {
    match failed {
        Failed::Precondition(name) => ObjectError::PreconditionFailed(name),
        Failed::NoSuchKey => ObjectError::NoSuchKey,
        Failed::NotModified => unreachable!("only reads are answered so"),
    }
}

fn range_of(stored: &Stored, range: Option<ByteRange>) -> Result<Range<usize>> {
    let size = stored.bytes.len();
    let outside = ObjectError::InvalidRange { size: size as u64 };
    match range {
        None => Ok(0..size),
        Some(ByteRange::Between { first, last }) => {
            let end = last.map_or(size, |l| (l as usize + 1).min(size));
            if (first as usize) < end {
                Ok(first as usize..end)
            } else {
                Err(outside)
            }
        }
        Some(ByteRange::Suffix(len)) if len > 0 && size > 0 => {
            Ok(size.saturating_sub(len as usize)..size)
        }
        Some(ByteRange::Suffix(_)) => Err(outside),
        Some(ByteRange::Part(1)) if stored.parts.is_empty() => Ok(0..size),
        Some(ByteRange::Part(part)) => stored
            .parts
            .get(usize::from(part) - 1)
            .cloned()
            .ok_or(outside),
    }
}

async fn collect(
    mut body: Body,
    size: Option<u64>,
    expected: ExpectedDigests,
) -> Result<(Bytes, Digests)> {
    let mut digest = BodyDigest::new(&expected);
    let mut all = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| ObjectError::BodyFailed(e.0))?;
        digest.update(&piece);
        all.extend_from_slice(&piece);
    }
    let digests = digest.finish();
    if let Some(expected) = size.filter(|s| *s != digests.size) {
        return Err(ObjectError::IncompleteBody {
            got: digests.size,
            expected,
        });
    }
    digests.verify(expected)?;
    Ok((all.into(), digests))
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a bucket with one object, without a door.
    pub async fn fill(&self, caller: &Caller, bucket: &str, key: &str, bytes: &'static str) {
        self.create_bucket(caller, bucket).await.unwrap();
        let request = PutRequest {
            bucket: bucket.into(),
            key: key.into(),
            ..Default::default()
        };
        let body: Body = Box::pin(futures::stream::iter([Ok(Bytes::from_static(
            bytes.as_bytes(),
        ))]));
        self.put(caller, request, body).await.unwrap();
    }

    fn find(&self, caller: &Caller, bucket: &str, key: &str) -> Result<Stored> {
        self.state()
            .bucket(caller, bucket)?
            .get(key)
            .cloned()
            .ok_or(ObjectError::NoSuchKey)
    }

    fn read(&self, caller: &Caller, request: &GetRequest) -> Result<(Stored, Range<usize>)> {
        let stored = self.find(caller, &request.bucket, &request.key)?;
        if request.version.is_some_and(|v| v != VersionId::Null) {
            return Err(ObjectError::NoSuchVersion);
        }
        conditions::check_read(&request.conditions, current(&stored))
            .map_err(|failed| not_read(failed, &stored.head))?;
        let range = range_of(&stored, request.range)?;
        Ok((stored, range))
    }

    fn insert(
        &self,
        caller: &Caller,
        (bucket, key): (&str, &str),
        conditions: &Conditions,
        mut stored: Stored,
    ) -> Result<Written> {
        let mut state = self.state();
        stored.head.modified_ms = state.now();
        stored.head.owner = caller.user;
        let objects = state.bucket(caller, bucket)?;
        conditions::check_write(conditions, objects.get(key).map(current)).map_err(not_written)?;
        let head = stored.head.clone();
        objects.insert(key.to_owned(), stored);
        Ok(Written {
            version: head.version,
            etag: head.etag,
            size: head.size,
            modified_ms: head.modified_ms,
            checksum: head.checksum,
        })
    }
}

fn object(headers: ContentHeaders, bytes: Bytes, digests: Digests) -> Stored {
    Stored {
        head: ObjectHead {
            version: VersionId::Null,
            size: bytes.len() as u64,
            etag: digests.etag(),
            modified_ms: 0,
            headers,
            checksum: digests.checksum,
            parts: None,
            owner: UserId::default(),
        },
        bytes,
        parts: Vec::new(),
    }
}

fn digests_of(bytes: &[u8], kind: Option<ChecksumKind>) -> Digests {
    let mut digest = BodyDigest::with_checksum(kind);
    digest.update(bytes);
    digest.finish()
}

fn got(stored: Stored, range: Range<usize>, partial: bool, bytes: Option<Bytes>) -> Got {
    let pieces: Vec<BodyChunk> = bytes
        .iter()
        .flat_map(|b| b.chunks(7))
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    Got {
        head: stored.head,
        offset: range.start as u64,
        len: range.len() as u64,
        partial,
        body: Box::pin(futures::stream::iter(pieces)),
    }
}

#[async_trait]
impl Objects for Fake {
    async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        names::check_bucket_name(name)?;
        let mut state = self.state();
        if let Some((info, _)) = state.buckets.get(name) {
            return Err(if info.owner == caller.user {
                ObjectError::BucketYours
            } else {
                ObjectError::BucketTaken
            });
        }
        let info = BucketInfo {
            id: BucketId(state.id()),
            name: name.into(),
            created_ms: state.now(),
            owner: caller.user,
            owner_name: caller.name.clone(),
        };
        state
            .buckets
            .insert(name.into(), (info.clone(), BTreeMap::new()));
        Ok(info)
    }

    async fn head_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        let mut state = self.state();
        state.bucket(caller, name)?;
        Ok(state.buckets[name].0.clone())
    }

    async fn list_buckets(&self, caller: &Caller) -> Result<Vec<BucketInfo>> {
        let state = self.state();
        Ok(state
            .buckets
            .values()
            .map(|b| b.0.clone())
            .filter(|b| b.owner == caller.user)
            .collect())
    }

    async fn delete_bucket(&self, caller: &Caller, name: &str) -> Result<()> {
        let mut state = self.state();
        if !state.bucket(caller, name)?.is_empty() {
            return Err(ObjectError::BucketNotEmpty);
        }
        state.buckets.remove(name);
        Ok(())
    }

    async fn put(&self, caller: &Caller, request: PutRequest, body: Body) -> Result<Written> {
        names::check_key(&request.key)?;
        names::check_user_metadata(&request.headers)?;
        self.state().bucket(caller, &request.bucket)?;
        let (bytes, digests) = collect(body, request.size, request.digests).await?;
        let stored = object(request.headers, bytes, digests);
        self.insert(
            caller,
            (&request.bucket, &request.key),
            &request.conditions,
            stored,
        )
    }

    async fn get(&self, caller: &Caller, request: GetRequest) -> Result<Got> {
        let (stored, range) = self.read(caller, &request)?;
        if request.key.starts_with("hold") {
            self.waiting.send_modify(|w| *w += 1);
            self.release.acquire().await.unwrap().forget();
        }
        let mut bytes = stored.bytes.slice(range.clone());
        if request.key == "broken" {
            bytes.truncate(bytes.len() / 2);
        }
        Ok(got(stored, range, request.range.is_some(), Some(bytes)))
    }

    async fn head(&self, caller: &Caller, request: GetRequest) -> Result<Got> {
        let (stored, range) = self.read(caller, &request)?;
        Ok(got(stored, range, request.range.is_some(), None))
    }

    async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<()> {
        let mut state = self.state();
        let objects = state.bucket(caller, &request.bucket)?;
        conditions::check_write(&request.conditions, objects.get(&request.key).map(current))
            .map_err(not_written)?;
        objects.remove(&request.key);
        Ok(())
    }

    async fn delete_many(&self, caller: &Caller, requests: Vec<DeleteRequest>) -> Vec<Result<()>> {
        let mut results = Vec::new();
        for request in requests {
            results.push(self.delete(caller, request).await);
        }
        results
    }

    async fn copy(&self, caller: &Caller, request: CopyRequest) -> Result<Written> {
        let source = request.source;
        let get = GetRequest {
            bucket: source.bucket,
            key: source.key,
            version: source.version,
            range: None,
            conditions: source.conditions,
        };
        let (found, _) = self.read(caller, &get)?;
        let digests = digests_of(
            &found.bytes,
            request.checksum.or(found.head.checksum.map(|c| c.kind)),
        );
        let stored = object(
            request.replace_headers.unwrap_or(found.head.headers),
            found.bytes,
            digests,
        );
        self.insert(
            caller,
            (&request.bucket, &request.key),
            &request.conditions,
            stored,
        )
    }

    async fn list(&self, caller: &Caller, request: ListRequest) -> Result<ListPage> {
        let mut state = self.state();
        let objects = state.bucket(caller, &request.bucket)?;
        let mut page = ListPage::default();
        let mut last = String::new();
        for (key, stored) in objects
            .iter()
            .filter(|(k, _)| k.starts_with(&request.prefix))
        {
            let rest = &key[request.prefix.len()..];
            let cut = request
                .delimiter
                .as_ref()
                .and_then(|d| rest.find(d.as_str()).map(|at| at + d.len()));
            let name = cut.map_or(key.as_str(), |at| &key[..request.prefix.len() + at]);
            if request.after.as_deref().is_some_and(|after| name <= after)
                || page.common_prefixes.iter().any(|p| p == name)
            {
                continue;
            }
            if page.objects.len() + page.common_prefixes.len()
                == request.max_keys.min(PAGE_KEYS_MAX)
            {
                page.next = Some(last).filter(|l| !l.is_empty());
                break;
            }
            last = name.to_owned();
            if cut.is_some() {
                page.common_prefixes.push(name.to_owned());
            } else {
                page.objects.push(ListedObject {
                    key: key.clone(),
                    version: stored.head.version,
                    size: stored.head.size,
                    etag: stored.head.etag.clone(),
                    modified_ms: stored.head.modified_ms,
                    checksum_kind: stored.head.checksum.as_ref().map(|c| c.kind),
                    owner: stored.head.owner,
                });
            }
        }
        Ok(page)
    }

    async fn create_upload(
        &self,
        caller: &Caller,
        request: CreateUploadRequest,
    ) -> Result<UploadId> {
        let mut state = self.state();
        state.bucket(caller, &request.bucket)?;
        let upload = UploadId(state.id());
        let info = UploadInfo {
            key: request.key,
            upload,
            created_ms: state.now(),
            owner: caller.user,
            checksum: request.checksum,
            storage_class: None,
        };
        let (bucket, headers) = (request.bucket, request.headers);
        state.uploads.insert(
            upload,
            Upload {
                bucket,
                info,
                headers,
                parts: BTreeMap::new(),
            },
        );
        Ok(upload)
    }

    async fn put_part(
        &self,
        caller: &Caller,
        request: PartRequest,
        body: Body,
    ) -> Result<PartInfo> {
        self.state()
            .upload(caller, &request.bucket, &request.key, request.upload)?;
        let (bytes, digests) = collect(body, request.size, request.digests).await?;
        let mut state = self.state();
        let modified_ms = state.now();
        let upload = state.upload(caller, &request.bucket, &request.key, request.upload)?;
        let info = PartInfo {
            part: request.part,
            size: digests.size,
            etag: digests.etag(),
            modified_ms,
            checksum: digests.checksum,
        };
        upload.parts.insert(request.part, (info.clone(), bytes));
        Ok(info)
    }

    async fn copy_part(
        &self,
        caller: &Caller,
        request: PartRequest,
        source: CopySource,
    ) -> Result<PartInfo> {
        let get = GetRequest {
            bucket: source.bucket,
            key: source.key,
            version: source.version,
            range: source.range,
            conditions: source.conditions,
        };
        let (stored, range) = self.read(caller, &get)?;
        let piece: BodyChunk = Ok(stored.bytes.slice(range));
        self.put_part(caller, request, Box::pin(futures::stream::iter([piece])))
            .await
    }

    async fn list_parts(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max_parts: usize,
    ) -> Result<PartPage> {
        let mut state = self.state();
        let upload = state.upload(caller, bucket, key, upload)?;
        let mut parts: Vec<PartInfo> = upload
            .parts
            .range(after + 1..)
            .map(|(_, (info, _))| info.clone())
            .collect();
        let more = parts.len() > max_parts;
        parts.truncate(max_parts);
        let next = parts.last().map(|p| p.part).filter(|_| more);
        Ok(PartPage {
            upload: upload.info.clone(),
            parts,
            next,
        })
    }

    async fn list_uploads(
        &self,
        caller: &Caller,
        list: ListRequest,
        _after_upload: Option<UploadId>,
    ) -> Result<UploadPage> {
        let mut state = self.state();
        state.bucket(caller, &list.bucket)?;
        let of_bucket = state
            .uploads
            .values()
            .filter(|u| u.bucket == list.bucket && u.info.key.starts_with(&list.prefix));
        let mut uploads: Vec<UploadInfo> = of_bucket.map(|u| u.info.clone()).collect();
        uploads.retain(|u| list.after.as_ref().is_none_or(|after| u.key > *after));
        uploads.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
        let more = uploads.len() > list.max_keys;
        uploads.truncate(list.max_keys);
        let next = uploads
            .last()
            .filter(|_| more)
            .map(|u| (u.key.clone(), Some(u.upload)));
        Ok(UploadPage {
            uploads,
            common_prefixes: Vec::new(),
            next,
        })
    }

    async fn complete_upload(&self, caller: &Caller, request: CompleteRequest) -> Result<Written> {
        let (bytes, mut stored) = {
            let mut state = self.state();
            let upload = state.upload(caller, &request.bucket, &request.key, request.upload)?;
            if !request.parts.is_sorted_by(|a, b| a.part < b.part) {
                return Err(ObjectError::InvalidPartOrder);
            }
            let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
            for (at, listed) in request.parts.iter().enumerate() {
                let part = upload
                    .parts
                    .get(&listed.part)
                    .filter(|p| p.0.etag == listed.etag);
                let (info, content) = part.ok_or(ObjectError::InvalidPart)?;
                if info.size < PART_BYTES_MIN && at + 1 < request.parts.len() {
                    return Err(ObjectError::PartTooSmall {
                        part: info.part,
                        size: info.size,
                    });
                }
                let start = bytes.len();
                bytes.extend_from_slice(content);
                ranges.push(start..bytes.len());
            }
            let bytes = Bytes::from(bytes);
            let digests = digests_of(&bytes, upload.info.checksum.map(|c| c.0));
            let mut stored = object(upload.headers.clone(), bytes.clone(), digests);
            stored.head.etag.0 = format!("{}-{}", stored.head.etag.0, ranges.len());
            stored.head.parts = u16::try_from(ranges.len()).ok();
            stored.parts = ranges;
            (bytes, stored)
        };
        stored.bytes = bytes;
        let written = self.insert(
            caller,
            (&request.bucket, &request.key),
            &request.conditions,
            stored,
        )?;
        self.state().uploads.remove(&request.upload);
        Ok(written)
    }

    async fn abort_upload(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
    ) -> Result<()> {
        let mut state = self.state();
        state.upload(caller, bucket, key, upload)?;
        state.uploads.remove(&upload);
        Ok(())
    }

    async fn whereabouts(&self, _: &Caller, _: &str, _: &str) -> Result<Whereabouts> {
        Err(ObjectError::NotImplemented(
            "whereabouts of objects in memory",
        ))
    }
}
