//! The one mapping from a model to what Genesys Cloud is to hold for it.

use presenceroute_core::genesys_api::ApiEndpoint;
use presenceroute_crds::spec::Genesys;
use presenceroute_crds::status::{RegistrationAccess, RegistrationLocation, SourceType};
use presenceroute_genesys::{Access, DesiredIntegration, DesiredRegistration};
use presenceroute_manifest::dereference::SecretProblem;
use presenceroute_manifest::validate::{Model, SourceModel};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::objects::{DesiredObject, ObjectSpec};
use super::record::Recorded;

/// The collection that an integration is in. It is in the record only because every API has a field for one.
const INTEGRATIONS_PATH: &str = "/api/v2/integrations";

/// An object as the spec asks for it, where it is to be, and how its API is called.
#[derive(Clone)]
pub struct Desired {
    /// What is to be there.
    pub object: DesiredObject,
    /// Where it is to be; the id is not known yet.
    pub location: RegistrationLocation,
    /// How the API is called; the problem of a Secret where it cannot be.
    pub access: Result<Access, SecretProblem>,
}

impl Desired {
    /// What the model asks for. `secret` is the newest signing secret, where the source has one.
    ///
    /// # Errors
    /// The OAuth client's Secret is not as it should be: without the client's id there is no location.
    pub fn of(model: &Model, genesys: &Genesys, secret: &SecretString) -> Result<Self, SecretProblem> {
        let (type_, api) = api_of(model);
        let object = match &model.source {
            SourceModel::Webhook(webhook) => DesiredObject::Registration(DesiredRegistration {
                spec: webhook.registration.clone(),
                secret: secret.clone(),
            }),
            SourceModel::AmazonEventBridge(event_bridge) => DesiredObject::Integration(
                DesiredIntegration {
                    spec: event_bridge.integration.clone(),
                    owner: owner(&model.namespace, &model.name),
                },
                event_bridge.mode,
            ),
        };
        let client = model.genesys.oauth_client.clone()?;
        let access = RegistrationAccess {
            api: api.clone(),
            client_fingerprint: client_fingerprint(&model.uid, &client.id),
            credentials_secret_ref: genesys.credentials_secret_ref.clone(),
            ca_secret_ref: genesys.api.ca_secret_ref.clone(),
        };
        let ca_pem = model.genesys.ca_pem.clone().transpose();
        Ok(Self {
            location: RegistrationLocation { id: None, type_, name: object.name().to_owned(), access },
            object,
            access: ca_pem.map(|ca_pem| Access::new(api, client.id, client.secret, ca_pem)),
        })
    }

    /// What the status records of it.
    #[must_use]
    pub fn status(&self) -> Recorded {
        Recorded {
            id: self.location.id.clone(),
            spec: self.object.spec(),
            access: self.location.access.clone(),
            unauthenticated: false,
            event_source_name: None,
            reported_state: None,
            last_verified_time: None,
        }
    }

    /// The secret that events are to be signed with, where the source has one.
    #[must_use]
    pub fn secret(&self) -> Option<&SecretString> {
        match &self.object {
            DesiredObject::Registration(desired) => Some(&desired.secret),
            DesiredObject::Integration(..) => None,
        }
    }

    /// Whether both ask for the same object, but for its secret.
    #[must_use]
    pub fn is_same_registration(&self, other: &Self) -> bool {
        self.api() == other.api() && self.object.is_same_but_for_secrets(&other.object)
    }

    /// As [`Desired::is_same_registration`], called with the same credentials and certificates too.
    #[must_use]
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        self.is_same_registration(other) && is_same_access(&self.access, &other.access)
    }

    /// The API that holds it.
    #[must_use]
    pub fn api(&self) -> &ApiEndpoint {
        &self.location.access.api
    }
}

/// What kind of object the model asks for, as what it is, and the API that holds it.
pub(super) fn api_of(model: &Model) -> (SourceType, ApiEndpoint) {
    match &model.source {
        SourceModel::Webhook(webhook) => {
            (SourceType::Webhook, model.genesys.api_endpoint(&webhook.event_bridges_path))
        }
        SourceModel::AmazonEventBridge(_) => {
            (SourceType::AmazonEventBridge, model.genesys.api_endpoint(INTEGRATIONS_PATH))
        }
    }
}

/// What the model asks for, but for its secret.
pub(super) fn spec_of(model: &Model) -> ObjectSpec {
    match &model.source {
        SourceModel::Webhook(webhook) => ObjectSpec::Registration(webhook.registration.clone()),
        SourceModel::AmazonEventBridge(event_bridge) => {
            ObjectSpec::Integration(event_bridge.integration.clone(), event_bridge.mode)
        }
    }
}

/// What an integration is kept for, as its notes say.
pub(super) fn owner(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Tells OAuth clients apart in a status without showing their ids: the key of a Secret may be set to a value that is a
/// secret. Keyed by the route's uid, so that two routes cannot be compared.
pub fn client_fingerprint(uid: &str, client_id: &str) -> String {
    let digest = Sha256::new().chain_update(uid).chain_update([0]).chain_update(client_id).finalize();
    hex::encode(&digest[..12])
}

/// Whether both call an API alike, or cannot for the same problem.
pub(super) fn is_same_access(
    one: &Result<Access, SecretProblem>,
    other: &Result<Access, SecretProblem>,
) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one.is_same(other),
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}
