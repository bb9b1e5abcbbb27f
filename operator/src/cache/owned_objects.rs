//! The objects that belong to routes: found by route, and kept in few bytes.
//!
//! An object is kept as JSON text, because as a tree it takes ten times as much. Once it is known to contain what is
//! desired, no more of it is kept than reconciles read; of a large one no more is kept from the start: everybody who may
//! write in a namespace can give an object the labels of a route. An object that the operator writes counts from the API server's answer on: a reconcile never acts on what was just replaced, and the watch's echo wakes
//! no route. Which objects a route should have is left to [`apply`](crate::apply).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use serde_json::Value;

use presenceroute_manifest::build::{ROUTE_LABEL, relay_name};
use presenceroute_manifest::rotation::secret_name;

use super::key::{ObjectKey, RouteKey, version};
use super::listing::{Entry, Listing};
use super::ready::Outstanding;

/// The longest JSON text that is kept, in bytes: of an object that reconciles read, and of any other. What is longer, such
/// as a large routing table, is written once more where it has changed.
const MAX_READ_JSON: usize = 128 << 10;
const MAX_JSON: usize = 16 << 10;

/// The objects that belong to the routes in the scope of one controller.
pub struct OwnedObjects {
    kinds: Vec<Kind>,
    outstanding: Outstanding,
}

struct Kind {
    resource: ApiResource,
    /// Whether the API server has the kind.
    is_served: AtomicBool,
    objects: Mutex<Listing<OwnedObject>>,
}

/// An object that is not desired any more, with what its deletion takes.
pub struct Orphan<'o> {
    /// Its kind.
    pub resource: &'o ApiResource,
    /// Its name.
    pub name: String,
    /// The uid of the object that was seen; another object may have its name by now.
    pub uid: Option<String>,
}

struct OwnedObject {
    route: Box<str>,
    uid: Option<Box<str>>,
    is_terminating: bool,
    /// Not of a large object, nor of one that contains what is desired and is not read.
    json: Option<Box<[u8]>>,
    /// The content hash of the desired object that this version was last found to contain.
    contains: Option<Box<str>>,
}

impl Entry for OwnedObject {
    fn owner(&self) -> Option<&str> {
        Some(&self.route)
    }
}

impl OwnedObjects {
    /// Without any object yet. No two kinds may have one name.
    pub fn new(kinds: Vec<ApiResource>) -> Self {
        let kind = |resource| Kind { resource, is_served: AtomicBool::new(true), objects: Mutex::default() };
        let kinds: Vec<_> = kinds.into_iter().map(kind).collect();
        Self { outstanding: Outstanding::listings(kinds.len()), kinds }
    }

    /// A handler for the watch of each kind.
    pub fn watch_handlers(self: &Arc<Self>) -> impl Iterator<Item = WatchHandler> {
        (0..self.kinds.len()).map(|kind| WatchHandler { objects: Arc::clone(self), kind })
    }

    /// Resolves when every kind has been listed, so that no object is taken for missing.
    pub async fn ready(&self) {
        self.outstanding.all_complete().await;
    }

    /// The resource of an object, where the API server has its kind.
    pub fn resource_of(&self, object: &DynamicObject) -> Option<&ApiResource> {
        let types = object.types.as_ref()?;
        let kind = self.kind(&types.kind)?;
        let is_same = kind.resource.api_version == types.api_version;
        (is_same && kind.is_served.load(Ordering::Relaxed)).then_some(&kind.resource)
    }

