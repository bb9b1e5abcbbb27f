//! Two routes must not claim the same endpoint URL or the same registration: they would overwrite each other for
//! ever. The older one has it; a registration that a route is about to leave is its own until it has left.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use presenceroute_crds::PresenceRoute;
use tokio::sync::watch;

use crate::genesys::region;

/// How long the routes of one namespace wait for those of the others to be known. A namespace that cannot be listed
/// must not stop the rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes of all namespaces that this process serves, as its watches know them. Clones share them.
#[derive(Clone)]
pub struct Neighbours {
    namespaces: usize,
    stores: Arc<Mutex<Vec<Store<DeserializeGuard<PresenceRoute>>>>>,
    /// How many of the stores hold all that was there at the start.
    listed: watch::Sender<usize>,
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
        Self { namespaces, stores: Arc::default(), listed: watch::Sender::new(0) }
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
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("the PresenceRoutes of some namespace are not known yet; going on without");
        }
    }

    /// All routes.
    pub fn routes(&self) -> Vec<Arc<DeserializeGuard<PresenceRoute>>> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.iter().flat_map(Store::state).collect()
    }
}

/// A registration, by where it is and what it is called.
struct Registration {
    api_url: String,
    name: String,
}

impl Registration {
    /// The registration that the spec asks for.
    fn asked_by(route: &PresenceRoute) -> Self {
        let default_name = || format!("{}/{}", route.namespace().unwrap_or_default(), route.name_any());
        let name = route.spec.genesys.endpoint_name.clone().unwrap_or_else(default_name);
        Self { api_url: api_url(route), name }
    }

    /// Whether another spec asks for the same. Nothing is copied for it but where the name is the same: among thousands
    /// of routes this is asked of each by each.
    fn is_asked_by(&self, route: &PresenceRoute) -> bool {
        let is_called_so = match &route.spec.genesys.endpoint_name {
            Some(name) => *name == self.name,
            None => self.name.split_once('/').is_some_and(|(namespace, name)| {
                route.metadata.namespace.as_deref() == Some(namespace)
                    && route.metadata.name.as_deref() == Some(name)
            }),
        };
        is_called_so && is_same_url(&api_url(route), &self.api_url)
    }

    /// Whether a route may have it, whatever its spec says now.
    fn is_held_by(&self, route: &PresenceRoute) -> bool {
        route.status.iter().any(|status| {
            let current = status.registration.iter().map(|registration| &registration.place);
            let mut places = current.chain(&status.former_registrations);
            places.any(|place| place.name == self.name && is_same_url(&place.api_url, &self.api_url))
        })
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} at {}", self.name, self.api_url)
    }
}

fn api_url(route: &PresenceRoute) -> String {
    let genesys = &route.spec.genesys;
    match (&genesys.region, &genesys.api_url) {
        (Some(region), _) => normal(&region::api_url(region)),
        (None, api_url) => normal(api_url.as_deref().unwrap_or_default()),
    }
}

/// One of the ways in which a URL is written.
fn normal(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

fn is_same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/').eq_ignore_ascii_case(other.trim_end_matches('/'))
}

/// Why `route` must stand back: an older one of `others` claims the same, or another one has not left it yet.
pub fn rival<'r>(
    route: &PresenceRoute,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> Option<String> {
    let url = &route.spec.endpoint.url;
    let registration = Registration::asked_by(route);
    others.into_iter().filter(|other| other.metadata.uid != route.metadata.uid).find_map(|other| {
        let whose = || format!("PresenceRoute {}/{}", other.namespace().unwrap_or_default(), other.name_any());
        let is_older = || seniority(other) < seniority(route);
        if is_same_url(&other.spec.endpoint.url, url) && is_older() {
            return Some(format!(
                "spec.endpoint.url: {:?} is already claimed by {}, which is older; change it here or delete the other",
                normal(url),
                whose()
            ));
        }
        let is_asked_there = registration.is_asked_by(other);
        if is_asked_there && is_older() {
            return Some(format!(
                "spec.genesys.endpointName: {registration} is already claimed by {}, which is older; change it here or \
                 delete the other",
                whose()
            ));
        }
        (!is_asked_there && registration.is_held_by(other)).then(|| {
            format!(
                "spec.genesys.endpointName: {registration} still belongs to {}, whose spec names another one now; it is \
                 free when status.registration and status.formerRegistrations there do not name it any more",
                whose()
            )
        })
    })
}

/// Orders routes by age; the uid decides between two of the same second.
fn seniority(route: &PresenceRoute) -> (Option<Timestamp>, Option<&str>) {
    (route.creation_timestamp().map(|time| time.0), route.metadata.uid.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, uid: &str, created: &str, url: &str) -> PresenceRoute {
        let yaml = format!(
            r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: {name}, namespace: presence, uid: {uid}, creationTimestamp: "{created}"}}
spec:
  genesys: {{region: mypurecloud.ie, credentialsSecretRef: {{name: oauth}}}}
  endpoint: {{url: "{url}", signingSecretRef: {{name: webhook}}}}
  routes: [{{eventType: a, topic: b}}]
  kafka: {{bootstrapServers: ["kafka:9092"]}}
"#
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn called(mut route: PresenceRoute, endpoint_name: &str) -> PresenceRoute {
        route.spec.genesys.endpoint_name = Some(endpoint_name.to_owned());
        route
    }

    fn registered_as(mut route: PresenceRoute, name: &str) -> PresenceRoute {
        let status = serde_json::json!({"formerRegistrations": [{
            "name": name, "apiUrl": "https://api.mypurecloud.ie",
            "access": {
                "clientId": "c", "credentialsSecretRef": {"name": "oauth"}, "tokenPath": "/t", "eventBridgesPath": "/b",
                "tokenRequest": "Json",
            },
        }]});
        route.status = Some(serde_json::from_value(status).unwrap());
        route
    }

    #[test]
    fn the_younger_of_two_routes_with_one_url_stands_back() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/events");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://Presence.example.com/events/");
        let message = rival(&young, [&old, &young]).unwrap();
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(rival(&old, [&old, &young]), None);
    }

    #[test]
    fn routes_with_urls_of_their_own_do_not_meet() {
        let one = route("one", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let two = route("two", "2", "2026-01-01T00:00:00Z", "https://presence.example.com/two");
        assert_eq!(rival(&two, [&one, &two]), None);
    }

    #[test]
    fn the_younger_of_two_routes_with_one_registration_stands_back_however_they_name_the_api() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let mut young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        young.spec.genesys.region = None;
        young.spec.genesys.api_url = Some("https://API.mypurecloud.ie/".to_owned());
        let (old, young) = (called(old, "presence"), called(young, "presence"));
        let message = rival(&young, [&old, &young]).unwrap();
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(rival(&old, [&old, &young]), None);
    }

    #[test]
    fn a_registration_belongs_to_whoever_has_it_until_it_has_left() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let (old, young) = (called(old, "wanted"), called(registered_as(young, "wanted"), "another"));
        let message = rival(&old, [&old, &young]).unwrap();
        assert!(message.contains("still belongs to PresenceRoute presence/young"), "{message}");
        assert_eq!(rival(&young, [&old, &young]), None);
    }

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
}
