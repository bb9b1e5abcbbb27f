//! Two routes must not claim the same endpoint URL or the same registration: they would overwrite each other for
//! ever. The older one has it.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;

/// What a route claims for itself alone.
fn claims(route: &PresenceRoute) -> [(&'static str, String); 2] {
    let genesys = &route.spec.genesys;
    let organisation = genesys.region.as_deref().or(genesys.api_url.as_deref()).unwrap_or_default();
    let default_name = || format!("{}/{}", route.namespace().unwrap_or_default(), route.name_any());
    let name = genesys.endpoint_name.clone().unwrap_or_else(default_name);
    [
        ("spec.endpoint.url", route.spec.endpoint.url.trim_end_matches('/').to_ascii_lowercase()),
        ("spec.genesys.endpointName", format!("{name} at {organisation}")),
    ]
}

/// Why `route` must stand back, when an older one of `others` claims the same.
pub fn rival<'r>(
    route: &PresenceRoute,
    others: impl IntoIterator<Item = &'r PresenceRoute>,
) -> Option<String> {
    let mine = claims(route);
    others
        .into_iter()
        .filter(|other| other.uid() != route.uid() && seniority(other) < seniority(route))
        .find_map(|other| {
            let (field, value) = claims(other).into_iter().zip(&mine).find(|(theirs, mine)| theirs == *mine)?.0;
            Some(format!(
                "{field}: {value:?} is already claimed by PresenceRoute {}/{}, which is older; change it here or \
                 delete the other",
                other.namespace().unwrap_or_default(),
                other.name_any()
            ))
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
}
