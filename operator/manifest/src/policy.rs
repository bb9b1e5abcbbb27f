//! What an installation allows routes to ask for: hosts, images and annotations.
//!
//! A person who may create a PresenceRoute decides which hosts the operator calls, which image runs in the namespace and
//! how the objects in front of it are annotated. A policy narrows that down for all routes of the operator. Pure: the
//! file's text and a route come in, violations with their fields go out. Without a policy everything is allowed but
//! special addresses ([`allowed_hosts`]).

pub mod file;

use std::collections::BTreeMap;
use std::fmt;

use kube::ResourceExt;
use presenceroute_core::allowed_hosts::{self, HostList, HostRefusal};
use presenceroute_core::region;
use presenceroute_core::url::parse_http_url;
use presenceroute_crds::{PresenceRoute, PresenceRouteSpec};
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use crate::field::FieldPath;
use crate::relay_defaults::RelayDefaults;

const POD_ANNOTATIONS: &str = "spec.relay.podAnnotations";
const SERVICE_ACCOUNT_ANNOTATIONS: &str = "spec.relay.serviceAccount.annotations";

/// The most bytes of a policy's file: a ConfigMap holds no more.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// What an installation allows. A list that is not set allows everything, an empty list nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// The hosts that may be called as Genesys Cloud. A special address, such as 127.0.0.1, has to be in the list by its
    /// whole name in any case. What a server says is shown if its host is in the list or of a region.
    pub genesys_hosts: Option<HostList>,
    /// The hosts of each namespace. A route in one of these may use no other host in `spec.endpoint.url`, and a host that
    /// is listed for other namespaces only is refused to it.
    #[serde(deserialize_with = "or_default")]
    pub namespace_hosts: BTreeMap<Namespace, HostList>,
    /// The images of `spec.relay.image`.
    pub relay_images: Option<Vec<Pattern>>,
    /// The keys of annotations.
    pub annotations: Option<Vec<Pattern>>,
}

/// The name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(String);

/// A text, or the beginning of one where it ends with `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is not what a policy is made of.
    #[error(
        "it is not a policy: {0}; a policy has genesysHosts, namespaceHosts, relayImages and annotations"
    )]
    Yaml(String),
    /// It is larger than a ConfigMap.
    #[error("it has more than {MAX_POLICY_BYTES} bytes")]
    TooLarge,
}

/// A field of a route that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyViolation {
    field: FieldPath,
    cause: String,
}

impl PolicyViolation {
    fn new(field: &str, cause: String) -> Self {
        Self { field: FieldPath::parse(field), cause }
    }

    /// The field.
    #[must_use]
    pub fn field(&self) -> &FieldPath {
        &self.field
    }

    /// What is wrong with it and what helps, without the field.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

impl fmt::Display for PolicyViolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.cause)
    }
}

