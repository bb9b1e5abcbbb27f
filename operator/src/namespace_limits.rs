//! How much of a kind of work may be under way, of one namespace and of all: a namespace that causes much of it waits for
//! itself, and others wait for no more than its share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The permits of one kind of work.
pub(crate) struct NamespaceLimits {
    all: Semaphore,
    in_namespace: usize,
    /// By namespace, as long as work of the namespace is under way or waits.
    by_namespace: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Permission for one piece of work, until it is dropped.
#[must_use]
pub(crate) struct Permit<'l> {
    // An error means that the semaphore was closed, which it never is.
    _in_namespace: Option<OwnedSemaphorePermit>,
    _of_all: Option<SemaphorePermit<'l>>,
}

impl NamespaceLimits {
    /// So many at once, and so many of them for one namespace.
    pub(crate) fn new(at_once: usize, in_namespace: usize) -> Self {
        Self { all: Semaphore::new(at_once), in_namespace, by_namespace: Mutex::default() }
    }

    /// Waits until work of this namespace may begin. Those of a namespace begin in the order in which they ask.
    pub(crate) async fn acquire(&self, namespace: &str) -> Permit<'_> {
        // In this order, so that what waits for its own namespace holds up no other.
        let in_namespace = self.of_namespace(namespace).acquire_owned().await.ok();
        Permit { _in_namespace: in_namespace, _of_all: self.all.acquire().await.ok() }
    }

    fn of_namespace(&self, namespace: &str) -> Arc<Semaphore> {
        let mut by_namespace = self.by_namespace.lock();
        if let Some(limit) = by_namespace.get(namespace).and_then(Weak::upgrade) {
            return limit;
        }
        by_namespace.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(Semaphore::new(self.in_namespace));
        by_namespace.insert(namespace.to_owned(), Arc::downgrade(&limit));
        limit
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_busy_namespace_waits_for_itself_and_holds_up_no_other() {
        let limits = NamespaceLimits::new(3, 2);
        let held = [limits.acquire("busy").await, limits.acquire("busy").await];
        let mut waiting = Box::pin(limits.acquire("busy"));
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = limits.acquire("other").now_or_never().expect("there is room for another namespace");
        assert!(limits.acquire("third").now_or_never().is_none(), "three are under way");
        drop(other);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_namespace_without_work_is_forgotten() {
        let limits = NamespaceLimits::new(2, 1);
        for namespace in ["one", "other", "third"] {
            drop(limits.acquire(namespace).await);
        }
        let _held = limits.acquire("fourth").await;
        assert_eq!(limits.by_namespace.lock().len(), 1);
    }
}
