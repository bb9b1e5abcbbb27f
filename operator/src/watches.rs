//! What wakes a route: an edit of itself, its relay pods, its other children, and the Secrets that it names.
//!
//! Each watch fills what the reconciles read, and tells which routes have something to do because of it. Only changes
//! wake anybody; a watch that fails goes on by itself, with backoff.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use presenceroute_crds::PresenceRoute;

use crate::apply;
use crate::children::{Children, Feed, RouteKey};
use crate::relays;
use crate::route_index::Neighbours;
use crate::secret_cache::{SecretCache, SecretKey};
use presenceroute_manifest::build::{MANAGED_BY, RELAY_COMPONENT, ROUTE_LABEL, http_route};
use presenceroute_manifest::dereference::referenced_secrets;

/// How many objects a listing brings at a time. Thousands of routes pass by in pieces, not all at once.
const PAGE: u32 = 50;
/// How soon a Gateway API that a route waits for is noticed.
const GATEWAY_API_POLL: Duration = Duration::from_secs(10);

/// A route, or an object that was stored as one and cannot be read.
pub(crate) type Guarded = DeserializeGuard<PresenceRoute>;
/// The routes that have something to do.
pub(crate) type Waker = BoxStream<'static, ObjectRef<Guarded>>;
/// The routes whose spec or finalizers are others than they were.
pub(crate) type Edited = BoxStream<'static, Result<Guarded, watcher::Error>>;

/// One namespace, or all.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) client: Client,
    pub(crate) namespace: Option<String>,
}

impl Scope {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn dynamic_api(&self, kind: &ApiResource) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
            None => Api::all_with(self.client.clone(), kind),
        }
    }
}

/// What the reconciles know of the cluster without asking.
pub(crate) struct Caches {
    pub(crate) pods: Store<Pod>,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) children: Arc<Children>,
}

impl Caches {
    /// Resolves when all is known that there is.
    pub(crate) fn ready(&self) -> BoxFuture<'static, ()> {
        let (children, secrets, pods) =
            (Arc::clone(&self.children), Arc::clone(&self.secrets), self.pods.clone());
        async move {
            // An error means that the watch's stream was dropped: the controller is on its way out.
            let _ = tokio::join!(children.ready(), secrets.ready(), pods.wait_until_ready());
        }
        .boxed()
    }
}

/// Everything but the routes themselves.
pub(crate) fn caches(scope: &Scope, routes: &Store<Guarded>, has_gateway_api: bool) -> (Caches, Vec<Waker>) {
    let (pods, pods_waker) = pods(scope);
    let secret_cache = Arc::new(SecretCache::new(scope.client.clone()));
    let known = Arc::new(Children::new(apply::child_kinds()));
    let http_routes = http_route::api_resource();
    let mut wakers = vec![pods_waker, secrets(scope, Arc::clone(&secret_cache), routes.clone())];
    wakers.extend(known.feeds().map(|feed| {
        if *feed.kind() == http_routes && !has_gateway_api {
            http_routes_to_come(scope.clone(), feed, routes.clone())
        } else {
            children(scope, feed)
        }
    }));
    (Caches { pods, secrets: secret_cache, children: known }, wakers)
}

fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// The routes themselves, which their neighbours know of, too.
pub(crate) fn routes(scope: &Scope, neighbours: &Neighbours) -> (Store<Guarded>, Edited) {
    let (routes, writer) = reflector::store();
    let mut joining = Some(neighbours.join(routes.clone()));
    let events = watcher(scope.api::<Guarded>(), watch_config())
        .default_backoff()
        .modify(|route| route.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_ok(move |event| {
            if matches!(event, watcher::Event::InitDone) {
                drop(joining.take());
            }
        });
    let edited = stored(events)
        .predicate_filter(predicates::generation.combine(predicates::finalizers), PredicateConfig::default());
    // An error would stop all triggers of the controller for a while, and the watch has its own backoff.
    let edited = edited.filter_map(async |route| seen(route)).map(Ok);
    (routes, edited.boxed())
}

/// What a watch brought, once the store has it. A listing is in the store when all of its pages are: a reconcile that
/// began before would work on what was there before the listing, or find nothing, and nobody would wake the route again.
fn stored<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
) -> impl Stream<Item = Result<K, watcher::Error>> {
    let mut listed = Vec::new();
    let objects = events.map_ok(move |event| match event {
        watcher::Event::Init => {
            listed.clear();
            Vec::new()
        }
        watcher::Event::InitApply(object) => {
            listed.push(object);
            Vec::new()
        }
        watcher::Event::InitDone => std::mem::take(&mut listed),
        watcher::Event::Apply(object) => vec![object],
        watcher::Event::Delete(_) => Vec::new(),
    });
    objects.map_ok(|objects| stream::iter(objects).map(Ok)).try_flatten()
}

