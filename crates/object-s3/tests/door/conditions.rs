//! Conditional requests.

use crate::client::Door;

const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Fri, 06 Nov 2099 08:49:37 GMT";

#[tokio::test]
async fn reads_are_conditional() {
    let door = Door::with_bucket("bkt").await;
    let put = door.put("/bkt/k").body("hello").send().await.expect(200);
    let etag = put.name("etag").to_owned();
    let list = format!("\"other\", W/{etag}");
    let told = door.head("/bkt/k").send().await.expect(200);
    let modified = told.name("last-modified");
    for (name, value, status) in [
        ("if-match", &*etag, 200),
        ("if-match", "*", 200),
        ("if-match", &etag.replace('"', ""), 200),
        ("if-match", "\"other\"", 412),
        ("if-match", &list, 412),
        ("if-none-match", &etag, 304),
        ("if-none-match", &list, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", LONG_AGO, 200),
        ("if-modified-since", LATER, 304),
        ("if-modified-since", "Friday, 06-Nov-99 08:49:37 GMT", 200),
        ("if-modified-since", "some day", 200),
        ("if-unmodified-since", LATER, 200),
        ("if-unmodified-since", LONG_AGO, 412),
    ] {
        let got = door
            .get("/bkt/k")
            .header(name, value)
            .send()
            .await
            .expect(status);
        let head = door
            .head("/bkt/k")
            .header(name, value)
            .send()
            .await
            .expect(status);
        match status {
            304 => {
                assert!(got.text().is_empty(), "{name}: {value}");
                for reply in [&got, &head] {
                    assert_eq!(reply.name("etag"), etag);
                    assert_eq!(reply.name("last-modified"), modified);
                }
            }
            412 => assert_eq!(got.element("Code"), "PreconditionFailed"),
            _ => assert_eq!(got.text(), "hello"),
        }
    }
}

#[tokio::test]
async fn writes_are_conditional() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/k")
        .header("if-match", "\"any\"")
        .body("0")
        .send()
        .await
        .refused(404, "NoSuchKey");
    let first = door
        .put("/bkt/k")
        .header("if-none-match", "*")
        .body("1")
        .send()
        .await
        .expect(200);
    door.put("/bkt/k")
        .header("if-none-match", "*")
        .body("2")
        .send()
        .await
        .refused(412, "PreconditionFailed");
    let etag = first.name("etag").to_owned();
    door.put("/bkt/k")
        .header("if-match", &etag)
        .body("3")
        .send()
        .await
        .expect(200);
    door.put("/bkt/k")
        .header("if-match", &etag)
        .body("4")
        .send()
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(door.get("/bkt/k").send().await.expect(200).text(), "3");
}

#[tokio::test]
async fn a_range_of_an_object_that_changed_is_the_whole_object() {
    let door = Door::with_bucket("bkt").await;
    let put = door.put("/bkt/k").body("hello").send().await.expect(200);
    let etag = put.name("etag").to_owned();
    let modified = door
        .head("/bkt/k")
        .send()
        .await
        .expect(200)
        .name("last-modified")
        .to_owned();
    for (unchanged, status, body) in [
        (&*etag, 206, "el"),
        ("\"other\"", 200, "hello"),
        (&*modified, 206, "el"),
        (LONG_AGO, 200, "hello"),
    ] {
        let call = door
            .get("/bkt/k")
            .header("range", "bytes=1-2")
            .header("if-range", unchanged);
        assert_eq!(call.send().await.expect(status).text(), body, "{unchanged}");
    }
}
