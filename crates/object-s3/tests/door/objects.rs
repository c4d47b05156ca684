//! Objects: bodies, ranges, headers, checksums, copies, deletes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_core::api::ChecksumKind;
use object_core::digest::{checksum_of, md5_of};

use crate::client::Door;

const KINDS: [(ChecksumKind, &str, &str); 5] = [
    (ChecksumKind::Crc32, "x-amz-checksum-crc32", "CRC32"),
    (ChecksumKind::Crc32c, "x-amz-checksum-crc32c", "CRC32C"),
    (
        ChecksumKind::Crc64Nvme,
        "x-amz-checksum-crc64nvme",
        "CRC64NVME",
    ),
    (ChecksumKind::Sha1, "x-amz-checksum-sha1", "SHA1"),
    (ChecksumKind::Sha256, "x-amz-checksum-sha256", "SHA256"),
];

fn sum(kind: ChecksumKind, bytes: &[u8]) -> String {
    STANDARD.encode(checksum_of(kind, bytes))
}

#[tokio::test]
async fn what_was_put_comes_back_with_its_headers() {
    let door = Door::with_bucket("bkt").await;
    let stored = [
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "max-age=60"),
        ("content-disposition", "attachment; filename=grün.txt"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("expires", "0"),
        ("x-amz-meta-raw", "grün 🦀"),
        ("x-amz-meta-word", "=?UTF-8?Q?gr=C3=BCn?="),
        ("x-amz-meta-latin", "=?ISO-8859-1?Q?gr=FCn?="),
    ];
    let put = stored
        .into_iter()
        .fold(door.put("/bkt/k").body("hello"), |call, (name, value)| {
            call.header(name, value)
        });
    let put = put.send().await.expect(200);
    assert_eq!(put.name("etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    for reply in [
        door.get("/bkt/k").send().await.expect(200),
        door.head("/bkt/k").send().await.expect(200),
    ] {
        for (name, value) in stored {
            assert_eq!(reply.name(name), value);
        }
        assert_eq!(reply.name("content-length"), "5");
        assert_eq!(reply.name("accept-ranges"), "bytes");
        assert_eq!(reply.name("etag"), put.name("etag"));
        assert!(reply.name("last-modified").ends_with(" GMT"));
    }
    door.put("/bkt/plain").send().await.expect(200);
    let plain = door.get("/bkt/plain").send().await.expect(200);
    assert_eq!(
        (plain.name("content-type"), plain.name("content-length")),
        ("binary/octet-stream", "0")
    );
}

#[tokio::test]
async fn a_read_can_ask_for_other_headers() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/k")
        .header("content-type", "text/plain")
        .body("x")
        .send()
        .await
        .expect(200);
    for call in [door.get("/bkt/k"), door.head("/bkt/k")] {
        let call = call
            .query("response-content-type", "image/png")
            .query("response-content-disposition", "inline");
        let reply = call.send().await.expect(200);
        assert_eq!(reply.name("content-type"), "image/png");
        assert_eq!(reply.name("content-disposition"), "inline");
    }
}

#[tokio::test]
async fn ranges_are_answered_in_part() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/k")
        .body("0123456789")
        .send()
        .await
        .expect(200);
    for (range, body, shown) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let got = door
            .get("/bkt/k")
            .header("range", range)
            .send()
            .await
            .expect(206);
        assert_eq!(
            (got.text().as_str(), got.name("content-range")),
            (body, shown),
            "{range}"
        );
        let head = door
            .head("/bkt/k")
            .header("range", range)
            .send()
            .await
            .expect(206);
        assert_eq!(
            (head.name("content-length"), head.name("content-range")),
            (&*body.len().to_string(), shown)
        );
    }
    for ignored in ["bytes=0-1,4-5", "bytes=5-2", "lines=1-2"] {
        let got = door
            .get("/bkt/k")
            .header("range", ignored)
            .send()
            .await
            .expect(200);
        assert_eq!(got.text(), "0123456789", "{ignored}");
    }
    for outside in ["bytes=10-", "bytes=-0"] {
        let refused = door
            .get("/bkt/k")
            .header("range", outside)
            .send()
            .await
            .refused(416, "InvalidRange");
        assert_eq!(refused.name("content-range"), "bytes */10");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_an_answer() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/broken")
        .body(vec![7; 1000])
        .send()
        .await
        .expect(200);
    assert!(door.get("/bkt/broken").send().await.body.is_err());
}

