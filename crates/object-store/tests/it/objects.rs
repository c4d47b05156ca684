//! What a door gets from a healthy site.

use bytes::Bytes;
use ids::GroupId;
use object_core::api::*;
use object_core::digest::{checksum_of, md5_of};
use raft_machine::local::Interruption;
use testkit::sim::block_on;

use crate::site::*;

async fn site_with_bucket(servers: u64) -> Site {
    let site = Site::new(servers).await;
    site.gateway(1)
        .create_bucket(&caller(), "bucket")
        .await
        .unwrap();
    site
}

#[test]
fn objects_of_all_sizes_come_back_from_any_node() {
    block_on(async {
        for servers in [1, 2, 3] {
            let site = site_with_bucket(servers).await;
            let sizes = [
                0,
                1,
                INLINE - 1,
                INLINE,
                INLINE + 1,
                BLOCK - 1,
                BLOCK,
                BLOCK + 1,
                3 * BLOCK,
                12_345,
            ];
            for size in sizes {
                let content = bytes(size);
                let key = format!("size {size}");
                let written = put(site.gateway(1), &key, &content).await.unwrap();
                assert_eq!(written.etag.0, written_etag(&content));
                for node in 1..=servers {
                    assert_eq!(
                        get(site.gateway(node), &key).await.unwrap(),
                        content,
                        "{size} from {node}"
                    );
                }
                let head = site
                    .gateway(1)
                    .head(&caller(), get_request("bucket", &key))
                    .await
                    .unwrap();
                assert_eq!(head.head.size, size as u64);
            }
            let blocks: u64 = sizes
                .iter()
                .filter(|size| **size > INLINE)
                .map(|size| size.div_ceil(BLOCK) as u64)
                .sum();
            assert_eq!(site.blocks(), vec![blocks; servers as usize]);
            assert_eq!(site.stats().await.debt, 0);
        }
    });
}

fn written_etag(content: &Bytes) -> String {
    md5_of(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn large_blocks_travel_by_stream() {
    block_on(async {
        let options = object_store::gateway::GatewayOptions {
            block_bytes: 3 << 20,
            ..options()
        };
        let site = Site::with(3, options).await;
        site.gateway(1)
            .create_bucket(&caller(), "bucket")
            .await
            .unwrap();
        let content = bytes(7 << 20);
        put(site.gateway(2), "large", &content).await.unwrap();
        assert_eq!(site.blocks(), [3, 3, 3]);
        for id in site.nodes[&ids::NodeId(1)]
            .store
            .older_than(u32::MAX, None, 10)
            .0
        {
            site.nodes[&ids::NodeId(1)]
                .store
                .delete(&[id])
                .await
                .unwrap();
        }
        assert_eq!(
            get(site.gateway(1), "large").await.unwrap(),
            content,
            "read from the others"
        );
    });
}

#[test]
fn ranges_give_the_bytes_that_were_asked_for() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let content = bytes(5 * BLOCK + 7);
        put(site.gateway(1), "key", &content).await.unwrap();
        let size = content.len() as u64;
        let block = BLOCK as u64;
        let spans = [
            (0, 0),
            (0, size - 1),
            (block - 1, block),
            (block, 2 * block - 1),
            (3 * block + 5, size + 100),
            (size - 1, size - 1),
        ];
        for (first, last) in spans {
            let range = Some(ByteRange::Between {
                first,
                last: Some(last),
            });
            let got = site
                .gateway(2)
                .get(
                    &caller(),
                    GetRequest {
                        range,
                        ..get_request("bucket", "key")
                    },
                )
                .await
                .unwrap();
            assert!(got.partial && got.offset == first);
            let end = (last + 1).min(size) as usize;
            assert_eq!(read(got).await.unwrap(), content.slice(first as usize..end));
        }
        let range = Some(ByteRange::Suffix(1500));
        let got = site
            .gateway(3)
            .get(
                &caller(),
                GetRequest {
                    range,
                    ..get_request("bucket", "key")
                },
            )
            .await
            .unwrap();
        assert_eq!(
            read(got).await.unwrap(),
            content.slice(content.len() - 1500..)
        );
        let range = Some(ByteRange::Between {
            first: size,
            last: None,
        });
        let got = site
            .gateway(1)
            .get(
                &caller(),
                GetRequest {
                    range,
                    ..get_request("bucket", "key")
                },
            )
            .await;
        assert_eq!(got.err(), Some(ObjectError::InvalidRange { size }));
    });
}

