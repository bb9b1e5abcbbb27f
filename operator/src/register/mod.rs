//! The fifth step: Genesys Cloud is made to hold exactly one registration for the route, as the spec asks for it. And
//! the last one of all: when the object is deleted, none.
//!
//! Where a registration is, or may be, is in the status before the first call that could make it ([`place`]), and the
//! finalizer is on the object; then Genesys Cloud is asked ([`registrar`]), by a reconcile that does not wait long for
//! the answer ([`questions`]). Whenever the operator dies in between, the next one finds what there is. Which secret
//! Genesys Cloud signs with is told by the relays ([`secret_drift`]).

pub mod place;
pub mod questions;
pub mod registrar;
pub mod secret_drift;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use presenceroute_core::genesys_api::ApiEndpoint;
use presenceroute_crds::spec::DeletionPolicy;
use presenceroute_crds::status::{RegistrationLocation, RegistrationStatus};
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};
use secrecy::SecretString;
use serde_json::json;

use crate::apply::{self, FIELD_MANAGER};
use crate::children::RouteKey;
use crate::controller::{
    Context, FINALIZER, LIVE_POLL, PROGRESSING, ReconcileError, Scene, kubernetes, publish, rival,
    write_status,
};
use crate::ledger::Awaited;
use crate::relays::Relays;
use crate::status::{self, RegistrationFacts};
use presenceroute_genesys::Access;
use presenceroute_manifest::build;
use presenceroute_manifest::conflicts::{self, Conflict};
use presenceroute_manifest::dereference::{SecretProblem, SecretSource, ca, dereference, oauth_client};
use presenceroute_manifest::validate::{Model, SourceModel, validate};

pub use place::{Place, Record};
pub use questions::Questions;
pub use registrar::{Change, Failure, Known, LATE_CREATION, Outcome, Registrar, Spare};

/// What [`presenceroute_genesys::GenesysError::Contested`] is called in a condition.
const CONTESTED: &str = "Contested";
/// How long a first registration waits for the Service to lead to a relay.
const SERVICE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a rotation waits for relay pods that are starting. One that never starts must not stop it.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How soon the relays are asked again after they refused signatures and accepted none.
const SUSPICION: Duration = Duration::from_secs(30);

/// What Genesys Cloud has answered for one route.
pub(crate) enum Answer {
    /// To what the spec asked for.
    Registered(Box<Asked>, Outcome),
    /// To what is to be at former places no more.
    Cleared(Vec<Removal>),
    /// What stands in the way of a deletion.
    Deregistered(Option<Failure>),
}

/// A place, and whether it is free of the route's registrations.
type Removal = (RegistrationLocation, Result<(), Failure>);

/// What was asked for, and what was known then.
pub(crate) struct Asked {
    wanted: RegistrationStatus,
    secret: SecretString,
    record: Record,
    drift: Drift,
}

