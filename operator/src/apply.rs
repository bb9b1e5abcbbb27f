//! The fourth step: makes the cluster hold exactly the objects that were built.
//!
//! Server-side apply with one field manager; an object that already contains what is desired is not written. Other
//! managers may add fields, but not to what selects pods, nor to what relays mount ([`exclusive_fields`]). An object that
//! carries the route's label and is not desired any more is deleted. An object of the same name that does not belong to
//! the route is never written and never deleted ([`ApplyError::Foreign`]). What the objects contain is left to `build`.

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api_server::ApiServerError;
use crate::cache::owned_objects::Orphan;
use crate::cache::{OwnedObjects, RouteKey};
use presenceroute_manifest::build::{MANAGED_BY, http_route};

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "presenceroute-operator";
/// The hash of an object as it was built. Where it differs, another object is desired than was applied.
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
    /// An object that is not desired any more could not be deleted.
    #[error("{kind} {name:?} is not wanted any more and cannot be deleted: {source}")]
    Delete {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server says.
        source: ApiServerError,
    },
    /// An object of another owner has the name.
    #[error(
        "{kind} {name:?} exists and is not the operator's (it has no label {label}={value}), so that it is left as it is; \
         rename or delete it, or create the PresenceRoute under another name",
        label = MANAGED_BY.0,
        value = MANAGED_BY.1
    )]
    Foreign {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
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
            Self::NoGatewayApi | Self::Foreign { .. } => true,
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

/// The kinds of the objects that belong to a route. Every cluster has them but for the last.
pub fn owned_kinds() -> Vec<ApiResource> {
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

/// Writes what differs, in the given order, then deletes the orphans. `keep` names kinds that are never orphans.
///
/// An object that is refused holds up no other, but nothing is deleted then: what it was to replace may be of use. A
/// foreign object ends it: the pods that follow would mount it, or run as it.
///
/// # Errors
/// The first refusal, or the first other error, which ends it.
pub async fn apply(
    client: &Client,
    objects: &OwnedObjects,
    route: &RouteKey,
    desired: Vec<DynamicObject>,
    keep: &[&str],
) -> Result<(), ApplyError> {
    let mut refusal = None;
    let scale = scale_bounds(&desired);
    for object in &desired {
        let (object, content_hash) = with_content_hash(object.clone());
        if objects.is_up_to_date(&object, &content_hash, |live| contains(live, &object)) {
            continue;
        }
        match apply_one(client, objects, object, content_hash, scale).await {
            Err(foreign @ ApplyError::Foreign { .. }) => return Err(foreign),
            Err(error) if error.is_refusal() => refusal = refusal.or(Some(error)),
            other => other?,
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let is_desired = |resource: &ApiResource, name: &str| {
        keep.contains(&resource.kind.as_str()) || desired.iter().any(|object| is(object, resource, name))
    };
    for orphan in objects.orphans(route, is_desired) {
        delete_one(client, &route.namespace, &orphan).await?;
    }
    Ok(())
}

/// Writes one object without comparing it first.
pub async fn write(client: &Client, objects: &OwnedObjects, object: DynamicObject) -> Result<(), ApplyError> {
    let (object, content_hash) = with_content_hash(object);
    apply_one(client, objects, object, content_hash, None).await
}

fn is(object: &DynamicObject, resource: &ApiResource, name: &str) -> bool {
    kind(object) == resource.kind && object.name_any() == name
}

async fn apply_one(
    client: &Client,
    objects: &OwnedObjects,
    mut object: DynamicObject,
    content_hash: String,
    scale: Option<ScaleBounds>,
) -> Result<(), ApplyError> {
    let Some(resource) = objects.resource_of(&object) else { return Err(ApplyError::NoGatewayApi) };
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
    // The watch is of the operator's own objects, so that it does not show a foreign one.
    if !objects.knows(&object) && is_foreign(&api, &object).await.map_err(refused)? {
        return Err(ApplyError::Foreign { kind: resource.kind.clone(), name });
    }
    if let Some(scale) = scale.filter(|_| kind(&object) == Deployment::KIND) {
        keep_replicas(&api, &mut object, scale).await.map_err(refused)?;
    }
    let parameters = PatchParams::apply(FIELD_MANAGER);
    let mut answer = api.patch(&name, &parameters.force(), &Patch::Apply(&object)).await.map_err(refused)?;
    if let Some(removal) = removal_of_added_data(&answer, &object) {
        tracing::warn!(kind = resource.kind, %namespace, %name, "removing data that another manager has added");
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        answer = api.patch(&name, &parameters, &Patch::Merge(removal)).await.map_err(refused)?;
    }
    objects.applied(answer, content_hash);
    Ok(())
}

/// Between which numbers an autoscaler scales.
#[derive(Clone, Copy)]
struct ScaleBounds {
    fewest: i64,
    most: i64,
}

/// The bounds of the route's autoscaler, where it has one.
fn scale_bounds(desired: &[DynamicObject]) -> Option<ScaleBounds> {
    let autoscaler = desired.iter().find(|object| kind(object) == HorizontalPodAutoscaler::KIND)?;
    let number = |field: &str| autoscaler.data["spec"][field].as_i64();
    Some(ScaleBounds { fewest: number("minReplicas")?, most: number("maxReplicas")? })
}

/// Gives a Deployment that leaves its number of pods to an autoscaler the number that it has, until another manager owns
/// it. The API server sets a number that its only owner drops, or that a new Deployment lacks, to 1. The autoscaler
/// becomes the owner when it scales for the first time.
async fn keep_replicas(
    api: &Api<DynamicObject>,
    desired: &mut DynamicObject,
    ScaleBounds { fewest, most }: ScaleBounds,
) -> Result<(), kube::Error> {
    let live = api.list(&named(desired)).await?.items.into_iter().next();
    if live.as_ref().is_some_and(is_scaled_by_another) {
        return Ok(());
    }
    let replicas = live.as_ref().and_then(|live| live.data["spec"]["replicas"].as_i64());
    desired.data["spec"]["replicas"] = replicas.unwrap_or(fewest).max(fewest).min(most).into();
    // An autoscaler that scales at this moment is not overruled: the API server answers 409 then.
    desired.metadata.resource_version = live.and_then(|live| live.resource_version());
    Ok(())
}

/// Whether a manager other than the operator owns the number of pods.
fn is_scaled_by_another(live: &DynamicObject) -> bool {
    live.managed_fields().iter().any(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.manager.as_deref() != Some(FIELD_MANAGER)
            && fields.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some())
    })
}

/// Selects an object in a list, which takes no right that the watch does not.
fn named(object: &DynamicObject) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={}", object.name_any()))
}

/// Whether an object of another owner has the name.
async fn is_foreign(api: &Api<DynamicObject>, desired: &DynamicObject) -> Result<bool, kube::Error> {
    let found = api.list_metadata(&named(desired)).await?;
    Ok(found.items.iter().any(|live| !belongs_to_route(&live.metadata, &desired.metadata)))
}

/// Whether an object is one that the operator made for the route, or for a route of its name that was there before: the
/// owner's uid is another one after a restore.
fn belongs_to_route(live: &ObjectMeta, desired: &ObjectMeta) -> bool {
    let (label, value) = MANAGED_BY;
    let is_managed = live.labels.iter().flatten().any(|(key, found)| key == label && found == value);
    let owners = |metadata: &'_ ObjectMeta| metadata.owner_references.clone().unwrap_or_default();
    let is_owned = owners(live).iter().any(|live| {
        owners(desired).iter().any(|desired| (&live.kind, &live.name) == (&desired.kind, &desired.name))
    });
    is_managed || is_owned
}

/// A patch that removes what other managers have added to the data that relays mount. Server-side apply leaves their
/// keys in a map; the other exclusive fields are atomic, and it replaces them.
fn removal_of_added_data(live: &DynamicObject, desired: &DynamicObject) -> Option<Value> {
    let mut removal = serde_json::Map::new();
    for field in data_fields(desired) {
        let Some(Value::Object(data)) = live.data.get(field) else { continue };
        let is_ours = |key: &str| desired.data.get(field).is_some_and(|data| data.get(key).is_some());
        let added = data.keys().filter(|key| !is_ours(key));
        let added: serde_json::Map<_, _> = added.map(|key| (key.clone(), Value::Null)).collect();
        if !added.is_empty() {
            removal.insert((*field).to_owned(), added.into());
        }
    }
    (!removal.is_empty()).then(|| removal.into())
}

async fn delete_one(client: &Client, namespace: &str, orphan: &Orphan<'_>) -> Result<(), ApplyError> {
    let Orphan { resource, name, uid } = orphan;
    let resource: &ApiResource = resource;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    // Only the object that was seen: another object may have its name by now.
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
        ..DeleteParams::background()
    };
    tracing::info!(kind = resource.kind, %namespace, %name, "deleting an orphan");
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

/// The fields to which no other manager may add anything.
fn exclusive_fields(object: &DynamicObject) -> &'static [&'static str] {
    match kind(object) {
        "Service" | "PodDisruptionBudget" => &["spec/selector"],
        "NetworkPolicy" => &["spec"],
        _ => data_fields(object),
    }
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default()
}