#[test]
fn a_body_that_is_not_what_was_said_leaves_nothing() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let content = bytes(2500);
        let attempt = async |size: Option<u64>, digests: ExpectedDigests, body: Body| {
            let request = PutRequest {
                size,
                digests,
                ..put_request("bucket", "key")
            };
            site.gateway(1)
                .put(&caller(), request, body)
                .await
                .unwrap_err()
        };
        let short = attempt(Some(2600), ExpectedDigests::default(), body(&content)).await;
        assert_eq!(
            short,
            ObjectError::IncompleteBody {
                got: 2500,
                expected: 2600
            }
        );
        let md5 = ExpectedDigests {
            md5: Some([1; 16]),
            ..ExpectedDigests::default()
        };
        assert!(matches!(
            attempt(None, md5, body(&content)).await,
            ObjectError::BadDigest(_)
        ));
        let broken: Body = Box::pin(futures::stream::iter([
            Ok(content.clone()),
            Err(BodyError("cut".into())),
        ]));
        assert_eq!(
            attempt(None, ExpectedDigests::default(), broken).await,
            ObjectError::BodyFailed("cut".into())
        );
        assert_eq!(
            get(site.gateway(1), "key").await,
            Err(ObjectError::NoSuchKey)
        );
        assert_eq!(site.stats().await.pending, 3);
        assert_eq!(site.job(1, "give-up").await.last.done, 3);
        assert_eq!(site.job(1, "collect").await.last.done, 3);
        assert_eq!(
            (site.stats().await.doomed, site.blocks()),
            (0, vec![0, 0, 0])
        );
    });
}

#[test]
fn a_dropped_upload_is_given_up() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let started: Body = Box::pin(futures::StreamExt::chain(
            futures::stream::iter([Ok(bytes(3000))]),
            futures::stream::pending(),
        ));
        let gateway = site.gateway(1).clone();
        let upload = tokio::spawn(async move {
            gateway
                .put(&caller(), put_request("bucket", "key"), started)
                .await
        });
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        upload.abort();
        assert!(upload.await.unwrap_err().is_cancelled());
        assert!(site.blocks()[0] > 0);
        assert_eq!(site.job(1, "give-up").await.last.done, 1);
        site.job(1, "collect").await;
        assert_eq!(site.blocks(), [0, 0, 0]);
    });
}

#[test]
fn digests_that_were_asked_for_are_kept() {
    block_on(async {
        let site = site_with_bucket(1).await;
        let content = bytes(2500);
        let value = checksum_of(ChecksumKind::Crc32c, &content);
        let digests = ExpectedDigests {
            md5: Some(md5_of(&content)),
            checksum: Some(ChecksumKind::Crc32c),
            trailing: Some(Box::new({
                let value = value.clone();
                move || Ok(Some(value))
            })),
            ..ExpectedDigests::default()
        };
        let request = PutRequest {
            digests,
            ..put_request("bucket", "key")
        };
        let written = site
            .gateway(1)
            .put(&caller(), request, body(&content))
            .await
            .unwrap();
        assert_eq!(written.checksum.unwrap().value, value);
        let head = site
            .gateway(1)
            .head(&caller(), get_request("bucket", "key"))
            .await
            .unwrap()
            .head;
        assert_eq!(head.checksum.unwrap().value, value);
    });
}

#[test]
fn an_overwritten_or_deleted_object_leaves_no_blocks() {
    block_on(async {
        let site = site_with_bucket(3).await;
        put(site.gateway(1), "key", &bytes(5000)).await.unwrap();
        put(site.gateway(2), "key", &bytes(2001)).await.unwrap();
        assert_eq!(site.blocks(), [8, 8, 8]);
        assert_eq!(site.job(1, "collect").await.last.done, 1);
        assert_eq!(site.blocks(), [3, 3, 3]);
        delete(site.gateway(3), "key").await.unwrap();
        assert_eq!(
            get(site.gateway(1), "key").await,
            Err(ObjectError::NoSuchKey)
        );
        site.job(1, "collect").await;
        assert_eq!(
            (site.stats().await.doomed, site.blocks()),
            (0, vec![0, 0, 0])
        );
        delete(site.gateway(3), "key").await.unwrap();
    });
}

