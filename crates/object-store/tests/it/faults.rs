//! What a door gets from a site with nodes that are down, disks that decay, and servers that join.

use std::collections::BTreeSet;
use std::time::Duration;

use ids::{GroupId, NodeId};
use object_core::api::*;
use raft_machine::local::Interruption;
use testkit::sim::{Fault, FaultOn, SimDisk, block_on};

use crate::site::*;

async fn site_with_bucket(servers: u64) -> Site {
    let site = Site::new(servers).await;
    site.gateway(1)
        .create_bucket(&caller(), "bucket")
        .await
        .unwrap();
    site
}

#[test]
fn with_one_node_down_writes_leave_debt_that_repair_pays() {
    block_on(async {
        let mut site = site_with_bucket(3).await;
        let disk = site.kill(NodeId(3));
        let content = bytes(5500);
        put(site.gateway(1), "key", &content).await.unwrap();
        let_late_copies_end().await;
        assert_eq!(get(site.gateway(2), "key").await.unwrap(), content);
        assert_eq!(site.stats().await.debt, 6);
        assert_eq!(site.debt_by_leaders().await, 6);
        let status = site.job(1, "repair").await;
        assert_eq!(
            (status.last.done, status.last.left),
            (0, 6),
            "the debtor is away"
        );

        site.revive(NodeId(3), disk).await;
        let status = site.job(1, "repair").await;
        assert_eq!(
            (status.last.done, status.last.left, status.last.bytes),
            (6, 0, 5500),
            "{status:?}"
        );
        assert_eq!((site.stats().await.debt, site.blocks()), (0, vec![6, 6, 6]));
        assert_eq!(site.debt_by_leaders().await, 0);
        site.kill(NodeId(1));
        site.kill(NodeId(2));
        assert_eq!(get(site.gateway(3), "key").await.unwrap(), content);
    });
}

#[test]
fn a_node_that_hangs_delays_a_write_but_little() {
    block_on(async {
        let site = site_with_bucket(3).await;
        site.network.cut(NodeId(1), NodeId(2));
        let began = tokio::time::Instant::now();
        put(site.gateway(1), "key", &bytes(20 * BLOCK))
            .await
            .unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(site.stats().await.debt, 20);
        site.network.heal();
        site.job(1, "repair").await;
        assert_eq!(site.stats().await.debt, 0);
    });
}

/// Copies that a write did not wait for are on their way for so long at most, on the simulation's clock.
async fn let_late_copies_end() {
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[test]
fn one_hiccup_of_a_node_makes_little_debt_and_repair_sends_nothing() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let slow = Duration::from_millis(300)..Duration::from_millis(301);
        site.network.slow_down(NodeId(1), NodeId(3), slow);
        put(site.gateway(1), "first", &bytes(BLOCK)).await.unwrap();
        assert_eq!(site.stats().await.debt, 1);
        site.network.heal();
        for n in 0..200 {
            let key = format!("key {n}");
            put(site.gateway(1), &key, &bytes(BLOCK)).await.unwrap();
        }
        let debt = site.stats().await.debt;
        assert!(debt <= 6, "{debt}");
        let all_went_on = async |site: &Site| site.blocks() == [201, 201, 201];
        site.until("all copies went on", all_went_on).await;
        let status = site.job(1, "repair").await;
        assert_eq!(
            (status.last.done, status.last.left, status.last.bytes),
            (debt, 0, 0),
            "{status:?}"
        );
        assert_eq!(site.stats().await.debt, 0);
    });
}

#[test]
fn a_group_that_is_away_does_not_keep_the_others_from_collection() {
    block_on(async {
        let site = site_with_bucket(3).await;
        for n in 0..30 {
            let key = format!("key {n}");
            put(site.gateway(1), &key, &bytes(BLOCK)).await.unwrap();
            delete(site.gateway(1), &key).await.unwrap();
        }
        let (away, others) = segments_by_group(&site);
        assert!(away > 0 && others > 0, "{away} {others}");
        site.groups
            .interrupt(GroupId(1), Interruption::LoseQuery, 1000);
        let status = site.job(1, "collect").await;
        assert!(status.last_error.is_some());
        assert_eq!(status.last.done, others);
        assert_eq!(segments_by_group(&site), (away, 0));
    });
}

