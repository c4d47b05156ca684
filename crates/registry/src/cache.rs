//! All resources of a kind in memory, kept up to date by a watch: for data paths, which never ask
//! the registry.
//!
//! Readers take a short lock and share what they find. The cache lives through a registry that is
//! away (it keeps what it has; [`Cache::last_heard`] tells how old that may be) and through a change
//! log that was cut (it lists again). Events are applied in the order of revisions, so a reader
//! never sees a resource go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ids::Revision;
use raft_machine::Freshness;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{ListOptions, Page, Registry};
use crate::error::RegistryError;
use crate::resource::{Kind, Resource};
use crate::watch::{Event, WatchEvent};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the first list waits for the newest state before it takes what this node has.
const FRESH_DEADLINE: Duration = Duration::from_secs(2);

/// Keys under which [`Cache::by_index`] finds a resource.
pub type IndexFn<K> = dyn Fn(&Resource<K>) -> Vec<String> + Send + Sync;

/// How a cache is kept.
pub struct CacheOptions<K: Kind> {
    /// Makes [`Cache::by_index`] work.
    pub index: Option<Box<IndexFn<K>>>,
    /// Makes [`Cache::last_heard`] work: how often the registry's majority is asked.
    pub hear_every: Option<Duration>,
}

impl<K: Kind> Default for CacheOptions<K> {
    fn default() -> Self {
        CacheOptions {
            index: None,
            hear_every: None,
        }
    }
}

/// See the module. Its tasks end with it.
pub struct Cache<K: Kind> {
    shared: Arc<Shared<K>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared<K: Kind> {
    index: Option<Box<IndexFn<K>>>,
    state: RwLock<State<K>>,
    /// The revision up to which changes are applied; none before the first list.
    position: watch::Sender<Option<Revision>>,
    /// The revision of the last change of the content.
    changed: watch::Sender<Revision>,
    heard: Mutex<Option<Instant>>,
}

struct State<K: Kind> {
    by_name: BTreeMap<String, Arc<Resource<K>>>,
    by_index: BTreeMap<String, BTreeSet<String>>,
}

impl<K: Kind> Cache<K> {
    /// Starts a cache; it is empty until [`Cache::wait_synced`].
    pub fn start(registry: &Registry) -> Self {
        Cache::start_with(registry, CacheOptions::default())
    }

    /// Starts a cache with an index, or one that knows when it last heard of the registry.
    pub fn start_with(registry: &Registry, options: CacheOptions<K>) -> Self {
        let shared = Arc::new(Shared {
            index: options.index,
            state: RwLock::new(State {
                by_name: BTreeMap::new(),
                by_index: BTreeMap::new(),
            }),
            position: watch::Sender::new(None),
            changed: watch::Sender::new(Revision(0)),
            heard: Mutex::new(None),
        });
        let mut tasks = vec![tokio::spawn(follow(registry.clone(), shared.clone()))];
        if let Some(every) = options.hear_every {
            tasks.push(tokio::spawn(listen(
                registry.clone(),
                shared.clone(),
                every,
            )));
        }
        Cache { shared, tasks }
    }

