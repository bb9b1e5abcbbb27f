//! Genesys Cloud holds exactly one registration or integration for a route, as its spec asks for it; none once the route is
//! deleted.
//!
//! preconditions → persist → observe → plan → execute → record: where a registration may be is in the status, and the
//! finalizer is on the object, before the first call ([`record`]). A reconcile does not wait long for a call
//! ([`in_flight`]). Which secret Genesys Cloud signs with is reported by the relays ([`secret_drift`]). Conditions and
//! their wording are left to [`status`](crate::status).

mod api_key;
pub mod backend;
mod client_keeping;
mod deletion;
pub mod desired;
pub mod execute;
pub mod failure;
pub mod in_flight;
pub mod objects;
pub mod plan;
pub mod record;
pub mod schedule;
pub mod secret_drift;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Client, ResourceExt};
use presenceroute_crds::status::{
    EndpointExposure, EndpointPhase, RegistrationAccess, RegistrationLocation, SourceType,
};
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};
use presenceroute_genesys::Access;
use presenceroute_genesys::integrations::ReportedState;
use presenceroute_manifest::build;
use presenceroute_manifest::conflicts::{self, Conflict};
use presenceroute_manifest::dereference::{SecretProblem, SecretSource, ca, oauth_client};
use presenceroute_manifest::rotation::CredentialRotation;
use presenceroute_manifest::validate::{Model, SourceModel};
use secrecy::SecretString;

use crate::apply;
use crate::cache::RouteIndex;
use crate::cache::SecretCache;
use crate::cache::{OwnedObjects, RouteKey};
use crate::condition_compiler::ConditionCompiler;
use crate::error::{ReconcileError, kubernetes};
use crate::events::EventRecorder;
use crate::finalizer::add_finalizer;
use crate::relay_pods::{DesiredRevisions, RelayPods, RelayStatusClient};
use crate::route_state::{RouteStates, WaitReason};

pub use api_key::ApiKeyStep;
use client_keeping::Replace;
pub use deletion::Deletion;
use desired::{Desired, owner};
use execute::{Executor, Outcome};
use failure::{CONTESTED, Failure, noun};
use in_flight::InFlightCalls;
use objects::ObservedObject;
use plan::Change;
use record::{CleanupTarget, RegistrationRecord};
use schedule::Known;

/// How soon a precondition that no watch reports is checked again.
const POLL: Duration = Duration::from_millis(100);
/// How soon relay pods on their way to the newest revisions are asked again.
const PROGRESSING: Duration = Duration::from_secs(1);
/// How long a first registration waits for the Service to route to a relay pod.
const SERVICE_PATIENCE: Duration = Duration::from_secs(5);
/// How long what exposes the Service outside of the cluster takes to lead to a new endpoint. An Ingress does not report of
/// which generation its rules are, so there is nothing to wait for.
const EXPOSURE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a rotation waits for relay pods that are starting. One that never starts must not stop it.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How soon the relays are asked again after they refused signatures and accepted none.
const SUSPICION: Duration = Duration::from_secs(30);

/// How a route stands at Genesys Cloud after a reconcile.
pub enum RegistrationState {
    /// Nothing was called, because a precondition is not met.
    Waiting {
        /// The precondition, as the condition says it.
        what: &'static str,
        /// When to check it again, where no watch reports it.
        check_in: Option<Duration>,
    },
    /// Nothing was called in this reconcile: what was known stands.
    Unchanged,
    /// A call is running; its end triggers a reconcile.
    Pending {
        /// Whether what the spec asks for was confirmed before: that stands.
        confirmed: bool,
    },
    /// Nothing is called before this time is over, because all was in order when it was last observed: that stands.
    Postponed(Duration),
    /// As the spec asks.
    Registered {
        /// What is there now, and where else a registration may still be.
        record: Box<RegistrationRecord>,
        /// Why a registration is still elsewhere.
        left: Option<String>,
        /// Registrations of the same name that call these other URLs: another owner's.
        others: Vec<String>,
        /// Whether it can be observed at all.
        is_verifiable: bool,
        /// What is known of an integration beside the record.
        integration: Option<Box<IntegrationReport>>,
        /// How long this is trusted before Genesys Cloud is asked again.
        trusted_for: Duration,
    },
    /// As the spec asks when it was last verified, which it cannot be now.
    Unverified(Failure),
    /// Not as the spec asks.
    Failed(Failure),
}

