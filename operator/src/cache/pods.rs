//! The relay pods of all routes: what is read of each, found by route.
//!
//! A pod is kept when the ReplicaSet of its route's Deployment controls it, as far as its metadata shows (see
//! [`is_of_workload`]). What a pod reports of itself is left to [`relay_pods`](crate::relay_pods).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;

use presenceroute_manifest::build::{CONFIG_HASH_ANNOTATION, ROUTE_LABEL, relay_name};

use super::key::RouteKey;
use super::listing::{Entry, Listing};
use super::obstacle::Obstacle;
use super::ready::Outstanding;

/// Carries the revisions that a pod should have. Its value is read by the operator alone: a pod that changes is synced
/// by its kubelet at once, and with it the ConfigMaps and Secrets that it mounts.
pub const SYNC_ANNOTATION: &str = "presenceroute.io/synced";
/// What a Deployment adds to the names of its ReplicaSets and to the labels of their pods.
const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// The relay pods in the scope of one controller.
pub struct PodCache {
    pods: Mutex<Listing<PodFacts>>,
    outstanding: Outstanding,
}

/// What is read of a relay pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    route: Box<str>,
    /// The pod's address, once it has one.
    pub address: Option<IpAddr>,
    /// Whether its readiness probe succeeds.
    pub is_ready: bool,
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// Whether its containers have ended for good.
    pub has_ended: bool,
    /// The hash of the configuration that it was started with.
    pub config_hash: Option<Box<str>>,
    /// Why it is not ready, where its status says so.
    pub obstacle: Option<Obstacle>,
    /// The value of [`SYNC_ANNOTATION`].
    pub synced: Option<Box<str>>,
}

impl Entry for PodFacts {
    fn owner(&self) -> Option<&str> {
        Some(&self.route)
    }

    fn is_change_from(&self, former: &Self) -> bool {
        self != former
    }
}

impl Default for PodCache {
    /// Without any pod yet.
    fn default() -> Self {
        Self { pods: Mutex::default(), outstanding: Outstanding::listings(1) }
    }
}

impl PodCache {
    /// Takes one event of the watch and returns the routes with a pod that changed.
    pub fn handle(&self, event: Event<Pod>) -> Vec<RouteKey> {
        let mut pods = self.pods.lock();
        let was_complete = pods.is_complete();
        let changed = pods.apply(event, |pod| PodFacts::of(&pod));
        if pods.is_complete() && !was_complete {
            self.outstanding.complete_one();
        }
        changed
    }

    /// Resolves when all relay pods have been listed once.
    pub async fn ready(&self) {
        self.outstanding.all_complete().await;
    }

    /// The pods of a route that are not being deleted, with their names, sorted by name.
    pub fn of_route(&self, route: &RouteKey) -> Vec<(String, PodFacts)> {
        let pods = self.pods.lock();
        let pods = pods.owned_by(route).filter(|(_, pod)| !pod.is_terminating);
        let mut pods: Vec<_> = pods.map(|(name, pod)| (name.to_owned(), pod.clone())).collect();
        pods.sort_by(|(one, _), (other, _)| one.cmp(other));
        pods
    }
}

impl PodCache {
    /// Whether every pod of a route was started with this configuration, and one of them is ready. A pod that is being
    /// deleted counts until it has ended: it answers on while its connections drain.
    pub fn all_run(&self, route: &RouteKey, config_hash: &str) -> bool {
        let pods = self.pods.lock();
        let pods: Vec<_> = pods.owned_by(route).map(|(_, pod)| pod).filter(|pod| !pod.has_ended).collect();
        pods.iter().any(|pod| pod.is_ready && !pod.is_terminating)
            && pods.iter().all(|pod| pod.config_hash.as_deref() == Some(config_hash))
    }
}

impl PodFacts {
    /// `None` for a pod that is no relay pod of a route.
    fn of(pod: &Pod) -> Option<Self> {
        let route = pod.labels().get(ROUTE_LABEL).filter(|route| is_of_workload(pod, route))?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        let is_ready = ready.any(|condition| condition.status == "True");
        Some(Self {
            route: route.as_str().into(),
            address: status.and_then(|status| status.pod_ip.as_deref()?.parse().ok()),
            is_ready,
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            has_ended: matches!(phase, Some("Succeeded" | "Failed")),
            config_hash: pod.annotations().get(CONFIG_HASH_ANNOTATION).map(|hash| hash.as_str().into()),
            obstacle: if is_ready { None } else { Obstacle::of(pod) },
            synced: pod.annotations().get(SYNC_ANNOTATION).map(|mark| mark.as_str().into()),
        })
    }
}

