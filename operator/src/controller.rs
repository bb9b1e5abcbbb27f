//! The controller: the steps of a reconcile, and what they share.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared as SharedFuture};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use presenceroute_crds::status::PresenceRouteStatus;
use presenceroute_crds::{GROUP, PresenceRoute};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::admin::Readiness;
use crate::api_server::ApiServerError;
use crate::apply::{self, ApplyError, FIELD_MANAGER};
use crate::cache::ready::{Stopped, unless_stopped};
use crate::cache::{OwnedObjects, RouteIndex, RouteKey, SecretCache};
use crate::leader::LeaderGuard;
use crate::ledger::{Awaited, Ledger};
use crate::metrics::Metrics;
use crate::register::{self, Answer, Failure, Questions, Registrar};
use crate::relay_pods::{DesiredRevisions, RelayPods, RelayStatusClient};
use crate::status::{self, Change, DeploymentFacts, Observed, Parts, RegistrationFacts, RoutingFacts};
use crate::watches::{self, RouteOrInvalid, WatchScope, reference, secrets_of};
use presenceroute_genesys::Genesys;
use presenceroute_manifest::build::{self, BuildError, Installation, signing_secret};
use presenceroute_manifest::conflicts::{self, Rival};
use presenceroute_manifest::dereference::dereference;
use presenceroute_manifest::rotation::CredentialRotation;
use presenceroute_manifest::validate::{Model, validate};

/// Keeps a PresenceRoute until its registration is gone.
pub const FINALIZER: &str = "presenceroute.io/registration";

/// How often a route that is as it should be is looked at although nothing woke it.
const STEADY: Duration = Duration::from_secs(300);
/// How often pods that lag are asked again, and for how long nothing else is done for the route meanwhile.
pub(crate) const LIVE_POLL: Duration = Duration::from_millis(100);
const LIVE_PATIENCE: Duration = Duration::from_secs(3);
/// How soon a route that is on its way is looked at again although nothing woke it.
pub(crate) const PROGRESSING: Duration = Duration::from_secs(1);
/// How soon a route that stands back, or waits for its registration's name, looks whether the other one is gone.
const RIVAL: Duration = Duration::from_secs(15);
/// How soon an object that Kubernetes refused is sent again: nobody tells when a quota is freed or a policy changed.
const REFUSED: Duration = Duration::from_secs(15);
/// How soon the relays are asked again whether the topics that they miss, or may not write to, are theirs now.
const TOPICS: Duration = Duration::from_secs(10);
/// How often what is known of routes that are gone is looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How many routes are built and applied at a time. Waiting, for relays or for Genesys Cloud, is not counted: a route
/// that waits holds up no other.
const AT_WORK: usize = 16;

/// What the operator was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What shows in the objects that it builds.
    pub installation: Installation,
    /// How long an old signing secret is accepted after Genesys Cloud has confirmed the new one.
    pub secret_grace: Duration,
    /// How long after a creation that Genesys Cloud has not answered a registration may still come of it.
    pub late_creation: Duration,
}

/// Why a reconcile could not go through. Every variant is tried again, with backoff.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not answer as hoped.
    #[error("the API server could not {what}: {source}")]
    Kubernetes {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: ApiServerError,
    },
    /// An object could not be written or deleted.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An object could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

pub(crate) fn kubernetes(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |error| ReconcileError::Kubernetes { what, source: error.into() }
}

/// Everything that a reconcile needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    routes: Store<RouteOrInvalid>,
    pub(crate) neighbours: RouteIndex,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) children: Arc<OwnedObjects>,
    /// Resolves when the caches are filled, or when the process is to stop before they are.
    caches_ready: SharedFuture<BoxFuture<'static, Result<(), Stopped>>>,
    pub(crate) relays: RelayStatusClient,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) questions: Questions<Answer>,
    pub(crate) ledger: Ledger,
    recorder: Recorder,
    metrics: Metrics,
    work: Semaphore,
}

/// Why the controller could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server did not answer as hoped.
    #[error("the API server could not be asked for its API groups: {0}")]
    Discovery(kube::Error),
    /// No HTTP client for the relays' status.
    #[error("the HTTP client for the relays' status could not be made: {0}")]
    Http(reqwest::Error),
    /// Nobody asked it to stop, and it serves nothing any more.
    #[error("the controller of {0} has ended without being asked to")]
    Ended(String),
}

