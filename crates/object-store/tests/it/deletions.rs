//! Buckets that are deleted while things go wrong, or while others write or delete.

use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, UploadId};
use object_core::api::*;
use object_core::slots::{group_of_slot, slot_of_key};
use object_store::gateway::{Gateway, GatewayOptions};
use object_store::jobs::JobOptions;
use object_store::placement::BucketDirectory;
use raft_machine::local::Interruption;
use testkit::sim::block_on;

use crate::site::*;

const LAST_GROUP: GroupId = GroupId(GROUPS);

/// How often a proposal is sent before [`impatient`] gateways say that the group is away.
const SENT: usize = 3;

/// Pauses of 20 and 40 ms fit into the deadline, the next one doesn't.
fn impatient() -> GatewayOptions {
    GatewayOptions {
        deadline: Duration::from_millis(100),
        ..options()
    }
}

async fn site_with_bucket() -> Site {
    let site = Site::with(1, impatient()).await;
    let made = site.gateway(1).create_bucket(&caller(), "bucket").await;
    made.unwrap();
    site
}

/// A key that the group keeps.
async fn key_in(site: &Site, group: GroupId) -> String {
    let bucket = site.directory.get_now("bucket").await.unwrap().unwrap();
    let mut keys = (0..1000).map(|n| format!("key {n}"));
    let kept = |key: &String| {
        let slot = slot_of_key(bucket.id, key, bucket.key_slots);
        group_of_slot(bucket.id, slot, GROUPS) == group
    };
    keys.find(kept).unwrap()
}

/// Deletes the bucket; the last group is away.
async fn break_off(site: &Site) {
    site.groups
        .interrupt(LAST_GROUP, Interruption::LoseProposal, SENT);
    let broken = site.gateway(1).delete_bucket(&caller(), "bucket").await;
    assert!(
        matches!(broken, Err(ObjectError::Unavailable(_))),
        "{broken:?}"
    );
}

/// Runs the job before and after deletions are taken for broken off; says how many it ended then.
async fn look_after(site: &Site) -> u64 {
    let status = site.job(1, "finish-deletions").await;
    assert_eq!(status.done_total, 0, "it may still be under way");
    tokio::time::sleep(JobOptions::default().deletions_after).await;
    site.job(1, "finish-deletions").await.done_total
}

async fn has_begun(site: &Site) -> bool {
    !site.directory.being_deleted().is_empty()
}

async fn bucket_names(site: &Site) -> Vec<String> {
    let buckets = site.gateway(1).list_buckets(&caller()).await.unwrap();
    buckets.into_iter().map(|bucket| bucket.name).collect()
}

#[test]
fn a_deletion_that_broke_off_is_completed() {
    block_on(async {
        let site = site_with_bucket().await;
        break_off(&site).await;
        assert_eq!(bucket_names(&site).await, ["bucket"]);
        assert_eq!(look_after(&site).await, 1);
        assert!(bucket_names(&site).await.is_empty());
        let put = put(site.gateway(1), "key", &bytes(1)).await;
        assert_eq!(put, Err(ObjectError::NoSuchBucket("bucket".into())));
    });
}

#[test]
fn a_deletion_that_broke_off_is_called_off_when_the_bucket_holds_something() {
    block_on(async {
        let site = site_with_bucket().await;
        let (kept, fenced) = (
            key_in(&site, LAST_GROUP).await,
            key_in(&site, GroupId(1)).await,
        );
        put(site.gateway(1), &kept, &bytes(9)).await.unwrap();
        break_off(&site).await;
        let refused = put(site.gateway(1), &fenced, &bytes(1)).await;
        assert!(
            matches!(refused, Err(ObjectError::Unavailable(_))),
            "the bucket is not gone: {refused:?}"
        );
        assert_eq!(get(site.gateway(1), &kept).await.unwrap(), bytes(9));
        // What is fenced is empty, and the rest is shown.
        let nothing = get(site.gateway(1), &fenced).await;
        assert_eq!(nothing, Err(ObjectError::NoSuchKey));
        assert_eq!(
            listed(site.gateway(1)).await.unwrap(),
            std::slice::from_ref(&kept)
        );
        assert_eq!(bucket_names(&site).await, ["bucket"]);

        assert_eq!(look_after(&site).await, 1);
        put(site.gateway(1), &fenced, &bytes(1)).await.unwrap();
        assert_eq!(get(site.gateway(1), &kept).await.unwrap(), bytes(9));
        assert!(site.directory.being_deleted().is_empty());
    });
}

