//! Who may do what with a bucket, and when it may go.

use object_core::api::*;
use testkit::sim::block_on;

use crate::site::*;

async fn site_with_bucket() -> Site {
    let site = Site::new(1).await;
    let made = site.gateway(1).create_bucket(&caller(), "bucket").await;
    made.unwrap();
    site
}

#[test]
fn buckets_are_made_owned_and_removed_when_empty() {
    block_on(async {
        let site = site_with_bucket().await;
        let gateway = site.gateway(1);
        assert_eq!(
            gateway.create_bucket(&caller(), "bucket").await.err(),
            Some(ObjectError::BucketYours)
        );
        assert_eq!(
            gateway.create_bucket(&stranger(), "bucket").await.err(),
            Some(ObjectError::BucketTaken)
        );
        assert!(matches!(
            gateway.create_bucket(&caller(), "No").await,
            Err(ObjectError::BadBucketName { .. })
        ));
        assert_eq!(
            gateway.head_bucket(&stranger(), "bucket").await.err(),
            Some(ObjectError::AccessDenied)
        );
        let got = gateway.get(&stranger(), get_request("bucket", "key")).await;
        assert_eq!(got.err(), Some(ObjectError::AccessDenied));
        let admin = Caller {
            admin: true,
            ..stranger()
        };
        gateway.head_bucket(&admin, "bucket").await.unwrap();

        put(gateway, "key", &bytes(10)).await.unwrap();
        assert_eq!(
            gateway.delete_bucket(&caller(), "bucket").await,
            Err(ObjectError::BucketNotEmpty)
        );
        put(gateway, "key2", &bytes(10)).await.unwrap();
        delete(gateway, "key").await.unwrap();
        delete(gateway, "key2").await.unwrap();
        let before = gateway.head_bucket(&caller(), "bucket").await.unwrap();
        gateway.delete_bucket(&caller(), "bucket").await.unwrap();
        assert_eq!(
            put(gateway, "key", &bytes(10)).await.err(),
            Some(ObjectError::NoSuchBucket("bucket".into()))
        );
        let again = gateway.create_bucket(&caller(), "bucket").await.unwrap();
        assert_ne!(before.id, again.id);
        put(gateway, "key", &bytes(10)).await.unwrap();
        assert_eq!(gateway.list_buckets(&caller()).await.unwrap(), [again]);
        assert_eq!(gateway.list_buckets(&stranger()).await.unwrap(), []);
    });
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    block_on(async {
        let site = site_with_bucket().await;
        let gateway = site.gateway(1);
        put(gateway, "key", &bytes(10)).await.unwrap();
        let reader = Caller {
            may_write: false,
            ..caller()
        };
        let got = gateway.get(&reader, get_request("bucket", "key")).await;
        assert!(got.is_ok());
        gateway.head_bucket(&reader, "bucket").await.unwrap();
        let denied = Some(ObjectError::AccessDenied);
        assert_eq!(gateway.create_bucket(&reader, "new").await.err(), denied);
        assert_eq!(gateway.delete_bucket(&reader, "bucket").await.err(), denied);
        let request = || DeleteRequest {
            bucket: "bucket".into(),
            key: "key".into(),
            version: None,
            conditions: Conditions::default(),
        };
        assert_eq!(gateway.delete(&reader, request()).await.err(), denied);
        let all = gateway.delete_many(&reader, vec![request()]).await;
        assert_eq!(all, [Err(ObjectError::AccessDenied)]);
        let got = gateway.get(&caller(), get_request("bucket", "key")).await;
        assert!(got.is_ok(), "it is still there");
    });
}
