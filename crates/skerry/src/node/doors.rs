//! The doors for clients, S3 and HTTP: whether they may be open where they are, and by which URLs clients find them.
//!
//! A door on another address than loopback speaks TLS, unless plain HTTP was asked for in words.
//! What clients on this machine need to know is kept in the node's folder as `doors.json`, written at each start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use object_s3::TlsSource;
use serde::{Deserialize, Serialize};

use super::folder::{Folder, Listen, read_json};
use super::settings::Settings;
use super::status::Endpoints;
use super::tls::DoorTls;

const FILE: &str = "doors.json";
const FORMAT: u32 = 1;

/// See the module.
#[derive(Debug)]
pub struct Doors {
    /// Certificate and key; without, doors speak plain HTTP.
    pub tls: Option<Arc<DoorTls>>,
    /// Whether plain HTTP may leave the machine.
    pub insecure_http: bool,
    domain: Option<String>,
    host: Option<String>,
}

/// What [`FILE`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    format: u32,
    /// The S3 door's URL.
    pub s3: String,
    /// The HTTP door's URL.
    pub http: String,
    /// The file with the authority that clients must trust, when it is no public one.
    pub ca: Option<PathBuf>,
}

impl Doors {
    /// Reads the certificate, if there is one; else refuses addresses that plain HTTP must not be offered on.
    pub fn new(settings: &Settings, listen: &Listen) -> Result<Self> {
        let tls = settings.tls.as_ref().map(DoorTls::load).transpose()?;
        if tls.is_none() && !settings.insecure_http {
            check_loopback("listen.s3", &listen.s3)?;
            check_loopback("listen.http", &listen.http)?;
        }
        let host = settings.advertise.as_deref().and_then(host_of);
        Ok(Doors {
            tls,
            insecure_http: settings.insecure_http,
            domain: settings.s3_domain.clone(),
            host: host.map(str::to_owned),
        })
    }

    /// For doors, which ask at each connection.
    pub fn tls_source(&self) -> TlsSource {
        match &self.tls {
            Some(tls) => tls.source(),
            None => Arc::new(|| None),
        }
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Where clients find the doors.
    pub fn endpoints(&self, listen: &Listen) -> Endpoints {
        Endpoints {
            s3: self.url(&listen.s3),
            http: self.url(&listen.http),
            node: listen.node.clone(),
        }
    }

    fn url(&self, listen: &str) -> String {
        let scheme = self.scheme();
        let Ok(address) = listen.parse::<SocketAddr>() else {
            return format!("{scheme}://{listen}");
        };
        let port = address.port();
        // A certificate is for names: the domain's when there is one.
        let named = self.domain.as_deref().filter(|_| self.tls.is_some());
        let everywhere = address.ip().is_unspecified();
        match named.or(self.host.as_deref().filter(|_| everywhere)) {
            Some(host) => format!("{scheme}://{host}:{port}"),
            None if everywhere => format!("{scheme}://{}", loopback(address)),
            None => format!("{scheme}://{address}"),
        }
    }

    /// Keeps what clients on this machine need to know in the node's folder.
    pub fn note(&self, folder: &Folder, listen: &Listen) -> Result<()> {
        let endpoints = self.endpoints(listen);
        let ca = self.tls.as_ref().and_then(|tls| tls.ca_file());
        let noted = Noted {
            format: FORMAT,
            s3: endpoints.s3,
            http: endpoints.http,
            ca: ca.map(Path::to_owned),
        };
        folder.write_json(FILE, &noted)
    }
}

/// What a node noted in its folder when it started; `None` when it never did.
pub fn noted(node_folder: &Path) -> Result<Option<Noted>> {
    let path = node_folder.join(FILE);
    let noted: Option<Noted> = read_json(&path)?;
    if let Some(format) = noted
        .as_ref()
        .map(|noted| noted.format)
        .filter(|format| *format > FORMAT)
    {
        bail!(
            "{} has format {format}, this program knows {FORMAT}: use a newer skerry",
            path.display()
        );
    }
    Ok(noted)
}

/// An empty address means "as last time" and is judged when it is known.
fn check_loopback(key: &str, address: &str) -> Result<()> {
    if address.is_empty() {
        return Ok(());
    }
    let mut resolved = address
        .to_socket_addrs()
        .with_context(|| format!("{key}: `{address}` is no address"))?;
    if resolved.any(|address| !address.ip().to_canonical().is_loopback()) {
        bail!(
            "{key} is {address}, which is not loopback: plain HTTP would cross the network; set tls.certificate and tls.key, or allow it with --insecure-http"
        );
    }
    Ok(())
}

fn host_of(address: &str) -> Option<&str> {
    Some(address.rsplit_once(':')?.0)
}

fn loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tls::tests::write_certificate;

