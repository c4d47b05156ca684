//! The access keys that this node honours: opened from the registry's cache, for as long as it may be trusted.
//!
//! When the registry was last heard is kept in the folder by the wall clock, so that a node that is cut off can't make the
//! time to live begin anew by starting again. A date that lies ahead says nothing: the clock was set back.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use identity::{Decision, KeyCache, Role, SiteKey};
use object_core::api::Caller;
use object_s3::{KeyDirectory, KeyEntry};
use platform::Platform;
use registry::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::folder::Folder;
use super::kinds::{AccessKey, User};

/// How often a node checks that what it has is still the registry's truth.
pub const HEAR_EVERY: Duration = Duration::from_secs(30);

/// How long requests wait for the first confirmation after a start before they are told to come again.
pub const CONFIRM_WAIT: Duration = Duration::from_secs(1);

const HEAR_FIRST: Duration = Duration::from_millis(50);
const HEARD: &str = "heard.json";
const FORMAT: u32 = 1;

/// What [`HEARD`] says.
#[derive(Serialize, Deserialize)]
struct Heard {
    format: u32,
    /// When the registry's majority was last heard, in milliseconds since 1970.
    wall_ms: u64,
}

/// See the module.
pub struct Keys {
    cache: RwLock<KeyCache>,
    started: Instant,
    /// Whether the registry's majority was heard since the start: before, keys may be missing.
    confirmed: watch::Sender<bool>,
    folder: Arc<Folder>,
    platform: Arc<dyn Platform>,
}

impl Keys {
    /// No keys yet; they are honoured for `ttl` after the registry was last heard.
    pub fn new(ttl: Duration, folder: Arc<Folder>, platform: Arc<dyn Platform>) -> Arc<Self> {
        let mut cache = KeyCache::new(ttl);
        // What lies on this node's disk was the truth when the registry was last heard, before the start.
        if let Some(silence) = silence(&folder, platform.wall_ms().0) {
            cache.heard_before(Duration::ZERO, silence);
        }
        Arc::new(Keys {
            cache: RwLock::new(cache),
            started: Instant::now(),
            confirmed: watch::Sender::new(false),
            folder,
            platform,
        })
    }

    /// Follows the registry's caches until aborted.
    pub fn follow(
        self: &Arc<Self>,
        site_key: Arc<SiteKey>,
        users: Arc<Cache<User>>,
        keys: Arc<Cache<AccessKey>>,
    ) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            users.wait_synced().await;
            keys.wait_synced().await;
            let (mut users_changed, mut keys_changed) = (users.changed(), keys.changed());
            let mut noted = None;
            loop {
                let confirmed = users.last_heard().min(keys.last_heard());
                this.fill(&site_key, &users, &keys, confirmed);
                if let Some(heard) = confirmed
                    && noted < confirmed
                {
                    this.confirmed.send_replace(true);
                    this.note(heard).await;
                    noted = confirmed;
                }
                let look_again = match confirmed {
                    Some(_) => HEAR_EVERY,
                    None => HEAR_FIRST,
                };
                tokio::select! {
                    biased;
                    changed = users_changed.changed() => if changed.is_err() { return },
                    changed = keys_changed.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(look_again) => {}
                }
            }
        })
    }

    fn fill(
        &self,
        site_key: &SiteKey,
        users: &Cache<User>,
        keys: &Cache<AccessKey>,
        heard: Option<Instant>,
    ) {
        let mut filled = self
            .cache
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        filled.clear();
        for user in users.snapshot() {
            if let Err(error) = filled.set_user(user.spec.id, user.spec.user.clone()) {
                tracing::error!(%error, "users were left out");
                break;
            }
        }
        for key in keys.snapshot() {
            let opened = key.spec.open_secret(site_key);
            let stored = match opened {
                Ok(secret) => filled.set_key(&key.spec.access_key, key.spec.user, secret),
                Err(error) => {
                    tracing::error!(%error, key = key.spec.access_key, "an access key can't be opened");
                    continue;
                }
            };
            if let Err(error) = stored {
                tracing::error!(%error, "access keys were left out");
                break;
            }
        }
        if let Some(heard) = heard {
            filled.heard(heard.saturating_duration_since(self.started));
        }
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = filled;
    }
}

