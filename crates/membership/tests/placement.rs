//! Laws of placement: balance, weights, little movement, the same answer everywhere.

use std::collections::BTreeMap;

use ids::{BlockId, Epoch, GroupId, NodeId, SegmentId};
use membership::map::{BLOCK_SLOTS, block_slot};
use membership::{EpochMap, MapError, PlacedServer, diff};
use proptest::prelude::*;

const GROUPS: u32 = 16;

fn equal(nodes: impl IntoIterator<Item = u64>) -> Vec<PlacedServer> {
    nodes
        .into_iter()
        .map(|node| PlacedServer {
            node: NodeId(node),
            weight: 1,
        })
        .collect()
}

fn first(servers: &[PlacedServer]) -> EpochMap {
    EpochMap::first(Epoch(1), GROUPS, servers).unwrap()
}

fn count(map: &EpochMap, holders: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, u64> {
    let mut counts: BTreeMap<_, _> = map
        .servers()
        .iter()
        .map(|server| (server.node, 0))
        .collect();
    for node in holders {
        *counts.get_mut(&node).unwrap() += 1;
    }
    counts
}

fn slot_copies(map: &EpochMap) -> BTreeMap<NodeId, u64> {
    count(
        map,
        (0..BLOCK_SLOTS).flat_map(|slot| map.slot_servers(slot)),
    )
}

fn group_copies(map: &EpochMap) -> BTreeMap<NodeId, u64> {
    count(
        map,
        map.group_ids().flat_map(|group| map.group_servers(group)),
    )
}

fn leads(map: &EpochMap) -> BTreeMap<NodeId, u64> {
    count(
        map,
        map.group_ids().map(|group| map.group_servers(group)[0]),
    )
}

fn spread(counts: &BTreeMap<NodeId, u64>) -> u64 {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

fn assert_sound(map: &EpochMap) {
    for group in map.group_ids() {
        let mut servers = map.group_servers(group);
        servers.sort();
        servers.dedup();
        assert_eq!(servers.len(), map.copies(), "group {group}");
    }
    for slot in 0..BLOCK_SLOTS {
        let mut servers = map.slot_servers(slot);
        servers.sort();
        servers.dedup();
        assert_eq!(servers.len(), map.copies(), "slot {slot}");
    }
}

#[test]
fn equal_servers_hold_equal_shares() {
    for n in 1..=20 {
        let map = first(&equal(1..=n));
        assert_sound(&map);
        assert!(
            spread(&group_copies(&map)) <= 1,
            "{n}: {:?}",
            group_copies(&map)
        );
        assert!(spread(&leads(&map)) <= 1, "{n}: {:?}", leads(&map));
        let fair = u64::from(BLOCK_SLOTS) * map.copies() as u64 / n;
        for (node, copies) in slot_copies(&map) {
            assert!(
                copies.abs_diff(fair) * 100 <= fair * 15,
                "{n}: node {node} has {copies} of {fair}"
            );
        }
    }
}

#[test]
fn a_heavier_server_holds_more() {
    let mut servers = equal(1..=9);
    servers[4].weight = 2;
    let map = first(&servers);
    let first_copies = count(&map, (0..BLOCK_SLOTS).map(|slot| map.slot_servers(slot)[0]));
    let fair = u64::from(BLOCK_SLOTS) * 2 / 10;
    assert!(
        first_copies[&NodeId(5)].abs_diff(fair) * 100 <= fair * 15,
        "{first_copies:?}"
    );
    // 48 copies over a weight of 10.
    let groups = group_copies(&map);
    assert!((9..=10).contains(&groups[&NodeId(5)]), "{groups:?}");
    assert!(
        groups
            .iter()
            .all(|(&node, &n)| node == NodeId(5) || (4..=5).contains(&n)),
        "{groups:?}"
    );
    let leads = leads(&map);
    assert!((3..=4).contains(&leads[&NodeId(5)]), "{leads:?}");
}

#[test]
fn a_server_of_weight_zero_holds_nothing() {
    let mut servers = equal(1..=4);
    servers[0].weight = 0;
    let map = first(&servers);
    assert_eq!(map.copies(), 3);
    assert_eq!(
        group_copies(&map)[&NodeId(1)] + slot_copies(&map)[&NodeId(1)],
        0
    );
    assert_eq!(map.registry_servers(), [2, 3, 4].map(NodeId));
    assert_eq!(map.servers().len(), 4);
}

/// A server that comes or goes moves at most 1.3 times its share.
fn assert_small(moved: usize, share: f64, what: &str) {
    assert!(
        moved as f64 <= share * 1.3,
        "{what}: {moved} moved, the share is {share}"
    );
}

#[test]
fn a_server_that_comes_takes_its_share_and_gives_it_back() {
    for n in 3..=19_u64 {
        let before = first(&equal(1..=n));
        let grown = before.next(Epoch(2), &equal(1..=n + 1)).unwrap();
        let coming = diff(&before, &grown);
        let slot_share = f64::from(BLOCK_SLOTS) * 3.0 / (n + 1) as f64;
        let group_share = (f64::from(GROUPS) * 3.0 / (n + 1) as f64).ceil();
        assert_small(coming.slot_copies_moved(), slot_share, "slots, coming");
        assert_small(coming.group_copies_moved(), group_share, "groups, coming");
        for change in &coming.slots {
            assert!(change.gained().iter().all(|&node| node == NodeId(n + 1)));
        }

        let shrunk = grown.next(Epoch(3), &equal(1..=n)).unwrap();
        let going = diff(&grown, &shrunk);
        assert_small(going.slot_copies_moved(), slot_share, "slots, going");
        assert_small(going.group_copies_moved(), group_share, "groups, going");
        assert_eq!(diff(&before, &shrunk).slots, []);
    }
}

#[test]
fn from_one_to_three_servers_every_group_gains_and_none_loses() {
    let mut map = first(&equal([1]));
    for n in 2..=3 {
        let next = map.next(Epoch(n), &equal(1..=n)).unwrap();
        let change = diff(&map, &next);
        assert_eq!(change.group_copies_moved(), GROUPS as usize);
        assert!(change.groups.iter().all(|group| group.lost().is_empty()));
        assert!(spread(&leads(&next)) <= 1, "{:?}", leads(&next));
        map = next;
    }
}

#[test]
fn the_registry_has_an_odd_number_of_voters_but_for_two_servers() {
    let voters = |n| first(&equal(1..=n)).registry_servers().len();
    assert_eq!(
        (1..=8).map(voters).collect::<Vec<_>>(),
        [1, 2, 3, 3, 5, 5, 5, 5]
    );
    let map = first(&equal([9, 4, 7, 2]));
    assert_eq!(map.registry_servers(), [2, 4, 7].map(NodeId));
    assert_eq!(map.registry_learners(), [NodeId(9)]);
    assert_eq!(map.group_servers(GroupId(0)), map.registry_servers());
}

#[test]
fn placements_are_the_same_on_every_machine_and_in_every_version() {
    let mut servers = equal(1..=7);
    servers[2].weight = 3;
    servers[6].weight = 1000;
    let map = first(&servers[..5]).next(Epoch(2), &servers).unwrap();
    let text = |nodes: Vec<NodeId>| {
        nodes
            .iter()
            .map(|node| node.0.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let groups: Vec<String> = map
        .group_ids()
        .map(|group| text(map.group_servers(group)))
        .collect();
    let expected = [
        "7,2,3 7,4,6 7,1,3 7,3,6 7,3,5 7,1,3 7,3,5 7,2,3",
        "7,4,6 7,1,3 7,1,3 7,3,5 7,3,5 7,2,4 7,4,6 7,2,3",
    ];
    assert_eq!(groups.join(" "), expected.join(" "));
    let slots: Vec<String> = [0, 1, 2, 3, 1000, 4095]
        .map(|slot| text(map.slot_servers(slot)))
        .to_vec();
    assert_eq!(slots.join(" "), "7,1,5 7,6,2 7,5,2 7,3,6 7,3,4 7,2,3");
    let block = BlockId {
        group: GroupId(3),
        segment: SegmentId([0xab; 16]),
        number: 7,
    };
    assert_eq!(block_slot(&block), 1762);
    assert_eq!(
        map.block_servers(&block),
        map.slot_servers(block_slot(&block))
    );
    let all = blake3::hash(
        &(0..BLOCK_SLOTS)
            .flat_map(|slot| text(map.slot_servers(slot)).into_bytes())
            .collect::<Vec<_>>(),
    );
    assert_eq!(all.to_hex()[..16], *"3348bd257dff406b");
    let bytes = postcard::to_stdvec(&first(&equal(1..=3))).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex()[..16], *"31159c39db09416d");
}

#[test]
fn lists_that_make_no_map_are_refused() {
    let refused =
        |servers: &[PlacedServer]| EpochMap::first(Epoch(1), GROUPS, servers).unwrap_err();
    assert_eq!(refused(&[]), MapError::NoServers);
    assert_eq!(refused(&equal([3, 3])), MapError::Twice(NodeId(3)));
    assert_eq!(refused(&equal(0..300)), MapError::TooManyServers(300));
    assert_eq!(
        EpochMap::first(Epoch(1), 0, &equal([1])),
        Err(MapError::Groups(0))
    );
    let stale = first(&equal([1])).next(Epoch(1), &equal([1])).unwrap_err();
    assert_eq!(stale.to_string(), "epoch 1 doesn't follow epoch 1");
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let good = serde_json::to_value(first(&equal(1..=3))).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut record = good.clone();
        change(&mut record);
        serde_json::from_value::<EpochMap>(record)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&|r| r["algorithm"] = 2.into()).contains("upgrade this node"));
    assert!(refused(&|r| r["groups"][0][1] = 9.into()).contains("isn't listed"));
    assert!(refused(&|r| r["groups"][0] = serde_json::json!([1, 2])).contains("wrong number"));
    assert!(refused(&|r| r["groups"] = serde_json::json!([])).contains("between 1 and"));
    assert!(refused(&|r| r["servers"][0]["node"] = 8.into()).contains("not sorted"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever came before: balance, distinct servers, and the same record read back elsewhere.
    #[test]
    fn any_history_of_equal_servers_stays_balanced(
        history in prop::collection::vec(prop::collection::btree_set(1..15_u64, 1..12), 1..5),
        groups in 1..40_u32,
    ) {
        let mut map = EpochMap::first(Epoch(1), groups, &equal(1..=3)).unwrap();
        for (epoch, nodes) in (2..).zip(history) {
            map = map.next(Epoch(epoch), &equal(nodes)).unwrap();
            assert_sound(&map);
            prop_assert!(spread(&group_copies(&map)) <= 1, "{:?}", group_copies(&map));
            prop_assert!(spread(&leads(&map)) <= 1, "{:?}", leads(&map));
        }
        let bytes = postcard::to_stdvec(&map).unwrap();
        let elsewhere: EpochMap = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(diff(&map, &elsewhere).slots, []);
        prop_assert_eq!(map, elsewhere);
    }

    #[test]
    fn any_weights_give_a_sound_map(weights in prop::collection::vec(0..100_u32, 1..12)) {
        let servers: Vec<_> =
            weights.iter().zip(1..).map(|(&weight, n)| PlacedServer { node: NodeId(n), weight }).collect();
        match EpochMap::first(Epoch(1), GROUPS, &servers) {
            Ok(map) => assert_sound(&map),
            Err(error) => {
                prop_assert_eq!(error, MapError::NoServers);
                prop_assert!(weights.iter().all(|&weight| weight == 0));
            }
        }
    }

    #[test]
    fn the_order_in_which_servers_are_listed_does_not_matter(
        servers in Just(equal(1..=9)).prop_shuffle(),
    ) {
        prop_assert_eq!(first(&servers), first(&equal(1..=9)));
    }
}
