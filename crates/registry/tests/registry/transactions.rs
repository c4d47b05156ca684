//! Random histories: the state machine does what the model does, remembers what was, and says when
//! it does not remember any more.

use std::collections::BTreeMap;

use proptest::prelude::*;
use registry::query::{Answer, ChangesQuery, ListQuery, Query};
use registry::*;

use crate::model::{Model, World};
use crate::support::{Bare, create, delete, draft, history};

const KINDS: [&str; 2] = ["A", "B"];
const NAMES: [&str; 4] = ["a", "a/b", "b", "c"];
const CHANGES_MAX: u64 = 14;

/// An operation before it knows what there is: choices that are made when it is applied.
#[derive(Debug, Clone)]
struct Choice {
    what: u8,
    kind: usize,
    name: usize,
    spec: u8,
    /// 0: no expectation, 1: the right one, 2: a wrong revision, 3: a wrong uid.
    expect: u8,
    owners: Vec<(usize, usize)>,
    finalizers: u8,
}

fn choice() -> impl Strategy<Value = Choice> {
    let owners = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((0..KINDS.len(), 0..NAMES.len()), 1..3),
    ];
    let target = (0..KINDS.len(), 0..NAMES.len());
    let finalizers = prop_oneof![3 => Just(0u8), 1 => 0u8..4];
    (
        0u8..9,
        target,
        0u8..3,
        prop_oneof![4 => 0u8..2, 1 => 2u8..4],
        owners,
        finalizers,
    )
        .prop_map(
            |(what, (kind, name), spec, expect, owners, finalizers)| Choice {
                what,
                kind,
                name,
                spec,
                expect,
                owners,
                finalizers,
            },
        )
}

impl Choice {
    fn op(&self, world: &World, uid: u8) -> Op {
        let (kind, name) = (KINDS[self.kind], NAMES[self.name]);
        let key = ResourceKey::new(kind, name);
        let found = world
            .get(&(kind.into(), name.into()))
            .map(|found| &found.metadata);
        let (revision, its_uid) =
            found.map_or((Revision(1), Uid([0; 16])), |m| (m.revision, m.uid));
        let expected = match self.expect {
            0 => Expected::default(),
            1 => Expected {
                revision: Some(revision),
                uid: Some(its_uid),
            },
            2 => Expected {
                revision: Some(Revision(revision.0 + 1)),
                uid: None,
            },
            _ => Expected {
                revision: None,
                uid: Some(Uid([255; 16])),
            },
        };
        let made = Draft {
            owners: self.owners(world),
            finalizers: self.finalizers(),
            ..draft(kind, name, uid, self.spec)
        };
        match self.what {
            0..=3 => create(made),
            4 | 5 => Op::Update(
                key,
                expected,
                Box::new(Replacement {
                    labels: made.labels,
                    annotations: made.annotations,
                    owners: made.owners,
                    finalizers: made.finalizers,
                    spec: made.spec,
                    indexes: made.indexes,
                }),
            ),
            6 => Op::UpdateStatus(key, expected, vec![self.spec].into()),
            7 => Op::Delete(key, expected, 7),
            _ => Op::RemoveFinalizer(key, "f0".into()),
        }
    }

    fn owners(&self, world: &World) -> Vec<OwnerRef> {
        let mut owners = Vec::new();
        for &(kind, name) in &self.owners {
            let (kind, name) = (KINDS[kind], NAMES[name]);
            let found = world.get(&(kind.into(), name.into()));
            let uid = found.map_or(Uid([254; 16]), |found| found.metadata.uid);
            if !owners.iter().any(|other: &OwnerRef| other.uid == uid) {
                owners.push(OwnerRef {
                    kind: kind.into(),
                    name: name.into(),
                    uid,
                });
            }
        }
        owners
    }

    fn finalizers(&self) -> Vec<String> {
        (0..2)
            .filter(|bit| self.finalizers & (1 << bit) != 0)
            .map(|bit| format!("f{bit}"))
            .collect()
    }
}

fn commands() -> impl Strategy<Value = Vec<(Vec<Choice>, bool)>> {
    prop::collection::vec(
        (prop::collection::vec(choice(), 1..4), any::<bool>()),
        1..25,
    )
}

fn stored(items: Vec<bytes::Bytes>) -> Vec<Stored> {
    items
        .iter()
        .map(|bytes| Stored::decode(bytes).unwrap())
        .collect()
}

/// All pages of a list.
fn list(bare: &Bare, query: ListQuery) -> Result<Vec<Stored>, Answer> {
    let (mut query, mut all) = (query, Vec::new());
    loop {
        match bare.query(&Query::List(query.clone())) {
            Answer::Page {
                revision,
                items,
                next,
            } => {
                assert!(query.at.is_none_or(|at| at == revision));
                all.extend(stored(items));
                query.at = Some(revision);
                match next {
                    Some(next) => query.after = Some(next),
                    None => return Ok(all),
                }
            }
            other => return Err(other),
        }
    }
}

