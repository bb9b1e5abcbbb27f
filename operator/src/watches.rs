//! The watches that fill the caches, and what each of them triggers: an edit of a route reconciles it, and so does a
//! change of its relay pods, its owned objects or the Secrets that it names.
//!
//! Only changes trigger a reconcile. A watch that fails starts again by itself, with backoff. What the objects mean is
//! left to the [`cache`](crate::cache) that they are kept in.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use presenceroute_crds::PresenceRoute;

use crate::apply;
use crate::cache::owned_objects::WatchHandler;
use crate::cache::ready::Outstanding;
use crate::cache::{ObjectKey, OwnedObjects, PodCache, RouteIndex, RouteKey, SecretCache};
use crate::throttle::{Rate, throttled};
use presenceroute_manifest::build::{MANAGED_BY, RELAY_COMPONENT, ROUTE_LABEL, http_route};
use presenceroute_manifest::dereference::referenced_secrets;
use presenceroute_manifest::relay_defaults::RelayDefaults;

pub(crate) use crate::cache::RouteOrInvalid;

/// How many objects one page of a listing has: an object may have 1 MiB and more, and several kinds are listed at once.
const PAGE_SIZE: u32 = 10;
/// The same for the metadata of Secrets.
const METADATA_PAGE_SIZE: u32 = 50;
/// How often edits, and changes of other objects, trigger one route. What happens in a row when a route is rolled out
/// stays below.
const TRIGGER_RATE: Rate = Rate { burst: 30, interval: Duration::from_millis(500) };
/// How soon a Gateway API that a route waits for is noticed.
const GATEWAY_API_POLL: Duration = Duration::from_secs(10);

/// The routes that are to be reconciled because of another object.
pub(crate) type Trigger = BoxStream<'static, ObjectRef<RouteOrInvalid>>;
/// The routes whose spec or finalizers have changed.
pub(crate) type RouteStream = BoxStream<'static, Arc<RouteOrInvalid>>;

/// One namespace, or all.
#[derive(Clone)]
pub(crate) struct WatchScope {
    pub(crate) client: Client,
    pub(crate) namespace: Option<String>,
}

impl WatchScope {
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

/// The objects that reconciles read without asking the API server.
pub(crate) struct Caches {
    pub(crate) pods: Arc<PodCache>,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) owned_objects: Arc<OwnedObjects>,
    /// The routes' own listing.
    routes: Outstanding,
    /// The listings of the routes of all namespaces.
    index: RouteIndex,
}

impl Caches {
    /// Resolves when every cache holds all objects that there are.
    pub(crate) fn ready(&self) -> BoxFuture<'static, ()> {
        let (owned_objects, secrets, pods) =
            (Arc::clone(&self.owned_objects), Arc::clone(&self.secrets), Arc::clone(&self.pods));
        let (routes, index) = (self.routes.clone(), self.index.clone());
        async move {
            tokio::join!(owned_objects.ready(), secrets.ready(), pods.ready(), routes.all_complete());
            index.ready().await;
        }
        .boxed()
    }
}

/// The watch of the routes themselves.
pub(crate) struct Routes {
    pub(crate) store: Store<RouteOrInvalid>,
    pub(crate) edited: RouteStream,
    outstanding: Outstanding,
}

/// Watches the routes, and makes them known to the routes of the other namespaces. Each has the installation's defaults for
/// its relay pods from here on.
pub(crate) fn routes(scope: &WatchScope, index: &RouteIndex, relay_defaults: RelayDefaults) -> Routes {
    let (store, writer) = reflector::store();
    let mut handler = index.add(store.clone());
    let outstanding = handler.outstanding();
    let stored = store.clone();
    let edited = watcher(scope.api::<RouteOrInvalid>(), watch_config())
        .default_backoff()
        .modify(move |route| {
            route.managed_fields_mut().clear();
            if let Ok(route) = &mut route.0 {
                relay_defaults.apply_to(&mut route.spec.relay);
            }
        })
        .reflect(writer)
        .filter_map(async |event| logged(event))
        .flat_map(move |event| stream::iter(handler.handle(event)))
        // A route that is gone is not reconciled.
        .filter_map(move |route| std::future::ready(stored.get(&reference(route))))
        .boxed();
    let edited = throttled(edited, TRIGGER_RATE, |route| ObjectKey::of(&**route)).boxed();
    Routes { store, edited, outstanding }
}