    /// An object in its newest known version, as far as reconciles read it; not one that is larger than the operator makes
    /// it.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<DynamicObject> {
        let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.kind(kind)?.objects.lock().get(&key)?.object()
    }

    /// Whether an object of this kind and name is known to belong to a route.
    pub fn knows(&self, object: &DynamicObject) -> bool {
        let kind = object.types.as_ref().and_then(|types| self.kind(&types.kind));
        kind.is_some_and(|kind| kind.objects.lock().get(&ObjectKey::of(object)).is_some())
    }

    /// Whether an object is there and `contains` what is desired, its content hash among it. The result is remembered for
    /// this version of the object and this content hash of the desired one; no version has two.
    pub fn is_up_to_date(
        &self,
        desired: &DynamicObject,
        content_hash: &str,
        contains: impl FnOnce(&DynamicObject) -> bool,
    ) -> bool {
        let kind = desired.types.as_ref().and_then(|types| self.kind(&types.kind));
        let Some(kind) = kind else { return false };
        let mut objects = kind.objects.lock();
        let Some(known) = objects.get_mut(&ObjectKey::of(desired)) else { return false };
        if let Some(contained) = &known.contains {
            return **contained == *content_hash;
        }
        if !known.object().is_some_and(|object| contains(&object)) {
            return false;
        }
        known.set_contains(content_hash, &kind.resource.kind);
        true
    }

    /// The objects of a route that `keep` does not name and that are not being deleted yet.
    pub fn orphans(&self, route: &RouteKey, keep: impl Fn(&ApiResource, &str) -> bool) -> Vec<Orphan<'_>> {
        let orphans_of = |Kind { resource, objects, .. }: &Kind| -> Vec<_> {
            let objects = objects.lock();
            let left = objects.owned_by(route).filter(|(_, object)| !object.is_terminating);
            let left = left.filter(|(name, _)| !keep(resource, name));
            left.map(|(name, object)| (name.to_owned(), object.uid.as_deref().map(str::to_owned))).collect()
        };
        let kinds = self.kinds.iter();
        kinds
            .flat_map(|kind| orphans_of(kind).into_iter().map(move |(name, uid)| (&kind.resource, name, uid)))
            .map(|(resource, name, uid)| Orphan { resource, name, uid })
            .collect()
    }

    /// The objects of one kind that are being deleted and wait for a finalizer.
    pub fn being_deleted(&self, kind: &str) -> Vec<DynamicObject> {
        let Some(kind) = self.kind(kind) else { return Vec::new() };
        let objects = kind.objects.lock();
        objects.all().filter(|object| object.is_terminating).filter_map(OwnedObject::object).collect()
    }

    /// Takes an object as the API server answered after it was applied, and marks this resourceVersion as containing the
    /// applied object; extra fields belong to other managers.
    pub fn applied(&self, answer: DynamicObject, content_hash: String) {
        let resource = self.resource_of(&answer);
        let Some(kind) = resource.and_then(|resource| self.kind(&resource.kind)) else { return };
        let (key, version) = (ObjectKey::of(&answer), version(&answer));
        let mut objects = kind.objects.lock();
        objects.insert(answer, OwnedObject::of);
        if objects.version_of(&key) == version
            && let Some(known) = objects.get_mut(&key)
        {
            known.set_contains(&content_hash, &kind.resource.kind);
        }
    }

    fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.resource.kind == name)
    }
}

/// Takes the events of the watch of one kind into [`OwnedObjects`].
pub struct WatchHandler {
    objects: Arc<OwnedObjects>,
    kind: usize,
}

impl WatchHandler {
    /// The kind that is watched.
    pub fn resource(&self) -> &ApiResource {
        &self.kind().resource
    }

    /// Notes whether the API server has the kind. A kind that it does not have counts as listed, without any object.
    pub fn set_served(&self, is_served: bool) {
        self.kind().is_served.store(is_served, Ordering::Relaxed);
        if !is_served {
            self.complete_by(|objects| objects.complete_without_objects());
        }
    }

    /// Takes one event and returns the routes with an object that changed.
    pub fn handle(&self, event: Event<DynamicObject>) -> Vec<RouteKey> {
        self.complete_by(|objects| objects.apply(event, OwnedObject::of))
    }

    fn complete_by<T>(&self, change: impl FnOnce(&mut Listing<OwnedObject>) -> T) -> T {
        let mut objects = self.kind().objects.lock();
        let was_complete = objects.is_complete();
        let result = change(&mut objects);
        if objects.is_complete() && !was_complete {
            self.objects.outstanding.complete_one();
        }
        result
    }

    fn kind(&self) -> &Kind {
        &self.objects.kinds[self.kind]
    }
}

impl OwnedObject {
    /// `None` for an object that belongs to no route.
    fn of(mut object: DynamicObject) -> Option<Self> {
        let route: Box<str> = object.labels().get(ROUTE_LABEL)?.as_str().into();
        object.managed_fields_mut().clear();
        // What came as JSON can be written as JSON.
        let json = serde_json::to_vec(&object).unwrap_or_default();
        let name = object.name_any();
        let is_read = name == relay_name(&route) || name == secret_name(&route);
        let max_bytes = if is_read { MAX_READ_JSON } else { MAX_JSON };
        Some(Self {
            route,
            uid: object.metadata.uid.as_deref().map(Into::into),
            is_terminating: object.metadata.deletion_timestamp.is_some(),
            json: (json.len() <= max_bytes).then(|| json.into()),
            contains: None,
        })
    }

    /// This version of an object contains the desired one with this content hash. It is not compared again: of another
    /// hash, it has the wrong annotation.
    fn set_contains(&mut self, content_hash: &str, kind: &str) {
        self.contains = Some(content_hash.into());
        self.json = self.json.take().and_then(|json| read_part(kind, json));
    }

