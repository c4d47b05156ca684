//! Clients of etcd: puts over gRPC, its own protocol, or over its JSON gateway.
//!
//! A put is one small message of two fields, so the protocol is written out here instead of generated: a frame of a flag,
//! a length and the message, over HTTP/2 without TLS; the status comes in the trailers.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::writes::Writer;

const KEY_PREFIX: &str = "/registry/items/";

/// How clients speak to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// gRPC over HTTP/2, as etcd's own clients.
    Grpc,
    /// JSON over HTTP/1.1, a connection for each client; the member turns it into gRPC.
    Json,
}

/// One client, which puts values of one length.
pub enum EtcdWriter {
    /// See [`Protocol::Grpc`]. Clones share a connection.
    Grpc(GrpcConnection, Bytes),
    /// See [`Protocol::Json`].
    Json(JsonConnection, Bytes),
}

impl EtcdWriter {
    /// `clients` of the member at `address`; gRPC clients share `connections`.
    pub async fn open(
        protocol: Protocol,
        address: &str,
        clients: usize,
        connections: usize,
        value: &Bytes,
    ) -> Result<Vec<EtcdWriter>> {
        let mut writers = Vec::new();
        match protocol {
            Protocol::Json => {
                for _ in 0..clients {
                    let connection = JsonConnection::open(address).await?;
                    writers.push(EtcdWriter::Json(connection, value.clone()));
                }
            }
            Protocol::Grpc => {
                let mut shared = Vec::new();
                for _ in 0..connections.clamp(1, clients.max(1)) {
                    shared.push(GrpcConnection::open(address).await?);
                }
                let connections = shared.iter().cycle().take(clients);
                writers.extend(connections.map(|one| EtcdWriter::Grpc(one.clone(), value.clone())));
            }
        }
        Ok(writers)
    }
}

impl Writer for EtcdWriter {
    async fn write(&mut self, name: String) -> Result<()> {
        let key = format!("{KEY_PREFIX}{name}");
        match self {
            EtcdWriter::Grpc(connection, value) => connection.put(key.as_bytes(), value).await,
            EtcdWriter::Json(connection, value) => {
                let put = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
                connection.post("/v3/kv/put", &put).await.map(drop)
            }
        }
    }
}

/// HTTP/1.1 that is kept alive, for one request at a time.
pub struct JsonConnection {
    address: String,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl JsonConnection {
    /// Connects.
    pub async fn open(address: &str) -> Result<JsonConnection> {
        let (sender, connection) = http1::handshake(connect(address).await?).await?;
        // Its errors show at the requests; it ends with the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(JsonConnection {
            address: address.to_string(),
            sender,
        })
    }

    /// Sends a question to the gateway.
    pub async fn post(&mut self, path: &str, question: &Value) -> Result<Value> {
        let request = Request::post(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(serde_json::to_vec(question)?.into()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        ensure!(status == StatusCode::OK, "etcd said {status}: {text}");
        Ok(serde_json::from_slice(&body)?)
    }
}

/// HTTP/2 for many requests at a time.
#[derive(Clone)]
pub struct GrpcConnection {
    uri: Uri,
    sender: http2::SendRequest<Full<Bytes>>,
}

impl GrpcConnection {
    async fn open(address: &str) -> Result<GrpcConnection> {
        let io = connect(address).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        // See `JsonConnection::open`.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(GrpcConnection {
            uri: format!("http://{address}/etcdserverpb.KV/Put").parse()?,
            sender,
        })
    }

    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(put_frame(key, value)))?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailed = body.trailers().and_then(|all| all.get("grpc-status"));
        // An answer without a body has the status in its head.
        let status = trailed.or_else(|| head.headers.get("grpc-status"));
        let status = status.context("etcd's answer has no status")?;
        ensure!(
            head.status == StatusCode::OK && status.as_bytes() == b"0",
            "etcd refused a put: HTTP {}, gRPC {status:?}",
            head.status
        );
        Ok(())
    }
}

async fn connect(address: &str) -> Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// `etcdserverpb.PutRequest { key = 1; value = 2 }` in a frame that is not compressed.
fn put_frame(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
    put_field(&mut message, 1, key);
    put_field(&mut message, 2, value);
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put(message);
    frame.freeze()
}

fn put_field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    const LENGTH_DELIMITED: u8 = 2;
    message.put_u8((number << 3) | LENGTH_DELIMITED);
    let mut len = bytes.len();
    while len >= 0x80 {
        message.put_u8((len as u8) | 0x80);
        len >>= 7;
    }
    message.put_u8(len as u8);
    message.put_slice(bytes);
}
