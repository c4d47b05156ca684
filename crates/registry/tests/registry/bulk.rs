//! Bulk writes.

use ids::REGISTRY_GROUP;
use registry::*;

use crate::support::{Port, PortSpec, on_host, site};

#[tokio::test]
async fn twenty_thousand_resources_are_a_few_dozen_entries() {
    let (registry, groups) = site(RegistryOptions::default());
    let pool = "ips";
    registry
        .create_pool(pool, Layout::Dense, 0..=(1 << 24) - 1)
        .await
        .unwrap();
    let ports = (0..20_000).map(|at| {
        let spec = PortSpec {
            host: format!("host-{}", at % 1_000),
            note: "x".repeat(200),
        };
        New::<Port>::named(format!("port-{at}"), spec).allocate(pool, Want::Any { count: 1 })
    });
    let report = registry.bulk_create(ports).await.unwrap();
    assert_eq!((report.created, report.refused.len()), (20_000, 0));
    let entries = groups.index(REGISTRY_GROUP);
    assert!(entries < 80, "{entries} entries");
    assert_eq!(
        registry
            .pool(pool, Freshness::Local)
            .await
            .unwrap()
            .unwrap()
            .used,
        20_000
    );
    let all = registry
        .list_all::<Port>(&ListOptions::default())
        .await
        .unwrap();
    let mut values: Vec<u128> = all
        .items
        .iter()
        .flat_map(|port| port.metadata.allocated(pool))
        .collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!((all.items.len(), values.len()), (20_000, 20_000));
}

#[tokio::test]
async fn a_refused_item_is_reported_and_the_others_are_made() {
    let (registry, _) = site(RegistryOptions::default());
    registry.create::<Port>("p2", on_host("h")).await.unwrap();
    let ports = (0..5).map(|at| New::<Port>::named(format!("p{at}"), on_host("h")));
    let report = registry.bulk_create(ports).await.unwrap();
    let refused = Refused::AlreadyExists(ResourceKey::new("Port", "p2"));
    assert_eq!((report.created, report.refused), (4, vec![(2, refused)]));
}