/// Whether the live object contains everything that the desired one does. The live object may have more, defaults and
/// other managers' fields, but not in the exclusive fields.
fn contains(live: &DynamicObject, desired: &DynamicObject) -> bool {
    let metadata = &live.metadata;
    let desired_metadata = &desired.metadata;
    let has_all = |live: &Option<std::collections::BTreeMap<String, String>>,
                   desired: &Option<std::collections::BTreeMap<String, String>>| {
        desired.iter().flatten().all(|(key, value)| {
            live.as_ref().and_then(|live| live.get(key)).is_some_and(|found| found == value)
        })
    };
    has_all(&metadata.labels, &desired_metadata.labels)
        && has_all(&metadata.annotations, &desired_metadata.annotations)
        && metadata.owner_references == desired_metadata.owner_references
        && has_finalizers(metadata, desired_metadata)
        && includes(&live.data, &desired.data)
        && exclusive_fields(desired).iter().all(|field| {
            let place = format!("/{field}");
            adds_nothing(live.data.pointer(&place), desired.data.pointer(&place))
        })
}

/// Whether the live object has the finalizers. One that is being deleted takes no new ones.
fn has_finalizers(live: &ObjectMeta, desired: &ObjectMeta) -> bool {
    let mut missing = desired
        .finalizers
        .iter()
        .flatten()
        .filter(|it| !live.finalizers.iter().flatten().any(|live| live == *it));
    live.deletion_timestamp.is_some() || missing.next().is_none()
}

