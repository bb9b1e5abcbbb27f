//! Two routes must not claim the same endpoint URL, registration or integration: they would overwrite each other for
//! ever. Each belongs to the route that has it already, otherwise to the one that can use it, and of two such to the older
//! one; until a route has released a registration that its spec does not name any more, the next one goes by another name.
//!
//! Pure: specs and statuses in, the conflict out. What becomes of a route in conflict is left to the caller.

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_crds::spec::IntegrationMode;
use presenceroute_crds::status::{RegistrationLocation, SourceType};
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};

use crate::field::FieldPath;
use crate::registration_name::{self, registration_name};
use presenceroute_core::region;
use presenceroute_core::url::{is_same_base_url, normalized_base_url};

/// A registration or an integration, by where it is and what it is called.
struct Registration {
    type_: SourceType,
    api_url: String,
    name: String,
}

impl Registration {
    /// The registration that the spec asks for, if it asks for one that it may have.
    fn asked_by(route: &PresenceRoute) -> Option<Self> {
        let name = registration_name(route)?.into_owned();
        Some(Self { type_: source_type(route), api_url: api_url(route), name })
    }

    /// Whether another spec asks for the same, and may.
    fn is_asked_by(&self, route: &PresenceRoute) -> bool {
        self.type_ == source_type(route)
            && registration_name::is_asked_by(&self.name, route)
            && is_same_base_url(&api_url(route), &self.api_url)
    }

    /// Whether a route may have it, by its status, whatever its spec says now.
    fn is_held_by(&self, route: &PresenceRoute) -> bool {
        route.status.iter().any(|status| {
            let registration = status
                .registration()
                .map(|current| (SourceType::Webhook, &current.spec.name, &current.access));
            let integration = status
                .integration()
                .filter(|current| current.mode == IntegrationMode::Managed)
                .map(|current| (SourceType::AmazonEventBridge, &current.spec.name, &current.access));
            let former = status.former_registrations().iter();
            let former = former.map(|former| (former.type_, &former.name, &former.access));
            registration.into_iter().chain(integration).chain(former).any(|(type_, name, access)| {
                type_ == self.type_
                    && *name == self.name
                    && is_same_base_url(&access.api.api_url, &self.api_url)
            })
        })
    }

    /// The field of the spec that names it, below `spec`.
    fn field(&self) -> [&'static str; 3] {
        match self.type_ {
            SourceType::Webhook => ["source", "webhook", "name"],
            SourceType::AmazonEventBridge => ["source", "amazonEventBridge", "eventSourceSuffix"],
        }
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} at {}", self.name, self.api_url)
    }
}

fn source_type(route: &PresenceRoute) -> SourceType {
    match &route.spec.source.amazon_event_bridge {
        Some(_) => SourceType::AmazonEventBridge,
        None => SourceType::Webhook,
    }
}

fn api_url(route: &PresenceRoute) -> String {
    let genesys = &route.spec.genesys;
    match (&genesys.region, &genesys.api_url) {
        (Some(region), _) => normalized_base_url(&region::api_url(region)),
        (None, api_url) => normalized_base_url(api_url.as_deref().unwrap_or_default()),
    }
}

/// What another route has that this one asks for, as the sentence that the status shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The other route owns the URL or the registration, or claims it and is older: this route must wait.
    Owned(String),
    /// The other route has not released the registration yet: this route may go by another name meanwhile. Two routes
    /// that exchange their names would otherwise wait for each other for ever.
    PendingRelease(String),
}

