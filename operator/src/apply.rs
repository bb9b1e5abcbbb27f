//! The fourth step: the cluster is made to hold exactly the objects that were built.
//!
//! Server-side apply with one field manager; an object that already says what it should is not written. Others may add
//! fields of their own, but not to what selects pods, nor to what relays mount ([`whole_fields`]). What carries the
//! route's label and is not wanted any more is deleted.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api_server::ApiServerError;
use crate::children::{Children, Leftover, RouteKey};
use presenceroute_manifest::build::http_route;

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "presenceroute-operator";
/// The hash of an object as it was built. Where it differs, something was added to or taken from what we want.
const CONTENT_HASH_ANNOTATION: &str = "presenceroute.io/content-hash";

/// Why the cluster could not be brought in line.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An object was refused.
    #[error("{kind} {name:?} cannot be applied: {source}")]
    Apply {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server says.
        source: ApiServerError,
    },
    /// An object that is not wanted any more could not be deleted.
    #[error("{kind} {name:?} is not wanted any more and cannot be deleted: {source}")]
    Delete {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server says.
        source: ApiServerError,
    },
    /// The Gateway API is not installed.
    #[error(
        "spec.endpoint.gateway needs the Gateway API, which this cluster does not have; install its CRDs, which is \
         noticed within seconds, or expose the endpoint by an Ingress"
    )]
    NoGatewayApi,
}

impl ApplyError {
    /// Whether Kubernetes refuses this for good: a policy, a quota, a right or a kind is missing.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoGatewayApi => true,
            Self::Apply { source, .. } | Self::Delete { source, .. } => {
                matches!(source.code(), Some(400 | 403 | 422))
            }
        }
    }
}

/// What Kubernetes refuses for good, as a text for the status.
///
/// # Errors
/// Any other, which is tried again.
pub fn refusal_of(applied: Result<(), ApplyError>) -> Result<Option<String>, ApplyError> {
    match applied {
        Ok(()) => Ok(None),
        Err(error) if error.is_refusal() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The kinds of a route's children. Every cluster has them but for the last.
pub fn child_kinds() -> Vec<ApiResource> {
    vec![
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<Ingress>(&()),
        http_route::api_resource(),
    ]
}

/// Writes what differs, in the given order, then deletes what is left over. `keep` names kinds that are never left over.
///
/// An object that is refused holds up no other, but nothing is deleted then: what it was to replace may be of use.
///
/// # Errors
/// The first refusal, or the first other error, which ends it.
pub async fn apply(
    client: &Client,
    children: &Children,
    route: &RouteKey,
    wanted: Vec<DynamicObject>,
    keep: &[&str],
) -> Result<(), ApplyError> {
    let mut refusal = None;
    for object in &wanted {
        let (object, content_hash) = with_content_hash(object.clone());
        if children.holds(&object, &content_hash, |live| says(live, &object)) {
            continue;
        }
        match apply_one(client, children, &object, content_hash).await {
            Err(error) if error.is_refusal() => refusal = refusal.or(Some(error)),
            other => other?,
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let is_wanted = |resource: &ApiResource, name: &str| {
        keep.contains(&resource.kind.as_str()) || wanted.iter().any(|object| is(object, resource, name))
    };
    for leftover in children.leftovers(route, is_wanted) {
        delete_one(client, &route.namespace, &leftover).await?;
    }
    Ok(())
}

/// Writes one object, whatever is known of it.
pub async fn write(client: &Client, children: &Children, object: DynamicObject) -> Result<(), ApplyError> {
    let (object, content_hash) = with_content_hash(object);
    apply_one(client, children, &object, content_hash).await
}

fn is(object: &DynamicObject, resource: &ApiResource, name: &str) -> bool {
    kind(object) == resource.kind && object.name_any() == name
}

async fn apply_one(
    client: &Client,
    children: &Children,
    object: &DynamicObject,
    content_hash: String,
) -> Result<(), ApplyError> {
    let Some(resource) = children.resource_of(object) else { return Err(ApplyError::NoGatewayApi) };
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, resource);
    tracing::debug!(kind = resource.kind, %namespace, %name, "applying");
    let refused = |error| match error {
        // It was there when the operator began to watch it.
        kube::Error::Api(status) if status.code == 404 && *resource == http_route::api_resource() => {
            ApplyError::NoGatewayApi
        }
        error => ApplyError::Apply { kind: resource.kind.clone(), name: name.clone(), source: error.into() },
    };
    let parameters = PatchParams::apply(FIELD_MANAGER);
    let mut answer = api.patch(&name, &parameters.force(), &Patch::Apply(object)).await.map_err(refused)?;
    if let Some(removal) = removal_of_added_data(&answer, object) {
        tracing::warn!(kind = resource.kind, %namespace, %name, "removing the data that somebody has added");
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        answer = api.patch(&name, &parameters, &Patch::Merge(removal)).await.map_err(refused)?;
    }
    children.wrote(answer, content_hash);
    Ok(())
}

/// A patch that removes what somebody has added to the data that relays mount. Server-side apply leaves the keys of
/// others in a map; the other fields that are ours whole are atomic, and it replaces them.
fn removal_of_added_data(live: &DynamicObject, wanted: &DynamicObject) -> Option<Value> {
    let mut removal = serde_json::Map::new();
    for field in data_fields(wanted) {
        let Some(Value::Object(data)) = live.data.get(field) else { continue };
        let is_ours = |key: &str| wanted.data.get(field).is_some_and(|data| data.get(key).is_some());
        let added = data.keys().filter(|key| !is_ours(key));
        let added: serde_json::Map<_, _> = added.map(|key| (key.clone(), Value::Null)).collect();
        if !added.is_empty() {
            removal.insert((*field).to_owned(), added.into());
        }
    }
    (!removal.is_empty()).then(|| removal.into())
}

async fn delete_one(client: &Client, namespace: &str, leftover: &Leftover<'_>) -> Result<(), ApplyError> {
    let Leftover { resource, name, uid } = leftover;
    let resource: &ApiResource = resource;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    // Only what we have looked at: another object of that name may have come since.
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
        ..DeleteParams::background()
    };
    tracing::info!(kind = resource.kind, %namespace, %name, "deleting what is not wanted any more");
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => {
            Err(ApplyError::Delete { kind: resource.kind.clone(), name: name.clone(), source: error.into() })
        }
    }
}

/// The object with the hash of its content, and the hash.
fn with_content_hash(mut object: DynamicObject) -> (DynamicObject, String) {
    let content = serde_json::to_vec(&object).unwrap_or_default();
    let mut digest = hex::encode(Sha256::digest(content));
    digest.truncate(16);
    object.annotations_mut().insert(CONTENT_HASH_ANNOTATION.into(), digest.clone());
    (object, digest)
}

/// The fields whose keys become files in relay pods: a key that is added to the signing secrets would be one more.
fn data_fields(object: &DynamicObject) -> &'static [&'static str] {
    match kind(object) {
        "ConfigMap" => &["data", "binaryData"],
        "Secret" => &["data"],
        _ => &[],
    }
}

