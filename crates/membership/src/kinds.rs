//! What the registry stores about servers and the site; the binary makes registry kinds of these.

use ids::SiteId;
use serde::{Deserialize, Serialize};

/// A server as the site knows it; the resource is named by its node id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Where other nodes reach it: `host:port` of the node-to-node listener.
    pub address: String,
    /// Where S3 clients reach it: `host:port`.
    pub s3_address: String,
    /// Where health, metrics and the admin door are: `host:port`.
    pub http_address: String,
    /// Its share of the data relative to other servers; 0 while it is about to leave.
    pub weight: u32,
    /// When it joined, in milliseconds of the wall clock of the node that admitted it.
    pub joined_ms: u64,
    /// The size of its data disk in bytes.
    pub capacity_bytes: u64,
}

/// What a server reports about itself, rarely (a change, or once an hour): liveness is never written to the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The program's version.
    pub version: String,
    /// The newest format level that its program can read and write.
    pub format_level_max: u32,
    /// Free bytes of its data disk.
    pub free_bytes: u64,
    /// When its certificate expires, in milliseconds since 1970.
    pub certificate_not_after_ms: u64,
    /// When this was written, by the server's wall clock.
    pub reported_ms: u64,
}

/// The site; there is one such resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSpec {
    /// The site's id.
    pub site: SiteId,
    /// A name for people.
    pub name: String,
    /// The format level in force: new formats and apply logic start only when it allows them.
    pub format_level: u32,
    /// When its first node started, by that node's wall clock.
    pub created_ms: u64,
    /// Placement groups; fixed for the life of the site, as keys are spread over them by hash.
    pub groups: u32,
}
