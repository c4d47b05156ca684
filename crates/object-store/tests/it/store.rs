//! The block store on a disk that loses power, fills up, fails and decays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::{BlockId, GroupId, SegmentId};
use object_store::volume::{BlockError, BlockStore, StoreOptions};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::sim::{Fault, FaultOn, SimDisk, SimPlatform, SimPlatformConfig, block_on};

const OPTIONS: StoreOptions = StoreOptions {
    volume_bytes: 256 << 10,
    reserve_bytes: 0,
};

fn id(n: u32) -> BlockId {
    BlockId {
        group: GroupId(1 + n % 2),
        segment: SegmentId([(n % 5) as u8; 16]),
        number: n,
    }
}

fn data(n: u32, len: usize) -> Bytes {
    (0..len)
        .map(|at| (at as u32).wrapping_mul(31).wrapping_add(n * 7) as u8)
        .collect()
}

fn hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

fn platform(disk: &SimDisk, seed: u64) -> Arc<SimPlatform> {
    SimPlatform::new(
        disk.clone(),
        SimPlatformConfig {
            seed,
            ..SimPlatformConfig::default()
        },
    )
}

async fn open(disk: &SimDisk, seed: u64) -> Arc<BlockStore> {
    open_with(platform(disk, seed), OPTIONS).await
}

async fn open_with(platform: Arc<SimPlatform>, options: StoreOptions) -> Arc<BlockStore> {
    Arc::new(BlockStore::open(platform, options).await.unwrap())
}

async fn put(store: &Arc<BlockStore>, n: u32, len: usize) -> Result<(), BlockError> {
    let data = data(n, len);
    store.put(id(n), hash(&data), data).await
}

async fn assert_has(store: &BlockStore, n: u32, len: usize) {
    assert_eq!(
        store.get(id(n)).await.unwrap().data,
        data(n, len),
        "block {n}"
    );
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        let lens = [1, 3968, 3969, 4096, 100_000, 200_000, 300_000, 7];
        for (n, len) in lens.into_iter().enumerate() {
            put(&store, n as u32, len).await.unwrap();
        }
        assert_eq!(store.delete(&[id(1), id(99)]).await.unwrap(), 1);
        let before = store.stats();
        let disk = disk.restart();
        let store = open(&disk, 2).await;
        for (n, len) in lens.into_iter().enumerate().filter(|(n, _)| *n != 1) {
            assert_has(&store, n as u32, len).await;
        }
        assert_eq!(store.get(id(1)).await, Err(BlockError::NotFound(id(1))));
        assert_eq!(store.stats(), before);
    });
}

#[test]
fn a_start_reads_only_what_the_index_on_disk_does_not_name() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        for n in 0..8 {
            put(&store, n, 100_000).await.unwrap();
        }
        store.checkpoint().await.unwrap();
        let (index, _) = disk
            .files()
            .into_iter()
            .find(|(path, _)| path.contains("index-"))
            .unwrap();
        // Headers that the index names are not read: damage to one shows only when its block is.
        let (volume, _) = disk
            .files()
            .into_iter()
            .find(|(path, _)| path.contains("vol-"))
            .unwrap();
        disk.flip_bit(&volume, 4096 + 50, 0).unwrap();
        let disk = disk.restart();
        let store = open(&disk, 2).await;
        assert_eq!(store.stats().blocks, 8);
        assert_eq!(store.get(id(0)).await, Err(BlockError::Corrupt(id(0))));
        assert_has(&store, 1, 100_000).await;
        // A delete makes its volume be read again, so that the block does not come back.
        store.delete(&[id(1), id(7)]).await.unwrap();
        let disk = disk.restart();
        let store = open(&disk, 3).await;
        assert_eq!(store.has(&[id(1), id(2), id(7)]), [false, true, false]);
        // A damaged index costs time only.
        disk.flip_bit(&index, 100, 0).unwrap();
        let disk = disk.restart();
        assert_eq!(
            open(&disk, 4).await.has(&[id(1), id(2), id(7)]),
            [false, true, false]
        );
    });
}