/// The fields that nobody may add anything to.
fn whole_fields(object: &DynamicObject) -> &'static [&'static str] {
    match kind(object) {
        "Service" | "PodDisruptionBudget" => &["spec/selector"],
        "NetworkPolicy" => &["spec"],
        _ => data_fields(object),
    }
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default()
}

/// Whether the live object says everything that the wanted one says. It may say more, defaults and other managers'
/// fields, but for the fields that are ours whole.
fn says(live: &DynamicObject, wanted: &DynamicObject) -> bool {
    let metadata = &live.metadata;
    let wanted_metadata = &wanted.metadata;
    let contains = |live: &Option<std::collections::BTreeMap<String, String>>,
                    wanted: &Option<std::collections::BTreeMap<String, String>>| {
        wanted.iter().flatten().all(|(key, value)| {
            live.as_ref().and_then(|live| live.get(key)).is_some_and(|found| found == value)
        })
    };
    contains(&metadata.labels, &wanted_metadata.labels)
        && contains(&metadata.annotations, &wanted_metadata.annotations)
        && metadata.owner_references == wanted_metadata.owner_references
        && includes(&live.data, &wanted.data)
        && whole_fields(wanted).iter().all(|field| {
            let place = format!("/{field}");
            adds_nothing(live.data.pointer(&place), wanted.data.pointer(&place))
        })
}

fn includes(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(found) => includes(found, value),
                // An empty value is left out by the server.
                None => is_empty(value),
            })
        }
        // One more peer in a NetworkPolicy is as much of a difference as one less.
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && wanted.iter().all(|value| live.iter().any(|found| includes(found, value)))
        }
        (live, wanted) => live == wanted,
    }
}

