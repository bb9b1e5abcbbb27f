//! The controller: the steps of a reconcile, in their order, and when the next one is due.
//!
//! dereference → validate → build → apply → sync_relays → registration → status → requeue_after. Each step is a module of
//! its own; what they share is in [`Context`].

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::{Action, Controller};
use kube::{Client, Resource, ResourceExt};
use presenceroute_core::condition::ConditionChecks;
use presenceroute_crds::status::{EndpointPhase, EndpointStatus};
use presenceroute_crds::{GROUP, PresenceRoute, PresenceRouteStatus};
use presenceroute_genesys::Genesys;
use presenceroute_manifest::build::{self, BuildError};
use presenceroute_manifest::conflicts::Conflict;
use presenceroute_manifest::dereference::{SecretSource, dereference};
use presenceroute_manifest::endpoint_change;
use presenceroute_manifest::rotation::{CredentialRotation, secret_name};
use presenceroute_manifest::validate::{Model, SourceModel, validate_with};

use crate::admin::Readiness;
use crate::apply;
use crate::cache::ready::unless_stopped;
use crate::cache::{RouteIndex, RouteKey, RouteOrInvalid};
use crate::condition_compiler::ConditionCompiler;
use crate::context::Context;
pub use crate::context::Settings;
use crate::error::{ReconcileError, kubernetes};
use crate::events::EventRecorder;
use crate::exposure::{Exposure, ExposureJudge, Past, Report};
use crate::finalizer::has_finalizer;
use crate::leader::LeaderGuard;
use crate::metrics::Metrics;
use crate::namespace_limits::NamespaceLimits;
use crate::reconcile_state::{ReconcileState, deployment};
use crate::registration::execute::Executor;
use crate::registration::failure::Failure;
use crate::registration::in_flight::InFlightCalls;
use crate::registration::record::RegistrationRecord;
use crate::registration::{ApiKeyStep, Deletion, RegistrationInput, RegistrationState, Registrations};
use crate::relay_pods::{DesiredRevisions, RelayPods, RelayStatusAccess, RelayStatusClient};
use crate::route_state::{RouteStates, WaitReason};
use crate::status::conditions::{Delays, Observed, RefusalReason, is_progressing};
use crate::watches::{self, WatchScope, reference, secrets_of};

/// How often a route that is as it should be is reconciled although no watch triggers it.
const STEADY: Duration = Duration::from_secs(300);
/// How often relay pods that are not live are asked again, and for how long no other step is taken meanwhile.
const LIVE_POLL: Duration = Duration::from_millis(100);
const LIVE_PATIENCE: Duration = Duration::from_secs(3);
/// How soon a route on its way is reconciled again although no watch triggers it.
const PROGRESSING: Duration = Duration::from_secs(1);
/// How soon a route that conflicts with another, or waits for its registration's name, checks whether the other is gone.
const CONFLICT: Duration = Duration::from_secs(15);
/// How soon an object that Kubernetes refused is applied again: no watch reports that a quota is freed or a policy
/// changed.
const REFUSED: Duration = Duration::from_secs(15);
/// How soon relay pods that are not ready, or not replaced, are asked why: at first, and when that has lasted for long.
const DELAYED: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(30));
/// How soon the relays are asked again whether topics that were missing or forbidden are usable.
const TOPICS: Duration = Duration::from_secs(10);
/// How long a former endpoint of an API destination is served: a person gives the API destination in AWS the new one, and
/// Amazon EventBridge retries for up to a day.
const API_DESTINATION_GRACE: SignedDuration = SignedDuration::from_hours(24);
/// How soon the relays are asked again whether AWS sends the newest API key.
const API_KEY: Duration = Duration::from_secs(15);
/// How often the state of routes that are gone is dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How many routes are built and applied at a time, of all namespaces and of one.
const WORKERS: usize = 16;
const WORKERS_OF_NAMESPACE: usize = 12;

/// Why the controller could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server failed.
    #[error("the API server could not be asked for its API groups: {0}")]
    Discovery(kube::Error),
    /// No HTTP client for the relays' status.
    #[error("the HTTP client for the relays' status could not be made: {0}")]
    Http(reqwest::Error),
    /// It ended although it was not asked to.
    #[error("the controller of {0} has ended without being asked to")]
    Ended(String),
}

