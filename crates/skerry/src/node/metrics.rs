//! The page of metrics, in OpenMetrics' text format: every metric says what it is and of which type.
//!
//! Numbers are kept where they arise; this only puts them on the page. Labels come from bounded sets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use object_store::volume::StoreStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use raft_groups::GroupStatus;

use super::Node;
use crate::otel;

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Stands before every name.
const PREFIX: &str = "skerry";

/// Answers with the page.
pub fn page(node: &Arc<Node>) -> MethodRouter<Arc<Node>> {
    let mut registry = Registry::with_prefix(PREFIX);
    node.requests.register(&mut registry);
    registry.register_collector(Box::new(Asked(node.clone())));
    get(answer).with_state(Arc::new(registry))
}

async fn answer(
    State(registry): State<Arc<Registry>>,
) -> Result<impl IntoResponse, (StatusCode, &'static str)> {
    let mut page = String::new();
    match encode(&mut page, &registry) {
        Ok(()) => Ok(([(CONTENT_TYPE, FORMAT)], page)),
        // Gauges have 63 bits; nothing else can fail.
        Err(fmt::Error) => Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            "a number is too large for the page\n",
        )),
    }
}

/// What a node knows only when it is asked.
struct Asked(Arc<Node>);

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asked").field(&self.0.id).finish()
    }
}

impl Collector for Asked {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (node, page) = (&*self.0, &mut Page(encoder));
        objects(node, page)?;
        log(node, page)?;
        groups(&node.groups.status(), page)?;
        machine(node, page)?;
        traces(page)
    }
}

