//! Multipart uploads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_core::api::ChecksumKind;
use object_core::digest::checksum_of;

use crate::client::Door;

const MIN: usize = 5 << 20;

async fn begin(door: &Door, path: &str) -> String {
    door.post(path)
        .query("uploads", "")
        .send()
        .await
        .expect(200)
        .element("UploadId")
}

async fn part(door: &Door, path: &str, upload: &str, number: usize, body: Vec<u8>) -> String {
    let call = door
        .put(path)
        .query("partNumber", &number.to_string())
        .query("uploadId", upload);
    call.body(body)
        .send()
        .await
        .expect(200)
        .name("etag")
        .to_owned()
}

fn complete_xml(parts: &[(usize, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        })
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

#[tokio::test]
async fn parts_become_an_object() {
    let door = Door::with_bucket("bkt").await;
    let upload = begin(&door, "/bkt/big").await;
    let (one, two) = (vec![1; MIN], vec![2; 10]);
    let first = part(&door, "/bkt/big", &upload, 1, one.clone()).await;
    let second = part(&door, "/bkt/big", &upload, 2, two.clone()).await;
    let listed = door
        .get("/bkt/big")
        .query("uploadId", &upload)
        .query("max-parts", "1")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (listed.element("PartNumber"), listed.element("IsTruncated")),
        ("1".to_owned(), "true".to_owned())
    );
    let after = listed.element("NextPartNumberMarker");
    let rest = door
        .get("/bkt/big")
        .query("uploadId", &upload)
        .query("part-number-marker", &after)
        .send()
        .await
        .expect(200);
    assert_eq!(rest.elements("PartNumber"), ["2"]);
    assert_eq!(rest.element("Size"), "10");
    let uploads = door
        .get("/bkt")
        .query("uploads", "")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (uploads.element("Key"), uploads.element("UploadId")),
        ("big".to_owned(), upload.clone())
    );
    let done = door
        .post("/bkt/big")
        .query("uploadId", &upload)
        .body(complete_xml(&[(1, &first), (2, &second)]));
    let done = done.send().await.expect(200);
    assert!(done.element("ETag").ends_with("-2\""));
    let location = format!("http://{}/bkt/big", door.address);
    assert_eq!(done.element("Location"), location);
    let got = door.get("/bkt/big").send().await.expect(200);
    assert!(got.body.unwrap() == [one.clone(), two.clone()].concat());
    let of_part = door
        .get("/bkt/big")
        .query("partNumber", "2")
        .send()
        .await
        .expect(206);
    assert_eq!(
        (
            of_part.name("x-amz-mp-parts-count"),
            of_part.name("content-length")
        ),
        ("2", "10")
    );
    assert_eq!(
        of_part.name("content-range"),
        format!("bytes {MIN}-{}/{}", MIN + 9, MIN + 10)
    );
    door.get("/bkt/big")
        .query("partNumber", "3")
        .send()
        .await
        .refused(416, "InvalidPartNumber");
    door.get("/bkt/big")
        .query("uploadId", &upload)
        .send()
        .await
        .refused(404, "NoSuchUpload");
}

#[tokio::test]
async fn an_upload_to_a_bucket_that_the_host_names_ends_where_the_client_finds_it() {
    let door = Door::with_bucket("bkt").await;
    let upload = begin(&door, "/bkt/a%20b").await;
    let etag = part(&door, "/bkt/a%20b", &upload, 1, b"whole".to_vec()).await;
    let done = door
        .post("/a%20b")
        .host("bkt.localhost")
        .query("uploadId", &upload)
        .body(complete_xml(&[(1, &etag)]));
    let done = done.send().await.expect(200);
    assert_eq!(done.element("Location"), "http://bkt.localhost/a%20b");
    let got = door.get("/a%20b").host("bkt.localhost").send().await;
    assert_eq!(got.expect(200).text(), "whole");
}

#[tokio::test]
async fn parts_can_be_copied() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/source")
        .body("0123456789")
        .send()
        .await
        .expect(200);
    let upload = begin(&door, "/bkt/k").await;
    let copy = |range: &str| {
        let call = door
            .put("/bkt/k")
            .query("partNumber", "1")
            .query("uploadId", &upload);
        call.header("x-amz-copy-source", "/bkt/source")
            .header("x-amz-copy-source-range", range)
            .send()
    };
    let etag = copy("bytes=2-4").await.expect(200).element("ETag");
    copy("bytes=2-").await.refused(400, "InvalidArgument");
    copy("bytes=20-30").await.refused(400, "InvalidArgument");
    let done = door
        .post("/bkt/k")
        .query("uploadId", &upload)
        .body(complete_xml(&[(1, &etag)]))
        .send()
        .await;
    done.expect(200);
    assert_eq!(door.get("/bkt/k").send().await.expect(200).text(), "234");
}

