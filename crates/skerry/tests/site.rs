//! The program as its user meets it: `skerry up` in a folder, an S3 request signed by another crate's code, `kill -9`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

const READY_LIMIT: Duration = Duration::from_secs(120);
const SIGNED_FOR: Duration = Duration::from_secs(600);

/// One machine-wide lock for tests that start processes.
fn alone() -> std::fs::File {
    let path = std::env::temp_dir().join("skerry-process-tests.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    file.lock().unwrap();
    file
}

struct Site {
    data: PathBuf,
    child: Child,
}

impl Site {
    fn up(data: &Path) -> Site {
        let child = Command::new(env!("CARGO_BIN_EXE_skerry"))
            .args(["up", "--ports", "random", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut site = Site {
            data: data.to_owned(),
            child,
        };
        let end = Instant::now() + READY_LIMIT;
        while !site.run(&["status"]).status.success() {
            assert!(
                site.child.try_wait().unwrap().is_none(),
                "`skerry up` ended"
            );
            assert!(
                Instant::now() < end,
                "not ready: {:?}",
                site.run(&["status"])
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        site
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
        command
            .args(arguments)
            .arg("--data")
            .arg(&self.data)
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn bucket(&self) -> (Bucket, Credentials) {
        let env = self.json(&["env"])["env"].clone();
        let text = |name: &str| env[name].as_str().unwrap().to_owned();
        let url = text("AWS_ENDPOINT_URL").parse().unwrap();
        let bucket = Bucket::new(url, UrlStyle::Path, "shop", text("AWS_REGION")).unwrap();
        (
            bucket,
            Credentials::new(text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")),
        )
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let (bucket, keys) = site.bucket();
    assert_eq!(
        send("PUT", &bucket.create_bucket(&keys).sign(SIGNED_FOR), b"").0,
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
            &bucket.put_object(Some(&keys), key).sign(SIGNED_FOR),
            &bytes(len, len),
        );
        assert_eq!(status, 200, "{key}: {}", String::from_utf8_lossy(&body));
    }

    site.kill();
    let again = Site::up(&folder.path().join("site"));
    let (bucket_again, keys_again) = again.bucket();
    assert_eq!(
        bucket_again.base_url(),
        bucket.base_url(),
        "the ports are kept"
    );
    for (key, len) in objects {
        let (status, body) = send(
            "GET",
            &bucket_again
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
        &bucket.get_object(Some(&stranger), "small").sign(SIGNED_FOR),
        b"",
    );
    assert_eq!(status, 403);
    assert!(String::from_utf8_lossy(&body).contains("InvalidAccessKeyId"));
    let (status, _) = send(
        "GET",
        &bucket.get_object(None, "small").sign(SIGNED_FOR),
        b"",
    );
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
