//! Values that all routes share, found by a key. Those in use are kept; others are forgotten after a while, and the oldest
//! of them as soon as there are many.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Longer than any two requests of a route that is reconciled are apart.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// The most values that are kept while they are not in use: a secret that is edited in a loop makes one each time.
const MAX_UNUSED: usize = 1024;

pub(crate) struct Cache<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    max_unused: usize,
}

struct Entry<V> {
    value: Arc<V>,
    asked: Instant,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    /// Of values so large that no more than so many are kept while they are not in use.
    pub(crate) fn of_large(max_unused: usize) -> Self {
        Self { entries: Mutex::default(), max_unused }
    }

    /// The value for the key, made now if there is none.
    pub(crate) fn get_or_insert(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let Ok(value) = self.get(key, || Ok::<_, Infallible>(make()));
        value
    }

    /// The value for the key, made now if there is none and it can be made.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        if let Some(entry) = entries.get_mut(&key) {
            entry.asked = now;
            return Ok(Arc::clone(&entry.value));
        }
        // A value in use stays: a second one beside it would share nothing with it.
        let is_unused = |entry: &Entry<V>| Arc::strong_count(&entry.value) == 1;
        entries.retain(|_, entry| !is_unused(entry) || now - entry.asked < FORGET_AFTER);
        if entries.len() >= self.max_unused {
            let mut unused: Vec<_> =
                entries.values().filter(|entry| is_unused(entry)).map(|entry| entry.asked).collect();
            if unused.len() >= self.max_unused {
                let (_, median, _) = unused.select_nth_unstable(self.max_unused / 2);
                let oldest_kept = *median;
                entries.retain(|_, entry| !is_unused(entry) || entry.asked > oldest_kept);
            }
        }
        let value = Arc::new(make()?);
        entries.insert(key, Entry { value: Arc::clone(&value), asked: now });
        Ok(value)
    }
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::default(), max_unused: MAX_UNUSED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(cache: &Cache<usize, usize>, key: usize) -> Arc<usize> {
        cache.get_or_insert(key, || key)
    }

    #[test]
    fn a_value_is_shared_by_its_key() {
        let cache = Cache::default();
        assert!(Arc::ptr_eq(&get(&cache, 1), &get(&cache, 1)));
        assert!(!Arc::ptr_eq(&get(&cache, 1), &get(&cache, 2)));
    }

    #[test]
    fn many_unused_values_are_forgotten_and_those_in_use_are_not() {
        for (cache, max_unused) in [(Cache::default(), MAX_UNUSED), (Cache::of_large(16), 16)] {
            let in_use: Vec<_> = (0..2 * max_unused).map(|key| get(&cache, key)).collect();
            for key in 0..10 * max_unused {
                get(&cache, in_use.len() + key);
            }
            assert!(cache.entries.lock().len() <= in_use.len() + max_unused);
            for (key, value) in in_use.iter().enumerate() {
                assert!(Arc::ptr_eq(value, &get(&cache, key)), "{key}");
            }
        }
    }
}
