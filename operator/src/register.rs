//! The fifth step: Genesys Cloud is made to hold exactly one registration for the route, as the spec asks for it.
//!
//! A call is made only when something is to be changed, or when the last look is older than five minutes. An answer
//! that was lost is found again by the registration's name. After a failure a route waits, longer each time and for
//! itself alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use crate::dereference::{OAuthClient, SecretProblem};
use crate::genesys::{Access, Account, DesiredRegistration, Genesys, GenesysError, Registration};
use crate::validate::{ApiModel, Model};

/// How long a look at Genesys Cloud is trusted: the contract allows one call a route in this time.
const VERIFY_EVERY: Duration = Duration::from_secs(300);
/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// The wait after a failure that does not pass by itself.
const PERMANENT_RETRY: Duration = Duration::from_secs(60);

/// Registers routes, and remembers between reconciles what it last saw of each.
pub struct Registrar {
    genesys: Genesys,
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of one route, by its uid. All of it can be found again after a restart.
#[derive(Default)]
struct Memory {
    /// How the API was last reached: a route that is deleted together with its Secrets can still be deregistered.
    account: Option<Account>,
    verified: Option<Verified>,
    failed: Option<Failed>,
}

/// What failed, and how often in a row. Anything else than that may be tried at once.
#[derive(Clone)]
struct Failed {
    attempt: Attempt,
    times: u32,
    failure: Failure,
    not_before: Instant,
}

/// What was asked of Genesys Cloud, and as whom.
#[derive(Clone)]
struct Attempt {
    fingerprint: Fingerprint,
    oauth_client: Result<OAuthClient, SecretProblem>,
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        let same_client = match (&self.oauth_client, &other.oauth_client) {
            (Ok(one), Ok(other)) => {
                one.id == other.id && one.secret.expose_secret() == other.secret.expose_secret()
            }
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        same_client && self.fingerprint == other.fingerprint
    }
}

#[derive(Clone)]
struct Verified {
    registration: Registration,
    verifiable: bool,
    fingerprint: Fingerprint,
    due: Instant,
}

/// Everything about a registration but its secret.
#[derive(Clone, PartialEq)]
struct Fingerprint {
    api: String,
    name: String,
    enabled: bool,
    url: String,
    event_types: Vec<String>,
    retry_policy: presenceroute_crds::presence_route::RetryPolicy,
}

/// Why a route is not registered as it should be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A word for the condition.
    pub reason: &'static str,
    /// The thing, the cause and the remedy.
    pub message: String,
    /// When it makes sense to try again.
    pub retry_in: Duration,
}

impl Failure {
    /// The spec itself stands in the way.
    pub fn invalid(message: String) -> Self {
        Self { reason: "Invalid", message, retry_in: BACKOFF.1 }
    }
}

/// How a route stands at Genesys Cloud.
pub enum Outcome {
    /// As the spec asks.
    Registered {
        /// As it was last seen there.
        registration: Registration,
        /// Whether Genesys Cloud can be asked for it. A server that knows POST alone cannot.
        verifiable: bool,
        /// What this reconcile changed, for the event that tells of it.
        change: Option<Change>,
        /// Whether Genesys Cloud was given the secret by this reconcile.
        secret_sent: bool,
        /// How long this look is trusted.
        trusted_for: Duration,
    },
    /// Not as the spec asks.
    Failed(Failure),
}

/// What was changed at Genesys Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Created,
    /// There was one, and it was otherwise: in what.
    Repaired(String),
    /// The spec or the secret is new.
    Updated,
}

impl Registrar {
    /// Starts with nothing remembered.
    pub fn new(genesys: Genesys) -> Self {
        Self { genesys, memory: Mutex::default() }
    }

