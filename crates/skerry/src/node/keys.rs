//! The access keys that this node honours: opened from the registry's cache, for as long as it may be trusted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use identity::{Decision, KeyCache, Role, SiteKey};
use object_core::api::Caller;
use object_s3::{KeyDirectory, KeyEntry};
use registry::Cache;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::kinds::{AccessKey, User};

/// How often a node checks that what it has is still the registry's truth.
pub const HEAR_EVERY: Duration = Duration::from_secs(30);

const HEAR_FIRST: Duration = Duration::from_millis(50);

/// See the module.
pub struct Keys {
    cache: RwLock<KeyCache>,
    started: Instant,
    /// Whether the registry's majority was heard since the start: before, keys may be missing.
    confirmed: AtomicBool,
}

impl Keys {
    /// No keys yet; they are honoured for `ttl` after the registry was last heard.
    pub fn new(ttl: Duration) -> Arc<Self> {
        Arc::new(Keys {
            cache: RwLock::new(KeyCache::new(ttl)),
            started: Instant::now(),
            confirmed: AtomicBool::new(false),
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
            // What lies on this node's disk was the truth when it stopped: honoured for the time to live.
            let mut heard = Some(this.started);
            loop {
                let confirmed = users.last_heard().min(keys.last_heard());
                heard = confirmed.max(heard);
                this.fill(&site_key, &users, &keys, heard);
                this.confirmed
                    .fetch_or(confirmed.is_some(), Ordering::Release);
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
        self.confirmed.load(Ordering::Acquire)
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
            Decision::Allow { caller, secret } => Some(KeyEntry {
                secret: secret.reveal().to_owned(),
                caller: Caller {
                    user: caller.user,
                    name: caller.name,
                    admin: caller.role == Role::Admin,
                },
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