#[tokio::test]
async fn upload_refusals_have_s3s_codes() {
    let door = Door::with_bucket("bkt").await;
    let upload = begin(&door, "/bkt/k").await;
    let one = part(&door, "/bkt/k", &upload, 1, vec![1; 10]).await;
    let two = part(&door, "/bkt/k", &upload, 2, vec![2; 10]).await;
    let complete = |xml: String| {
        door.post("/bkt/k")
            .query("uploadId", &upload)
            .body(xml)
            .send()
    };
    complete(complete_xml(&[(1, &one), (2, &two)]))
        .await
        .refused(400, "EntityTooSmall");
    complete(complete_xml(&[(2, &two), (1, &one)]))
        .await
        .refused(400, "InvalidPartOrder");
    complete(complete_xml(&[(1, &two)]))
        .await
        .refused(400, "InvalidPart");
    complete(complete_xml(&[(3, &one)]))
        .await
        .refused(400, "InvalidPart");
    complete(complete_xml(&[]))
        .await
        .refused(400, "MalformedXML");
    complete(String::new()).await.refused(400, "MalformedXML");
    let too_many = vec![(1, &*one); 10_001];
    complete(complete_xml(&too_many))
        .await
        .refused(400, "MalformedXML");
    let none = "0f".repeat(16);
    for unknown in [&*none, "made-up"] {
        door.get("/bkt/k")
            .query("uploadId", unknown)
            .send()
            .await
            .refused(404, "NoSuchUpload");
        let put = door
            .put("/bkt/k")
            .query("partNumber", "1")
            .query("uploadId", unknown)
            .body("x")
            .send()
            .await;
        put.refused(404, "NoSuchUpload");
    }
    for number in ["0", "10001"] {
        let put = door
            .put("/bkt/k")
            .query("partNumber", number)
            .query("uploadId", &upload)
            .body("x")
            .send()
            .await;
        put.refused(400, "InvalidArgument");
    }
    door.put("/bkt/k")
        .body("there first")
        .send()
        .await
        .expect(200);
    let call = door
        .post("/bkt/k")
        .query("uploadId", &upload)
        .header("if-none-match", "*");
    call.body(complete_xml(&[(1, &one)]))
        .send()
        .await
        .refused(412, "PreconditionFailed");
    door.delete("/bkt/k")
        .query("uploadId", &upload)
        .send()
        .await
        .expect(204);
    door.delete("/bkt/k")
        .query("uploadId", &upload)
        .send()
        .await
        .refused(404, "NoSuchUpload");
}

#[tokio::test]
async fn uploads_have_checksums() {
    let door = Door::with_bucket("bkt").await;
    let call = door
        .post("/bkt/k")
        .query("uploads", "")
        .header("x-amz-checksum-algorithm", "CRC32");
    let begun = call
        .header("x-amz-checksum-type", "FULL_OBJECT")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (
            begun.name("x-amz-checksum-algorithm"),
            begun.name("x-amz-checksum-type")
        ),
        ("CRC32", "FULL_OBJECT")
    );
    let upload = begun.element("UploadId");
    let sum = STANDARD.encode(checksum_of(ChecksumKind::Crc32, b"hello"));
    let put = door
        .put("/bkt/k")
        .query("partNumber", "1")
        .query("uploadId", &upload)
        .header("x-amz-checksum-crc32", &sum);
    let put = put.body("hello").send().await.expect(200);
    assert_eq!(put.name("x-amz-checksum-crc32"), sum);
    let xml = complete_xml(&[(1, put.name("etag"))]);
    let call = door
        .post("/bkt/k")
        .query("uploadId", &upload)
        .header("x-amz-checksum-crc32", &sum);
    let done = call
        .header("x-amz-checksum-type", "FULL_OBJECT")
        .body(xml)
        .send()
        .await
        .expect(200);
    assert_eq!(
        (done.element("ChecksumCRC32"), done.element("ChecksumType")),
        (sum, "FULL_OBJECT".to_owned())
    );
    let call = door
        .post("/bkt/l")
        .query("uploads", "")
        .header("x-amz-checksum-algorithm", "MD17");
    call.send().await.refused(400, "InvalidRequest");
}