/// Registers the route once its relays can answer, records which secret Genesys Cloud signs with, and clears up where
/// the route was registered before.
pub(crate) async fn register(
    route: &PresenceRoute,
    scene: &mut Scene,
    relays: &Relays,
    context: &Context,
) -> Result<RegistrationFacts, ReconcileError> {
    let key = key_of(route);
    let uid = scene.model.uid.clone();
    if let Some(answer) = context.questions.late_answer(&key, &uid) {
        take_up(route, scene, answer, context).await?;
    }
    let record = Record::read(context.ledger.status(route));
    let is_first = record.id().is_none();
    let SourceModel::Webhook(webhook) = &scene.model.source;
    let Ok(secret) = webhook.signing_secret.clone() else {
        // What is registered stays, with the secret that it has.
        return Ok(if is_first {
            waiting("waits for the signing secret", None)
        } else {
            RegistrationFacts::Unchanged
        });
    };
    let registered = scene.signing.is_registered(&secret);
    if let Some(facts) = must_come_first(scene, relays, registered, is_first, context) {
        return Ok(facts);
    }
    let wanted = match &scene.model.genesys.oauth_client {
        Ok(client) => place::wanted(&scene.model, &route.spec.genesys, client),
        Err(problem) => return Ok(RegistrationFacts::Failed(Failure::unresolved(problem))),
    };
    let unanswered = RegistrationFacts::Asked { confirmed: record.confirms(&wanted) };
    if context.questions.is_open(&key) {
        return Ok(unanswered);
    }
    if is_first && !service_leads_to_a_relay(&scene.model, context).await {
        return Ok(waiting("waits for the Service to lead to a relay pod", Some(LIVE_POLL)));
    }
    let contested = last_report(route, context).is_some_and(|report| report.reason == CONTESTED);
    let moved = match contested {
        true => record.clone().without_lost(&wanted).moved_to(&wanted),
        false => record.clone().moved_to(&wanted),
    };
    if moved != record {
        // Since this reconcile began, another route may have written down that it has it.
        if let Some(Conflict::Owned(_)) = rival(route, context) {
            return Ok(waiting("waits for another PresenceRoute that claims the same", Some(LIVE_POLL)));
        }
        remember(route, &moved, context).await?;
        if !record.knows(&wanted.location()) {
            context.registrar.begin(&uid, &wanted.location());
        }
    }
    hold(route, context).await?;

    let drift = Drift::observe(scene, relays, registered, context);
    let in_order = moved.is_in_order(&wanted)
        && last_report(route, context).is_some_and(|report| report.status == "True");
    let asked = Box::new(Asked { wanted, secret, record: moved, drift });
    let (registrar, model) = (Arc::clone(&context.registrar), Arc::clone(&scene.model));
    let question = async move {
        let known = Known {
            id: asked.record.id(),
            url: asked.record.current.as_ref().map(|current| current.spec.url.as_str()),
            contested,
            confirmed: asked.record.confirms(&asked.wanted),
            in_order,
            secret_registered: registered,
            secret_drifted: asked.drift.is_due,
        };
        let outcome = registrar.ensure(&model, &asked.secret, known).await;
        Answer::Registered(asked, outcome)
    };
    let Some(Answer::Registered(asked, outcome)) = context.questions.ask(&key, &uid, question).await else {
        return Ok(unanswered);
    };
    let facts = hear(route, scene, *asked, outcome, context).await?;
    clear_former(route, facts, context).await
}

/// What has to come before Genesys Cloud is asked for a registration with the newest secret, if anything.
fn must_come_first(
    scene: &Scene,
    relays: &Relays,
    registered: bool,
    is_first: bool,
    context: &Context,
) -> Option<RegistrationFacts> {
    if is_first && relays.ready().next().is_none() {
        return Some(waiting("waits for a relay pod to be ready", None));
    }
    if !registered && !may_sign(scene, relays, is_first, context) {
        // A rotation leaves the registration as good as it was; status.signing has its phase.
        let what = "waits for every relay pod to accept the newest signing secret";
        return Some(if is_first { waiting(what, Some(PROGRESSING)) } else { RegistrationFacts::Unchanged });
    }
    // A first registration waits for relays that can answer; an existing one is looked after in any case.
    if is_first && !relays.all_live(&scene.wanted) {
        let what = "waits for the relay pods to be ready and to serve the newest routes";
        return Some(waiting(what, Some(PROGRESSING)));
    }
    None
}

fn waiting(what: &'static str, look_in: Option<Duration>) -> RegistrationFacts {
    RegistrationFacts::Waiting { what, look_in }
}

/// Whether Genesys Cloud may sign with the newest secret: every relay accepts it. A rotation also waits, for a while,
/// for those that are starting with the files of before.
fn may_sign(scene: &Scene, relays: &Relays, is_first: bool, context: &Context) -> bool {
    let uid = &scene.model.uid;
    if is_first || !relays.are_starting() {
        context.ledger.came(uid, Awaited::Started);
    } else if context.ledger.has_waited(uid, Awaited::Started) < START_PATIENCE {
        return false;
    }
    relays.all_accept(&scene.wanted.signing)
}

