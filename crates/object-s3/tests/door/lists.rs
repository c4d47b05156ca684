//! Lists.

use crate::client::{Door, encode};

async fn filled() -> Door {
    let door = Door::with_bucket("bkt").await;
    for key in ["a", "dir/1", "dir/2", "dir/sub/3", "e f+g", "z&<"] {
        door.put(&format!("/bkt/{}", encode(key, true)))
            .body(key.to_owned())
            .send()
            .await
            .expect(200);
    }
    door
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let door = filled().await;
    let (mut keys, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let call = door
            .get("/bkt")
            .query("list-type", "2")
            .query("max-keys", "4");
        let call = match &token {
            Some(token) => call.query("continuation-token", token),
            None => call,
        };
        let page = call.send().await.expect(200);
        assert_eq!(
            page.element("KeyCount"),
            page.elements("Key").len().to_string()
        );
        keys.extend(page.elements("Key"));
        pages += 1;
        if page.element("IsTruncated") == "false" {
            break;
        }
        token = Some(page.element("NextContinuationToken"));
    }
    assert_eq!(keys, ["a", "dir/1", "dir/2", "dir/sub/3", "e f+g", "z&<"]);
    assert_eq!(pages, 2);
    let rest = door
        .get("/bkt")
        .query("list-type", "2")
        .query("start-after", "dir/sub/3")
        .send()
        .await
        .expect(200);
    assert_eq!(rest.elements("Key"), ["e f+g", "z&<"]);
    let bad = door
        .get("/bkt")
        .query("list-type", "2")
        .query("continuation-token", "%%")
        .send()
        .await;
    bad.refused(400, "InvalidArgument");
    door.get("/bkt")
        .query("max-keys", "-1")
        .send()
        .await
        .refused(400, "InvalidArgument");
    let none = door
        .get("/bkt")
        .query("list-type", "2")
        .query("max-keys", "0")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (none.element("IsTruncated"), none.elements("Key").len()),
        ("false".to_owned(), 0)
    );
}

#[tokio::test]
async fn the_first_form_has_markers() {
    let door = filled().await;
    let page = door
        .get("/bkt")
        .query("delimiter", "/")
        .query("max-keys", "2")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (page.elements("Key"), page.elements("CommonPrefixes").len()),
        (vec!["a".to_owned()], 1)
    );
    assert_eq!(page.element("NextMarker"), "dir/");
    let rest = door
        .get("/bkt")
        .query("delimiter", "/")
        .query("marker", "dir/")
        .send()
        .await
        .expect(200);
    assert_eq!(rest.elements("Key"), ["e f+g", "z&<"]);
    assert!(rest.elements("CommonPrefixes").is_empty());
}

#[tokio::test]
async fn delimiters_fold_and_prefixes_select() {
    let door = filled().await;
    let call = door
        .get("/bkt")
        .query("list-type", "2")
        .query("delimiter", "/")
        .query("prefix", "dir/");
    let page = call.send().await.expect(200);
    assert_eq!(page.elements("Key"), ["dir/1", "dir/2"]);
    assert!(
        page.text()
            .contains("<CommonPrefixes><Prefix>dir/sub/</Prefix></CommonPrefixes>"),
        "{}",
        page.text()
    );
}

#[tokio::test]
async fn names_are_encoded_when_asked() {
    let door = filled().await;
    let call = door
        .get("/bkt")
        .query("list-type", "2")
        .query("encoding-type", "url")
        .query("prefix", "e f");
    let page = call.send().await.expect(200);
    assert_eq!(
        (
            page.element("Key").as_str(),
            page.element("Prefix").as_str()
        ),
        ("e%20f%2Bg", "e%20f")
    );
    assert_eq!(page.element("EncodingType"), "url");
    door.get("/bkt")
        .query("encoding-type", "zip")
        .send()
        .await
        .refused(400, "InvalidArgument");
}

#[tokio::test]
async fn owners_are_told_when_asked() {
    let door = filled().await;
    let plain = door
        .get("/bkt")
        .query("list-type", "2")
        .send()
        .await
        .expect(200);
    assert!(plain.elements("Owner").is_empty());
    let owners = door
        .get("/bkt")
        .query("list-type", "2")
        .query("fetch-owner", "true")
        .send()
        .await
        .expect(200);
    assert_eq!(owners.element("ID"), "01".repeat(16));
    assert_eq!(owners.element("StorageClass"), "STANDARD");
}

#[tokio::test]
async fn every_object_has_one_version() {
    let door = filled().await;
    let page = door
        .get("/bkt")
        .query("versions", "")
        .query("max-keys", "2")
        .send()
        .await
        .expect(200);
    assert_eq!(page.elements("VersionId"), ["null", "null"]);
    assert_eq!(page.elements("IsLatest"), ["true", "true"]);
    assert_eq!(page.element("NextKeyMarker"), "dir/1");
    let rest = door
        .get("/bkt")
        .query("versions", "")
        .query("key-marker", "dir/1")
        .send()
        .await
        .expect(200);
    assert_eq!(rest.elements("Key").len(), 4);
    door.get("/bkt/a")
        .query("versionId", "null")
        .send()
        .await
        .expect(200);
    door.get("/bkt/a")
        .query("versionId", &"1".repeat(32))
        .send()
        .await
        .refused(404, "NoSuchVersion");
    door.get("/bkt/a")
        .query("versionId", "x")
        .send()
        .await
        .refused(400, "InvalidArgument");
}
