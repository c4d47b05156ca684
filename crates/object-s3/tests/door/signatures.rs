//! Who is let in.

use std::time::Duration;

use rusty_s3::actions::{GetObject, PutObject, S3Action};
use rusty_s3::{Bucket, Credentials, UrlStyle};

use crate::client::{ALICE, BOB, Door, Key, encode, sha256};

#[tokio::test]
async fn signed_requests_are_let_in_and_others_get_s3s_codes() {
    let door = Door::with_bucket("bkt").await;
    door.get("/bkt").send().await.expect(200);
    door.get("/bkt")
        .anonymous()
        .send()
        .await
        .refused(403, "AccessDenied");
    door.get("/bkt")
        .key(Key {
            id: "AKNOBODY",
            ..ALICE
        })
        .send()
        .await
        .refused(403, "InvalidAccessKeyId");
    door.get("/bkt")
        .key(Key {
            secret: "wrong",
            ..ALICE
        })
        .send()
        .await
        .refused(403, "SignatureDoesNotMatch");
    for age in [16 * 60, -16 * 60] {
        door.get("/bkt")
            .age(age)
            .send()
            .await
            .refused(403, "RequestTimeTooSkewed");
    }
    door.get("/bkt").age(14 * 60).send().await.expect(200);
    door.get("/bkt")
        .key(BOB)
        .send()
        .await
        .refused(403, "AccessDenied");
    let old = door
        .get("/bkt")
        .anonymous()
        .unsigned("authorization", "AWS AKALICE:c2ln")
        .send()
        .await;
    old.refused(400, "InvalidRequest");
    door.head("/bkt").anonymous().send().await.expect(403);
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own_and_errors_repeat_it() {
    let door = Door::with_bucket("bkt").await;
    let (one, two) = (
        door.get("/bkt").send().await,
        door.get("/bkt/nothing").send().await,
    );
    assert_ne!(one.name("x-amz-request-id"), two.name("x-amz-request-id"));
    assert_eq!(two.element("RequestId"), two.name("x-amz-request-id"));
}

#[tokio::test]
async fn a_header_that_was_not_signed_can_not_change_a_request() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/secret")
        .body("mine")
        .send()
        .await
        .expect(200);
    let copy = door
        .put("/bkt/k")
        .unsigned("x-amz-copy-source", "/bkt/secret")
        .send()
        .await;
    copy.refused(403, "AccessDenied");
    door.get("/bkt/k").send().await.refused(404, "NoSuchKey");
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_is_refused_and_nothing_is_kept() {
    let door = Door::with_bucket("bkt").await;
    let put = door
        .put("/bkt/k")
        .payload(&sha256(b"another body"))
        .body("this body")
        .send()
        .await;
    put.refused(400, "XAmzContentSHA256Mismatch");
    door.get("/bkt/k").send().await.refused(404, "NoSuchKey");
    door.put("/bkt/k")
        .payload("UNSIGNED-PAYLOAD")
        .body("any body")
        .send()
        .await
        .expect(200);
}

fn presign(
    door: &Door,
    host: &str,
    secret: &str,
    sign: impl Fn(&Bucket, &Credentials) -> url::Url,
) -> String {
    let endpoint = format!(
        "http://{}",
        if host.is_empty() {
            door.address.to_string()
        } else {
            host.to_owned()
        }
    );
    let bucket = Bucket::new(
        endpoint.parse().unwrap(),
        UrlStyle::Path,
        "bkt",
        "us-east-1",
    )
    .unwrap();
    let url = sign(&bucket, &Credentials::new(ALICE.id, secret));
    format!("{}?{}", url.path(), url.query().unwrap())
}

#[tokio::test]
async fn presigned_addresses_work_until_they_expire() {
    let door = Door::with_bucket("bkt").await;
    let key = "a folder/größe+1%.txt";
    let put = presign(&door, "", ALICE.secret, |b, c| {
        PutObject::new(b, Some(c), key).sign(Duration::from_secs(60))
    });
    let get = presign(&door, "", ALICE.secret, |b, c| {
        GetObject::new(b, Some(c), key).sign(Duration::from_secs(60))
    });
    door.put(&put)
        .anonymous()
        .body("hello")
        .send()
        .await
        .expect(200);
    assert_eq!(
        door.get(&get).anonymous().send().await.expect(200).text(),
        "hello"
    );
    // What was signed for is the one thing that it is good for.
    door.put(&get)
        .anonymous()
        .body("x")
        .send()
        .await
        .refused(403, "SignatureDoesNotMatch");
    let other = get.replace("folder", "holder");
    door.get(&other)
        .anonymous()
        .send()
        .await
        .refused(403, "SignatureDoesNotMatch");
    let wrong = presign(&door, "", "wrong", |b, c| {
        GetObject::new(b, Some(c), key).sign(Duration::from_secs(60))
    });
    door.get(&wrong)
        .anonymous()
        .send()
        .await
        .refused(403, "SignatureDoesNotMatch");
    let stolen = door
        .put(&put)
        .anonymous()
        .unsigned("x-amz-copy-source", "/bkt/other")
        .send()
        .await;
    stolen.refused(403, "AccessDenied");
    let twice = door
        .get(&get)
        .anonymous()
        .unsigned("authorization", "AWS4-HMAC-SHA256 SignedHeaders=host")
        .send()
        .await;
    twice.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn headers_in_a_presigned_query_count() {
    let door = Door::with_bucket("bkt").await;
    let put = |name: &'static str, value: &'static str| {
        presign(&door, "", ALICE.secret, |b, c| {
            let mut put = PutObject::new(b, Some(c), "k");
            put.query_mut().insert(name, value);
            put.sign(Duration::from_secs(60))
        })
    };
    door.put(&put("x-amz-meta-a", "in the query"))
        .anonymous()
        .body("x")
        .send()
        .await
        .expect(200);
    assert_eq!(
        door.head("/bkt/k")
            .send()
            .await
            .expect(200)
            .name("x-amz-meta-a"),
        "in the query"
    );
    let public = put("X-Amz-Acl", "public-read");
    door.put(&public)
        .anonymous()
        .body("x")
        .send()
        .await
        .refused(501, "NotImplemented");
}

#[tokio::test]
async fn an_expired_address_is_refused() {
    let door = Door::with_bucket("bkt").await;
    let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let url = presign(&door, "", ALICE.secret, |b, c| {
        GetObject::new(b, Some(c), "k").sign_with_time(Duration::from_secs(60), &hour_ago)
    });
    let expired = door
        .get(&url)
        .anonymous()
        .send()
        .await
        .refused(403, "AccessDenied");
    assert_eq!(expired.element("Message"), "Request has expired");
}

#[tokio::test]
async fn a_host_below_a_domain_names_the_bucket_and_any_other_does_not() {
    let door = Door::with_bucket("bkt").await;
    door.put("/folder/k")
        .host("bkt.s3.localhost:9000")
        .body("x")
        .send()
        .await
        .expect(200);
    assert_eq!(
        door.get("/bkt/folder/k")
            .host("storage.lan")
            .send()
            .await
            .expect(200)
            .text(),
        "x"
    );
    assert_eq!(
        door.get("/folder/k")
            .host("bkt.localhost")
            .send()
            .await
            .expect(200)
            .text(),
        "x"
    );
    door.get("/bkt/folder/k")
        .host("s3.localhost:9000")
        .send()
        .await
        .expect(200);
}

#[tokio::test]
async fn keys_are_kept_as_they_are() {
    let door = Door::with_bucket("bkt").await;
    let long = "ü".repeat(512);
    let keys = [
        "//",
        "/",
        "a//bkt",
        ".",
        "..",
        "../x",
        "a/./bkt",
        "a/../bkt",
        "a/",
        "a b",
        " ",
        "+",
        "%",
        "%2F",
        "%252F",
        "é",
        "🦀/🦀",
        "a?b=c&d",
        "#",
        "\"<&>'",
        "\u{1}\r\n\t",
        "C:\\x",
        "~",
        "*",
        &long,
    ];
    for (at, key) in keys.iter().enumerate() {
        let path = format!("/bkt/{}", encode(key, true));
        door.put(&path)
            .body(at.to_string())
            .send()
            .await
            .expect(200);
    }
    for (at, key) in keys.iter().enumerate() {
        let path = format!("/bkt/{}", encode(key, true));
        assert_eq!(
            door.get(&path).send().await.expect(200).text(),
            at.to_string(),
            "{key:?}"
        );
        // The same key, with every byte escaped.
        let escaped: String = key.bytes().map(|b| format!("%{b:02X}")).collect();
        if !key.contains(|c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c)) {
            assert_eq!(
                door.get(&format!("/bkt/{escaped}"))
                    .send()
                    .await
                    .expect(200)
                    .text(),
                at.to_string(),
                "{key:?}"
            );
        }
    }
    let listed = door
        .get("/bkt")
        .query("list-type", "2")
        .query("encoding-type", "url")
        .send()
        .await
        .expect(200);
    let mut expected: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
    expected.sort();
    let decode = |text: &str| {
        form_urlencoded::parse(format!("k={text}").as_bytes())
            .next()
            .unwrap()
            .1
            .into_owned()
    };
    assert_eq!(
        listed
            .elements("Key")
            .iter()
            .map(|k| decode(k))
            .collect::<Vec<_>>(),
        expected
    );
    let too_long = format!("/bkt/{}", encode(&format!("{long}x"), true));
    door.put(&too_long)
        .body("x")
        .send()
        .await
        .refused(400, "KeyTooLongError");
}