/// What all controllers of one process share.
#[derive(Clone)]
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// How the operator was configured.
    pub settings: Settings,
    /// Genesys Cloud, with one budget of calls for each OAuth client.
    pub genesys: Genesys,
    /// What compiles the routes' conditions.
    pub conditions: Arc<ConditionCompiler>,
    /// The routes of all namespaces, so that no two of them own the same.
    pub neighbours: RouteIndex,
    /// Under which reconciles, and calls to Genesys Cloud, are carried out.
    pub mandate: LeaderGuard,
    /// The operator's name in the events that it writes.
    pub identity: String,
    /// The operator's own metrics.
    pub metrics: Metrics,
    /// What the process waits for before it can do its work.
    pub readiness: Readiness,
}

/// Serves the routes of one namespace, or of all, until `stop` resolves; reconciles and calls that are running are
/// finished.
///
/// # Errors
/// It could not start, or ended although it was not asked to.
pub async fn run(
    shared: Shared,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), ControllerError> {
    let Shared {
        client,
        settings,
        genesys,
        conditions,
        neighbours: index,
        mandate,
        identity,
        metrics,
        readiness,
    } = shared;
    let served =
        namespace.as_ref().map_or_else(|| "all namespaces".into(), |name| format!("namespace {name}"));
    let all_objects = format!("all objects of {served} to be listed");
    readiness.waits_for(&all_objects);
    let stop = stop.shared();
    let discovery = unless_stopped(apply::has_gateway_api(&client), stop.clone()).await;
    let Ok(has_gateway_api) = discovery else { return Ok(()) };
    let has_gateway_api = has_gateway_api.map_err(ControllerError::Discovery)?;
    let scope = WatchScope { client: client.clone(), namespace };
    let watched = watches::routes(&scope, &index, settings.relay_defaults.clone());
    let (caches, triggers) = watches::caches(&scope, &watched, &index, has_gateway_api);
    let watches::Routes { store: routes, edited, .. } = watched;
    metrics.show_routes(routes.clone());
    let caches_ready = unless_stopped(caches.ready(), stop.clone()).boxed().shared();
    let (calls, ended) = InFlightCalls::new(mandate.clone());
    let through_api_server = settings.relay_status == RelayStatusAccess::ApiServer;
    let api_server = through_api_server.then(|| client.clone());
    let relay_status = RelayStatusClient::new(caches.pods, api_server).map_err(ControllerError::Http)?;
    let states = Arc::new(RouteStates::new(client.clone()));
    let events = Arc::new(EventRecorder::new(client.clone(), identity));
    let registrations = Registrations {
        client: client.clone(),
        executor: Arc::new(Executor::new(genesys, settings.create_timeout)),
        calls,
        states: Arc::clone(&states),
        events: Arc::clone(&events),
        conditions: Arc::clone(&conditions),
        secrets: Arc::clone(&caches.secrets),
        owned: Arc::clone(&caches.owned_objects),
        index: index.clone(),
        relay_status: relay_status.clone(),
        secret_grace: settings.secret_grace,
    };
    let context = Arc::new(Context {
        client,
        exposures: ExposureJudge::new(settings.exposure_timeout),
        settings,
        routes: routes.clone(),
        conditions,
        secrets: caches.secrets,
        owned: caches.owned_objects,
        caches_ready,
        relay_status,
        registrations,
        states,
        events,
        metrics,
        workers: NamespaceLimits::new(WORKERS, WORKERS_OF_NAMESPACE),
    });
    let controller = Controller::for_shared_stream(edited, routes)
        .reconcile_on(futures::stream::select(triggers, ended.map(reference)))
        .graceful_shutdown_on(stop.clone())
        .run(
            move |route, context| {
                let mandate = mandate.clone();
                async move { mandate.run_while_leading(reconcile(route, context)).await }
            },
            error_policy,
            Arc::clone(&context),
        )
        .for_each(async |result| match result {
            Ok((route, _)) => tracing::debug!(route = %route, "reconciled"),
            Err(kube::runtime::controller::Error::ObjectNotFound(_)) => {}
            Err(error) => tracing::warn!(%error, "reconcile failed; it is tried again"),
        });
    let housekeeping = async {
        // No reconcile acts before the caches are filled, and the watches that fill them end now.
        if context.caches_ready.clone().await.is_err() {
            return;
        }
        readiness.has(&all_objects);
        housekeeping(&context).await;
    };
    tokio::select! {
        () = controller => {}
        () = housekeeping => {}
    }
    if stop.now_or_never().is_none() {
        return Err(ControllerError::Ended(served));
    }
    context.registrations.drain().await;
    Ok(())
}

