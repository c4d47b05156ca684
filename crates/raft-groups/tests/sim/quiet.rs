//! Promise: groups that nobody uses cost nothing. Between the nodes goes one sign of life per beat, however many groups
//! there are; what a dead node makes them say is bounded; and they fall silent again when it is back.

use std::time::Duration;

use testkit::sim::Trace;
use tokio::time::{Instant, sleep};
use transport::Service;

use crate::node::{NODES, Shape};
use crate::site::{Death, Site};

/// Groups of the site, the registry's included.
const GROUPS: u32 = 48;
/// As many as a large site has; minutes without optimisation.
const GROUPS_LONG: u32 = 256;
/// How long all groups may take to fall silent. Now and then a heartbeat comes after the wish to sleep and wakes its
/// receiver, which stands for election then: those groups need another turn.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// No Raft message for so long: an election would have begun.
const SILENCE: Duration = Duration::from_secs(6);
/// How long is listened.
const QUIET: Duration = Duration::from_secs(10);
/// As in `upkeep.rs`.
const BEAT_MS: u64 = 200;
/// As in `Options::new`.
const HEARTBEAT_MS: u64 = 300;

/// Runs the whole story.
pub async fn run(seed: u64) -> Result<(), String> {
    let groups = match std::env::var_os("SKERRY_TEST_LONG") {
        Some(_) => GROUPS_LONG,
        None => GROUPS,
    };
    let shape = Shape {
        ledgers: groups - 1,
        // What is written at the beginning must not matter here.
        log_bytes_max: 64 << 20,
        ..Shape::default()
    };
    let site = Site::new(seed, shape, Trace::new());
    site.found().await?;
    until_silent(&site).await?;
    stays_silent(&site).await?;

    site.end(NODES[2], Death::Kill);
    // Until the others suspect it, and have elected.
    sleep(Duration::from_secs(8)).await;
    let span = Duration::from_secs(3);
    let sent = raft_calls(&site);
    sleep(span).await;
    let sent = raft_calls(&site) - sent;
    // A heartbeat for each follower, and as much again for elections and for the node that is away.
    let beats = span.as_millis() as u64 / HEARTBEAT_MS + 1;
    let bound = 2 * u64::from(groups) * (NODES.len() as u64 - 1) * beats;
    if sent > bound {
        return Err(format!(
            "with one node down {sent} Raft messages were sent in {span:?}, more than {bound}"
        ));
    }

    site.start(NODES[2]).await?;
    until_silent(&site).await?;
    site.bury_all().await
}

fn raft_calls(site: &Site) -> u64 {
    site.network.calls(Service::RAFT)
}

/// Waits until every replica sleeps and nothing was said for a while.
async fn until_silent(site: &Site) -> Result<(), String> {
    let end = Instant::now() + SILENCE_MAX;
    loop {
        let before = raft_calls(site);
        sleep(SILENCE).await;
        let (sent, awake) = (raft_calls(site) - before, awake(site));
        if sent == 0 && awake == 0 {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!(
                "{SILENCE_MAX:?} after the last use {awake} replicas are awake and sent {sent} messages in {SILENCE:?}"
            ));
        }
    }
}

fn awake(site: &Site) -> usize {
    let nodes = site.nodes();
    let all = nodes.iter().flat_map(|node| node.groups.status());
    all.filter(|replica| !replica.asleep).count()
}

/// Listens for a while: nothing is said of any group, only the nodes give signs of life.
async fn stays_silent(site: &Site) -> Result<(), String> {
    let counts = || {
        [Service::RAFT, Service::GROUPS, Service::LIVENESS]
            .map(|service| site.network.calls(service))
    };
    let before = counts();
    sleep(QUIET).await;
    let after = counts();
    let [raft, groups, liveness] = std::array::from_fn(|at| after[at] - before[at]);
    let pairs = (NODES.len() * (NODES.len() - 1)) as u64;
    let beats = QUIET.as_millis() as u64 / BEAT_MS + 1;
    let coalesced = (1..=pairs * beats).contains(&liveness);
    if raft > 0 || groups > 0 || !coalesced {
        return Err(format!(
            "in {QUIET:?} of rest {raft} Raft messages, {groups} questions about groups and {liveness} signs of life were sent"
        ));
    }
    Ok(())
}
