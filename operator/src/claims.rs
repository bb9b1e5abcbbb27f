//! Two routes must not claim the same endpoint URL or the same registration: they would overwrite each other for
//! ever. The older one has it; a registration that a route is about to leave is its own until it has left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::RegistrationPlace;
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
type Registration = (String, String);

/// The registration that the spec asks for.
fn asked(route: &PresenceRoute) -> Registration {
    let genesys = &route.spec.genesys;
    let api_url = match (&genesys.region, &genesys.api_url) {
        (Some(region), _) => region::api_url(region),
        (None, api_url) => api_url.clone().unwrap_or_default(),
    };
    let default_name = || format!("{}/{}", route.namespace().unwrap_or_default(), route.name_any());
    (normal(&api_url), genesys.endpoint_name.clone().unwrap_or_else(default_name))
}

/// The registrations that a route may have, whatever its spec says now.
fn held(route: &PresenceRoute) -> impl Iterator<Item = Registration> {
    let of = |place: &RegistrationPlace| (normal(&place.api_url), place.name.clone());
    route.status.iter().flat_map(move |status| {
        let current = status.registration.iter().map(|registration| &registration.place);
        current.chain(&status.former_registrations).map(of).collect::<Vec<_>>()
    })
}

/// One of the ways in which a URL is written, so that two can be compared.
fn normal(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

/// Why `route` must stand back: an older one of `others` claims the same, or another one has not left it yet.
pub fn rival<'r>(
    route: &PresenceRoute,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> Option<String> {
    let (url, registration) = (normal(&route.spec.endpoint.url), asked(route));
    let named = || format!("{:?} at {}", registration.1, registration.0);
    others.into_iter().filter(|other| other.uid() != route.uid()).find_map(|other| {
        let whose = || format!("PresenceRoute {}/{}", other.namespace().unwrap_or_default(), other.name_any());
        let is_older = seniority(other) < seniority(route);
        if is_older && normal(&other.spec.endpoint.url) == url {
            return Some(format!(
                "spec.endpoint.url: {url:?} is already claimed by {}, which is older; change it here or delete the other",
                whose()
            ));
        }
        let is_asked_there = asked(other) == registration;
        if is_older && is_asked_there {
            return Some(format!(
                "spec.genesys.endpointName: {} is already claimed by {}, which is older; change it here or delete the \
                 other",
                named(),
                whose()
            ));
        }
        (!is_asked_there && held(other).any(|held| held == registration)).then(|| {
            format!(
                "spec.genesys.endpointName: {} still belongs to {}, whose spec names another one now; it is free when \
                 status.registration and status.formerRegistrations there do not name it any more",
                named(),
                whose()
            )
        })
    })
}

/// Orders routes by age; the uid decides between two of the same second.
fn seniority(route: &PresenceRoute) -> (Option<Timestamp>, Option<String>) {
    (route.creation_timestamp().map(|time| time.0), route.uid())
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
