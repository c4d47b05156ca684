//! Buckets and the settings that clients ask for.

use crate::client::{BOB, Door};

#[tokio::test]
async fn buckets_are_made_found_listed_and_removed() {
    let door = Door::open().await;
    let made = door.put("/one-bucket").send().await.expect(200);
    assert_eq!(made.name("location"), "/one-bucket");
    door.put("/two-bucket").send().await.expect(200);
    assert_eq!(
        door.head("/one-bucket")
            .send()
            .await
            .expect(200)
            .name("x-amz-bucket-region"),
        "us-east-1"
    );
    let listed = door.get("/").send().await.expect(200);
    assert_eq!(listed.elements("Name"), ["one-bucket", "two-bucket"]);
    assert_eq!(listed.element("DisplayName"), "alice");
    let page = door
        .get("/")
        .query("max-buckets", "1")
        .send()
        .await
        .expect(200);
    assert_eq!(page.elements("Name"), ["one-bucket"]);
    let rest = door
        .get("/")
        .query("continuation-token", &page.element("ContinuationToken"))
        .send()
        .await
        .expect(200);
    assert_eq!(rest.elements("Name"), ["two-bucket"]);
    assert!(
        door.get("/")
            .key(BOB)
            .send()
            .await
            .expect(200)
            .elements("Name")
            .is_empty()
    );
    door.put("/one-bucket/k").body("x").send().await.expect(200);
    door.delete("/one-bucket")
        .send()
        .await
        .refused(409, "BucketNotEmpty");
    door.delete("/two-bucket").send().await.expect(204);
    door.head("/two-bucket").send().await.expect(404);
}

#[tokio::test]
async fn bucket_refusals_have_s3s_codes() {
    let door = Door::with_bucket("taken").await;
    door.put("/taken")
        .send()
        .await
        .refused(409, "BucketAlreadyOwnedByYou");
    door.put("/taken")
        .key(BOB)
        .send()
        .await
        .refused(409, "BucketAlreadyExists");
    door.put("/Not_A_Name")
        .send()
        .await
        .refused(400, "InvalidBucketName");
    door.get("/nothing")
        .send()
        .await
        .refused(404, "NoSuchBucket");
    let elsewhere = "<CreateBucketConfiguration><LocationConstraint>eu-west-9</LocationConstraint></CreateBucketConfiguration>";
    door.put("/elsewhere")
        .body(elsewhere)
        .send()
        .await
        .refused(400, "IllegalLocationConstraintException");
    let here = elsewhere.replace("eu-west-9", "us-east-1");
    door.put("/here").body(here).send().await.expect(200);
    door.put("/locked")
        .header("x-amz-bucket-object-lock-enabled", "true")
        .send()
        .await
        .refused(501, "NotImplemented");
    door.call(http::Method::PATCH, "/taken")
        .send()
        .await
        .refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn settings_that_nobody_made_are_answered_as_s3_does() {
    let door = Door::with_bucket("bkt").await;
    for (setting, status, code) in [
        ("policy", 404, "NoSuchBucketPolicy"),
        ("tagging", 404, "NoSuchTagSet"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        (
            "encryption",
            404,
            "ServerSideEncryptionConfigurationNotFoundError",
        ),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
        (
            "publicAccessBlock",
            404,
            "NoSuchPublicAccessBlockConfiguration",
        ),
        ("ownershipControls", 404, "OwnershipControlsNotFoundError"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
    ] {
        door.get("/bkt")
            .query(setting, "")
            .send()
            .await
            .refused(status, code);
        door.get("/nothing")
            .query(setting, "")
            .send()
            .await
            .refused(404, "NoSuchBucket");
    }
    assert!(
        !door
            .get("/bkt")
            .query("versioning", "")
            .send()
            .await
            .expect(200)
            .text()
            .contains("Status")
    );
    door.get("/bkt")
        .query("logging", "")
        .send()
        .await
        .expect(200);
    let location = door
        .get("/bkt")
        .query("location", "")
        .send()
        .await
        .expect(200);
    assert!(
        location.text().contains("LocationConstraint"),
        "{}",
        location.text()
    );
    door.put("/bkt")
        .query("versioning", "")
        .body("<VersioningConfiguration/>")
        .send()
        .await
        .refused(501, "NotImplemented");
}

#[tokio::test]
async fn acls_are_private_and_stay_so() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/k").body("x").send().await.expect(200);
    for path in ["/bkt", "/bkt/k"] {
        let acl = door.get(path).query("acl", "").send().await.expect(200);
        assert_eq!(acl.elements("Permission"), ["FULL_CONTROL"]);
        door.put(path)
            .query("acl", "")
            .header("x-amz-acl", "private")
            .send()
            .await
            .expect(200);
        let public = door
            .put(path)
            .query("acl", "")
            .header("x-amz-acl", "public-read")
            .send()
            .await;
        public.refused(501, "NotImplemented");
        // What was read can be put back.
        door.put(path)
            .query("acl", "")
            .body(acl.text())
            .send()
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn an_expected_owner_is_checked() {
    let door = Door::with_bucket("bkt").await;
    let (alice, bob) = ("01".repeat(16), "02".repeat(16));
    door.get("/bkt")
        .header("x-amz-expected-bucket-owner", &alice)
        .send()
        .await
        .expect(200);
    door.get("/bkt")
        .header("x-amz-expected-bucket-owner", &bob)
        .send()
        .await
        .refused(403, "AccessDenied");
    door.put("/bkt/k").body("x").send().await.expect(200);
    let copy = door.put("/bkt/l").header("x-amz-copy-source", "bkt/k");
    copy.header("x-amz-source-expected-bucket-owner", &bob)
        .send()
        .await
        .refused(403, "AccessDenied");
}