#[test]
fn a_refused_deletion_opens_what_an_earlier_one_left_fenced() {
    block_on(async {
        let site = site_with_bucket().await;
        let kept = key_in(&site, LAST_GROUP).await;
        put(site.gateway(1), &kept, &bytes(9)).await.unwrap();
        // The first one fences all groups but the last. It opens the first one again, then the second is away.
        site.groups
            .interrupt(LAST_GROUP, Interruption::LoseProposal, 1);
        let gateway = site.gateway(1).clone();
        let first = tokio::spawn(async move { gateway.delete_bucket(&caller(), "bucket").await });
        // The simulation's clock: the deletion pauses for 20 ms before it asks the last group again.
        tokio::time::sleep(Duration::from_millis(5)).await;
        site.groups
            .interrupt(GroupId(2), Interruption::LoseProposal, SENT);
        let not_empty = Err(ObjectError::BucketNotEmpty);
        assert_eq!(first.await.unwrap(), not_empty);
        let fenced = key_in(&site, GroupId(3)).await;
        assert!(put(site.gateway(1), &fenced, &bytes(1)).await.is_err());

        // The second one does not get past the first group.
        let early = key_in(&site, GroupId(1)).await;
        put(site.gateway(1), &early, &bytes(1)).await.unwrap();
        let second = site.gateway(1).delete_bucket(&caller(), "bucket").await;
        assert_eq!(second, not_empty);
        for group in 1..=GROUPS {
            let key = key_in(&site, GroupId(group)).await;
            put(site.gateway(1), &key, &bytes(1)).await.unwrap();
        }
    });
}

#[test]
fn a_client_that_goes_away_does_not_break_a_deletion_off() {
    block_on(async {
        let site = site_with_bucket().await;
        site.groups
            .interrupt(LAST_GROUP, Interruption::LoseProposal, 1);
        let gateway = site.gateway(1).clone();
        let request = tokio::spawn(async move { gateway.delete_bucket(&caller(), "bucket").await });
        site.until("the deletion began", has_begun).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        let gone = async |site: &Site| bucket_names(site).await.is_empty();
        site.until("the bucket is gone", gone).await;
    });
}

#[test]
fn of_two_deletions_the_newer_one_goes_on() {
    block_on(async {
        let site = site_with_bucket().await;
        site.groups
            .interrupt(LAST_GROUP, Interruption::LoseProposal, 1);
        let gateway = site.gateway(1).clone();
        let older = tokio::spawn(async move { gateway.delete_bucket(&caller(), "bucket").await });
        site.until("the deletion began", has_begun).await;
        let newer = site.gateway(1).delete_bucket(&caller(), "bucket").await;
        assert_eq!(newer, Ok(()));
        assert_eq!(older.await.unwrap(), Err(ObjectError::BucketBusy));
        assert!(bucket_names(&site).await.is_empty());
    });
}

