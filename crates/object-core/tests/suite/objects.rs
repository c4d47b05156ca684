//! What every implementation of [`Objects`] must do, as far as all of them can: buckets and owners, round trips,
//! conditions, ranges, copies, listings, uploads of one part.
//!
//! The tests of each implementation take this file in by its path: the test kit belongs to the ground and must not know
//! objects, and nothing that ships should hold a suite.

use bytes::Bytes;
use futures::TryStreamExt;
use ids::{UploadId, UserId};
use object_core::api::*;
use object_core::digest::md5_of;

const BUCKET: &str = "suite";

/// Runs the whole suite on a store without buckets.
///
/// # Panics
/// When the store does something else than its trait says.
pub async fn run(objects: &dyn Objects) {
    let asked = Asked(objects);
    asked.buckets_have_owners().await;
    asked.bytes_come_back_as_they_were_put().await;
    asked.what_is_not_there_is_said().await;
    asked.bodies_must_be_what_was_announced().await;
    asked.conditions_are_judged_on_the_current_object().await;
    asked.ranges_are_cut_out().await;
    asked.a_copy_is_an_object_of_its_own().await;
    asked.pages_go_on_in_the_order_of_bytes().await;
    asked
        .an_upload_becomes_an_object_when_it_is_completed()
        .await;
    asked.a_bucket_goes_when_it_is_empty().await;
}

fn owner() -> Caller {
    Caller {
        user: UserId([1; 16]),
        name: "owner".into(),
        admin: false,
        may_write: true,
    }
}

fn stranger() -> Caller {
    Caller {
        user: UserId([2; 16]),
        name: "stranger".into(),
        ..owner()
    }
}

fn content(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn body(bytes: &Bytes) -> Body {
    let pieces = bytes.chunks(100).map(Bytes::copy_from_slice);
    let pieces: Vec<BodyChunk> = pieces.map(Ok).collect();
    Box::pin(futures::stream::iter(pieces))
}

fn etag_of(bytes: &[u8]) -> ETag {
    ETag(md5_of(bytes).iter().map(|b| format!("{b:02x}")).collect())
}

fn to_put(key: &str) -> PutRequest {
    PutRequest {
        bucket: BUCKET.into(),
        key: key.into(),
        ..PutRequest::default()
    }
}

fn to_get(key: &str) -> GetRequest {
    GetRequest {
        bucket: BUCKET.into(),
        key: key.into(),
        ..GetRequest::default()
    }
}

fn to_delete(key: &str) -> DeleteRequest {
    DeleteRequest {
        bucket: BUCKET.into(),
        key: key.into(),
        ..DeleteRequest::default()
    }
}

struct Asked<'a>(&'a dyn Objects);