/// One reconcile of a route that is there, or being deleted.
async fn reconcile(object: Arc<RouteOrInvalid>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let route = match &object.0 {
        Ok(route) => route,
        Err(invalid) => {
            Box::pin(report_invalid_object(&object, &invalid.error, &context)).await;
            return Ok(Action::await_change());
        }
    };
    if context.caches_ready.clone().await.is_err() {
        return Ok(Action::await_change());
    }
    let started = std::time::Instant::now();
    let result = if route.metadata.deletion_timestamp.is_none() {
        reconcile_route(route, &context).await
    } else if has_finalizer(route) {
        Box::pin(delete_route(route, &context)).await
    } else {
        Ok(Action::await_change())
    };
    context.metrics.reconciled(started.elapsed(), result.is_err());
    if result.is_ok() {
        context.states.succeeded(&route.uid().unwrap_or_default());
    }
    result
}

/// The steps. What they take is on the heap, and not before their turn: all routes wait for it at once after a start.
async fn reconcile_route(route: &PresenceRoute, context: &Context) -> Result<Action, ReconcileError> {
    let namespace = route.namespace().unwrap_or_default();
    let checks = context.conditions.compile(&namespace, &route.spec).await;
    let worker = context.workers.acquire(&namespace).await;
    let built = Box::pin(build_and_apply(route, checks, context)).await?;
    drop(worker);
    match built {
        ControlFlow::Continue(built) => Box::pin(register_and_report(route, *built, context)).await,
        ControlFlow::Break(action) => Ok(action),
    }
}

/// A valid route whose objects were applied, as far as Kubernetes took them.
struct Built {
    state: ReconcileState,
    /// Of the configuration that its pods are to be started with.
    config_hash: String,
}

/// The steps up to `apply`. A route that is refused is reported, and nothing else is done for it.
async fn build_and_apply(
    route: &PresenceRoute,
    checks: &ConditionChecks,
    context: &Context,
) -> Result<ControlFlow<Action, Box<Built>>, ReconcileError> {
    let namespace = route.namespace().unwrap_or_default();
    let secrets = context.secrets.of(&namespace);
    let mut references = dereference(&route.spec, &secrets).await.map_err(kubernetes("read the Secrets"))?;
    context.metrics.certificates(route, std::mem::take(&mut references.certificates));

    let mut model = match validate_with(route, references, checks) {
        Ok(model) => model,
        Err(problems) => {
            report_refused(route, context, RefusalReason::Invalid, &problems).await?;
            return Ok(ControlFlow::Break(Action::await_change()));
        }
    };
    let violations = context.settings.policy.check(route, &context.settings.relay_defaults);
    if !violations.is_empty() {
        report_refused(route, context, RefusalReason::PolicyViolation, &violations).await?;
        return Ok(ControlFlow::Break(Action::await_change()));
    }
    let name_pending = match context.registrations.conflict(route, &model) {
        None => None,
        Some(Conflict::Owned(why)) => {
            report_refused(route, context, RefusalReason::Invalid, &[why]).await?;
            return Ok(ControlFlow::Break(Action::requeue(CONFLICT)));
        }
        Some(Conflict::PendingRelease(why)) => {
            // An event source can have no other name meanwhile: what is made in AWS goes by it.
            if let SourceModel::Webhook(webhook) = &mut model.source {
                webhook.registration.name = format!("{namespace}/{}/{}", model.name, model.uid);
            }
            Some(why)
        }
    };

    serve(route, &mut model, context).await?;
    let rotation = rotation(&model, context);
    let revisions = DesiredRevisions {
        routing: model.table.revision().to_owned(),
        signing: model.push_credential.as_ref().map(|_| rotation.revision()),
        log_level: model.relay.log_level().as_str(),
    };
    let objects = build::build(&model, &rotation, &context.settings.installation)?;
    let key = RouteKey { namespace, name: model.name.clone() };
    let (held_back, config_hash) = (objects.held_back.clone(), objects.config_hash());
    let mut objects = objects.into_apply_order().map_err(BuildError::from)?;
    let clients = context.registrations.kept_clients(&key.namespace, &key.name);
    objects.extend(build::kept_clients_object(&model, &clients).map_err(BuildError::from)?);
    let applied = apply::apply(&context.client, &context.owned, &key, objects, &held_back).await;
    // What Kubernetes refuses for good is in the status; the other steps go on with what there is.
    let apply_error = apply::refusal_of(applied)?;
    let delays = delays(&model, context);
    let exposure = exposure(route, &model, context);
    let state = ReconcileState { model, rotation, revisions, apply_error, exposure, delays, name_pending };
    Ok(ControlFlow::Continue(Box::new(Built { state, config_hash })))
}