#[tokio::test]
async fn checksums_ahead_of_the_body_are_checked_kept_and_shown_on_request() {
    let door = Door::with_bucket("bkt").await;
    for (kind, header, name) in KINDS {
        let good = sum(kind, b"hello");
        let put = door
            .put("/bkt/k")
            .header(header, &good)
            .header("x-amz-sdk-checksum-algorithm", name)
            .body("hello");
        let put = put.send().await.expect(200);
        assert_eq!(
            (put.name(header), put.name("x-amz-checksum-type")),
            (&*good, "FULL_OBJECT")
        );
        for call in [door.get("/bkt/k"), door.head("/bkt/k")] {
            let shown = call
                .header("x-amz-checksum-mode", "ENABLED")
                .send()
                .await
                .expect(200);
            assert_eq!(shown.name(header), good);
        }
        assert!(
            !door
                .head("/bkt/k")
                .send()
                .await
                .headers
                .contains_key(header)
        );
        let bad = door
            .put("/bkt/bad")
            .header(header, &sum(kind, b"other"))
            .body("hello")
            .send()
            .await;
        bad.refused(400, "BadDigest");
    }
    let md5 = |bytes: &[u8]| STANDARD.encode(md5_of(bytes));
    door.put("/bkt/k")
        .header("content-md5", &md5(b"hello"))
        .body("hello")
        .send()
        .await
        .expect(200);
    door.put("/bkt/bad")
        .header("content-md5", &md5(b"other"))
        .body("hello")
        .send()
        .await
        .refused(400, "BadDigest");
    door.put("/bkt/bad")
        .header("content-md5", "no")
        .body("hello")
        .send()
        .await
        .refused(400, "InvalidDigest");
    door.head("/bkt/bad").send().await.expect(404);
}

#[tokio::test]
async fn attributes_are_told_as_asked() {
    let door = Door::with_bucket("bkt").await;
    let crc = sum(ChecksumKind::Crc32, b"hello");
    door.put("/bkt/k")
        .header("x-amz-checksum-crc32", &crc)
        .body("hello")
        .send()
        .await
        .expect(200);
    let call = door.get("/bkt/k").query("attributes", "");
    let told = call
        .header("x-amz-object-attributes", "ETag,ObjectSize,Checksum")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (told.element("ObjectSize"), told.element("ChecksumCRC32")),
        ("5".to_owned(), crc)
    );
    assert!(told.elements("StorageClass").is_empty());
}

#[tokio::test]
async fn signed_chunks_are_read_with_and_without_trailers() {
    let door = Door::with_bucket("bkt").await;
    let pieces: [&[u8]; 3] = [b"hello ", &[b'x'; 5000], b" world"];
    let whole = pieces.concat();
    let put = door
        .put("/bkt/k")
        .header("content-encoding", "aws-chunked,gzip")
        .send_chunked(&pieces, None)
        .await;
    put.expect(200);
    let got = door.get("/bkt/k").send().await.expect(200);
    assert_eq!(
        (got.body.as_deref().unwrap(), got.name("content-encoding")),
        (&*whole, "gzip")
    );
    for (kind, header, _) in KINDS {
        let good = sum(kind, &whole);
        let put = door
            .put("/bkt/k")
            .send_chunked(&pieces, Some((header, &good)))
            .await
            .expect(200);
        assert_eq!(put.name(header), good);
        let bad = door
            .put("/bkt/bad")
            .send_chunked(&pieces, Some((header, &sum(kind, b"x"))))
            .await;
        bad.refused(400, "BadDigest");
    }
    // A header that has to be set aside doesn't lose the trailer.
    let (header, good) = ("x-amz-checksum-crc32", sum(ChecksumKind::Crc32, &whole));
    let odd = door.put("/bkt/odd").header("x-amz-meta-a", "=?X?Q?a?=");
    assert_eq!(
        odd.send_chunked(&pieces, Some((header, &good)))
            .await
            .expect(200)
            .name(header),
        good
    );
    door.head("/bkt/bad").send().await.expect(404);
}

