//! The typed client.

use ids::REGISTRY_GROUP;
use raft_machine::local::Interruption;
use registry::*;

use crate::support::{Net, NetSpec, Port, history, on_host, site};

#[tokio::test]
async fn what_is_written_is_read_back() {
    let (registry, _) = site(RegistryOptions::default());
    let net = registry
        .create::<Net>("blue", NetSpec { vni: 7 })
        .await
        .unwrap();
    let new = New::<Port>::named("blue/a", on_host("h1"))
        .label("tier", "web")
        .owned_by(&net);
    let port = registry.create_with(new).await.unwrap();
    let read = registry
        .get::<Port>("blue/a", Freshness::Local)
        .await
        .unwrap();
    assert_eq!(read.as_ref(), Some(&port));

    let moved = registry
        .modify::<Port>("blue/a", |spec| spec.host = "h2".into())
        .await
        .unwrap();
    assert_eq!(
        (moved.metadata.generation, moved.metadata.revision),
        (2, Revision(3))
    );
    let up = registry
        .modify_status::<Port>("blue/a", |status| status.up = true)
        .await
        .unwrap();
    assert_eq!(
        registry
            .get("blue/a", Freshness::Linearizable)
            .await
            .unwrap(),
        Some(up.clone())
    );
    assert!(up.status.up && up.spec == moved.spec && up.metadata.generation == 2);
    // Writing the same again changes nothing, not even the revision.
    assert_eq!(registry.update(&up).await.unwrap(), up);

    assert!(registry.update(&port).await.unwrap_err().is_conflict());
    assert!(
        registry
            .create::<Net>("blue", NetSpec { vni: 1 })
            .await
            .unwrap_err()
            .already_exists()
    );
    let gone = registry
        .delete::<Net>("blue", DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(gone, Deletion::Gone);
    assert_eq!(
        registry
            .get::<Port>("blue/a", Freshness::Local)
            .await
            .unwrap(),
        None
    );
    assert!(
        registry
            .modify::<Port>("blue/a", |_| {})
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn an_update_that_lets_the_last_finalizer_go_ends_a_deletion() {
    let (registry, _) = site(RegistryOptions::default());
    let new = New::<Port>::named("a", on_host("h")).finalizer("agent");
    registry.create_with(new).await.unwrap();
    let waiting = registry
        .delete::<Port>("a", DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(waiting, Deletion::Waiting);
    let marked = registry
        .get::<Port>("a", Freshness::Local)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(marked.metadata.deleting_ms, Some(1_000));
    let change = |port: &mut Resource<Port>| port.metadata.finalizers.clear();
    let last = registry.modify_resource("a", change).await.unwrap();
    assert_eq!(last.metadata.revision, Revision(3));
    assert_eq!(
        registry.get::<Port>("a", Freshness::Local).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn lost_proposals_and_responses_are_asked_for_again() {
    let (registry, groups) = site(RegistryOptions::default());
    groups.interrupt(REGISTRY_GROUP, Interruption::LoseResponse, 1);
    groups.interrupt(REGISTRY_GROUP, Interruption::LoseProposal, 1);
    registry
        .create::<Net>("a", NetSpec { vni: 1 })
        .await
        .unwrap();
    assert_eq!(
        (groups.index(REGISTRY_GROUP), groups.calls(REGISTRY_GROUP).0),
        (1, 3)
    );
    groups.interrupt(REGISTRY_GROUP, Interruption::LoseQuery, 2);
    assert!(
        registry
            .get::<Net>("a", Freshness::Linearizable)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn lists_page_by_name_index_and_label() {
    let (registry, _) = site(history(2));
    for (name, host) in [("a", "h1"), ("b", "h2"), ("c", "h1"), ("d", "h1")] {
        let new = New::<Port>::named(name, on_host(host)).label("host", host);
        registry.create_with(new).await.unwrap();
    }
    let names = |page: &Page<Port>| -> Vec<String> {
        page.items
            .iter()
            .map(|port| port.metadata.name.clone())
            .collect()
    };
    let index = Some(("host".to_string(), "h1".to_string()));
    let options = ListOptions {
        index,
        limit: 2,
        ..ListOptions::default()
    };
    let first = registry.list::<Port>(&options).await.unwrap();
    assert_eq!(
        (names(&first), first.next.as_deref()),
        (vec!["a".into(), "c".into()], Some("c"))
    );

    registry
        .delete::<Port>("d", DeleteOptions::default())
        .await
        .unwrap();
    let at = Some(first.revision);
    let second = ListOptions {
        after: first.next.clone(),
        at,
        ..options.clone()
    };
    let page = registry.list::<Port>(&second).await.unwrap();
    assert_eq!(
        (names(&page), page.revision, page.next),
        (vec!["d".into()], first.revision, None)
    );
    assert_eq!(
        names(&registry.list_all::<Port>(&options).await.unwrap()),
        ["a", "c"]
    );

    for name in ["x", "y", "z"] {
        registry.create::<Port>(name, on_host("h3")).await.unwrap();
    }
    let error = registry.list::<Port>(&second).await.unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::TooOld {
                oldest: Revision(6)
            }
        ),
        "{error}"
    );
    let ahead = ListOptions {
        at: Some(Revision(99)),
        ..options
    };
    let error = registry.list::<Port>(&ahead).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotYet { .. }), "{error}");

    let selector = vec![Requirement::In("host".into(), vec!["h2".into()])];
    let options = ListOptions {
        selector,
        ..ListOptions::default()
    };
    assert_eq!(
        names(&registry.list_all::<Port>(&options).await.unwrap()),
        ["b"]
    );
}

#[tokio::test]
async fn a_transaction_of_several_kinds_takes_effect_at_once() {
    let (registry, _) = site(RegistryOptions::default());
    let committed = registry
        .transaction()
        .require_absent::<Net>("blue")
        .create(&New::<Net>::named("blue", NetSpec { vni: 1 }))
        .create_pool("blue/ips", Layout::Sparse, 1..=3)
        .create(&New::<Port>::named("a", on_host("h")).allocate("blue/ips", Want::These(vec![2])))
        .commit()
        .await
        .unwrap();
    assert_eq!(committed.revision, Revision(1));
    let port = registry
        .get::<Port>("a", Freshness::Local)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(port.metadata.allocated("blue/ips").collect::<Vec<_>>(), [2]);
    assert_eq!(
        registry
            .allocate("blue/ips", Want::Any { count: 2 })
            .await
            .unwrap(),
        [1, 3]
    );
    let error = registry
        .allocate("blue/ips", Want::Any { count: 1 })
        .await
        .unwrap_err();
    assert_eq!(
        error.refused(),
        Some(&Refused::Exhausted("blue/ips".into()))
    );
    registry.release("blue/ips", vec![1]).await.unwrap();
    let pool = registry
        .pool("blue/ips", Freshness::Local)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((pool.lo, pool.hi, pool.used), (1, 3, 2));
    let holder = registry
        .holder("blue/ips", 2, Freshness::Local)
        .await
        .unwrap();
    assert_eq!(holder, Some(ResourceKey::new("Port", "a")));
    let again = registry
        .transaction()
        .require_absent::<Net>("blue")
        .commit()
        .await
        .unwrap_err();
    assert!(matches!(
        again.refused(),
        Some(Refused::PreconditionFailed(_))
    ));
}

#[tokio::test]
async fn garbage_of_a_large_owner_is_collected() {
    let (registry, _) = site(RegistryOptions::default());
    let net = registry
        .create::<Net>("blue", NetSpec { vni: 7 })
        .await
        .unwrap();
    let ports =
        (0..3_000).map(|at| New::<Port>::named(at.to_string(), on_host("h")).owned_by(&net));
    assert_eq!(registry.bulk_create(ports).await.unwrap().created, 3_000);
    registry
        .delete::<Net>("blue", DeleteOptions::default())
        .await
        .unwrap();
    assert!(registry.collect_garbage().await.unwrap());
    assert!(
        registry
            .list_all::<Port>(&ListOptions::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
