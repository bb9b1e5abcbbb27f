//! The routes of all namespaces that this process serves, so that two routes never own the same.
//!
//! The routes themselves are in the stores that the controllers read; what changed by a watch, and the search across the
//! stores, is kept here. Which of two routes has to stand back is left to the conflict rules.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use presenceroute_crds::PresenceRoute;
use tokio::time::Instant;

use super::key::RouteKey;
use super::listing::{Entry, Listing};
use super::ready::Outstanding;

/// A route, or an object that was stored as one and does not parse.
pub type RouteOrInvalid = DeserializeGuard<PresenceRoute>;

/// How long the routes of one namespace wait for those of the others to be known, once. A namespace that cannot be
/// listed must not stop the rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes of all namespaces that this process serves, as its watches know them. Clones share them.
#[derive(Clone)]
pub struct RouteIndex {
    stores: Arc<Mutex<Vec<Store<RouteOrInvalid>>>>,
    outstanding: Outstanding,
    /// The end of the wait for namespaces that are not listed.
    deadline: Arc<OnceLock<Instant>>,
    has_warned: Arc<AtomicBool>,
}

impl RouteIndex {
    /// Of so many namespaces, each with a store of its own; all namespaces together count as one.
    pub fn of(namespaces: usize) -> Self {
        Self {
            stores: Arc::default(),
            outstanding: Outstanding::listings(namespaces),
            deadline: Arc::default(),
            has_warned: Arc::default(),
        }
    }

    /// Adds the store of one namespace, and returns the handler for its watch.
    pub fn add(&self, store: Store<RouteOrInvalid>) -> RouteWatchHandler {
        self.stores.lock().push(store);
        RouteWatchHandler {
            routes: Listing::default(),
            everywhere: self.outstanding.clone(),
            here: Outstanding::listings(1),
        }
    }

    /// Resolves when the routes of all namespaces are known, so that no route is wrongly taken for the oldest.
    pub async fn ready(&self) {
        let deadline = *self.deadline.get_or_init(|| Instant::now() + PATIENCE);
        if tokio::time::timeout_at(deadline, self.outstanding.all_complete()).await.is_err()
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the PresenceRoutes of some namespaces cannot be listed; continuing without them");
        }
    }

    /// All routes.
    pub fn routes(&self) -> Vec<Arc<RouteOrInvalid>> {
        self.stores.lock().iter().flat_map(Store::state).collect()
    }
}

/// Tells which events of a watch change what a route asks for.
pub struct RouteWatchHandler {
    routes: Listing<Revision>,
    /// The listings of all namespaces, and the one of this watch.
    everywhere: Outstanding,
    here: Outstanding,
}

/// What changes when the spec or the finalizers do, and not when the status does.
struct Revision(u64);

impl Entry for Revision {
    const REPORTS_FIRST_LISTING: bool = true;

    fn is_change_from(&self, former: &Self) -> bool {
        self.0 != former.0
    }
}

impl Revision {
    fn of(route: &RouteOrInvalid) -> Self {
        let mut hasher = DefaultHasher::new();
        (&route.meta().uid, route.meta().generation, route.finalizers()).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl RouteWatchHandler {
    /// Takes one event that the store has taken, and returns the routes that are to be reconciled. A listing is in the
    /// store when all of its pages are, so its routes are returned with its end: a reconcile that began before would
    /// read what was there before the listing, or nothing.
    pub fn handle(&mut self, event: Event<RouteOrInvalid>) -> Vec<RouteKey> {
        let was_complete = self.routes.is_complete();
        let changed = self.routes.apply(event, |route| Some(Revision::of(&route)));
        if self.routes.is_complete() && !was_complete {
            self.everywhere.complete_one();
            self.here.complete_one();
        }
        changed
    }

    /// The listing of this watch.
    pub fn outstanding(&self) -> Outstanding {
        self.here.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use kube::runtime::reflector::store;
    use serde_json::json;

    use super::*;

    /// A route whose spec is at this generation.
    fn route(name: &str, version: u64, generation: u64) -> RouteOrInvalid {
        serde_json::from_value(json!({
            "apiVersion": "presenceroute.io/v1alpha1",
            "kind": "PresenceRoute",
            "metadata": {
                "name": name, "namespace": "presence", "uid": name,
                "resourceVersion": version.to_string(), "generation": generation,
            },
        }))
        .unwrap()
    }

    fn names(keys: Vec<RouteKey>) -> Vec<String> {
        keys.into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn a_listing_is_returned_when_it_is_complete() {
        let mut handler = RouteIndex::of(1).add(store().0);
        let events = [
            Event::Init,
            Event::InitApply(route("from a listing that was cut short", 1, 1)),
            Event::Init,
            Event::InitApply(route("one", 1, 1)),
            Event::InitApply(route("two", 2, 1)),
        ];
        for event in events {
            assert_eq!(handler.handle(event), []);
        }
        let listed = names(handler.handle(Event::InitDone));
        assert!(listed.contains(&"one".to_owned()) && listed.contains(&"two".to_owned()), "{listed:?}");
        assert_eq!(names(handler.handle(Event::Apply(route("three", 3, 1)))), ["three"]);
    }

    #[test]
    fn an_edit_is_a_change_and_a_new_status_is_not() {
        let mut handler = RouteIndex::of(1).add(store().0);
        assert_eq!(names(handler.handle(Event::Apply(route("one", 1, 1)))), ["one"]);
        assert_eq!(handler.handle(Event::Apply(route("one", 2, 1))), []);
        assert_eq!(names(handler.handle(Event::Apply(route("one", 3, 2)))), ["one"]);
        let mut held = route("one", 4, 2);
        held.finalizers_mut().push("presenceroute.io/registration".into());
        assert_eq!(names(handler.handle(Event::Apply(held.clone()))), ["one"]);
        for event in [Event::Init, Event::InitApply(held), Event::InitDone] {
            assert_eq!(handler.handle(event), []);
        }
    }

    #[test]
    fn another_route_of_the_same_name_is_a_change() {
        let mut handler = RouteIndex::of(1).add(store().0);
        handler.handle(Event::Apply(route("one", 1, 1)));
        let mut successor = route("one", 2, 1);
        successor.meta_mut().uid = Some("another".into());
        assert_eq!(names(handler.handle(Event::Apply(successor))), ["one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_of_every_namespace_are_waited_for() {
        let index = RouteIndex::of(2);
        let (mut one, mut two) = (index.add(store().0), index.add(store().0));
        one.handle(Event::InitDone);
        assert!(one.outstanding().all_complete().now_or_never().is_some());
        let mut ready = Box::pin(index.ready());
        assert!((&mut ready).now_or_never().is_none());
        two.handle(Event::InitDone);
        assert!(ready.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_cannot_be_listed_is_waited_for_once() {
        let index = RouteIndex::of(1);
        let began = Instant::now();
        index.ready().await;
        assert_eq!(began.elapsed(), PATIENCE);
        index.clone().ready().await;
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
