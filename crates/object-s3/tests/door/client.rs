//! A client that signs and sends exactly what a test says, and a door for it to talk to.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ids::UserId;
use object_core::api::Caller;
use object_s3::{DoorObserver, DoorOptions, KeyDirectory, KeyEntry, S3Door};
use ring::{digest, hmac};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::fake::Fake;

pub const ALICE: Key = Key {
    id: "AKALICE",
    secret: "alice's secret",
};
pub const BOB: Key = Key {
    id: "AKBOB",
    secret: "bob's secret",
};

#[derive(Clone, Copy)]
pub struct Key {
    pub id: &'static str,
    pub secret: &'static str,
}

struct Keys;

impl KeyDirectory for Keys {
    fn find(&self, access_key: &str) -> Option<KeyEntry> {
        let known = [(ALICE, 1, "alice"), (BOB, 2, "bob")];
        let (key, user, name) = known.into_iter().find(|(key, ..)| key.id == access_key)?;
        let caller = Caller {
            user: UserId([user; 16]),
            name: name.into(),
            admin: false,
            may_write: true,
        };
        Some(KeyEntry {
            secret: key.secret.into(),
            caller,
        })
    }
}

/// The user of [`ALICE`].
pub fn alice() -> Caller {
    Caller {
        user: UserId([1; 16]),
        name: "alice".into(),
        admin: false,
        may_write: true,
    }
}

/// Remembers what the door told.
#[derive(Default)]
pub struct Seen(pub watch::Sender<Vec<(&'static str, u16)>>, pub Connected);

/// Connections that were opened, and that ended.
pub type Connected = watch::Sender<(usize, usize)>;

impl DoorObserver for Seen {
    fn request(&self, operation: &'static str, status: u16, _micros: u64) {
        self.0.send_modify(|seen| seen.push((operation, status)));
    }

    fn connection_opened(&self) {
        self.1.send_modify(|(opened, _)| *opened += 1);
    }

    fn connection_closed(&self) {
        self.1.send_modify(|(_, closed)| *closed += 1);
    }
}

pub struct Door {
    pub address: SocketAddr,
    pub store: Arc<Fake>,
    pub seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Door {
    pub async fn open() -> Door {
        Door::with(DoorOptions::default()).await
    }

    pub async fn with(options: DoorOptions) -> Door {
        let (store, seen) = (Arc::new(Fake::default()), Arc::new(Seen::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = S3Door::new(
            store.clone(),
            Arc::new(Keys),
            DoorOptions {
                observer: seen.clone(),
                ..options
            },
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let shutdown = Box::pin(async { drop(stopped.await) });
            door.serve(listener, Arc::new(|| None), shutdown).await;
        });
        Door {
            address,
            store,
            seen,
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    /// A door with a bucket of alice's in it.
    pub async fn with_bucket(name: &str) -> Door {
        let door = Door::open().await;
        door.put(&format!("/{name}")).send().await.expect(200);
        door
    }

    /// Asks the door to close; the handle ends when it has.
    pub fn close(&mut self) -> JoinHandle<()> {
        drop(self.stop.take());
        self.serving.take().unwrap()
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        Call {
            address: self.address,
            host: self.address.to_string(),
            method,
            path: path.into(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            unsigned_headers: HeaderMap::new(),
            body: Bytes::new(),
            payload: None,
            key: Some(ALICE),
            age_secs: 0,
        }
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn head(&self, path: &str) -> Call {
        self.call(Method::HEAD, path)
    }

    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }
}

/// One request, in the making.
pub struct Call {
    address: SocketAddr,
    host: String,
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    unsigned_headers: HeaderMap,
    body: Bytes,
    payload: Option<String>,
    key: Option<Key>,
    age_secs: i64,
}

impl Call {
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(
            name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
        self
    }

    /// A header that is sent but not signed.
    pub fn unsigned(mut self, name: &'static str, value: &str) -> Self {
        self.unsigned_headers.append(name, value.parse().unwrap());
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// What `x-amz-content-sha256` says, instead of the hash of the body.
    pub fn payload(mut self, payload: &str) -> Self {
        self.payload = Some(payload.into());
        self
    }

    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    pub fn anonymous(mut self) -> Self {
        self.key = None;
        self
    }

    /// Signs as if the clock were off by this much.
    pub fn age(mut self, secs: i64) -> Self {
        self.age_secs = secs;
        self
    }

    fn uri(&self) -> String {
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|(n, v)| format!("{}={}", encode(n, false), encode(v, false)))
            .collect();
        if pairs.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, pairs.join("&"))
        }
    }

    /// Adds the headers of a signature; gives what later chunks are signed with.
    fn sign(&mut self, key: Key) -> Signer {
        let now = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(self.age_secs);
        let (date, time) = (
            now.strftime("%Y%m%d").to_string(),
            now.strftime("%Y%m%dT%H%M%SZ").to_string(),
        );
        let payload = self.payload.clone().unwrap_or_else(|| sha256(&self.body));
        self.headers.insert("host", self.host.parse().unwrap());
        self.headers.insert("x-amz-date", time.parse().unwrap());
        self.headers
            .insert("x-amz-content-sha256", payload.parse().unwrap());
        let mut names: Vec<&str> = self.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let lines: String = names
            .iter()
            .map(|n| {
                let values: Vec<String> = self
                    .headers
                    .get_all(*n)
                    .iter()
                    .map(|v| String::from_utf8(v.as_bytes().to_vec()).unwrap())
                    .collect();
                format!("{n}:{}\n", values.join(","))
            })
            .collect();
        let mut pairs: Vec<(String, String)> = self
            .query
            .iter()
            .map(|(n, v)| (encode(n, false), encode(v, false)))
            .collect();
        pairs.sort();
        let query: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let signed = names.join(";");
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{signed}\n{payload}",
            self.method,
            self.path,
            query.join("&")
        );
        let scope = format!("{date}/us-east-1/s3/aws4_request");
        let signer = Signer::new(key, &date, &time, &scope);
        let signature = signer.sign(&format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            sha256(canonical.as_bytes())
        ));
        let text = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            key.id
        );
        self.headers.insert("authorization", text.parse().unwrap());
        Signer {
            previous: signature,
            ..signer
        }
    }

    /// Sends the body as signed chunks of these sizes, with these trailers.
    pub async fn send_chunked(mut self, pieces: &[&[u8]], trailer: Option<(&str, &str)>) -> Reply {
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        let kind = if trailer.is_some() { "-TRAILER" } else { "" };
        self = self.header("x-amz-decoded-content-length", &len.to_string());
        if let Some((name, _)) = trailer {
            self = self.header("x-amz-trailer", name);
        }
        self.payload = Some(format!("STREAMING-AWS4-HMAC-SHA256-PAYLOAD{kind}"));
        let mut signer = self.sign(self.key.unwrap());
        let mut body = Vec::new();
        for piece in pieces.iter().copied().chain([&[][..]]) {
            let signature = signer.chunk(piece);
            body.extend_from_slice(
                format!("{:x};chunk-signature={signature}\r\n", piece.len()).as_bytes(),
            );
            body.extend_from_slice(piece);
            if !piece.is_empty() || trailer.is_none() {
                body.extend_from_slice(b"\r\n");
            }
        }
        if let Some((name, value)) = trailer {
            let signature = signer.trailer(name, value);
            body.extend_from_slice(
                format!("{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").as_bytes(),
            );
        }
        self.body = body.into();
        self.transmit().await
    }

    pub async fn send(mut self) -> Reply {
        match self.key {
            Some(key) => drop(self.sign(key)),
            None => drop(self.headers.insert("host", self.host.parse().unwrap())),
        }
        self.transmit().await
    }

    /// Sends a head that announces `len` bytes, the body, and then nothing; gives all that the door says.
    pub async fn send_part_of(mut self, len: usize) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        self.sign(self.key.unwrap());
        let mut head = format!(
            "{} {} HTTP/1.1\r\ncontent-length: {len}\r\n",
            self.method,
            self.uri()
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .await
            .unwrap();
        stream.write_all(&self.body).await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// As [`Call::send`], where no answer may come.
    pub async fn send_or_fail(mut self) -> Result<Reply, hyper::Error> {
        self.sign(self.key.unwrap());
        self.try_transmit().await
    }

    async fn transmit(self) -> Reply {
        self.try_transmit().await.unwrap()
    }

    async fn try_transmit(self) -> Result<Reply, hyper::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri().parse().unwrap();
        *request.headers_mut() = self.headers;
        request.headers_mut().extend(self.unsigned_headers);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map(|b| b.to_bytes())
            .map_err(|e| e.to_string());
        connection.abort();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Result<Bytes, String>,
}

impl Reply {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(
            self.headers.contains_key("x-amz-request-id"),
            "{:?}",
            self.headers
        );
        self
    }

    /// Expects a refusal with this code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(reply.element("Code"), code, "{}", reply.text());
        reply
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_deref().unwrap_or(b"<broken off>")).into_owned()
    }

    #[track_caller]
    pub fn name(&self, header: &str) -> &str {
        let value = self
            .headers
            .get(header)
            .unwrap_or_else(|| panic!("no {header} in {:?}", self.headers));
        std::str::from_utf8(value.as_bytes()).unwrap()
    }

    /// The text of the first element of this name.
    #[track_caller]
    pub fn element(&self, name: &str) -> String {
        self.elements(name)
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("no {name} in {}", self.text()))
    }

    /// The texts of all elements of this name.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        let found = text
            .split(&open)
            .skip(1)
            .map(|rest| rest.split(&close).next().unwrap());
        found
            .map(|t| {
                t.replace("&quot;", "\"")
                    .replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&amp;", "&")
            })
            .collect()
    }
}

