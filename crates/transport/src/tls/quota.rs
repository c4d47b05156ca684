//! Counts how many of something each key holds, up to a bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// At most `max` permits per key; keys that hold none take no memory.
#[derive(Debug)]
pub(super) struct Quota<K: Ord + Copy> {
    max: usize,
    held: Mutex<BTreeMap<K, usize>>,
}

impl<K: Ord + Copy> Quota<K> {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Quota {
            max,
            held: Mutex::default(),
        })
    }

    /// One more for `key`, given back when the permit is dropped; `None` at the bound.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<QuotaPermit<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(QuotaPermit {
            quota: self.clone(),
            key,
        })
    }
}

/// See [`Quota::take`].
#[derive(Debug)]
pub(super) struct QuotaPermit<K: Ord + Copy> {
    quota: Arc<Quota<K>>,
    key: K,
}

impl<K: Ord + Copy> Drop for QuotaPermit<K> {
    fn drop(&mut self) {
        let mut held = self
            .quota
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_its_bound_and_no_more_until_one_is_back() {
        let quota = Quota::new(2);
        let (first, _second) = (quota.take(1).unwrap(), quota.take(1).unwrap());
        assert!(quota.take(1).is_none());
        assert!(quota.take(2).is_some());
        drop(first);
        assert!(quota.take(1).is_some());
        assert_eq!(quota.held.lock().unwrap().len(), 1);
    }
}