/// What is known of an integration with Amazon EventBridge when it is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntegrationReport {
    /// What has become of its intended state, where Genesys Cloud tells.
    pub state: Option<ReportedState>,
    /// The desired topics that Genesys Cloud does not send to Amazon EventBridge, each as a sentence.
    pub unavailable_topics: Vec<String>,
    /// In what an integration that is kept by other means is not as the spec asks, by the names of fields at Genesys Cloud.
    pub differs: Option<String>,
}

/// What a reconcile has found out before it registers the route.
pub struct RegistrationInput<'i> {
    /// The route as the watch brought it.
    pub route: &'i PresenceRoute,
    /// The valid model.
    pub model: &'i Model,
    /// The relay pods.
    pub relays: &'i RelayPods,
    /// What the relay pods are to serve.
    pub revisions: &'i DesiredRevisions,
    /// Whether Kubernetes has refused one of the route's objects, perhaps the one that exposes the endpoint.
    pub is_refused: bool,
    /// Whether the endpoint is exposed, or there is none.
    pub is_exposed: bool,
    /// Whether another route has not released the event source yet that this one asks for.
    pub is_name_pending: bool,
}

/// What the registrations of all routes share.
pub struct Registrations {
    pub(crate) client: Client,
    pub(crate) executor: Arc<Executor>,
    pub(crate) calls: InFlightCalls<CallResult>,
    pub(crate) states: Arc<RouteStates>,
    pub(crate) events: Arc<EventRecorder>,
    pub(crate) conditions: Arc<ConditionCompiler>,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) owned: Arc<OwnedObjects>,
    pub(crate) index: RouteIndex,
    pub(crate) relay_status: RelayStatusClient,
    pub(crate) secret_grace: Duration,
}

/// What a call to Genesys Cloud came to.
pub enum CallResult {
    /// Of the OAuth client of a location where nothing was registered yet.
    Authenticated(Box<RegistrationLocation>, Result<(), Failure>),
    /// Of the desired registration.
    Ensured(Box<CallContext>, Outcome),
    /// Of former locations, each free or not.
    Cleaned(Vec<Cleaned>),
    /// Of a deletion: what is in its way.
    Deregistered(Option<Failure>),
}

/// A location, and whether it is free of the route's registrations.
type Cleaned = (RegistrationLocation, Result<(), Failure>);

/// What a call was started with.
pub struct CallContext {
    desired: Desired,
    record: RegistrationRecord,
    drift: Drift,
}

impl Registrations {
    /// Registers the route once its relays can answer and its endpoint is exposed, records which secret Genesys Cloud
    /// signs with, and removes its registrations elsewhere.
    ///
    /// # Errors
    /// The API server's. What Genesys Cloud fails at is a state.
    pub async fn reconcile(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &mut CredentialRotation,
    ) -> Result<RegistrationState, ReconcileError> {
        Ok(match self.register(input, rotation).await? {
            RegistrationState::Failed(failure) if !failure.is_drift && self.stands(input, rotation) => {
                RegistrationState::Unverified(failure)
            }
            state => state,
        })
    }

    /// Whether the registration was as the spec asks when it was last verified, and nothing has spoken against it since.
    fn stands(&self, input: &RegistrationInput<'_>, rotation: &CredentialRotation) -> bool {
        let RegistrationInput { route, model, .. } = *input;
        let has_secret = signing_secret(model)
            .is_none_or(|secret| secret.as_ref().is_ok_and(|secret| rotation.is_registered(secret)));
        let was_reported = self.last_report(route).is_some_and(|last| last.status != "False");
        let record = RegistrationRecord::read(self.states.status(route));
        has_secret && was_reported && record.holds(model, &route.spec.genesys)
    }