/// Watches all other objects.
pub(crate) fn caches(
    scope: &WatchScope,
    routes: &Routes,
    index: &RouteIndex,
    has_gateway_api: bool,
) -> (Caches, Trigger) {
    let caches = Caches {
        pods: Arc::default(),
        secrets: Arc::new(SecretCache::new(scope.client.clone())),
        owned_objects: Arc::new(OwnedObjects::new(apply::owned_kinds())),
        routes: routes.outstanding.clone(),
        index: index.clone(),
    };
    let http_routes = http_route::api_resource();
    let mut triggers = vec![
        pods(scope, Arc::clone(&caches.pods)),
        secrets(scope, Arc::clone(&caches.secrets), routes.store.clone()),
    ];
    triggers.extend(caches.owned_objects.watch_handlers().map(|handler| {
        if *handler.resource() == http_routes && !has_gateway_api {
            http_routes_once_served(scope.clone(), handler, routes.store.clone())
        } else {
            owned_objects(scope, handler)
        }
    }));
    let triggers = throttled(stream::select_all(triggers), TRIGGER_RATE, Clone::clone);
    (caches, triggers.boxed())
}

fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// A relay pod triggers its route.
fn pods(scope: &WatchScope, pods: Arc<PodCache>) -> Trigger {
    let labels = format!("{}={},{ROUTE_LABEL}", RELAY_COMPONENT.0, RELAY_COMPONENT.1);
    watcher(scope.api::<Pod>(), watch_config().labels(&labels))
        .default_backoff()
        .filter_map(async |event| logged(event))
        .flat_map(move |event| stream::iter(pods.handle(event)))
        .map(reference)
        .boxed()
}

/// A Secret triggers the routes that name it. Of the other Secrets the API server sends the metadata alone.
fn secrets(scope: &WatchScope, secrets: Arc<SecretCache>, routes: Store<RouteOrInvalid>) -> Trigger {
    let config = watcher::Config::default().page_size(METADATA_PAGE_SIZE);
    watcher(scope.api::<PartialObjectMeta<Secret>>(), config)
        .default_backoff()
        .filter_map(async |event| logged(event))
        .flat_map(move |event| {
            let changed = secrets.handle(event);
            stream::iter(changed.iter().flat_map(|secret| referrers(&routes, secret)).collect::<Vec<_>>())
        })
        .boxed()
}

/// An owned object triggers its route.
fn owned_objects(scope: &WatchScope, handler: WatchHandler) -> Trigger {
    let labels = format!("{}={},{ROUTE_LABEL}", MANAGED_BY.0, MANAGED_BY.1);
    watcher(scope.dynamic_api(handler.resource()), watch_config().labels(&labels))
        .default_backoff()
        .filter_map(async |event| logged(event))
        .flat_map(move |event| stream::iter(handler.handle(event)))
        .map(reference)
        .boxed()
}

/// HTTPRoutes where the API server does not have them: they are watched once it has, and the routes that want one are
/// triggered. To watch CRDs for it would take a right that a Role cannot grant; the API server is asked instead, and
/// only while a route wants an HTTPRoute.
fn http_routes_once_served(
    scope: WatchScope,
    handler: WatchHandler,
    routes: Store<RouteOrInvalid>,
) -> Trigger {
    handler.set_served(false);
    let once_served = async move {
        gateway_api(&scope.client, &routes).await;
        tracing::info!("the Gateway API is installed now; HTTPRoutes are created and watched");
        handler.set_served(true);
        stream::iter(wanting_gateway(&routes)).chain(owned_objects(&scope, handler))
    };
    stream::once(once_served).flatten().boxed()
}

/// Resolves when a route wants the Gateway API and the API server has it.
async fn gateway_api(client: &Client, routes: &Store<RouteOrInvalid>) {
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

/// Logs the error of a watch, which its backoff follows. Passed on, it would hold up every trigger of the controller.
fn logged<T>(result: Result<T, watcher::Error>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "a watch was interrupted; it starts again")).ok()
}

/// How the controller refers to a route.
pub(crate) fn reference(RouteKey { namespace, name }: RouteKey) -> ObjectRef<RouteOrInvalid> {
    ObjectRef::new(&name).within(&namespace)
}

/// The routes that name a Secret.
fn referrers(routes: &Store<RouteOrInvalid>, secret: &ObjectKey) -> Vec<ObjectRef<RouteOrInvalid>> {
    matching(routes, |route| secrets_of(route).any(|named| named == *secret))
}

fn wanting_gateway(routes: &Store<RouteOrInvalid>) -> Vec<ObjectRef<RouteOrInvalid>> {
    matching(routes, |route| route.spec.endpoint.as_ref().is_some_and(|endpoint| endpoint.gateway.is_some()))
}

fn matching(
    routes: &Store<RouteOrInvalid>,
    is_match: impl Fn(&PresenceRoute) -> bool,
) -> Vec<ObjectRef<RouteOrInvalid>> {
    let routes = routes.state();
    let valid = routes.iter().filter_map(|route| route.0.as_ref().ok());
    valid.filter(|route| is_match(route)).map(|route| reference(RouteKey::of(route))).collect()
}

/// The Secrets that a route names.
pub(crate) fn secrets_of(route: &PresenceRoute) -> impl Iterator<Item = ObjectKey> {
    let namespace = route.namespace().unwrap_or_default();
    referenced_secrets(&route.spec)
        .map(move |name| ObjectKey { namespace: namespace.clone(), name: name.to_owned() })
}
