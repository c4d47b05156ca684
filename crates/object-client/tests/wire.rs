//! What the client sends, seen by an endpoint that answers what it was told to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_client::transfer::Transfer;
use object_client::{Endpoint, Error, ListRequest, S3Client};

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Slow\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A request as it arrived.
struct Seen {
    connection: usize,
    head: String,
    body: Vec<u8>,
}

type Answers = Arc<Mutex<VecDeque<String>>>;

/// Starts an endpoint with these answers.
fn endpoint(answers: &[&str]) -> (S3Client, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers: Answers = Arc::new(Mutex::new(
        answers.iter().map(ToString::to_string).collect(),
    ));
    let (sender, seen) = channel();
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (answers, sender) = (Arc::clone(&answers), sender.clone());
            std::thread::spawn(move || answer(stream.unwrap(), connection, &answers, &sender));
        }
    });
    let client = S3Client::new(Endpoint {
        url,
        region: "us-east-1".to_owned(),
        access_key: "key".to_owned(),
        secret_key: "secret".to_owned(),
        session_token: None,
        path_style: true,
        ca_file: None,
    });
    (client.unwrap(), seen)
}

fn answer(mut stream: TcpStream, connection: usize, answers: &Answers, seen: &Sender<Seen>) {
    while let Some((head, body)) = read(&mut stream) {
        let request = Seen {
            connection,
            head,
            body,
        };
        let Some(answer) = answers.lock().unwrap().pop_front() else {
            return;
        };
        let _ = seen.send(request);
        stream.write_all(answer.as_bytes()).unwrap();
        if answer.contains("connection: close") {
            return;
        }
    }
}

fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

#[tokio::test]
async fn busy_endpoints_are_asked_again_and_connections_kept() {
    let (client, seen) = endpoint(&[BUSY, EMPTY, EMPTY]);
    client.head("b", "k").await.unwrap();
    client.head("b", "k").await.unwrap();
    let connections: Vec<_> = seen.iter().take(3).map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1, 1]);
}

#[tokio::test]
async fn refusals_are_not_repeated() {
    let body = "<Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
    let length = body.len();
    let refusal = format!("HTTP/1.1 404 No\r\ncontent-length: {length}\r\n\r\n{body}");
    let (client, _seen) = endpoint(&[&refusal]);
    let error = client.list("b", ListRequest::default()).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(404), "NoSuchBucket"));
}

const PART: &str = "\"f4c9385f1902f7334b00b9b4ecd164de\"";
const OF_THE_PART: &str = "\"1819d1a8700e59901a48215b8577ac07-1\"";

/// Completes an upload of one part with these answers.
async fn complete(answers: &[&str]) -> Result<String, Error> {
    let (client, _seen) = endpoint(answers);
    let parts = [(1, PART.to_owned())];
    client.complete_multipart("b", "k", "id", &parts).await
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found_again() {
    let body = "<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>";
    let length = body.len();
    let gone = format!("HTTP/1.1 404 No\r\ncontent-length: {length}\r\n\r\n{body}");
    let head = |etag: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\netag: {etag}\r\n\r\n");
    let (same, other) = (head(OF_THE_PART), head("\"other-1\""));
    let (gone, same, other) = (gone.as_str(), same.as_str(), other.as_str());
    let none = "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(complete(&[BUSY, gone, same]).await.unwrap(), OF_THE_PART);
    // Another object, none, or an upload that was gone before it was first asked for.
    let in_vain: [&[&str]; 3] = [&[BUSY, gone, other], &[BUSY, gone, none], &[gone]];
    for answers in in_vain {
        let error = complete(answers).await.unwrap_err();
        assert_eq!(error.code(), "NoSuchUpload");
    }
}

#[tokio::test]
async fn keys_and_bodies_arrive_as_they_are() {
    let (client, seen) = endpoint(&[EMPTY, EMPTY, EMPTY]);
    client
        .put("b", "a/../\u{fc} //", Bytes::from_static(b"body"), None)
        .await
        .unwrap();
    client.put("b", "empty", Bytes::new(), None).await.unwrap();
    client.delete("b", "x").await.unwrap();
    let seen: Vec<_> = seen.iter().take(3).collect();
    assert!(
        seen[0].head.starts_with("PUT /b/a/../%C3%BC%20//?X-Amz-"),
        "{}",
        seen[0].head
    );
    assert_eq!(seen[0].body, b"body");
    assert!(seen[0].head.contains("\r\nhost: 127.0.0.1:"));
    assert!(seen[1].head.contains("\r\ncontent-length: 0\r\n"));
    assert!(seen[2].head.starts_with("DELETE /b/x?"));
}

#[tokio::test]
async fn downloads_replace_a_file_only_when_they_are_complete() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\netag: \"e\"\r\n\r\n";
    let bytes = "HTTP/1.1 206 Part\r\ncontent-length: 4\r\n\r\n1234";
    let other = "HTTP/1.1 412 Other\r\ncontent-length: 0\r\n\r\n";
    let (client, seen) = endpoint(&[head, other, head, bytes]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "old").unwrap();
    let transfer = Transfer::new(client, "b", 4, Arc::new(()));

    let error = transfer.download_file("k", &path).await.unwrap_err();
    assert!(matches!(error, Error::Changed(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    let moved = transfer.download_file("k", &path).await.unwrap();
    assert_eq!((moved.files, moved.bytes), (1, 4));
    assert_eq!(std::fs::read(&path).unwrap(), b"1234");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let seen: Vec<_> = seen.iter().take(4).collect();
    assert!(seen[3].head.contains("\r\nif-match: \"e\"\r\n"));
    assert!(seen[3].head.contains("\r\nrange: bytes=0-3\r\n"));
}
