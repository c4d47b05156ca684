//! Pools against a set of what is in use.

use std::collections::BTreeSet;

use proptest::prelude::*;
use raft_machine::memory::MemoryStore;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Any(u32),
    These(Vec<u128>),
    Release(usize),
    ReleaseValue(u128),
}

fn steps(width: u128) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..6).prop_map(Step::Any),
        1 => Just(Step::Any(width as u32 / 3)),
        3 => prop::collection::vec(0..width, 1..4).prop_map(Step::These),
        4 => any::<usize>().prop_map(Step::Release),
        1 => (0..width).prop_map(Step::ReleaseValue),
    ];
    prop::collection::vec(step, 1..60)
}

/// One operation, all or nothing, as apply would do it.
fn attempt<T>(
    store: &mut MemoryStore,
    act: impl FnOnce(&mut dyn Batch) -> Result<T, Halt>,
) -> Result<T, Refused> {
    let mut copy = store.clone();
    match act(&mut copy) {
        Ok(done) => {
            *store = copy;
            Ok(done)
        }
        Err(Halt::Refused(refused)) => Err(refused),
        Err(Halt::Store(error)) => panic!("{error}"),
    }
}

fn check(layout: Layout, lo: u128, width: u128, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut store = MemoryStore::default();
    let hi = lo + (width - 1);
    attempt(&mut store, |batch| create(batch, "p", layout, lo, hi)).unwrap();
    let empty = store.clone();
    let mut used = BTreeSet::new();
    for step in steps {
        match step {
            Step::Any(count) => {
                let want = Want::Any { count };
                let got = attempt(&mut store, |batch| allocate(batch, "p", &want, None));
                if used.len() as u128 + u128::from(count) > width {
                    prop_assert_eq!(got, Err(Refused::Exhausted("p".into())));
                    continue;
                }
                for value in got.unwrap() {
                    prop_assert!((lo..=hi).contains(&value));
                    prop_assert!(used.insert(value), "{} was given twice", value);
                }
            }
            Step::These(offsets) => {
                let values: Vec<u128> = offsets.iter().map(|offset| lo + offset).collect();
                let want = Want::These(values.clone());
                let got = attempt(&mut store, |batch| allocate(batch, "p", &want, None));
                let mut after = used.clone();
                let free = values.iter().all(|value| after.insert(*value));
                prop_assert_eq!(got.is_ok(), free);
                if free {
                    used = after;
                }
            }
            Step::Release(pick) => {
                let Some(&value) = used.iter().nth(pick % used.len().max(1)) else {
                    continue;
                };
                attempt(&mut store, |batch| release(batch, "p", &[value], None)).unwrap();
                used.remove(&value);
            }
            Step::ReleaseValue(offset) => {
                let value = lo + offset;
                let got = attempt(&mut store, |batch| release(batch, "p", &[value], None));
                prop_assert_eq!(got.is_ok(), used.remove(&value));
            }
        }
        prop_assert_eq!(load(&store, "p").unwrap().unwrap().used, used.len() as u128);
    }
    for values in used
        .into_iter()
        .collect::<Vec<_>>()
        .chunks(limits::VALUES_MAX)
    {
        attempt(&mut store, |batch| release(batch, "p", values, None)).unwrap();
    }
    prop_assert_eq!(store.len(), empty.len());
    attempt(&mut store, |batch| remove(batch, "p")).unwrap();
    prop_assert!(store.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn small_dense_pools_keep_count(width in 1u128..20, lo in 0u128..9, steps in steps(20)) {
        let fits = |step: &Step| match step {
            Step::These(offsets) => offsets.iter().all(|offset| *offset < width),
            Step::ReleaseValue(offset) => *offset < width,
            _ => true,
        };
        check(Layout::Dense, lo, width, steps.into_iter().filter(fits).collect())?;
    }

    #[test]
    fn sparse_pools_keep_count(steps in steps(40)) {
        check(Layout::Sparse, u128::MAX - 39, 40, steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn dense_pools_of_several_pages_keep_count(steps in steps(9_001)) {
        check(Layout::Dense, 167_772_160, 9_001, steps)?;
    }
}

fn take_some(store: &mut MemoryStore, count: u32) -> Vec<u128> {
    attempt(store, |batch| {
        allocate(batch, "p", &Want::Any { count }, None)
    })
    .unwrap()
}

#[test]
fn a_search_crosses_full_nodes_of_every_level() {
    let mut store = MemoryStore::default();
    let last = 4_096 * 4_096 + 10;
    attempt(&mut store, |batch| {
        create(batch, "p", Layout::Dense, 0, last)
    })
    .unwrap();
    // Says that all of the first 4,096 pages are full, as if 16 M values had been taken.
    store
        .put(&keys::pool("p", b'1', &0u64.to_be_bytes()), &[0xFF; 512])
        .unwrap();
    store
        .put(&keys::pool("p", b'2', &0u64.to_be_bytes()), &{
            let mut top = [0; 512];
            top[0] = 1;
            top
        })
        .unwrap();
    store
        .put(&keys::pool("p", b'0', &0u64.to_be_bytes()), &[0xFF; 512])
        .unwrap();
    assert_eq!(take_some(&mut store, 1), [4_096 * 4_096]);
}

#[test]
fn released_values_rest_until_the_cursor_comes_round() {
    for layout in [Layout::Dense, Layout::Sparse] {
        let mut store = MemoryStore::default();
        attempt(&mut store, |batch| create(batch, "p", layout, 10, 13)).unwrap();
        assert_eq!(take_some(&mut store, 2), [10, 11]);
        attempt(&mut store, |batch| release(batch, "p", &[10], None)).unwrap();
        assert_eq!(take_some(&mut store, 3), [12, 13, 10]);
    }
}

#[test]
fn a_held_value_is_released_by_its_holder_only() {
    let mut store = MemoryStore::default();
    let port = ResourceKey::new("Port", "a");
    attempt(&mut store, |batch| create(batch, "p", Layout::Dense, 1, 9)).unwrap();
    let want = Want::Any { count: 1 };
    attempt(&mut store, |batch| allocate(batch, "p", &want, Some(&port))).unwrap();
    assert_eq!(holder(&store, "p", 1).unwrap(), Some(port.clone()));
    attempt(&mut store, |batch| release(batch, "p", &[1], None)).unwrap_err();
    attempt(&mut store, |batch| release(batch, "p", &[1], Some(&port))).unwrap();
    assert_eq!(holder(&store, "p", 1).unwrap(), None);
}

#[test]
fn pools_have_bounds() {
    let mut store = MemoryStore::default();
    let mut make = |layout, lo, hi| attempt(&mut store, |batch| create(batch, "p", layout, lo, hi));
    assert!(matches!(
        make(Layout::Dense, 2, 1),
        Err(Refused::Invalid(_))
    ));
    assert!(matches!(
        make(Layout::Dense, 0, 1 << 36),
        Err(Refused::Invalid(_))
    ));
    assert!(matches!(
        make(Layout::Sparse, 0, u128::MAX),
        Err(Refused::Invalid(_))
    ));
    make(Layout::Sparse, 1, u128::MAX).unwrap();
    assert!(matches!(
        make(Layout::Sparse, 1, 2),
        Err(Refused::AlreadyExists(_))
    ));
}