#[test]
fn conditions_hold_for_reads_and_writes() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let gateway = site.gateway(1);
        let only_new = Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..Conditions::default()
        };
        let request = || PutRequest {
            conditions: only_new.clone(),
            ..put_request("bucket", "key")
        };
        let written = gateway
            .put(&caller(), request(), body(&bytes(2000)))
            .await
            .unwrap();
        let again = gateway.put(&caller(), request(), body(&bytes(10))).await;
        assert!(matches!(again, Err(ObjectError::PreconditionFailed(_))));
        let known = Conditions {
            if_none_match: Some(ETagMatch::OneOf(vec![written.etag.clone()])),
            ..Conditions::default()
        };
        let got = gateway
            .get(
                &caller(),
                GetRequest {
                    conditions: known,
                    ..get_request("bucket", "key")
                },
            )
            .await;
        let modified_ms = written.modified_ms;
        let etag = written.etag;
        assert_eq!(
            got.err(),
            Some(ObjectError::NotModified { etag, modified_ms })
        );
        let other = Conditions {
            if_match: Some(ETagMatch::OneOf(vec![ETag("x".into())])),
            ..Conditions::default()
        };
        let request = DeleteRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            conditions: other,
            version: None,
        };
        assert!(matches!(
            gateway.delete(&caller(), request).await,
            Err(ObjectError::PreconditionFailed(_))
        ));
    });
}

#[test]
fn a_conditional_put_whose_answer_was_lost_succeeds() {
    block_on(async {
        let site = site_with_bucket(3).await;
        for group in 1..=GROUPS {
            site.groups
                .interrupt(GroupId(group), Interruption::LoseResponse, 2);
            site.groups
                .interrupt(GroupId(group), Interruption::LoseProposal, 2);
        }
        let conditions = Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..Conditions::default()
        };
        let request = PutRequest {
            conditions,
            ..put_request("bucket", "key")
        };
        site.gateway(1)
            .put(&caller(), request, body(&bytes(3000)))
            .await
            .unwrap();
        assert_eq!(get(site.gateway(1), "key").await.unwrap(), bytes(3000));
    });
}

#[test]
fn a_group_that_stays_away_is_said_after_the_deadline() {
    block_on(async {
        let site = site_with_bucket(1).await;
        for group in 1..=GROUPS {
            site.groups
                .interrupt(GroupId(group), Interruption::LoseQuery, 10_000);
        }
        assert!(matches!(
            get(site.gateway(1), "key").await,
            Err(ObjectError::Unavailable(_))
        ));
    });
}

#[test]
fn listing_pages_through_all_groups_in_order() {
    block_on(async {
        let site = site_with_bucket(1).await;
        let mut expected: Vec<String> =
            (0..57).map(|n| format!("dir{}/key{n:02}", n % 3)).collect();
        for key in &expected {
            put(site.gateway(1), key, &bytes(1)).await.unwrap();
        }
        expected.sort();
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let request = ListRequest {
                bucket: "bucket".into(),
                after,
                max_keys: 10,
                ..ListRequest::default()
            };
            let page = site.gateway(1).list(&caller(), request).await.unwrap();
            assert!(page.objects.len() <= 10);
            listed.extend(page.objects.into_iter().map(|object| object.key));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, expected);
        let delimiter = Some("/".to_owned());
        let request = ListRequest {
            bucket: "bucket".into(),
            delimiter,
            max_keys: 1000,
            ..ListRequest::default()
        };
        let page = site.gateway(1).list(&caller(), request).await.unwrap();
        assert_eq!(
            (page.objects.len(), page.common_prefixes),
            (0, vec!["dir0/".into(), "dir1/".into(), "dir2/".into()])
        );
    });
}

