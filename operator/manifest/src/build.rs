//! The third step: the model becomes Kubernetes objects. Pure; one file a kind of object.
//!
//! Comparing them with the cluster, and writing them, is left to the caller.

pub mod autoscaler;
pub mod config_maps;
pub mod deployment;
pub mod disruption_budget;
pub mod environment;
pub mod http_route;
pub mod ingress;
pub mod network_policy;
pub mod service;
pub mod service_account;
pub mod signing_secret;

use std::collections::BTreeMap;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::Resource;
use kube::core::{DynamicObject, ObjectMeta};
use presenceroute_core::routing::RoutingError;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::{EndpointExposure, EndpointPhase};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::kept_clients::{self, CLIENTS_FINALIZER, KeptClients};
use crate::rotation::CredentialRotation;
use crate::validate::{Model, TLS_PORT};

/// Names the PresenceRoute that an object belongs to.
pub const ROUTE_LABEL: &str = "presenceroute.io/route";
/// Marks the operator's own objects: one that carries it and is not built any more is deleted.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "presenceroute-operator");
/// What distinguishes relay pods.
pub const RELAY_COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "relay");
/// Carries the hash of what pods read only at their start, so that a change of it rolls them.
pub const CONFIG_HASH_ANNOTATION: &str = "presenceroute.io/config-hash";
/// The port that events are posted to.
pub const EVENTS_PORT: i32 = 8080;
/// The port that TLS events are posted to while [`EVENTS_PORT`] speaks plain HTTP.
pub const TLS_EVENTS_PORT: i32 = TLS_PORT as i32;
/// The port with the health, the metrics and the status.
pub const ADMIN_PORT: i32 = 9090;

/// The image of relay pods.
#[derive(Clone, Debug)]
pub struct RelayImage {
    /// The image, with its tag or digest.
    pub reference: String,
    /// When it is pulled: Always, IfNotPresent or Never.
    pub pull_policy: String,
}

/// The operator's settings that show in the objects.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The relay pods' image.
    pub relay_image: RelayImage,
    /// The namespace of the operator's own pods.
    pub namespace: String,
}

/// Why an object could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The routing table could not be written as YAML.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// The relay's configuration could not be written as YAML.
    #[error("the relay's configuration cannot be written as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// An object could not be written as JSON.
    #[error("an object cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Every object of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteObjects {
    /// The relay pods' identity.
    pub service_account: ServiceAccount,
    /// The signing secrets or API keys, where the source is pushed to.
    pub signing_secret: Option<Secret>,
    /// The routing table and the log's level.
    pub routing: ConfigMap,
    /// The relay's configuration.
    pub relay_config: ConfigMap,
    /// The Service in front of the relay pods, where they are called.
    pub service: Option<Service>,
    /// The bound on voluntary disruptions.
    pub disruption_budget: PodDisruptionBudget,
    /// The relay pods. Absent while a new pod could not start, for want of a Secret: those that run keep what they have.
    pub deployment: Option<Deployment>,
    /// The autoscaler, if there is to be one.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// The network policy, if there is to be one.
    pub network_policy: Option<NetworkPolicy>,
    /// The Ingress, if there is to be one.
    pub ingress: Option<Ingress>,
    /// The HTTPRoute, if there is to be one.
    pub http_route: Option<DynamicObject>,
    /// The kinds of which what is there stays, although nothing of the kind was built.
    pub held_back: Vec<&'static str>,
}

impl RouteObjects {
    /// The value of [`CONFIG_HASH_ANNOTATION`] of the pods that run with this configuration.
    #[must_use]
    pub fn config_hash(&self) -> String {
        deployment::config_hash(self.service_account.metadata.annotations.as_ref(), &self.relay_config)
    }

    /// The objects in the order in which they are to be applied: what pods mount comes before the pods.
    pub fn into_apply_order(self) -> Result<Vec<DynamicObject>, serde_json::Error> {
        let mut objects = vec![dynamic(self.service_account)?];
        objects.extend(self.signing_secret.map(dynamic).transpose()?);
        objects.extend([dynamic(self.routing)?, dynamic(self.relay_config)?]);
        objects.extend(self.service.map(dynamic).transpose()?);
        objects.push(dynamic(self.disruption_budget)?);
        objects.extend(self.deployment.map(dynamic).transpose()?);
        objects.extend(self.autoscaler.map(dynamic).transpose()?);
        objects.extend(self.network_policy.map(dynamic).transpose()?);
        objects.extend(self.ingress.map(dynamic).transpose()?);
        objects.extend(self.http_route);
        Ok(objects)
    }
}

