//! The cache against the list.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use registry::*;

use crate::support::{Port, history, on_host, site, soon};

async fn check(registry: &Registry, cache: &Cache<Port>) {
    let page = registry
        .list_all::<Port>(&ListOptions::default())
        .await
        .unwrap();
    soon(cache.wait_until(page.revision)).await;
    let cached: Vec<Resource<Port>> = cache
        .snapshot()
        .into_iter()
        .map(|port| (*port).clone())
        .collect();
    assert_eq!(cached, page.items);
    for host in ["0", "1", "2"] {
        let expected: Vec<_> = page
            .items
            .iter()
            .filter(|port| port.spec.host == host)
            .cloned()
            .collect();
        let found: Vec<_> = cache
            .by_index(host)
            .iter()
            .map(|port| (**port).clone())
            .collect();
        assert_eq!(found, expected);
    }
}

fn by_host() -> CacheOptions<Port> {
    let index: Box<cache::IndexFn<Port>> = Box::new(|port| vec![port.spec.host.clone()]);
    CacheOptions {
        index: Some(index),
        ..CacheOptions::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_cache_is_the_list(
        steps in prop::collection::vec((0u8..4, 0u8..6, 0u8..3, any::<bool>()), 1..60),
        kept in prop_oneof![Just(2u64), Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (registry, _) = site(history(kept));
            let cache = Cache::start_with(&registry, by_host());
            for (what, name, host, pause) in steps {
                let (name, host) = (name.to_string(), host.to_string());
                // Refusals are as welcome as changes.
                let _ = match what {
                    0 | 1 => registry.create::<Port>(&name, on_host(&host)).await.map(|_| ()),
                    2 => registry.modify::<Port>(&name, |spec| spec.host = host.clone()).await.map(|_| ()),
                    _ => registry.delete::<Port>(&name, DeleteOptions::default()).await.map(|_| ()),
                };
                if pause {
                    check(&registry, &cache).await;
                }
            }
            check(&registry, &cache).await;
        });
    }
}

#[tokio::test]
async fn a_cache_tells_of_changes_and_of_what_it_heard() {
    let (registry, groups) = site(RegistryOptions::default());
    let hear_every = Some(Duration::from_millis(1));
    let cache = Cache::<Port>::start_with(
        &registry,
        CacheOptions {
            index: None,
            hear_every,
        },
    );
    soon(cache.wait_synced()).await;
    assert!(cache.synced() && cache.is_empty());
    let mut changed = cache.changed();
    changed.borrow_and_update();
    let port = registry.create::<Port>("a", on_host("h")).await.unwrap();
    soon(changed.changed()).await.unwrap();
    assert_eq!(cache.get("a"), Some(Arc::new(port)));
    let heard = soon(async {
        loop {
            match cache.last_heard() {
                Some(heard) => break heard,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(heard <= tokio::time::Instant::now());

    // With the registry away, the cache keeps answering.
    groups.interrupt(
        ids::REGISTRY_GROUP,
        raft_machine::local::Interruption::LoseQuery,
        100_000,
    );
    assert!(cache.get("a").is_some());
    soon(cache.stop()).await;
}