    async fn register(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &mut CredentialRotation,
    ) -> Result<RegistrationState, ReconcileError> {
        let RegistrationInput { route, model, .. } = *input;
        let key = key_of(route);
        if let Some(result) = self.calls.take_result(&key, &model.uid) {
            self.apply_late_result(input, rotation, result).await?;
        }
        if input.is_name_pending {
            let what =
                "waiting for another PresenceRoute to release the integration with this eventSourceSuffix";
            return Ok(waiting(what, None));
        }
        let record = RegistrationRecord::read(self.states.status(route));
        let Some(desired) = self.preconditions(input, rotation, &record)? else {
            return Ok(RegistrationState::Unchanged);
        };
        let desired = match desired {
            Ok(desired) => desired,
            Err(state) => return Ok(state),
        };
        let pending = RegistrationState::Pending { confirmed: record.confirms(&desired.status()) };
        if self.calls.is_running(&key) {
            return Ok(pending);
        }
        let is_new_endpoint = is_endpoint_pending(model, &record);
        if record.id().is_some() && !is_new_endpoint {
            self.states.clear_wait(&model.uid, WaitReason::Service);
            self.states.clear_wait(&model.uid, WaitReason::Exposure);
        }
        if (record.id().is_none() || is_new_endpoint) && !self.service_routes_to_a_relay(model).await {
            return Ok(waiting("waiting for the Service to route to a ready relay pod", Some(POLL)));
        }
        if is_new_endpoint && !self.exposure_is_settled(model) {
            return Ok(waiting(
                "waiting for what exposes the Service to lead to the new endpoint",
                Some(PROGRESSING),
            ));
        }
        let Some(context) = self.persist(input, rotation, record, desired).await? else {
            return Ok(waiting("waiting for another PresenceRoute that owns the same", Some(POLL)));
        };
        let mut context = context;
        if context.record.is_unauthenticated() {
            let call = self.authenticate(&model.uid, &context.desired);
            let Some(CallResult::Authenticated(location, result)) =
                self.calls.start(&key, &model.uid, call).await
            else {
                return Ok(pending);
            };
            if let Err(failure) = result {
                return Ok(RegistrationState::Failed(failure));
            }
            context.record = context.record.authenticated(&location);
            self.write_record(route, &context.record).await?;
            if !context.record.was_at(&location) {
                self.executor.cache().begin(&model.uid, &location);
            }
        }
        if let Some(failure) =
            self.keep_client(model, &context.record, &context.desired, Replace::Never).await?
        {
            return Ok(RegistrationState::Failed(failure));
        }
        let call = self.ensure(route, &model.uid, rotation, context);
        let Some(CallResult::Ensured(context, outcome)) = self.calls.start(&key, &model.uid, call).await
        else {
            return Ok(pending);
        };
        let state = self.handle_result(input, rotation, *context, outcome).await?;
        self.remove_former(route, state).await
    }