#[test]
fn a_repeated_put_succeeds_and_other_bytes_are_refused() {
    block_on(async {
        let store = open(&SimDisk::new(), 1).await;
        put(&store, 1, 100).await.unwrap();
        put(&store, 1, 100).await.unwrap();
        assert_eq!(store.stats().blocks, 1);
        assert_eq!(put(&store, 1, 101).await, Err(BlockError::Conflict(id(1))));
        let wrong = store.put(id(2), [0; 32], data(2, 10)).await;
        assert_eq!(wrong, Err(BlockError::BadHash(id(2))));
        assert_eq!(put(&store, 3, 0).await, Err(BlockError::BadLength(0)));
    });
}

#[test]
fn writers_at_one_time_share_syncs() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        put(&store, 0, 10).await.unwrap();
        // Syncs beyond the eighth fail.
        disk.inject(Fault::io(FaultOn::Sync).after(8));
        let puts = (1..40).map(|n| put(&store, n, 1000));
        for result in futures::future::join_all(puts).await {
            result.unwrap();
        }
    });
}

#[test]
fn a_volume_whose_blocks_are_all_dead_is_removed() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        for n in 0..30 {
            put(&store, n, 50_000).await.unwrap();
        }
        assert!(store.stats().volumes > 3);
        let all: Vec<BlockId> = (0..30).map(id).collect();
        assert_eq!(store.delete(&all).await.unwrap(), 30);
        let stats = store.stats();
        assert_eq!(
            (stats.blocks, stats.live_bytes, stats.volumes),
            (0, 0, 1),
            "the active volume stays"
        );
        assert_eq!(disk.files().len(), 1, "the others are gone");
        let disk = disk.restart();
        assert_eq!(open(&disk, 2).await.stats().blocks, 0);
    });
}

#[test]
fn segments_are_removed_whole_and_alone() {
    block_on(async {
        let store = open(&SimDisk::new(), 1).await;
        for n in 0..20 {
            put(&store, n, 10).await.unwrap();
        }
        let of = id(3);
        let expected = (0..20)
            .filter(|n| (id(*n).group, id(*n).segment) == (of.group, of.segment))
            .count();
        assert_eq!(
            store
                .delete_segments(of.group, &[of.segment])
                .await
                .unwrap(),
            expected
        );
        assert_eq!(store.stats().blocks, 20 - expected as u64);
    });
}

#[test]
fn a_damaged_block_is_refused_and_healed_by_the_next_put() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        put(&store, 1, 5000).await.unwrap();
        put(&store, 2, 5000).await.unwrap();
        let (volume, _) = disk.files().into_iter().next().unwrap();
        disk.flip_bit(&volume, 4096 + 128 + 4000, 3).unwrap();
        assert_eq!(store.get(id(1)).await, Err(BlockError::Corrupt(id(1))));
        assert_has(&store, 2, 5000).await;
        assert_eq!(store.stats().corrupt_reads, 1);
        put(&store, 1, 5000).await.unwrap();
        assert_has(&store, 1, 5000).await;
        let store = open(&disk.restart(), 2).await;
        assert_has(&store, 1, 5000).await;
        assert_eq!(store.stats().blocks, 2);
    });
}

#[test]
fn a_full_disk_is_said_and_harms_nothing() {
    block_on(async {
        let disk = SimDisk::new();
        let options = StoreOptions {
            reserve_bytes: 1 << 20,
            ..OPTIONS
        };
        disk.set_capacity(1 << 21);
        let store = open_with(platform(&disk, 1), options.clone()).await;
        let mut stored = 0;
        let refusal = loop {
            match put(&store, stored, 100_000).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, BlockError::Full { .. }), "{refusal}");
        assert!(stored >= 8, "{stored}");
        store.delete(&[id(0), id(1)]).await.unwrap();
        let disk = disk.restart();
        disk.set_capacity(1 << 23);
        let store = open_with(platform(&disk, 2), options).await;
        for n in 2..stored {
            assert_has(&store, n, 100_000).await;
        }
        put(&store, stored, 100_000).await.unwrap();
    });
}