impl Policy {
    /// Reads a policy as YAML. A text without content is the policy that allows everything.
    ///
    /// # Errors
    /// [`PolicyError`]; an unknown key, and an entry that can match nothing, is one.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge);
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options::<Option<Self>>(text, options)
            .map(Option::unwrap_or_default)
            .map_err(|error| PolicyError::Yaml(error.to_string()))
    }

    /// What the route asks for and may not. An annotation that is as the installation's defaults have it is allowed. What
    /// cannot be read, such as a URL that is none, is left to validation.
    #[must_use]
    pub fn check(&self, route: &PresenceRoute, defaults: &RelayDefaults) -> Vec<PolicyViolation> {
        let spec = &route.spec;
        let namespace = route.namespace();
        let [api, login] = genesys_urls(spec).map(|url| self.genesys_host(url?));
        let of_hosts = [api, login, self.endpoint_host(spec, namespace.as_deref())];
        let mut violations: Vec<_> = of_hosts.into_iter().flatten().collect();
        violations.extend(self.images(spec));
        violations.extend(self.annotations(spec, defaults));
        violations
    }

    fn genesys_host(&self, (field, url): (&'static str, String)) -> Option<PolicyViolation> {
        let url = parse_http_url(&url)?;
        let refusal = allowed_hosts::check(self.genesys_hosts.as_ref(), &url).err()?;
        let host = host(&url);
        let cause = match refusal {
            HostRefusal::NotListed => {
                format!("this installation does not allow host {host:?} as Genesys Cloud; name another host")
            }
            HostRefusal::SpecialAddress(kind) => {
                format!("host {host:?} is {kind}, which this installation does not call; name another host")
            }
        };
        Some(PolicyViolation::new(field, format!("{cause}, {}", ask_to_add("this one", "genesysHosts"))))
    }

    /// Whether the endpoint's host is the namespace's. A manifest without a namespace may be for any.
    fn endpoint_host(&self, spec: &PresenceRouteSpec, namespace: Option<&str>) -> Option<PolicyViolation> {
        let url = parse_http_url(spec.endpoint_url()?)?;
        let (host, namespace) = (host(&url), namespace?);
        let own = self.namespace_hosts.iter().find(|(name, _)| name.0 == namespace).map(|(_, hosts)| hosts);
        let cause = match own {
            Some(hosts) if hosts.contains(host) => return None,
            Some(_) => format!(
                "host {host:?} is none of those that this installation allows namespace {namespace:?}"
            ),
            // Which namespace has it is not for everybody to know.
            None if self.namespace_hosts.values().any(|hosts| hosts.contains(host)) => {
                format!("this installation keeps host {host:?} for another namespace")
            }
            None => return None,
        };
        let entry = format!("namespaceHosts.{namespace}");
        let cause = format!("{cause}; use another host, {}", ask_to_add("this one", &entry));
        Some(PolicyViolation::new("spec.endpoint.url", cause))
    }

    fn images(&self, spec: &PresenceRouteSpec) -> Option<PolicyViolation> {
        let (allowed, image) = (self.relay_images.as_ref()?, spec.relay.image.as_ref()?);
        if allowed.iter().any(|pattern| pattern.matches(image)) {
            return None;
        }
        let cause = format!(
            "this installation does not allow image {image:?}; remove it for the installation's own, {}",
            ask_to_add("it", "relayImages")
        );
        Some(PolicyViolation::new("spec.relay.image", cause))
    }

    fn annotations(&self, spec: &PresenceRouteSpec, defaults: &RelayDefaults) -> Vec<PolicyViolation> {
        let Some(allowed) = &self.annotations else { return Vec::new() };
        let given = [
            (POD_ANNOTATIONS, Some(defaults.pod_annotations())),
            (SERVICE_ACCOUNT_ANNOTATIONS, defaults.service_account_annotations()),
        ];
        let is_default = |field: &str, key: &String, value: &String| {
            given.iter().any(|(of, map)| *of == field && map.and_then(|map| map.get(key)) == Some(value))
        };
        let all =
            annotations(spec).into_iter().flat_map(|(field, map)| map.iter().map(move |it| (field, it)));
        let refused = all.filter(|(field, (key, value))| {
            !allowed.iter().any(|pattern| pattern.matches(key)) && !is_default(field, key, value)
        });
        refused
            .map(|(field, (key, _))| {
                let cause = format!(
                    "this installation does not allow annotation {key:?}; remove it, {}",
                    ask_to_add("it", "annotations")
                );
                PolicyViolation { field: FieldPath::parse(field).child(key), cause }
            })
            .collect()
    }
}

/// The annotations that a spec puts on objects, by their field.
fn annotations(spec: &PresenceRouteSpec) -> Vec<(&'static str, &BTreeMap<String, String>)> {
    let mut annotations = vec![(POD_ANNOTATIONS, &spec.relay.pod_annotations)];
    let service_account = spec.relay.service_account.iter();
    annotations.extend(service_account.map(|account| (SERVICE_ACCOUNT_ANNOTATIONS, &account.annotations)));
    if let Some(endpoint) = &spec.endpoint {
        annotations.push(("spec.endpoint.service.annotations", &endpoint.service.annotations));
        let of_ingress = endpoint.ingress.as_ref();
        annotations
            .extend(of_ingress.map(|ingress| ("spec.endpoint.ingress.annotations", &ingress.annotations)));
    }
    annotations
}