    /// What is to be registered, or the precondition that is not met. `None`: a rotation is on its way, which leaves the
    /// registration as good as it was.
    fn preconditions(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &CredentialRotation,
        record: &RegistrationRecord,
    ) -> Result<Option<Result<Desired, RegistrationState>>, ReconcileError> {
        let RegistrationInput { route, model, relays, revisions, is_refused, is_exposed, .. } = *input;
        let is_first = record.id().is_none();
        let unmet = |what, check_in| Ok(is_first.then(|| Err(waiting(what, check_in))));
        let desired = |secret: &SecretString| {
            Ok(Some(
                Desired::of(model, &route.spec.genesys, secret)
                    .map_err(|problem| RegistrationState::Failed(Failure::unresolved(&problem))),
            ))
        };
        // A queue keeps the events until a relay can receive them, and it is made once the event source is there. What
        // others keep is only read.
        if !model.config.source.kind().exposes_endpoint || is_external(model) {
            return desired(&SecretString::default());
        }
        let secret = match signing_secret(model) {
            None => None,
            Some(Ok(secret)) => Some(secret),
            // What is registered stays, with the secret that it has.
            Some(Err(_)) => return unmet("waiting for the signing secret", None),
        };
        if is_first && relays.ready().next().is_none() {
            return unmet("waiting for a relay pod to become ready", None);
        }
        if is_refused && is_endpoint_pending(model, record) {
            // Genesys Cloud calls the former endpoint until the new one is exposed.
            return Ok(None);
        }
        if is_first && is_refused {
            // The controller applies it again soon.
            return unmet(
                "waiting for every object of the route to be applied: RelayAvailable names the refused one",
                None,
            );
        }
        if is_first && !is_exposed {
            // A watch reports a change of the object, and the controller looks again at the end of the timeout.
            let what = "waiting for the endpoint to be exposed: EndpointExposed names what is missing";
            return unmet(what, None);
        }
        if let Some(secret) = secret
            && !rotation.is_registered(secret)
            && !self.may_sign(input, is_first)
        {
            let what = "waiting for every relay pod to accept the newest signing secret";
            return unmet(what, Some(PROGRESSING));
        }
        // A first registration waits for relays that can answer; an existing one is kept in any case.
        if is_first && !relays.all_live(revisions) {
            let what = "waiting for the relay pods to be ready and to serve the newest routes";
            return unmet(what, Some(PROGRESSING));
        }
        match secret {
            Some(secret) => desired(secret),
            None => desired(&SecretString::default()),
        }
    }

    /// Whether Genesys Cloud may sign with the newest secret: every relay accepts it. A rotation also waits, for a while,
    /// for relays that are starting with the files of before.
    fn may_sign(&self, input: &RegistrationInput<'_>, is_first: bool) -> bool {
        let uid = &input.model.uid;
        if is_first || !input.relays.are_starting() {
            self.states.clear_wait(uid, WaitReason::Starting);
        } else if self.states.waiting_for(uid, WaitReason::Starting) < START_PATIENCE {
            return false;
        }
        input.relays.all_accept(input.revisions.signing.as_deref())
    }

    /// Whether the Service routes to a relay: nodes learn of a ready pod a moment after the API server does, and refuse
    /// connections until then. Where a policy keeps the operator out, it is taken for granted after a while.
    async fn service_routes_to_a_relay(&self, model: &Model) -> bool {
        let service = self.owned.get("Service", &model.namespace, &build::relay_name(&model.name));
        let address = service.and_then(|it| it.data.pointer("/spec/clusterIP")?.as_str()?.parse().ok());
        let Some(address) = address else { return true };
        if self.states.waiting_for(&model.uid, WaitReason::Service) >= SERVICE_PATIENCE {
            return true;
        }
        let (scheme, port) = (build::service::port_name(model), build::service::port(model));
        self.relay_status.answers(address, scheme, port).await
    }

    /// Whether what exposes the Service had the time to lead to a new endpoint.
    fn exposure_is_settled(&self, model: &Model) -> bool {
        if model.served.current.exposure == EndpointExposure::Service {
            return true;
        }
        self.states.waiting_for(&model.uid, WaitReason::Exposure) >= EXPOSURE_PATIENCE
    }

    /// Whether Genesys Cloud is known to call this URL after a reconcile.
    pub fn calls_endpoint(&self, route: &PresenceRoute, url: &str, state: &RegistrationState) -> bool {
        let calls = |record: &RegistrationRecord| record.id().is_some() && record.url() == Some(url);
        match state {
            RegistrationState::Registered { record, .. } => calls(record),
            RegistrationState::Postponed(_) => calls(&RegistrationRecord::read(self.states.status(route))),
            _ => false,
        }
    }

