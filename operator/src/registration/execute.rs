//! Carries out plans: observes, plans, executes step by step, and keeps what came of it in the cache. What is to be done
//! is decided by [`plan`](super::plan), when by [`schedule`](super::schedule).

use std::time::Duration;

use presenceroute_crds::status::{RegistrationLocation, SourceType};
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{Access, Genesys, GenesysError};
use presenceroute_manifest::dereference::SecretProblem;
use tokio::time::Instant;

use super::backend::{Backend, LookupStrategy, StepResult};
use super::desired::{Desired, client_fingerprint};
use super::failure::Failure;
use super::objects::{DesiredObject, ObjectSpec};
use super::plan::{Applied, Observed, PreviousState, Refusal, Step, Steps, plan, plan_removal};
use super::record::CleanupTarget;
use super::schedule::{CacheDecision, Inquiry, Known, RegistrationCache};

/// How often a name is looked up and the registrations found deleted before the server is not believed.
const REMOVAL_ROUNDS: usize = 3;
/// How often a plan is made anew because a step was impossible. Each time one more call is known to be unsupported, or
/// one more registration to be gone.
const MAX_PLANS: usize = 6;

/// How long an unconfirmed create request may still take effect, unless the installation says otherwise.
pub const CREATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Registers and deregisters routes.
pub struct Executor {
    genesys: Genesys,
    cache: RegistrationCache,
}

/// How a route stands at Genesys Cloud.
pub enum Outcome {
    /// As the spec asks.
    Registered {
        /// What is there, and what was done.
        applied: Box<Applied>,
        /// How long this is trusted.
        trusted_for: Duration,
    },
    /// It was in order when it was last observed, and is observed after this time.
    Postponed(Duration),
    /// Another owner has the registration of this name: it is not the route's.
    Contested(Failure),
    /// Not as the spec asks.
    Failed(Failure),
}

enum AttemptError {
    Contested(Failure),
    /// It is kept by other means, and is not there.
    Missing(Failure),
    /// Nothing is known of the registration that was not known before.
    Genesys(GenesysError),
    /// The registration was seen not to be as desired, and could not be changed.
    Change(GenesysError),
}

impl From<GenesysError> for AttemptError {
    fn from(error: GenesysError) -> Self {
        Self::Genesys(error)
    }
}

impl Executor {
    /// With nothing remembered. `create_timeout` is how long an unconfirmed create request may still take effect.
    pub fn new(genesys: Genesys, create_timeout: Duration) -> Self {
        Self { genesys, cache: RegistrationCache::new(create_timeout) }
    }

    /// What is remembered between reconciles.
    pub fn cache(&self) -> &RegistrationCache {
        &self.cache
    }

    /// Has Genesys Cloud hold the desired registration, once.
    pub async fn ensure(&self, uid: &str, desired: Desired, known: &Known) -> Outcome {
        let inquiry = match self.cache.decide(uid, &desired, known) {
            CacheDecision::Trusted { registration, is_verifiable, differs, trusted_for } => {
                let applied = Applied {
                    registration,
                    is_verifiable,
                    is_cheap_to_list: true,
                    change: None,
                    secret_sent: false,
                    foreign_destination: None,
                    differs,
                    others: Vec::new(),
                };
                return Outcome::Registered { applied: Box::new(applied), trusted_for };
            }
            CacheDecision::Backoff(failure) => return Outcome::Failed(failure),
            CacheDecision::Postponed(wait) => return Outcome::Postponed(wait),
            CacheDecision::Ask(inquiry) => inquiry,
        };
        let backend = match self.backend(desired.location.type_, &desired.access) {
            Ok(backend) => backend,
            Err(failure) => return Outcome::Failed(self.cache.failed(uid, desired, failure)),
        };
        match attempt(&backend, &desired, known, &inquiry).await {
            Ok(applied) => {
                let trusted_for = self.cache.verified(uid, desired, &inquiry, &applied, backend);
                Outcome::Registered { applied: Box::new(applied), trusted_for }
            }
            Err(AttemptError::Contested(failure)) => {
                Outcome::Contested(self.cache.failed(uid, desired, failure))
            }
            Err(AttemptError::Missing(failure)) => Outcome::Failed(self.cache.failed(uid, desired, failure)),
            // Nothing was asked, so that nothing speaks against the last observation.
            Err(AttemptError::Genesys(GenesysError::RateLimited {
                cause: LimitedBy::Budget(_) | LimitedBy::Earlier,
                retry_after: Some(wait),
                ..
            })) if known.stands() => {
                self.cache.postponed(uid, desired, wait);
                Outcome::Postponed(wait)
            }
            Err(AttemptError::Genesys(error)) => {
                Outcome::Failed(self.attempt_failed(uid, desired, &inquiry, &error, false))
            }
            Err(AttemptError::Change(error)) => {
                Outcome::Failed(self.attempt_failed(uid, desired, &inquiry, &error, true))
            }
        }
    }