/// Relay pods wake their route, and are kept with what `relays` reads of them.
fn pods(scope: &Scope) -> (Store<Pod>, Waker) {
    let (store, writer) = reflector::store();
    let labels = format!("{}={},{ROUTE_LABEL}", RELAY_COMPONENT.0, RELAY_COMPONENT.1);
    let waker = watcher(scope.api::<Pod>(), watch_config().labels(&labels))
        .default_backoff()
        .modify(relays::trim)
        .reflect(writer)
        .filter_map(async |event| seen(event));
    let mut known = Versions::default();
    let waker = waker.flat_map(move |event| stream::iter(known.take(&event)));
    (store, waker.boxed())
}

/// Which objects a watch has brought, each in which version and of which route, to tell whose have changed. A listing
/// changes nothing before it is whole, as in the store.
#[derive(Default)]
struct Versions {
    known: HashMap<ObjectKey, Version>,
    /// What the listing that is under way has brought.
    listed: HashMap<ObjectKey, Version>,
}

/// The namespace and the name of an object.
type ObjectKey = (Option<String>, Option<String>);
/// The version of an object, and its route.
type Version = (Option<String>, Option<ObjectRef<Guarded>>);

impl Versions {
    /// Takes one event, and gives the routes whose objects are otherwise than they were known to be.
    fn take(&mut self, event: &watcher::Event<Pod>) -> Vec<ObjectRef<Guarded>> {
        let entry = |pod: &Pod| {
            let ObjectMeta { namespace, name, resource_version, .. } = &pod.metadata;
            ((namespace.clone(), name.clone()), (resource_version.clone(), owner(pod)))
        };
        match event {
            watcher::Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            watcher::Event::InitApply(pod) => {
                self.listed.extend([entry(pod)]);
                Vec::new()
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listed));
                let new = self.known.iter().filter(|(key, version)| before.get(*key) != Some(version));
                let gone = before.iter().filter(|(key, _)| !self.known.contains_key(*key));
                new.chain(gone).filter_map(|(_, (_, route))| route.clone()).collect()
            }
            watcher::Event::Apply(pod) => {
                let (key, version) = entry(pod);
                let route = version.1.clone();
                self.known.insert(key, version);
                route.into_iter().collect()
            }
            watcher::Event::Delete(pod) => {
                let (key, (_, route)) = entry(pod);
                self.known.remove(&key);
                route.into_iter().collect()
            }
        }
    }
}

/// A Secret wakes the routes that name it. Of the Secrets of others only the metadata is asked for.
fn secrets(scope: &Scope, secrets: Arc<SecretCache>, routes: Store<Guarded>) -> Waker {
    watcher(scope.api::<PartialObjectMeta<Secret>>(), watch_config())
        .default_backoff()
        .filter_map(async |event| seen(event))
        .flat_map(move |event| {
            let changed = secrets.take(event);
            stream::iter(changed.iter().flat_map(|secret| referrers(&routes, secret)).collect::<Vec<_>>())
        })
        .boxed()
}

/// A child wakes its route when it is no longer as it was known to be.
fn children(scope: &Scope, mut feed: Feed) -> Waker {
    let labels = format!("{}={},{ROUTE_LABEL}", MANAGED_BY.0, MANAGED_BY.1);
    watcher(scope.dynamic_api(feed.kind()), watch_config().labels(&labels))
        .default_backoff()
        .filter_map(async |event| seen(event))
        .flat_map(move |event| stream::iter(feed.take(event)))
        .map(reference)
        .boxed()
}

/// HTTPRoutes where the API server does not have them: they are watched once it has, and the routes that want one are
/// woken. No right to watch definitions is needed for it, which a Role could not grant; the API server is asked, and
/// only while a route wants one.
fn http_routes_to_come(scope: Scope, mut feed: Feed, routes: Store<Guarded>) -> Waker {
    feed.set_served(false);
    let come = async move {
        gateway_api(&scope.client, &routes).await;
        tracing::info!("the Gateway API is there now; HTTPRoutes are made and watched");
        feed.set_served(true);
        stream::iter(wanting_gateway(&routes)).chain(children(&scope, feed))
    };
    stream::once(come).flatten().boxed()
}

/// Resolves when a route wants the Gateway API and the API server has it.
async fn gateway_api(client: &Client, routes: &Store<Guarded>) {
    loop {
        tokio::time::sleep(GATEWAY_API_POLL).await;
        if wanting_gateway(routes).is_empty() {
            continue;
        }
        match apply::has_gateway_api(client).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the API server cannot be asked for the Gateway API; trying again");
            }
        }
    }
}

