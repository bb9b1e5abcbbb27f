//! Why a route is not registered as its spec asks for: the reason and the message of a condition, and the backoff.

use std::time::Duration;

use presenceroute_crds::status::{RegistrationLocation, SourceType};
use presenceroute_genesys::GenesysError;
use presenceroute_manifest::dereference::SecretProblem;

/// The wait after a failure that lasts until a person changes something. A changed Secret or spec is tried at once.
const PERMANENT_RETRY: Duration = Duration::from_secs(60);
/// The wait after a failure that a change of the route's own objects ends, which triggers a reconcile.
const CHANGE_AWAITED: Duration = Duration::from_secs(120);
/// How often another owner of the registration is checked for.
const CONTESTED_RETRY: Duration = Duration::from_secs(300);

/// The reason of the condition where another owner has the registration.
pub const CONTESTED: &str = "Contested";

/// One failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The reason of the condition.
    pub reason: &'static str,
    /// The thing, the cause and the remedy.
    pub message: String,
    /// The wait before the next try.
    pub retry_in: Duration,
    /// Whether Genesys Cloud was seen not to hold the registration as the spec asks, so that what it once confirmed does
    /// not stand.
    pub is_drift: bool,
}

impl Failure {
    /// The spec is invalid.
    pub fn invalid(message: String) -> Self {
        Self { reason: "Invalid", message, retry_in: CHANGE_AWAITED, is_drift: false }
    }

    /// A Secret is missing or incomplete.
    pub fn unresolved(problem: &SecretProblem) -> Self {
        Self {
            reason: "SecretsUnresolved",
            message: problem.to_string(),
            retry_in: CHANGE_AWAITED,
            is_drift: false,
        }
    }

    /// The OAuth client cannot be kept, so that the route could not be deregistered once its Secret is gone.
    pub fn client_not_kept(refusal: String) -> Self {
        let message = format!(
            "nothing is registered before the OAuth client is kept for the deregistration: {refusal}"
        );
        Self { reason: "ClientNotKept", message, retry_in: PERMANENT_RETRY, is_drift: false }
    }

    /// The registration calls another URL again, after it was given the route's.
    pub fn contested(name: &str, theirs: &str, ours: &str) -> Self {
        let message = format!(
            "the registration {name:?} calls {theirs}, also after it was given {ours}: another owner, such as a \
             PresenceRoute of the same name in another cluster, has a registration of this name; give one of the two \
             another spec.source.webhook.name, or delete theirs at Genesys Cloud if it is unused"
        );
        Self { reason: CONTESTED, message, retry_in: CONTESTED_RETRY, is_drift: true }
    }

    /// The event source has an integration already, which is not the route's.
    pub fn integration_taken(suffix: &str, theirs: &str) -> Self {
        let theirs = if theirs.is_empty() { String::new() } else { format!(", which sends to {theirs}") };
        let message = format!(
            "another owner has an integration with eventSourceSuffix {suffix:?}{theirs}; it is neither changed nor removed: \
             give this route another spec.source.amazonEventBridge.eventSourceSuffix, set integration to External if that \
             integration is the one to use, or delete it at Genesys Cloud if it is unused"
        );
        Self { reason: CONTESTED, message, retry_in: CONTESTED_RETRY, is_drift: true }
    }

    /// The integration is kept by other means, and there is none.
    pub fn integration_missing(suffix: &str) -> Self {
        let message = format!(
            "there is no integration with eventSourceSuffix {suffix:?} that this OAuth client can see, and \
             spec.source.amazonEventBridge.integration is External; create it by the means that keep it, or set \
             integration to Managed"
        );
        Self { reason: "IntegrationMissing", message, retry_in: PERMANENT_RETRY, is_drift: true }
    }

    /// A create request without an answer may still take effect.
    pub fn create_unconfirmed(location: &RegistrationLocation, retry_in: Duration) -> Self {
        let RegistrationLocation { name, access, .. } = location;
        let api_url = &access.api.api_url;
        let message = format!(
            "the creation of the {} {name:?} at {api_url} was not answered and may still be carried out; it is looked up \
             once more in {} s",
            noun(location.type_),
            retry_in.as_secs_f64().ceil()
        );
        Self { reason: "CreationUnanswered", message, retry_in, is_drift: false }
    }

    /// Neither the Secret nor the cache has a client that can see the registration.
    pub fn client_gone(location: &RegistrationLocation) -> Self {
        let RegistrationLocation { name, access, type_, .. } = location;
        let (api_url, object) = (&access.api.api_url, noun(*type_));
        let message = format!(
            "the {object} {name:?} at {api_url} was made by an OAuth client that is no longer in Secret {:?} (key {:?}), \
             and the client that is there does not see it; put the old client back until the {object} is gone",
            access.credentials_secret_ref.name, access.credentials_secret_ref.client_id_key
        );
        Self { reason: "OAuthClientGone", message, retry_in: CHANGE_AWAITED, is_drift: false }
    }

    /// All failures as one, tried again when the first of them may be over.
    pub fn joined(failures: Vec<Self>) -> Option<Self> {
        failures.into_iter().reduce(|one, other| Self {
            message: format!("{}; {}", one.message, other.message),
            retry_in: one.retry_in.min(other.retry_in),
            is_drift: one.is_drift || other.is_drift,
            ..one
        })
    }
}

/// What Genesys Cloud holds for a source.
pub fn noun(type_: SourceType) -> &'static str {
    match type_ {
        SourceType::Webhook => "registration",
        SourceType::AmazonEventBridge => "integration",
    }
}

impl From<&GenesysError> for Failure {
    fn from(error: &GenesysError) -> Self {
        let wait = if error.is_permanent() { PERMANENT_RETRY } else { Duration::ZERO };
        Self {
            reason: error.reason(),
            message: error.to_string(),
            retry_in: error.retry_after().unwrap_or(wait),
            is_drift: false,
        }
    }
}
