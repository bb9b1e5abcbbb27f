//! The routes of all namespaces that this process serves, so that no two of them own the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use presenceroute_crds::PresenceRoute;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the routes of one namespace wait for those of the others to be known, once. A namespace that cannot be
/// listed must not stop the rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes of all namespaces that this process serves, as its watches know them. Clones share them.
#[derive(Clone)]
pub struct Neighbours {
    namespaces: usize,
    stores: Arc<Mutex<Vec<Store<DeserializeGuard<PresenceRoute>>>>>,
    /// How many of the stores hold all that was there at the start.
    listed: watch::Sender<usize>,
    /// When those that wait for them go on without.
    deadline: Arc<OnceLock<Instant>>,
    has_told: Arc<AtomicBool>,
}

/// A store that does not hold all of its namespace's routes yet. Dropped when it does.
pub struct Joining(watch::Sender<usize>);

impl Drop for Joining {
    fn drop(&mut self) {
        self.0.send_modify(|listed| *listed += 1);
    }
}

impl Neighbours {
    /// Of so many namespaces, each with a store of its own; all namespaces together are one.
    pub fn of(namespaces: usize) -> Self {
        Self {
            namespaces,
            stores: Arc::default(),
            listed: watch::Sender::new(0),
            deadline: Arc::default(),
            has_told: Arc::default(),
        }
    }

    /// Takes up the store of one of them.
    pub fn join(&self, routes: Store<DeserializeGuard<PresenceRoute>>) -> Joining {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(routes);
        Joining(self.listed.clone())
    }

    /// Resolves when all are known, so that nobody is taken for the oldest who is not.
    pub async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        let all = listed.wait_for(|listed| *listed >= self.namespaces);
        let deadline = *self.deadline.get_or_init(|| Instant::now() + PATIENCE);
        if tokio::time::timeout_at(deadline, all).await.is_err()
            && !self.has_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the PresenceRoutes of some namespace are not known yet; going on without");
        }
    }

    /// All routes.
    pub fn routes(&self) -> Vec<Arc<DeserializeGuard<PresenceRoute>>> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.iter().flat_map(Store::state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_compared_before_the_routes_of_every_namespace_are_known() {
        use kube::runtime::reflector::store;
        let neighbours = Neighbours::of(2);
        let (one, two) = (neighbours.join(store().0), neighbours.join(store().0));
        drop(one);
        let short = Duration::from_secs(1);
        assert!(tokio::time::timeout(short, neighbours.listed()).await.is_err());
        drop(two);
        assert!(tokio::time::timeout(short, neighbours.listed()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_cannot_be_listed_is_waited_for_once() {
        let neighbours = Neighbours::of(1);
        neighbours.listed().await;
        let began = Instant::now();
        neighbours.clone().listed().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