/// The conflict of `route`, which is valid, with one of `others`, if there is one. Its status may not say yet whether it
/// `lacks_secrets`.
pub fn conflict<'r>(
    route: &PresenceRoute,
    lacks_secrets: bool,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> Option<Conflict> {
    let url = route.spec.endpoint_url();
    let registration = Registration::asked_by(route);
    let has_registration = registration.as_ref().is_some_and(|registration| registration.is_held_by(route));
    let has_url = url.is_some_and(|url| is_registered_for(route, url));
    let is_idle = route.spec.suspend || lacks_secrets;
    let mut pending = None;
    for other in others.into_iter().filter(|other| other.metadata.uid != route.metadata.uid) {
        let owner = || owner(other, route);
        let is_older = || age_order(other) < age_order(route);
        // What both have, or neither has, is that one's that can use it, and of two such the older one's.
        let goes_first = |theirs: bool, ours: bool| match (theirs, ours) {
            (true, false) => Some("has it"),
            (false, true) => None,
            _ => match (cannot_use(other), is_idle) {
                (true, false) => None,
                (false, true) => Some("can use it now"),
                _ => is_older().then_some("is older"),
            },
        };
        if let Some(url) = url
            && other.spec.endpoint_url().is_some_and(|theirs| is_same_base_url(theirs, url))
            && let Some(why) = goes_first(is_registered_for(other, url), has_url)
        {
            return Some(Conflict::Owned(format!(
                "spec.endpoint.url: {:?} is already claimed by {}, which {why}; change it here or delete the other",
                normalized_base_url(url),
                owner()
            )));
        }
        let Some(registration) = &registration else { continue };
        match (registration.is_asked_by(other), registration.is_held_by(other)) {
            (true, theirs) => {
                let Some(why) = goes_first(theirs, has_registration) else { continue };
                return Some(Conflict::Owned(format!(
                    "spec.{}: {registration} is already claimed by {}, which {why}; change it here or delete the other",
                    registration.field().join("."),
                    owner()
                )));
            }
            (false, true) => {
                pending = Some(Conflict::PendingRelease(format!(
                    "{registration} still belongs to {}, whose spec names another one now; it is free when \
                     status.source there does not name it any more",
                    owner()
                )));
            }
            (false, false) => {}
        }
    }
    pending
}

/// The fields in which two routes claim the same, whichever of them owns it.
pub fn common_claims(one: &PresenceRoute, other: &PresenceRoute) -> Vec<FieldPath> {
    let spec = FieldPath::default().child("spec");
    let urls = one.spec.endpoint_url().zip(other.spec.endpoint_url());
    let url = urls.filter(|(one, other)| is_same_base_url(one, other));
    let registration = Registration::asked_by(one).filter(|registration| registration.is_asked_by(other));
    let url = url.map(|_| spec.child("endpoint").child("url"));
    let registration = registration
        .map(|registration| registration.field().into_iter().fold(spec, |path, field| path.child(field)));
    url.into_iter().chain(registration).collect()
}

/// Whether one of `others` has the registration at this place and asks for it: it is not `route`'s to remove.
pub fn belongs_to_another<'r>(
    route: &PresenceRoute,
    location: &RegistrationLocation,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> bool {
    let registration = Registration {
        type_: location.type_,
        api_url: normalized_base_url(&location.access.api.api_url),
        name: location.name.clone(),
    };
    others.into_iter().any(|other| {
        other.metadata.uid != route.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
            && registration.is_asked_by(other)
            && registration.is_held_by(other)
    })
}

/// Another route as `route`'s status may name it: the names of one namespace are no other's business.
fn owner(other: &PresenceRoute, route: &PresenceRoute) -> String {
    match (other.namespace(), route.namespace()) {
        (theirs, ours) if theirs != ours => "a PresenceRoute of another namespace".into(),
        (namespace, _) => format!("PresenceRoute {}/{}", namespace.unwrap_or_default(), other.name_any()),
    }
}

/// Whether a route is suspended, refused or without its Secrets, so that it would only keep others from what it claims.
fn cannot_use(route: &PresenceRoute) -> bool {
    let conditions = route.status.iter().flat_map(|status| &status.conditions);
    let mut failing = conditions.filter(|condition| condition.status == "False");
    route.spec.suspend || failing.any(|it| matches!(it.type_.as_str(), "Accepted" | "SecretsResolved"))
}

/// Whether a route's registration is known to send to this URL.
fn is_registered_for(route: &PresenceRoute, url: &str) -> bool {
    let registration = route.status.as_ref().and_then(PresenceRouteStatus::registration);
    registration.is_some_and(|it| it.id.is_some() && is_same_base_url(&it.spec.url, url))
}