/// What Genesys Cloud has answered is written down before anything is done because of it.
async fn hear(
    route: &PresenceRoute,
    scene: &mut Scene,
    asked: Asked,
    outcome: Outcome,
    context: &Context,
) -> Result<RegistrationFacts, ReconcileError> {
    let Asked { wanted, secret, record, drift } = asked;
    match outcome {
        Outcome::Failed(failure) => Ok(RegistrationFacts::Failed(failure)),
        Outcome::Contested(failure) => {
            remember(route, &record.disowned(), context).await?;
            Ok(RegistrationFacts::Failed(failure))
        }
        Outcome::Postponed(wait) => {
            Ok(RegistrationFacts::Postponed(drift.look_again().map_or(wait, |again| again.min(wait))))
        }
        Outcome::Registered { registration, verifiable, change, secret_sent, trusted_for } => {
            if secret_sent && !scene.signing.is_registered(&secret) {
                confirm(scene, &secret, context).await?;
            }
            if drift.is_due {
                context.registrar.with_secret_drift(&scene.model.uid, |drift| drift.sent(Instant::now()));
            }
            match change {
                Some(Change::Updated) if drift.is_due => drift.tell(route, context).await,
                Some(change) => tell(route, context, &change).await,
                None => {}
            }
            let last_verified_time = record.current.as_ref().and_then(|it| it.last_verified_time.clone());
            let current = RegistrationStatus { id: Some(registration.id), last_verified_time, ..wanted };
            Ok(RegistrationFacts::Registered {
                record: Box::new(record.confirmed(current)),
                left: None,
                verifiable,
                trusted_for: drift.look_again().map_or(trusted_for, |again| again.min(trusted_for)),
            })
        }
    }
}

/// Takes up what was answered when no reconcile waited for it any more. It is true whatever the spec asks for by now;
/// what failed is remembered by the registrar.
async fn take_up(
    route: &PresenceRoute,
    scene: &mut Scene,
    answer: Answer,
    context: &Context,
) -> Result<(), ReconcileError> {
    let before = Record::read(context.ledger.status(route));
    let record = match answer {
        Answer::Registered(asked, outcome) => match hear(route, scene, *asked, outcome, context).await? {
            RegistrationFacts::Registered { record, .. } => *record,
            _ => return Ok(()),
        },
        Answer::Cleared(results) => {
            let mut record = before.clone();
            strike(&mut record, &results, route, context).await;
            record
        }
        Answer::Deregistered(_) => return Ok(()),
    };
    if record != before {
        remember(route, &record, context).await?;
    }
    Ok(())
}

fn key_of(route: &PresenceRoute) -> RouteKey {
    RouteKey { namespace: route.namespace().unwrap_or_default(), name: route.name_any() }
}

/// The condition Registered as it was last reported.
fn last_report(route: &PresenceRoute, context: &Context) -> Option<Condition> {
    let conditions = context.ledger.status(route).unwrap_or_default().conditions;
    conditions.into_iter().find(|condition| condition.type_ == "Registered")
}

/// Writes down where a registration may be from now on.
async fn remember(route: &PresenceRoute, record: &Record, context: &Context) -> Result<(), ReconcileError> {
    let status = PresenceRouteStatus {
        source: Some(record.clone().into_status()),
        ..context.ledger.status(route).unwrap_or_default()
    };
    write_status(route, context, &status).await
}

/// Says on the object itself that Genesys Cloud may hold a registration for it. It is written before the first call,
/// so that nothing can be left behind; a route that never got so far can be deleted without asking anyone.
async fn hold(route: &PresenceRoute, context: &Context) -> Result<(), ReconcileError> {
    if route.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    set_finalizers(route, context, &[FINALIZER]).await.map(drop).map_err(kubernetes("add the finalizer"))
}

/// Records that Genesys Cloud signs with the secret, before anything is done because of it.
async fn confirm(scene: &mut Scene, secret: &SecretString, context: &Context) -> Result<(), ReconcileError> {
    let grace = SignedDuration::try_from(context.settings.secret_grace).unwrap_or(SignedDuration::MAX);
    scene.signing = scene.signing.clone().confirm(secret, Timestamp::now(), grace);
    let record = build::signing_object(&scene.model, &scene.signing)?;
    Ok(apply::write(&context.client, &context.children, record).await?)
}

/// What the relays tell of the secret that Genesys Cloud signs with.
struct Drift {
    refused: u64,
    is_due: bool,
}

impl Drift {
    fn observe(scene: &Scene, relays: &Relays, registered: bool, context: &Context) -> Self {
        let pods = relays
            .pods
            .iter()
            .map(|relay| (relay.name.as_str(), relay.report.as_ref().ok().map(|report| report.signatures)));
        // A relay that lags refuses what it should accept, and a disabled registration sends nothing.
        let is_telling = registered && !scene.model.suspended && relays.all_accept(&scene.wanted.signing);
        context.registrar.with_secret_drift(&scene.model.uid, |drift| {
            drift.observe(pods);
            Self { refused: drift.refused(), is_due: is_telling && drift.is_due(Instant::now()) }
        })
    }