#[test]
fn a_group_that_is_away_does_not_keep_the_others_from_giving_up() {
    block_on(async {
        let mut site = site_with_bucket(3).await;
        let uploads: Vec<_> = (0..30)
            .map(|n| {
                let gateway = site.gateway(2).clone();
                let never: Body = Box::pin(futures::StreamExt::chain(
                    futures::stream::iter([Ok(bytes(3 * BLOCK))]),
                    futures::stream::pending(),
                ));
                tokio::spawn(async move {
                    let request = put_request("bucket", &format!("key {n}"));
                    gateway.put(&caller(), request, never).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let disk = site.kill(NodeId(2));
        uploads.iter().for_each(|upload| upload.abort());
        site.revive(NodeId(2), disk).await;
        let (away, others) = segments_by_group(&site);
        assert!(away > 0 && others > 0, "{away} {others}");
        site.nodes[&NodeId(1)].platform.jump_wall(25 * 3_600_000);
        site.groups
            .interrupt(GroupId(1), Interruption::LoseQuery, 1000);
        let status = site.job(1, "give-up").await;
        assert!(status.last_error.is_some());
        assert_eq!(status.last.done, others);
    });
}

/// Segments with blocks on node 1: of the first group, and of all others.
fn segments_by_group(site: &Site) -> (u64, u64) {
    let (blocks, _) = site.nodes[&NodeId(1)]
        .store
        .older_than(u32::MAX, None, 1000);
    let segments: BTreeSet<_> = blocks.iter().map(|id| (id.group, id.segment)).collect();
    let first = segments.iter().filter(|(group, _)| *group == GroupId(1));
    let first = first.count() as u64;
    (first, segments.len() as u64 - first)
}

#[test]
fn a_fenced_volume_does_not_keep_segments_from_collection() {
    block_on(async {
        let mut site = site_with_bucket(3).await;
        put(site.gateway(1), "before", &bytes(BLOCK)).await.unwrap();
        let disk = &site.nodes[&NodeId(2)].disk;
        disk.inject(Fault::io(FaultOn::Sync).below("blocks/").times(1));
        put(site.gateway(1), "during", &bytes(BLOCK)).await.unwrap();
        put(site.gateway(1), "after", &bytes(BLOCK)).await.unwrap();
        let_late_copies_end().await;
        let fenced = site.nodes[&NodeId(2)].store.stats().fenced_volumes;
        assert_eq!(fenced.len(), 1);
        assert_eq!(site.blocks(), [3, 2, 3]);
        for key in ["before", "during", "after"] {
            delete(site.gateway(1), key).await.unwrap();
        }
        let status = site.job(1, "collect").await;
        assert_eq!((status.last.done, status.last.left), (3, 0), "{status:?}");
        assert_eq!(site.blocks(), [0, 1, 0]);
        site.nodes[&NodeId(2)].platform.jump_wall(25 * 3_600_000);
        let status = site.job(2, "sweep").await;
        assert_eq!((status.last.done, status.last_error), (0, None));
        let disk = site.kill(NodeId(2));
        site.revive(NodeId(2), disk).await;
        site.nodes[&NodeId(2)].platform.jump_wall(25 * 3_600_000);
        // The start also found the block whose sync had failed.
        assert!(site.job(2, "sweep").await.last.done >= 1);
        assert_eq!(site.blocks(), [0, 0, 0]);
    });
}

#[test]
fn with_two_nodes_down_a_write_fails_and_reads_go_on() {
    block_on(async {
        let mut site = site_with_bucket(3).await;
        put(site.gateway(1), "before", &bytes(3000)).await.unwrap();
        let disks = [2, 3].map(|node| (NodeId(node), site.kill(NodeId(node))));
        let failed = put(site.gateway(1), "key", &bytes(3000)).await;
        assert!(
            matches!(failed, Err(ObjectError::Unavailable(_))),
            "{failed:?}"
        );
        assert_eq!(
            get(site.gateway(1), "key").await,
            Err(ObjectError::NoSuchKey)
        );
        assert_eq!(get(site.gateway(1), "before").await.unwrap(), bytes(3000));
        site.job(1, "give-up").await;
        let status = site.job(1, "collect").await;
        assert_eq!(
            (status.last.done, status.last.left),
            (0, 1),
            "a segment waits for all servers"
        );
        for (node, disk) in disks {
            site.revive(node, disk).await;
        }
        site.job(1, "collect").await;
        assert_eq!(
            (site.stats().await.doomed, site.blocks()),
            (0, vec![3, 3, 3])
        );
    });
}

#[test]
fn damaged_copies_are_noticed_and_others_read() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let content = bytes(BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        for node in [1, 2] {
            let disk = &site.nodes[&NodeId(node)].disk;
            let (volume, _) = disk.files().into_iter().next().unwrap();
            disk.flip_bit(&volume, 4096 + 128 + 500, 0).unwrap();
        }
        assert_eq!(get(site.gateway(1), "key").await.unwrap(), content);
        assert_eq!(site.nodes[&NodeId(1)].store.stats().corrupt_reads, 1);
        assert!(
            site.gateway(1)
                .metrics()
                .blocks_read_corrupt_copies_total
                .get()
                >= 1
        );
        assert_eq!(get(site.gateway(2), "key").await.unwrap(), content);
        let disk = &site.nodes[&NodeId(3)].disk;
        let (volume, _) = disk.files().into_iter().next().unwrap();
        disk.flip_bit(&volume, 4096 + 128 + 1, 0).unwrap();
        let lost = get(site.gateway(3), "key").await;
        assert!(
            matches!(lost, Err(ObjectError::BodyFailed(_))),
            "no bytes rather than wrong ones: {lost:?}"
        );
    });
}

#[test]
fn a_slow_copy_is_hedged() {
    block_on(async {
        let site = site_with_bucket(3).await;
        let content = bytes(3 * BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        site.nodes[&NodeId(1)]
            .platform
            .set_latency(Duration::from_secs(20)..Duration::from_secs(21));
        let began = tokio::time::Instant::now();
        let mut got = site
            .gateway(1)
            .get(&caller(), get_request("bucket", "key"))
            .await
            .unwrap();
        // The verification of another node's bytes is slow here, too; what matters is that it was asked.
        assert!(first_chunk(&mut got).await.unwrap().is_ok());
        assert!(
            began.elapsed() < Duration::from_secs(45),
            "{:?}",
            began.elapsed()
        );
        assert!(site.gateway(1).metrics().blocks_read_hedged_total.get() >= 1);
    });
}

#[test]
fn a_site_that_grows_gets_its_copies() {
    block_on(async {
        let mut site = site_with_bucket(1).await;
        let content = bytes(7 * BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        assert_eq!(site.blocks(), [7]);
        for node in [2, 3] {
            site.start(NodeId(node), SimDisk::new()).await;
        }
        site.maps.grow(2);
        site.job(1, "repair").await;
        assert_eq!(site.blocks(), [7, 7, 0]);
        site.maps.grow(3);
        let status = site.job(1, "repair").await;
        assert_eq!((status.last.done, status.last.left), (7, 0));
        assert_eq!(site.blocks(), [7, 7, 7]);
        let status = site.job(1, "repair").await;
        assert_eq!(
            (status.last.done, status.last.left),
            (0, 0),
            "nothing is thin any more"
        );
        site.kill(NodeId(1));
        assert_eq!(get(site.gateway(3), "key").await.unwrap(), content);
        let place = site
            .gateway(3)
            .whereabouts(&caller(), "bucket", "key")
            .await
            .unwrap();
        assert!(
            place
                .blocks
                .iter()
                .all(|block| block.servers.len() == 3 && block.missing.is_empty())
        );
    });
}

/// A site of three nodes whose map still names one; that one has seven blocks under `key`.
async fn growing_site() -> Site {
    let mut site = site_with_bucket(1).await;
    let content = bytes(7 * BLOCK);
    put(site.gateway(1), "key", &content).await.unwrap();
    for node in [2, 3] {
        site.start(NodeId(node), SimDisk::new()).await;
    }
    assert_eq!(site.debt_by_leaders().await, 0);
    site
}

#[test]
fn blocks_of_a_smaller_site_are_debt_before_repair_looks_for_them() {
    block_on(async {
        let mut site = growing_site().await;
        site.maps.grow(3);
        assert_eq!(site.debt_by_leaders().await, 7);
        assert_eq!(site.stats().await.debt, 0, "no write left them");
        // While a server is away, blocks that moved lack one copy: each is counted once.
        let disk = site.kill(NodeId(3));
        site.job(1, "repair").await;
        assert_eq!(site.stats().await.debt, 7);
        assert_eq!(site.debt_by_leaders().await, 7);
        site.revive(NodeId(3), disk).await;
        site.job(1, "repair").await;
        assert_eq!(site.debt_by_leaders().await, 0);
        assert_eq!(site.blocks(), [7, 7, 7]);
        site.maps.grow(3);
        assert_eq!(site.debt_by_leaders().await, 0, "no copy is missing");
    });
}

#[test]
fn a_gateway_with_an_old_map_writes_blocks_only_when_it_has_heard_of_the_new_one() {
    block_on(async {
        let site = growing_site().await;
        site.maps.hold(NodeId(2));
        site.maps.grow(3);
        // The leader tells the groups.
        site.job(1, "repair").await;
        put(site.gateway(2), "small", &bytes(INLINE)).await.unwrap();
        let refused = put(site.gateway(2), "late", &bytes(BLOCK)).await;
        assert!(
            matches!(refused, Err(ObjectError::Unavailable(_))),
            "{refused:?}"
        );

        let gateway = site.gateway(2).clone();
        let write = tokio::spawn(async move { put(&gateway, "late", &bytes(BLOCK)).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!write.is_finished());
        site.maps.catch_up();
        write.await.unwrap().unwrap();
        assert_eq!(site.debt_by_leaders().await, 0);
        assert_eq!(get(site.gateway(3), "late").await.unwrap(), bytes(BLOCK));
    });
}

#[test]
fn what_an_old_map_placed_before_its_group_heard_of_the_new_one_is_debt_at_once() {
    block_on(async {
        let site = growing_site().await;
        delete(site.gateway(1), "key").await.unwrap();
        site.maps.hold(NodeId(2));
        site.maps.grow(3);
        assert_eq!(site.debt_by_leaders().await, 0);
        put(site.gateway(2), "key", &bytes(BLOCK)).await.unwrap();
        assert_eq!(site.debt_by_leaders().await, 1);
        // A write by the new map tells the group, too.
        put(site.gateway(1), "key", &bytes(BLOCK)).await.unwrap();
        let refused = put(site.gateway(2), "key", &bytes(BLOCK)).await;
        assert!(
            matches!(refused, Err(ObjectError::Unavailable(_))),
            "{refused:?}"
        );
        assert_eq!(site.debt_by_leaders().await, 0, "it was overwritten");
    });
}

#[test]
fn orphans_are_swept_and_owned_blocks_are_not() {
    block_on(async {
        let site = site_with_bucket(3).await;
        put(site.gateway(1), "key", &bytes(3000)).await.unwrap();
        let node = &site.nodes[&NodeId(2)];
        let orphan = ids::BlockId {
            group: ids::GroupId(1),
            segment: ids::SegmentId([9; 16]),
            number: 0,
        };
        let data = bytes(10);
        node.store
            .put(orphan, *blake3::hash(&data).as_bytes(), data)
            .await
            .unwrap();
        assert_eq!(site.job(2, "sweep").await.last.done, 0, "it is too young");
        node.platform.jump_wall(25 * 3_600_000);
        assert_eq!(site.job(2, "sweep").await.last.done, 1);
        assert_eq!(site.blocks(), [3, 3, 3]);
    });
}

#[test]
fn a_pending_segment_is_given_up_after_a_day() {
    block_on(async {
        let mut site = site_with_bucket(3).await;
        let never: Body = Box::pin(futures::StreamExt::chain(
            futures::stream::iter([Ok(bytes(3000))]),
            futures::stream::pending(),
        ));
        let gateway = site.gateway(2).clone();
        let upload = tokio::spawn(async move {
            gateway
                .put(&caller(), put_request("bucket", "key"), never)
                .await
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The gateway's machine dies with all that it knows of the upload.
        let disk = site.kill(NodeId(2));
        upload.abort();
        site.revive(NodeId(2), disk).await;
        assert_eq!(site.job(1, "give-up").await.done_total, 0);
        site.nodes[&NodeId(1)].platform.jump_wall(25 * 3_600_000);
        assert_eq!(site.job(1, "give-up").await.done_total, 1);
        site.job(1, "collect").await;
        assert_eq!(site.blocks(), [0, 0, 0]);
    });
}

#[test]
fn disks_that_refuse_writes_are_said() {
    block_on(async {
        let site = site_with_bucket(3).await;
        for node in site.nodes.values() {
            node.disk.inject(Fault::io(FaultOn::Write).below("blocks/"));
        }
        let failed = put(site.gateway(1), "key", &bytes(3000)).await;
        assert!(
            matches!(failed, Err(ObjectError::Unavailable(_))),
            "{failed:?}"
        );
        put(site.gateway(1), "small", &bytes(INLINE)).await.unwrap();
    });
}