    fn listen(s3: &str, http: &str) -> Listen {
        Listen {
            s3: s3.into(),
            http: http.into(),
            node: "0.0.0.0:7301".into(),
        }
    }

    fn refusal(settings: &Settings, listen: &Listen) -> String {
        Doors::new(settings, listen).unwrap_err().to_string()
    }

    #[test]
    fn plain_http_stays_on_the_machine_unless_asked_for() {
        let mut settings = Settings::default();
        let at_home = [
            "127.0.0.1:0",
            "127.9.9.9:7300",
            "[::1]:7300",
            "localhost:1",
            "",
        ];
        for address in at_home {
            assert!(Doors::new(&settings, &listen(address, address)).is_ok());
        }
        let here = "127.0.0.1:0";
        for address in [
            "0.0.0.0:0",
            "[::]:0",
            "192.0.2.7:7300",
            "[::ffff:192.0.2.7]:1",
        ] {
            let text = refusal(&settings, &listen(address, here));
            assert!(text.contains("--insecure-http") && text.contains("listen.s3"));
            let text = refusal(&settings, &listen(here, address));
            assert!(text.contains("tls.certificate") && text.contains("listen.http"));
        }
        settings.insecure_http = true;
        assert!(Doors::new(&settings, &listen("0.0.0.0:0", "[::]:0")).is_ok());
    }

    #[test]
    fn tls_may_leave_the_machine_and_must_be_readable() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_certificate(folder.path());
        let mut settings = Settings {
            tls: Some(files.clone()),
            ..Settings::default()
        };
        let everywhere = listen("0.0.0.0:7300", "0.0.0.0:7302");
        let doors = Doors::new(&settings, &everywhere).unwrap();
        assert!(doors.tls_source()().is_some());
        std::fs::remove_file(&files.key).unwrap();
        assert!(refusal(&settings, &everywhere).contains("door.key"));
        settings.tls = None;
        assert!(refusal(&settings, &everywhere).contains("--insecure-http"));
    }

    #[test]
    fn urls_are_ones_that_clients_can_use() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            insecure_http: true,
            ..Settings::default()
        };
        let urls = |settings: &Settings, s3: &str| {
            let listen = listen(s3, "127.0.0.1:7302");
            let Endpoints { s3, http, .. } =
                Doors::new(settings, &listen).unwrap().endpoints(&listen);
            (s3, http)
        };
        let http = "http://127.0.0.1:7302";
        let plain = |s3: &str| (s3.to_owned(), http.to_owned());
        assert_eq!(urls(&settings, "192.0.2.7:1"), plain("http://192.0.2.7:1"));
        assert_eq!(urls(&settings, "0.0.0.0:1"), plain("http://127.0.0.1:1"));
        assert_eq!(urls(&settings, "[::]:1"), plain("http://[::1]:1"));
        settings.advertise = Some("node1.lan:7301".into());
        assert_eq!(urls(&settings, "0.0.0.0:1"), plain("http://node1.lan:1"));
        settings.s3_domain = Some("s3.example.com".into());
        assert_eq!(urls(&settings, "0.0.0.0:1"), plain("http://node1.lan:1"));
        settings.tls = Some(write_certificate(folder.path()));
        let with_tls = urls(&settings, "0.0.0.0:1");
        assert_eq!(with_tls.0, "https://s3.example.com:1");
        assert_eq!(with_tls.1, "https://s3.example.com:7302");
    }

    #[test]
    fn what_was_noted_is_read_again() {
        let data = tempfile::tempdir().unwrap();
        let certificates = tempfile::tempdir().unwrap();
        let path = data.path().join("node");
        let folder = Folder::lock(&path).unwrap();
        assert_eq!(noted(&path).unwrap(), None);
        let files = write_certificate(certificates.path());
        let settings = Settings {
            tls: Some(files.clone()),
            ..Settings::default()
        };
        let listen = listen("127.0.0.1:1", "127.0.0.1:2");
        let doors = Doors::new(&settings, &listen).unwrap();
        doors.note(&folder, &listen).unwrap();
        let found = noted(&path).unwrap().unwrap();
        assert_eq!(found.s3, "https://127.0.0.1:1");
        assert_eq!(found.ca, Some(files.certificate));
        let newer = Noted {
            format: FORMAT + 1,
            ..found
        };
        folder.write_json(FILE, &newer).unwrap();
        assert!(noted(&path).unwrap_err().to_string().contains("format 2"));
    }
}