    fn look_again(&self) -> Option<Duration> {
        (self.refused > 0).then_some(SUSPICION)
    }

    async fn tell(&self, route: &PresenceRoute, context: &Context) {
        let note = format!(
            "the relays refused {} signatures and accepted none: the signing secret was given to Genesys Cloud again, \
             which is done at most every five minutes. If it goes on, somebody else posts to the endpoint, or changes \
             events on their way",
            self.refused
        );
        publish(route, context, EventType::Warning, "SecretSentAgain", &note).await;
    }
}

/// Removes the route's registrations where the spec does not want it any more. What cannot be removed stays in the
/// record and is tried again; it holds up nothing else.
async fn clear_former(
    route: &PresenceRoute,
    facts: RegistrationFacts,
    context: &Context,
) -> Result<RegistrationFacts, ReconcileError> {
    let RegistrationFacts::Registered { mut record, left: None, verifiable, trusted_for } = facts else {
        return Ok(facts);
    };
    let uid = route.uid().unwrap_or_default();
    let named = |place: &RegistrationLocation, failure: Failure| {
        let message = format!("{} could not be removed: {}", former(place), failure.message);
        Failure { message, ..failure }
    };
    let places = record.former.iter().cloned().map(Place::from);
    let question = removals(route, places, record.id(), context).await?.map(Answer::Cleared);
    let failures = match context.questions.ask(&key_of(route), &uid, question).await {
        Some(Answer::Cleared(results)) => {
            strike(&mut record, &results, route, context).await;
            let failed = |(place, result): Removal| Some(named(&place, result.err()?));
            results.into_iter().filter_map(failed).collect()
        }
        // The answer wakes the route. Until then, what was last said of these places stands.
        _ => {
            let last = |place| {
                let failure = context.registrar.last_removal(&uid, place)?;
                Some(named(place, Failure { retry_in: Duration::MAX, ..failure }))
            };
            record.former.iter().filter_map(last).collect()
        }
    };
    let left = joined(failures);
    Ok(RegistrationFacts::Registered {
        record,
        verifiable,
        trusted_for: left.as_ref().map_or(trusted_for, |failure| failure.retry_in.min(trusted_for)),
        left: left.map(|failure| failure.message),
    })
}

/// The question whether these places are free now, but for the registration that is to be kept.
async fn removals(
    route: &PresenceRoute,
    places: impl IntoIterator<Item = Place>,
    keep: Option<&str>,
    context: &Context,
) -> Result<BoxFuture<'static, Vec<Removal>>, ReconcileError> {
    let namespace = route.namespace().unwrap_or_default();
    let secrets = context.secrets.of(&namespace);
    let others = context.neighbours.routes();
    let mut accessible = Vec::new();
    let mut removals = Vec::new();
    for Place { place, urls } in places {
        // Two that claimed the same registration at the same moment may both have it in their records.
        if conflicts::belongs_to_another(
            route,
            &place,
            others.iter().filter_map(|other| other.0.as_ref().ok()),
        ) {
            removals.push((place, Ok(())));
            continue;
        }
        let access = access(&place, &secrets).await.map_err(kubernetes("read the Secrets"))?;
        accessible.push((place, urls, access));
    }
    let (registrar, uid) = (Arc::clone(&context.registrar), route.uid().unwrap_or_default());
    let keep = keep.map(str::to_owned);
    let removals = async move {
        for (place, urls, access) in accessible {
            let spare = Spare { id: keep.as_deref(), but_for_urls: &urls };
            let result = registrar.clear(&uid, &place, access, spare).await;
            removals.push((place, result));
        }
        removals
    };
    Ok(removals.boxed())
}

/// Takes the former places that are free now out of the record.
async fn strike(record: &mut Record, removals: &[Removal], route: &PresenceRoute, context: &Context) {
    for (place, _) in removals.iter().filter(|(_, result)| result.is_ok()) {
        record.former.retain(|former| former != place);
        let note = format!("{} is gone", former(place));
        publish(route, context, EventType::Normal, "FormerRegistrationRemoved", &note).await;
    }
}