    /// Ends the tasks and waits for them.
    pub async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // An error says that it was aborted, which is what was asked for.
            let _ = task.await;
        }
    }

    /// One resource.
    pub fn get(&self, name: &str) -> Option<Arc<Resource<K>>> {
        self.shared.read().by_name.get(name).cloned()
    }

    /// The resources under a key of the index, by name.
    pub fn by_index(&self, key: &str) -> Vec<Arc<Resource<K>>> {
        let state = self.shared.read();
        let names = state.by_index.get(key).into_iter().flatten();
        names
            .filter_map(|name| state.by_name.get(name).cloned())
            .collect()
    }

    /// All resources, by name.
    pub fn snapshot(&self) -> Vec<Arc<Resource<K>>> {
        self.shared.read().by_name.values().cloned().collect()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.shared.read().by_name.len()
    }

    /// Whether there are no resources.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes with the revision of each change of the content.
    pub fn changed(&self) -> watch::Receiver<Revision> {
        self.shared.changed.subscribe()
    }

    /// The revision up to which changes are applied.
    pub fn revision(&self) -> Revision {
        self.shared.position.borrow().unwrap_or_default()
    }

    /// Whether the first list was read.
    pub fn synced(&self) -> bool {
        self.shared.position.borrow().is_some()
    }

    /// Waits for the first list.
    pub async fn wait_synced(&self) {
        self.wait_until(Revision(0)).await;
    }

    /// Waits until the changes up to `revision` are applied, such as the caller's own write.
    pub async fn wait_until(&self, revision: Revision) {
        self.shared.wait_until(revision).await;
    }

    /// When the cache last was as new as the registry's majority; none before, or when
    /// [`CacheOptions::hear_every`] is not set.
    pub fn last_heard(&self) -> Option<Instant> {
        *self
            .shared
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kind> Drop for Cache<K> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl<K: Kind> Shared<K> {
    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until(&self, revision: Revision) {
        let mut position = self.position.subscribe();
        // The sender lives as long as `self`.
        let _ = position
            .wait_for(|at| at.is_some_and(|at| at >= revision))
            .await;
    }

    /// Replaces everything.
    fn load(&self, page: Page<K>) {
        let mut state = State {
            by_name: BTreeMap::new(),
            by_index: BTreeMap::new(),
        };
        for resource in page.items {
            state.put(resource, self.index.as_deref());
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.position.send_replace(Some(page.revision));
        self.changed.send_replace(page.revision);
    }

    fn apply(&self, event: WatchEvent<K>) {
        let WatchEvent { revision, event } = event;
        let content = !matches!(event, Event::Bookmark);
        if content {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Added(resource) | Event::Modified(resource) => {
                    state.put(resource, self.index.as_deref());
                }
                Event::Deleted(resource) => {
                    state.remove(&resource.metadata.name, self.index.as_deref());
                }
                Event::Bookmark => {}
            }
            drop(state);
            self.changed.send_replace(revision);
        } else {
            self.position.send_replace(Some(revision));
        }
    }
}

impl<K: Kind> State<K> {
    fn put(&mut self, resource: Resource<K>, index: Option<&IndexFn<K>>) {
        let name = resource.metadata.name.clone();
        self.remove(&name, index);
        for key in index.map(|index| index(&resource)).unwrap_or_default() {
            self.by_index.entry(key).or_default().insert(name.clone());
        }
        self.by_name.insert(name, Arc::new(resource));
    }

    fn remove(&mut self, name: &str, index: Option<&IndexFn<K>>) {
        let Some(old) = self.by_name.remove(name) else {
            return;
        };
        for key in index.map(|index| index(&old)).unwrap_or_default() {
            if let Some(names) = self.by_index.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    self.by_index.remove(&key);
                }
            }
        }
    }
}

async fn follow<K: Kind>(registry: Registry, shared: Arc<Shared<K>>) {
    let mut pause = PAUSE_MIN;
    loop {
        match list(&registry).await {
            Ok(page) => {
                pause = PAUSE_MIN;
                let revision = page.revision;
                shared.load(page);
                watch_from(&registry, &shared, revision).await;
            }
            Err(error) => {
                tracing::warn!(kind = K::KIND, %error, "listing for a cache failed; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The newest state, or, when the registry is away, that of this node.
async fn list<K: Kind>(registry: &Registry) -> Result<Page<K>, RegistryError> {
    let fresh = registry.clone().with_deadline(FRESH_DEADLINE);
    match fresh.list_all(&ListOptions::default()).await {
        Err(error) if error.is_unavailable() => {
            let freshness = Freshness::Local;
            registry
                .list_all(&ListOptions {
                    freshness,
                    ..ListOptions::default()
                })
                .await
        }
        result => result,
    }
}

/// Applies events until the change log does not reach back any more.
async fn watch_from<K: Kind>(registry: &Registry, shared: &Shared<K>, revision: Revision) {
    let mut watch = registry.watch::<K>(revision).with_bookmarks();
    let mut pause = PAUSE_MIN;
    loop {
        match watch.next().await {
            Ok(event) => {
                pause = PAUSE_MIN;
                shared.apply(event);
            }
            Err(RegistryError::TooOld { .. }) => return,
            Err(error) => {
                tracing::warn!(kind = K::KIND, %error, "watching for a cache failed; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Notes when the cache was as new as the registry's majority.
async fn listen<K: Kind>(registry: Registry, shared: Arc<Shared<K>>, every: Duration) {
    loop {
        let asked = Instant::now();
        if let Ok(revision) = registry.revision(Freshness::Linearizable).await
            && timeout(PAUSE_MAX, shared.wait_until(revision))
                .await
                .is_ok()
        {
            *shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
            sleep(every).await;
        } else {
            sleep(PAUSE_MIN.max(every / 100)).await;
        }
    }
}