#[test]
fn many_keys_are_deleted_at_once_each_with_its_own_result() {
    block_on(async {
        let site = site_with_bucket(1).await;
        for n in 0..20 {
            put(site.gateway(1), &format!("key{n}"), &bytes(1))
                .await
                .unwrap();
        }
        let request = |key: String| DeleteRequest {
            bucket: "bucket".into(),
            key,
            ..DeleteRequest::default()
        };
        let mut requests: Vec<_> = (0..20).map(|n| request(format!("key{n}"))).collect();
        requests.insert(3, request("x".repeat(KEY_BYTES_MAX + 1)));
        let results = site.gateway(1).delete_many(&caller(), requests).await;
        for (at, result) in results.into_iter().enumerate() {
            assert_eq!(result.is_err(), at == 3);
        }
        assert_eq!(site.stats().await.objects, 0);
    });
}

#[test]
fn a_copy_has_its_own_bytes() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let gateway = site.gateway(1);
        let content = bytes(4321);
        put(gateway, "from", &content).await.unwrap();
        let source = |conditions| CopySource {
            bucket: "bucket".into(),
            key: "from".into(),
            version: None,
            conditions,
            range: None,
        };
        let copy = |key: &str, replace_headers, conditions| CopyRequest {
            source: source(conditions),
            bucket: "bucket".into(),
            key: key.into(),
            replace_headers,
            conditions: Conditions::default(),
            checksum: None,
        };
        gateway
            .copy(&caller(), copy("to", None, Conditions::default()))
            .await
            .unwrap();
        delete(gateway, "from").await.unwrap();
        site.job(1, "collect").await;
        assert_eq!(get(site.gateway(2), "to").await.unwrap(), content);

        put(gateway, "from", &content).await.unwrap();
        let onto_itself = gateway
            .copy(&caller(), copy("from", None, Conditions::default()))
            .await;
        assert!(matches!(onto_itself, Err(ObjectError::InvalidRequest(_))));
        let headers = ContentHeaders {
            content_type: Some("text/plain".into()),
            ..ContentHeaders::default()
        };
        gateway
            .copy(
                &caller(),
                copy("from", Some(headers.clone()), Conditions::default()),
            )
            .await
            .unwrap();
        let got = gateway
            .get(&caller(), get_request("bucket", "from"))
            .await
            .unwrap();
        assert_eq!(got.head.headers, headers);
        assert_eq!(read(got).await.unwrap(), content);
        let conditions = Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..Conditions::default()
        };
        let failed = gateway.copy(&caller(), copy("to", None, conditions)).await;
        assert!(matches!(failed, Err(ObjectError::PreconditionFailed(_))));
    });
}