fn former(place: &RegistrationLocation) -> String {
    format!("the former registration {:?} at {}", place.name, place.access.api.api_url)
}

/// All failures as one, to be looked at when the first of them may be over.
fn joined(failures: Vec<Failure>) -> Option<Failure> {
    failures.into_iter().reduce(|one, other| Failure {
        message: format!("{}; {}", one.message, other.message),
        retry_in: one.retry_in.min(other.retry_in),
        ..one
    })
}

/// How a place's API is called, by what its Secrets hold now.
async fn access(
    place: &RegistrationLocation,
    secrets: &impl SecretSource<Error = kube::Error>,
) -> Result<Result<Access, SecretProblem>, kube::Error> {
    let how = &place.access;
    let client = match oauth_client(secrets, &how.credentials_secret_ref).await? {
        Ok(client) => client,
        Err(problem) => return Ok(Err(problem)),
    };
    let ca_pem = match &how.ca_secret_ref {
        None => None,
        Some(reference) => match ca(secrets, reference).await? {
            Ok(pem) => Some(pem),
            Err(problem) => return Ok(Err(problem)),
        },
    };
    let ApiEndpoint { api_url, token_path, event_bridges_path, token_request } = how.api.clone();
    Ok(Ok(Access {
        api_url,
        token_path,
        event_bridges_path,
        token_request,
        client_id: client.id,
        client_secret: client.secret,
        ca_pem,
    }))
}

/// Whether the Service leads to a relay: nodes learn of a ready pod a moment after the API server does, and refuse
/// connections until then. Where a policy keeps the operator out, it is taken for granted after a while.
async fn service_leads_to_a_relay(model: &Model, context: &Context) -> bool {
    let cluster_ip = context
        .children
        .get("Service", &model.namespace, &build::relay_name(&model.name))
        .and_then(|service| service.data.pointer("/spec/clusterIP")?.as_str()?.parse().ok());
    let Some(cluster_ip) = cluster_ip else { return true };
    if context.ledger.has_waited(&model.uid, Awaited::Service) >= SERVICE_PATIENCE {
        return true;
    }
    let (scheme, port) = (build::service::port_name(model), build::service::port(model));
    context.relays.answers(cluster_ip, scheme, port).await
}

async fn tell(route: &PresenceRoute, context: &Context, change: &Change) {
    let (severity, reason, note) = match change {
        Change::Created => {
            (EventType::Normal, "RegistrationCreated", "registered at Genesys Cloud".to_owned())
        }
        Change::Updated => (
            EventType::Normal,
            "RegistrationUpdated",
            "the registration at Genesys Cloud has a new secret".to_owned(),
        ),
        Change::Repaired(what) => (
            EventType::Normal,
            "RegistrationUpdated",
            format!("the registration at Genesys Cloud was brought in line: {what}"),
        ),
        Change::Replaced => (
            EventType::Normal,
            "RegistrationUpdated",
            "the registration was sent to Genesys Cloud anew".to_owned(),
        ),
        Change::Duplicated { left } => (
            EventType::Warning,
            "RegistrationLeft",
            format!(
                "a new registration was made at Genesys Cloud; the one before, id {left:?}, can be neither changed nor \
                 removed by this API and goes on sending events as it is: remove it at Genesys Cloud"
            ),
        ),
    };
    publish(route, context, severity, reason, &note).await;
}

/// Removes every registration, so that the object may go. The children follow by their owner reference.
pub(crate) async fn deregister(route: &PresenceRoute, context: &Context) -> Result<Action, ReconcileError> {
    if route.spec.deletion_policy == DeletionPolicy::Retain {
        return let_go(route, context).await;
    }
    let (key, uid) = (key_of(route), route.uid().unwrap_or_default());
    let failure = match context.questions.late_answer(&key, &uid) {
        Some(Answer::Deregistered(failure)) => failure,
        // What another answer brings to light is found by its name.
        _ if context.questions.is_open(&key) => return Ok(Action::await_change()),
        _ => {
            let places = match places(route, context).await? {
                Ok(places) => places,
                Err(failure) => return stay(route, context, failure).await,
            };
            let removals = removals(route, places, None, context).await?;
            let question = removals.map(|removals| {
                let failures = removals.into_iter().filter_map(|(_, result)| result.err());
                Answer::Deregistered(joined(failures.collect()))
            });
            match context.questions.ask(&key, &uid, question).await {
                Some(Answer::Deregistered(failure)) => failure,
                _ => return Ok(Action::await_change()),
            }
        }
    };
    match failure {
        Some(failure) => stay(route, context, failure).await,
        None => {
            let note = "the registration at Genesys Cloud is gone";
            publish(route, context, EventType::Normal, "Deregistered", note).await;
            let_go(route, context).await
        }
    }
}

