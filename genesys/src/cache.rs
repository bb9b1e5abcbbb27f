//! Things that all routes share, found by a key and forgotten when nobody asked for them for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Longer than any two calls of a route that is cared for are apart.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

pub(crate) struct Cache<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
}

struct Entry<V> {
    value: Arc<V>,
    asked: Instant,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    /// The value for the key, made now if there is none.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        if let Some(entry) = entries.get_mut(&key) {
            entry.asked = now;
            return Ok(Arc::clone(&entry.value));
        }
        // What is in use elsewhere stays: a second one beside it would share nothing with it.
        entries.retain(|_, entry| Arc::strong_count(&entry.value) > 1 || now - entry.asked < FORGET_AFTER);
        let value = Arc::new(make()?);
        entries.insert(key, Entry { value: Arc::clone(&value), asked: now });
        Ok(value)
    }
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}