    fn attempt_failed(
        &self,
        uid: &str,
        desired: Desired,
        inquiry: &Inquiry,
        error: &GenesysError,
        is_drift: bool,
    ) -> Failure {
        let failure = Failure { is_drift, ..Failure::from(error) };
        if error.may_have_created() {
            self.cache.create_unconfirmed(uid, desired, inquiry, failure)
        } else {
            self.cache.failed(uid, desired, failure)
        }
    }

    /// Has the OAuth client accepted, before anything is asked that could register. A failure is waited for, longer each
    /// time.
    ///
    /// # Errors
    /// Why the client is not accepted.
    pub async fn authenticate(&self, uid: &str, desired: Desired) -> Result<(), Failure> {
        if let Some(failure) = self.cache.backoff(uid, &desired) {
            return Err(failure);
        }
        let accepted = match self.backend(desired.location.type_, &desired.access) {
            Ok(backend) => backend.authenticate().await.map_err(|error| Failure::from(&error)),
            Err(failure) => Err(failure),
        };
        accepted.map_err(|failure| self.cache.failed(uid, desired, failure))
    }

    /// Removes the route's registrations from one location, but for the one to keep. `Ok` is Genesys Cloud's word that
    /// none is there, at a time when none can come any more. A failure is waited for, longer each time.
    ///
    /// `access` is what the location's Secrets hold now; where that does not help, a client that has worked before is
    /// used.
    ///
    /// # Errors
    /// Why a registration may still be there.
    pub async fn clean_up(
        &self,
        uid: &str,
        target: &CleanupTarget,
        access: Result<Access, SecretProblem>,
        keep_id: Option<&str>,
    ) -> Result<(), Failure> {
        let location = &target.location;
        if let Some(failure) = self.cache.removal_backoff(uid, location, &access) {
            return Err(failure);
        }
        let result = self.remove(uid, target, access.clone(), keep_id).await;
        self.cache.removal_ended(uid, location, access, result)
    }

    async fn remove(
        &self,
        uid: &str,
        target: &CleanupTarget,
        access: Result<Access, SecretProblem>,
        keep_id: Option<&str>,
    ) -> Result<(), Failure> {
        let location = &target.location;
        let backend = self.client_for(uid, location, access).await?;
        let now = Instant::now();
        let removed = remove_at(&backend, target, keep_id).await.map_err(|error| Failure::from(&error))?;
        match self.cache.unconfirmed_create(uid, location) {
            Some(unconfirmed) if now < unconfirmed.until && removed < unconfirmed.count => {
                Err(Failure::create_unconfirmed(location, unconfirmed.until - now))
            }
            _ => Ok(()),
        }
    }

    /// A client whose "not found" is proof: of the OAuth client that created the registration, or one that can see it.
    async fn client_for(
        &self,
        uid: &str,
        location: &RegistrationLocation,
        access: Result<Access, SecretProblem>,
    ) -> Result<Backend, Failure> {
        let unproven = match access {
            Ok(access) => {
                let fingerprint = client_fingerprint(uid, &access.client_id);
                let backend = self.backend(location.type_, &Ok(access))?;
                if fingerprint == location.access.client_fingerprint {
                    return Ok(backend);
                }
                // Another client of the same organisation sees the registration; one of another organisation does not,
                // and that it sees none proves nothing.
                match backend.sees(location).await {
                    Ok(true) => return Ok(backend),
                    Ok(false) => Failure::client_gone(location),
                    Err(error) => Failure::from(&error),
                }
            }
            Err(problem) => Failure::unresolved(&problem),
        };
        self.cache.working_client(uid, location).ok_or(unproven)
    }

    fn backend(&self, type_: SourceType, access: &Result<Access, SecretProblem>) -> Result<Backend, Failure> {
        let access = access.as_ref().map_err(Failure::unresolved)?.clone();
        let client = self.genesys.client(access).map_err(|error| Failure::from(&error))?;
        Ok(Backend::new(&client, type_))
    }
}

