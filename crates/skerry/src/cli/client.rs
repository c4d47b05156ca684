//! Asks a node of the site: over the socket in its data folder, or with `--endpoint` from another machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{At, folder, remote};
use crate::node::admin::SOCKET;

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection, of whichever kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A way to a node's admin API.
pub struct Way {
    /// The open connection.
    pub stream: Box<dyn Stream>,
    /// What the header `host` says.
    pub host: String,
    /// What stands in front of the API's paths.
    pub prefix: String,
    /// Who asks, where the connection does not say it.
    pub authorization: Option<String>,
}

/// Asks with GET.
pub async fn get<T: DeserializeOwned>(at: &At, path: &str) -> Result<T> {
    ask(at, Method::GET, path, Bytes::new()).await
}

/// Sends JSON with POST.
pub async fn post<T: DeserializeOwned>(at: &At, path: &str, body: &impl Serialize) -> Result<T> {
    ask(at, Method::POST, path, serde_json::to_vec(body)?.into()).await
}

/// Asks with DELETE.
pub async fn delete(at: &At, path: &str) -> Result<()> {
    ask(at, Method::DELETE, path, Bytes::new()).await
}

async fn ask<T: DeserializeOwned>(at: &At, method: Method, path: &str, body: Bytes) -> Result<T> {
    let way = match &at.endpoint {
        Some(endpoint) => remote::connect(at, endpoint).await?,
        None => local(at).await?,
    };
    let asking = timeout(ANSWER_LIMIT, send(way, method, path, body));
    let (status, body) = asking.await.context("the node did not answer in time")??;
    if !status.is_success() {
        let why = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let why = why.and_then(|why| why.get("error")?.as_str().map(str::to_owned));
        bail!(
            "{}",
            why.unwrap_or_else(|| format!("the node answered {status}"))
        );
    }
    serde_json::from_slice(&body)
        .context("the node's answer can't be read: is it of another version?")
}

async fn send(way: Way, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", way.prefix))
        .header("host", way.host)
        .header("content-type", "application/json");
    if let Some(authorization) = way.authorization {
        request = request.header("authorization", authorization);
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(way.stream)).await?;
    // Aborts the connection when this is dropped.
    let _running = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender
        .send_request(request.body(Full::new(body))?)
        .await
        .context("the node broke the connection off")?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}

async fn local(at: &At) -> Result<Way> {
    let data = folder::find(at.data.clone())?;
    Ok(Way {
        stream: Box::new(connect(&data).await?),
        host: "skerry".into(),
        prefix: String::new(),
        authorization: None,
    })
}

async fn connect(data: &Path) -> Result<UnixStream> {
    let nodes = folder::nodes(data);
    if nodes.is_empty() {
        bail!(
            "there is no site in {}: start one with `skerry up`, or name its folder with --data",
            data.display()
        );
    }
    for node in &nodes {
        if let Ok(stream) = UnixStream::connect(node.join(SOCKET)).await {
            return Ok(stream);
        }
    }
    bail!(
        "no node in {} is running: start it with `skerry up --data {0}`",
        data.display()
    )
}
