//! Two routes must not claim the same endpoint URL or the same registration: they would overwrite each other for
//! ever. Each belongs to the route that has it already, and otherwise to the older one; until a route has left a
//! registration that its spec does not name any more, the next one goes by another name.

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_crds::status::RegistrationLocation;
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};

use crate::field::FieldPath;
use presenceroute_core::region;

/// A registration, by where it is and what it is called.
struct Registration {
    api_url: String,
    name: String,
}

impl Registration {
    /// The registration that the spec asks for, if it asks for one.
    fn asked_by(route: &PresenceRoute) -> Option<Self> {
        let webhook = route.spec.source.webhook.as_ref()?;
        let default_name = || format!("{}/{}", route.namespace().unwrap_or_default(), route.name_any());
        Some(Self { api_url: api_url(route), name: webhook.name.clone().unwrap_or_else(default_name) })
    }

    /// Whether another spec asks for the same. Nothing is copied for it but where the name is the same: among thousands
    /// of routes this is asked of each by each.
    fn is_asked_by(&self, route: &PresenceRoute) -> bool {
        let Some(webhook) = &route.spec.source.webhook else { return false };
        let is_called_so = match &webhook.name {
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
            let current = status.registration().map(|current| (&current.spec.name, &current.access));
            let former = status.former_registrations().iter().map(|former| (&former.name, &former.access));
            current
                .into_iter()
                .chain(former)
                .any(|(name, access)| *name == self.name && is_same_url(&access.api.api_url, &self.api_url))
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
    let (scheme, authority, path) = parts(url);
    format!("{}://{}{path}", scheme.to_ascii_lowercase(), authority.to_ascii_lowercase())
}

/// Whether two URLs lead to the same: case matters in the path alone (RFC 3986, section 6.2.2.1). Nothing is copied for
/// it.
fn is_same_url(one: &str, other: &str) -> bool {
    let (one, other) = (parts(one), parts(other));
    one.0.eq_ignore_ascii_case(other.0) && one.1.eq_ignore_ascii_case(other.1) && one.2 == other.2
}

/// The scheme, the authority without the port that the scheme has anyway, and the rest without a slash at its end.
fn parts(url: &str) -> (&str, &str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    (scheme, authority.strip_suffix(port).unwrap_or(authority), path.trim_end_matches('/'))
}

/// Another route that is in the way, and why.
#[derive(Debug, PartialEq, Eq)]
pub enum Rival {
    /// It claims the same with more right: `route` must stand back.
    Claims(String),
    /// It has not left the registration yet: `route` cannot have it now, and may go by another name. Two that exchange
    /// theirs would otherwise wait for each other for ever.
    Leaves(String),
}

/// Who of `others` is in the way of `route`.
pub fn rival<'r>(
    route: &PresenceRoute,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> Option<Rival> {
    let url = route.spec.endpoint_url();
    let registration = Registration::asked_by(route);
    let has_registration = registration.as_ref().is_some_and(|registration| registration.is_held_by(route));
    let has_url = url.is_some_and(|url| is_registered_for(route, url));
    let mut leaving = None;
    for other in others.into_iter().filter(|other| other.metadata.uid != route.metadata.uid) {
        let whose =
            || format!("PresenceRoute {}/{}", other.namespace().unwrap_or_default(), other.name_any());
        let is_older = || seniority(other) < seniority(route);
        // What both have, or neither has, is the older one's.
        let goes_first = |theirs: bool, ours: bool| match (theirs, ours) {
            (true, false) => Some("has it"),
            (false, true) => None,
            _ => is_older().then_some("is older"),
        };
        if let Some(url) = url
            && other.spec.endpoint_url().is_some_and(|theirs| is_same_url(theirs, url))
            && let Some(why) = goes_first(is_registered_for(other, url), has_url)
        {
            return Some(Rival::Claims(format!(
                "spec.endpoint.url: {:?} is already claimed by {}, which {why}; change it here or delete the other",
                normal(url),
                whose()
            )));
        }
        let Some(registration) = &registration else { continue };
        match (registration.is_asked_by(other), registration.is_held_by(other)) {
            (true, theirs) => {
                let Some(why) = goes_first(theirs, has_registration) else { continue };
                return Some(Rival::Claims(format!(
                    "spec.source.webhook.name: {registration} is already claimed by {}, which {why}; change it here \
                     or delete the other",
                    whose()
                )));
            }
            (false, true) => {
                leaving = Some(Rival::Leaves(format!(
                    "{registration} still belongs to {}, whose spec names another one now; it is free when \
                     status.source there does not name it any more",
                    whose()
                )));
            }
            (false, false) => {}
        }
    }
    leaving
}

/// The fields in which two routes claim the same, whoever has more right to it.
pub fn common_claims(one: &PresenceRoute, other: &PresenceRoute) -> Vec<FieldPath> {
    let spec = FieldPath::default().child("spec");
    let urls = one.spec.endpoint_url().zip(other.spec.endpoint_url());
    let url = urls.filter(|(one, other)| is_same_url(one, other));
    let registration = Registration::asked_by(one).filter(|registration| registration.is_asked_by(other));
    let url = url.map(|_| spec.child("endpoint").child("url"));
    let registration = registration.map(|_| spec.child("source").child("webhook").child("name"));
    url.into_iter().chain(registration).collect()
}

/// Whether one of `others` has the registration at this place and asks for it: it is not `route`'s to remove.
pub fn is_anothers<'r>(
    route: &PresenceRoute,
    location: &RegistrationLocation,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> bool {
    let registration =
        Registration { api_url: normal(&location.access.api.api_url), name: location.name.clone() };
    others.into_iter().any(|other| {
        other.metadata.uid != route.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
            && registration.is_asked_by(other)
            && registration.is_held_by(other)
    })
}

/// Whether a route's registration is known to send to this URL.
fn is_registered_for(route: &PresenceRoute, url: &str) -> bool {
    let registration = route.status.as_ref().and_then(PresenceRouteStatus::registration);
    registration.is_some_and(|it| it.id.is_some() && is_same_url(&it.spec.url, url))
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
  source: {{webhook: {{signingSecretRef: {{name: webhook}}}}}}
  endpoint: {{url: "{url}"}}
  routes: [{{eventType: a, topic: b}}]
  kafka: {{bootstrapServers: ["kafka:9092"]}}
"#
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn called(mut route: PresenceRoute, name: &str) -> PresenceRoute {
        route.spec.source.webhook.as_mut().unwrap().name = Some(name.to_owned());
        route
    }

    fn access() -> serde_json::Value {
        serde_json::json!({
            "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Json",
            "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"},
        })
    }

    fn registered_as(mut route: PresenceRoute, name: &str) -> PresenceRoute {
        let status = serde_json::json!({"source": {
            "type": "Webhook", "formerRegistrations": [{"name": name, "access": access()}],
        }});
        route.status = Some(serde_json::from_value(status).unwrap());
        route
    }

    #[test]
    fn the_younger_of_two_routes_with_one_url_stands_back() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/events");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://Presence.example.com/events/");
        let Some(Rival::Claims(message)) = rival(&young, [&old, &young]) else { panic!("it goes on") };
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(rival(&old, [&old, &young]), None);
    }

    /// Registered with the URL that it has now, whatever its spec says later.
    fn registered(mut route: PresenceRoute) -> PresenceRoute {
        let status = serde_json::json!({"source": {"type": "Webhook", "registration": {
            "id": "1", "name": "of its own", "access": access(),
            "url": route.spec.endpoint_url(), "enabled": true, "eventTypes": ["a"],
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
        }}});
        route.status = Some(serde_json::from_value(status).unwrap());
        route
    }

    #[test]
    fn an_older_route_does_not_take_the_url_of_one_that_is_registered_with_it() {
        let mut old =
            registered(route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one"));
        let young =
            registered(route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two"));
        assert_eq!(rival(&young, [&old, &young]), None);
        old.spec.endpoint = young.spec.endpoint.clone();
        let Some(Rival::Claims(message)) = rival(&old, [&old, &young]) else { panic!("it takes it away") };
        assert!(message.contains("presence/young, which has it"), "{message}");
        assert_eq!(rival(&young, [&old, &young]), None);
    }

    #[test]
    fn urls_are_the_same_but_for_what_does_not_matter_in_them() {
        for same in ["HTTPS://Presence.example.com/Events", "https://presence.example.com:443/Events/"] {
            assert!(is_same_url(same, "https://presence.example.com/Events"), "{same}");
            assert_eq!(normal(same), "https://presence.example.com/Events");
        }
        let others = [
            "https://presence.example.com/events",
            "https://presence.example.com:80/Events",
            "http://presence.example.com/Events",
            "https://presence.example.com",
        ];
        for other in others {
            assert!(!is_same_url(other, "https://presence.example.com/Events"), "{other}");
        }
    }

    #[test]
    fn a_registration_that_another_route_has_and_asks_for_is_not_this_ones_to_remove() {
        let place = registered_as(route("a", "1", "2026-01-01T00:00:00Z", "https://a.example.com"), "wanted")
            .status
            .unwrap()
            .former_registrations()[0]
            .clone();
        let route = |name: &str, uid: &str| {
            let url = format!("https://{name}.example.com");
            registered_as(route(name, uid, "2026-01-01T00:00:00Z", &url), "wanted")
        };
        let (going, has_left, has) =
            (route("going", "1"), route("left", "2"), called(route("has", "3"), "wanted"));
        assert!(!is_anothers(&going, &place, [&going, &has_left]));
        assert!(is_anothers(&going, &place, [&going, &has_left, &has]));
        assert!(!is_anothers(&has, &place, [&has]));
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
        let Some(Rival::Claims(message)) = rival(&young, [&old, &young]) else { panic!("it goes on") };
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(rival(&old, [&old, &young]), None);
    }

    #[test]
    fn a_registration_belongs_to_whoever_has_it_until_it_has_left() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let (old, young) = (called(old, "wanted"), called(registered_as(young, "wanted"), "another"));
        let Some(Rival::Leaves(message)) = rival(&old, [&old, &young]) else { panic!("it is not told") };
        assert!(message.contains("still belongs to PresenceRoute presence/young"), "{message}");
        assert_eq!(rival(&young, [&old, &young]), None);
    }

    #[test]
    fn a_younger_route_keeps_the_registration_that_it_has() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let (old, young) = (called(old, "wanted"), called(registered_as(young, "wanted"), "wanted"));
        let Some(Rival::Claims(message)) = rival(&old, [&old, &young]) else { panic!("it takes it away") };
        assert!(message.contains("presence/young, which has it"), "{message}");
        assert_eq!(rival(&young, [&old, &young]), None);
        let old = registered_as(old, "wanted");
        assert!(
            matches!(rival(&young, [&old, &young]), Some(Rival::Claims(_))),
            "both have it: the older one"
        );
        assert_eq!(rival(&old, [&old, &young]), None);
    }

    #[test]
    fn a_claim_counts_more_than_a_registration_that_somebody_is_about_to_leave() {
        let leaving = route("leaving", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let leaving = called(registered_as(leaving, "wanted"), "another");
        let old = route("old", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let young = route("young", "3", "2026-01-03T00:00:00Z", "https://presence.example.com/three");
        let (old, young) = (called(old, "wanted"), called(young, "wanted"));
        for others in [[&leaving, &old], [&old, &leaving]] {
            assert!(matches!(rival(&young, others), Some(Rival::Claims(_))));
        }
        assert!(matches!(rival(&old, [&leaving, &young]), Some(Rival::Leaves(_))));
    }
}