/// What all controllers of one process share.
#[derive(Clone)]
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// What the operator was told.
    pub settings: Settings,
    /// Genesys Cloud, with one budget of calls for each OAuth client.
    pub genesys: Genesys,
    /// The routes of all namespaces, so that no two of them claim the same.
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

/// Serves the routes of one namespace, or of all, until `stop` resolves; reconciles that are under way are finished,
/// and what Genesys Cloud was asked is waited for.
pub async fn run(
    shared: Shared,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), ControllerError> {
    let Shared { client, settings, genesys, neighbours, mandate, identity, metrics, readiness } = shared;
    let served =
        namespace.as_ref().map_or_else(|| "all namespaces".into(), |name| format!("namespace {name}"));
    let all_objects = format!("all objects of {served} to be listed");
    readiness.waits_for(&all_objects);
    let stop = stop.shared();
    let discovery = unless_stopped(apply::has_gateway_api(&client), stop.clone()).await;
    let Ok(has_gateway_api) = discovery else { return Ok(()) };
    let has_gateway_api = has_gateway_api.map_err(ControllerError::Discovery)?;
    let scope = WatchScope { client: client.clone(), namespace };
    let watched = watches::routes(&scope, &neighbours);
    let (caches, mut wakers) = watches::caches(&scope, &watched, &neighbours, has_gateway_api);
    let watches::Routes { store: routes, edited, .. } = watched;
    metrics.show_routes(routes.clone());
    let (questions, answered) = Questions::new(mandate.clone());
    wakers.push(answered.map(reference).boxed());
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(identity) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        caches_ready: unless_stopped(caches.ready(), stop.clone()).boxed().shared(),
        relays: RelayStatusClient::new(caches.pods).map_err(ControllerError::Http)?,
        secrets: caches.secrets,
        children: caches.owned_objects,
        registrar: Arc::new(Registrar::new(genesys).with_late_creation(settings.late_creation)),
        questions,
        ledger: Ledger::default(),
        routes: routes.clone(),
        neighbours,
        client,
        settings,
        metrics,
        work: Semaphore::new(AT_WORK),
    });
    let controller = Controller::for_shared_stream(edited, routes)
        .reconcile_on(futures::stream::select_all(wakers))
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
    let keep_house = async {
        // No reconcile acts before the caches are filled, and the watches that fill them end now.
        if context.caches_ready.clone().await.is_err() {
            return;
        }
        readiness.has(&all_objects);
        forget_what_is_gone(&context).await;
    };
    tokio::select! {
        () = controller => {}
        () = keep_house => {}
    }
    if stop.now_or_never().is_none() {
        return Err(ControllerError::Ended(served));
    }
    context.questions.closed().await;
    Ok(())
}

/// One reconcile of a route that is there, or on its way out.
async fn reconcile(guarded: Arc<RouteOrInvalid>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let route = match &guarded.0 {
        Ok(route) => route,
        Err(invalid) => {
            tell_unreadable(&guarded, &invalid.error, &context).await;
            return Ok(Action::await_change());
        }
    };
    if context.caches_ready.clone().await.is_err() {
        return Ok(Action::await_change());
    }
    let started = std::time::Instant::now();
    let result = if route.metadata.deletion_timestamp.is_none() {
        bring_in_line(route, &context).await
    } else if route.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        register::deregister(route, &context).await
    } else {
        Ok(Action::await_change())
    };
    context.metrics.reconciled(started.elapsed(), result.is_err());
    if result.is_ok() {
        context.ledger.succeeded(&route.uid().unwrap_or_default());
    }
    result
}

/// Forgets what is known of routes that are gone, and the content of Secrets that no route names any more, for as long
/// as it is polled. No end of a route is sure to be told: its finalizer may be taken away by hand, or the watch be
/// interrupted when it goes.
async fn forget_what_is_gone(context: &Context) {
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        let routes = context.routes.state();
        let uids: HashSet<_> = routes.iter().filter_map(|route| route.uid()).collect();
        let is_there = |uid: &str| uids.contains(uid);
        context.ledger.retain(is_there);
        context.registrar.retain(is_there);
        context.questions.retain(is_there);
        let named: HashSet<_> =
            routes.iter().filter_map(|route| route.0.as_ref().ok()).flat_map(secrets_of).collect();
        context.secrets.retain(|secret| named.contains(secret));
    }
}

