//! Segments go when nothing needs them, and groups that hold them are named. On a real folder.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ids::GroupId;
use platform::Platform;
use platform::system::SystemPlatform;
use raft_wal::{Wal, WalError};

use crate::driver::{SMALL, append, block_on, durable, purge, settle};

async fn open(folder: &tempfile::TempDir) -> Wal {
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(folder.path()).unwrap());
    Wal::open(platform, "wal", SMALL).await.unwrap()
}

fn files(folder: &tempfile::TempDir) -> Vec<String> {
    let names = std::fs::read_dir(folder.path().join("wal")).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn segments_go_once_all_groups_have_purged() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let wal = open(&folder).await;
        let large = "x".repeat(1500);
        durable(|done| wal.save_vote(GroupId(9), Bytes::from_static(b"vote"), done))
            .await
            .unwrap();
        append(&wal, 7, 0, &["idle", "idle too"]).await.unwrap();
        for index in 0..20 {
            append(&wal, 1, index, &[&large]).await.unwrap();
        }
        let before = wal.stats().segments;
        assert!(before > 5);
        purge(&wal, 1, 18).await.unwrap();
        settle(&wal).await.unwrap();
        assert_eq!(
            wal.stats().segments,
            before,
            "the idle group still has an entry in the first"
        );
        assert_eq!(wal.pinning(2), [(GroupId(7), 1)]);
        purge(&wal, 7, 1).await.unwrap();
        settle(&wal).await.unwrap();
        assert!(wal.pinning(2).is_empty());
        assert!(wal.stats().segments <= 2);
        // `SMALL` keeps one former segment to be written over.
        assert_eq!(files(&folder).len() as u64, wal.stats().segments + 1);
        for index in 20..26 {
            append(&wal, 1, index, &[&large]).await.unwrap();
        }
        assert!(
            files(&folder).iter().all(|name| name.ends_with(".seg")),
            "{:?}",
            files(&folder)
        );
        purge(&wal, 1, 24).await.unwrap();
        settle(&wal).await.unwrap();
        wal.close().await.unwrap();

        let wal = open(&folder).await;
        assert_eq!(wal.groups(), [GroupId(1), GroupId(7), GroupId(9)]);
        assert_eq!(wal.group(GroupId(9)).unwrap().vote.unwrap(), "vote");
        assert_eq!(
            wal.group(GroupId(7)).unwrap().purged,
            Some((1, Bytes::from_static(b"mark")))
        );
        assert_eq!(
            wal.read(GroupId(1), 0..100, usize::MAX).await.unwrap(),
            [(25, Bytes::from(large))]
        );
    });
}

#[test]
fn answers_come_in_the_order_of_the_calls_and_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let wal = open(&folder).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        for call in 0..100u32 {
            let order = order.clone();
            let done = Box::new(move |result: Result<(), WalError>| {
                order.lock().unwrap().push((call, result.is_ok()))
            });
            wal.append(GroupId(call), 0, vec![Bytes::from_static(b"entry")], done)
                .await;
            let read = wal.read(GroupId(call), 0..1, 1).await.unwrap();
            assert_eq!(read.len(), 1, "an entry is readable before it is durable");
        }
        wal.close().await.unwrap();
        assert_eq!(
            *order.lock().unwrap(),
            (0..100).map(|call| (call, true)).collect::<Vec<_>>()
        );
        assert!(wal.stats().syncs < 50, "{:?}", wal.stats());
    });
}

#[test]
fn reads_are_bounded_and_gapless() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let wal = open(&folder).await;
        for index in 0..30 {
            append(&wal, 1, index, &["a".repeat(200).as_str()])
                .await
                .unwrap();
            append(&wal, 2, index, &["b".repeat(100).as_str()])
                .await
                .unwrap();
        }
        let indices =
            |read: Vec<(u64, Bytes)>| read.into_iter().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(indices(wal.read(GroupId(1), 3..20, 0).await.unwrap()), [3]);
        assert_eq!(
            indices(wal.read(GroupId(1), 3..20, 232 * 4).await.unwrap()),
            [3, 4, 5, 6]
        );
        assert_eq!(
            indices(wal.read(GroupId(1), 27..90, usize::MAX).await.unwrap()),
            [27, 28, 29]
        );
        assert_eq!(
            indices(wal.read(GroupId(1), 30..90, usize::MAX).await.unwrap()),
            Vec::<u64>::new()
        );
        assert_eq!(
            indices(wal.read(GroupId(5), 0..90, usize::MAX).await.unwrap()),
            Vec::<u64>::new()
        );
        let all = wal.read(GroupId(2), 0..30, usize::MAX).await.unwrap();
        assert!(
            all.iter()
                .all(|(_, entry)| entry == "b".repeat(100).as_str())
                && all.len() == 30
        );
    });
}
