//! The one mapping from a model to what Genesys Cloud is to hold for it.

use presenceroute_core::genesys_api::{ApiEndpoint, RegistrationSpec};
use presenceroute_crds::spec::Genesys;
use presenceroute_crds::status::{RegistrationAccess, RegistrationLocation, RegistrationStatus};
use presenceroute_genesys::{Access, DesiredRegistration};
use presenceroute_manifest::dereference::SecretProblem;
use presenceroute_manifest::validate::{Model, SourceModel};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// A registration as the spec asks for it, where it is to be, and how its API is called.
#[derive(Clone)]
pub struct Desired {
    /// What is to be registered.
    pub spec: RegistrationSpec,
    /// The secret that events are to be signed with.
    pub secret: SecretString,
    /// Where it is to be; the id is not known yet.
    pub location: RegistrationLocation,
    /// How the API is called; the problem of a Secret where it cannot be.
    pub access: Result<Access, SecretProblem>,
}

impl Desired {
    /// What the model asks for. `secret` is the newest signing secret.
    ///
    /// # Errors
    /// The OAuth client's Secret is not as it should be: without the client's id there is no location.
    pub fn of(model: &Model, genesys: &Genesys, secret: &SecretString) -> Result<Self, SecretProblem> {
        let SourceModel::Webhook(webhook) = &model.source;
        let api = model.genesys.api_endpoint(&webhook.event_bridges_path);
        let client = model.genesys.oauth_client.clone()?;
        let access = RegistrationAccess {
            api: api.clone(),
            client_fingerprint: client_fingerprint(&model.uid, &client.id),
            credentials_secret_ref: genesys.credentials_secret_ref.clone(),
            ca_secret_ref: genesys.api.ca_secret_ref.clone(),
        };
        let ca_pem = model.genesys.ca_pem.clone().transpose();
        Ok(Self {
            spec: webhook.registration.clone(),
            secret: secret.clone(),
            location: RegistrationLocation { id: None, name: webhook.registration.name.clone(), access },
            access: ca_pem.map(|ca_pem| Access::new(api, client.id, client.secret, ca_pem)),
        })
    }

    /// What Genesys Cloud is sent.
    #[must_use]
    pub fn registration(&self) -> DesiredRegistration {
        DesiredRegistration { spec: self.spec.clone(), secret: self.secret.clone() }
    }

    /// The same as the status records it.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        RegistrationStatus {
            id: self.location.id.clone(),
            spec: self.spec.clone(),
            access: self.location.access.clone(),
            unauthenticated: false,
            last_verified_time: None,
        }
    }

    /// Whether both ask for the same registration, but for its secret.
    #[must_use]
    pub fn is_same_registration(&self, other: &Self) -> bool {
        self.api() == other.api() && self.spec == other.spec
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