    /// Brings the registration in line with the model.
    ///
    /// `known_id` is the registration that the status names; `secret_registered` says whether Genesys Cloud has
    /// confirmed that it signs with `secret`.
    pub async fn ensure(
        &self,
        model: &Model,
        secret: &SecretString,
        secret_registered: bool,
        known_id: Option<&str>,
    ) -> Outcome {
        let desired = desired(model, secret);
        let attempt = Attempt {
            fingerprint: fingerprint(model, &desired),
            oauth_client: model.registration.oauth_client.clone(),
        };
        let fingerprint = &attempt.fingerprint;
        let now = Instant::now();
        let verified = match self.last_look(&model.uid, &attempt, secret_registered, now) {
            Look::Enough(verified) => {
                return Outcome::Registered {
                    registration: verified.registration,
                    verifiable: verified.verifiable,
                    change: None,
                    secret_sent: false,
                    trusted_for: verified.due.saturating_duration_since(now),
                };
            }
            Look::TooSoon(failure) => return Outcome::Failed(failure),
            Look::Due(verified) => verified,
        };
        let account = match self.account(model) {
            Ok(account) => account,
            Err(failure) => return Outcome::Failed(self.failed(&model.uid, attempt, failure)),
        };
        let id = verified.as_ref().map(|verified| verified.registration.id.as_str()).or(known_id);
        let unverifiable = verified.as_ref().filter(|verified| !verified.verifiable).cloned();
        let result = match unverifiable {
            // A server that knows POST alone is posted to when something is new, and left alone otherwise.
            Some(verified) if verified.fingerprint == *fingerprint && secret_registered => Ok(Ensured {
                registration: verified.registration,
                verifiable: false,
                change: None,
                secret_sent: false,
            }),
            Some(_) => create_unverifiable(&account, &desired).await,
            None => ensure_at(&account, &desired, id, secret_registered).await,
        };
        match result {
            Ok(ensured) => {
                let trusted_for = jittered(VERIFY_EVERY);
                self.succeeded(&model.uid, account, &ensured, attempt.fingerprint, now + trusted_for);
                Outcome::Registered {
                    trusted_for,
                    registration: ensured.registration,
                    verifiable: ensured.verifiable,
                    change: ensured.change,
                    secret_sent: ensured.secret_sent,
                }
            }
            Err(error) => Outcome::Failed(self.failed(&model.uid, attempt, failure_of(&error))),
        }
    }

    /// Removes every registration of the route, the known one and any that its name finds. `Ok` is Genesys Cloud's
    /// word that there is none.
    pub async fn remove(
        &self,
        uid: &str,
        account: &Account,
        name: &str,
        id: Option<&str>,
    ) -> Result<(), Failure> {
        remove_at(account, name, id).await.map_err(|error| failure_of(&error))?;
        self.forget(uid);
        Ok(())
    }

    /// Forgets a route that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The way to the API that last worked for a route.
    pub fn remembered_account(&self, uid: &str) -> Option<Account> {
        self.lock().get(uid)?.account.clone()
    }

    /// The way to the API that the model describes.
    pub fn account(&self, model: &Model) -> Result<Account, Failure> {
        self.account_for(&model.registration.api, &model.registration.oauth_client)
    }

    fn account_for(
        &self,
        api: &ApiModel,
        client: &Result<OAuthClient, SecretProblem>,
    ) -> Result<Account, Failure> {
        let unresolved = |problem: &SecretProblem| Failure {
            reason: "SecretsUnresolved",
            message: problem.to_string(),
            retry_in: BACKOFF.1,
        };
        let client = client.as_ref().map_err(unresolved)?;
        let ca_pem = match &api.ca_pem {
            Some(ca) => Some(ca.as_ref().map_err(unresolved)?.clone()),
            None => None,
        };
        let access = Access {
            api_url: api.url.to_string(),
            token_path: api.token_path.clone(),
            event_bridges_path: api.event_bridges_path.clone(),
            token_request: api.token_request,
            client_id: client.id.clone(),
            client_secret: client.secret.clone(),
            ca_pem,
        };
        self.genesys.account(access).map_err(|error| failure_of(&error))
    }

    fn last_look(&self, uid: &str, attempt: &Attempt, secret_registered: bool, now: Instant) -> Look {
        let memory = self.lock();
        let Some(memory) = memory.get(uid) else { return Look::Due(None) };
        if let Some(failed) = &memory.failed
            && failed.attempt == *attempt
            && now < failed.not_before
        {
            return Look::TooSoon(Failure { retry_in: failed.not_before - now, ..failed.failure.clone() });
        }
        match &memory.verified {
            Some(verified)
                if verified.fingerprint == attempt.fingerprint && secret_registered && now < verified.due =>
            {
                Look::Enough(verified.clone())
            }
            other => Look::Due(other.clone()),
        }
    }

    fn succeeded(
        &self,
        uid: &str,
        account: Account,
        ensured: &Ensured,
        fingerprint: Fingerprint,
        due: Instant,
    ) {
        let verified = Verified {
            registration: ensured.registration.clone(),
            verifiable: ensured.verifiable,
            fingerprint,
            due,
        };
        self.lock().insert(
            uid.to_owned(),
            Memory { account: Some(account), verified: Some(verified), ..Memory::default() },
        );
    }