/// A body of unsigned chunks with trailing checksum, as SDKs send it.
fn unsigned(door: &Door, path: &str, body: &str, len: usize) -> crate::client::Call {
    let call = door.put(path).payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let call = call
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .header("x-amz-sdk-checksum-algorithm", "CRC32");
    call.header("x-amz-decoded-content-length", &len.to_string())
        .body(body.to_owned())
}

#[tokio::test]
async fn unsigned_chunks_are_read_and_malformed_ones_refused() {
    let door = Door::with_bucket("bkt").await;
    let sum = sum(ChecksumKind::Crc32, b"hello world");
    let good = format!("5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n");
    let put = unsigned(&door, "/bkt/k", &good, 11)
        .send()
        .await
        .expect(200);
    assert_eq!(put.name("x-amz-checksum-crc32"), sum);
    assert_eq!(
        door.get("/bkt/k").send().await.expect(200).text(),
        "hello world"
    );
    let wrong = good.replace("hello", "jello");
    unsigned(&door, "/bkt/bad", &wrong, 11)
        .send()
        .await
        .refused(400, "BadDigest");
    unsigned(&door, "/bkt/bad", &good, 12)
        .send()
        .await
        .refused(400, "IncompleteBody");
    unsigned(&door, "/bkt/bad", "5\r\nhello\r\n0\r\n\r\n", 5)
        .send()
        .await
        .refused(400, "MalformedTrailerError");
    unsigned(&door, "/bkt/bad", "zz\r\nhello\r\n0\r\n\r\n", 5)
        .send()
        .await
        .refused(400, "InvalidRequest");
    door.head("/bkt/bad").send().await.expect(404);
}

#[tokio::test]
async fn headers_without_support_are_refused() {
    let door = Door::with_bucket("bkt").await;
    for (name, value) in [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "id=1"),
    ] {
        door.put("/bkt/k")
            .header(name, value)
            .body("x")
            .send()
            .await
            .refused(501, "NotImplemented");
    }
    let cold = door
        .put("/bkt/k")
        .header("x-amz-storage-class", "GLACIER")
        .body("x")
        .send()
        .await;
    cold.refused(400, "InvalidStorageClass");
    door.put("/bkt/k")
        .header("x-amz-storage-class", "STANDARD")
        .header("x-amz-acl", "private")
        .send()
        .await
        .expect(200);
    let long = "x".repeat(3000);
    door.put("/bkt/k")
        .header("x-amz-meta-a", &long)
        .send()
        .await
        .refused(400, "MetadataTooLarge");
}

#[tokio::test]
async fn copies_keep_or_replace_headers_and_judge_both_ends() {
    let door = Door::with_bucket("bkt").await;
    let put = door
        .put("/bkt/a%20b")
        .header("content-type", "text/plain")
        .header("x-amz-meta-a", "1")
        .body("hello");
    let etag = put.send().await.expect(200).name("etag").to_owned();
    let copy = |to: &str| door.put(to).header("x-amz-copy-source", "/bkt/a%20b");
    let copied = copy("/bkt/copy").send().await.expect(200);
    assert_eq!(copied.element("ETag"), etag);
    let got = door.get("/bkt/copy").send().await.expect(200);
    assert_eq!(
        (got.text().as_str(), got.name("x-amz-meta-a")),
        ("hello", "1")
    );
    let replaced = copy("/bkt/copy")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-b", "2");
    replaced.send().await.expect(200);
    let got = door.head("/bkt/copy").send().await.expect(200);
    assert_eq!(got.name("x-amz-meta-b"), "2");
    assert!(!got.headers.contains_key("x-amz-meta-a"));
    copy("/bkt/c")
        .header("x-amz-copy-source-if-match", &etag)
        .send()
        .await
        .expect(200);
    let refused = copy("/bkt/c")
        .header("x-amz-copy-source-if-none-match", &etag)
        .send()
        .await;
    refused.refused(412, "PreconditionFailed");
    copy("/bkt/c")
        .header("if-none-match", "*")
        .send()
        .await
        .refused(412, "PreconditionFailed");
    door.put("/bkt/c")
        .header("x-amz-copy-source", "/bkt/none")
        .send()
        .await
        .refused(404, "NoSuchKey");
}