    /// Writes down where a registration may be from now on, and adds the finalizer. `None` where another route has
    /// written down meanwhile that it owns the registration.
    async fn persist(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &CredentialRotation,
        record: RegistrationRecord,
        desired: Desired,
    ) -> Result<Option<Box<CallContext>>, ReconcileError> {
        let RegistrationInput { route, model, .. } = *input;
        let status = desired.status();
        let intended = record.clone().intended(&status, self.is_contested(route));
        if intended != record {
            if let Some(Conflict::Owned(_)) = self.conflict(route, model) {
                return Ok(None);
            }
            self.write_record(route, &intended).await?;
            if !record.knows(&desired.location) {
                self.executor.cache().begin(&model.uid, &desired.location);
            }
        }
        if !intended.is_free() {
            add_finalizer(&self.client, route).await.map_err(kubernetes("add the finalizer"))?;
        }
        let drift = match desired.secret() {
            Some(secret) => self.observe_drift(input, rotation.is_registered(secret)),
            None => Drift::default(),
        };
        Ok(Some(Box::new(CallContext { desired, record: intended, drift })))
    }

    /// The call that has the OAuth client accepted. A route whose client never is can be deleted without any call.
    fn authenticate(
        &self,
        uid: &str,
        desired: &Desired,
    ) -> impl Future<Output = CallResult> + Send + 'static {
        let (executor, uid, desired) = (Arc::clone(&self.executor), uid.to_owned(), desired.clone());
        async move {
            let location = Box::new(desired.location.clone());
            CallResult::Authenticated(location, executor.authenticate(&uid, desired).await)
        }
    }

    /// The call that observes, plans and executes.
    fn ensure(
        &self,
        route: &PresenceRoute,
        uid: &str,
        rotation: &CredentialRotation,
        context: Box<CallContext>,
    ) -> impl Future<Output = CallResult> + Send + 'static {
        let status = context.desired.status();
        let was_good = self.last_report(route).is_some_and(|last| last.status == "True");
        let known = Known {
            id: context.record.id().map(str::to_owned),
            destination: context.record.destination(),
            contested: self.is_contested(route),
            confirmed: context.record.confirms(&status),
            in_order: was_good && context.record.is_in_order(&status),
            secret_registered: context.desired.secret().is_none_or(|secret| rotation.is_registered(secret)),
            secret_drifted: context.drift.is_due,
        };
        let (executor, uid) = (Arc::clone(&self.executor), uid.to_owned());
        async move {
            let outcome = executor.ensure(&uid, context.desired.clone(), &known).await;
            CallResult::Ensured(context, outcome)
        }
    }

    /// Writes down what Genesys Cloud has answered before anything is done because of it.
    async fn handle_result(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &mut CredentialRotation,
        context: CallContext,
        outcome: Outcome,
    ) -> Result<RegistrationState, ReconcileError> {
        let RegistrationInput { route, model, .. } = *input;
        let CallContext { desired, record, drift } = context;
        let (applied, trusted_for) = match outcome {
            Outcome::Failed(failure) => return Ok(RegistrationState::Failed(failure)),
            Outcome::Contested(failure) => {
                self.write_record(route, &record.disowned()).await?;
                return Ok(RegistrationState::Failed(failure));
            }
            Outcome::Postponed(wait) => return Ok(RegistrationState::Postponed(drift.sooner(wait))),
            Outcome::Registered { applied, trusted_for } => (*applied, trusted_for),
        };
        // One that has worked takes the place of one that may not work any more. That it cannot is tried again.
        self.keep_client(model, &record, &desired, Replace::Changed).await?;
        if let Some(secret) = desired.secret()
            && applied.secret_sent
            && !rotation.is_registered(secret)
        {
            let grace = SignedDuration::try_from(self.secret_grace).unwrap_or(SignedDuration::MAX);
            *rotation = rotation.clone().confirm(secret, Timestamp::now(), grace);
            let signing = build::signing_object(model, rotation)?;
            apply::write(&self.client, &self.owned, signing).await?;
        }
        if drift.is_due {
            self.executor.cache().with_secret_drift(&model.uid, |drift| drift.sent(Instant::now()));
        }
        match &applied.change {
            Some(Change::Updated) if drift.is_due => self.report_drift(route, &drift).await,
            Some(change) => self.report_change(route, desired.location.type_, change).await,
            None => {}
        }
        Ok(RegistrationState::Registered {
            record: Box::new(record.registered(&desired, &applied.registration)),
            left: None,
            others: applied.others,
            is_verifiable: applied.is_verifiable,
            integration: match applied.registration {
                ObservedObject::Registration(_) => None,
                ObservedObject::Integration(found) => Some(Box::new(IntegrationReport {
                    state: found.integration.reported_state,
                    unavailable_topics: found.unavailable_topics,
                    differs: applied.differs,
                })),
            },
            trusted_for: drift.sooner(trusted_for),
        })
    }

    /// Applies the result of a call that outlived its reconcile. It is true whatever the spec asks for by now; a failure
    /// is in the cache.
    async fn apply_late_result(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &mut CredentialRotation,
        result: CallResult,
    ) -> Result<(), ReconcileError> {
        let before = RegistrationRecord::read(self.states.status(input.route));
        let record = match result {
            CallResult::Ensured(context, outcome) => {
                match self.handle_result(input, rotation, *context, outcome).await? {
                    RegistrationState::Registered { record, .. } => *record,
                    _ => return Ok(()),
                }
            }
            CallResult::Cleaned(results) => {
                let mut record = before.clone();
                self.drop_removed(&mut record, &results, input.route).await;
                record
            }
            CallResult::Authenticated(location, Ok(())) => before.clone().authenticated(&location),
            CallResult::Authenticated(_, Err(_)) | CallResult::Deregistered(_) => return Ok(()),
        };
        if record != before {
            self.write_record(input.route, &record).await?;
        }
        Ok(())
    }

    /// Removes the route's registrations where the spec no longer wants them. One that cannot be removed stays in the
    /// record and is tried again; nothing else waits for it.
    async fn remove_former(
        &self,
        route: &PresenceRoute,
        state: RegistrationState,
    ) -> Result<RegistrationState, ReconcileError> {
        let RegistrationState::Registered {
            mut record,
            left: None,
            others,
            is_verifiable,
            integration,
            trusted_for,
        } = state
        else {
            return Ok(state);
        };
        let uid = route.uid().unwrap_or_default();
        let named = |location: &RegistrationLocation, failure: Failure| {
            let message = format!("{} could not be removed: {}", former(location), failure.message);
            Failure { message, ..failure }
        };
        let owner = owner(&route.namespace().unwrap_or_default(), &route.name_any());
        let former_locations = record.former.iter().cloned();
        let targets = former_locations.map(|former| CleanupTarget::former(former, &owner));
        let call = self.clean_up(route, targets, record.id()).await?.map(CallResult::Cleaned);
        let failures = match self.calls.start(&key_of(route), &uid, call).await {
            Some(CallResult::Cleaned(results)) => {
                self.drop_removed(&mut record, &results, route).await;
                let failed = |(location, result): Cleaned| Some(named(&location, result.err()?));
                results.into_iter().filter_map(failed).collect()
            }
            // The end of the call triggers a reconcile. Until then the last failures stand.
            _ => {
                let last = |location| {
                    let failure = self.executor.cache().last_removal_failure(&uid, location)?;
                    Some(named(location, Failure { retry_in: Duration::MAX, ..failure }))
                };
                record.former.iter().filter_map(last).collect()
            }
        };
        let left = Failure::joined(failures);
        Ok(RegistrationState::Registered {
            record,
            others,
            is_verifiable,
            integration,
            trusted_for: left.as_ref().map_or(trusted_for, |failure| failure.retry_in.min(trusted_for)),
            left: left.map(|failure| failure.message),
        })
    }

    /// The call that frees these locations, but for the registration to keep.
    async fn clean_up(
        &self,
        route: &PresenceRoute,
        targets: impl IntoIterator<Item = CleanupTarget>,
        keep_id: Option<&str>,
    ) -> Result<BoxFuture<'static, Vec<Cleaned>>, ReconcileError> {
        let namespace = route.namespace().unwrap_or_default();
        let secrets = self.secrets.of(&namespace);
        let routes = self.index.routes();
        let mut accessible = Vec::new();
        let mut cleaned = Vec::new();
        for target in targets {
            // Two routes that began to own the same registration at the same moment may both have it in their records.
            let others = routes.iter().filter_map(|other| other.0.as_ref().ok());
            if conflicts::belongs_to_another(route, &target.location, others) {
                cleaned.push((target.location, Ok(())));
                continue;
            }
            let access = access(&target.location, &secrets).await.map_err(kubernetes("read the Secrets"))?;
            let access = self.access_or_kept(route, &target.location, access);
            accessible.push((target, access));
        }
        let (executor, uid) = (Arc::clone(&self.executor), route.uid().unwrap_or_default());
        let keep_id = keep_id.map(str::to_owned);
        let call = async move {
            for (target, access) in accessible {
                let result = executor.clean_up(&uid, &target, access, keep_id.as_deref()).await;
                cleaned.push((target.location, result));
            }
            cleaned
        };
        Ok(call.boxed())
    }

    /// Takes the locations that are free now out of the record.
    async fn drop_removed(
        &self,
        record: &mut RegistrationRecord,
        cleaned: &[Cleaned],
        route: &PresenceRoute,
    ) {
        for (location, _) in cleaned.iter().filter(|(_, result)| result.is_ok()) {
            record.former.retain(|former| former != location);
            let note = format!("{} is gone", former(location));
            self.events.normal(route, "FormerRegistrationRemoved", &note).await;
        }
    }

    /// The route that owns the same with more right, or has not released it yet.
    pub fn conflict(&self, route: &PresenceRoute, model: &Model) -> Option<Conflict> {
        let routes = self.index.routes();
        let lacks_secrets = !model.secret_problems().is_empty();
        conflicts::conflict(route, lacks_secrets, routes.iter().filter_map(|other| other.0.as_ref().ok()))
    }

    /// Forgets all routes but those that are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.executor.cache().retain(&is_there);
        self.calls.retain(is_there);
    }

    /// Waits for the calls that are running.
    pub async fn drain(&self) {
        self.calls.drain().await;
    }

    async fn write_record(
        &self,
        route: &PresenceRoute,
        record: &RegistrationRecord,
    ) -> Result<(), ReconcileError> {
        let status = PresenceRouteStatus {
            source: Some(record.clone().into_status()),
            ..self.states.status(route).unwrap_or_default()
        };
        self.states.write_status(route, &status).await.map_err(kubernetes("write the status"))
    }

    /// The condition Registered as it was last reported.
    fn last_report(&self, route: &PresenceRoute) -> Option<Condition> {
        let conditions = self.states.status(route).unwrap_or_default().conditions;
        conditions.into_iter().find(|condition| condition.type_ == "Registered")
    }

    fn is_contested(&self, route: &PresenceRoute) -> bool {
        self.last_report(route).is_some_and(|last| last.reason == CONTESTED)
    }

    fn observe_drift(&self, input: &RegistrationInput<'_>, is_registered: bool) -> Drift {
        let RegistrationInput { model, relays, revisions, .. } = *input;
        let pods = relays
            .pods
            .iter()
            .map(|relay| (relay.name.as_str(), relay.report.as_ref().ok().map(|report| report.signatures)));
        // A relay that lags refuses what it should accept, and a disabled registration sends nothing.
        let is_conclusive =
            is_registered && !model.suspended && relays.all_accept(revisions.signing.as_deref());
        self.executor.cache().with_secret_drift(&model.uid, |drift| {
            drift.observe(pods);
            Drift { refused: drift.refused(), is_due: is_conclusive && drift.is_due(Instant::now()) }
        })
    }

    async fn report_drift(&self, route: &PresenceRoute, drift: &Drift) {
        let note = format!(
            "the relays refused {} signatures and accepted none: the signing secret was given to Genesys Cloud again, \
             which is done at most every five minutes. If this goes on, another sender posts to the endpoint, or a proxy \
             changes events on their way",
            drift.refused
        );
        self.events.warning(route, "SecretSentAgain", &note).await;
    }

    async fn report_change(&self, route: &PresenceRoute, type_: SourceType, change: &Change) {
        let (namespace, name) = (route.namespace().unwrap_or_default(), route.name_any());
        let object = noun(type_);
        tracing::info!(%namespace, %name, ?change, "changed the {object} at Genesys Cloud");
        let (reason, note) = match change {
            Change::Created if type_ == SourceType::AmazonEventBridge => {
                ("IntegrationCreated", "created the integration at Genesys Cloud".to_owned())
            }
            Change::Repaired(what) if type_ == SourceType::AmazonEventBridge => {
                ("IntegrationUpdated", format!("updated the integration at Genesys Cloud: {what}"))
            }
            Change::Created => ("RegistrationCreated", "registered at Genesys Cloud".to_owned()),
            Change::Updated => {
                ("RegistrationUpdated", "gave the registration at Genesys Cloud a new secret".to_owned())
            }
            Change::Repaired(what) => {
                ("RegistrationUpdated", format!("updated the registration at Genesys Cloud: {what}"))
            }
            Change::Replaced => {
                ("RegistrationUpdated", "sent the registration to Genesys Cloud anew".to_owned())
            }
            Change::Duplicated { left } => {
                let note = format!(
                    "a new registration was created at Genesys Cloud; the one before, id {left:?}, can be neither changed \
                     nor removed by this API and goes on sending events as it is: remove it at Genesys Cloud"
                );
                return self.events.warning(route, "RegistrationLeft", &note).await;
            }
        };
        self.events.normal(route, reason, &note).await;
    }
}