#[test]
fn a_bucket_that_was_made_anew_is_found_through_an_old_entry() {
    block_on(async {
        let site = site_with_bucket().await;
        let gateway = site.gateway(1);
        site.directory.hold("bucket");
        gateway.delete_bucket(&caller(), "bucket").await.unwrap();
        let gone = put(gateway, "key", &bytes(9)).await;
        assert_eq!(gone, Err(ObjectError::NoSuchBucket("bucket".into())));

        gateway.create_bucket(&caller(), "bucket").await.unwrap();
        let blocks = put(gateway, "large", &bytes(3 * BLOCK)).await;
        assert!(
            matches!(blocks, Err(ObjectError::Unavailable(_))),
            "its body can't be read twice: {blocks:?}"
        );
        put(gateway, "large", &bytes(3 * BLOCK)).await.unwrap();
        put(gateway, "key", &bytes(9)).await.unwrap();
        site.directory.catch_up();
        assert_eq!(get(gateway, "key").await.unwrap(), bytes(9));

        // A deletion asks for the bucket as it is, too.
        delete(gateway, "key").await.unwrap();
        delete(gateway, "large").await.unwrap();
        site.directory.hold("bucket");
        gateway.delete_bucket(&caller(), "bucket").await.unwrap();
        gateway.create_bucket(&stranger(), "bucket").await.unwrap();
        let foreign = put(gateway, "key", &bytes(9)).await;
        assert!(
            matches!(foreign, Err(ObjectError::Unavailable(_))),
            "it is another user's: {foreign:?}"
        );
    });
}

/// All keys that a gateway lists.
async fn listed(gateway: &Gateway) -> Result<Vec<String>> {
    let page = gateway.list(&caller(), list_request()).await?;
    Ok(page.objects.into_iter().map(|object| object.key).collect())
}

fn list_request() -> ListRequest {
    ListRequest {
        bucket: "bucket".into(),
        max_keys: 100,
        ..ListRequest::default()
    }
}

fn copy_request() -> CopyRequest {
    CopyRequest {
        source: copy_source(),
        bucket: "other".into(),
        key: "copy".into(),
        replace_headers: None,
        conditions: Conditions::default(),
        checksum: None,
    }
}

fn copy_source() -> CopySource {
    CopySource {
        bucket: "bucket".into(),
        key: "key".into(),
        version: None,
        conditions: Conditions::default(),
        range: None,
    }
}

async fn create_upload(gateway: &Gateway, bucket: &str) -> Result<UploadId> {
    let request = CreateUploadRequest {
        bucket: bucket.into(),
        key: "key".into(),
        headers: ContentHeaders::default(),
        checksum: None,
    };
    gateway.create_upload(&caller(), request).await
}

fn part_request(bucket: &str, upload: UploadId) -> PartRequest {
    PartRequest {
        bucket: bucket.into(),
        key: "key".into(),
        upload,
        part: 1,
        size: None,
        digests: ExpectedDigests::default(),
    }
}

async fn put_part(gateway: &Gateway, upload: UploadId, content: &Bytes) -> Result<PartInfo> {
    let request = part_request("bucket", upload);
    gateway.put_part(&caller(), request, body(content)).await
}

async fn copy_part(gateway: &Gateway, upload: UploadId) -> Result<PartInfo> {
    let request = part_request("other", upload);
    gateway.copy_part(&caller(), request, copy_source()).await
}

/// How every read of `bucket` fails; none may succeed.
async fn read_errors(gateway: &Gateway, upload: UploadId) -> Vec<ObjectError> {
    let caller = caller();
    let head = gateway.head(&caller, get_request("bucket", "key")).await;
    let uploads = gateway.list_uploads(&caller, list_request(), None).await;
    let parts = gateway.list_parts(&caller, "bucket", "key", upload, 0, 9);
    let place = gateway.whereabouts(&caller, "bucket", "key").await;
    vec![
        get(gateway, "key").await.unwrap_err(),
        head.err().unwrap(),
        listed(gateway).await.unwrap_err(),
        uploads.unwrap_err(),
        parts.await.unwrap_err(),
        put_part(gateway, upload, &bytes(9)).await.unwrap_err(),
        place.unwrap_err(),
        gateway.copy(&caller, copy_request()).await.unwrap_err(),
        copy_part(gateway, upload).await.unwrap_err(),
    ]
}