fn of_kind(world: &World, kind: &str, wanted: impl Fn(&Stored) -> bool) -> Vec<Stored> {
    let all = world
        .iter()
        .filter(|((its, _), stored)| its == kind && wanted(stored));
    all.map(|(_, stored)| stored.clone()).collect()
}

/// Compares every way to list a state with that state.
fn check_lists(bare: &Bare, world: &World, at: Option<Revision>, limit: u32) {
    for kind in KINDS {
        let all = ListQuery {
            kind: kind.into(),
            at,
            limit,
            ..ListQuery::default()
        };
        assert_eq!(list(bare, all.clone()), Ok(of_kind(world, kind, |_| true)));
        let prefixed = ListQuery {
            prefix: "a".into(),
            ..all.clone()
        };
        let expected = of_kind(world, kind, |stored| stored.metadata.name.starts_with('a'));
        assert_eq!(list(bare, prefixed), Ok(expected));
        let one = ("spec".to_string(), "1".to_string());
        let indexed = ListQuery {
            index: Some(one.clone()),
            ..all.clone()
        };
        let expected = of_kind(world, kind, |stored| stored.indexes.contains(&one));
        assert_eq!(list(bare, indexed), Ok(expected));
        let requirement = Requirement::NotIn("spec".into(), vec!["1".into()]);
        let selected = ListQuery {
            selector: vec![requirement],
            ..all
        };
        let expected = of_kind(world, kind, |stored| stored.metadata.labels["spec"] != "1");
        assert_eq!(list(bare, selected), Ok(expected));
    }
}