/// Builds every object of the route.
pub fn build(
    model: &Model,
    signing: &CredentialRotation,
    installation: &Installation,
) -> Result<RouteObjects, BuildError> {
    let relay_config = config_maps::relay_config(model)?;
    // A pod needs something to verify its senders with, where it has some, and every Secret that it mounts.
    let can_verify = model.push_credential.is_none() || !signing.is_empty();
    let can_start = can_verify && model.mount_problems.is_empty();
    let deployment = can_start.then(|| deployment::build(model, &relay_config, &installation.relay_image));
    // An Ingress controller may have to speak another protocol to the pods then, which its annotations say.
    let is_exposed = !(model.speaks_both() && model.served.phase == EndpointPhase::Distributing);
    let ingress = ingress::build(model).filter(|_| is_exposed);
    let http_route = http_route::build(model)?.filter(|_| is_exposed);
    Ok(RouteObjects {
        held_back: held_back(model, deployment.is_some(), ingress.is_some(), http_route.is_some()),
        service_account: service_account::build(model),
        signing_secret: model.push_credential.is_some().then(|| signing_secret::build(model, signing)),
        routing: config_maps::routing(model)?,
        service: service::build(model),
        disruption_budget: disruption_budget::build(model),
        deployment,
        autoscaler: autoscaler::build(model),
        network_policy: network_policy::build(model, &installation.namespace),
        ingress,
        http_route,
        relay_config,
    })
}

/// A Deployment that cannot be built yet, and what leads to a former endpoint and the spec does not ask for any more.
fn held_back(
    model: &Model,
    has_deployment: bool,
    has_ingress: bool,
    has_http_route: bool,
) -> Vec<&'static str> {
    let is_former = |exposure| model.served.former.iter().any(|it| it.endpoint.exposure == exposure);
    [
        (Deployment::KIND, !has_deployment),
        (Ingress::KIND, !has_ingress && is_former(EndpointExposure::Ingress)),
        (http_route::KIND, !has_http_route && is_former(EndpointExposure::Gateway)),
    ]
    .into_iter()
    .filter_map(|(kind, is_held_back)| is_held_back.then_some(kind))
    .collect()
}

/// The URLs that an Ingress or HTTPRoute leads to the Service, each with the Secret of its certificate: the endpoint's
/// own, and former ones of the same kind that Genesys Cloud may still call.
fn exposed(model: &Model, exposure: EndpointExposure) -> Vec<(Url, Option<&str>)> {
    let former = model.served.former.iter().map(|former| &former.endpoint);
    let endpoints = [&model.served.current].into_iter().chain(former);
    let exposed = endpoints.filter(|endpoint| endpoint.exposure == exposure);
    let mut urls: Vec<(Url, Option<&str>)> = Vec::new();
    for endpoint in exposed {
        let Ok(url) = Url::parse(&endpoint.url) else { continue };
        let is_known = |(known, _): &(Url, _)| (known.host(), known.path()) == (url.host(), url.path());
        if !urls.iter().any(is_known) {
            urls.push((url, endpoint.ingress_tls_secret_name.as_deref()));
        }
    }
    urls
}

/// The Secret `NAME-signing` alone, for when only the state of a rotation is new.
pub fn signing_object(model: &Model, signing: &CredentialRotation) -> Result<DynamicObject, BuildError> {
    Ok(dynamic(signing_secret::build(model, signing))?)
}

/// The Secret `NAME-deregistration`, where a client is to be kept. It is no part of [`build`]: which clients are needed
/// is known to the registration alone.
pub fn kept_clients_object(
    model: &Model,
    clients: &KeptClients,
) -> Result<Option<DynamicObject>, serde_json::Error> {
    if clients.is_empty() {
        return Ok(None);
    }
    let mut metadata = metadata(model, kept_clients::secret_name(&model.name));
    metadata.finalizers = Some(vec![CLIENTS_FINALIZER.into()]);
    let data = Some(clients.data());
    let secret = Secret { metadata, type_: Some("Opaque".into()), data, ..Secret::default() };
    dynamic(secret).map(Some)
}

/// The object with its API version and kind, as server-side apply wants it.
fn dynamic<K>(object: K) -> Result<DynamicObject, serde_json::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    serde_json::from_value(serde_json::to_value(object)?)
}

/// Metadata of a child: its name, its labels, its owner.
fn metadata(model: &Model, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(model.namespace.clone()),
        labels: Some(labels(model)),
        owner_references: Some(vec![OwnerReference {
            api_version: PresenceRoute::api_version(&()).into_owned(),
            kind: PresenceRoute::kind(&()).into_owned(),
            name: model.name.clone(),
            uid: model.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// `NAME-relay`: the Deployment, its Service, and all that goes with them.
pub fn relay_name(route: &str) -> String {
    format!("{route}-relay")
}

fn labels(model: &Model) -> BTreeMap<String, String> {
    let mut labels = selector_labels(&model.name);
    labels.insert("app.kubernetes.io/name".into(), "presenceroute-relay".into());
    labels.insert("app.kubernetes.io/part-of".into(), "presenceroute".into());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels
}

/// What selects the relay pods of a route. A Deployment's selector cannot change, so neither may these.
pub fn selector_labels(route: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (ROUTE_LABEL.into(), route.into()),
        ("app.kubernetes.io/instance".into(), route.into()),
        (RELAY_COMPONENT.0.into(), RELAY_COMPONENT.1.into()),
    ])
}

/// The same as text, for the scale subresource.
pub fn selector_text(route: &str) -> String {
    let pairs: Vec<_> =
        selector_labels(route).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn selector(model: &Model) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(&model.name)), ..LabelSelector::default() }
}

#[cfg(test)]
pub(crate) mod tests;
