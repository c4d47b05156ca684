//! The table of all keys.

use super::{Config, values};

/// One thing that can be configured.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, with its section.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// Its flag, without dashes.
    pub flag: &'static str,
    /// How values are given.
    pub kind: Kind,
    /// What stands for a value in help.
    pub shape: &'static str,
    /// What it does, in one sentence without a full stop.
    pub doc: &'static str,
    /// Its value when nobody sets it; `None`: it has none, or it depends on the machine.
    pub default: Option<&'static str>,
    /// What a value looks like, for errors.
    pub expects: &'static str,
    /// Reads a value and puts it where it belongs; `None` when it is not as expected.
    pub set: fn(&mut Config, &str) -> Option<()>,
}

/// How values are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As a text or a number.
    Text,
    /// As a path; in a file, relative to the file's folder.
    Path,
    /// As `true` or `false`; its flag takes no value and says `true`.
    Switch,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;

/// All keys, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    Key {
        name: "data",
        env: "SKERRY_DATA",
        flag: "data",
        kind: Kind::Path,
        shape: "DIR",
        doc: "The data folder (default: /var/lib/skerry for root, else below the user's data folder)",
        default: None,
        expects: "the path of a folder",
        set: |to, text| {
            to.data = Some(values::path(text)?);
            Some(())
        },
    },
    Key {
        name: "insecure_http",
        env: "SKERRY_INSECURE_HTTP",
        flag: "insecure-http",
        kind: Kind::Switch,
        shape: "BOOL",
        doc: "Let the S3 and HTTP doors listen on other addresses than loopback without TLS",
        default: Some("false"),
        expects: "true or false",
        set: |to, text| {
            to.node.insecure_http = values::switch(text)?;
            Some(())
        },
    },
    Key {
        name: "site.name",
        env: "SKERRY_SITE_NAME",
        flag: "site-name",
        kind: Kind::Text,
        shape: "NAME",
        doc: "The name of a site that is founded, for people",
        default: Some("site"),
        expects: "a name of at most 64 bytes",
        set: |to, text| {
            to.node.site_name = values::name(text)?;
            Some(())
        },
    },
    Key {
        name: "site.groups",
        env: "SKERRY_SITE_GROUPS",
        flag: "site-groups",
        kind: Kind::Text,
        shape: "NUMBER",
        doc: "The placement groups of a site that is founded; can't be changed later",
        default: Some("16"),
        expects: "a number from 1 to 256",
        set: |to, text| {
            to.node.groups = u32::try_from(values::number(text, 1..=256)?).ok()?;
            Some(())
        },
    },
    Key {
        name: "listen.s3",
        env: "SKERRY_S3_LISTEN",
        flag: "s3-listen",
        kind: Kind::Text,
        shape: "HOST:PORT",
        doc: "Where S3 clients connect; a folder that was used before keeps its own",
        default: Some("127.0.0.1:7300"),
        expects: "HOST:PORT, such as 127.0.0.1:7300",
        set: |to, text| {
            to.node.listen.s3 = values::address(text)?;
            Some(())
        },
    },
    Key {
        name: "listen.node",
        env: "SKERRY_NODE_LISTEN",
        flag: "node-listen",
        kind: Kind::Text,
        shape: "HOST:PORT",
        doc: "Where other nodes connect; a folder that was used before keeps its own",
        default: Some("127.0.0.1:7301"),
        expects: "HOST:PORT, such as 127.0.0.1:7301",
        set: |to, text| {
            to.node.listen.node = values::address(text)?;
            Some(())
        },
    },
    Key {
        name: "listen.http",
        env: "SKERRY_HTTP_LISTEN",
        flag: "http-listen",
        kind: Kind::Text,
        shape: "HOST:PORT",
        doc: "Health, metrics and remote administration; a folder that was used before keeps its own",
        default: Some("127.0.0.1:7302"),
        expects: "HOST:PORT, such as 127.0.0.1:7302",
        set: |to, text| {
            to.node.listen.http = values::address(text)?;
            Some(())
        },
    },
    Key {
        name: "listen.advertise",
        env: "SKERRY_ADVERTISE",
        flag: "advertise",
        kind: Kind::Text,
        shape: "HOST:PORT",
        doc: "The address that other nodes are told, when it isn't listen.node",
        default: None,
        expects: "HOST:PORT, such as 192.0.2.7:7301",
        set: |to, text| {
            to.node.advertise = Some(values::address(text)?);
            Some(())
        },
    },
    Key {
        name: "tls.certificate",
        env: "SKERRY_TLS_CERTIFICATE",
        flag: "tls-certificate",
        kind: Kind::Path,
        shape: "FILE",
        doc: "The certificate of the S3 and HTTP doors, with its issuers, in PEM; read again when it changes",
        default: None,
        expects: "the path of a PEM file",
        set: |to, text| {
            to.tls_certificate = Some(values::path(text)?);
            Some(())
        },
    },
    Key {
        name: "tls.key",
        env: "SKERRY_TLS_KEY",
        flag: "tls-key",
        kind: Kind::Path,
        shape: "FILE",
        doc: "The certificate's private key, in PEM; read again when it changes",
        default: None,
        expects: "the path of a PEM file",
        set: |to, text| {
            to.tls_key = Some(values::path(text)?);
            Some(())
        },
    },
    Key {
        name: "identity.cache_ttl",
        env: "SKERRY_IDENTITY_CACHE_TTL",
        flag: "identity-cache-ttl",
        kind: Kind::Text,
        shape: "TIME",
        doc: "How long a node that is cut off from the registry honours the access keys that it knows",
        default: Some("1h"),
        expects: "a time from 1m to 30d, such as 90s, 5m or 1h",
        set: |to, text| {
            to.node.identity_cache_ttl = values::duration(text, 60..=30 * DAY_S)?;
            Some(())
        },
    },
    Key {
        name: "objects.inline_max",
        env: "SKERRY_OBJECTS_INLINE_MAX",
        flag: "objects-inline-max",
        kind: Kind::Text,
        shape: "SIZE",
        doc: "Objects of up to this size live in the metadata",
        default: Some("32KiB"),
        expects: "a size from 1KiB to 256KiB",
        set: |to, text| {
            to.node.gateway.inline_bytes = values::memory(text, KIB..=256 * KIB)?;
            Some(())
        },
    },
    Key {
        name: "objects.block_size",
        env: "SKERRY_OBJECTS_BLOCK_SIZE",
        flag: "objects-block-size",
        kind: Kind::Text,
        shape: "SIZE",
        doc: "Larger objects are cut into blocks of this size; holds for what is written from now on",
        default: Some("4MiB"),
        expects: "a size from 64KiB to 64MiB",
        set: |to, text| {
            to.node.gateway.block_bytes = values::memory(text, 64 * KIB..=64 * MIB)?;
            Some(())
        },
    },
    Key {
        name: "objects.buffer",
        env: "SKERRY_OBJECTS_BUFFER",
        flag: "objects-buffer",
        kind: Kind::Text,
        shape: "SIZE",
        doc: "Memory for blocks of bodies on their way in, and as much again for those on their way out",
        default: Some("128MiB"),
        expects: "a size from 16MiB to 64GiB",
        set: |to, text| {
            to.node.gateway.buffer_bytes = values::memory(text, 16 * MIB..=64 * GIB)?;
            Some(())
        },
    },
    Key {
        name: "objects.max_requests",
        env: "SKERRY_OBJECTS_MAX_REQUESTS",
        flag: "objects-max-requests",
        kind: Kind::Text,
        shape: "NUMBER",
        doc: "Object requests that are carried out at a time; further ones wait for a second, then are refused",
        default: Some("1024"),
        expects: "a number from 1 to 100000",
        set: |to, text| {
            to.node.gateway.requests_max =
                usize::try_from(values::number(text, 1..=100_000)?).ok()?;
            Some(())
        },
    },
    Key {
        name: "objects.repair_rate",
        env: "SKERRY_OBJECTS_REPAIR_RATE",
        flag: "objects-repair-rate",
        kind: Kind::Text,
        shape: "SIZE",
        doc: "Bytes per second that repair writes at most",
        default: Some("64MiB"),
        expects: "a size from 1MiB to 64GiB",
        set: |to, text| {
            to.node.repair_bytes_per_s = values::size(text, MIB..=64 * GIB)?;
            Some(())
        },
    },
    Key {
        name: "objects.collect_after",
        env: "SKERRY_OBJECTS_COLLECT_AFTER",
        flag: "objects-collect-after",
        kind: Kind::Text,
        shape: "TIME",
        doc: "How long blocks of replaced and deleted objects are kept for reads that began before",
        default: Some("1m"),
        expects: "a time from 1s to 1h, such as 90s, 5m or 1h",
        set: |to, text| {
            to.node.collect_after = values::duration(text, 1..=HOUR_S)?;
            Some(())
        },
    },
    Key {
        name: "s3.domain",
        env: "SKERRY_S3_DOMAIN",
        flag: "s3-domain",
        kind: Kind::Text,
        shape: "DOMAIN",
        doc: "The domain of the S3 door: a host below it names a bucket (BUCKET.DOMAIN)",
        default: None,
        expects: "a DNS name without port, such as s3.example.com",
        set: |to, text| {
            to.node.s3_domain = Some(values::domain(text)?);
            Some(())
        },
    },
    Key {
        name: "s3.max_connections",
        env: "SKERRY_S3_MAX_CONNECTIONS",
        flag: "s3-max-connections",
        kind: Kind::Text,
        shape: "NUMBER",
        doc: "Connections of S3 clients at a time; further ones wait",
        default: Some("4096"),
        expects: "a number from 1 to 1000000",
        set: |to, text| {
            to.node.s3_connections_max =
                usize::try_from(values::number(text, 1..=1_000_000)?).ok()?;
            Some(())
        },
    },
    Key {
        name: "s3.max_requests",
        env: "SKERRY_S3_MAX_REQUESTS",
        flag: "s3-max-requests",
        kind: Kind::Text,
        shape: "NUMBER",
        doc: "Requests of S3 clients at a time; further ones are answered SlowDown",
        default: Some("1024"),
        expects: "a number from 1 to 100000",
        set: |to, text| {
            to.node.s3_requests_max = usize::try_from(values::number(text, 1..=100_000)?).ok()?;
            Some(())
        },
    },
    Key {
        name: "log.format",
        env: "SKERRY_LOG_FORMAT",
        flag: "log-format",
        kind: Kind::Text,
        shape: "FORMAT",
        doc: "How log lines look: text for people, json for programs",
        default: Some("text"),
        expects: "text or json",
        set: |to, text| {
            to.log_format = values::log_format(text)?;
            Some(())
        },
    },
    Key {
        name: "log.level",
        env: "SKERRY_LOG",
        flag: "log-level",
        kind: Kind::Text,
        shape: "LEVEL",
        doc: "What is logged: a level, and levels of parts after it",
        default: Some("info,openraft=error,hyper=warn"),
        expects: "error, warn, info, debug or trace, then parts such as hyper=warn, separated by commas",
        set: |to, text| {
            to.log_level = values::log_level(text)?;
            Some(())
        },
    },
    Key {
        name: "log.file",
        env: "SKERRY_LOG_FILE",
        flag: "log-file",
        kind: Kind::Path,
        shape: "FILE",
        doc: "Write logs to this file, of bounded size, instead of stderr",
        default: None,
        expects: "the path of a file",
        set: |to, text| {
            to.log_file = Some(values::path(text)?);
            Some(())
        },
    },
    Key {
        name: "otel.endpoint",
        env: "SKERRY_OTEL_ENDPOINT",
        flag: "otel-endpoint",
        kind: Kind::Text,
        shape: "URL",
        doc: "Send traces to this OpenTelemetry collector (OTLP over HTTP); without, nothing is sent",
        default: None,
        expects: "http:// or https:// with a host, such as http://127.0.0.1:4318",
        set: |to, text| {
            to.otel.endpoint = Some(values::collector(text)?);
            Some(())
        },
    },
    Key {
        name: "otel.headers_file",
        env: "SKERRY_OTEL_HEADERS_FILE",
        flag: "otel-headers-file",
        kind: Kind::Path,
        shape: "FILE",
        doc: "Headers for the collector, such as its key: one `name: value` a line",
        default: None,
        expects: "the path of a file",
        set: |to, text| {
            to.otel.headers_file = Some(values::path(text)?);
            Some(())
        },
    },
    Key {
        name: "otel.sample_ratio",
        env: "SKERRY_OTEL_SAMPLE_RATIO",
        flag: "otel-sample-ratio",
        kind: Kind::Text,
        shape: "RATIO",
        doc: "The share of requests whose traces are sent",
        default: Some("1"),
        expects: "a number from 0 to 1, such as 0.1",
        set: |to, text| {
            to.otel.sample_ratio = values::ratio(text)?;
            Some(())
        },
    },
];
