//! After a failure nothing is trusted and nothing is done; refusals before it harm nobody.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use ids::GroupId;
use raft_wal::{PAYLOAD_BYTES_MAX, Wal, WalError, WalOptions};

use crate::disk::{MemoryDisk, TestPlatform};
use crate::driver::{SMALL, append, block_on, noted, purge, settle};

async fn open(disk: &Arc<MemoryDisk>, options: WalOptions) -> Wal {
    Wal::open(TestPlatform::shared(disk.clone(), 3), "wal", options)
        .await
        .unwrap()
}

#[test]
fn a_failed_write_or_sync_ends_the_log() {
    for changes_before_failure in [0, 1] {
        block_on(async {
            let disk = Arc::new(MemoryDisk::new());
            let wal = open(&disk, SMALL).await;
            append(&wal, 1, 0, &["kept"]).await.unwrap();
            disk.cut_power(changes_before_failure);
            let error = append(&wal, 1, 1, &["lost"]).await.unwrap_err();
            assert!(error.to_string().contains("the power is out"), "{error}");
            disk.cut_power(-1);
            let later = append(&wal, 2, 0, &["never"]).await.unwrap_err();
            assert!(matches!(later, WalError::Fenced { .. }));
            assert!(matches!(
                wal.read(GroupId(1), 0..1, 100).await,
                Err(WalError::Fenced { .. })
            ));
            assert!(matches!(wal.close().await, Err(WalError::Fenced { .. })));
            drop(wal);
            let again = open(&disk, SMALL).await;
            assert_eq!(
                again.read(GroupId(1), 0..1, 100).await.unwrap(),
                [(0, Bytes::from_static(b"kept"))]
            );
            assert_eq!(again.group(GroupId(2)), None);
        });
    }
}

#[test]
fn an_entry_that_rots_while_the_log_is_open_fences_it() {
    block_on(async {
        let disk = Arc::new(MemoryDisk::new());
        let wal = open(
            &disk,
            WalOptions {
                cache_bytes: 0,
                ..SMALL
            },
        )
        .await;
        append(&wal, 1, 0, &["sound"]).await.unwrap();
        use platform::Disk as _;
        disk.open("wal/wal-0000000000000001.seg")
            .unwrap()
            .write_at(96, b"SOUND")
            .unwrap();
        let error = wal.read(GroupId(1), 0..1, 100).await.unwrap_err();
        assert!(matches!(error, WalError::Damaged { .. }), "{error}");
        assert!(matches!(
            append(&wal, 1, 1, &["more"]).await,
            Err(WalError::Fenced { .. })
        ));
    });
}

#[test]
fn calls_that_do_not_fit_are_refused_and_change_nothing() {
    block_on(async {
        let disk = Arc::new(MemoryDisk::new());
        let wal = open(&disk, SMALL).await;
        append(&wal, 1, 5, &["five", "six"]).await.unwrap();
        let error = append(&wal, 1, 9, &["nine"]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "group 1's log goes on at 7, the call names index 9"
        );
        purge(&wal, 1, 5).await.unwrap();
        let (answer, done) = noted();
        wal.truncate_from(GroupId(1), 5, done).await;
        assert!(matches!(
            *answer.lock().unwrap(),
            Some(Err(WalError::OutOfOrder { .. }))
        ));
        let (answer, done) = noted();
        wal.append(
            GroupId(1),
            7,
            vec![Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1])],
            done,
        )
        .await;
        assert!(matches!(
            *answer.lock().unwrap(),
            Some(Err(WalError::TooLarge { .. }))
        ));
        append(&wal, 1, 7, &["seven"]).await.unwrap();
        assert_eq!(wal.group(GroupId(1)).unwrap().next, 8);
        wal.close().await.unwrap();
        assert!(matches!(
            append(&wal, 1, 8, &["late"]).await,
            Err(WalError::Closed)
        ));
    });
}

#[test]
fn a_full_queue_makes_callers_wait_and_a_dropped_wait_changes_nothing() {
    block_on(async {
        let disk = Arc::new(MemoryDisk::new());
        let wal = open(
            &disk,
            WalOptions {
                queue_bytes_max: 100,
                ..SMALL
            },
        )
        .await;
        let (first, done) = noted();
        wal.append(
            GroupId(1),
            0,
            vec![Bytes::from_static(
                b"fills the queue, and more than that: it's one call",
            )],
            done,
        )
        .await;
        let (second, done) = noted();
        assert_eq!(
            wal.append(GroupId(1), 1, vec![Bytes::from(vec![0; 100])], done)
                .now_or_never(),
            None
        );
        assert_eq!(wal.group(GroupId(1)).unwrap().next, 1);
        settle(&wal).await.unwrap();
        assert!(matches!(*first.lock().unwrap(), Some(Ok(()))));
        assert!(second.lock().unwrap().is_none());
        append(&wal, 1, 1, &["now there is space"]).await.unwrap();
    });
}