/// The remedy that is not in the author's hands.
fn ask_to_add(what: &str, entry: &str) -> String {
    format!(
        "or ask the cluster's administrators to add {what} to {entry} of the operator's policy (chart value \
         operator.policy.{entry})"
    )
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// A map that a chart leaves empty may be null.
fn or_default<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl TryFrom<String> for Namespace {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=63).contains(&name.len()) && name.bytes().all(is_legal) {
            Ok(Self(name))
        } else {
            Err(format!("{name:?} cannot be the name of a namespace: lower case letters, digits and hyphens"))
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fixed = text.strip_suffix('*').unwrap_or(&text);
        if text.is_empty() || fixed.contains(|letter: char| letter == '*' || letter.is_whitespace()) {
            return Err(format!(
                "{text:?} matches nothing; write the whole text, or its beginning and one *"
            ));
        }
        Ok(Self(text))
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix),
            None => text == self.0,
        }
    }
}

/// The URLs of the API and of the login service, where the source asks that for tokens, each with its field.
fn genesys_urls(spec: &PresenceRouteSpec) -> [Option<(&'static str, String)>; 2] {
    let genesys = &spec.genesys;
    let api = match (&genesys.region, &genesys.api_url) {
        (Some(region), _) => Some(("spec.genesys.region", region::api_url(region))),
        (None, Some(url)) => Some(("spec.genesys.apiUrl", url.clone())),
        (None, None) => None,
    };
    let login = match (&genesys.login_url, &genesys.region) {
        (Some(url), _) => Some(("spec.genesys.loginUrl", url.clone())),
        (None, Some(region)) if spec.source.amazon_event_bridge.is_some() => {
            Some(("spec.genesys.region", region::login_url(region)))
        }
        (None, _) => None,
    };
    [api, login]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(yaml: &str) -> Policy {
        Policy::parse(yaml).unwrap()
    }

    fn route(genesys: &str, url: &str, rest: &str) -> PresenceRoute {
        let yaml = format!(
            "
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: one, namespace: team-a}}
spec:
  genesys: {{{genesys}, credentialsSecretRef: {{name: oauth}}}}
  source: {{webhook: {{signingSecretRef: {{name: webhook}}}}}}
  endpoint:
    url: {url:?}
    service: {{annotations: {{example.com/lb: internal}}}}
    ingress: {{annotations: {{cert-manager.io/cluster-issuer: le}}}}
  routes: [{{eventType: a, topic: b}}]
  kafka: {{bootstrapServers: ['kafka:9092']}}
  relay: {{podAnnotations: {{sidecar.istio.io/inject: 'true'}}{rest}}}
"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    const REGION: &str = "region: mypurecloud.ie";
    const URL: &str = "https://presence.team-a.example.com/events";

    fn violations(policy: &Policy, route: &PresenceRoute) -> Vec<String> {
        policy.check(route, &RelayDefaults::default()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_policy_only_special_addresses_are_refused() {
        for text in ["", "{}", "# nothing\n", "genesysHosts: null\nnamespaceHosts: null\n"] {
            let policy = policy(text);
            assert_eq!(policy, Policy::default(), "{text:?}");
            assert_eq!(violations(&policy, &route(REGION, URL, ", image: any/thing:1")), [""; 0]);
        }
        for (host, kind) in [
            ("127.0.0.1:8090", "an address of this machine itself"),
            ("[::ffff:169.254.169.254]", "a link-local address"),
            ("168.63.129.16", "a metadata service"),
            ("0", "an address of this machine itself"),
        ] {
            let route = route(&format!("apiUrl: 'http://{host}'"), URL, "");
            let [violation] = violations(&Policy::default(), &route).try_into().unwrap();
            assert!(violation.starts_with("spec.genesys.apiUrl: host \""), "{violation}");
            assert!(violation.contains(kind), "{violation}");
            assert!(violation.ends_with("(chart value operator.policy.genesysHosts)"), "{violation}");
        }
    }

    #[test]
    fn genesys_hosts_bind_regions_and_api_urls() {
        let policy = policy("genesysHosts: [api.mypurecloud.ie, '*.corp.example', 127.0.0.1]");
        for genesys in [
            REGION,
            "apiUrl: 'https://api.mypurecloud.ie'",
            "apiUrl: 'http://gateway.corp.example:8090/genesys'",
            "apiUrl: 'http://127.0.0.1:8090'",
        ] {
            assert_eq!(violations(&policy, &route(genesys, URL, "")), [""; 0], "{genesys}");
        }
        for (genesys, field) in [
            ("region: mypurecloud.de", "spec.genesys.region: "),
            ("region: evil.example", "spec.genesys.region: "),
            ("apiUrl: 'https://corp.example'", "spec.genesys.apiUrl: "),
            ("apiUrl: 'https://api.mypurecloud.ie.evil.example'", "spec.genesys.apiUrl: "),
            ("apiUrl: 'http://[::1]:8090'", "spec.genesys.apiUrl: "),
        ] {
            let [violation] = violations(&policy, &route(genesys, URL, "")).try_into().unwrap();
            assert!(violation.starts_with(field), "{violation}");
            assert!(violation.contains("this installation does not allow host"), "{violation}");
        }
    }

    #[test]
    fn genesys_hosts_bind_the_login_service() {
        let policy = policy("genesysHosts: [api.mypurecloud.ie]");
        let login = "apiUrl: 'https://api.mypurecloud.ie', loginUrl: 'https://login.mypurecloud.ie'";
        let [violation] = violations(&policy, &route(login, URL, "")).try_into().unwrap();
        assert!(violation.starts_with("spec.genesys.loginUrl: "), "{violation}");
        assert!(violation.contains("\"login.mypurecloud.ie\""), "{violation}");

        let mut by_region = route(REGION, URL, "");
        assert_eq!(violations(&policy, &by_region), [""; 0], "a webhook's tokens come from the API");
        by_region.spec.source = serde_json::from_value(serde_json::json!({"amazonEventBridge": {
            "topics": ["v2.users.{id}.presence"], "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
            "sqs": {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"},
        }}))
        .unwrap();
        let [violation] = violations(&policy, &by_region).try_into().unwrap();
        assert!(violation.starts_with("spec.genesys.region: "), "{violation}");
        assert!(violation.contains("\"login.mypurecloud.ie\""), "{violation}");
    }

    #[test]
    fn a_namespace_has_its_hosts_and_no_other() {
        let policy = policy(
            "namespaceHosts: {team-a: ['*.team-a.example.com'], team-b: [presence.team-b.example.com, '*.shared.example']}",
        );
        let at = |namespace: &str, url: &str| {
            let mut route = route(REGION, url, "");
            route.metadata.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
            violations(&policy, &route)
        };
        for (namespace, url) in [
            ("team-a", URL),
            ("team-a", "https://PRESENCE.team-a.example.com.:8443/x"),
            ("team-b", "https://presence.team-b.example.com/x"),
            ("elsewhere", "https://presence.example.com/x"),
            ("elsewhere", "https://team-a.example.com/x"),
            ("", URL),
        ] {
            assert_eq!(at(namespace, url), [""; 0], "{namespace} {url}");
        }
        for (namespace, url) in [
            ("team-a", "https://presence.example.com/x"),
            ("team-a", "https://presence.team-b.example.com/x"),
            ("team-b", URL),
        ] {
            let [violation] = at(namespace, url).try_into().unwrap();
            assert!(violation.starts_with("spec.endpoint.url: host "), "{violation}");
            assert!(violation.contains(&format!("allows namespace {namespace:?}")), "{violation}");
        }
        for url in [URL, "https://x.shared.example", "https://Presence.team-b.example.com."] {
            let [violation] = at("elsewhere", url).try_into().unwrap();
            assert!(violation.contains("for another namespace; use another host"), "{violation}");
            assert!(
                violation.ends_with("(chart value operator.policy.namespaceHosts.elsewhere)"),
                "{violation}"
            );
            assert!(!violation.contains("\"team-"), "{violation}");
        }
    }

    #[test]
    fn an_image_is_allowed_by_its_name_or_its_beginning() {
        let policy = policy("relayImages: ['ghcr.io/presenceroute/*', 'registry.example.com/relay:1']");
        let with = |image: &str| violations(&policy, &route(REGION, URL, &format!(", image: '{image}'")));
        assert_eq!(violations(&policy, &route(REGION, URL, "")), [""; 0], "the installation's own");
        for image in ["ghcr.io/presenceroute/relay:2", "registry.example.com/relay:1"] {
            assert_eq!(with(image), [""; 0], "{image}");
        }
        for image in [
            "registry.example.com/relay:12",
            "ghcr.io/presencerouter/relay",
            "docker.io/ghcr.io/presenceroute/x",
        ] {
            let [violation] = with(image).try_into().unwrap();
            assert!(
                violation.starts_with(&format!(
                    "spec.relay.image: this installation does not allow image {image:?}"
                )),
                "{violation}"
            );
        }
        assert_eq!(violations(&self::policy("relayImages: []"), &route(REGION, URL, ", image: x")).len(), 1);
    }

    #[test]
    fn annotations_of_the_defaults_are_allowed_as_they_are() {
        let role = "eks.amazonaws.com/role-arn";
        let defaults = RelayDefaults::parse(&format!(
            "{{podAnnotations: {{sidecar.istio.io/inject: 'true'}}, serviceAccount: {{annotations: {{{role}: ours}}}}}}"
        ))
        .unwrap();
        let policy = policy("annotations: [cert-manager.io/cluster-issuer, 'example.com/*']");
        let violations = |relay: &str| {
            let mut route = route(REGION, URL, relay);
            defaults.apply_to(&mut route.spec.relay);
            policy.check(&route, &defaults).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(violations(""), [""; 0]);
        let [other] =
            violations(&format!(", serviceAccount: {{annotations: {{{role}: theirs}}}}")).try_into().unwrap();
        assert!(other.contains("does not allow annotation \"eks.amazonaws.com/role-arn\""), "{other}");
    }

    #[test]
    fn annotations_are_allowed_by_their_keys() {
        let policy = policy("annotations: [cert-manager.io/cluster-issuer, 'example.com/*']");
        let violations = violations(&policy, &route(REGION, URL, ""));
        let [violation] = violations.try_into().unwrap();
        assert!(
            violation.starts_with(
                "spec.relay.podAnnotations[sidecar.istio.io/inject]: this installation does not allow"
            ),
            "{violation}"
        );
        assert_eq!(self::violations(&self::policy("annotations: []"), &route(REGION, URL, "")).len(), 3);
    }

    /// The fields below `schema` whose name ends with one of these, as paths.
    fn fields(schema: &serde_json::Value, path: &FieldPath, names: &[&str], found: &mut Vec<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = path.child(name);
            if names.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
                found.push(path.to_string());
            }
            fields(schema, &path, names, found);
            fields(&schema["items"], &path, names, found);
        }
    }

    #[test]
    fn every_field_with_annotations_or_an_image_is_checked() {
        let crd = serde_json::to_value(<PresenceRoute as kube::CustomResourceExt>::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut found = Vec::new();
        fields(spec, &FieldPath::parse("spec"), &["annotations", "image"], &mut found);
        let route = route(REGION, URL, ", serviceAccount: {annotations: {a: b}}");
        let mut checked: Vec<_> =
            annotations(&route.spec).iter().map(|(field, _)| (*field).to_owned()).collect();
        checked.push("spec.relay.image".to_owned());
        found.sort();
        checked.sort();
        assert_eq!(found, checked, "the policy has to know each field that is new");
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_an_error() {
        for (text, part) in [
            ("genesysHost: [a]", "genesysHost"),
            ("genesysHosts: a", "genesysHosts"),
            ("genesysHosts: ['https://api.example.com']", "is no host"),
            ("genesysHosts: ['*']", "is no host"),
            ("namespaceHosts: {Team_A: [a.example.com]}", "cannot be the name of a namespace"),
            ("namespaceHosts: {team-a: [a.example.com], team-a: []}", "uplicate"),
            ("namespaceHosts: {team-a: a.example.com}", "line 1"),
            ("relayImages: ['*/relay']", "matches nothing"),
            ("annotations: ['']", "matches nothing"),
            ("annotations: [a b]", "matches nothing"),
            ("- genesysHosts", "not a policy"),
            ("a: b: c", "not a policy"),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let large = format!("genesysHosts: [{}]", "a,".repeat(MAX_POLICY_BYTES));
        assert!(matches!(Policy::parse(&large), Err(PolicyError::TooLarge)));
    }
}