#[test]
fn a_failed_sync_fences_its_volume_and_the_next_block_goes_elsewhere() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        put(&store, 1, 100).await.unwrap();
        disk.inject(Fault::io(FaultOn::Sync).times(1));
        assert!(matches!(
            put(&store, 2, 100).await,
            Err(BlockError::Fenced { .. })
        ));
        assert_eq!(store.stats().fenced_volumes.len(), 1);
        assert!(!store.has(&[id(2)])[0]);
        assert_has(&store, 1, 100).await;
        put(&store, 3, 100).await.unwrap();
        assert_has(&store, 3, 100).await;
        assert!(matches!(
            store.delete(&[id(1)]).await,
            Err(BlockError::Fenced { .. })
        ));
    });
}

#[test]
fn blocks_in_a_fenced_volume_stay_until_a_restart_and_hold_up_no_others() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        // Blocks 1 and 11 are of one segment.
        put(&store, 1, 100).await.unwrap();
        disk.inject(Fault::io(FaultOn::Sync).times(1));
        put(&store, 2, 100).await.unwrap_err();
        put(&store, 11, 100).await.unwrap();
        let (group, segment) = (id(1).group, id(1).segment);
        assert_eq!(store.delete_segments(group, &[segment]).await, Ok(1));
        assert_eq!(store.has(&[id(1), id(11)]), [true, false]);
        let store = open(&disk.restart(), 2).await;
        assert_eq!(store.delete_segments(group, &[segment]).await, Ok(1));
        assert_eq!(store.has(&[id(1), id(11)]), [false, false]);
    });
}

#[test]
fn puts_whose_callers_leave_can_be_deleted_and_leave_no_volume() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        // They leave at all stages of a put: some before the room is reserved, some between write and sync.
        let puts = (0..100).map(|n| {
            let leaves = Duration::from_millis(u64::from(n % 9));
            tokio::time::timeout(leaves, put(&store, n, 10_000))
        });
        let results = futures::future::join_all(puts).await;
        let left = results.iter().filter(|result| result.is_err()).count();
        assert!(left > 20, "{left}");
        // What goes on without them ends.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(store.stats().volumes > 2);
        for group in [1, 2] {
            let segments = [0, 1, 2, 3, 4].map(|n| SegmentId([n; 16]));
            store
                .delete_segments(GroupId(group), &segments)
                .await
                .unwrap();
        }
        let stats = store.stats();
        assert_eq!(
            (stats.blocks, stats.live_bytes, stats.volumes),
            (0, 0, 1),
            "the active volume stays"
        );
        assert_eq!(open(&disk.restart(), 2).await.stats().blocks, 0);
    });
}

#[test]
fn a_damaged_volume_is_left_alone_and_named() {
    block_on(async {
        let disk = SimDisk::new();
        let store = open(&disk, 1).await;
        for n in 0..10 {
            put(&store, n, 100_000).await.unwrap();
        }
        let (volume, _) = disk.files().into_iter().next().unwrap();
        disk.flip_bit(&volume, 20, 0).unwrap();
        let store = open(&disk.restart(), 2).await;
        assert_eq!(store.stats().damaged_volumes.len(), 1);
        assert!(!store.has(&[id(0)])[0]);
        assert_has(&store, 9, 100_000).await;
        put(&store, 20, 100).await.unwrap();
    });
}

#[test]
fn old_blocks_are_listed_page_by_page() {
    block_on(async {
        let disk = SimDisk::new();
        let machine = platform(&disk, 1);
        let store = open_with(machine.clone(), OPTIONS).await;
        for n in 0..10 {
            put(&store, n, 10).await.unwrap();
        }
        machine.jump_wall(3_600_000);
        put(&store, 10, 10).await.unwrap();
        let between = 1_750_000_000 + 1800;
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let (page, next) = store.older_than(between, after, 3);
            seen.extend(page);
            match next {
                Some(id) => after = Some(id),
                None => break,
            }
        }
        let mut expected: Vec<BlockId> = (0..10).map(id).collect();
        expected.sort();
        assert_eq!(seen, expected);
    });
}