/// The steps from `sync_relays` on, which wait for others than the API server.
async fn register_and_report(
    route: &PresenceRoute,
    Built { mut state, config_hash }: Built,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let Some(relays) = sync_relays(route, &state, context).await? else {
        return Ok(Action::requeue(LIVE_POLL));
    };
    let is_refused = state.apply_error.is_some();
    if state.model.served.phase == EndpointPhase::Distributing
        && context.relay_status.all_run(&state.model.namespace, &state.model.name, &config_hash)
    {
        let served = endpoint_change::distributed(state.model.served);
        write_endpoint(route, served, context).await?;
        // What exposes the new endpoint may be built only now.
        return Ok(Action::requeue(Duration::ZERO));
    }
    let ReconcileState { model, revisions, rotation, exposure, name_pending, .. } = &mut state;
    let input = RegistrationInput {
        route,
        model,
        relays: &relays,
        revisions,
        is_refused,
        is_exposed: exposure.as_ref().is_none_or(|exposure| exposure.is_exposed),
        is_name_pending: name_pending.is_some() && matches!(model.source, SourceModel::AmazonEventBridge(_)),
    };
    let registration = context.registrations.reconcile(&input, rotation).await?;
    let api_key = context.registrations.follow_api_key(&input, rotation).await?;
    if context.registrations.calls_endpoint(route, &model.served.current.url, &registration) {
        let grace = SignedDuration::try_from(context.settings.secret_grace).unwrap_or(SignedDuration::MAX);
        model.served = endpoint_change::registered(model.served.clone(), Timestamp::now(), grace);
    }
    if let SourceModel::AmazonEventBridge(_) = model.source {
        model.served =
            endpoint_change::registered(model.served.clone(), Timestamp::now(), API_DESTINATION_GRACE);
    }
    let action = requeue_after(&state, &relays, &registration, api_key);
    let facts = state.facts(&context.owned, &relays, registration, api_key);
    context.status().report(route, facts).await?;
    Ok(action)
}

/// Has the model serve the endpoints that Genesys Cloud may still call beside the one of the spec. What is new of that is
/// in the status before an object is built of it.
async fn serve(route: &PresenceRoute, model: &mut Model, context: &Context) -> Result<(), ReconcileError> {
    if model.endpoint.is_none() {
        return Ok(());
    }
    let status = context.states.status(route).unwrap_or_default();
    let registration = status.registration().filter(|registration| !registration.unauthenticated);
    let stored = status.endpoint.as_ref();
    let registered_url = match model.source {
        SourceModel::Webhook(_) => registration.map(|registration| registration.spec.url.as_str()),
        // What an API destination calls, its owner in AWS knows: it may be any that was served.
        SourceModel::AmazonEventBridge(_) => stored.map(|stored| stored.current.url.as_str()),
    };
    let wanted = model.served.current.clone();
    let served = endpoint_change::plan(stored, registered_url, wanted, Timestamp::now());
    if !served.former.is_empty() && stored != Some(&served) {
        write_endpoint(route, served.clone(), context).await?;
    }
    let mut can_encrypt = true;
    let secrets = context.secrets.of(&model.namespace);
    for former in &served.former {
        if let Some(secret) = &former.endpoint.certificate_secret_name {
            can_encrypt &= secrets.secret(secret).await.map_err(kubernetes("read the Secrets"))?.is_some();
        }
    }
    model.serve(served, registered_url, can_encrypt);
    Ok(())
}

async fn write_endpoint(
    route: &PresenceRoute,
    endpoint: EndpointStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    let status =
        PresenceRouteStatus { endpoint: Some(endpoint), ..context.states.status(route).unwrap_or_default() };
    context.states.write_status(route, &status).await.map_err(kubernetes("write the status"))
}

async fn delete_route(route: &PresenceRoute, context: &Context) -> Result<Action, ReconcileError> {
    match context.registrations.delete(route).await? {
        Deletion::Done | Deletion::Pending => Ok(Action::await_change()),
        Deletion::Blocked(failure) => {
            context.status().report_blocked_deletion(route, &failure).await?;
            Ok(Action::requeue(failure.retry_in))
        }
    }
}