impl Keys {
    /// Whether all keys of the site are known here.
    pub fn confirmed(&self) -> bool {
        *self.confirmed.borrow()
    }

    /// Waits until all keys of the site are known here, but not longer than `limit`.
    pub async fn wait_confirmed(&self, limit: Duration) {
        let mut confirmed = self.confirmed.subscribe();
        // Late or not: requests are answered from what is known then.
        let _ = tokio::time::timeout(limit, confirmed.wait_for(|confirmed| *confirmed)).await;
    }

    /// Keeps when the registry was last heard.
    async fn note(&self, heard: Instant) {
        let ago_ms = u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX);
        let heard = Heard {
            format: FORMAT,
            wall_ms: self.platform.wall_ms().0.saturating_sub(ago_ms),
        };
        let folder = self.folder.clone();
        let written = self
            .platform
            .blocking(move || folder.write_json(HEARD, &heard))
            .await;
        if let Err(error) = written {
            tracing::warn!(
                error = format!("{error:#}"),
                "when the registry was heard could not be written down: a start while cut off may honour no keys"
            );
        }
    }
}

/// For how long the registry was not heard; none when that can't be told.
fn silence(folder: &Folder, now_ms: u64) -> Option<Duration> {
    let heard = match folder.json::<Heard>(HEARD) {
        Ok(heard) => heard?,
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "it can't be told when the registry was last heard"
            );
            return None;
        }
    };
    if heard.format != FORMAT {
        return None;
    }
    now_ms.checked_sub(heard.wall_ms).map(Duration::from_millis)
}

/// A user as the doors know it.
fn caller(user: identity::Caller) -> Caller {
    Caller {
        admin: user.role.includes(Role::Admin),
        may_write: user.role.includes(Role::Member),
        user: user.user,
        name: user.name,
    }
}

impl KeyDirectory for Keys {
    fn is_up_to_date(&self) -> bool {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        self.confirmed() && !cache.is_too_old(self.started.elapsed())
    }