/// Where there may be a registration of a route that is deleted.
async fn places(
    route: &PresenceRoute,
    context: &Context,
) -> Result<Result<Vec<Place>, Failure>, ReconcileError> {
    let url = route.spec.endpoint_url().unwrap_or_default();
    let recorded: Vec<_> = Record::read(context.ledger.status(route)).places(url).collect();
    if !recorded.is_empty() {
        return Ok(Ok(recorded));
    }
    // The status is lost, as after a restore from a backup: what the spec says is left.
    let namespace = route.namespace().unwrap_or_default();
    let secrets = context.secrets.of(&namespace);
    let references = dereference(&route.spec, &secrets).await.map_err(kubernetes("read the Secrets"))?;
    Ok(match validate(route, references) {
        Err(problems) => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Err(Failure::invalid(problems.join("; ")))
        }
        Ok(model) => match &model.genesys.oauth_client {
            Ok(client) => {
                let place = place::wanted(&model, &route.spec.genesys, client).location();
                Ok(vec![Place { place, urls: vec![url.to_owned()] }])
            }
            Err(problem) => Err(Failure::unresolved(problem)),
        },
    })
}

/// Shows why a deletion waits, and comes back.
async fn stay(route: &PresenceRoute, context: &Context, failure: Failure) -> Result<Action, ReconcileError> {
    let message = format!(
        "{}; the PresenceRoute stays until Genesys Cloud confirms that the registration is gone. To let it go at once \
         and remove the registration by hand, set spec.deletionPolicy to Retain",
        failure.message
    );
    let previous = context.ledger.status(route);
    let current =
        status::stuck(previous.as_ref(), route.meta().generation, failure.reason, &message, Timestamp::now());
    if previous.as_ref() != Some(&current) {
        write_status(route, context, &current).await?;
        if status::changes(previous.as_ref(), &current).next().is_some() {
            publish(route, context, EventType::Warning, failure.reason, &message).await;
        }
    }
    Ok(Action::requeue(failure.retry_in))
}

/// Lets the object go.
async fn let_go(route: &PresenceRoute, context: &Context) -> Result<Action, ReconcileError> {
    let uid = route.uid().unwrap_or_default();
    match set_finalizers(route, context, &[]).await {
        // Somebody else let it go.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        answer => {
            let left = answer.map_err(kubernetes("remove the finalizer"))?;
            take_finalizer(left, context).await.map_err(kubernetes("remove the finalizer"))?;
        }
    }
    context.registrar.forget(&uid);
    context.ledger.forget(&uid);
    Ok(Action::await_change())
}

/// Takes our finalizer away where somebody else has written it, as whoever restores an object from a backup does: it is
/// theirs then, and server-side apply leaves it.
async fn take_finalizer(
    left: PartialObjectMeta<PresenceRoute>,
    context: &Context,
) -> Result<(), kube::Error> {
    let (ours, others): (Vec<_>, Vec<_>) =
        left.finalizers().iter().partition(|finalizer| *finalizer == FINALIZER);
    if ours.is_empty() {
        return Ok(());
    }
    let api: Api<PresenceRoute> =
        Api::namespaced(context.client.clone(), &left.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"resourceVersion": left.resource_version(), "finalizers": others}});
    api.patch_metadata(&left.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Server-side apply owns just our entry of the list. The uid keeps it from making a new object of the same name.
async fn set_finalizers(
    route: &PresenceRoute,
    context: &Context,
    ours: &[&str],
) -> Result<PartialObjectMeta<PresenceRoute>, kube::Error> {
    let api: Api<PresenceRoute> =
        Api::namespaced(context.client.clone(), &route.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": PresenceRoute::api_version(&()),
        "kind": PresenceRoute::kind(&()),
        "metadata": {"uid": route.uid(), "finalizers": ours},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_metadata(&route.name_any(), &parameters, &Patch::Apply(patch)).await
}