struct Signer {
    key: hmac::Key,
    time: String,
    scope: String,
    previous: String,
}

impl Signer {
    fn new(key: Key, date: &str, time: &str, scope: &str) -> Signer {
        let mut bytes = format!("AWS4{}", key.secret).into_bytes();
        for part in [date, "us-east-1", "s3", "aws4_request"] {
            bytes = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), part.as_bytes())
                .as_ref()
                .to_vec();
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        Signer {
            key,
            time: time.into(),
            scope: scope.into(),
            previous: String::new(),
        }
    }

    fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.key, text.as_bytes()))
    }

    fn chunk(&mut self, data: &[u8]) -> String {
        let (time, scope, previous) = (&self.time, &self.scope, &self.previous);
        let (empty, data) = (sha256(b""), sha256(data));
        let text =
            format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{previous}\n{empty}\n{data}");
        self.previous = self.sign(&text);
        self.previous.clone()
    }

    fn trailer(&self, name: &str, value: &str) -> String {
        let (time, scope, previous) = (&self.time, &self.scope, &self.previous);
        let hash = sha256(format!("{name}:{value}\n").as_bytes());
        self.sign(&format!(
            "AWS4-HMAC-SHA256-TRAILER\n{time}\n{scope}\n{previous}\n{hash}"
        ))
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Percent-encodes as signatures want it; a path keeps its slashes.
pub fn encode(text: &str, path: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (path && b == b'/');
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