#[test]
fn parts_become_an_object() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let request = CreateUploadRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            headers: ContentHeaders::default(),
            checksum: None,
        };
        let upload = site
            .gateway(1)
            .create_upload(&caller(), request)
            .await
            .unwrap();
        let part_request = |part| PartRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            upload,
            part,
            size: None,
            digests: ExpectedDigests::default(),
        };
        let large = bytes(PART_BYTES_MIN as usize);
        let small = bytes(33);
        put(site.gateway(2), "source", &bytes(3000)).await.unwrap();
        let source = CopySource {
            bucket: "bucket".into(),
            key: "source".into(),
            version: None,
            conditions: Conditions::default(),
            range: Some(ByteRange::Between {
                first: 10,
                last: Some(2009),
            }),
        };
        // Each part by another gateway; part 1 is replaced, part 5 left out.
        site.gateway(1)
            .put_part(&caller(), part_request(1), body(&small))
            .await
            .unwrap();
        let one = site
            .gateway(2)
            .put_part(&caller(), part_request(1), body(&large))
            .await
            .unwrap();
        let three = site
            .gateway(3)
            .put_part(&caller(), part_request(3), body(&small))
            .await
            .unwrap();
        let copied = site
            .gateway(3)
            .copy_part(&caller(), part_request(5), source)
            .await
            .unwrap();
        assert_eq!(copied.size, 2000);
        let page = site
            .gateway(1)
            .list_parts(&caller(), "bucket", "key", upload, 0, 2)
            .await
            .unwrap();
        assert_eq!(
            page.parts.iter().map(|part| part.part).collect::<Vec<_>>(),
            [1, 3]
        );
        assert_eq!(page.next, Some(3));
        let uploads = ListRequest {
            bucket: "bucket".into(),
            max_keys: 10,
            ..ListRequest::default()
        };
        let uploads = site
            .gateway(1)
            .list_uploads(&caller(), uploads, None)
            .await
            .unwrap();
        assert_eq!(uploads.uploads.len(), 1);
        let listed = |info: PartInfo| CompletedPart {
            part: info.part,
            etag: info.etag,
            checksum: None,
        };
        let complete = CompleteRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            upload,
            parts: vec![listed(one), listed(three)],
            conditions: Conditions::default(),
            checksum: None,
            size: None,
        };
        let written = site
            .gateway(2)
            .complete_upload(&caller(), complete)
            .await
            .unwrap();
        assert!(written.etag.0.ends_with("-2"), "{:?}", written.etag);
        let whole: Bytes = [large.clone(), small.clone()].concat().into();
        assert_eq!(get(site.gateway(3), "key").await.unwrap(), whole);
        let range = Some(ByteRange::Part(3));
        let got = site
            .gateway(1)
            .get(
                &caller(),
                GetRequest {
                    range,
                    ..get_request("bucket", "key")
                },
            )
            .await
            .unwrap();
        assert_eq!(read(got).await.unwrap(), small);
        let gone = site
            .gateway(1)
            .put_part(&caller(), part_request(1), body(&small))
            .await;
        assert_eq!(gone.err(), Some(ObjectError::NoSuchUpload));
        site.job(1, "collect").await;
        let blocks = large.len().div_ceil(BLOCK) as u64 + 3;
        assert_eq!(site.blocks(), [blocks; 3]);
    });
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let (bucket, key) = ("bucket".to_owned(), "key".to_owned());
        let headers = ContentHeaders::default();
        let request = CreateUploadRequest {
            bucket: bucket.clone(),
            key: key.clone(),
            headers,
            checksum: None,
        };
        let upload = site
            .gateway(1)
            .create_upload(&caller(), request)
            .await
            .unwrap();
        let digests = ExpectedDigests::default();
        let request = PartRequest {
            bucket,
            key,
            upload,
            part: 1,
            size: None,
            digests,
        };
        site.gateway(1)
            .put_part(&caller(), request, body(&bytes(5000)))
            .await
            .unwrap();
        let deleting = site.gateway(1).delete_bucket(&caller(), "bucket").await;
        assert_eq!(deleting, Err(ObjectError::BucketNotEmpty));
        site.gateway(2)
            .abort_upload(&caller(), "bucket", "key", upload)
            .await
            .unwrap();
        site.job(1, "collect").await;
        assert_eq!(site.blocks(), [0, 0, 0]);
        site.gateway(1)
            .delete_bucket(&caller(), "bucket")
            .await
            .unwrap();
    });
}

#[test]
fn whereabouts_are_where_the_bytes_are() {
    block_on(async {
        let site = site_with_bucket(3).await;
        put(site.gateway(1), "key", &bytes(2500)).await.unwrap();
        let place = site
            .gateway(1)
            .whereabouts(&caller(), "bucket", "key")
            .await
            .unwrap();
        assert_eq!(
            (place.inline, place.blocks.len(), place.group_servers.len()),
            (false, 3, 3)
        );
        for block in place.blocks {
            assert!(block.missing.is_empty() && block.servers.len() == 3);
            for server in block.servers {
                assert!(site.nodes[&server].store.has(&[block.block])[0]);
            }
        }
        put(site.gateway(1), "small", &bytes(5)).await.unwrap();
        assert!(
            site.gateway(1)
                .whereabouts(&caller(), "bucket", "small")
                .await
                .unwrap()
                .inline
        );
    });
}

#[test]
fn the_gateway_is_an_object_store() {
    block_on(async {
        for servers in [1, 3] {
            let site = Site::new(servers).await;
            crate::suite::run(site.gateway(1)).await;
        }
    });
}