    fn find(&self, access_key: &str) -> Option<KeyEntry> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        match cache.decide(access_key, self.started.elapsed()) {
            Decision::Allow {
                caller: user,
                secret,
            } => Some(KeyEntry {
                secret: secret.reveal().to_owned(),
                caller: caller(user),
            }),
            Decision::Unknown => None,
            Decision::TooOld => {
                tracing::warn!(
                    access_key,
                    "a key was refused: this node has not heard the registry for too long"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::{AccessKeySpec, UserSpec};
    use ids::UserId;
    use registry::{CacheOptions, Registry};

    use super::*;
    use crate::node::kinds::NamedUser;
    use crate::node::test_site::{SetClock, registry};

    const TTL: Duration = Duration::from_secs(3600);
    const MINUTE_MS: u64 = 60_000;
    const USER: UserId = UserId([7; 16]);

    struct Site {
        clock: Arc<SetClock>,
        folder: Arc<Folder>,
        site_key: Arc<SiteKey>,
        registry: Arc<Registry>,
        access_key: String,
        _path: tempfile::TempDir,
    }

    /// A site with one user that has one key.
    async fn site() -> Site {
        let path = tempfile::tempdir().unwrap();
        let clock = SetClock::new(path.path());
        let folder = Arc::new(Folder::lock(&path.path().join("node")).unwrap());
        let registry = registry(clock.clone());
        let site_key = Arc::new(SiteKey::from_bytes([1; 32]));
        let platform: Arc<dyn Platform> = clock.clone();
        let made = AccessKeySpec::create(USER, 0, "".into(), &site_key, &mut platform.rng());
        let access_key = made.0.access_key.clone();
        let user = UserSpec {
            name: "u".into(),
            role: Role::Reader,
            project: "p".into(),
        };
        let user = NamedUser { id: USER, user };
        registry.create::<User>("u", user).await.unwrap();
        let created = registry.create::<AccessKey>(&access_key, made.0);
        created.await.unwrap();
        Site {
            clock,
            folder,
            site_key,
            registry,
            access_key,
            _path: path,
        }
    }

    impl Site {
        /// What a start of the node begins with.
        fn start(&self) -> Arc<Keys> {
            Keys::new(TTL, self.folder.clone(), self.clock.clone())
        }

        /// Follows the registry; it says when it was heard, unless the node is cut off.
        fn follow(&self, keys: &Arc<Keys>, cut_off: bool) -> JoinHandle<()> {
            let hear_every = (!cut_off).then_some(HEAR_EVERY);
            let users = CacheOptions {
                index: None,
                hear_every,
            };
            let access_keys = CacheOptions {
                index: None,
                hear_every,
            };
            keys.follow(
                self.site_key.clone(),
                Arc::new(Cache::start_with(&self.registry, users)),
                Arc::new(Cache::start_with(&self.registry, access_keys)),
            )
        }

        fn pass(&self, minutes: u64) {
            let now = self.clock.wall_ms().0;
            self.clock.set(now + minutes * MINUTE_MS);
        }

        async fn until_noted(&self) {
            let noted = async {
                while silence(&self.folder, u64::MAX).is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let within = tokio::time::timeout(Duration::from_secs(60), noted).await;
            within.expect("the hearing is noted");
        }

        async fn until_found(&self, keys: &Keys) -> KeyEntry {
            let found = async {
                loop {
                    match keys.find(&self.access_key) {
                        Some(entry) => return entry,
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            };
            let within = tokio::time::timeout(Duration::from_secs(60), found).await;
            within.expect("the key is known")
        }
    }

    fn too_old(keys: &Keys, after: Duration) -> bool {
        keys.cache.read().unwrap().is_too_old(after)
    }

    #[tokio::test]
    async fn starts_of_a_node_that_is_cut_off_share_one_time_to_live() {
        let site = site().await;
        let keys = site.start();
        assert!(too_old(&keys, Duration::ZERO), "nothing was ever heard");
        let task = site.follow(&keys, false);
        keys.wait_confirmed(Duration::from_secs(60)).await;
        assert!(keys.confirmed() && keys.is_up_to_date());
        site.until_noted().await;
        task.abort();

        site.pass(50);
        let again = site.start();
        assert!(!too_old(&again, Duration::from_secs(9 * 60)));
        assert!(too_old(&again, Duration::from_secs(10 * 60)));
        let task = site.follow(&again, true);
        let entry = site.until_found(&again).await;
        assert!(!entry.caller.may_write, "a reader");
        assert!(!again.confirmed() && !again.is_up_to_date());
        task.abort();

        site.pass(20);
        assert!(too_old(&site.start(), Duration::ZERO));
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_makes_no_key_young() {
        let site = site().await;
        let keys = site.start();
        keys.note(Instant::now()).await;
        site.clock.set(site.clock.wall_ms().0 - MINUTE_MS);
        assert!(too_old(&site.start(), Duration::ZERO));
        let damaged = site.folder.path().join(HEARD);
        std::fs::write(damaged, "{").unwrap();
        site.pass(5);
        assert!(too_old(&site.start(), Duration::ZERO));
    }

    #[test]
    fn roles_are_what_the_doors_go_by() {
        let of = |role| {
            let user = identity::Caller {
                user: USER,
                name: "u".into(),
                role,
                project: "p".into(),
            };
            let Caller {
                admin, may_write, ..
            } = caller(user);
            (admin, may_write)
        };
        assert_eq!(of(Role::Reader), (false, false));
        assert_eq!(of(Role::Member), (false, true));
        assert_eq!(of(Role::Admin), (true, true));
    }
}