/// A page that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A number that goes up and down.
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(value))
    }

    /// A number that only grows: its sample has `_total` behind the name.
    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        self.metric(name, help, &ConstCounter::new(value))
    }

    fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }

    /// Numbers that go up and down, told apart by a label.
    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, f64)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (text, value) in values {
            let labels = [(label, text)];
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

fn objects(node: &Node, page: &mut Page<'_>) -> fmt::Result {
    for counter in node.gateway.metrics().snapshot() {
        let name = counter.name.trim_end_matches("_total");
        page.counter(name, counter.help, counter.value)?;
    }
    blocks(&node.blocks.stats(), page)?;
    page.gauge(
        "blocks_debt",
        "Blocks that lack copies now, since a write or since the site grew, in the groups that this node leads.",
        node.observed.debt(),
    )
}

fn blocks(blocks: &StoreStats, page: &mut Page<'_>) -> fmt::Result {
    page.gauge("blocks", "Blocks on this node.", blocks.blocks)?;
    page.gauge("block_bytes", "Their bytes.", blocks.live_bytes)?;
    page.gauge("block_volumes", "Files of blocks.", blocks.volumes)?;
    page.gauge(
        "block_volumes_damaged",
        "Files of blocks that could not be read at the start: what they held is missing here.",
        blocks.damaged_volumes.len(),
    )?;
    page.gauge(
        "block_volumes_fenced",
        "Files of blocks that take no more writes, as a sync of them failed.",
        blocks.fenced_volumes.len(),
    )?;
    page.counter(
        "block_reads_corrupt",
        "Reads that found a damaged block.",
        blocks.corrupt_reads,
    )
}

fn log(node: &Node, page: &mut Page<'_>) -> fmt::Result {
    let wal = node.wal_stats();
    page.gauge("wal_bytes", "Bytes of the write-ahead log.", wal.bytes)?;
    page.gauge("wal_segments", "Its files.", wal.segments)?;
    page.gauge(
        "wal_cache_bytes",
        "Bytes of its entries that are in memory.",
        wal.cache_bytes,
    )?;
    page.counter("wal_syncs", "Syncs of the log.", wal.syncs)?;
    page.counter(
        "wal_sync_seconds",
        "Time that those syncs took.",
        Duration::from_micros(wal.sync_micros_total).as_secs_f64(),
    )?;
    page.counter("wal_records", "Records written to the log.", wal.records)?;
    page.counter(
        "checkpoints",
        "Checkpoints of the groups' database.",
        node.groups.checkpoints(),
    )?;
    page.counter(
        "raft_term_changes",
        "Terms that began in the groups on this node.",
        node.observed.term_changes(),
    )
}

fn groups(groups: &[GroupStatus], page: &mut Page<'_>) -> fmt::Result {
    let count = |of: fn(&GroupStatus) -> bool| groups.iter().filter(|group| of(group)).count();
    page.gauge("groups", "Groups on this node.", groups.len())?;
    page.gauge(
        "groups_led",
        "Groups that this node leads.",
        count(|group| group.role == "leader"),
    )?;
    page.gauge(
        "groups_asleep",
        "Groups that sleep here, as nothing happens in them.",
        count(|group| group.asleep),
    )?;
    page.gauge(
        "groups_stopped",
        "Groups that stopped here and need somebody to look.",
        count(|group| group.stopped.is_some()),
    )?;
    let lag = groups.iter().flat_map(|group| &group.lag);
    page.gauge(
        "raft_lag_entries_max",
        "The most entries that a member lacks, of the groups that this node leads.",
        lag.map(|(_, lag)| *lag).max().unwrap_or(0),
    )?;
    let behind = |group: &GroupStatus| group.commit.saturating_sub(group.applied);
    page.gauge(
        "raft_apply_lag_entries_max",
        "The most entries that are committed but not applied here, of one group.",
        groups.iter().map(behind).max().unwrap_or(0),
    )
}

fn machine(node: &Node, page: &mut Page<'_>) -> fmt::Result {
    if let Ok(space) = node.platform.disk().space() {
        page.gauge(
            "disk_free_bytes",
            "Bytes that may still be written below the data folder.",
            space.free,
        )?;
        page.gauge(
            "disk_bytes",
            "The size of the data folder's file system.",
            space.total,
        )?;
    }
    let own = node.certificate_expires_ms.load(Ordering::Relaxed);
    let door = node.doors.tls.as_ref().and_then(|tls| tls.expires_ms());
    let expires = |ms| Duration::from_millis(ms).as_secs_f64();
    page.gauges(
        "certificate_expires_seconds",
        "When a certificate expires, in seconds since 1970.",
        "certificate",
        [("node", expires(own))]
            .into_iter()
            .chain(door.map(|door| ("door", expires(door)))),
    )
}

fn traces(page: &mut Page<'_>) -> fmt::Result {
    let spans = otel::sent();
    page.counter(
        "otel_spans_sent",
        "Spans that a collector took.",
        spans.sent,
    )?;
    page.counter(
        "otel_spans_dropped",
        "Spans that found no place to wait, or that no collector took.",
        spans.dropped,
    )
}

#[cfg(test)]
mod tests {
    use ids::{GroupId, NodeId};

    use super::*;

    #[derive(Debug)]
    struct Written(fn(&mut Page<'_>) -> fmt::Result);

    impl Collector for Written {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            (self.0)(&mut Page(encoder))
        }
    }

    fn written(write: fn(&mut Page<'_>) -> fmt::Result) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Written(write)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_page_says_what_its_numbers_are() {
        let text = written(|page| {
            page.gauge("blocks", "Blocks on this node.", 7_u64)?;
            page.gauges("open", "Open doors.", "door", [("s3", 2.0), ("http", 0.5)])?;
            page.counter("wal_syncs", "Syncs.", 3_u64)?;
            page.counter("wal_sync_seconds", "Time.", 1.5)
        });
        let expected = "\
# HELP skerry_blocks Blocks on this node.
# TYPE skerry_blocks gauge
skerry_blocks 7
# HELP skerry_open Open doors.
# TYPE skerry_open gauge
skerry_open{door=\"s3\"} 2.0
skerry_open{door=\"http\"} 0.5
# HELP skerry_wal_syncs Syncs.
# TYPE skerry_wal_syncs counter
skerry_wal_syncs_total 3
# HELP skerry_wal_sync_seconds Time.
# TYPE skerry_wal_sync_seconds counter
skerry_wal_sync_seconds_total 1.5
# EOF
";
        assert_eq!(text, expected);
    }

    #[test]
    fn damage_to_blocks_is_counted() {
        let text = written(|page| {
            let stats = StoreStats {
                volumes: 4,
                damaged_volumes: vec!["00000001: a".into(), "00000002: b".into()],
                fenced_volumes: vec!["00000003: c".into()],
                corrupt_reads: 7,
                ..StoreStats::default()
            };
            blocks(&stats, page)
        });
        for line in [
            "skerry_block_volumes 4",
            "skerry_block_volumes_damaged 2",
            "skerry_block_volumes_fenced 1",
            "skerry_block_reads_corrupt_total 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    fn group(role: &str, lag: &[u64], commit: u64, applied: u64) -> GroupStatus {
        GroupStatus {
            group: GroupId(1),
            role: role.into(),
            leader: None,
            term: 1,
            voters: Vec::new(),
            learners: Vec::new(),
            last: commit,
            commit,
            applied,
            lag: lag.iter().map(|lag| (NodeId(2), *lag)).collect(),
            asleep: false,
            stopped: None,
        }
    }

    #[test]
    fn groups_are_summed_up() {
        let text = written(|page| {
            let all = [
                group("leader", &[3, 9], 5, 5),
                group("leader", &[4], 8, 6),
                group("follower", &[], 7, 6),
            ];
            groups(&all, page)
        });
        for line in [
            "skerry_groups 3",
            "skerry_groups_led 2",
            "skerry_groups_asleep 0",
            "skerry_raft_lag_entries_max 9",
            "skerry_raft_apply_lag_entries_max 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
