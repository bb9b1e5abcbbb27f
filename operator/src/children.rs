//! What the watches know of the objects that belong to routes: found by route, kept in few bytes.
//!
//! An object is kept as JSON text, because as a tree it takes ten times as much. What the operator writes itself counts
//! from the API server's answer on: nobody acts on what has just been replaced, and the watch's echo wakes nobody.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use presenceroute_manifest::build::ROUTE_LABEL;

/// How many deleted objects are remembered: more than are deleted while one write is under way, as a rule. One that is
/// forgotten is put back later, when its kind is listed again.
const MOST_GONE: usize = 64;

/// The children of all routes in the scope of one controller.
pub struct Children {
    kinds: Vec<Kind>,
    known: Mutex<Known>,
    /// How many kinds have been listed in whole.
    listed: watch::Sender<usize>,
}

struct Kind {
    resource: ApiResource,
    /// Whether the API server has it.
    is_served: AtomicBool,
}

/// The name of a route, for who wants to wake it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The namespace of the route, and of its children.
    pub namespace: String,
    /// The route's name.
    pub name: String,
}

/// A child as far as it takes to delete it.
pub struct Leftover<'c> {
    /// What it is.
    pub resource: &'c ApiResource,
    /// What it is called.
    pub name: String,
    /// Which of all that were ever called so.
    pub uid: Option<String>,
}

#[derive(Default)]
struct Known {
    children: HashMap<ChildKey, Child>,
    by_route: HashMap<RouteKey, HashSet<ChildKey>>,
    /// The last objects that were deleted, and in which version: the answer to a write may come after the watch has
    /// told that its object is gone again.
    gone: VecDeque<(ChildKey, u64)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ChildKey {
    /// The place among `Children::kinds`.
    kind: usize,
    namespace: String,
    name: String,
}

struct Child {
    route: RouteKey,
    uid: Option<String>,
    version: Option<u64>,
    is_leaving: bool,
    json: Box<[u8]>,
    /// The content hash of the wanted object that this version was last found to hold.
    holds: Option<String>,
}

impl Children {
    /// Knows nothing yet of objects of these kinds. No two kinds may have one name.
    pub fn new(kinds: Vec<ApiResource>) -> Self {
        let kind = |resource| Kind { resource, is_served: AtomicBool::new(true) };
        let kinds = kinds.into_iter().map(kind).collect();
        Self { kinds, known: Mutex::default(), listed: watch::channel(0).0 }
    }

    /// What brings in the objects of each kind.
    pub fn feeds(self: &Arc<Self>) -> impl Iterator<Item = Feed> {
        let feed = |kind| Feed { children: Arc::clone(self), kind, seen: HashSet::new(), is_listed: false };
        (0..self.kinds.len()).map(feed)
    }

    /// Resolves when every watch has brought what there is, so that nothing is taken for missing.
    pub async fn ready(&self) {
        // The sender is our own.
        let _ = self.listed.subscribe().wait_for(|listed| *listed == self.kinds.len()).await;
    }

    /// The resource of an object, where the API server has its kind.
    pub fn resource_of(&self, object: &DynamicObject) -> Option<&ApiResource> {
        let types = object.types.as_ref()?;
        let is_its = |kind: &&Kind| {
            let Kind { resource, is_served } = kind;
            is_served.load(Ordering::Relaxed)
                && resource.kind == types.kind
                && resource.api_version == types.api_version
        };
        self.kinds.iter().find(is_its).map(|kind| &kind.resource)
    }

    /// One child as it was last seen.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<DynamicObject> {
        let key = self.key(kind, namespace, name)?;
        self.lock().children.get(&key)?.object()
    }

    /// Whether a child is there and `says` what it should. The answer is remembered for this version of the child and
    /// this content hash of what it should say.
    pub fn holds(
        &self,
        wanted: &DynamicObject,
        content_hash: &str,
        says: impl FnOnce(&DynamicObject) -> bool,
    ) -> bool {
        let kind = wanted.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
        let namespace = wanted.namespace().unwrap_or_default();
        let Some(key) = self.key(kind, &namespace, &wanted.name_any()) else { return false };
        let mut known = self.lock();
        let Some(child) = known.children.get_mut(&key) else { return false };
        if child.holds.as_deref() == Some(content_hash) {
            return true;
        }
        let holds = child.object().is_some_and(|object| says(&object));
        child.holds = holds.then(|| content_hash.to_owned());
        holds
    }