/// The rotation as it was written last, one step on: the answer to our own write counts before the watch brings it.
fn rotation(model: &Model, context: &Context) -> CredentialRotation {
    let name = secret_name(&model.name);
    let stored = context.owned.get("Secret", &model.namespace, &name);
    let stored: Option<Secret> = stored.and_then(|object| object.try_parse().ok());
    let rotation = CredentialRotation::read(stored.as_ref());
    match model.push_credential.as_ref().map(|credential| &credential.value) {
        Some(Ok(secret)) => rotation.advance(secret, Timestamp::now()),
        Some(Err(_)) | None => rotation,
    }
}

/// Since when the relay pods have not been as they should be.
fn delays(Model { namespace, name, uid, .. }: &Model, context: &Context) -> Delays {
    let deployment = deployment(&context.owned, namespace, name).unwrap_or_default();
    let none_is_ready = deployment.wanted > 0 && deployment.ready == 0;
    Delays {
        none_ready: context.states.waits(uid, WaitReason::Available, none_is_ready),
        rollout: context.states.waits(uid, WaitReason::Rollout, deployment.outdated > 0),
    }
}

/// How far the endpoint is exposed, where there is one.
fn exposure(route: &PresenceRoute, model: &Model, context: &Context) -> Option<Exposure> {
    let report = Report::read(model, model.endpoint.as_ref()?, &context.owned);
    let waited = context.states.waits(&model.uid, WaitReason::Address, report.lacks_address());
    let status = context.states.status(route).unwrap_or_default();
    let past = Past {
        waited: waited.unwrap_or_default(),
        is_registered: RegistrationRecord::read(Some(status.clone())).id().is_some(),
        condition: status.conditions.iter().find(|condition| condition.type_ == "EndpointExposed"),
    };
    Some(context.exposures.judge(report, past))
}

/// Has the relay pods take up what is new, and returns how they are. `None` for the moment in which they are at it,
/// about half a second: the reconcile ends, because the route may be edited meanwhile, or an owned object damaged.
async fn sync_relays(
    route: &PresenceRoute,
    state: &ReconcileState,
    context: &Context,
) -> Result<Option<RelayPods>, ReconcileError> {
    let Model { namespace, name, uid, .. } = &state.model;
    let relays = context.relay_status.read(namespace, name).await;
    let none_is_ready = relays.ready().next().is_none();
    if none_is_ready {
        context.states.clear_wait(uid, WaitReason::Service);
    } else {
        relays
            .sync_files(&context.client, namespace, &state.revisions)
            .await
            .map_err(kubernetes("touch the relay pods"))?;
    }
    // A relay that logs at another level for a moment is live all the same.
    if none_is_ready || relays.all_live(&state.revisions) {
        context.states.clear_wait(uid, WaitReason::Live);
        return Ok(Some(relays));
    }
    if context.states.waiting_for(uid, WaitReason::Live) >= LIVE_PATIENCE {
        return Ok(Some(relays));
    }
    // Once, while the kubelets are at it, and not again with every pod that has caught up.
    let reported = context.states.status(route).unwrap_or_default();
    if !is_progressing(&reported, route.meta().generation, &state.revisions.routing) {
        let facts = state.facts(&context.owned, &relays, RegistrationState::Unchanged, None);
        context.status().report(route, facts).await?;
    }
    Ok(None)
}

/// When to reconcile again although no watch triggers it.
fn requeue_after(
    state: &ReconcileState,
    relays: &RelayPods,
    registration: &RegistrationState,
    api_key: Option<ApiKeyStep>,
) -> Action {
    let credential = state.model.push_credential.as_ref();
    let lacks_credential = credential.is_some_and(|credential| credential.value.is_err());
    // Without the secret that is wanted, none is retired, however late it is.
    let retire_at = state.rotation.retire_at().filter(|_| !lacks_credential);
    let retire = retire_at.map(|time| {
        Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO) + LIVE_POLL
    });
    let retire_endpoint = endpoint_change::retire_at(&state.model.served).map(|time| {
        Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default() + LIVE_POLL
    });
    let registration = match registration {
        RegistrationState::Failed(Failure { retry_in, .. })
        | RegistrationState::Unverified(Failure { retry_in, .. }) => Some(*retry_in),
        RegistrationState::Waiting { check_in, .. } => *check_in,
        // Without the secret that is wanted, the Secret's own watch triggers the route.
        RegistrationState::Unchanged => (!lacks_credential).then_some(PROGRESSING),
        RegistrationState::Registered { trusted_for: wait, .. } | RegistrationState::Postponed(wait) => {
            Some(*wait)
        }
        RegistrationState::Pending { .. } => None,
    };
    let lagging =
        (relays.ready().next().is_some() && !relays.all_live(&state.revisions)).then_some(PROGRESSING);
    let delay = state.delays.none_ready.max(state.delays.rollout);
    let delayed = delay.map(|delay| (delay / 2).clamp(DELAYED.0, DELAYED.1));
    let are_reachable = relays.missing_topics().is_empty() && relays.forbidden_topics().is_empty();
    let topics = (!are_reachable).then_some(TOPICS);
    let conflict = state.name_pending.as_ref().map(|_| CONFLICT);
    let refused = state.apply_error.as_ref().map(|_| REFUSED);
    let address = state.exposure.as_ref().and_then(|exposure| exposure.check_in);
    let api_key = match api_key {
        Some(ApiKeyStep::Distributing) => Some(PROGRESSING),
        Some(ApiKeyStep::AwaitedFromAws) => Some(API_KEY),
        Some(ApiKeyStep::InUse) | None => None,
    };
    let soonest = [
        retire,
        retire_endpoint,
        registration,
        api_key,
        lagging,
        delayed,
        topics,
        conflict,
        refused,
        address,
    ]
    .into_iter()
    .flatten()
    .min();
    Action::requeue(soonest.unwrap_or(STEADY))
}