fn includes(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match live.get(key) {
                Some(found) => includes(found, value),
                // An empty value is left out by the server.
                None => is_empty(value),
            })
        }
        // One more peer in a NetworkPolicy is as much of a difference as one less.
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len()
                && desired.iter().all(|value| live.iter().any(|found| includes(found, value)))
        }
        (live, desired) => live == desired,
    }
}

/// Whether the live value, which [`includes`] the desired one, has no field besides. An empty field counts, too: to a
/// NetworkPolicy, every namespace is something else than no namespace.
fn adds_nothing(live: Option<&Value>, desired: Option<&Value>) -> bool {
    match (live, desired) {
        (None, _) => true,
        (Some(Value::Object(live)), Some(Value::Object(desired))) => {
            live.iter().all(|(key, value)| adds_nothing(Some(value), desired.get(key)))
        }
        (Some(Value::Array(live)), Some(Value::Array(desired))) => live.iter().all(|value| {
            desired.iter().any(|item| includes(value, item) && adds_nothing(Some(value), Some(item)))
        }),
        (Some(_), desired) => desired.is_some(),
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
    fn an_added_key_in_an_exclusive_field_is_a_difference() {
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
        for (kind, desired, added) in table {
            let (desired, added) = (object(kind, &desired), object(kind, &added));
            assert!(contains(&desired, &desired), "{kind}");
            assert!(!contains(&added, &desired), "{kind}");
        }
    }

    #[test]
    fn defaults_and_empty_values_are_no_difference() {
        let desired = object("Service", &json!({"spec": {"selector": {"a": "x"}}}));
        let live = object("Service", &json!({"spec": {"selector": {"a": "x"}, "clusterIP": "10.0.0.1"}}));
        assert!(contains(&live, &desired));
        let desired =
            object("NetworkPolicy", &json!({"spec": {"ingress": [{"from": [], "ports": [{"port": 1}]}]}}));
        let live = object("NetworkPolicy", &json!({"spec": {"ingress": [{"ports": [{"port": 1}]}]}}));
        assert!(contains(&live, &desired));
    }

    #[test]
    fn an_object_without_label_and_owner_is_foreign() {
        let metadata = |fields: Value| serde_json::from_value::<ObjectMeta>(fields).unwrap();
        let owner = |uid: &str, name: &str| json!([{"apiVersion": "presenceroute.io/v1alpha1", "kind": "PresenceRoute", "name": name, "uid": uid}]);
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1});
        let desired =
            metadata(json!({"name": "one-relay", "labels": labels, "ownerReferences": owner("2", "one")}));
        let table = [
            (json!({"name": "one-relay"}), false),
            (json!({"name": "one-relay", "labels": {"app.kubernetes.io/managed-by": "Helm"}}), false),
            (json!({"name": "one-relay", "ownerReferences": owner("2", "other")}), false),
            (json!({"name": "one-relay", "labels": labels}), true),
            // A restored route has another uid, and a label that was removed by hand makes no foreign object.
            (json!({"name": "one-relay", "labels": labels, "ownerReferences": owner("1", "one")}), true),
            (json!({"name": "one-relay", "ownerReferences": owner("2", "one")}), true),
        ];
        for (live, belongs) in table {
            assert_eq!(belongs_to_route(&metadata(live.clone()), &desired), belongs, "{live}");
        }
        let error = ApplyError::Foreign { kind: "Secret".into(), name: "one-signing".into() };
        assert!(error.is_refusal());
    }

    #[test]
    fn the_number_of_pods_is_kept_until_another_manager_owns_it() {
        let entry = |manager: &str, fields: Value| json!({"manager": manager, "fieldsType": "FieldsV1", "fieldsV1": fields});
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let table = [
            (json!([]), false),
            (json!([entry(FIELD_MANAGER, replicas.clone())]), false),
            (json!([entry("kubectl", json!({"f:spec": {"f:template": {}}}))]), false),
            (
                json!([entry(FIELD_MANAGER, replicas.clone()), entry("kube-controller-manager", replicas)]),
                true,
            ),
        ];
        for (managers, is_scaled) in table {
            let mut live = object("Deployment", &json!({"spec": {"replicas": 4}}));
            live.metadata.managed_fields = serde_json::from_value(managers.clone()).unwrap();
            assert_eq!(is_scaled_by_another(&live), is_scaled, "{managers}");
        }
        let autoscaler =
            object("HorizontalPodAutoscaler", &json!({"spec": {"minReplicas": 4, "maxReplicas": 6}}));
        let bounds = scale_bounds(&[object("Deployment", &json!({"spec": {}})), autoscaler]).unwrap();
        assert_eq!((bounds.fewest, bounds.most), (4, 6));
        assert!(scale_bounds(&[object("Deployment", &json!({"spec": {}}))]).is_none());
    }

    #[test]
    fn added_data_is_removed_key_by_key() {
        let desired = object("ConfigMap", &json!({"data": {"a": "x"}}));
        let live = object("ConfigMap", &json!({"data": {"a": "x", "b": "y"}, "binaryData": {"c": "eQ=="}}));
        let removal = json!({"data": {"b": null}, "binaryData": {"c": null}});
        assert_eq!(removal_of_added_data(&live, &desired), Some(removal));
        assert_eq!(removal_of_added_data(&desired, &desired), None);
    }
}