/// Whether the live value, which [`includes`] the wanted one, has no field that it lacks. An empty one counts, too: to a
/// NetworkPolicy, every namespace is something else than no namespace.
fn adds_nothing(live: Option<&Value>, wanted: Option<&Value>) -> bool {
    match (live, wanted) {
        (None, _) => true,
        (Some(Value::Object(live)), Some(Value::Object(wanted))) => {
            live.iter().all(|(key, value)| adds_nothing(Some(value), wanted.get(key)))
        }
        (Some(Value::Array(live)), Some(Value::Array(wanted))) => live.iter().all(|value| {
            wanted.iter().any(|item| includes(value, item) && adds_nothing(Some(value), Some(item)))
        }),
        (Some(_), wanted) => wanted.is_some(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether the cluster has the Gateway API's HTTPRoute.
pub async fn has_gateway_api(client: &Client) -> Result<bool, kube::Error> {
    let resource = http_route::api_resource();
    let group_version = format!("{}/{}", resource.group, resource.version);
    match client.list_api_group_resources(&group_version).await {
        Ok(resources) => Ok(resources.resources.iter().any(|found| found.kind == resource.kind)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_the_fields_of_others_are_no_difference() {
        let live = json!({"spec": {"replicas": 2, "paused": false, "ports": [{"name": "http", "port": 80, "nodePort": 3}]}});
        assert!(includes(&live, &json!({"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}]}})));
        assert!(includes(&live, &json!({"spec": {"volumes": [], "selector": null}})));
    }

    #[test]
    fn a_changed_or_missing_field_is_a_difference() {
        let live = json!({"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}]}});
        assert!(!includes(&live, &json!({"spec": {"replicas": 3}})));
        assert!(!includes(&live, &json!({"spec": {"ports": [{"name": "http", "port": 81}]}})));
        assert!(!includes(&live, &json!({"spec": {"type": "NodePort"}})));
    }

    #[test]
    fn an_item_more_in_a_list_is_a_difference() {
        let live = json!({"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}]}]});
        assert!(!includes(&live, &json!({"ingress": [{"from": [{"podSelector": {}}]}]})));
    }

    fn object(kind: &str, content: &Value) -> DynamicObject {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "one"}});
        object.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_key_that_somebody_adds_to_what_is_ours_whole_is_a_difference() {
        let policy =
            |peer: Value| json!({"spec": {"ingress": [{"from": [peer]}], "policyTypes": ["Ingress"]}});
        let table = [
            ("Secret", json!({"data": {"a": "eA=="}}), json!({"data": {"a": "eA==", "b": "eQ=="}})),
            (
                "ConfigMap",
                json!({"data": {"a": "x"}}),
                json!({"data": {"a": "x"}, "binaryData": {"b": "eQ=="}}),
            ),
            (
                "Service",
                json!({"spec": {"selector": {"a": "x"}}}),
                json!({"spec": {"selector": {"a": "x", "b": "y"}}}),
            ),
            (
                "PodDisruptionBudget",
                json!({"spec": {"selector": {"matchLabels": {"a": "x"}}}}),
                json!({"spec": {"selector": {"matchLabels": {"a": "x", "b": "y"}}}}),
            ),
            (
                "NetworkPolicy",
                policy(json!({"podSelector": {"matchLabels": {"a": "x"}}})),
                policy(json!({"podSelector": {"matchLabels": {"a": "x"}}, "namespaceSelector": {}})),
            ),
        ];
        for (kind, wanted, added) in table {
            let (wanted, added) = (object(kind, &wanted), object(kind, &added));
            assert!(says(&wanted, &wanted), "{kind}");
            assert!(!says(&added, &wanted), "{kind}");
        }
    }

    #[test]
    fn defaults_beside_what_is_ours_whole_and_empty_values_that_the_server_leaves_out_are_no_difference() {
        let wanted = object("Service", &json!({"spec": {"selector": {"a": "x"}}}));
        let live = object("Service", &json!({"spec": {"selector": {"a": "x"}, "clusterIP": "10.0.0.1"}}));
        assert!(says(&live, &wanted));
        let wanted =
            object("NetworkPolicy", &json!({"spec": {"ingress": [{"from": [], "ports": [{"port": 1}]}]}}));
        let live = object("NetworkPolicy", &json!({"spec": {"ingress": [{"ports": [{"port": 1}]}]}}));
        assert!(says(&live, &wanted));
    }

    #[test]
    fn data_that_somebody_has_added_is_removed_key_by_key_and_nothing_else() {
        let wanted = object("ConfigMap", &json!({"data": {"a": "x"}}));
        let live = object("ConfigMap", &json!({"data": {"a": "x", "b": "y"}, "binaryData": {"c": "eQ=="}}));
        let removal = json!({"data": {"b": null}, "binaryData": {"c": null}});
        assert_eq!(removal_of_added_data(&live, &wanted), Some(removal));
        assert_eq!(removal_of_added_data(&wanted, &wanted), None);
    }
}