/// What a watch brought.
fn seen<T>(result: Result<T, watcher::Error>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "a watch was interrupted; it starts again")).ok()
}

/// How the controller calls a route.
pub(crate) fn reference(RouteKey { namespace, name }: RouteKey) -> ObjectRef<Guarded> {
    ObjectRef::new(&name).within(&namespace)
}

/// The route that an object of ours belongs to.
fn owner(object: &impl ResourceExt) -> Option<ObjectRef<Guarded>> {
    let route = object.labels().get(ROUTE_LABEL)?;
    Some(ObjectRef::new(route).within(&object.namespace()?))
}

/// The routes that name a Secret.
fn referrers(routes: &Store<Guarded>, secret: &SecretKey) -> Vec<ObjectRef<Guarded>> {
    those(routes, |route| secrets_of(route).any(|named| named == *secret))
}

fn wanting_gateway(routes: &Store<Guarded>) -> Vec<ObjectRef<Guarded>> {
    those(routes, |route| route.spec.endpoint.as_ref().is_some_and(|endpoint| endpoint.gateway.is_some()))
}

fn those(routes: &Store<Guarded>, are_so: impl Fn(&PresenceRoute) -> bool) -> Vec<ObjectRef<Guarded>> {
    let routes = routes.state();
    let readable = routes.iter().filter_map(|route| route.0.as_ref().ok());
    readable
        .filter(|route| are_so(route))
        .map(|route| ObjectRef::new(&route.name_any()).within(&route.namespace().unwrap_or_default()))
        .collect()
}

/// The Secrets that a route names.
pub(crate) fn secrets_of(route: &PresenceRoute) -> impl Iterator<Item = SecretKey> {
    let namespace = route.namespace().unwrap_or_default();
    referenced_secrets(&route.spec)
        .map(move |name| SecretKey { namespace: namespace.clone(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use kube::runtime::watcher::Event;

    use super::*;

    #[test]
    fn a_listing_wakes_routes_when_it_is_whole() {
        let (events, watched) = mpsc::unbounded();
        let mut stored = stored(watched).boxed();
        let mut woken_by = |event| {
            events.unbounded_send(Ok(event)).unwrap();
            let mut woken = Vec::new();
            while let Some(Some(object)) = stored.next().now_or_never() {
                woken.push(object.unwrap());
            }
            woken
        };
        let none: [&str; 0] = [];
        assert_eq!(woken_by(Event::Init), none);
        assert_eq!(woken_by(Event::InitApply("of a listing that was cut short")), none);
        assert_eq!(woken_by(Event::Init), none);
        assert_eq!(woken_by(Event::InitApply("one")), none);
        assert_eq!(woken_by(Event::InitApply("two")), none);
        assert_eq!(woken_by(Event::InitDone), ["one", "two"]);
        assert_eq!(woken_by(Event::Apply("three")), ["three"]);
        assert_eq!(woken_by(Event::Delete("one")), none);
    }

    #[test]
    fn pods_wake_their_route_when_they_have_changed_and_a_listing_when_it_is_whole() {
        let pod = |name: &str, version: &str, route: &str| {
            let mut pod = Pod::default();
            pod.metadata.namespace = Some("presence".into());
            pod.metadata.name = Some(name.into());
            pod.metadata.resource_version = Some(version.into());
            pod.labels_mut().insert(ROUTE_LABEL.into(), route.into());
            pod
        };
        let mut versions = Versions::default();
        let mut woken_by = |event: Event<Pod>| {
            let mut woken: Vec<_> = versions.take(&event).into_iter().map(|route| route.name).collect();
            woken.sort();
            woken
        };
        let none: [&str; 0] = [];
        for (name, route) in [("a-1", "a"), ("b-1", "b"), ("c-1", "c")] {
            assert_eq!(woken_by(Event::InitApply(pod(name, "1", route))), none);
        }
        assert_eq!(woken_by(Event::InitDone), ["a", "b", "c"]);
        assert_eq!(woken_by(Event::Apply(pod("a-1", "2", "a"))), ["a"]);
        assert_eq!(woken_by(Event::Delete(pod("a-1", "3", "a"))), ["a"]);

        // While the watch was away, one has stayed as it was, one has changed, one has come and one has gone.
        assert_eq!(woken_by(Event::Apply(pod("d-1", "4", "d"))), ["d"]);
        assert_eq!(woken_by(Event::Init), none);
        for (name, version, route) in [("b-1", "1", "b"), ("c-1", "5", "c"), ("e-1", "6", "e")] {
            assert_eq!(woken_by(Event::InitApply(pod(name, version, route))), none);
        }
        assert_eq!(woken_by(Event::InitDone), ["c", "d", "e"]);
    }
}
