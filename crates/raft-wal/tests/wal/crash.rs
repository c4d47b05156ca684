//! Random calls, clean restarts, crashes that tear what was not synced, flipped bits: against a model.

use std::sync::Arc;

use bytes::Bytes;
use ids::GroupId;
use platform::Platform;
use proptest::prelude::*;
use raft_wal::{Wal, WalError};

use crate::disk::{MemoryDisk, Rng, TestPlatform};
use crate::driver::{Answer, SMALL, block_on, noted, settle};
use crate::model::{Model, Step, observe, take};

#[derive(Debug, Clone)]
enum Act {
    Append {
        group: u32,
        count: usize,
        len: usize,
    },
    Vote {
        group: u32,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    Purge {
        group: u32,
        ahead: u64,
    },
    Drop {
        group: u32,
    },
    Settle,
    Reopen,
    CutPower {
        after: i64,
    },
    Crash {
        seed: u64,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let group = 0..4u32;
    let act = prop_oneof![
        8 => (group.clone(), 1..5usize, 0..700usize).prop_map(|(group, count, len)| Act::Append { group, count, len }),
        2 => group.clone().prop_map(|group| Act::Vote { group }),
        2 => (group.clone(), 0..4u64).prop_map(|(group, back)| Act::Truncate { group, back }),
        3 => (group.clone(), 0..9u64).prop_map(|(group, ahead)| Act::Purge { group, ahead }),
        1 => group.prop_map(|group| Act::Drop { group }),
        3 => Just(Act::Settle),
        1 => Just(Act::Reopen),
        1 => (0..8i64).prop_map(|after| Act::CutPower { after }),
        1 => any::<u64>().prop_map(|seed| Act::Crash { seed }),
    ];
    prop::collection::vec(act, 1..60)
}

/// A log, and each state that it went through since it was opened, one record at a time.
struct Run {
    disk: Arc<MemoryDisk>,
    wal: Wal,
    history: Vec<Model>,
    /// Each accepted call: how many states there were after it, and its answer.
    calls: Vec<(usize, Answer)>,
    next_byte: u8,
    /// How often it was opened. Seeds what the platform draws: salts that come back would let a spare file's old records
    /// count, which no machine's randomness does.
    opened: u64,
}

impl Run {
    async fn new() -> Self {
        let disk = Arc::new(MemoryDisk::new());
        let wal = open(disk.clone(), 1).await.unwrap();
        Run {
            disk,
            wal,
            history: vec![Model::new()],
            calls: Vec::new(),
            next_byte: 0,
            opened: 1,
        }
    }

    async fn open(&mut self) -> Result<Wal, WalError> {
        self.opened += 1;
        open(self.disk.clone(), self.opened).await
    }

    fn model(&self) -> &Model {
        self.history.last().unwrap()
    }

    fn bounds(&self, group: GroupId) -> (u64, u64) {
        self.model()
            .get(&group)
            .map_or((0, 0), |log| (log.state.first, log.state.next))
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        self.next_byte = self.next_byte.wrapping_add(1);
        Bytes::from(vec![self.next_byte; len])
    }

    /// Makes the call; if it was accepted, takes its steps into the history.
    async fn call(&mut self, group: GroupId, steps: Vec<Step>) {
        let (answer, done) = noted();
        match &steps[0] {
            Step::Entry(first, _) => {
                let entry = |step: &Step| match step {
                    Step::Entry(_, entry) => entry.clone(),
                    other => panic!("{other:?} among entries"),
                };
                self.wal
                    .append(group, *first, steps.iter().map(entry).collect(), done)
                    .await;
            }
            Step::Vote(vote) => self.wal.save_vote(group, vote.clone(), done).await,
            Step::Truncate(index) => self.wal.truncate_from(group, *index, done).await,
            Step::Purge(through, mark) => self.wal.purge(group, *through, mark.clone(), done).await,
            Step::Drop => self.wal.drop_group(group, done).await,
        }
        if let Some(Err(error)) = &*answer.lock().unwrap() {
            assert!(matches!(error, WalError::Fenced { .. }), "{error}");
            return;
        }
        for step in steps {
            let mut model = self.model().clone();
            take(&mut model, group, &step);
            self.history.push(model);
        }
        self.calls.push((self.history.len(), answer));
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Append { group, count, len } => {
                let group = GroupId(group);
                let first = self.bounds(group).1;
                let steps = (0..count as u64)
                    .map(|at| Step::Entry(first + at, self.bytes(len)))
                    .collect();
                self.call(group, steps).await;
            }
            Act::Vote { group } => {
                let vote = self.bytes(20);
                self.call(GroupId(group), vec![Step::Vote(vote)]).await;
            }
            Act::Truncate { group, back } => {
                let (first, next) = self.bounds(GroupId(group));
                self.call(
                    GroupId(group),
                    vec![Step::Truncate(next.saturating_sub(back).max(first))],
                )
                .await;
            }
            Act::Purge { group, ahead } => {
                let (first, _) = self.bounds(GroupId(group));
                let mark = self.bytes(10);
                self.call(GroupId(group), vec![Step::Purge(first + ahead, mark)])
                    .await;
            }
            Act::Drop { group } => self.call(GroupId(group), vec![Step::Drop]).await,
            Act::Settle => {
                let _ = settle(&self.wal).await;
            }
            Act::Reopen => {
                if self.wal.close().await.is_ok() {
                    if let Ok(wal) = self.open().await {
                        self.wal = wal;
                    } else {
                        self.disk.cut_power(-1);
                        self.wal = self.open().await.unwrap();
                    }
                    self.calls.clear();
                    let last = self.history.pop().unwrap();
                    self.history = vec![last];
                }
            }
            Act::CutPower { after } => self.disk.cut_power(after),
            Act::Crash { seed } => self.crash(&Rng::new(seed)).await,
        }
    }

    /// The states that the log may be in after a crash: from the last that was confirmed on.
    fn possible(&self) -> &[Model] {
        let confirmed = self
            .calls
            .iter()
            .rev()
            .find(|(_, answer)| matches!(&*answer.lock().unwrap(), Some(Ok(()))));
        &self.history[confirmed.map_or(0, |(states, _)| states - 1)..]
    }

    async fn crash(&mut self, rng: &Rng) {
        // Both at one moment: the old writer goes on until it is dropped.
        let possible = self.possible().to_vec();
        self.disk = Arc::new(self.disk.crash(rng));
        self.wal = self.open().await.unwrap();
        let found = observe(&self.wal, 1000).await.unwrap();
        assert!(
            possible.contains(&found),
            "found {found:#?}\nafter {:#?}",
            self.model()
        );
        self.history = vec![found];
        self.calls.clear();
    }

    async fn check(&self) {
        match observe(&self.wal, 1000).await {
            Ok(found) => assert_eq!(&found, self.model()),
            Err(error) => assert!(matches!(error, WalError::Fenced { .. }), "{error}"),
        }
    }
}

async fn open(disk: Arc<MemoryDisk>, seed: u64) -> Result<Wal, WalError> {
    let platform: Arc<dyn Platform> = TestPlatform::shared(disk, seed);
    Wal::open(platform, "wal", SMALL).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_its_model_and_crashes_keep_what_was_confirmed(acts in acts()) {
        block_on(async {
            let mut run = Run::new().await;
            for act in acts {
                run.act(act).await;
                run.check().await;
            }
            run.crash(&Rng::new(7)).await;
        });
    }

    #[test]
    fn a_flipped_bit_after_a_clean_end_is_refused_or_harmless(
        acts in acts(),
        flip in any::<prop::sample::Index>(),
    ) {
        block_on(async {
            let mut run = Run::new().await;
            for act in acts.into_iter().filter(|act| !matches!(act, Act::CutPower { .. })) {
                run.act(act).await;
            }
            run.wal.close().await.unwrap();
            let spoiled = flipped(&run.disk, flip);
            match open(spoiled.clone(), 5).await {
                Ok(wal) => assert_eq!(&observe(&wal, 1000).await.unwrap(), run.model()),
                Err(WalError::Damaged { .. } | WalError::Newer { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        });
    }

    #[test]
    fn a_flipped_bit_after_a_crash_costs_at_most_the_last_batch(
        acts in acts(),
        flip in any::<prop::sample::Index>(),
    ) {
        block_on(async {
            let mut run = Run::new().await;
            for act in acts.into_iter().filter(|act| !matches!(act, Act::CutPower { .. })) {
                run.act(act).await;
            }
            settle(&run.wal).await.unwrap();
            let before = run.history.len() - 1;
            run.act(Act::Append { group: 1, count: 2, len: 40 }).await;
            settle(&run.wal).await.unwrap();
            let spoiled = flipped(&run.disk, flip);
            let untouched = spoiled.files();
            match open(spoiled.clone(), 5).await {
                Ok(wal) => {
                    let found = observe(&wal, 1000).await.unwrap();
                    assert!(run.history[before..].contains(&found), "found {found:#?}");
                }
                Err(WalError::Damaged { .. } | WalError::Newer { .. }) => assert_eq!(spoiled.files(), untouched),
                Err(other) => panic!("{other}"),
            }
        });
    }
}

fn flipped(disk: &MemoryDisk, flip: prop::sample::Index) -> Arc<MemoryDisk> {
    let mut files = disk.files();
    let total: usize = files.values().map(Vec::len).sum();
    let mut bit = flip.index(total * 8);
    for bytes in files.values_mut() {
        if bit < bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            break;
        }
        bit -= bytes.len() * 8;
    }
    Arc::new(MemoryDisk::holding(files))
}

#[test]
fn a_missing_segment_is_damage() {
    block_on(async {
        let disk = Arc::new(MemoryDisk::new());
        let wal = open(disk.clone(), 1).await.unwrap();
        for index in 0..12 {
            crate::driver::append(&wal, 1, index, &["x".repeat(1500).as_str()])
                .await
                .unwrap();
        }
        wal.close().await.unwrap();
        let files = disk.files();
        assert!(files.len() >= 3);
        for gone in files.keys().take(files.len() - 1) {
            let mut left = files.clone();
            left.remove(gone);
            let error = open(Arc::new(MemoryDisk::holding(left)), 1)
                .await
                .unwrap_err();
            assert!(error.to_string().contains("missing"), "{error}");
        }
    });
}

#[test]
fn a_later_format_is_refused_in_words() {
    block_on(async {
        let disk = Arc::new(MemoryDisk::new());
        open(disk.clone(), 1).await.unwrap().close().await.unwrap();
        let mut files = disk.files();
        let bytes = files.values_mut().next().unwrap();
        bytes[8] = 2;
        let crc = crc_fast::crc32_iscsi(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&crc);
        let error = open(Arc::new(MemoryDisk::holding(files)), 1)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("upgrade this node"), "{error}");
    });
}
