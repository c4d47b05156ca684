//! One simulated node: what peers may send, what a failure stops, what is refused at the start.

use bytes::Bytes;
use ids::OperationId;
use platform::Disk;
use raft_machine::{COMMAND_BYTES_MAX, Groups};
use testkit::sim::{Fault, FaultOn, SimDisk, block_on};

use super::*;
use crate::message::{Ask, Told};
use crate::testing::{self, Echo};

const GROUP: GroupId = GroupId(7);
const OTHER: GroupId = GroupId(8);
const LIMIT: Duration = Duration::from_secs(30);

async fn propose(
    groups: &RaftGroups,
    group: GroupId,
    operation: u8,
    command: &'static [u8],
) -> Result<Bytes, GroupError> {
    let (operation, command) = (OperationId([operation; 16]), Bytes::from_static(command));
    groups.propose(group, operation, command, LIMIT).await
}

/// What a peer is answered.
async fn ask(groups: &RaftGroups, operation: u8, command: Bytes) -> Told {
    let ask = Ask::Propose {
        group: GROUP,
        operation: OperationId([operation; 16]),
        command,
    };
    groups.answer(ask).await
}

/// A node that leads both groups.
async fn leading(disk: &SimDisk) -> Arc<RaftGroups> {
    let groups = testing::start(disk.clone()).await.unwrap();
    for group in [GROUP, OTHER] {
        groups.bootstrap(group).await.unwrap();
        let first = propose(&groups, group, 1, b"first").await;
        assert_eq!(first.unwrap(), "first");
    }
    groups
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not in {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_peer_can_not_stop_a_group_by_what_it_proposes() {
    block_on(async {
        let groups = leading(&SimDisk::new()).await;
        let told = ask(&groups, 2, Bytes::from_static(Echo::GARBAGE)).await;
        assert!(
            matches!(told, Told::Failed(GroupError::NotAdmitted(_))),
            "{told:?}"
        );
        for len in [COMMAND_BYTES_MAX + 1, 3 << 20] {
            let told = ask(&groups, 3, vec![0_u8; len].into()).await;
            assert!(
                matches!(told, Told::Failed(GroupError::TooLarge { .. })),
                "{told:?}"
            );
        }
        let told = ask(&groups, 4, Bytes::from_static(b"sense")).await;
        assert!(
            matches!(&told, Told::Bytes(bytes) if bytes == "sense"),
            "{told:?}"
        );
        let largest = ask(&groups, 5, vec![0_u8; COMMAND_BYTES_MAX].into()).await;
        assert!(matches!(largest, Told::Bytes(_)));
    });
}

#[test]
fn a_machine_that_panics_stops_its_own_group_only() {
    block_on(async {
        let groups = leading(&SimDisk::new()).await;
        assert!(propose(&groups, GROUP, 2, Echo::PANIC).await.is_err());
        let stopped = || groups.find(GROUP).and_then(|group| group.failure());
        until("the group stops", || stopped().is_some()).await;
        let after = propose(&groups, OTHER, 2, b"after").await;
        assert_eq!(after.unwrap(), "after");
        let failed = tokio::time::timeout(LIMIT, groups.until_failed()).await;
        assert!(failed.is_err(), "the node failed: {failed:?}");
    });
}

#[test]
fn a_state_database_that_fails_is_told() {
    block_on(async {
        let disk = SimDisk::new();
        let groups = leading(&disk).await;
        disk.inject(Fault::io(FaultOn::Sync).below("state/"));
        assert!(groups.checkpoint().await.is_err());
        let failed = tokio::time::timeout(LIMIT, groups.until_failed()).await;
        let why = failed.unwrap();
        assert!(why.contains("state database"), "{why}");
    });
}

/// Ends a run that has purged the beginning of its log; returns the disk for the next one.
async fn purged_and_ended(disk: SimDisk) -> SimDisk {
    let groups = leading(&disk).await;
    groups.checkpoint().await.unwrap();
    let group = groups.find(GROUP).unwrap();
    group.trim(u64::MAX).await.unwrap();
    let purged = || groups.wal.group(GROUP).is_some_and(|state| state.first > 0);
    until("the log is purged", purged).await;
    groups.shutdown().await;
    disk.restart()
}

async fn refusal(disk: SimDisk) -> String {
    match testing::start(disk).await {
        Ok(_) => "it was started".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_node_starts_again_with_log_and_database() {
    block_on(async {
        let disk = purged_and_ended(SimDisk::new()).await;
        let groups = testing::start(disk).await.unwrap();
        let repeated = propose(&groups, GROUP, 1, b"another").await;
        assert_eq!(repeated.unwrap(), "first");
    });
}

#[test]
fn a_lost_log_is_refused_in_words() {
    block_on(async {
        let disk = purged_and_ended(SimDisk::new()).await;
        for name in disk.list("wal").unwrap() {
            disk.remove(&format!("wal/{name}")).unwrap();
        }
        let words = refusal(disk).await;
        assert!(words.contains("does not know the group"), "{words}");
    });
}

#[test]
fn a_lost_database_is_refused_in_words() {
    block_on(async {
        let disk = purged_and_ended(SimDisk::new()).await;
        for name in disk.list("state").unwrap() {
            disk.remove(&format!("state/{name}")).unwrap();
        }
        let words = refusal(disk).await;
        assert!(words.contains("has applied only those before 0"), "{words}");
    });
}
