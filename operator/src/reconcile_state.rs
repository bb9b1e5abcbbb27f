//! What a reconcile works on between building and reporting, and the facts that its status is made of.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use presenceroute_crds::status::{SigningPhase, SigningStatus};
use presenceroute_manifest::build;
use presenceroute_manifest::dereference::PushCredential;
use presenceroute_manifest::rotation::CredentialRotation;
use presenceroute_manifest::validate::Model;

use crate::cache::OwnedObjects;
use crate::exposure::Exposure;
use crate::registration::{ApiKeyStep, RegistrationState};
use crate::relay_pods::{DesiredRevisions, RelayPods};
use crate::status::conditions::{Delays, DeploymentFacts, Observed, RouteFacts, RoutingFacts};
use crate::text::one_line;

/// The longest text in bytes of why pods are refused.
const MAX_REFUSAL: usize = 512;

/// One valid route, built and applied.
pub struct ReconcileState {
    /// What the spec means.
    pub model: Model,
    /// The signing secrets or API keys, and where a rotation stands.
    pub rotation: CredentialRotation,
    /// What the relay pods are to serve.
    pub revisions: DesiredRevisions,
    /// Why an object was refused by Kubernetes.
    pub apply_error: Option<String>,
    /// How far its endpoint is exposed, where it has one.
    pub exposure: Option<Exposure>,
    /// How long its relay pods have not been as they should be.
    pub delays: Delays,
    /// Why its registration goes by another name than the spec's.
    pub name_pending: Option<String>,
}

impl ReconcileState {
    /// What has been observed of it.
    pub fn facts(
        &self,
        owned: &OwnedObjects,
        relays: &RelayPods,
        registration: RegistrationState,
        api_key: Option<ApiKeyStep>,
    ) -> Observed {
        let Self { model, rotation, revisions, apply_error, exposure, delays, name_pending } = self;
        let distributed = relays.all_accept(revisions.signing.as_deref());
        let signing = model.push_credential.as_ref().map(|credential| SigningStatus {
            revision: rotation.revision(),
            phase: match &credential.value {
                Ok(secret) => rotation.phase(secret, distributed),
                Err(_) => SigningPhase::Stable,
            },
            secret_version: registered_version(credential, rotation),
            retire_time: rotation.retire_at().map(Time),
        });
        Observed::Valid(Box::new(RouteFacts {
            call_secret_problems: model.call_secret_problems().cloned().collect(),
            relay_secret_problems: model.relay_secret_problems().cloned().collect(),
            weak_secret: model.weak_push_credential(),
            apply_error: apply_error.clone(),
            deployment: deployment(owned, &model.namespace, &model.name),
            obstacle: relays.obstacle(),
            delays: *delays,
            selector: build::selector_text(&model.name),
            routing: RoutingFacts {
                routes: model.table.routes().len(),
                live: relays.live(revisions),
                ready: relays.ready().count(),
                lagging: relays.lagging(revisions),
                unreachable: relays.unreachable(),
                missing_topics: relays.missing_topics(),
                forbidden_topics: relays.forbidden_topics(),
                revision: revisions.routing.clone(),
            },
            signing,
            api_key,
            exposure: exposure.clone(),
            relay_version: relays.version(),
            registration,
            endpoint: model.endpoint.as_ref().map(|_| model.served.clone()),
            name_pending: name_pending.clone(),
            suspended: model.suspended,
        }))
    }
}

/// The version of the user's Secret whose value senders prove themselves with; nothing while that is an older one.
fn registered_version(credential: &PushCredential, rotation: &CredentialRotation) -> Option<String> {
    let secret = credential.value.as_ref().ok().filter(|secret| rotation.is_registered(secret));
    secret.and_then(|_| credential.secret_version.clone())
}

/// The numbers of a route's Deployment, once there is one.
pub fn deployment(owned: &OwnedObjects, namespace: &str, route: &str) -> Option<DeploymentFacts> {
    let live = owned.get("Deployment", namespace, &build::relay_name(route))?;
    let generation = live.metadata.generation;
    let deployment: Deployment = live.try_parse().ok()?;
    let status = deployment.status.unwrap_or_default();
    let condition = |type_: &str, holds: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == type_ && condition.status == holds)
    };
    // The name of the pod that was refused is another one with each attempt.
    let refused = condition("ReplicaFailure", "True").and_then(|failure| failure.message.as_deref());
    let refused = refused.map(|text| text.split_once(" is forbidden: ").map_or(text, |(_, cause)| cause));
    let stalled = condition("Progressing", "False").is_some();
    let replicas = status.replicas.unwrap_or(0);
    let is_observed = status.observed_generation >= generation;
    Some(DeploymentFacts {
        wanted: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        replicas,
        outdated: if is_observed { replicas - status.updated_replicas.unwrap_or(0) } else { replicas },
        refused: refused.map(|text| one_line(text, MAX_REFUSAL)),
        stalled,
        ready: status.ready_replicas.unwrap_or(0),
    })
}