/// Whether a ReplicaSet of the route's Deployment controls the pod: `ROUTE-relay` and the pod's own template hash are
/// its name.
///
/// The labels alone prove nothing, because every pod may carry them. The reference rules out pods that were merely given
/// the labels, and pods of other workloads. It does not prove that the Deployment made the pod: an owner reference is
/// written by the creator of the pod and checked by no admission, so a person with the right to create pods in the
/// namespace can write one that looks the same. The ReplicaSet's uid and owner would tell, and to read them would take
/// a right that the operator does not have. So what a pod answers is bounded in any case.
fn is_of_workload(pod: &Pod, route: &str) -> bool {
    let Some(hash) = pod.labels().get(TEMPLATE_HASH_LABEL) else { return false };
    let replica_set = format!("{}-{hash}", relay_name(route));
    pod.owner_references().iter().any(|owner| {
        owner.controller == Some(true)
            && owner.api_version == "apps/v1"
            && owner.kind == "ReplicaSet"
            && owner.name == replica_set
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod as the ReplicaSet `ROUTE-relay-5d8` makes it.
    fn pod(name: &str, version: u64, route: &str) -> Value {
        json!({
            "metadata": {
                "name": name, "namespace": "presence", "resourceVersion": version.to_string(),
                "labels": {ROUTE_LABEL: route, TEMPLATE_HASH_LABEL: "5d8"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{route}-relay-5d8"),
                    "uid": "of the ReplicaSet", "controller": true,
                }],
            },
            "status": {"podIP": format!("10.0.0.{version}")},
        })
    }

    fn parsed(pod: Value) -> Pod {
        serde_json::from_value(pod).unwrap()
    }

    fn listed() -> PodCache {
        let cache = PodCache::default();
        for event in [Event::Init, Event::InitDone] {
            assert_eq!(cache.handle(event), []);
        }
        cache
    }

    fn names(keys: Vec<RouteKey>) -> Vec<String> {
        keys.into_iter().map(|key| key.name).collect()
    }

    fn pods(cache: &PodCache, route: &str) -> Vec<String> {
        let key = RouteKey { namespace: "presence".into(), name: route.into() };
        cache.of_route(&key).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn pods_are_found_by_route_without_those_being_deleted() {
        let cache = listed();
        let mut terminating = pod("a-2", 3, "a");
        terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        for pod in [pod("a-3", 1, "a"), pod("a-1", 2, "a"), terminating, pod("b-1", 4, "b")] {
            cache.handle(Event::Apply(parsed(pod)));
        }
        assert_eq!(pods(&cache, "a"), ["a-1", "a-3"]);
        assert_eq!(pods(&cache, "b"), ["b-1"]);
    }

    #[test]
    fn pods_of_another_configuration_count_until_they_have_ended() {
        let cache = listed();
        let key = RouteKey { namespace: "presence".into(), name: "a".into() };
        let with = |name: &str, version: u64, hash: &str, ready: &str| {
            let mut made = pod(name, version, "a");
            made["metadata"]["annotations"] = json!({CONFIG_HASH_ANNOTATION: hash});
            made["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
            made
        };
        assert!(!cache.all_run(&key, "new"), "there is no pod");
        cache.handle(Event::Apply(parsed(with("a-2", 2, "new", "False"))));
        assert!(!cache.all_run(&key, "new"), "none is ready");
        cache.handle(Event::Apply(parsed(with("a-2", 3, "new", "True"))));
        assert!(cache.all_run(&key, "new"));
        let mut old = with("a-1", 4, "old", "True");
        cache.handle(Event::Apply(parsed(old.clone())));
        assert!(!cache.all_run(&key, "new"));
        old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        old["metadata"]["resourceVersion"] = json!("5");
        cache.handle(Event::Apply(parsed(old.clone())));
        assert!(!cache.all_run(&key, "new"), "it still drains");
        old["status"]["phase"] = json!("Failed");
        old["metadata"]["resourceVersion"] = json!("6");
        assert_eq!(names(cache.handle(Event::Apply(parsed(old.clone())))), ["a"]);
        assert!(cache.all_run(&key, "new"));
    }

    #[test]
    fn a_pod_wakes_its_route_when_what_is_read_of_it_changes() {
        let cache = listed();
        let mut changing = pod("a-1", 1, "a");
        assert_eq!(names(cache.handle(Event::Apply(parsed(changing.clone())))), ["a"]);
        changing["metadata"]["resourceVersion"] = json!("2");
        changing["metadata"]["annotations"] = json!({"example.com/unread": "new"});
        assert_eq!(names(cache.handle(Event::Apply(parsed(changing.clone())))), [""; 0]);
        changing["metadata"]["resourceVersion"] = json!("3");
        changing["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(names(cache.handle(Event::Apply(parsed(changing.clone())))), ["a"]);
        assert_eq!(names(cache.handle(Event::Delete(parsed(changing)))), ["a"]);
    }

    #[test]
    fn a_pod_that_another_workload_controls_is_not_kept() {
        let owner = |field: &str, value: Value| {
            let mut owner = pod("foreign", 1, "a")["metadata"]["ownerReferences"][0].take();
            owner[field] = value;
            json!([owner])
        };
        let table = [
            ("no owner", json!([])),
            ("not its controller", owner("controller", json!(false))),
            ("another kind", owner("kind", json!("Job"))),
            ("another group", owner("apiVersion", json!("example.com/v1"))),
            ("another workload", owner("name", json!("shop-5d8"))),
            ("another template", owner("name", json!("a-relay-77c"))),
            ("another route's", owner("name", json!("b-relay-5d8"))),
        ];
        let cache = listed();
        for (what, owners) in table {
            let mut foreign = pod("foreign", 1, "a");
            foreign["metadata"]["ownerReferences"] = owners;
            assert_eq!(cache.handle(Event::Apply(parsed(foreign))), [], "{what}");
        }
        let mut unlabelled = pod("foreign", 1, "a");
        unlabelled["metadata"]["labels"] = json!({ROUTE_LABEL: "a"});
        assert_eq!(cache.handle(Event::Apply(parsed(unlabelled))), []);
        assert_eq!(pods(&cache, "a"), [""; 0]);
    }
}