/// The API server would not take such an object today; it was stored under another definition. What it had made goes
/// on as it is.
async fn tell_unreadable(guarded: &RouteOrInvalid, error: &str, context: &Context) {
    let is_held = guarded.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let stays = match guarded.meta().deletion_timestamp {
        Some(_) if is_held => {
            "stays, although it is to be deleted, because its registration could not be found"
        }
        Some(_) => return,
        None => "is left as it is",
    };
    let note = format!(
        "it cannot be read and {stays}: {error}; it was stored under another definition of PresenceRoutes: write it as \
         this one wants it, by kubectl replace"
    );
    if !context.ledger.is_news(&guarded.uid().unwrap_or_default(), &note) {
        return;
    }
    let name = guarded.name_any();
    let namespace = guarded.namespace().unwrap_or_default();
    tracing::warn!(%namespace, %name, error, "a PresenceRoute cannot be read");
    publish(guarded, context, EventType::Warning, "InvalidObject", &note).await;
}

fn error_policy(guarded: Arc<RouteOrInvalid>, _: &ReconcileError, context: Arc<Context>) -> Action {
    Action::requeue(context.ledger.failed(&guarded.uid().unwrap_or_default()))
}

/// The steps: dereference, validate, build, apply, register, status.
async fn bring_in_line(route: &PresenceRoute, context: &Context) -> Result<Action, ReconcileError> {
    let namespace = route.namespace().unwrap_or_default();
    // An error means that the semaphore was closed, which nobody does.
    let at_work = context.work.acquire().await.ok();
    let secrets = context.secrets.of(&namespace);
    let mut references = dereference(&route.spec, &secrets).await.map_err(kubernetes("read the Secrets"))?;
    context.metrics.certificates(route, std::mem::take(&mut references.certificates));
    let mut model = match validate(route, references) {
        Ok(model) => model,
        Err(problems) => {
            let problems = problems.iter().map(ToString::to_string).collect();
            report(route, context, refused(route, problems, context)).await?;
            return Ok(Action::await_change());
        }
    };
    let waits_for_name = match rival(route, context) {
        None => None,
        Some(Rival::Claims(why)) => {
            report(route, context, refused(route, vec![why], context)).await?;
            return Ok(Action::requeue(RIVAL));
        }
        Some(Rival::Leaves(why)) => {
            model.registration.name = format!("{namespace}/{}/{}", model.name, model.uid);
            Some(why)
        }
    };

    let signing = CredentialRotation::read(signing_secret_of(&model, context).as_ref());
    let signing = match &model.signing_secret {
        Ok(secret) => signing.advance(secret, Timestamp::now()),
        Err(_) => signing,
    };
    let wanted = DesiredRevisions {
        routing: model.table.revision().to_owned(),
        signing: signing.revision(),
        log_level: model.relay.log_level.as_str(),
    };
    let objects = build::build(&model, &signing, &context.settings.installation)?;
    // A Deployment that is held back for want of a Secret is not an orphan.
    let held_back: &[&str] =
        if objects.iter().any(|object| is_kind(object, "Deployment")) { &[] } else { &["Deployment"] };
    let key = RouteKey { namespace, name: model.name.clone() };
    let applied = apply::apply(&context.client, &context.children, &key, objects, held_back).await;
    drop(at_work);
    let apply_error = applied.as_ref().err().map(ToString::to_string);
    let mut scene = Scene { model: Arc::new(model), signing, wanted, apply_error, waits_for_name };
    applied.map_err(ReconcileError::from).or_else(|error| {
        // What Kubernetes refuses for good shows in the status; the rest goes on with what there is.
        if matches!(&error, ReconcileError::Apply(error) if error.is_refusal()) { Ok(()) } else { Err(error) }
    })?;

    let Some(relays) = settle(route, &scene, context).await? else {
        return Ok(Action::requeue(LIVE_POLL));
    };
    let registration = register::register(route, &mut scene, &relays, context).await?;
    let action = next_look(&scene, &relays, &registration);
    report(route, context, scene.observed(context, &relays, registration)).await?;
    Ok(action)
}

