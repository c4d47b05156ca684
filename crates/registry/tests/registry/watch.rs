//! Watches on a site in memory.

use std::future::Future;
use std::task::Poll;

use registry::*;

use crate::support::{Net, NetSpec, Port, history, on_host, site, soon};

async fn write(registry: &Registry, round: usize) {
    registry
        .create::<Port>(&format!("p{round}"), on_host("h"))
        .await
        .unwrap();
    registry
        .create::<Net>(&format!("n{round}"), NetSpec { vni: 1 })
        .await
        .unwrap();
    registry
        .modify::<Port>(&format!("p{round}"), |spec| spec.note = "x".into())
        .await
        .unwrap();
    if round.is_multiple_of(2) {
        let options = DeleteOptions::default();
        registry
            .delete::<Port>(&format!("p{round}"), options)
            .await
            .unwrap();
    }
}

/// The next `count` events as (revision, what, name).
async fn take(watch: &mut Watch<Port>, count: usize) -> Vec<(u64, char, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let WatchEvent { revision, event } = soon(watch.next()).await.unwrap();
        let (what, port) = match event {
            Event::Added(port) => ('+', port),
            Event::Modified(port) => ('~', port),
            Event::Deleted(port) => ('-', port),
            Event::Bookmark => panic!("nobody asked for bookmarks"),
        };
        seen.push((revision.0, what, port.metadata.name));
    }
    seen
}

#[tokio::test]
async fn a_watch_from_any_revision_gives_each_later_change_once() {
    let (registry, _) = site(RegistryOptions::default());
    for round in 0..6 {
        write(&registry, round).await;
    }
    let mut first = registry.watch(Revision(0));
    let mut seen = take(&mut first, 15).await;
    for round in 6..12 {
        write(&registry, round).await;
    }
    seen.extend(take(&mut first, 15).await);
    assert!(seen.is_sorted_by_key(|event| event.0) && seen.len() == 30);
    assert_eq!(
        seen[..3],
        [
            (1, '+', "p0".into()),
            (3, '~', "p0".into()),
            (4, '-', "p0".into())
        ]
    );
    let current = registry.revision(Freshness::Local).await.unwrap();
    for from in 0..=current.0 {
        let mut watch = registry.watch(Revision(from));
        let later: Vec<_> = seen
            .iter()
            .filter(|event| event.0 > from)
            .cloned()
            .collect();
        assert_eq!(take(&mut watch, later.len()).await, later, "from {from}");
    }
}

#[tokio::test]
async fn a_thousand_watchers_share_one_reader() {
    let (registry, groups) = site(RegistryOptions::default());
    let mut watches: Vec<Watch<Port>> = (0..1_000).map(|_| registry.watch(Revision(0))).collect();
    registry
        .create::<Port>("first", on_host("h"))
        .await
        .unwrap();
    for watch in &mut watches {
        assert_eq!(take(watch, 1).await.len(), 1);
    }
    let before = groups.calls(ids::REGISTRY_GROUP).1;
    for round in 0..50 {
        registry
            .create::<Port>(&format!("{round:02}"), on_host("h"))
            .await
            .unwrap();
        for watch in &mut watches {
            assert_eq!(take(watch, 1).await[0].2, format!("{round:02}"));
        }
    }
    let queries = groups.calls(ids::REGISTRY_GROUP).1 - before;
    assert!(
        queries < 1_000,
        "{queries} queries for 50 changes: watchers read for themselves"
    );
}

#[tokio::test]
async fn a_watcher_that_fell_behind_reads_the_log() {
    let (registry, _) = site(RegistryOptions::default());
    registry
        .create::<Port>("first", on_host("h"))
        .await
        .unwrap();
    let mut slow = registry.watch::<Port>(Revision(0));
    let mut fast = registry.watch::<Port>(Revision(0));
    take(&mut slow, 1).await;
    take(&mut fast, 1).await;
    for batch in 0..10 {
        let ports =
            (0..1_000).map(|at| New::<Port>::named(format!("{batch}-{at:04}"), on_host("h")));
        registry.bulk_create(ports).await.unwrap();
        take(&mut fast, 1_000).await;
    }
    let seen = take(&mut slow, 10_000).await;
    assert!(
        seen.windows(2)
            .all(|two| (two[0].0, &two[0].2) < (two[1].0, &two[1].2))
    );
}

#[tokio::test]
async fn what_the_log_forgot_is_too_old() {
    let (registry, _) = site(history(4));
    let mut early = registry.watch::<Port>(Revision(0));
    for round in 0..10 {
        registry
            .create::<Port>(&round.to_string(), on_host("h"))
            .await
            .unwrap();
    }
    let error = soon(early.next()).await.unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::TooOld {
                oldest: Revision(6)
            }
        ),
        "{error}"
    );
    assert_eq!(take(&mut registry.watch(Revision(6)), 4).await.len(), 4);
}

#[tokio::test]
async fn bookmarks_tell_how_far_a_watch_is() {
    let (registry, _) = site(RegistryOptions::default());
    let mut watch = registry.watch::<Port>(Revision(0)).with_bookmarks();
    registry.create::<Port>("a", on_host("h")).await.unwrap();
    registry
        .create::<Net>("n", NetSpec { vni: 1 })
        .await
        .unwrap();
    let mut added = 0;
    loop {
        let WatchEvent { revision, event } = soon(watch.next()).await.unwrap();
        match event {
            Event::Added(_) => added += 1,
            Event::Bookmark if revision == Revision(2) => break,
            Event::Bookmark => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(added, 1);
}

#[tokio::test]
async fn a_stopped_client_ends_its_watches() {
    let (registry, _) = site(RegistryOptions::default());
    let mut watch = registry.watch::<Port>(Revision(0));
    let waiting = tokio::spawn(async move { watch.next().await });
    tokio::task::yield_now().await;
    soon(registry.stop()).await;
    assert!(soon(waiting).await.unwrap().unwrap_err().is_unavailable());
}

#[tokio::test]
async fn dropping_a_waiting_next_loses_nothing() {
    let (registry, _) = site(RegistryOptions::default());
    let mut watch = registry.watch::<Port>(Revision(0));
    let mut seen = Vec::new();
    for round in 0..50 {
        let mut next = Box::pin(watch.next());
        let waker = std::task::Waker::noop();
        match next
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
        {
            Poll::Ready(event) => seen.push(event.unwrap().revision),
            Poll::Pending => drop(next),
        }
        registry
            .create::<Port>(&format!("{round:02}"), on_host("h"))
            .await
            .unwrap();
        if round % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let rest = take(&mut watch, 50 - seen.len()).await;
    seen.extend(rest.into_iter().map(|event| Revision(event.0)));
    assert_eq!(seen, (1..=50).map(Revision).collect::<Vec<_>>());
}