/// Whether every relay serves another endpoint than the one that Genesys Cloud calls, if it calls one.
fn is_endpoint_pending(model: &Model, record: &RegistrationRecord) -> bool {
    let is_called = matches!(model.source, SourceModel::Webhook(_));
    is_called
        && model.served.phase == EndpointPhase::Registering
        && record.url() != Some(&model.served.current.url)
}

/// What the relays report of the secret that Genesys Cloud signs with.
#[derive(Default)]
struct Drift {
    refused: u64,
    is_due: bool,
}

impl Drift {
    /// The wait, but not longer than a suspicion may stand.
    fn sooner(&self, wait: Duration) -> Duration {
        if self.refused > 0 { wait.min(SUSPICION) } else { wait }
    }
}

/// The secret that Genesys Cloud signs with; `None` for a source whose events are not signed.
fn signing_secret(model: &Model) -> Option<&Result<SecretString, SecretProblem>> {
    match model.source {
        SourceModel::Webhook(_) => model.push_credential.as_ref().map(|credential| &credential.value),
        SourceModel::AmazonEventBridge(_) => None,
    }
}

/// Whether what Genesys Cloud holds is kept by other means.
fn is_external(model: &Model) -> bool {
    desired::spec_of(model).is_external()
}

fn waiting(what: &'static str, check_in: Option<Duration>) -> RegistrationState {
    RegistrationState::Waiting { what, check_in }
}

fn key_of(route: &PresenceRoute) -> RouteKey {
    RouteKey { namespace: route.namespace().unwrap_or_default(), name: route.name_any() }
}

fn former(location: &RegistrationLocation) -> String {
    let RegistrationLocation { type_, name, access, .. } = location;
    format!("the former {} {name:?} at {}", noun(*type_), access.api.api_url)
}

/// How a location's API is called, by what its Secrets hold now.
async fn access<S: SecretSource>(
    location: &RegistrationLocation,
    secrets: &S,
) -> Result<Result<Access, SecretProblem>, S::Error> {
    let RegistrationAccess { api, credentials_secret_ref, ca_secret_ref, .. } = &location.access;
    let client = match oauth_client(secrets, credentials_secret_ref).await? {
        Ok(client) => client,
        Err(problem) => return Ok(Err(problem)),
    };
    let ca_pem = match ca_secret_ref {
        None => None,
        Some(reference) => match ca(secrets, reference).await? {
            Ok(pem) => Some(pem),
            Err(problem) => return Ok(Err(problem)),
        },
    };
    Ok(Ok(Access::new(api.clone(), client.id, client.secret, ca_pem)))
}