/// Observes, plans, and executes until no step is impossible.
async fn attempt(
    backend: &Backend,
    desired: &Desired,
    known: &Known,
    inquiry: &Inquiry,
) -> Result<Applied, AttemptError> {
    let object = &desired.object;
    let strategy =
        LookupStrategy { name: object.name(), id: inquiry.id.as_deref(), by_name: inquiry.by_name };
    let previous = PreviousState {
        id: inquiry.id.as_deref(),
        destination: known.destination.as_deref(),
        foreign_destination: inquiry.foreign_destination.as_deref(),
        contested: known.contested,
        confirmed: known.confirmed || inquiry.was_verified,
        secret_registered: known.secret_registered,
        secret_drifted: known.secret_drifted,
    };
    let mut observed = backend.observe(strategy).await?;
    for _ in 0..MAX_PLANS {
        let steps = match plan(object, previous, &observed) {
            Err(Refusal::Conflict { theirs }) => {
                let theirs = backend.quote_destination(&theirs);
                return Err(AttemptError::Contested(contested(object, &theirs)));
            }
            Err(Refusal::Missing) => {
                return Err(AttemptError::Missing(Failure::integration_missing(object.name())));
            }
            Ok(steps) => steps,
        };
        let executed = execute(backend, object, steps, &mut observed).await;
        if let Some(applied) = executed.map_err(AttemptError::Change)? {
            let registration = backend.complete(applied.registration, object).await?;
            return Ok(Applied { registration, ..applied });
        }
    }
    Err(AttemptError::Change(backend.still_listed(object.name())))
}

fn contested(object: &DesiredObject, theirs: &str) -> Failure {
    match object.spec() {
        ObjectSpec::Registration(spec) => Failure::contested(&spec.name, theirs, &spec.url),
        ObjectSpec::Integration(spec, _) => Failure::integration_taken(&spec.event_source_suffix, theirs),
    }
}

/// Executes the steps of one plan. `None` where one was impossible, which `observed` then says.
async fn execute(
    backend: &Backend,
    desired: &DesiredObject,
    plan: Steps,
    observed: &mut Observed,
) -> Result<Option<Applied>, GenesysError> {
    let Steps { steps, unchanged, change, foreign_destination, differs, others } = plan;
    let mut written = None;
    for step in steps {
        match backend.execute(step, desired).await? {
            StepResult::Written(registration) => written = Some(registration),
            StepResult::Deleted(id) => {
                tracing::info!(name = desired.name(), id, "deleted a registration");
                observed.remove(&id);
            }
            StepResult::Missing(id) => {
                observed.remove(&id);
                return Ok(None);
            }
            StepResult::Unsupported(step, error) => {
                match step {
                    Step::Update(_) => observed.supports_update = false,
                    Step::Delete(_) => observed.supports_delete = false,
                    Step::Create => return Err(error),
                }
                return Ok(None);
            }
        }
    }
    let secret_sent = written.is_some();
    let Some(registration) = written.or(unchanged) else { return Ok(None) };
    let others = others.iter().map(|other| backend.quote_destination(&other.destination()));
    Ok(Some(Applied {
        registration,
        is_verifiable: observed.registrations.is_some(),
        is_cheap_to_list: observed.is_cheap_to_list,
        change,
        secret_sent,
        foreign_destination,
        differs,
        others: others.collect(),
    }))
}

/// Deletes the known one, then what the name finds, until the server itself lists none: one that cannot delete may answer
/// 404, too. Returns how many were deleted that were not known.
async fn remove_at(
    backend: &Backend,
    target: &CleanupTarget,
    keep_id: Option<&str>,
) -> Result<usize, GenesysError> {
    let known_id = target.location.id.as_deref();
    let mut unknown = std::collections::HashSet::new();
    if let Some(id) = known_id.filter(|id| Some(*id) != keep_id) {
        backend.delete(id).await?;
    }
    for _ in 0..REMOVAL_ROUNDS {
        let found = backend.list(&target.location.name).await?;
        let deletions = plan_removal(target, keep_id, &found);
        if deletions.is_empty() {
            return Ok(unknown.len());
        }
        for id in deletions {
            backend.delete(&id).await?;
            if known_id != Some(id.as_str()) {
                unknown.insert(id);
            }
        }
    }
    Err(backend.still_listed(&target.location.name))
}