/// Who is in the way of the route now.
pub(crate) fn rival(route: &PresenceRoute, context: &Context) -> Option<Rival> {
    let others = context.neighbours.routes();
    conflicts::rival(route, others.iter().filter_map(|other| other.0.as_ref().ok()))
}

/// What a reconcile works on between building and reporting.
pub(crate) struct Scene {
    pub(crate) model: Arc<Model>,
    pub(crate) signing: CredentialRotation,
    pub(crate) wanted: DesiredRevisions,
    apply_error: Option<String>,
    /// Why its registration goes by another name than the spec's.
    waits_for_name: Option<String>,
}

fn is_kind(object: &DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == kind)
}

/// As it was written last: the answer to our own write counts before the watch brings it.
fn signing_secret_of(model: &Model, context: &Context) -> Option<Secret> {
    let name = signing_secret::name(&model.name);
    context.children.get("Secret", &model.namespace, &name)?.try_parse().ok()
}

/// Has the relays take up what is new, and tells how they are. Nothing is told for a little while in which they are at
/// it: it takes them half a second. Nobody stays here for it, because the route may be edited meanwhile, or a child
/// damaged.
async fn settle(
    route: &PresenceRoute,
    scene: &Scene,
    context: &Context,
) -> Result<Option<RelayPods>, ReconcileError> {
    let Model { namespace, name, uid, .. } = scene.model.as_ref();
    let relays = context.relays.read(namespace, name).await;
    let none_is_ready = relays.ready().next().is_none();
    if none_is_ready {
        context.ledger.came(uid, Awaited::Service);
    } else {
        relays
            .sync_files(&context.client, namespace, &scene.wanted)
            .await
            .map_err(kubernetes("touch the relay pods"))?;
    }
    // A relay that logs at another level for a moment is live all the same.
    if none_is_ready || relays.all_live(&scene.wanted) {
        context.ledger.came(uid, Awaited::Live);
        return Ok(Some(relays));
    }
    if context.ledger.has_waited(uid, Awaited::Live) >= LIVE_PATIENCE {
        return Ok(Some(relays));
    }
    // Once, while the kubelets are at it, and not again with every pod that has caught up.
    let told = context.ledger.status(route).unwrap_or_default();
    if !status::is_progressing(&told, route.meta().generation, &scene.wanted.routing) {
        let registration = RegistrationFacts::Unchanged;
        report(route, context, scene.observed(context, &relays, registration)).await?;
    }
    Ok(None)
}

/// When to look again although nothing wakes the route.
fn next_look(scene: &Scene, relays: &RelayPods, registration: &RegistrationFacts) -> Action {
    // Without the secret that is wanted, nothing is retired, however late it is.
    let retire_at = scene.signing.retire_at().filter(|_| scene.model.signing_secret.is_ok());
    let retire = retire_at.map(|time| {
        Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO) + LIVE_POLL
    });
    let retry = match registration {
        RegistrationFacts::Failed(Failure { retry_in, .. }) => Some(*retry_in),
        RegistrationFacts::Waiting { look_in, .. } => *look_in,
        // Without the secret that is wanted there is nothing to wait for but the secret, which wakes the route.
        RegistrationFacts::Unchanged => scene.model.signing_secret.is_ok().then_some(PROGRESSING),
        RegistrationFacts::Registered { trusted_for: wait, .. } | RegistrationFacts::Postponed(wait) => {
            Some(*wait)
        }
        RegistrationFacts::Asked { .. } => None,
    };
    let lagging = (relays.ready().next().is_some() && !relays.all_live(&scene.wanted)).then_some(PROGRESSING);
    let are_reachable = relays.missing_topics().is_empty() && relays.forbidden_topics().is_empty();
    let topics = (!are_reachable).then_some(TOPICS);
    let rival = scene.waits_for_name.as_ref().map(|_| RIVAL);
    let refused = scene.apply_error.as_ref().map(|_| REFUSED);
    let soonest = [retire, retry, lagging, topics, rival, refused].into_iter().flatten().min();
    Action::requeue(soonest.unwrap_or(STEADY))
}