/// What the checker knows of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    Stored,
    Deleted,
    /// A put or delete was cut off.
    Either,
}

/// Random puts and deletes at one time, and a loss of power in the middle, again and again.
fn crash_run(seed: u64) {
    block_on(async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = SimDisk::new();
        let mut known: BTreeMap<u32, Known> = BTreeMap::new();
        let len = |n: u32| 1 + (n as usize * 7919) % 60_000;
        for round in 0..6 {
            let store = open(&disk, seed * 100 + round).await;
            for (n, state) in &known {
                match (state, store.get(id(*n)).await) {
                    (Known::Stored | Known::Either, Ok(block)) => {
                        assert_eq!(block.data, data(*n, len(*n)))
                    }
                    (Known::Deleted | Known::Either, Err(BlockError::NotFound(_))) => {}
                    (state, result) => {
                        panic!("seed {seed} round {round} block {n}: {state:?} but {result:?}")
                    }
                }
            }
            let mut running = tokio::task::JoinSet::new();
            let mut background = tokio::task::JoinSet::new();
            for _ in 0..rng.random_range(1..25) {
                let n = rng.random_range(0..60);
                let deletes = rng.random_bool(0.3);
                if known.get(&n) == Some(&Known::Either) {
                    continue;
                }
                known.insert(n, Known::Either);
                let store = store.clone();
                running.spawn(async move {
                    let done = match deletes {
                        true => store.delete(&[id(n)]).await.map(|_| Known::Deleted),
                        false => put(&store, n, len(n)).await.map(|()| Known::Stored),
                    };
                    (n, done)
                });
            }
            if rng.random_bool(0.5) {
                let (store, pause) = (store.clone(), rng.random_range(0..6_000));
                background.spawn(async move {
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                    store.checkpoint().await.unwrap();
                });
            }
            let power_fails = tokio::time::sleep(std::time::Duration::from_micros(
                rng.random_range(0..12_000),
            ));
            tokio::pin!(power_fails);
            loop {
                tokio::select! {
                    biased;
                    () = &mut power_fails => break,
                    Some(finished) = running.join_next() => {
                        let (n, done) = finished.unwrap();
                        known.insert(n, done.unwrap());
                    }
                    else => break,
                }
            }
            disk = if rng.random_bool(0.7) {
                disk.crash(&mut rng)
            } else {
                disk.restart()
            };
            drop((running, background));
        }
    });
}

#[test]
fn no_loss_of_power_loses_what_was_acknowledged() {
    (0..150).for_each(crash_run);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u32),
    Delete(Vec<u32>),
    Restart,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..24_u32).prop_map(Step::Put),
        3 => proptest::collection::vec(0..24_u32, 0..6).prop_map(Step::Delete),
        1 => Just(Step::Restart),
        1 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_store_is_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        block_on(async move {
            let len = |n: u32| 1 + (n as usize * 7919) % 60_000;
            let mut disk = SimDisk::new();
            let mut store = open(&disk, 1).await;
            let mut model: BTreeMap<BlockId, u32> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(n) => {
                        put(&store, n, len(n)).await.unwrap();
                        model.insert(id(n), n);
                    }
                    Step::Delete(of) => {
                        let of: std::collections::BTreeSet<u32> = of.into_iter().collect();
                        let ids: Vec<BlockId> = of.iter().map(|n| id(*n)).collect();
                        let there = ids.iter().filter(|id| model.remove(id).is_some()).count();
                        assert_eq!(store.delete(&ids).await.unwrap(), there);
                    }
                    Step::Checkpoint => store.checkpoint().await.unwrap(),
                    Step::Restart => {
                        disk = disk.restart();
                        store = open(&disk, 2).await;
                    }
                }
            }
            let (listed, next) = store.older_than(u32::MAX, None, 1000);
            assert_eq!((listed, next), (model.keys().copied().collect(), None));
            let stats = store.stats();
            assert_eq!(stats.live_bytes, model.values().map(|n| len(*n) as u64).sum::<u64>());
            for n in model.values() {
                assert_has(&store, *n, len(*n)).await;
            }
        });
    }
}
