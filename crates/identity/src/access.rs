//! The access keys that a node has cached, and how long it honours them when it is cut off.
//!
//! A node fills the cache from its watch of the registry, so that no request asks the registry. A removed key is gone as
//! soon as the watch says so. A node that no longer hears the registry can't know what was removed: it honours what it has
//! for `identity.cache_ttl` (default one hour) after it last heard, then refuses everybody with [`Decision::TooOld`].
//! "Heard" means that the registry's leader confirmed that this node is up to date, not only that a change arrived.
//!
//! Times are durations since the start of this process, on a clock that never goes back.
//! Invariant: a key is allowed only together with its user, as both were in the registry at one of the last
//! confirmed moments.

use std::collections::BTreeMap;
use std::time::Duration;

use ids::UserId;

use crate::secret::Secret;
use crate::users::{Role, UserSpec};

/// Default of `identity.cache_ttl`.
pub const CACHE_TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// Most keys that a node caches, and most users.
pub const ENTRIES_MAX: usize = 100_000;

/// The cache is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the site has more than {ENTRIES_MAX} users or access keys: remove some")]
pub struct CacheFull;

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The user's project.
    pub project: String,
}

/// What to do with a request that names an access key. Its signature is still to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The key is known: if the signature fits this secret, the request is this caller's.
    Allow {
        /// The key's owner.
        caller: Caller,
        /// What the request must be signed with.
        secret: Secret,
    },
    /// There is no such key, or its user is gone.
    Unknown,
    /// This node has not heard the registry for too long (or not yet) to say. The caller may try another node.
    TooOld,
}

#[derive(Debug, Clone)]
struct CachedKey {
    user: UserId,
    secret: Secret,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct KeyCache {
    ttl: Duration,
    keys: BTreeMap<String, CachedKey>,
    users: BTreeMap<UserId, UserSpec>,
    good_until: Option<Duration>,
}

impl KeyCache {
    /// An empty cache, which says [`Decision::TooOld`] until [`KeyCache::heard`].
    pub fn new(ttl: Duration) -> Self {
        KeyCache {
            ttl,
            keys: BTreeMap::new(),
            users: BTreeMap::new(),
            good_until: None,
        }
    }

    /// Takes note that what is cached was the registry's truth at `at`.
    pub fn heard(&mut self, at: Duration) {
        self.heard_before(at, Duration::ZERO);
    }

    /// Takes note that what is cached was the registry's truth `age` before `now`: for a node that starts while it is cut
    /// off, from its own copy of the registry.
    pub fn heard_before(&mut self, now: Duration, age: Duration) {
        let good_until = (now + self.ttl).checked_sub(age);
        self.good_until = self.good_until.max(good_until);
    }

    /// Forgets keys and users, before a new listing of the registry is put in.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.users.clear();
    }

    /// Puts a key in, or changes it.
    pub fn set_key(
        &mut self,
        access_key: &str,
        user: UserId,
        secret: Secret,
    ) -> Result<(), CacheFull> {
        if self.keys.len() >= ENTRIES_MAX && !self.keys.contains_key(access_key) {
            return Err(CacheFull);
        }
        self.keys
            .insert(access_key.to_owned(), CachedKey { user, secret });
        Ok(())
    }

    /// Removes a key.
    pub fn remove_key(&mut self, access_key: &str) {
        self.keys.remove(access_key);
    }

    /// Puts a user in, or changes it.
    pub fn set_user(&mut self, user: UserId, spec: UserSpec) -> Result<(), CacheFull> {
        if self.users.len() >= ENTRIES_MAX && !self.users.contains_key(&user) {
            return Err(CacheFull);
        }
        self.users.insert(user, spec);
        Ok(())
    }

    /// Removes a user; its keys are no longer honoured.
    pub fn remove_user(&mut self, user: UserId) {
        self.users.remove(&user);
    }

    /// Whether the registry was not heard for too long, or never.
    pub fn is_too_old(&self, now: Duration) -> bool {
        self.good_until.is_none_or(|good_until| now >= good_until)
    }

    /// What to do with a request that names `access_key`.
    pub fn decide(&self, access_key: &str, now: Duration) -> Decision {
        if self.is_too_old(now) {
            return Decision::TooOld;
        }
        let Some(key) = self.keys.get(access_key) else {
            return Decision::Unknown;
        };
        match self.caller(key.user) {
            Some(caller) => Decision::Allow {
                caller,
                secret: key.secret.clone(),
            },
            None => Decision::Unknown,
        }
    }

    /// A user as a caller.
    pub fn caller(&self, user: UserId) -> Option<Caller> {
        let UserSpec {
            name,
            role,
            project,
        } = self.users.get(&user)?.clone();
        Some(Caller {
            user,
            name,
            role,
            project,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId([7; 16]);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn cache() -> KeyCache {
        let mut cache = KeyCache::new(CACHE_TTL_DEFAULT);
        let spec = UserSpec {
            name: "u".into(),
            role: Role::Member,
            project: "p".into(),
        };
        cache.set_user(USER, spec).unwrap();
        cache.set_key("SKA", USER, Secret::new("s".into())).unwrap();
        cache
    }

    fn allows(cache: &KeyCache, now: u64) -> bool {
        matches!(cache.decide("SKA", secs(now)), Decision::Allow { caller, .. } if caller.user == USER)
    }

    #[test]
    fn a_cut_off_node_honours_its_keys_for_the_ttl_and_not_longer() {
        let mut cache = cache();
        assert_eq!(cache.decide("SKA", secs(0)), Decision::TooOld);
        cache.heard(secs(10));
        assert!(allows(&cache, 10) && allows(&cache, 3609));
        assert_eq!(cache.decide("SKA", secs(3610)), Decision::TooOld);
        assert_eq!(cache.decide("SKB", secs(3610)), Decision::TooOld);
        cache.heard(secs(4000));
        assert!(allows(&cache, 4000));
        cache.heard(secs(20));
        assert!(
            allows(&cache, 7599),
            "a late report doesn't shorten the time"
        );
    }

    #[test]
    fn a_node_that_starts_cut_off_has_what_is_left_of_the_ttl() {
        let mut cache = cache();
        cache.heard_before(secs(0), secs(3000));
        assert!(allows(&cache, 599));
        assert_eq!(cache.decide("SKA", secs(600)), Decision::TooOld);
        let mut stale = self::cache();
        stale.heard_before(secs(0), secs(9000));
        assert_eq!(stale.decide("SKA", secs(0)), Decision::TooOld);
    }

    #[test]
    fn removed_keys_and_keys_of_removed_users_are_unknown_at_once() {
        let mut cache = cache();
        cache.heard(secs(0));
        assert_eq!(cache.decide("SKB", secs(1)), Decision::Unknown);
        cache.remove_user(USER);
        assert_eq!(cache.decide("SKA", secs(1)), Decision::Unknown);
        let mut cache = self::cache();
        cache.heard(secs(0));
        cache.remove_key("SKA");
        assert_eq!(cache.decide("SKA", secs(1)), Decision::Unknown);
    }

    #[test]
    fn a_changed_role_holds_at_once() {
        let mut cache = cache();
        cache.heard(secs(0));
        let spec = UserSpec {
            name: "u".into(),
            role: Role::Reader,
            project: "p".into(),
        };
        cache.set_user(USER, spec).unwrap();
        assert_eq!(cache.caller(USER).unwrap().role, Role::Reader);
    }
}
