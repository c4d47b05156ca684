//! List pages against a sorted list of everything, over slots and over groups.

use std::cell::Cell;
use std::collections::BTreeSet;

use ids::UploadId;
use object_core::api::{ContentHeaders, ListPage, UploadInfo};
use object_core::meta::listing::{Ask, Merge};
use object_core::meta::machine::MetaMachine;
use object_core::meta::{Answer, Command, META_FORMAT, Outcome, Query};
use object_core::slots::slot_of_key;
use proptest::prelude::*;
use raft_machine::{Machine, StoreError, View, Visit, decode, encode};

use crate::scenario::{BUCKET, Group, USER, at, put_inline};

const SLOTS: u16 = 4;
/// Groups of a merged list.
const GROUPS: usize = 8;

#[derive(Debug, Clone)]
struct Wanted {
    prefix: String,
    delimiter: Option<String>,
    after: Option<String>,
    max: u32,
}

fn text(len: usize) -> impl Strategy<Value = String> {
    let letter = proptest::sample::select(&['a', 'b', '/', '/', 'é', '\0', '\u{10FFFF}'][..]);
    proptest::collection::vec(letter, 0..len).prop_map(|letters| letters.into_iter().collect())
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set(text(6), 0..30).prop_map(|mut keys| {
        keys.remove("");
        keys
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let delimiter =
        proptest::sample::select(&["/", "/", "b", "é", "a/", "\0", ""][..]).prop_map(str::to_owned);
    (
        text(3),
        proptest::option::of(delimiter),
        proptest::option::of(text(5)),
        1..8_u32,
    )
        .prop_map(|(prefix, delimiter, after, max)| Wanted {
            prefix,
            delimiter,
            after,
            max,
        })
}

/// Everything that pages may show, in order.
fn everything(keys: &BTreeSet<String>, wanted: &Wanted) -> Vec<String> {
    let rolled_up = |key: &String| {
        let rest = key.strip_prefix(&wanted.prefix)?;
        let delimiter = wanted
            .delimiter
            .as_ref()
            .filter(|delimiter| !delimiter.is_empty());
        Some(
            match delimiter
                .and_then(|delimiter| Some(rest.find(delimiter.as_str())? + delimiter.len()))
            {
                Some(len) => format!("{}{}", wanted.prefix, &rest[..len]),
                None => key.clone(),
            },
        )
    };
    let names: BTreeSet<String> = keys.iter().filter_map(rolled_up).collect();
    names
        .into_iter()
        .filter(|name| wanted.after.as_ref().is_none_or(|after| name > after))
        .collect()
}

fn names(page: &ListPage) -> Vec<String> {
    assert!(
        page.objects.is_sorted_by_key(|object| &object.key) && page.common_prefixes.is_sorted()
    );
    let keys = page.objects.iter().map(|object| object.key.clone());
    let mut names: Vec<String> = keys.chain(page.common_prefixes.iter().cloned()).collect();
    names.sort();
    names
}

fn query(wanted: &Wanted, slots: Vec<u16>) -> Query {
    let Wanted {
        prefix,
        delimiter,
        after,
        max,
    } = wanted.clone();
    Query::List {
        bucket: BUCKET,
        slots,
        prefix,
        delimiter,
        after,
        max,
    }
}

fn page_of(answer: Answer) -> ListPage {
    match answer {
        Answer::List {
            objects,
            common_prefixes,
            next,
        } => ListPage {
            objects,
            common_prefixes,
            next,
        },
        other => panic!("{other:?}"),
    }
}

fn filled(keys: &BTreeSet<String>, slots: &[u16]) -> Group {
    let mut group = Group::default();
    for key in keys {
        let slot = slot_of_key(BUCKET, key, SLOTS);
        if slots.contains(&slot) {
            assert!(matches!(
                group.apply(&put_inline(&at(slot, key), key.as_bytes())),
                Outcome::Written(_)
            ));
        }
    }
    group
}

/// Keys enough for pages on which a group's share is much less than the page.
fn many_keys() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set(0..400_u32, 0..200).prop_map(|numbers| {
        let key = |n: u32| match n % 4 {
            0 => format!("a/{}/{n:03}", n / 20),
            1 => format!("b{n:03}/"),
            _ => format!("{n:03}"),
        };
        numbers.into_iter().map(key).collect()
    })
}

/// Groups that keys lie in, one after another: evenly, or most of them in one group.
fn places() -> impl Strategy<Value = Vec<usize>> {
    let even = Just((0..GROUPS).collect::<Vec<usize>>());
    let odd = proptest::collection::vec(0..GROUPS, 1..40);
    let one = proptest::collection::vec(prop_oneof![9 => Just(2_usize), 1 => 0..GROUPS], 1..40);
    prop_oneof![even, odd, one]
}

/// Groups of one slot each, with their keys.
fn placed(keys: &BTreeSet<String>, place: impl Fn(usize, &str) -> usize) -> Vec<Group> {
    let mut groups: Vec<Group> = (0..GROUPS).map(|_| Group::default()).collect();
    for (n, key) in keys.iter().enumerate() {
        let group = place(n, key);
        groups[group].apply(&put_inline(&at(group as u16, key), b""));
    }
    groups
}

/// A merged page, and what it cost.
struct Merged {
    page: ListPage,
    rounds: usize,
    rows: usize,
}

/// Asks groups of one slot each until nothing more is wanted.
fn merged(groups: &[Group], wanted: &Wanted) -> Merged {
    let mut merge = Merge::new(groups.len(), wanted.after.clone(), wanted.max as usize);
    let (mut rounds, mut rows) = (0, 0);
    loop {
        let asked = merge.wanted();
        if asked.is_empty() {
            let page = merge.finish();
            return Merged { page, rounds, rows };
        }
        rounds += 1;
        for Ask { group, after, max } in asked {
            let wanted = Wanted {
                after,
                max: max as u32,
                ..wanted.clone()
            };
            let page = page_of(groups[group].ask(&query(&wanted, vec![group as u16])));
            rows += page.objects.len() + page.common_prefixes.len();
            merge.add(group, page);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_one_group_show_everything_once_and_in_order(keys in keys(), mut wanted in wanted()) {
        let group = filled(&keys, &[0, 1, 2, 3]);
        let mut left = everything(&keys, &wanted);
        loop {
            let page = page_of(group.ask(&query(&wanted, vec![0, 1, 2, 3])));
            let rest = left.split_off(left.len().min(wanted.max as usize));
            prop_assert_eq!(names(&page), &left[..]);
            prop_assert_eq!(page.next.as_ref(), left.last().filter(|_| !rest.is_empty()));
            for object in &page.objects {
                prop_assert_eq!(object.size, object.key.len() as u64);
            }
            left = rest;
            match page.next {
                Some(next) => wanted.after = Some(next),
                None => break,
            }
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn pages_of_groups_that_gave_little_still_show_everything_once_and_in_order(
        keys in keys(),
        mut wanted in wanted(),
        short in 1..8_u32,
        cut in 0..4_usize,
    ) {
        let parts = [&[0, 1, 2, 3][..cut], &[0, 1, 2, 3][cut..]];
        let groups = parts.map(|slots| filled(&keys, slots));
        let mut left = everything(&keys, &wanted);
        loop {
            let mut merge = Merge::new(2, wanted.after.clone(), wanted.max as usize);
            for (at, max) in [(0, wanted.max), (1, short)] {
                let query = query(&Wanted { max, ..wanted.clone() }, parts[at].to_vec());
                merge.add(at, page_of(groups[at].ask(&query)));
            }
            let page = merge.finish();
            let shown = names(&page);
            prop_assert!(shown.len() <= wanted.max as usize);
            prop_assert!(page.next.is_none() || !shown.is_empty(), "a page that goes on shows something");
            let rest = left.split_off(shown.len().min(left.len()));
            prop_assert_eq!(&shown, &left);
            prop_assert!(page.next.is_none() || !rest.is_empty(), "a page that goes on is followed by something");
            left = rest;
            match page.next {
                Some(next) => wanted.after = Some(next),
                None => break,
            }
        }
        prop_assert!(left.is_empty(), "not shown: {left:?}");
    }

    #[test]
    fn merged_pages_are_those_of_all_keys_however_these_lie(
        keys in prop_oneof![keys(), many_keys()],
        places in places(),
        mut wanted in wanted(),
        max in proptest::sample::select(&[1_u32, 2, 7, 40, 70, 150, 1000][..]),
    ) {
        let groups = placed(&keys, |at, _| places[at % places.len()]);
        wanted.max = max;
        let mut left = everything(&keys, &wanted);
        loop {
            let Merged { page, rounds, .. } = merged(&groups, &wanted);
            prop_assert!(rounds <= 2, "{rounds} rounds");
            let rest = left.split_off(left.len().min(max as usize));
            prop_assert_eq!(names(&page), &left[..]);
            prop_assert_eq!(page.next.as_ref(), left.last().filter(|_| !rest.is_empty()));
            left = rest;
            match page.next {
                Some(next) => wanted.after = Some(next),
                None => break,
            }
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn uploads_are_walked_by_key_then_upload(
        uploads in proptest::collection::btree_set((text(4), any::<u8>()), 0..20),
        prefix in text(3),
        max in 1..5_u32,
    ) {
        let mut group = Group::default();
        for (key, id) in &uploads {
            let slot = slot_of_key(BUCKET, key, SLOTS);
            group.apply(&Command::CreateUpload {
                at: at(slot, key),
                upload: UploadId([*id; 16]),
                headers: ContentHeaders::default(),
                checksum: None,
                owner: USER,
                created_ms: 3,
            });
        }
        let ask = |after| {
            let query = Query::ListUploads { bucket: BUCKET, slots: vec![0, 1, 2, 3], prefix: prefix.clone(), after, max };
            match group.ask(&query) {
                Answer::Uploads { uploads, more } => (uploads, more),
                other => panic!("{other:?}"),
            }
        };
        let (mut found, mut after): (Vec<UploadInfo>, _) = (Vec::new(), None);
        loop {
            let (page, more) = ask(after.take());
            prop_assert!(page.len() <= max as usize && (!more || page.len() == max as usize));
            found.extend(page);
            match found.last().filter(|_| more) {
                Some(last) => after = Some((last.key.clone(), Some(last.upload))),
                None => break,
            }
        }
        let wanted: Vec<_> = uploads.iter().filter(|(key, _)| key.starts_with(&prefix)).cloned().collect();
        let found: Vec<_> = found.into_iter().map(|found| (found.key, found.upload.0[0])).collect();
        prop_assert_eq!(&found, &wanted);
        if let Some((first, _)) = wanted.first() {
            let (page, _) = ask(Some((first.clone(), None)));
            prop_assert!(page.iter().all(|found| found.key > *first), "all of a key's uploads are passed over");
        }
    }
}

#[test]
fn an_empty_page_is_empty_and_final() {
    let group = filled(&["a".to_owned()].into(), &[0, 1, 2, 3]);
    let wanted = Wanted {
        prefix: String::new(),
        delimiter: None,
        after: None,
        max: 0,
    };
    assert_eq!(
        page_of(group.ask(&query(&wanted, vec![0, 1, 2, 3]))),
        ListPage::default()
    );
    let mut merge = Merge::new(1, None, 0);
    assert_eq!(merge.wanted(), []);
    merge.add(
        0,
        ListPage {
            next: Some("a".into()),
            ..ListPage::default()
        },
    );
    assert_eq!(merge.finish(), ListPage::default());
}

#[test]
fn a_page_of_keys_that_are_spread_evenly_takes_little_more_than_it_shows() {
    let keys: BTreeSet<String> = (0..4000).map(|n| format!("key-{n:05}")).collect();
    let mut wanted = Wanted {
        prefix: String::new(),
        delimiter: None,
        after: None,
        max: 1000,
    };
    let hashed = |_, key: &str| usize::from(slot_of_key(BUCKET, key, GROUPS as u16));
    let groups = placed(&keys, hashed);
    let Merged { page, rounds, rows } = merged(&groups, &wanted);
    assert_eq!((page.objects.len(), rounds), (1000, 1));
    assert!(rows < 1500, "{rows} rows for 1000 keys");
    // All in one group: what its first page lacks is asked for, and nothing of the others.
    let groups = placed(&keys, |_, _| 3);
    let Merged { page, rounds, rows } = merged(&groups, &wanted);
    assert_eq!((page.objects.len(), rounds, rows), (1000, 2, 1000));
    wanted.max = 5;
    let Merged { rounds, rows, .. } = merged(&groups, &wanted);
    assert_eq!((rounds, rows), (1, 5));
}

/// Counts the rows that are read.
struct Counted<'a>(&'a Group, Cell<usize>);

impl View for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.store.get(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.0.store.scan(from, to, &mut |key, value| {
            self.1.set(self.1.get() + 1);
            visit(key, value)
        })
    }
}

#[test]
fn the_cost_of_a_page_does_not_depend_on_the_size_of_the_bucket() {
    let keys = (0..4000).map(|n| format!("{}/{n:05}", n % 4)).collect();
    let group = filled(&keys, &[0, 1, 2, 3]);
    let rows = |wanted: &Wanted| {
        let view = Counted(&group, Cell::new(0));
        let answer = MetaMachine::new()
            .query(
                &view,
                &encode(META_FORMAT, &query(wanted, vec![0, 1, 2, 3])),
            )
            .unwrap();
        (
            names(&page_of(decode("answer", META_FORMAT, &answer).unwrap())).len(),
            view.1.get(),
        )
    };
    let folders = Wanted {
        prefix: String::new(),
        delimiter: Some("/".into()),
        after: None,
        max: 100,
    };
    let (shown, read) = rows(&folders);
    assert_eq!(shown, 4);
    assert!(
        read <= 16,
        "{read} rows for four common prefixes in four slots"
    );
    let inside = Wanted {
        after: Some("1/00500".into()),
        ..folders.clone()
    };
    let (shown, read) = rows(&inside);
    assert_eq!(shown, 2);
    assert!(read <= 8, "{read} rows for two common prefixes");
    let page = Wanted {
        prefix: "2/".into(),
        delimiter: None,
        after: Some("2/02000".into()),
        max: 40,
    };
    let (shown, read) = rows(&page);
    assert_eq!(shown, 40);
    assert!(read <= 4 * (16 + 16), "{read} rows for 40 keys");
}

#[test]
fn a_page_of_one_slot_reads_one_row_more_than_it_shows() {
    let mut group = Group::default();
    for n in 0..200 {
        group.apply(&put_inline(&at(0, &format!("{n:03}")), b""));
    }
    let wanted = Wanted {
        prefix: String::new(),
        delimiter: None,
        after: None,
        max: 40,
    };
    let view = Counted(&group, Cell::new(0));
    let answer = MetaMachine::new()
        .query(&view, &encode(META_FORMAT, &query(&wanted, vec![0])))
        .unwrap();
    let page = page_of(decode("answer", META_FORMAT, &answer).unwrap());
    assert_eq!((page.objects.len(), view.1.get()), (40, 41));
}
