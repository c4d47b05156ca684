//! What can be set about a node, and how many connections of clients the process has files for.

use std::time::Duration;

use object_s3::DoorOptions;
use object_store::gateway::GatewayOptions;
use object_store::jobs::JobOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::folder::{Listen, Marker};
use super::tls::TlsFiles;

/// Placement groups of a new site.
pub const GROUPS: u32 = 16;
/// The most connections of the HTTP door at a time.
const HTTP_CONNECTIONS_MAX: usize = 256;
/// Open files that a node has for itself at least: its log, its blocks, its database, connections of other nodes.
const OWN_FILES_MIN: usize = 512;

/// See the module.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; an empty address means: as last time, else the default.
    pub listen: Listen,
    /// The address that other nodes are told, when it isn't the one listened on.
    pub advertise: Option<String>,
    /// A new site's name for people.
    pub site_name: String,
    /// A new site's placement groups.
    pub groups: u32,
    /// Plain HTTP may be offered on other addresses than loopback.
    pub insecure_http: bool,
    /// Certificate and key with which the S3 and HTTP doors speak TLS.
    pub tls: Option<TlsFiles>,
    /// The domain below which a host names a bucket, and under which clients find the S3 door.
    pub s3_domain: Option<String>,
    /// The most connections of the S3 door at a time.
    pub s3_connections_max: usize,
    /// The most requests of the S3 door at a time.
    pub s3_requests_max: usize,
    /// Sizes and bounds of the object store.
    pub gateway: GatewayOptions,
    /// Bytes per second that repair writes at most.
    pub repair_bytes_per_s: u64,
    /// How long blocks of replaced and deleted objects are kept for reads that began before.
    pub collect_after: Duration,
    /// How long a node that is cut off from the registry honours the keys that it knows.
    pub identity_cache_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let (door, jobs) = (DoorOptions::default(), JobOptions::default());
        Settings {
            listen: default_listen(0),
            advertise: None,
            site_name: "site".into(),
            groups: GROUPS,
            insecure_http: false,
            tls: None,
            s3_domain: None,
            s3_connections_max: door.max_connections,
            s3_requests_max: door.max_requests,
            gateway: GatewayOptions::default(),
            repair_bytes_per_s: jobs.repair_bytes_per_s,
            collect_after: jobs.collect_grace,
            identity_cache_ttl: identity::access::CACHE_TTL_DEFAULT,
        }
    }
}

impl Settings {
    /// Periods and bounds of background work.
    pub fn jobs(&self) -> JobOptions {
        let usual = JobOptions::default();
        JobOptions {
            // Who looks more seldom than blocks are kept keeps them longer.
            collect_every: usual.collect_every.min(self.collect_after),
            collect_grace: self.collect_after,
            repair_bytes_per_s: self.repair_bytes_per_s,
            ..usual
        }
    }

    /// These, with no more connections of S3 clients than there are files for. A door that takes fewer than it would is logged.
    pub fn within(self, files: OpenFiles) -> Settings {
        let (s3, http) = (
            files.s3_connections(self.s3_connections_max),
            files.http_connections(),
        );
        if s3 < self.s3_connections_max || http < HTTP_CONNECTIONS_MAX {
            tracing::warn!(
                open_files = files.0,
                s3,
                http,
                "few files may be open, so the doors take fewer connections: raise LimitNOFILE"
            );
        }
        Settings {
            s3_connections_max: s3,
            ..self
        }
    }

    /// These, with the addresses of the last start where none are set.
    pub fn or_last(&self, last: Option<&Marker>) -> Settings {
        let Some(last) = last else {
            return self.clone();
        };
        Settings {
            listen: self.listen_or(&last.listen),
            advertise: self.advertise.clone().or_else(|| last.advertise.clone()),
            ..self.clone()
        }
    }

    /// The addresses to listen on: those that are set, else those of the last start.
    pub fn listen_or(&self, last: &Listen) -> Listen {
        let pick = |set: &String, last: &String| {
            if set.is_empty() {
                last.clone()
            } else {
                set.clone()
            }
        };
        Listen {
            node: pick(&self.listen.node, &last.node),
            s3: pick(&self.listen.s3, &last.s3),
            http: pick(&self.listen.http, &last.http),
        }
    }
}