impl Asked<'_> {
    async fn put(&self, key: &str, bytes: &Bytes) -> Result<Written> {
        self.0.put(&owner(), to_put(key), body(bytes)).await
    }

    async fn get(&self, request: GetRequest) -> Result<Bytes> {
        let got = self.0.get(&owner(), request).await?;
        let len = got.len;
        let pieces: Vec<Bytes> = got
            .body
            .try_collect()
            .await
            .map_err(|error| ObjectError::BodyFailed(error.0))?;
        let whole = Bytes::from(pieces.concat());
        assert_eq!(whole.len() as u64, len);
        Ok(whole)
    }

    async fn buckets_have_owners(&self) {
        let objects = self.0;
        let missing = Some(ObjectError::NoSuchBucket(BUCKET.into()));
        assert_eq!(objects.head_bucket(&owner(), BUCKET).await.err(), missing);
        assert_eq!(self.put("a", &content(1)).await.err(), missing);
        let made = objects.create_bucket(&owner(), BUCKET).await.unwrap();
        assert_eq!((made.name.as_str(), made.owner), (BUCKET, owner().user));
        for (caller, refusal) in [
            (owner(), ObjectError::BucketYours),
            (stranger(), ObjectError::BucketTaken),
        ] {
            let again = objects.create_bucket(&caller, BUCKET).await;
            assert_eq!(again.err(), Some(refusal));
        }
        let bad = objects.create_bucket(&owner(), "No").await.err();
        assert!(matches!(bad, Some(ObjectError::BadBucketName { .. })));
        let refused = Some(ObjectError::AccessDenied);
        let head = objects.head_bucket(&stranger(), BUCKET).await;
        assert_eq!(head.err(), refused);
        let put = objects
            .put(&stranger(), to_put("a"), body(&content(1)))
            .await;
        assert_eq!(put.err(), refused);
        let mine = objects.list_buckets(&owner()).await.unwrap();
        let mine: Vec<_> = mine.iter().map(|bucket| bucket.id).collect();
        assert_eq!(mine, [made.id]);
        let theirs = objects.list_buckets(&stranger()).await.unwrap();
        assert!(theirs.is_empty(), "{theirs:?}");
    }

    async fn bytes_come_back_as_they_were_put(&self) {
        for len in [0, 1, 5_000] {
            let bytes = content(len);
            for key in ["plain", "a/b//c/", "..", " ", "\u{1F980}"] {
                let mut request = to_put(key);
                request.headers.content_type = Some("text/x".into());
                request.headers.user.insert("colour".into(), "red".into());
                let headers = request.headers.clone();
                let put = self.0.put(&owner(), request, body(&bytes)).await.unwrap();
                assert_eq!((put.size, &put.etag), (len as u64, &etag_of(&bytes)));
                assert_eq!(self.get(to_get(key)).await.unwrap(), bytes);
                let head = self.0.head(&owner(), to_get(key)).await.unwrap().head;
                assert_eq!((head.size, head.etag), (put.size, put.etag));
                assert_eq!((head.headers, head.parts), (headers, None));
                self.0.delete(&owner(), to_delete(key)).await.unwrap();
            }
        }
    }

    async fn what_is_not_there_is_said(&self) {
        let missing = Some(ObjectError::NoSuchKey);
        assert_eq!(self.get(to_get("none")).await.err(), missing);
        let head = self.0.head(&owner(), to_get("none")).await;
        assert_eq!(head.err(), missing);
        self.0.delete(&owner(), to_delete("none")).await.unwrap();
        let many = vec![to_delete("none"), to_delete("nor this")];
        let gone = self.0.delete_many(&owner(), many).await;
        assert_eq!(gone, [Ok(()), Ok(())]);
        for len in [0, KEY_BYTES_MAX + 1] {
            let put = self.put(&"k".repeat(len), &content(1)).await;
            assert_eq!(put.err(), Some(ObjectError::KeyTooLong(len)));
        }
    }

    async fn bodies_must_be_what_was_announced(&self) {
        let bytes = content(500);
        let mut request = to_put("short");
        request.size = Some(501);
        let put = self.0.put(&owner(), request, body(&bytes)).await.err();
        let expected = ObjectError::IncompleteBody {
            got: 500,
            expected: 501,
        };
        assert_eq!(put, Some(expected));
        let mut request = to_put("other");
        request.digests.md5 = Some([7; 16]);
        let put = self.0.put(&owner(), request, body(&bytes)).await.err();
        assert!(matches!(put, Some(ObjectError::BadDigest(_))), "{put:?}");
        for key in ["short", "other"] {
            assert_eq!(
                self.get(to_get(key)).await.err(),
                Some(ObjectError::NoSuchKey)
            );
        }
    }

    async fn conditions_are_judged_on_the_current_object(&self) {
        let (first, second) = (content(10), content(20));
        let only_new = || Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..Conditions::default()
        };
        let only_first = || Conditions {
            if_match: Some(ETagMatch::OneOf(vec![etag_of(&first)])),
            ..Conditions::default()
        };
        let put = async |conditions: Conditions, bytes: &Bytes| {
            let request = PutRequest {
                conditions,
                ..to_put("k")
            };
            self.0.put(&owner(), request, body(bytes)).await
        };
        let refused = |error: Option<ObjectError>| {
            assert!(
                matches!(error, Some(ObjectError::PreconditionFailed(_))),
                "{error:?}"
            );
        };
        put(only_new(), &first).await.unwrap();
        refused(put(only_new(), &second).await.err());
        put(only_first(), &second).await.unwrap();
        refused(put(only_first(), &first).await.err());
        let request = GetRequest {
            conditions: only_first(),
            ..to_get("k")
        };
        refused(self.get(request).await.err());
        let unchanged = GetRequest {
            conditions: Conditions {
                if_none_match: Some(ETagMatch::OneOf(vec![etag_of(&second)])),
                ..Conditions::default()
            },
            ..to_get("k")
        };
        let unchanged = self.get(unchanged).await.err();
        assert!(
            matches!(&unchanged, Some(ObjectError::NotModified { etag, .. }) if *etag == etag_of(&second)),
            "{unchanged:?}"
        );
        let request = DeleteRequest {
            conditions: only_first(),
            ..to_delete("k")
        };
        refused(self.0.delete(&owner(), request).await.err());
        assert_eq!(self.get(to_get("k")).await.unwrap(), second);
        self.0.delete(&owner(), to_delete("k")).await.unwrap();
    }

    async fn ranges_are_cut_out(&self) {
        let bytes = content(3_000);
        self.put("k", &bytes).await.unwrap();
        let between = |first, last| ByteRange::Between { first, last };
        for (range, expected) in [
            (between(0, Some(0)), 0..1),
            (between(999, Some(2_001)), 999..2_002),
            (between(2_999, Some(9_999)), 2_999..3_000),
            (between(10, None), 10..3_000),
            (ByteRange::Suffix(1), 2_999..3_000),
            (ByteRange::Suffix(9_999), 0..3_000),
            (ByteRange::Part(1), 0..3_000),
        ] {
            let request = GetRequest {
                range: Some(range),
                ..to_get("k")
            };
            assert_eq!(
                self.get(request).await.unwrap(),
                bytes.slice(expected),
                "{range:?}"
            );
        }
        for range in [between(3_000, None), ByteRange::Suffix(0)] {
            let request = GetRequest {
                range: Some(range),
                ..to_get("k")
            };
            let expected = ObjectError::InvalidRange { size: 3_000 };
            assert_eq!(self.get(request).await.err(), Some(expected), "{range:?}");
        }
        self.0.delete(&owner(), to_delete("k")).await.unwrap();
    }

    async fn a_copy_is_an_object_of_its_own(&self) {
        let bytes = content(2_000);
        self.put("from", &bytes).await.unwrap();
        let copy = |from: &str| CopyRequest {
            source: CopySource {
                bucket: BUCKET.into(),
                key: from.into(),
                version: None,
                conditions: Conditions::default(),
                range: None,
            },
            bucket: BUCKET.into(),
            key: "to".into(),
            replace_headers: None,
            conditions: Conditions::default(),
            checksum: None,
        };
        let none = self.0.copy(&owner(), copy("none")).await;
        assert_eq!(none.err(), Some(ObjectError::NoSuchKey));
        let copied = self.0.copy(&owner(), copy("from")).await.unwrap();
        assert_eq!(copied.etag, etag_of(&bytes));
        self.0.delete(&owner(), to_delete("from")).await.unwrap();
        assert_eq!(self.get(to_get("to")).await.unwrap(), bytes);
        self.0.delete(&owner(), to_delete("to")).await.unwrap();
    }

    async fn pages_go_on_in_the_order_of_bytes(&self) {
        let keys = ["a", "a/1", "a/2", "b", "b/1", "c", "\u{e9}"];
        for key in keys.iter().rev() {
            self.put(key, &content(1)).await.unwrap();
        }
        for max_keys in [1, 2, 100] {
            assert_eq!(self.listed("", None, max_keys).await, keys);
            let names = ["a", "a/", "b", "b/", "c", "\u{e9}"];
            assert_eq!(self.listed("", Some("/"), max_keys).await, names);
            assert_eq!(self.listed("a/", Some("/"), max_keys).await, ["a/1", "a/2"]);
            assert!(self.listed("d", None, max_keys).await.is_empty());
        }
        let many = keys.iter().map(|key| to_delete(key)).collect();
        let gone = self.0.delete_many(&owner(), many).await;
        assert!(gone.iter().all(|gone| *gone == Ok(())), "{gone:?}");
    }

    /// Keys and common prefixes of all pages.
    async fn listed(&self, prefix: &str, delimiter: Option<&str>, max_keys: usize) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let request = ListRequest {
                bucket: BUCKET.into(),
                prefix: prefix.into(),
                delimiter: delimiter.map(str::to_owned),
                after,
                max_keys,
            };
            let page = self.0.list(&owner(), request).await.unwrap();
            let mut names: Vec<String> = page.objects.into_iter().map(|one| one.key).collect();
            names.extend(page.common_prefixes);
            assert!(names.len() <= max_keys);
            names.sort_unstable();
            all.extend(names);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    async fn an_upload_becomes_an_object_when_it_is_completed(&self) {
        let bytes = content(3_000);
        let upload = self.begin_upload().await;
        let part = self.put_part(upload, &content(7)).await.unwrap();
        assert_eq!(part.etag, etag_of(&content(7)));
        let part = self.put_part(upload, &bytes).await.unwrap();
        let listed = self
            .0
            .list_parts(&owner(), BUCKET, "k", upload, 0, 10)
            .await;
        assert_eq!(listed.unwrap().parts, std::slice::from_ref(&part));
        assert_eq!(
            self.get(to_get("k")).await.err(),
            Some(ObjectError::NoSuchKey)
        );
        let wrong = self.complete(upload, ETag("0".repeat(32))).await;
        assert_eq!(wrong.err(), Some(ObjectError::InvalidPart));
        let written = self.complete(upload, part.etag).await.unwrap();
        assert_eq!(written.size, 3_000);
        assert!(written.etag.0.ends_with("-1"), "{:?}", written.etag);
        assert_eq!(self.get(to_get("k")).await.unwrap(), bytes);
        self.0.delete(&owner(), to_delete("k")).await.unwrap();

        let upload = self.begin_upload().await;
        let aborted = self.0.abort_upload(&owner(), BUCKET, "k", upload).await;
        aborted.unwrap();
        let part = self.put_part(upload, &bytes).await;
        assert_eq!(part.err(), Some(ObjectError::NoSuchUpload));
    }

    async fn begin_upload(&self) -> UploadId {
        let request = CreateUploadRequest {
            bucket: BUCKET.into(),
            key: "k".into(),
            headers: ContentHeaders::default(),
            checksum: None,
        };
        self.0.create_upload(&owner(), request).await.unwrap()
    }

    async fn put_part(&self, upload: UploadId, bytes: &Bytes) -> Result<PartInfo> {
        let request = PartRequest {
            bucket: BUCKET.into(),
            key: "k".into(),
            upload,
            part: 1,
            size: None,
            digests: ExpectedDigests::default(),
        };
        self.0.put_part(&owner(), request, body(bytes)).await
    }

    async fn complete(&self, upload: UploadId, etag: ETag) -> Result<Written> {
        let part = CompletedPart {
            part: 1,
            etag,
            checksum: None,
        };
        let request = CompleteRequest {
            bucket: BUCKET.into(),
            key: "k".into(),
            upload,
            parts: vec![part],
            conditions: Conditions::default(),
            checksum: None,
            size: None,
        };
        self.0.complete_upload(&owner(), request).await
    }

    async fn a_bucket_goes_when_it_is_empty(&self) {
        self.put("last", &content(1)).await.unwrap();
        let refused = self.0.delete_bucket(&owner(), BUCKET).await;
        assert_eq!(refused.err(), Some(ObjectError::BucketNotEmpty));
        self.0.delete(&owner(), to_delete("last")).await.unwrap();
        let refused = self.0.delete_bucket(&stranger(), BUCKET).await;
        assert_eq!(refused.err(), Some(ObjectError::AccessDenied));
        self.0.delete_bucket(&owner(), BUCKET).await.unwrap();
        assert!(self.0.list_buckets(&owner()).await.unwrap().is_empty());
    }
}
