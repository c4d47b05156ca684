//! Asks a node of the site over the socket in its data folder.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{At, folder};
use crate::node::admin::SOCKET;

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
    let data = folder::choose(at.data.clone())?;
    let stream = connect(&data).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let running = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "skerry")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    let answer = sender
        .send_request(request)
        .await
        .context("the node broke the connection off")?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    running.abort();
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