/// Reports a spec that is not carried out. What the last one made that was is kept.
async fn report_refused(
    route: &PresenceRoute,
    context: &Context,
    reason: RefusalReason,
    problems: &[impl ToString],
) -> Result<(), ReconcileError> {
    let problems = problems.iter().map(ToString::to_string).collect();
    let namespace = route.namespace().unwrap_or_default();
    let deployment = deployment(&context.owned, &namespace, &route.name_any());
    context.status().report(route, Observed::Refused { reason, problems, deployment }).await
}

/// The API server would not take such an object today: it was stored under another CRD. What it had made is kept.
async fn report_invalid_object(object: &RouteOrInvalid, error: &str, context: &Context) {
    let fate = match object.meta().deletion_timestamp {
        Some(_) if has_finalizer(object) => {
            "stays, although it is being deleted, because its registration cannot be found"
        }
        Some(_) => return,
        None => "is left as it is",
    };
    let note = format!(
        "it cannot be read and {fate}: {error}; it was stored under another CRD: write it in the current schema with \
         kubectl replace"
    );
    if !context.states.changed(&object.uid().unwrap_or_default(), &note) {
        return;
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    tracing::warn!(%namespace, %name, error, "cannot read a PresenceRoute");
    context.events.warning(object, "InvalidObject", &note).await;
}

fn error_policy(object: Arc<RouteOrInvalid>, _: &ReconcileError, context: Arc<Context>) -> Action {
    Action::requeue(context.states.failed(&object.uid().unwrap_or_default()))
}

/// Drops the state of routes that are gone, and the content of Secrets that no route names, and lets go of the Secrets
/// that only such a route needed, for as long as it is polled.
/// No event is sure to report that a route is gone: its finalizer may be removed by hand, or the watch be interrupted.
async fn housekeeping(context: &Context) {
    loop {
        let routes = context.routes.state();
        let is_needed = |uid: &str| {
            routes.iter().any(|route| has_finalizer(&**route) && route.uid().as_deref() == Some(uid))
        };
        context.registrations.release_unneeded_clients(is_needed).await;
        tokio::time::sleep(HOUSEKEEPING).await;
        let routes = context.routes.state();
        let uids: HashSet<_> = routes.iter().filter_map(|route| route.uid()).collect();
        let is_there = |uid: &str| uids.contains(uid);
        context.states.retain(is_there);
        context.registrations.retain(is_there);
        let named: HashSet<_> =
            routes.iter().filter_map(|route| route.0.as_ref().ok()).flat_map(secrets_of).collect();
        context.secrets.retain(|secret| named.contains(secret));
    }
}

/// Whether the API server serves PresenceRoutes, which it does a moment after their CRD was created.
///
/// # Errors
/// The API server's.
pub async fn definition_exists(client: &Client) -> Result<bool, kube::Error> {
    let group_version = format!("{GROUP}/{}", PresenceRoute::version(&()));
    match client.list_api_group_resources(&group_version).await {
        Ok(resources) => Ok(resources.resources.iter().any(|found| found.kind == PresenceRoute::kind(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_that_waits_for_its_turn_takes_little_memory() {
        fn future_size<A, B, F>(_: fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = future_size(reconcile);
        assert!(bytes <= 2048, "{bytes} bytes");
    }
}