    fn object(&self) -> Option<DynamicObject> {
        serde_json::from_slice(self.json.as_ref()?).ok()
    }
}

/// What reconciles read of an object of this kind besides comparing it.
fn read_part(kind: &str, json: Box<[u8]>) -> Option<Box<[u8]>> {
    match kind {
        "Deployment" => without_template(&json).or(Some(json)),
        "Service" | "Secret" | "Ingress" | "HTTPRoute" => Some(json),
        _ => None,
    }
}

/// A Deployment without its pods' template, which is most of it.
fn without_template(json: &[u8]) -> Option<Box<[u8]>> {
    let mut deployment: Value = serde_json::from_slice(json).ok()?;
    deployment.get_mut("spec")?.as_object_mut()?.remove("template");
    Some(serde_json::to_vec(&deployment).ok()?.into())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Service};
    use kube::api::TypeMeta;
    use serde_json::json;

    use super::*;

    fn config_map(name: &str, version: u64, route: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name, "namespace": "presence", "uid": format!("uid of {name}"),
                "resourceVersion": version.to_string(), "labels": {ROUTE_LABEL: route},
                "managedFields": [{"manager": "another"}],
            },
            "data": {"version": version.to_string()},
        }))
        .unwrap()
    }

    fn route(name: &str) -> RouteKey {
        RouteKey { namespace: "presence".into(), name: name.into() }
    }

    fn unlisted() -> (Arc<OwnedObjects>, WatchHandler) {
        let objects = Arc::new(OwnedObjects::new(vec![ApiResource::erase::<ConfigMap>(&())]));
        let handler = objects.watch_handlers().next().unwrap();
        (objects, handler)
    }

    fn watched() -> (Arc<OwnedObjects>, WatchHandler) {
        let (objects, handler) = unlisted();
        handler.handle(Event::Init);
        handler.handle(Event::InitDone);
        (objects, handler)
    }

    fn data_version(objects: &OwnedObjects, name: &str) -> Option<String> {
        Some(objects.get("ConfigMap", "presence", name)?.data["data"]["version"].as_str()?.to_owned())
    }

    #[test]
    fn an_object_is_found_by_its_name_without_its_managed_fields() {
        let (objects, handler) = watched();
        assert_eq!(handler.handle(Event::Apply(config_map("a", 5, "one"))), [route("one")]);
        assert_eq!(data_version(&objects, "a").as_deref(), Some("5"));
        let kept = objects.get("ConfigMap", "presence", "a").unwrap();
        assert!(kept.managed_fields().is_empty());
        assert!(objects.get("ConfigMap", "other", "a").is_none());
        assert!(objects.get("Secret", "presence", "a").is_none());
        assert!(objects.knows(&config_map("a", 9, "one")) && !objects.knows(&config_map("b", 9, "one")));
    }

    #[test]
    fn the_answer_to_a_write_counts_before_its_echo() {
        let (objects, handler) = watched();
        handler.handle(Event::Apply(config_map("a", 5, "one")));
        let desired = config_map("a", 6, "one");
        objects.applied(desired.clone(), "hash".into());
        assert!(objects.is_up_to_date(&desired, "hash", |_| unreachable!("it is compared again")));
        assert_eq!(handler.handle(Event::Apply(desired)), []);
        assert_eq!(handler.handle(Event::Apply(config_map("a", 7, "one"))), [route("one")]);
    }

    #[test]
    fn orphans_are_the_objects_of_the_route_that_are_not_kept() {
        let (objects, handler) = watched();
        for (name, version) in [("a", 5), ("b", 6), ("c", 7)] {
            handler.handle(Event::Apply(config_map(name, version, "one")));
        }
        let mut terminating = config_map("c", 8, "one");
        terminating.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        handler.handle(Event::Apply(terminating));
        let keep = |_: &ApiResource, name: &str| name == "b";
        let orphans = objects.orphans(&route("one"), keep);
        let [Orphan { resource, name, uid }] = orphans.as_slice() else { panic!("{}", orphans.len()) };
        assert_eq!((resource.kind.as_str(), name.as_str()), ("ConfigMap", "a"));
        assert_eq!(uid.as_deref(), Some("uid of a"));
        assert!(objects.orphans(&route("two"), keep).is_empty());
    }

    #[test]
    fn a_comparison_is_remembered_for_its_version_and_hash() {
        let (objects, handler) = watched();
        let desired = config_map("a", 5, "one");
        handler.handle(Event::Apply(desired.clone()));
        assert!(objects.is_up_to_date(&desired, "hash", |live| live.data == desired.data));
        assert!(objects.is_up_to_date(&desired, "hash", |_| unreachable!("it is compared again")));
        assert!(!objects.is_up_to_date(&desired, "other hash", |_| false));
        handler.handle(Event::Apply(config_map("a", 6, "one")));
        assert!(!objects.is_up_to_date(&desired, "hash", |live| live.data == desired.data));
        // The fields that others have added stay, and are not written against again and again.
        objects.applied(config_map("a", 6, "one"), "hash".into());
        assert!(objects.is_up_to_date(&desired, "hash", |_| unreachable!("it is compared again")));
    }

    #[test]
    fn of_a_large_object_only_what_it_contains_is_kept() {
        let (objects, handler) = watched();
        let large = |version: u64, bytes: usize| {
            let mut object = config_map("a", version, "one");
            object.data["data"]["routing.yaml"] = json!("x".repeat(bytes));
            object
        };
        handler.handle(Event::Apply(large(5, MAX_JSON)));
        assert!(objects.knows(&large(5, 1)) && objects.get("ConfigMap", "presence", "a").is_none());
        assert!(!objects.is_up_to_date(&large(5, 1), "hash", |_| true), "it is written to be sure");
        objects.applied(large(5, MAX_JSON), "hash".into());
        assert!(objects.is_up_to_date(&large(5, 1), "hash", |_| unreachable!("it is not kept")));
        handler.handle(Event::Apply(large(6, MAX_JSON)));
        assert!(!objects.is_up_to_date(&large(5, 1), "hash", |_| true));
        assert_eq!(objects.orphans(&route("one"), |_, _| false).len(), 1);
        let mut read = large(7, MAX_JSON);
        read.metadata.name = Some("one-relay".into());
        handler.handle(Event::Apply(read));
        assert!(objects.get("ConfigMap", "presence", "one-relay").is_some(), "reconciles read it");
    }

    #[test]
    fn of_an_object_that_is_up_to_date_only_what_is_read_is_kept() {
        let kinds = vec![
            ApiResource::erase::<ConfigMap>(&()),
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<Service>(&()),
        ];
        let objects = Arc::new(OwnedObjects::new(kinds));
        let object = |kind: &str, api_version: &str| {
            let mut object = config_map("a-relay", 5, "one");
            object.types = Some(TypeMeta { api_version: api_version.into(), kind: kind.into() });
            object.data["spec"] = json!({"replicas": 2, "template": {"spec": {"containers": []}}});
            object.data["status"] = json!({"replicas": 1});
            object
        };
        let desired = [object("ConfigMap", "v1"), object("Deployment", "apps/v1"), object("Service", "v1")];
        for (handler, object) in std::iter::zip(objects.watch_handlers(), &desired) {
            handler.handle(Event::Apply(object.clone()));
            assert!(objects.is_up_to_date(object, "hash", |live| live.data == object.data));
            assert!(objects.is_up_to_date(object, "hash", |_| unreachable!("it is compared again")));
            assert!(!objects.is_up_to_date(object, "other hash", |live| live.data == object.data));
        }
        let kept = |kind| objects.get(kind, "presence", "a-relay").map(|object| object.data["spec"].clone());
        assert_eq!(kept("ConfigMap"), None);
        assert_eq!(kept("Deployment"), Some(json!({"replicas": 2})));
        assert_eq!(kept("Service").as_ref(), Some(&desired[2].data["spec"]));
    }

    #[test]
    fn a_kind_that_is_not_served_counts_as_listed() {
        let (objects, handler) = unlisted();
        let object = config_map("a", 5, "one");
        handler.set_served(false);
        assert!(objects.ready().now_or_never().is_some());
        assert_eq!(objects.resource_of(&object), None);
        handler.set_served(true);
        assert_eq!(objects.resource_of(&object), Some(handler.resource()));
        handler.handle(Event::Init);
        handler.handle(Event::InitApply(object));
        assert_eq!(handler.handle(Event::InitDone), [route("one")]);
    }

    #[test]
    fn the_cache_is_ready_when_every_kind_has_been_listed_once() {
        let (objects, handler) = unlisted();
        for event in [Event::Init, Event::InitApply(config_map("a", 5, "one"))] {
            assert_eq!(handler.handle(event), []);
            assert!(objects.ready().now_or_never().is_none());
        }
        assert_eq!(handler.handle(Event::InitDone), [], "every reader has waited for it");
        assert!(objects.ready().now_or_never().is_some());
        handler.handle(Event::Init);
        assert!(objects.ready().now_or_never().is_some(), "a later listing is not waited for");
    }
}