/// A site whose directory knows a bucket that is gone. A new one of its name has two objects and an upload, and node 2
/// found it by writing them.
async fn made_anew() -> (Site, UploadId) {
    let site = Site::new(3).await;
    let gateway = site.gateway(2);
    for bucket in ["bucket", "other"] {
        gateway.create_bucket(&caller(), bucket).await.unwrap();
    }
    site.directory.hold("bucket");
    gateway.delete_bucket(&caller(), "bucket").await.unwrap();
    gateway.create_bucket(&caller(), "bucket").await.unwrap();
    put(gateway, "key", &bytes(9)).await.unwrap();
    put(gateway, "large", &bytes(3 * BLOCK)).await.unwrap();
    let upload = create_upload(gateway, "bucket").await.unwrap();
    (site, upload)
}

#[test]
fn reads_through_an_old_entry_say_that_the_bucket_is_gone() {
    block_on(async {
        let site = Site::new(3).await;
        let gateway = site.gateway(1);
        for bucket in ["bucket", "other"] {
            gateway.create_bucket(&caller(), bucket).await.unwrap();
        }
        site.directory.hold("bucket");
        gateway.delete_bucket(&caller(), "bucket").await.unwrap();
        let gone = ObjectError::NoSuchBucket("bucket".into());
        let upload = UploadId([1; 16]);
        assert_eq!(read_errors(gateway, upload).await, vec![gone; 9]);
    });
}

#[test]
fn each_read_through_an_old_entry_finds_the_bucket_that_was_made_anew() {
    block_on(async {
        let owner = caller();
        let (site, _) = made_anew().await;
        assert_eq!(get(site.gateway(1), "key").await.unwrap(), bytes(9));
        let large = get(site.gateway(3), "large").await.unwrap();
        assert_eq!(large, bytes(3 * BLOCK));

        let (site, _) = made_anew().await;
        let head = site.gateway(1).head(&owner, get_request("bucket", "key"));
        assert_eq!(head.await.ok().unwrap().head.size, 9);
        let place = site.gateway(3).whereabouts(&owner, "bucket", "large");
        assert_eq!(place.await.unwrap().blocks.len(), 3);

        let (site, upload) = made_anew().await;
        assert_eq!(listed(site.gateway(1)).await.unwrap(), ["key", "large"]);
        let uploads = site.gateway(3).list_uploads(&owner, list_request(), None);
        assert_eq!(uploads.await.unwrap().uploads[0].upload, upload);

        let (site, upload) = made_anew().await;
        let parts = site
            .gateway(1)
            .list_parts(&owner, "bucket", "key", upload, 0, 9);
        assert_eq!(parts.await.unwrap().upload.upload, upload);
        let part = put_part(site.gateway(3), upload, &bytes(3 * BLOCK)).await;
        assert_eq!(part.unwrap().size, 3 * BLOCK as u64);

        let (site, _) = made_anew().await;
        let copied = site.gateway(1).copy(&owner, copy_request()).await;
        assert_eq!(copied.unwrap().size, 9);
        let upload = create_upload(site.gateway(3), "other").await.unwrap();
        let copied = copy_part(site.gateway(3), upload).await;
        assert!(
            matches!(copied, Err(ObjectError::Unavailable(_))),
            "it is to be sent again: {copied:?}"
        );
        let copied = copy_part(site.gateway(3), upload).await;
        assert_eq!(copied.unwrap().size, 9);
    });
}

#[test]
fn a_read_through_an_old_entry_is_refused_when_the_new_bucket_is_another_users() {
    block_on(async {
        let site = site_with_bucket().await;
        let gateway = site.gateway(1);
        site.directory.hold("bucket");
        gateway.delete_bucket(&caller(), "bucket").await.unwrap();
        gateway.create_bucket(&stranger(), "bucket").await.unwrap();
        let denied = Err(ObjectError::AccessDenied);
        assert_eq!(get(gateway, "key").await, denied);
        assert_eq!(get(gateway, "key").await, denied, "now it is known");
    });
}
