//! The way to a node on another machine: its HTTP door, by TLS, with an administrator's access key.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_client::tls;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::client::{Stream, Way};
use super::{At, folder};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Where the door keeps what is administration.
const PREFIX: &str = "/admin";
/// The documented port of the HTTP door.
const PORT: u16 = 7302;

/// Connects to the HTTP door at `endpoint`.
pub async fn connect(at: &At, endpoint: &str) -> Result<Way> {
    let target = Target::parse(endpoint)?;
    if !target.tls && !target.is_loopback() && !at.insecure_http {
        bail!(
            "{endpoint} would send the secret over plain HTTP: use https://, or say --insecure-http"
        );
    }
    let authorization = authorization(|name| std::env::var(name).ok())?;
    let address = (target.host.as_str(), target.port);
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address))
        .await
        .with_context(|| format!("{endpoint} did not answer in time"))?
        .with_context(|| format!("can't connect to {endpoint}"))?;
    let stream: Box<dyn Stream> = if target.tls {
        let name = ServerName::try_from(target.host.clone())
            .with_context(|| format!("{} is no name of a server", target.host))?;
        let ca = at.ca.clone().or_else(|| folder::variable("SKERRY_CA"));
        let connector = tls::connector(ca.as_deref())?;
        let secured = timeout(CONNECT_LIMIT, connector.connect(name, stream))
            .await
            .with_context(|| format!("{endpoint} did not answer in time"))?
            .with_context(|| format!("{endpoint} is not trusted: name its authority with --ca"))?;
        Box::new(secured)
    } else {
        Box::new(stream)
    };
    Ok(Way {
        stream,
        host: format!("{}:{}", target.host, target.port),
        prefix: PREFIX.into(),
        authorization: Some(authorization),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
}

impl Target {
    fn parse(endpoint: &str) -> Result<Self> {
        let url = Url::parse(endpoint)
            .with_context(|| format!("{endpoint} is no URL: give one like https://HOST:{PORT}"))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => bail!("{endpoint} begins with {other}: give https://HOST:{PORT}"),
        };
        let host = url.host_str().context("the endpoint names no host")?;
        Ok(Target {
            tls,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: written_port(endpoint, &url).unwrap_or(PORT),
        })
    }

    fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The port that is written; a URL alone does not tell the usual port of its scheme from none.
fn written_port(endpoint: &str, url: &Url) -> Option<u16> {
    if let Some(port) = url.port() {
        return Some(port);
    }
    let (_, rest) = endpoint.split_once("://")?;
    let place = rest.split(['/', '?', '#']).next()?;
    let usual = url.port_or_known_default()?;
    place.ends_with(&format!(":{usual}")).then_some(usual)
}

/// HTTP Basic from the variables that hold an administrator's key.
fn authorization(variable: impl Fn(&str) -> Option<String>) -> Result<String> {
    // An empty variable says nothing.
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |own: &str, usual: &str| {
        given(own).or_else(|| given(usual)).with_context(|| {
            format!("--endpoint needs an administrator's key: set {own} or {usual}")
        })
    };
    let key = either("SKERRY_ACCESS_KEY", "AWS_ACCESS_KEY_ID")?;
    let secret = either("SKERRY_SECRET_KEY", "AWS_SECRET_ACCESS_KEY")?;
    Ok(format!(
        "Basic {}",
        STANDARD.encode(format!("{key}:{secret}"))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_or_refused_in_words() {
        let target = Target::parse("https://[::1]").unwrap();
        assert_eq!(
            (target.tls, target.port, target.is_loopback()),
            (true, PORT, true)
        );
        assert!(!Target::parse("http://10.0.0.1:80").unwrap().is_loopback());
        for (text, port) in [
            ("https://a", PORT),
            ("https://a:443", 443),
            ("http://a:80/", 80),
            ("https://[::443]", PORT),
            ("https://[::1]:7300", 7300),
        ] {
            assert_eq!(Target::parse(text).unwrap().port, port, "{text}");
        }
        for bad in ["10.0.0.1", "ftp://a", ""] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn own_variables_come_before_the_usual_ones() {
        let set = |name: &str| match name {
            "SKERRY_ACCESS_KEY" => Some("own".to_owned()),
            "AWS_ACCESS_KEY_ID" => Some("usual".to_owned()),
            "SKERRY_SECRET_KEY" => Some(String::new()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            _ => None,
        };
        let expected = format!("Basic {}", STANDARD.encode("own:secret"));
        assert_eq!(authorization(set).unwrap(), expected);
        let error = authorization(|_| None).unwrap_err().to_string();
        assert!(error.contains("SKERRY_ACCESS_KEY"), "{error}");
    }
}