/// Follows the log from `since`, checks its order, and applies it to what was.
fn follow(bare: &Bare, was: &World, since: u64, max: u32) -> Result<World, Answer> {
    let (mut world, mut since) = (was.clone(), Revision(since));
    let mut last = (since, String::new(), String::new());
    loop {
        let query = ChangesQuery {
            since,
            kinds: Vec::new(),
            max,
        };
        let (changes, upto, current) = match bare.query(&Query::Changes(query)) {
            Answer::Changes {
                changes,
                upto,
                current,
            } => (changes, upto, current),
            other => return Err(other),
        };
        for at in changes {
            let key = (at.change.kind.clone(), at.change.name.clone());
            let place = (at.revision, at.change.kind, at.change.name);
            assert!(place > last && at.revision > since && at.revision <= upto);
            last = place;
            let old = match at.change.after {
                Some(after) => {
                    let new = Stored::decode(&after).unwrap();
                    assert_eq!(new.metadata.revision, at.revision);
                    world.insert(key, new)
                }
                None => {
                    let old = world.remove(&key);
                    let before = at
                        .change
                        .before
                        .map(|before| Stored::decode(&before).unwrap());
                    assert_eq!(before, old);
                    old
                }
            };
            assert!(old.is_none_or(|old| old.metadata.revision < at.revision));
        }
        since = upto;
        if upto == current {
            return Ok(world);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn histories_go_as_the_model_says(commands in commands(), limit in 1u32..4) {
        let mut bare = Bare::new(history(CHANGES_MAX));
        let mut model = Model::default();
        let mut states = BTreeMap::from([(0, World::new())]);
        let mut uid = 0;
        for (choices, alone) in commands {
            // Choices see the state before the transaction; the model and the machine do not care.
            let ops = choices.iter().map(|choice| {
                uid += 1;
                choice.op(&model.world, uid)
            });
            let atomicity = if alone { Atomicity::EachAlone } else { Atomicity::AllOrNothing };
            let transaction = Transaction { ops: ops.collect(), atomicity, ..Transaction::default() };
            let expected = model.transact(&transaction);
            let before = bare.store.clone();
            match bare.command(&Command::Transact(transaction)) {
                Ok(committed) => {
                    let done: Vec<bool> = committed.results.iter().map(Result::is_ok).collect();
                    prop_assert_eq!(Ok(done), expected);
                    prop_assert_eq!(committed.revision, Revision(model.revision));
                    prop_assert!(!committed.garbage);
                }
                Err(refusal) => {
                    prop_assert_eq!(Err(refusal.op.unwrap()), expected);
                    prop_assert_eq!(&bare.store, &before);
                }
            }
            states.insert(model.revision, model.world.clone());
            check_lists(&bare, &model.world, None, limit);
        }
        let answer = bare.query(&Query::CurrentRevision);
        let Answer::Revision { current, dropped, .. } = answer else { panic!("{answer:?}") };
        prop_assert_eq!(current, Revision(model.revision));
        for (&revision, world) in &states {
            let followed = follow(&bare, world, revision, limit);
            if revision >= dropped.0 {
                prop_assert_eq!(followed, Ok(model.world.clone()));
                check_lists(&bare, world, Some(Revision(revision)), limit);
            } else {
                let too_old = Answer::TooOld { oldest: dropped };
                prop_assert_eq!(followed, Err(too_old.clone()));
                let at = Some(Revision(revision));
                let query = ListQuery { kind: "A".into(), at, ..ListQuery::default() };
                prop_assert_eq!(list(&bare, query), Err(too_old));
            }
        }
    }
}

#[test]
fn the_change_log_keeps_its_bounds() {
    let mut bare = Bare::new(history(10));
    for round in 0..30u8 {
        let ops = (0..3).map(|at| create(draft("A", &format!("{round}-{at}"), round, at)));
        bare.transact(ops.collect()).unwrap();
    }
    let answer = bare.query(&Query::CurrentRevision);
    // Three revisions of three changes each fit.
    let expected = Answer::Revision {
        current: Revision(30),
        dropped: Revision(27),
        garbage: false,
    };
    assert_eq!(answer, expected);
    let history = History {
        changes_max: u64::MAX,
        bytes_max: 1_000,
    };
    let mut bare = Bare::new(RegistryOptions { history });
    for round in 0..30u8 {
        bare.transact(vec![create(draft("A", &round.to_string(), round, 1))])
            .unwrap();
    }
    let Answer::Revision { dropped, .. } = bare.query(&Query::CurrentRevision) else {
        panic!()
    };
    assert!((5..29).contains(&dropped.0), "{dropped}");
}

#[test]
fn refusals_name_the_operation_and_the_reason() {
    let mut bare = Bare::new(history(100));
    bare.transact(vec![create(draft("A", "a", 1, 1))]).unwrap();
    let refusal = bare.transact(vec![
        create(draft("A", "b", 2, 1)),
        create(draft("A", "a", 3, 1)),
    ]);
    let refused = Refused::AlreadyExists(ResourceKey::new("A", "a"));
    assert_eq!(
        refusal,
        Err(Refusal {
            op: Some(1),
            refused
        })
    );
    let refusal = bare.transact(vec![delete("A", "b")]).unwrap_err();
    assert_eq!(
        refusal.refused,
        Refused::NotFound(ResourceKey::new("A", "b"))
    );
    let expected = Expected {
        revision: Some(Revision(9)),
        uid: None,
    };
    let key = ResourceKey::new("A", "a");
    let refusal = bare
        .transact(vec![Op::Delete(key.clone(), expected, 7)])
        .unwrap_err();
    assert_eq!(
        refusal.refused,
        Refused::Conflict {
            key,
            expected,
            found: Revision(1)
        }
    );
    for name in ["", "a b", "/a", "a//b", "..", "a/..", "ä", &"a".repeat(254)] {
        let refusal = bare
            .transact(vec![create(draft("A", name, 2, 1))])
            .unwrap_err();
        assert!(
            matches!(
                refusal.refused,
                Refused::Invalid(_) | Refused::TooLarge { .. }
            ),
            "{name}"
        );
    }
    let big = Draft {
        spec: vec![0; (512 << 10) + 1].into(),
        ..draft("A", "b", 2, 1)
    };
    let refusal = bare.transact(vec![create(big)]).unwrap_err();
    assert!(matches!(refusal.refused, Refused::TooLarge { .. }));
}

#[test]
fn preconditions_guard_the_whole() {
    let mut bare = Bare::new(history(100));
    bare.transact(vec![create(draft("A", "a", 1, 1))]).unwrap();
    let free = |value: &str| Precondition::IndexFree {
        kind: "A".into(),
        index: "spec".into(),
        value: value.into(),
    };
    let stale = Expected {
        revision: Some(Revision(7)),
        uid: None,
    };
    let a = ResourceKey::new("A", "a");
    let cases = [
        (Precondition::Exists(a.clone(), Expected::default()), true),
        (Precondition::Exists(a.clone(), stale), false),
        (Precondition::Absent(a), false),
        (Precondition::Absent(ResourceKey::new("A", "x")), true),
        (free("1"), false),
        (free("2"), true),
    ];
    for (precondition, holds) in cases {
        let transaction = Transaction {
            preconditions: vec![precondition.clone()],
            atomicity: Atomicity::EachAlone,
            ops: Vec::new(),
        };
        let response = bare.command(&Command::Transact(transaction));
        assert_eq!(response.is_ok(), holds, "{precondition:?}");
    }
}

#[test]
fn bytes_that_are_no_command_are_refused_and_a_newer_one_stops_the_node() {
    use raft_machine::{Machine, StoreError};
    let machine = RegistryMachine::new(ChangeSignal::new(), RegistryOptions::default());
    let mut store = raft_machine::memory::MemoryStore::default();
    for bytes in [&b""[..], b"\x01", b"\x01\xFF\xFF", b"\x00\x00"] {
        let response = machine.apply(&mut store, 1, bytes).unwrap();
        let refusal = machine::decode_response(&response.into())
            .unwrap()
            .unwrap_err();
        assert!(matches!(refusal.refused, Refused::Invalid(_)));
    }
    let error = machine.apply(&mut store, 1, b"\x02\x00").unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }));
    assert!(store.is_empty());
}
