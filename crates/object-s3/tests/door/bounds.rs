//! What a client can't make the door do.

use std::time::Duration;

use object_s3::DoorOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Call, Door, alice};

/// All that the door says on a connection on which the client says this and then nothing.
async fn say(door: &Door, words: &[u8]) -> String {
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(words).await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

fn impatient() -> DoorOptions {
    let short = Duration::from_millis(200);
    DoorOptions {
        header_timeout: short,
        body_idle_timeout: short,
        ..DoorOptions::default()
    }
}

#[tokio::test]
async fn headers_that_do_not_come_end_the_connection() {
    let door = Door::with(impatient()).await;
    for words in ["", "GET / HTTP/1.1\r\nhost: a\r\nx-slow:"] {
        let heard = say(&door, words.as_bytes()).await;
        assert!(
            heard.is_empty() || heard.starts_with("HTTP/1.1 408"),
            "{heard}"
        );
    }
}

#[tokio::test]
async fn headers_over_the_bound_are_refused() {
    let door = Door::with(DoorOptions {
        header_bytes_max: 8 << 10,
        ..DoorOptions::default()
    })
    .await;
    let heard = say(
        &door,
        format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(9 << 10)).as_bytes(),
    )
    .await;
    assert!(heard.starts_with("HTTP/1.1 431"), "{heard}");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let door = Door::with(impatient()).await;
    door.put("/bkt-1").send().await.expect(200);
    let halted = door
        .put("/bkt-1/k")
        .payload("UNSIGNED-PAYLOAD")
        .body("only this");
    let heard = halted.send_part_of(100).await;
    assert!(heard.contains("<Code>RequestTimeout</Code>"), "{heard}");
    door.head("/bkt-1/k").send().await.expect(404);
}

#[tokio::test]
async fn xml_over_the_bound_is_refused() {
    let door = Door::with(DoorOptions {
        xml_bytes_max: 1000,
        ..DoorOptions::default()
    })
    .await;
    door.put("/bkt-1").send().await.expect(200);
    let big = format!("<Delete>{}</Delete>", " ".repeat(2000));
    let call = door
        .post("/bkt-1")
        .query("delete", "")
        .header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    call.body(big.clone())
        .send()
        .await
        .refused(400, "MaxMessageLengthExceeded");
    door.put("/bkt-2")
        .body(big)
        .send()
        .await
        .refused(400, "MaxMessageLengthExceeded");
}

#[tokio::test]
async fn a_signed_chunk_over_the_bound_is_refused() {
    let door = Door::with(DoorOptions {
        chunk_bytes_max: 1000,
        ..DoorOptions::default()
    })
    .await;
    door.put("/bkt-1").send().await.expect(200);
    door.put("/bkt-1/k")
        .send_chunked(&[&[1; 1000]], None)
        .await
        .expect(200);
    door.put("/bkt-1/k")
        .send_chunked(&[&[1; 1001]], None)
        .await
        .refused(400, "InvalidRequest");
}

#[tokio::test]
async fn requests_over_the_bound_are_told_to_slow_down() {
    let door = Door::with(DoorOptions {
        max_requests: 1,
        ..DoorOptions::default()
    })
    .await;
    door.store.fill(&alice(), "bkt-1", "hold", "x").await;
    let held = tokio::spawn(door.get("/bkt-1/hold").send());
    door.store
        .waiting
        .subscribe()
        .wait_for(|w| *w == 1)
        .await
        .unwrap();
    let busy = door.get("/bkt-1").send().await.refused(503, "SlowDown");
    assert_eq!(busy.name("retry-after"), "1");
    door.store.release.add_permits(1);
    held.await.unwrap().expect(200);
    while door.get("/bkt-1").send().await.status == 503 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_closing_door_lets_requests_end_and_takes_no_new_ones() {
    let mut door = Door::with_bucket("bkt").await;
    door.put("/bkt/hold").body("held").send().await.expect(200);
    let held = tokio::spawn(door.get("/bkt/hold").send());
    door.store
        .waiting
        .subscribe()
        .wait_for(|w| *w == 1)
        .await
        .unwrap();
    let idle = TcpStream::connect(door.address).await.unwrap();
    let closing = door.close();
    // The listener is gone before requests have ended.
    while TcpStream::connect(door.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    door.store.release.add_permits(1);
    assert_eq!(held.await.unwrap().expect(200).text(), "held");
    closing.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn requests_in_progress_are_broken_off_in_the_end() {
    let options = DoorOptions {
        drain_timeout: Duration::from_millis(50),
        ..DoorOptions::default()
    };
    let mut door = Door::with(options).await;
    door.put("/bkt-1").send().await.expect(200);
    door.put("/bkt-1/hold").body("x").send().await.expect(200);
    let held = tokio::spawn(door.get("/bkt-1/hold").send_or_fail());
    door.store
        .waiting
        .subscribe()
        .wait_for(|w| *w == 1)
        .await
        .unwrap();
    door.close().await.unwrap();
    assert!(held.await.unwrap().is_err());
}

#[tokio::test]
async fn post_forms_and_unknown_methods_are_refused_without_reading_them() {
    let door = Door::with_bucket("bkt").await;
    let form = door
        .post("/bkt")
        .anonymous()
        .unsigned("content-type", "multipart/form-data; boundary=x");
    form.body("--x").send().await.refused(501, "NotImplemented");
    door.call(http::Method::OPTIONS, "/bkt")
        .anonymous()
        .send()
        .await
        .expect(403);
}

#[tokio::test]
async fn the_observer_hears_of_every_request() {
    let door = Door::with_bucket("bkt").await;
    door.put("/bkt/k").body("x").send().await.expect(200);
    door.get("/bkt/k")
        .header("range", "bytes=0-0,1-1")
        .send()
        .await
        .expect(200);
    door.get("/bkt/none").send().await.expect(404);
    door.get("/bkt/k").anonymous().send().await.expect(403);
    let mut seen = door.seen.0.subscribe();
    let seen = seen.wait_for(|seen| seen.len() == 5).await.unwrap();
    let expected = [
        ("CreateBucket", 200),
        ("PutObject", 200),
        ("GetObject", 200),
        ("GetObject", 404),
        ("GetObject", 403),
    ];
    assert_eq!(*seen, expected);
}

/// The AWS CLI 1 reads the next answer on a connection wrongly when a final one came where it waited for "100 Continue".
#[tokio::test]
async fn who_waits_to_send_and_is_not_asked_to_loses_the_connection() {
    let door = Door::with_bucket("bucket").await;
    let waiting = |call: Call| call.header("expect", "100-continue").send();
    let empty = waiting(door.put("/bucket/empty")).await.expect(200);
    assert_eq!(empty.name("connection"), "close");
    let refused = waiting(door.put("/none/k").body("x")).await.expect(404);
    assert_eq!(refused.name("connection"), "close");
    let taken = waiting(door.put("/bucket/k").body("x")).await.expect(200);
    assert!(!taken.headers.contains_key("connection"));
}

#[tokio::test]
async fn the_observer_hears_of_connections() {
    let door = Door::open().await;
    let mut connected = door.seen.1.subscribe();
    let first = TcpStream::connect(door.address).await.unwrap();
    connected.wait_for(|seen| *seen == (1, 0)).await.unwrap();
    let second = TcpStream::connect(door.address).await.unwrap();
    connected.wait_for(|seen| *seen == (2, 0)).await.unwrap();
    drop(first);
    connected.wait_for(|seen| *seen == (2, 1)).await.unwrap();
    drop(second);
    connected.wait_for(|seen| *seen == (2, 2)).await.unwrap();
}