/// How many files a process may have open at a time. Half of them, and not less than [`OWN_FILES_MIN`], are the node's own:
/// without one the log can't go on, and the node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles(usize);

impl OpenFiles {
    /// Lets this process open as many as it may allow itself. Where that fails, the doors take fewer connections.
    pub fn raise() {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        let _ = setrlimit(Resource::Nofile, raised);
    }

    /// Those of this process.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        OpenFiles(limit.unwrap_or(usize::MAX))
    }

    /// The most connections of the HTTP door.
    pub fn http_connections(self) -> usize {
        (self.for_clients() / 8).clamp(1, HTTP_CONNECTIONS_MAX)
    }

    /// The most connections of the S3 door, where so many are wanted.
    fn s3_connections(self, wanted: usize) -> usize {
        let left = self.for_clients().saturating_sub(self.http_connections());
        wanted.min(left.max(1))
    }

    fn for_clients(self) -> usize {
        self.0.saturating_sub(OWN_FILES_MIN.max(self.0 / 2))
    }
}

/// The documented default addresses of the `n`-th node (from 0) on one machine: S3 7300, nodes 7301, HTTP 7302, then
/// ten further for each node.
pub fn default_listen(n: u16) -> Listen {
    let at = |port: u16| format!("127.0.0.1:{}", port + 10 * n);
    Listen {
        s3: at(7300),
        node: at(7301),
        http: at(7302),
    }
}

/// Any free ports on loopback.
pub fn random_listen() -> Listen {
    let any = || "127.0.0.1:0".to_owned();
    Listen {
        node: any(),
        s3: any(),
        http: any(),
    }
}

/// As last time.
pub fn last_listen() -> Listen {
    Listen {
        node: String::new(),
        s3: String::new(),
        http: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use ids::{NodeId, SiteId};

    use super::*;

    #[test]
    fn who_keeps_blocks_for_a_short_time_looks_often() {
        let every_s = |after_s| {
            let settings = Settings {
                collect_after: Duration::from_secs(after_s),
                ..Settings::default()
            };
            settings.jobs().collect_every.as_secs()
        };
        assert_eq!((every_s(1), every_s(60), every_s(3600)), (1, 10, 10));
    }

    #[test]
    fn clients_get_the_files_that_the_node_does_not_need() {
        let connections = |files| {
            let files = OpenFiles(files);
            let settings = Settings::default().within(files);
            (settings.s3_connections_max, files.http_connections())
        };
        assert_eq!(connections(usize::MAX), (4096, 256));
        assert_eq!(connections(65_536), (4096, 256));
        assert_eq!(connections(4096), (1792, 256));
        assert_eq!(connections(1024), (448, 64));
        assert_eq!(connections(100), (1, 1));
    }

    #[test]
    fn a_process_takes_all_the_files_that_it_may() {
        OpenFiles::raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        let most = limit.maximum.map_or(usize::MAX, |most| most as usize);
        assert_eq!(OpenFiles::of_this_process(), OpenFiles(most));
    }

    #[test]
    fn what_other_nodes_are_told_is_kept_from_start_to_start() {
        let last = Marker {
            format: 1,
            site: SiteId([1; 16]),
            node: NodeId(2),
            listen: default_listen(1),
            advertise: Some("node2.lan:7301".into()),
            started: true,
        };
        let mut settings = Settings {
            listen: last_listen(),
            ..Settings::default()
        };
        let again = settings.or_last(Some(&last));
        assert_eq!(again.advertise, last.advertise);
        assert_eq!(again.listen, last.listen);
        settings.advertise = Some("other.lan:1".into());
        let moved = settings.or_last(Some(&last));
        assert_eq!(moved.advertise.as_deref(), Some("other.lan:1"));
        assert_eq!(settings.or_last(None).listen, last_listen());
    }
}