    /// The children of a route that `keep` does not want kept, and that nobody has deleted yet.
    pub fn leftovers(
        &self,
        route: &RouteKey,
        keep: impl Fn(&ApiResource, &str) -> bool,
    ) -> Vec<Leftover<'_>> {
        let known = self.lock();
        let keys = known.by_route.get(route).into_iter().flatten();
        keys.filter(|key| !keep(&self.kinds[key.kind].resource, &key.name))
            .filter_map(|key| {
                let child = known.children.get(key).filter(|child| !child.is_leaving)?;
                let (resource, name) = (&self.kinds[key.kind].resource, key.name.clone());
                Some(Leftover { resource, name, uid: child.uid.clone() })
            })
            .collect()
    }

    /// Takes note of an object as the API server answered after it was written: in this version it holds what it was
    /// given, under this content hash, and what it has besides is others'.
    pub fn wrote(&self, answer: DynamicObject, content_hash: String) {
        let kind = self.resource_of(&answer).and_then(|resource| self.position(&resource.kind));
        let Some(kind) = kind else { return };
        let (key, version) = (key_of(kind, &answer), version(&answer));
        let mut known = self.lock();
        known.insert(kind, answer);
        if let Some(child) = known.children.get_mut(&key).filter(|child| child.version == version) {
            child.holds = Some(content_hash);
        }
    }

    fn key(&self, kind: &str, namespace: &str, name: &str) -> Option<ChildKey> {
        Some(ChildKey { kind: self.position(kind)?, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn position(&self, kind: &str) -> Option<usize> {
        self.kinds.iter().position(|known| known.resource.kind == kind)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics between two changes that belong together.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of the watch of one kind, on their way into [`Children`].
pub struct Feed {
    children: Arc<Children>,
    kind: usize,
    /// What the listing that is under way has brought.
    seen: HashSet<ChildKey>,
    is_listed: bool,
}

impl Feed {
    /// The kind whose objects it brings.
    pub fn kind(&self) -> &ApiResource {
        &self.children.kinds[self.kind].resource
    }

    /// Says whether the API server has this kind. One that it does not have is listed in whole: there are none.
    pub fn set_served(&mut self, is_served: bool) {
        self.children.kinds[self.kind].is_served.store(is_served, Ordering::Relaxed);
        if !is_served {
            self.is_listed_in_whole();
        }
    }

    fn is_listed_in_whole(&mut self) {
        if !std::mem::replace(&mut self.is_listed, true) {
            self.children.listed.send_modify(|listed| *listed += 1);
        }
    }

    /// Takes one event, and gives the routes whose children are otherwise than they were known to be.
    pub fn take(&mut self, event: Event<DynamicObject>) -> Vec<RouteKey> {
        let mut known = self.children.lock();
        match event {
            Event::Apply(object) => known.insert(self.kind, object),
            Event::Delete(object) => known.remove(self.kind, &object),
            Event::Init => {
                self.seen.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.seen.insert(key_of(self.kind, &object));
                known.list(self.kind, object)
            }
            Event::InitDone => {
                let gone = known.retain(self.kind, &std::mem::take(&mut self.seen));
                drop(known);
                self.is_listed_in_whole();
                gone
            }
        }
    }
}

impl Known {
    /// Takes what a watch or an answer brought, unless something newer is known.
    fn insert(&mut self, kind: usize, object: DynamicObject) -> Vec<RouteKey> {
        let (key, version) = (key_of(kind, &object), version(&object));
        let known = self.children.get(&key);
        let is_gone =
            |(gone, at): &(ChildKey, u64)| *gone == key && version.is_some_and(|version| version < *at);
        if known.is_some_and(|known| known.is_as_new_as(version)) || self.gone.iter().any(is_gone) {
            return Vec::new();
        }
        self.replace(kind, object)
    }

    /// Takes what a listing brought, also when something newer is known: a cluster that was restored from a backup
    /// counts its versions from an earlier one.
    fn list(&mut self, kind: usize, object: DynamicObject) -> Vec<RouteKey> {
        let known = self.children.get(&key_of(kind, &object));
        if known.is_some_and(|known| known.version.is_some() && known.version == version(&object)) {
            return Vec::new();
        }
        self.replace(kind, object)
    }

    fn replace(&mut self, kind: usize, mut object: DynamicObject) -> Vec<RouteKey> {
        let Some(route) = route_of(&object) else { return Vec::new() };
        let key = key_of(kind, &object);
        let version = version(&object);
        object.managed_fields_mut().clear();
        let child = Child {
            uid: object.uid(),
            version,
            is_leaving: object.metadata.deletion_timestamp.is_some(),
            // It came as JSON, and goes back into it.
            json: serde_json::to_vec(&object).unwrap_or_default().into(),
            holds: None,
            route: route.clone(),
        };
        let previous = self.children.insert(key.clone(), child).map(|previous| previous.route);
        self.by_route.entry(route.clone()).or_default().insert(key.clone());
        match previous {
            Some(previous) if previous != route => {
                self.detach(&previous, &key);
                vec![previous, route]
            }
            _ => vec![route],
        }
    }

    fn remove(&mut self, kind: usize, object: &DynamicObject) -> Vec<RouteKey> {
        let key = key_of(kind, object);
        if let Some(version) = version(object) {
            self.gone.truncate(MOST_GONE - 1);
            self.gone.push_front((key.clone(), version));
        }
        match self.children.get(&key) {
            // Another one of that name was made since.
            Some(known) if known.uid != object.uid() && known.is_as_new_as(version(object)) => Vec::new(),
            Some(_) => self.take(&key).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Forgets all of a kind but these.
    fn retain(&mut self, kind: usize, seen: &HashSet<ChildKey>) -> Vec<RouteKey> {
        self.gone.retain(|(key, _)| key.kind != kind);
        let is_gone = |key: &&ChildKey| key.kind == kind && !seen.contains(key);
        let gone: Vec<_> = self.children.keys().filter(is_gone).cloned().collect();
        gone.iter().filter_map(|key| self.take(key)).collect()
    }

    fn take(&mut self, key: &ChildKey) -> Option<RouteKey> {
        let child = self.children.remove(key)?;
        self.detach(&child.route, key);
        Some(child.route)
    }

    fn detach(&mut self, route: &RouteKey, key: &ChildKey) {
        if let Some(keys) = self.by_route.get_mut(route) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_route.remove(route);
            }
        }
    }
}

impl Child {
    fn object(&self) -> Option<DynamicObject> {
        serde_json::from_slice(&self.json).ok()
    }

    fn is_as_new_as(&self, version: Option<u64>) -> bool {
        matches!((self.version, version), (Some(ours), Some(theirs)) if ours >= theirs)
    }
}

fn key_of(kind: usize, object: &DynamicObject) -> ChildKey {
    ChildKey { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn route_of(object: &DynamicObject) -> Option<RouteKey> {
    let name = object.labels().get(ROUTE_LABEL)?.clone();
    Some(RouteKey { namespace: object.namespace()?, name })
}

/// The object's version, which etcd counts upwards.
pub(crate) fn version(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn config_map(name: &str, uid: &str, version: u64, route: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name, "namespace": "presence", "uid": uid, "resourceVersion": version.to_string(),
                "labels": {ROUTE_LABEL: route}, "managedFields": [{"manager": "somebody"}],
            },
            "data": {"version": version.to_string()},
        }))
        .unwrap()
    }

    fn route(name: &str) -> RouteKey {
        RouteKey { namespace: "presence".into(), name: name.into() }
    }

    fn watched() -> (Arc<Children>, Feed) {
        let children = Arc::new(Children::new(vec![ApiResource::erase::<ConfigMap>(&())]));
        let mut feed = children.feeds().next().unwrap();
        feed.take(Event::Init);
        feed.take(Event::InitDone);
        (children, feed)
    }

    fn data_version(children: &Children, name: &str) -> Option<String> {
        Some(children.get("ConfigMap", "presence", name)?.data["data"]["version"].as_str()?.to_owned())
    }

    #[test]
    fn a_change_wakes_its_route_once_and_an_echo_of_what_we_wrote_nobody() {
        let (children, mut feed) = watched();
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 5, "one"))), [route("one")]);
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 5, "one"))), []);
        children.wrote(config_map("a", "1", 6, "one"), "hash".into());
        assert_eq!(data_version(&children, "a").as_deref(), Some("6"));
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 6, "one"))), []);
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 7, "one"))), [route("one")]);
    }

    #[test]
    fn the_deletion_of_a_predecessor_does_not_take_the_successor_away() {
        let (children, mut feed) = watched();
        feed.take(Event::Apply(config_map("a", "1", 5, "one")));
        children.wrote(config_map("a", "2", 8, "one"), "hash".into());
        assert_eq!(feed.take(Event::Delete(config_map("a", "1", 7, "one"))), []);
        assert!(children.get("ConfigMap", "presence", "a").is_some());
        assert_eq!(feed.take(Event::Delete(config_map("a", "2", 9, "one"))), [route("one")]);
        assert!(children.get("ConfigMap", "presence", "a").is_none());
    }

    #[test]
    fn what_was_written_and_deleted_before_the_answer_came_is_not_there() {
        let (children, mut feed) = watched();
        feed.take(Event::Apply(config_map("a", "1", 5, "one")));
        assert_eq!(feed.take(Event::Delete(config_map("a", "1", 7, "one"))), [route("one")]);
        children.wrote(config_map("a", "1", 6, "one"), "hash".into());
        assert_eq!(data_version(&children, "a"), None);
        children.wrote(config_map("a", "2", 8, "one"), "hash".into());
        assert_eq!(data_version(&children, "a").as_deref(), Some("8"));
        // After a restore from a backup, versions begin anew.
        feed.take(Event::Delete(config_map("a", "2", 9, "one")));
        feed.take(Event::Init);
        feed.take(Event::InitDone);
        assert_eq!(feed.take(Event::Apply(config_map("a", "3", 2, "one"))), [route("one")]);
    }

    #[test]
    fn a_listing_wakes_only_routes_whose_children_changed_or_went_meanwhile() {
        let (children, mut feed) = watched();
        for (name, version, owner) in [("a", 1, "same"), ("b", 2, "changed"), ("c", 3, "gone")] {
            feed.take(Event::Apply(config_map(name, name, version, owner)));
        }
        let listing = [
            Event::Init,
            Event::InitApply(config_map("a", "a", 1, "same")),
            Event::InitApply(config_map("b", "b", 9, "changed")),
            Event::InitDone,
        ];
        let woken: Vec<_> = listing.into_iter().flat_map(|event| feed.take(event)).collect();
        assert_eq!(woken, [route("changed"), route("gone")]);
        assert!(children.get("ConfigMap", "presence", "c").is_none());
    }

    #[test]
    fn a_listing_is_believed_also_when_versions_are_counted_from_an_earlier_one() {
        let (children, mut feed) = watched();
        feed.take(Event::Apply(config_map("a", "1", 50, "one")));
        feed.take(Event::Init);
        assert_eq!(feed.take(Event::InitApply(config_map("a", "1", 5, "one"))), [route("one")]);
        feed.take(Event::InitDone);
        assert_eq!(data_version(&children, "a").as_deref(), Some("5"));
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 6, "one"))), [route("one")]);
    }

    #[test]
    fn a_child_that_changes_hands_wakes_both_routes() {
        let (children, mut feed) = watched();
        feed.take(Event::Apply(config_map("a", "1", 5, "one")));
        assert_eq!(feed.take(Event::Apply(config_map("a", "1", 6, "two"))), [route("one"), route("two")]);
        assert!(children.leftovers(&route("one"), |_, _| false).is_empty());
        assert_eq!(children.leftovers(&route("two"), |_, _| false)[0].name, "a");
    }

    #[test]
    fn what_a_version_was_found_to_hold_is_remembered_until_it_changes() {
        let (children, mut feed) = watched();
        let wanted = config_map("a", "1", 5, "one");
        feed.take(Event::Apply(wanted.clone()));
        assert!(children.holds(&wanted, "hash", |live| live.data == wanted.data));
        assert!(children.holds(&wanted, "hash", |_| unreachable!("it is compared again")));
        assert!(!children.holds(&wanted, "other hash", |_| false));
        feed.take(Event::Apply(config_map("a", "1", 6, "one")));
        assert!(!children.holds(&wanted, "hash", |live| live.data == wanted.data));
        // What others have added stays theirs, and is not written against again and again.
        children.wrote(config_map("a", "1", 6, "one"), "hash".into());
        assert!(children.holds(&wanted, "hash", |_| unreachable!("it is compared again")));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_kind_that_the_api_server_does_not_have_and_none_of_it_is_made() {
        let children = Arc::new(Children::new(vec![ApiResource::erase::<ConfigMap>(&())]));
        let mut feed = children.feeds().next().unwrap();
        let object = config_map("a", "1", 5, "one");
        feed.set_served(false);
        children.ready().await;
        assert_eq!(children.resource_of(&object), None);
        feed.set_served(true);
        assert_eq!(children.resource_of(&object), Some(feed.kind()));
        assert_eq!(feed.take(Event::InitApply(object)), [route("one")]);
    }

    #[tokio::test]
    async fn all_who_wait_for_the_first_listing_are_woken_by_it() {
        let children = Arc::new(Children::new(vec![ApiResource::erase::<ConfigMap>(&())]));
        let mut feed = children.feeds().next().unwrap();
        let waiting = [children.ready(), children.ready()];
        let listing = async {
            feed.take(Event::Init);
            feed.take(Event::InitDone);
        };
        tokio::join!(futures::future::join_all(waiting), listing);
    }
}