    fn failed(&self, uid: &str, attempt: Attempt, failure: Failure) -> Failure {
        let mut memory = self.lock();
        let memory = memory.entry(uid.to_owned()).or_default();
        let times = memory
            .failed
            .as_ref()
            .filter(|failed| failed.attempt == attempt)
            .map_or(0, |failed| failed.times);
        let backoff = BACKOFF.0.saturating_mul(1 << times.min(10)).min(BACKOFF.1);
        // What is known of the registration may be out of date now.
        if let Some(verified) = &mut memory.verified {
            verified.due = Instant::now();
        }
        let failure = Failure { retry_in: failure.retry_in.max(jittered(backoff)), ..failure };
        memory.failed = Some(Failed {
            attempt,
            times: times.saturating_add(1),
            failure: failure.clone(),
            not_before: Instant::now() + failure.retry_in,
        });
        failure
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        // A panic while it is held aborts the process in a release, and poisons nothing worth keeping in a test.
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

enum Look {
    /// Recent, and of the same registration.
    Enough(Verified),
    /// The last attempt failed a moment ago.
    TooSoon(Failure),
    /// It is time to call.
    Due(Option<Verified>),
}

struct Ensured {
    registration: Registration,
    verifiable: bool,
    change: Option<Change>,
    secret_sent: bool,
}

async fn ensure_at(
    account: &Account,
    desired: &DesiredRegistration,
    id: Option<&str>,
    secret_registered: bool,
) -> Result<Ensured, GenesysError> {
    let found = match find(account, desired, id).await {
        Err(GenesysError::Unsupported { .. }) => return create_unverifiable(account, desired).await,
        other => other?,
    };
    let Some(found) = found else {
        let registration = account.create(desired).await?;
        return Ok(Ensured {
            registration,
            verifiable: true,
            change: Some(Change::Created),
            secret_sent: true,
        });
    };
    let differences = found.differences(desired);
    if differences.is_empty() && secret_registered {
        return Ok(Ensured { registration: found, verifiable: true, change: None, secret_sent: false });
    }
    let change = if differences.is_empty() {
        Change::Updated
    } else {
        Change::Repaired(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    };
    let (registration, change) = match account.update(&found.id, desired).await? {
        Some(registration) => (registration, change),
        // Deleted between the look and the update.
        None => (account.create(desired).await?, Change::Created),
    };
    Ok(Ensured { registration, verifiable: true, change: Some(change), secret_sent: true })
}

/// The one registration of the route; any second one of its name is removed.
async fn find(
    account: &Account,
    desired: &DesiredRegistration,
    id: Option<&str>,
) -> Result<Option<Registration>, GenesysError> {
    if let Some(id) = id
        && let Some(found) = account.get(id).await?
    {
        return Ok(Some(found));
    }
    let mut named = account.find_by_name(&desired.name).await?.into_iter();
    let first = named.next();
    for surplus in named {
        tracing::warn!(
            name = desired.name,
            id = surplus.id,
            "removing a second registration of the same name"
        );
        account.delete(&surplus.id).await?;
    }
    Ok(first)
}

async fn create_unverifiable(
    account: &Account,
    desired: &DesiredRegistration,
) -> Result<Ensured, GenesysError> {
    let registration = account.create(desired).await?;
    Ok(Ensured { registration, verifiable: false, change: Some(Change::Created), secret_sent: true })
}

async fn remove_at(account: &Account, name: &str, id: Option<&str>) -> Result<(), GenesysError> {
    if let Some(id) = id {
        account.delete(id).await?;
    }
    for left in account.find_by_name(name).await? {
        account.delete(&left.id).await?;
    }
    Ok(())
}

fn desired(model: &Model, secret: &SecretString) -> DesiredRegistration {
    DesiredRegistration {
        name: model.registration.name.clone(),
        enabled: model.registration.enabled,
        url: model.endpoint.to_string(),
        secret: secret.clone(),
        event_types: model.registration.event_types.iter().cloned().collect(),
        retry_policy: model.registration.retry_policy.clone(),
    }
}

fn fingerprint(model: &Model, desired: &DesiredRegistration) -> Fingerprint {
    Fingerprint {
        api: format!("{}{}", model.registration.api.url, model.registration.api.event_bridges_path),
        name: desired.name.clone(),
        enabled: desired.enabled,
        url: desired.url.clone(),
        event_types: desired.event_types.clone(),
        retry_policy: desired.retry_policy.clone(),
    }
}

fn failure_of(error: &GenesysError) -> Failure {
    // What only a person can mend is asked for rarely; a changed Secret or spec asks at once.
    let patience = if error.is_permanent() { PERMANENT_RETRY } else { Duration::ZERO };
    Failure {
        reason: error.reason(),
        message: error.to_string(),
        retry_in: error.retry_after().unwrap_or(patience),
    }
}

/// Up to a tenth longer than `duration`, so that routes made together do not call together for ever.
fn jittered(duration: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    duration.mul_f64(1.0 + 0.1 * f64::from(random) / 255.0)
}
