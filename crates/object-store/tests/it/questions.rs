//! How often requests ask the groups: each question is a way to another node and back.

use bytes::Bytes;
use ids::GroupId;
use object_core::api::*;
use object_core::slots::{KEY_SLOTS_DEFAULT, group_of_slot, slot_of_key};
use testkit::sim::block_on;

use crate::site::*;

/// Questions that all groups were asked so far.
fn asked(site: &Site) -> u64 {
    (1..=GROUPS)
        .map(|group| site.groups.calls(GroupId(group)).1)
        .sum()
}

async fn get_range(site: &Site, key: &str, range: ByteRange) -> Bytes {
    let request = GetRequest {
        range: Some(range),
        ..get_request("bucket", key)
    };
    let got = site.gateway(2).get(&caller(), request).await.unwrap();
    read(got).await.unwrap()
}

#[test]
fn an_object_of_few_blocks_is_read_with_one_question() {
    block_on(async {
        let site = Site::new(3).await;
        let gateway = site.gateway(1);
        gateway.create_bucket(&caller(), "bucket").await.unwrap();
        for (blocks, questions) in [(0, 1), (1, 1), (64, 1), (65, 2)] {
            let content = bytes(blocks * BLOCK);
            let key = format!("{blocks} blocks");
            put(gateway, &key, &content).await.unwrap();
            let before = asked(&site);
            assert_eq!(get(site.gateway(2), &key).await.unwrap(), content);
            assert_eq!(asked(&site) - before, questions, "{key}");
            let before = asked(&site);
            gateway
                .head(&caller(), get_request("bucket", &key))
                .await
                .unwrap();
            assert_eq!(asked(&site) - before, 1, "HEAD of {key}");
        }
        let content = bytes(65 * BLOCK);
        for (key, first, questions) in [("64 blocks", 62_500, 1), ("65 blocks", 64_500, 2)] {
            let before = asked(&site);
            let range = ByteRange::Between {
                first,
                last: Some(first + 1_000),
            };
            let end = content.len().min(first as usize + 1_001);
            let wanted = content.slice(first as usize..end);
            assert_eq!(get_range(&site, key, range).await, wanted);
            assert_eq!(asked(&site) - before, questions, "a range of {key}");
        }
    });
}

#[test]
fn an_object_in_few_parts_is_read_with_one_question() {
    block_on(async {
        let options = object_store::gateway::GatewayOptions {
            block_bytes: 3 << 20,
            ..options()
        };
        let site = Site::with(3, options).await;
        let gateway = site.gateway(1);
        gateway.create_bucket(&caller(), "bucket").await.unwrap();
        let create = CreateUploadRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            headers: ContentHeaders::default(),
            checksum: None,
        };
        let upload = gateway.create_upload(&caller(), create).await.unwrap();
        let contents = [bytes(PART_BYTES_MIN as usize), bytes(100_000)];
        let mut parts = Vec::new();
        // All but the last part are large.
        for (part, content) in [(1, &contents[0]), (2, &contents[0]), (3, &contents[1])] {
            let request = PartRequest {
                bucket: "bucket".into(),
                key: "key".into(),
                upload,
                part,
                size: None,
                digests: ExpectedDigests::default(),
            };
            let written = gateway
                .put_part(&caller(), request, body(content))
                .await
                .unwrap();
            parts.push(CompletedPart {
                part,
                etag: written.etag,
                checksum: None,
            });
        }
        let complete = CompleteRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            upload,
            parts,
            conditions: Conditions::default(),
            checksum: None,
            size: None,
        };
        gateway.complete_upload(&caller(), complete).await.unwrap();
        let whole = [&contents[0][..], &contents[0][..], &contents[1][..]].concat();
        let before = asked(&site);
        assert_eq!(get(site.gateway(2), "key").await.unwrap(), whole);
        assert_eq!(asked(&site) - before, 1);
        let before = asked(&site);
        let last = get_range(&site, "key", ByteRange::Part(3)).await;
        assert_eq!(last, contents[1]);
        assert_eq!(asked(&site) - before, 1);
    });
}

#[test]
fn a_list_asks_every_group_once_and_again_only_where_more_keys_lie() {
    block_on(async {
        let site = Site::new(1).await;
        let gateway = site.gateway(1);
        let bucket = gateway.create_bucket(&caller(), "bucket").await.unwrap();
        let group = |key: &str| {
            let slot = slot_of_key(bucket.id, key, KEY_SLOTS_DEFAULT);
            group_of_slot(bucket.id, slot, GROUPS)
        };
        let list = async |max_keys: usize| {
            let request = ListRequest {
                bucket: "bucket".into(),
                max_keys,
                ..ListRequest::default()
            };
            let before = asked(&site);
            let page = site.gateway(1).list(&caller(), request).await.unwrap();
            let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            (keys, page.next, asked(&site) - before)
        };
        let groups = u64::from(GROUPS);
        assert_eq!(list(1000).await, (Vec::new(), None, groups));
        // All keys in one group: its share of a page is not enough.
        let keys: Vec<String> = (0..)
            .map(|n| format!("{n:05}"))
            .filter(|key| group(key) == GroupId(1))
            .take(60)
            .collect();
        for key in &keys {
            put(gateway, key, &bytes(1)).await.unwrap();
        }
        let next = Some(keys[39].clone());
        assert_eq!(list(40).await, (keys[..40].to_vec(), next, groups + 1));
        assert_eq!(list(60).await, (keys.clone(), None, groups + 1));
        let next = Some(keys[4].clone());
        assert_eq!(list(5).await, (keys[..5].to_vec(), next, groups));
    });
}
