//! Starting, stopping and dying: a site in a folder, S3 requests signed by another crate's code, `kill -9`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use crate::site::{Site, alone};

const SIGNED_FOR: Duration = Duration::from_secs(600);

fn bucket(site: &Site) -> (Bucket, Credentials) {
    let env = site.json(&["env"])["env"].clone();
    let text = |name: &str| env[name].as_str().unwrap().to_owned();
    let url = text("AWS_ENDPOINT_URL").parse().unwrap();
    let bucket = Bucket::new(url, UrlStyle::Path, "shop", text("AWS_REGION")).unwrap();
    (
        bucket,
        Credentials::new(text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")),
    )
}

/// Sends one request; returns status and body.
fn send(method: &str, url: &url::Url, body: &[u8]) -> (u16, Vec<u8>) {
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(&address).unwrap();
    let target = &url[url::Position::BeforePath..];
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let status = std::str::from_utf8(&answer[9..12])
        .unwrap()
        .parse()
        .unwrap();
    (status, answer[end + 4..].to_vec())
}

#[test]
fn what_was_put_is_there_after_kill_9() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::up(&folder.path().join("site"));
    let (shop, keys) = bucket(&site);
    assert_eq!(
        send("PUT", &shop.create_bucket(&keys).sign(SIGNED_FOR), b"").0,
        200
    );

    let bytes = |len: usize, seed: usize| {
        (0..len)
            .map(|at| ((at * 31 + seed) % 251) as u8)
            .collect::<Vec<u8>>()
    };
    // Empty, inline, one block, several blocks.
    let objects = [
        ("empty", 0),
        ("small", 1000),
        ("a//b/../c", 40_000),
        ("large", 9 << 20),
    ];
    for (key, len) in objects {
        let (status, body) = send(
            "PUT",
            &shop.put_object(Some(&keys), key).sign(SIGNED_FOR),
            &bytes(len, len),
        );
        assert_eq!(status, 200, "{key}: {}", String::from_utf8_lossy(&body));
    }

    site.kill();
    let again = Site::up(&folder.path().join("site"));
    let (shop_again, keys_again) = bucket(&again);
    assert_eq!(shop_again.base_url(), shop.base_url(), "the ports are kept");
    for (key, len) in objects {
        let (status, body) = send(
            "GET",
            &shop_again
                .get_object(Some(&keys_again), key)
                .sign(SIGNED_FOR),
            b"",
        );
        assert_eq!(status, 200, "{key}");
        assert!(
            body == bytes(len, len),
            "{key} has other bytes: {} of {len}",
            body.len()
        );
    }

    let stranger = Credentials::new("SKAAAAAAAAAAAAAAAAAA", "wrong");
    let (status, body) = send(
        "GET",
        &shop.get_object(Some(&stranger), "small").sign(SIGNED_FOR),
        b"",
    );
    assert_eq!(status, 403);
    assert!(String::from_utf8_lossy(&body).contains("InvalidAccessKeyId"));
    let (status, _) = send("GET", &shop.get_object(None, "small").sign(SIGNED_FOR), b"");
    assert_eq!(status, 403, "anonymous is refused");
}

#[test]
fn a_foreign_folder_and_a_second_start_are_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "mine").unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_skerry"))
        .arg("up")
        .arg("--data")
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("letter.txt"));

    let site = Site::up(&folder.path().join("site"));
    let second = site.run(&["up", "--ports", "random"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("in use by another skerry process"),
        "{second:?}"
    );
}
