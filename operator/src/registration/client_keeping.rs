//! Keeps what deregistering takes: the OAuth clients that a route may have been registered with, in a Secret of the route
//! that its finalizer keeps until the registrations are gone. [`kept_clients`](presenceroute_manifest::kept_clients) says
//! why it is there.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::RegistrationLocation;
use presenceroute_genesys::Access;
use presenceroute_manifest::build;
use presenceroute_manifest::dereference::SecretProblem;
use presenceroute_manifest::kept_clients::{CLIENTS_FINALIZER, KeptClient, KeptClients, secret_name};
use presenceroute_manifest::validate::Model;
use serde_json::json;

use super::Registrations;
use super::desired::{Desired, client_fingerprint};
use super::failure::Failure;
use super::record::{Recorded, RegistrationRecord};
use crate::apply;
use crate::error::ReconcileError;

/// Whether a kept client gives way to one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    /// Never: it has worked, and the other one has not yet.
    Never,
    /// If its secret or certificate has changed.
    Changed,
}

impl Registrations {
    /// The clients that are kept for a route.
    pub fn kept_clients(&self, namespace: &str, route: &str) -> KeptClients {
        let stored = self.owned.get("Secret", namespace, &secret_name(route));
        let stored: Option<Secret> = stored.and_then(|object| object.try_parse().ok());
        KeptClients::read(stored.as_ref())
    }

    /// Has the client of the desired registration kept, and those of the record that may still be needed. Returns why
    /// it is not: nothing is registered then.
    pub(super) async fn keep_client(
        &self,
        model: &Model,
        record: &RegistrationRecord,
        desired: &Desired,
        replace: Replace,
    ) -> Result<Option<Failure>, ReconcileError> {
        let Ok(access) = &desired.access else { return Ok(None) };
        // Nothing will have to be removed.
        if record.is_free() {
            return Ok(None);
        }
        let stored = self.kept_clients(&model.namespace, &model.name);
        let mut clients = stored.clone();
        let current = record.current.as_ref().map(Recorded::location);
        let needed: Vec<_> = current.iter().chain(&record.former).map(key_of_client).collect();
        clients.retain(|key| needed.iter().any(|needed| needed == key));
        let key = key_of_client(&desired.location);
        if replace == Replace::Changed || clients.get(&key).is_none() {
            let Access { client_id, client_secret, ca_pem, .. } = access.clone();
            clients.keep(key, KeptClient { id: client_id, secret: client_secret, ca_pem });
        }
        if clients == stored {
            return Ok(None);
        }
        let object = build::kept_clients_object(model, &clients).map_err(build::BuildError::from)?;
        let Some(object) = object else { return Ok(None) };
        let refused = apply::refusal_of(apply::write(&self.client, &self.owned, object).await)?;
        Ok(refused.map(Failure::client_not_kept))
    }

    /// The access to a location that its user's Secret gives; where that is gone, or of another client, the one that the
    /// route was registered with.
    pub(super) fn access_or_kept(
        &self,
        route: &PresenceRoute,
        location: &RegistrationLocation,
        access: Result<Access, SecretProblem>,
    ) -> Result<Access, SecretProblem> {
        let uid = route.uid().unwrap_or_default();
        let fingerprint = &location.access.client_fingerprint;
        let is_same = |access: &Access| client_fingerprint(&uid, &access.client_id) == *fingerprint;
        if access.as_ref().is_ok_and(is_same) {
            return access;
        }
        let kept = self.kept_clients(&route.namespace().unwrap_or_default(), &route.name_any());
        let Some(client) = kept.get(&key_of_client(location)).cloned() else { return access };
        // What is kept is called only if it is what the record names.
        let kept = Access::new(location.access.api.clone(), client.id, client.secret, client.ca_pem);
        if is_same(&kept) { Ok(kept) } else { access }
    }

    /// Lets go of the Secret of a route whose registrations are gone. Where that fails,
    /// [`release_unneeded_clients`](Self::release_unneeded_clients) does it later.
    pub(super) async fn release_clients(&self, route: &PresenceRoute) {
        let namespace = route.namespace().unwrap_or_default();
        if let Some(secret) = self.owned.get("Secret", &namespace, &secret_name(&route.name_any())) {
            self.release_secret(&secret).await;
        }
    }

    /// Lets go of the Secrets that are being deleted and whose routes are gone: the operator died between the two
    /// finalizers, or a person removed that of the route. `is_needed` tells by the uid of the route.
    pub async fn release_unneeded_clients(&self, is_needed: impl Fn(&str) -> bool) {
        for secret in self.owned.being_deleted("Secret") {
            let owners = secret.owner_references().iter();
            let routes = owners.filter(|owner| owner.kind == PresenceRoute::kind(&()));
            if !routes.into_iter().any(|route| is_needed(&route.uid)) {
                self.release_secret(&secret).await;
            }
        }
    }

    async fn release_secret(&self, secret: &DynamicObject) {
        let (ours, others): (Vec<_>, Vec<_>) =
            secret.finalizers().iter().partition(|finalizer| *finalizer == CLIENTS_FINALIZER);
        if ours.is_empty() {
            return;
        }
        let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({"metadata": {"uid": secret.uid(), "finalizers": others}});
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(%namespace, %name, %error, "cannot remove the finalizer of a Secret; it is tried again");
            }
        }
    }
}

fn key_of_client(location: &RegistrationLocation) -> String {
    KeptClients::key(&location.access.api.api_url, &location.access.client_fingerprint)
}
