//! What version 1 looks like on disk and on the wire. When one of these fails, old data can't be
//! read any more: make a new format version instead.

use std::collections::BTreeMap;

use registry::changes::Change;
use registry::query::{Answer, ChangesQuery, ListQuery, QUERY_FORMAT, Query};
use registry::*;

fn pin<T>(what: &str, version: u8, value: &T, golden: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = raft_machine::encode(version, value);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden, "{what} is written in another way");
    let read: T = raft_machine::decode("pinned record", version, &bytes).unwrap();
    assert_eq!(&read, value);
}

fn map(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.into(), value.into())])
}

fn owner() -> OwnerRef {
    OwnerRef {
        kind: "N".into(),
        name: "n".into(),
        uid: Uid([2; 16]),
    }
}

fn stored() -> Stored {
    let metadata = Metadata {
        name: "a".into(),
        uid: Uid([1; 16]),
        revision: Revision(300),
        created_revision: Revision(3),
        generation: 2,
        created_ms: 1_000,
        deleting_ms: Some(2_000),
        labels: map("l", "v"),
        annotations: map("k", "w"),
        owners: vec![owner()],
        finalizers: vec!["f".into()],
        allocations: vec![Allocation {
            pool: "p".into(),
            value: 1 << 64,
        }],
    };
    Stored {
        metadata,
        spec: vec![1, 9].into(),
        status: vec![1, 8].into(),
        indexes: vec![("i".into(), "x".into())],
    }
}

#[test]
fn a_resource() {
    pin(
        "a resource",
        resource::STORED_FORMAT,
        &stored(),
        "01016101010101010101010101010101010101ac020302e80701d00f01016c017601016b01770101\
         4e016e02020202020202020202020202020202010166010170808080808080808080020201090201\
         080101690178",
    );
}

#[test]
fn a_change() {
    let change = Change {
        kind: "P".into(),
        name: "a".into(),
        before: None,
        after: Some(vec![7].into()),
    };
    pin("a change", 1, &change, "010150016100010107");
}

#[test]
fn a_command() {
    let key = || ResourceKey::new("P", "a");
    let expected = Expected {
        revision: Some(Revision(4)),
        uid: Some(Uid([1; 16])),
    };
    let draft = Draft {
        kind: "P".into(),
        name: "a".into(),
        uid: Uid([1; 16]),
        created_ms: 5,
        labels: map("l", "v"),
        annotations: map("k", "w"),
        owners: vec![owner()],
        finalizers: vec!["f".into()],
        spec: vec![1, 9].into(),
        status: vec![1, 8].into(),
        indexes: vec![("i".into(), "x".into())],
        allocate: vec![("p".into(), Want::Any { count: 1 })],
    };
    let replacement = Replacement {
        labels: map("l", "v"),
        annotations: map("k", "w"),
        owners: vec![owner()],
        finalizers: vec!["f".into()],
        spec: vec![1, 9].into(),
        indexes: vec![("i".into(), "x".into())],
    };
    let pool = || "p".to_string();
    let index = ("P".into(), "i".into(), "x".into());
    let transaction = Transaction {
        preconditions: vec![
            Precondition::Exists(key(), expected),
            Precondition::Absent(key()),
            Precondition::IndexFree {
                kind: index.0,
                index: index.1,
                value: index.2,
            },
        ],
        ops: vec![
            Op::Create(Box::new(draft)),
            Op::Update(key(), expected, Box::new(replacement)),
            Op::UpdateStatus(key(), Expected::default(), vec![1].into()),
            Op::Delete(key(), Expected::default(), 6),
            Op::RemoveFinalizer(key(), "f".into()),
            Op::CreatePool {
                pool: pool(),
                layout: Layout::Sparse,
                lo: 0,
                hi: 1 << 100,
            },
            Op::DeletePool(pool()),
            Op::Allocate {
                pool: pool(),
                want: Want::These(vec![5]),
                holder: Some(key()),
            },
            Op::Release {
                pool: pool(),
                values: vec![5],
                holder: None,
            },
        ],
        atomicity: Atomicity::EachAlone,
    };
    pin(
        "a transaction",
        COMMAND_FORMAT,
        &Command::Transact(transaction),
        "01000300015001610104010101010101010101010101010101010101015001610201500169017809\
         0001500161010101010101010101010101010101010501016c017601016b017701014e016e020202\
         02020202020202020202020202010166020109020108010169017801017000010101500161010401\
         0101010101010101010101010101010101016c017601016b017701014e016e020202020202020202\
         02020202020202010166020109010169017802015001610000010103015001610000060401500161\
         01660501700100808080808080808080808080808004060170070170010105010150016108017001\
         050001",
    );
    pin(
        "a collection",
        COMMAND_FORMAT,
        &Command::Collect {
            now_ms: 300,
            max: 9,
        },
        "0101ac0209",
    );
}

#[test]
fn a_response() {
    let committed = Committed {
        revision: Revision(9),
        results: vec![
            Ok(Done::Created {
                allocations: vec![Allocation {
                    pool: "p".into(),
                    value: 3,
                }],
            }),
            Ok(Done::Written {
                revision: Revision(8),
                generation: 2,
            }),
            Ok(Done::Deleted),
            Ok(Done::Deleting),
            Ok(Done::Pool),
            Ok(Done::Allocated(vec![4])),
            Err(Refused::Exhausted("p".into())),
        ],
        garbage: true,
    };
    pin(
        "a response",
        COMMAND_FORMAT,
        &Response::Ok(committed),
        "0100090700000101700300010802000200030004000501040104017001",
    );
    let refused = Refused::NotFound(ResourceKey::new("P", "a"));
    let refusal: Response = Err(Refusal {
        op: Some(1),
        refused,
    });
    pin("a refusal", COMMAND_FORMAT, &refusal, "010101010101500161");
}

#[test]
fn questions_and_answers() {
    let list = ListQuery {
        kind: "P".into(),
        prefix: "a".into(),
        index: Some(("i".into(), "x".into())),
        selector: vec![Requirement::In("l".into(), vec!["v".into()])],
        limit: 10,
        after: Some("a".into()),
        at: Some(Revision(9)),
    };
    pin(
        "a list",
        QUERY_FORMAT,
        &Query::List(list),
        "01010150016101016901780100016c0101760a0101610109",
    );
    let changes = ChangesQuery {
        since: Revision(9),
        kinds: vec!["P".into()],
        max: 5,
    };
    pin(
        "a question for changes",
        QUERY_FORMAT,
        &Query::Changes(changes),
        "01020901015005",
    );
    let items = vec![vec![1, 2].into()];
    let page = Answer::Page {
        revision: Revision(9),
        items,
        next: Some("a".into()),
    };
    pin("a page", QUERY_FORMAT, &page, "01010901020102010161");
    pin(
        "too old",
        QUERY_FORMAT,
        &Answer::TooOld {
            oldest: Revision(9),
        },
        "010609",
    );
}
