//! Owners, finalizers and held values.

use registry::query::{Answer, Query};
use registry::*;

use crate::support::{Bare, create, delete, draft, history};

fn owned(kind: &str, name: &str, uid: u8, owners: &[(&str, u8)]) -> Op {
    let owner = |&(name, uid): &(&str, u8)| OwnerRef {
        kind: "A".into(),
        name: name.into(),
        uid: Uid([uid; 16]),
    };
    create(Draft {
        owners: owners.iter().map(owner).collect(),
        ..draft(kind, name, uid, 0)
    })
}

fn names(bare: &Bare, kind: &str) -> Vec<String> {
    let query = query::ListQuery {
        kind: kind.into(),
        ..query::ListQuery::default()
    };
    let Answer::Page { items, .. } = bare.query(&Query::List(query)) else {
        panic!()
    };
    items
        .iter()
        .map(|bytes| Stored::decode(bytes).unwrap().metadata.name)
        .collect()
}

#[test]
fn a_dependant_goes_with_its_last_owner() {
    let mut bare = Bare::new(history(100));
    let ops = vec![
        owned("A", "x", 1, &[]),
        owned("A", "y", 2, &[]),
        owned("B", "of-x", 3, &[("x", 1)]),
        owned("B", "of-both", 4, &[("x", 1), ("y", 2)]),
    ];
    bare.transact(ops).unwrap();
    let committed = bare.transact(vec![delete("A", "x")]).unwrap();
    assert!(!committed.garbage);
    assert_eq!(names(&bare, "B"), ["of-both"]);
    bare.transact(vec![delete("A", "y")]).unwrap();
    assert!(names(&bare, "B").is_empty());
    assert_eq!(bare.store.len(), bare.store_log_only());
}

#[test]
fn an_owner_must_be_the_living_incarnation() {
    let mut bare = Bare::new(history(100));
    bare.transact(vec![owned("A", "x", 1, &[])]).unwrap();
    let refusal = bare
        .transact(vec![owned("B", "b", 3, &[("x", 9)])])
        .unwrap_err();
    assert!(matches!(refusal.refused, Refused::Invalid(_)));
}

#[test]
fn a_large_tree_goes_in_bounded_steps() {
    let mut bare = Bare::new(history(100_000));
    bare.transact(vec![owned("A", "root", 1, &[])]).unwrap();
    for branch in 0..10u8 {
        let mut ops = vec![owned(
            "A",
            &format!("branch-{branch}"),
            10 + branch,
            &[("root", 1)],
        )];
        for leaf in 0..200 {
            let owner = format!("branch-{branch}");
            ops.push(owned(
                "B",
                &format!("{branch}-{leaf}"),
                100,
                &[(&owner, 10 + branch)],
            ));
        }
        bare.transact(ops).unwrap();
    }
    let mut garbage = bare.transact(vec![delete("A", "root")]).unwrap().garbage;
    assert_eq!(names(&bare, "B").len(), 2_000 - (64 - 10));
    let mut commands = 0;
    while garbage {
        let before = names(&bare, "B").len();
        garbage = bare
            .command(&Command::Collect {
                now_ms: 7,
                max: 300,
            })
            .unwrap()
            .garbage;
        assert!(before - names(&bare, "B").len() <= 300);
        commands += 1;
    }
    assert_eq!(commands, 7);
    assert!(names(&bare, "A").is_empty() && names(&bare, "B").is_empty());
    assert_eq!(bare.store.len(), bare.store_log_only());
}

#[test]
fn finalizers_hold_a_resource_and_its_dependants_wait() {
    let mut bare = Bare::new(history(100));
    let held = Draft {
        finalizers: vec!["f".into()],
        ..draft("A", "x", 1, 0)
    };
    bare.transact(vec![create(held), owned("B", "b", 2, &[("x", 1)])])
        .unwrap();
    let committed = bare.transact(vec![delete("A", "x")]).unwrap();
    assert_eq!(committed.results, [Ok(Done::Deleting)]);
    assert_eq!(names(&bare, "B"), ["b"]);
    let key = ResourceKey::new("A", "x");
    let more = Replacement {
        finalizers: vec!["f".into(), "g".into()],
        ..Replacement::default()
    };
    let update = Op::Update(key.clone(), Expected::default(), Box::new(more));
    assert!(matches!(
        bare.transact(vec![update]).unwrap_err().refused,
        Refused::Invalid(_)
    ));
    let committed = bare
        .transact(vec![Op::RemoveFinalizer(key, "f".into())])
        .unwrap();
    assert_eq!(committed.results, [Ok(Done::Deleted)]);
    assert!(names(&bare, "A").is_empty() && names(&bare, "B").is_empty());
}

#[test]
fn held_values_go_back_with_their_holder() {
    let mut bare = Bare::new(history(100));
    let pool = || "ips".to_string();
    let (layout, lo, hi) = (Layout::Dense, 10, 12);
    let want = |count| vec![(pool(), Want::Any { count })];
    let port = |name: &str, uid| Draft {
        allocate: want(1),
        ..draft("A", name, uid, 0)
    };
    bare.transact(vec![Op::CreatePool {
        pool: pool(),
        layout,
        lo,
        hi,
    }])
    .unwrap();
    let committed = bare
        .transact(vec![create(port("a", 1)), create(port("b", 2))])
        .unwrap();
    let held = |value| Done::Created {
        allocations: vec![Allocation {
            pool: pool(),
            value,
        }],
    };
    assert_eq!(committed.results, [Ok(held(10)), Ok(held(11))]);

    // A refused transaction gives back what its first operations took.
    let two = Draft {
        allocate: want(2),
        ..draft("A", "d", 4, 0)
    };
    let refusal = bare
        .transact(vec![create(port("c", 3)), create(two)])
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            op: Some(1),
            refused: Refused::Exhausted(pool())
        }
    );
    let Answer::Pool(Some(state)) = bare.query(&Query::Pool(pool())) else {
        panic!()
    };
    assert_eq!(state.used, 2);

    let free = Op::Release {
        pool: pool(),
        values: vec![10],
        holder: None,
    };
    assert!(matches!(
        bare.transact(vec![free]).unwrap_err().refused,
        Refused::Invalid(_)
    ));
    bare.transact(vec![delete("A", "a")]).unwrap();
    let holder = ResourceKey::new("A", "b");
    let these = Op::Allocate {
        pool: pool(),
        want: Want::These(vec![10]),
        holder: Some(holder.clone()),
    };
    assert_eq!(
        bare.transact(vec![these]).unwrap().results,
        [Ok(Done::Allocated(vec![10]))]
    );
    assert_eq!(
        bare.query(&Query::Holder(pool(), 10)),
        Answer::Holder(Some(holder))
    );
    bare.transact(vec![delete("A", "b"), Op::DeletePool(pool())])
        .unwrap();
    assert_eq!(bare.store.len(), bare.store_log_only());
}