#[tokio::test]
async fn deletes_succeed_whether_or_not_something_was_there() {
    let door = Door::with_bucket("bkt").await;
    let etag = door
        .put("/bkt/k")
        .body("hello")
        .send()
        .await
        .expect(200)
        .name("etag")
        .to_owned();
    door.delete("/bkt/k")
        .header("if-match", "\"other\"")
        .send()
        .await
        .refused(412, "PreconditionFailed");
    door.delete("/bkt/k")
        .header("if-match", &etag)
        .send()
        .await
        .expect(204);
    door.delete("/bkt/k").send().await.expect(204);
    door.delete("/bkt/k")
        .header("if-match", &etag)
        .send()
        .await
        .refused(404, "NoSuchKey");
}

fn delete_xml(keys: impl IntoIterator<Item = String>, rest: &str) -> String {
    let objects: String = keys
        .into_iter()
        .map(|k| format!("<Object><Key>{k}</Key></Object>"))
        .collect();
    format!("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{objects}{rest}</Delete>")
}

#[tokio::test]
async fn many_keys_are_deleted_at_once() {
    let door = Door::with_bucket("bkt").await;
    for key in ["a", "b%26c", "d"] {
        door.put(&format!("/bkt/{key}"))
            .body("x")
            .send()
            .await
            .expect(200);
    }
    let send = |xml: String| {
        let md5 = STANDARD.encode(md5_of(xml.as_bytes()));
        door.post("/bkt")
            .query("delete", "")
            .header("content-md5", &md5)
            .body(xml)
            .send()
    };
    let names = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
    let gone = send(delete_xml(names(&["a", "none", "b&amp;c"]), ""))
        .await
        .expect(200);
    assert_eq!(gone.elements("Key"), ["a", "none", "b&c"]);
    let long = "x".repeat(2000);
    let quiet = send(delete_xml(names(&["d", &long]), "<Quiet>true</Quiet>"))
        .await
        .expect(200);
    assert!(quiet.elements("Deleted").is_empty(), "{}", quiet.text());
    assert!(
        door.get("/bkt")
            .send()
            .await
            .expect(200)
            .elements("Key")
            .is_empty()
    );
    let mixed = "<Object><Key>a</Key><ETag>\"0\"</ETag></Object>";
    let mixed = send(delete_xml(names(&["z"]), mixed)).await.expect(200);
    assert_eq!(
        (mixed.elements("Deleted").len(), mixed.element("Code")),
        (1, "NoSuchKey".to_owned())
    );
    send(delete_xml((0..1001).map(|n| n.to_string()), ""))
        .await
        .refused(400, "MalformedXML");
    send("<Delete".to_owned())
        .await
        .refused(400, "MalformedXML");
    let xml = delete_xml(names(&["a"]), "");
    let bare = door
        .post("/bkt")
        .query("delete", "")
        .body(xml.clone())
        .send()
        .await;
    bare.refused(400, "InvalidRequest");
    let crc = sum(ChecksumKind::Crc32, xml.as_bytes());
    let with_crc = door
        .post("/bkt")
        .query("delete", "")
        .header("x-amz-checksum-crc32", &crc)
        .body(xml.clone());
    with_crc.send().await.expect(200);
    let bad = door
        .post("/bkt")
        .query("delete", "")
        .header("x-amz-checksum-crc32", "AAAAAA==")
        .body(xml)
        .send()
        .await;
    bad.refused(400, "BadDigest");
}