impl Scene {
    fn observed(&self, context: &Context, relays: &RelayPods, registration: RegistrationFacts) -> Observed {
        let model = &self.model;
        let distributed = relays.all_accept(&self.wanted.signing);
        let phase = match &model.signing_secret {
            Ok(secret) => self.signing.phase(secret, distributed),
            Err(_) => presenceroute_crds::status::SigningPhase::Stable,
        };
        Observed::Legal(Box::new(Parts {
            secret_problems: model.secret_problems().into_iter().cloned().collect(),
            apply_error: self.apply_error.clone(),
            deployment: deployment_facts(&model.namespace, &model.name, context),
            selector: build::selector_text(&model.name),
            routing: RoutingFacts {
                revision: self.wanted.routing.clone(),
                routes: model.table.routes().len(),
                live: relays.live(&self.wanted),
                ready: relays.ready().count(),
                lagging: relays.lagging(&self.wanted),
                missing_topics: relays.missing_topics(),
                forbidden_topics: relays.forbidden_topics(),
                kafka_errors: relays.kafka_errors(),
            },
            signing: status::signing(self.signing.revision(), phase, self.signing.retire_at()),
            relay_version: relays.version(),
            registration,
            waits_for_name: self.waits_for_name.clone(),
            suspended: !model.registration.enabled,
        }))
    }
}

fn refused(route: &PresenceRoute, problems: Vec<String>, context: &Context) -> Observed {
    let namespace = route.namespace().unwrap_or_default();
    let deployment = deployment_facts(&namespace, &route.name_any(), context);
    Observed::Refused { problems, deployment }
}

fn deployment_facts(namespace: &str, route: &str, context: &Context) -> Option<DeploymentFacts> {
    let live = context.children.get("Deployment", namespace, &build::relay_name(route))?;
    let deployment: Deployment = live.try_parse().ok()?;
    let status = deployment.status.unwrap_or_default();
    Some(DeploymentFacts {
        wanted: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        replicas: status.replicas.unwrap_or(0),
        ready: status.ready_replicas.unwrap_or(0),
    })
}

/// Writes the status when it says something new, and tells of what changed by events.
async fn report(route: &PresenceRoute, context: &Context, observed: Observed) -> Result<(), ReconcileError> {
    let previous = context.ledger.status(route);
    let current = status::build(previous.as_ref(), route.meta().generation, observed, Timestamp::now());
    if previous.as_ref() == Some(&current) {
        return Ok(());
    }
    write_status(route, context, &current).await?;
    for Change { condition, is_alarming } in status::changes(previous.as_ref(), &current) {
        let severity = if is_alarming { EventType::Warning } else { EventType::Normal };
        let note = format!("{}: {}", condition.type_, condition.message);
        publish(route, context, severity, &condition.reason, &note).await;
    }
    Ok(())
}

pub(crate) async fn write_status(
    route: &PresenceRoute,
    context: &Context,
    current: &PresenceRouteStatus,
) -> Result<(), ReconcileError> {
    let api: Api<PresenceRoute> =
        Api::namespaced(context.client.clone(), &route.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": PresenceRoute::api_version(&()),
        "kind": PresenceRoute::kind(&()),
        // Another one of that name may have been made meanwhile.
        "metadata": {"uid": route.uid()},
        "status": current,
    });
    match api
        .patch_status(&route.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
        .await
    {
        Ok(answer) => {
            context.ledger.wrote(&answer);
            Ok(())
        }
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(kubernetes("write the status")(source)),
    }
}

/// An event is news for people; that it cannot be written must not stop the work.
pub(crate) async fn publish(
    object: &impl Resource<DynamicType = ()>,
    context: &Context,
    type_: EventType,
    reason: &str,
    note: &str,
) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        // The API server refuses more than 1 kB.
        note: Some(cut(note, 1000)),
        // What is told again is counted on the event that is there. The recorder knows it again by its action and not
        // by its note, which would show the first of several revisions for all of them.
        action: cut(note, 128),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, reason, "an event could not be written");
    }
}

/// The beginning of a text, of at most so many bytes.
fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// Says whether the API server knows PresenceRoutes, which it does a moment after the definition was created.
pub async fn definition_exists(client: &Client) -> Result<bool, kube::Error> {
    let group_version = format!("{GROUP}/{}", PresenceRoute::version(&()));
    match client.list_api_group_resources(&group_version).await {
        Ok(resources) => Ok(resources.resources.iter().any(|found| found.kind == PresenceRoute::kind(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
