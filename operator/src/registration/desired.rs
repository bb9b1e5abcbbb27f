//! The one mapping from a model to what Genesys Cloud is to hold for it.

use presenceroute_crds::presence_route::Genesys;
use presenceroute_crds::status::{RegistrationAccess, RegistrationLocation, RegistrationStatus};
use presenceroute_genesys::{Access, DesiredRegistration};
use presenceroute_manifest::dereference::SecretProblem;
use presenceroute_manifest::validate::{ApiModel, Model};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// A registration as the spec asks for it, where it is to be, and how its API is called.
#[derive(Clone)]
pub struct Desired {
    /// What Genesys Cloud is sent, the signing secret included.
    pub registration: DesiredRegistration,
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
        let registration = &model.registration;
        let ApiModel { url, token_path, event_bridges_path, token_request, ca_pem } = &registration.api;
        let client = registration.oauth_client.clone()?;
        let location = RegistrationLocation {
            id: None,
            name: registration.name.clone(),
            api_url: url.as_str().trim_end_matches('/').to_owned(),
            access: RegistrationAccess {
                client_fingerprint: client_fingerprint(&model.uid, &client.id),
                credentials_secret_ref: genesys.credentials_secret_ref.clone(),
                token_path: token_path.clone(),
                event_bridges_path: event_bridges_path.clone(),
                token_request: *token_request,
                ca_secret_ref: genesys.api.ca_secret_ref.clone(),
            },
        };
        let access = ca_pem.clone().transpose().map(|ca_pem| Access {
            api_url: url.to_string(),
            token_path: token_path.clone(),
            event_bridges_path: event_bridges_path.clone(),
            token_request: *token_request,
            client_id: client.id,
            client_secret: client.secret,
            ca_pem,
        });
        let registration = DesiredRegistration {
            name: registration.name.clone(),
            enabled: registration.enabled,
            url: model.endpoint.to_string(),
            secret: secret.clone(),
            event_types: registration.event_types.iter().cloned().collect(),
            retry_policy: registration.retry_policy.clone(),
        };
        Ok(Self { registration, location, access })
    }

    /// The same as the status records it.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        let DesiredRegistration { enabled, url, event_types, retry_policy, .. } = &self.registration;
        RegistrationStatus {
            location: self.location.clone(),
            url: url.clone(),
            enabled: *enabled,
            event_types: event_types.clone(),
            retry_policy: retry_policy.clone(),
            last_verified_time: None,
        }
    }

    /// Whether both ask for the same registration, but for its secret.
    #[must_use]
    pub fn is_same_registration(&self, other: &Self) -> bool {
        let (one, two) = (&self.registration, &other.registration);
        self.api() == other.api()
            && one.name == two.name
            && one.enabled == two.enabled
            && one.url == two.url
            && one.event_types == two.event_types
            && one.retry_policy == two.retry_policy
    }

    /// As [`Desired::is_same_registration`], called with the same credentials and certificates too.
    #[must_use]
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        self.is_same_registration(other) && is_same_access(&self.access, &other.access)
    }

    /// The collection of registrations that it belongs to.
    #[must_use]
    pub fn api(&self) -> (&str, &str) {
        (&self.location.api_url, &self.location.access.event_bridges_path)
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
