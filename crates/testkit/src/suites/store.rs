//! What a [`View`] and a [`Batch`] must do: one group's keys, in the order of their bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use raft_machine::{Batch, View};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One group's keys.
pub trait Store {
    /// Writes in one batch, which is in force when this returns.
    fn write(&mut self, work: &mut dyn FnMut(&mut dyn Batch));

    /// Looks at what is in force.
    fn read(&self, look: &mut dyn FnMut(&dyn View));
}

/// Runs the whole suite; `empty` makes a store without keys each time.
///
/// # Panics
/// When the store does something else than its traits say.
pub fn run<S: Store>(empty: impl Fn() -> S) {
    for test in [
        a_key_holds_its_last_value::<S>,
        a_batch_sees_its_own_writes::<S>,
        keys_come_in_the_order_of_their_bytes::<S>,
        a_scan_keeps_to_its_bounds::<S>,
        a_scan_ends_when_it_is_told_to::<S>,
        any_history_gives_what_a_map_gives::<S>,
    ] {
        test(&mut empty());
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn put<S: Store>(store: &mut S, rows: &[(&[u8], &[u8])]) {
    store.write(&mut |batch| {
        for (key, value) in rows {
            batch.put(key, value).unwrap();
        }
    });
}

fn get<S: Store>(store: &S, key: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    store.read(&mut |view| found = view.get(key).unwrap());
    found
}

fn rows_of(view: &(impl View + ?Sized), from: &[u8], to: Option<&[u8]>) -> Rows {
    let mut rows = Vec::new();
    let scanned = view.scan(from, to, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    rows
}

fn scan<S: Store>(store: &S, from: &[u8], to: Option<&[u8]>) -> Rows {
    let mut rows = Vec::new();
    store.read(&mut |view| rows = rows_of(view, from, to));
    rows
}

fn keys<S: Store>(store: &S, from: &[u8], to: Option<&[u8]>) -> Vec<Vec<u8>> {
    let rows = scan(store, from, to);
    rows.into_iter().map(|(key, _)| key).collect()
}

fn a_key_holds_its_last_value<S: Store>(store: &mut S) {
    assert_eq!(get(store, b"k"), None);
    put(store, &[(b"k", b"one"), (b"empty", b""), (b"", b"no key")]);
    put(store, &[(b"k", b"two")]);
    assert_eq!(get(store, b"k").unwrap(), b"two");
    assert_eq!(get(store, b"empty").unwrap(), b"");
    assert_eq!(get(store, b"").unwrap(), b"no key");
    let large = vec![7; 1 << 20];
    put(store, &[(b"large", &large)]);
    assert!(get(store, b"large").unwrap() == large);
    store.write(&mut |batch| {
        batch.delete(b"k").unwrap();
        batch.delete(b"was never there").unwrap();
    });
    assert_eq!(get(store, b"k"), None);
    assert_eq!(keys(store, b"", None), [&b""[..], b"empty", b"large"]);
}

fn a_batch_sees_its_own_writes<S: Store>(store: &mut S) {
    put(store, &[(b"a", b"1"), (b"b", b"2")]);
    store.write(&mut |batch| {
        batch.put(b"a", b"3").unwrap();
        batch.delete(b"b").unwrap();
        batch.put(b"c", b"4").unwrap();
        assert_eq!(batch.get(b"a").unwrap().unwrap(), b"3");
        assert_eq!(batch.get(b"b").unwrap(), None);
        let rows = rows_of(&*batch, b"", None);
        let expected: [(&[u8], &[u8]); 2] = [(b"a", b"3"), (b"c", b"4")];
        assert_eq!(
            rows,
            expected.map(|(key, value)| (key.to_vec(), value.to_vec()))
        );
    });
    assert_eq!(keys(store, b"", None), [b"a", b"c"]);
}

fn keys_come_in_the_order_of_their_bytes<S: Store>(store: &mut S) {
    let long = vec![0xFF; 2_000];
    let ordered: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"aa", b"\xFF", &long];
    for key in ordered.iter().rev() {
        put(store, &[(key, b"x")]);
    }
    assert_eq!(keys(store, b"", None), ordered);
}

fn a_scan_keeps_to_its_bounds<S: Store>(store: &mut S) {
    put(
        store,
        &[(b"a", b""), (b"b", b""), (b"ba", b""), (b"c", b"")],
    );
    let check = |from: &[u8], to: Option<&[u8]>, expected: &[&[u8]]| {
        assert_eq!(keys(store, from, to), expected, "{from:?}..{to:?}");
    };
    check(b"b", None, &[b"b", b"ba", b"c"]);
    check(b"b", Some(b"c"), &[b"b", b"ba"]);
    check(b"aa", Some(b"b\0"), &[b"b"]);
    check(b"", Some(b"a"), &[]);
    check(b"b", Some(b"b"), &[]);
    check(b"c", Some(b"a"), &[]);
    check(b"d", None, &[]);
    check(b"", Some(b""), &[]);
}

fn a_scan_ends_when_it_is_told_to<S: Store>(store: &mut S) {
    put(store, &[(b"a", b""), (b"b", b""), (b"c", b"")]);
    let mut seen = Vec::new();
    store.read(&mut |view| {
        let scanned = view.scan(b"", None, &mut |key, _| {
            seen.push(key.to_vec());
            match key {
                b"b" => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        scanned.unwrap();
    });
    assert_eq!(seen, [b"a", b"b"]);
}

fn any_history_gives_what_a_map_gives<S: Store>(store: &mut S) {
    let mut rng = StdRng::seed_from_u64(7);
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for round in 0..40_u64 {
        store.write(&mut |batch| {
            for _ in 0..20 {
                let len = rng.random_range(0..4_usize);
                let key: Vec<u8> = (0..len).map(|_| rng.random_range(0..4_u8)).collect();
                if rng.random_range(0..3_u8) == 0 {
                    batch.delete(&key).unwrap();
                    map.remove(&key);
                } else {
                    let value = round.to_be_bytes();
                    batch.put(&key, &value).unwrap();
                    map.insert(key, value.to_vec());
                }
            }
        });
        let (from, to) = ([rng.random_range(0..4_u8)], [rng.random_range(0..5_u8)]);
        let within = |key: &[u8]| key >= &from[..] && key < &to[..];
        let expected: Rows = map
            .iter()
            .filter(|(key, _)| within(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(scan(store, &from, Some(&to)), expected, "round {round}");
        assert_eq!(scan(store, b"", None), Rows::from_iter(map.clone()));
    }
}