/// The order of routes by age; the uid decides between two of the same second.
fn age_order(route: &PresenceRoute) -> (Option<Timestamp>, Option<&str>) {
    (route.creation_timestamp().map(|time| time.0), route.metadata.uid.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a route that has its Secrets.
    fn conflict<'r>(
        route: &PresenceRoute,
        others: impl IntoIterator<Item = &'r PresenceRoute>,
    ) -> Option<Conflict> {
        super::conflict(route, false, others)
    }

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
    fn the_younger_of_two_routes_with_one_url_waits() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/events");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://Presence.example.com/events/");
        let Some(Conflict::Owned(message)) = conflict(&young, [&old, &young]) else { panic!("no conflict") };
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(conflict(&old, [&old, &young]), None);
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
    fn an_older_route_does_not_take_a_registered_url() {
        let mut old =
            registered(route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one"));
        let young =
            registered(route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two"));
        assert_eq!(conflict(&young, [&old, &young]), None);
        old.spec.endpoint = young.spec.endpoint.clone();
        let Some(Conflict::Owned(message)) = conflict(&old, [&old, &young]) else { panic!("no conflict") };
        assert!(message.contains("presence/young, which has it"), "{message}");
        assert_eq!(conflict(&young, [&old, &young]), None);
    }

    #[test]
    fn a_registration_of_another_route_is_not_removed() {
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
        assert!(!belongs_to_another(&going, &place, [&going, &has_left]));
        assert!(belongs_to_another(&going, &place, [&going, &has_left, &has]));
        assert!(!belongs_to_another(&has, &place, [&has]));
    }

    fn failing(mut route: PresenceRoute, condition: &str) -> PresenceRoute {
        let condition = serde_json::json!({
            "type": condition, "status": "False", "reason": "Test", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        route.status = Some(serde_json::from_value(serde_json::json!({"conditions": [condition]})).unwrap());
        route
    }

    #[test]
    fn an_older_route_that_cannot_use_a_url_does_not_keep_it() {
        const URL: &str = "https://presence.example.com/events";
        let old = || route("old", "1", "2026-01-01T00:00:00Z", URL);
        let young = route("young", "2", "2026-01-02T00:00:00Z", URL);
        let mut suspended = old();
        suspended.spec.suspend = true;
        for idle in [failing(old(), "Accepted"), failing(old(), "SecretsResolved"), suspended] {
            assert_eq!(conflict(&young, [&idle, &young]), None);
        }
        let Some(Conflict::Owned(message)) = super::conflict(&old(), true, [&young]) else {
            panic!("it has no Secrets")
        };
        assert!(message.contains("presence/young, which can use it now"), "{message}");
        // Both cannot: the older one's. One that is there and works keeps it.
        let mut young_too = young.clone();
        young_too.spec.suspend = true;
        assert!(conflict(&young_too, [&failing(old(), "SecretsResolved")]).is_some());
        let mut holder = registered(old());
        holder.spec.suspend = true;
        let Some(Conflict::Owned(message)) = conflict(&young, [&holder]) else { panic!("it has it") };
        assert!(message.contains("which has it"), "{message}");
        // A failing condition of another kind is no reason.
        assert!(conflict(&young, [&failing(old(), "RelayAvailable")]).is_some());
    }

    #[test]
    fn a_conflict_names_no_route_of_another_namespace() {
        let mut old = route("secret-plan", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        old.metadata.namespace = Some("board".into());
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/one");
        let pending = called(registered_as(old.clone(), "wanted"), "another");
        let mut other_url = called(young.clone(), "wanted");
        other_url.spec.endpoint.as_mut().unwrap().url = "https://presence.example.com/two".into();
        for conflict in [conflict(&young, [&old]), conflict(&other_url, [&pending])] {
            let Some(Conflict::Owned(message) | Conflict::PendingRelease(message)) = conflict else {
                panic!("no conflict")
            };
            assert!(message.contains("a PresenceRoute of another namespace"), "{message}");
            assert!(!message.contains("secret-plan") && !message.contains("board"), "{message}");
        }
    }

    #[test]
    fn routes_with_different_urls_do_not_conflict() {
        let one = route("one", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let two = route("two", "2", "2026-01-01T00:00:00Z", "https://presence.example.com/two");
        assert_eq!(conflict(&two, [&one, &two]), None);
    }

    #[test]
    fn the_younger_of_two_routes_with_one_registration_waits() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let mut young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        young.spec.genesys.region = None;
        young.spec.genesys.api_url = Some("https://API.mypurecloud.ie/".to_owned());
        let (old, young) = (called(old, "presence"), called(young, "presence"));
        let Some(Conflict::Owned(message)) = conflict(&young, [&old, &young]) else { panic!("no conflict") };
        assert!(message.contains("PresenceRoute presence/old"), "{message}");
        assert_eq!(conflict(&old, [&old, &young]), None);
    }

    #[test]
    fn a_registration_stays_with_its_route_until_released() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let (old, young) = (called(old, "wanted"), called(registered_as(young, "wanted"), "another"));
        let Some(Conflict::PendingRelease(message)) = conflict(&old, [&old, &young]) else {
            panic!("no conflict")
        };
        assert!(message.contains("still belongs to PresenceRoute presence/young"), "{message}");
        assert_eq!(conflict(&young, [&old, &young]), None);
    }

    #[test]
    fn a_younger_route_keeps_its_registration() {
        let old = route("old", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let young = route("young", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let (old, young) = (called(old, "wanted"), called(registered_as(young, "wanted"), "wanted"));
        let Some(Conflict::Owned(message)) = conflict(&old, [&old, &young]) else { panic!("no conflict") };
        assert!(message.contains("presence/young, which has it"), "{message}");
        assert_eq!(conflict(&young, [&old, &young]), None);
        let old = registered_as(old, "wanted");
        assert!(
            matches!(conflict(&young, [&old, &young]), Some(Conflict::Owned(_))),
            "both have it: the older one"
        );
        assert_eq!(conflict(&old, [&old, &young]), None);
    }

    #[test]
    fn a_route_elsewhere_cannot_claim_a_name_of_the_namespace() {
        let victim = route("desk", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/one");
        let mut thief = route("thief", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/two");
        thief.metadata.namespace = Some("elsewhere".into());
        for name in ["presence/desk", "presence/desk/2"] {
            let (victim, thief) = (called(victim.clone(), name), called(thief.clone(), name));
            assert_eq!(conflict(&victim, [&victim, &thief]), None, "{name}");
            assert!(common_claims(&victim, &thief).is_empty() && common_claims(&thief, &victim).is_empty());
        }
        let thief = called(thief, "presence/desk");
        assert_eq!(conflict(&victim, [&victim, &thief]), None, "by its default name");
        let held = registered_as(thief, "presence/desk");
        assert!(
            matches!(conflict(&victim, [&victim, &held]), Some(Conflict::PendingRelease(_))),
            "a registration from before the name was reserved holds up the name alone"
        );
        let record = &held.status.as_ref().unwrap().former_registrations()[0];
        assert!(!belongs_to_another(&victim, record, [&victim, &held]));
    }

    #[test]
    fn a_claim_counts_more_than_a_pending_release() {
        let leaving = route("leaving", "1", "2026-01-01T00:00:00Z", "https://presence.example.com/one");
        let leaving = called(registered_as(leaving, "wanted"), "another");
        let old = route("old", "2", "2026-01-02T00:00:00Z", "https://presence.example.com/two");
        let young = route("young", "3", "2026-01-03T00:00:00Z", "https://presence.example.com/three");
        let (old, young) = (called(old, "wanted"), called(young, "wanted"));
        for others in [[&leaving, &old], [&old, &leaving]] {
            assert!(matches!(conflict(&young, others), Some(Conflict::Owned(_))));
        }
        assert!(matches!(conflict(&old, [&leaving, &young]), Some(Conflict::PendingRelease(_))));
    }
}
