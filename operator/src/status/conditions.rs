//! What a reconcile has observed becomes the status. Pure, so that the same facts always read the same, and a status that
//! says nothing new is not written.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use presenceroute_crds::status::{
    EndpointPhase, EndpointStatus, ExposureStatus, PresenceRouteStatus, RegistrationLocation,
    RelayPodsStatus, RoutingStatus, SigningStatus, SourceType,
};

use crate::cache::obstacle::Obstacle;
use crate::exposure::Exposure;
use crate::registration::failure::{Failure, noun};
use crate::registration::record::{Recorded, RegistrationRecord};
use crate::registration::{ApiKeyStep, IntegrationReport, RegistrationState};
use crate::text::{first_of, shortened};
use presenceroute_manifest::build::ADMIN_PORT;
use presenceroute_manifest::dereference::SecretProblem;

/// The reason of RelayAvailable, and of what depends on it.
pub(super) const NO_REPLICA_READY: &str = "NoReplicaReady";
/// The reason of RelayAvailable before there is a Deployment.
pub(super) const NOT_CREATED: &str = "RelayNotCreated";
/// The reason of RelayAvailable while a rollout takes long and nothing is known to be in its way.
pub(super) const ROLLOUT: &str = "RolloutProgressing";
/// The reason of RoutingLive while no ready pod can be asked.
const STATUS_UNREACHABLE: &str = "StatusUnreachable";
/// The reason of RoutingLive while relays take up what is new.
pub(super) const PROGRESSING: &str = "Progressing";

/// The reason of Ready that holds while the registration cannot be verified.
const UNVERIFIED: &str = "Unverified";

/// The reasons that neither time nor the cluster ends, but only a person. Tools that wait for a route give up on them.
const STALLED: [&str; 3] = ["Invalid", "PolicyViolation", "RolloutStalled"];

/// How many problems of a spec are named, and the bytes of each.
const MAX_PROBLEMS: usize = 5;
const MAX_PROBLEM: usize = 1000;
/// The bytes of a condition's message. The API server refuses a status with one of more than 32 KiB.
const MAX_MESSAGE: usize = 8192;
/// How the message of a rollout begins.
const UNFINISHED: &str = "the rollout is not finished";
/// For how long pods that start may not be ready before the status says why.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// For how long pods of an older generation may be there before the status says so: a rollout takes some seconds a pod.
const ROLLOUT_PATIENCE: Duration = Duration::from_secs(20);

/// Why a spec is not carried out: the reason of Accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// It is not valid, or claims what another route has.
    Invalid,
    /// The installation's policy does not allow it.
    PolicyViolation,
}

impl RefusalReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::PolicyViolation => "PolicyViolation",
        }
    }
}

/// What a reconcile has observed.
pub enum Observed {
    /// A spec that is not carried out. What the last one made that was is kept.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// What is wrong with it.
        problems: Vec<String>,
        /// The Deployment of before, if there is one.
        deployment: Option<DeploymentFacts>,
    },
    /// A valid spec, and what has become of it.
    Valid(Box<RouteFacts>),
}

/// What has been observed of a valid route.
pub struct RouteFacts {
    /// Secrets that are not as they should be: those that only calls to Genesys Cloud need.
    pub call_secret_problems: Vec<SecretProblem>,
    /// The same of the Secrets that the relays need.
    pub relay_secret_problems: Vec<SecretProblem>,
    /// That the signing secret or the API key can be guessed.
    pub weak_secret: Option<String>,
    /// Why an object could not be written.
    pub apply_error: Option<String>,
    /// The Deployment, once there is one.
    pub deployment: Option<DeploymentFacts>,
    /// What keeps relay pods from being ready, as far as it is known.
    pub obstacle: Option<Obstacle>,
    /// How long the relay pods have not been as they should be.
    pub delays: Delays,
    /// The relay pods' selector, as text.
    pub selector: String,
    /// The routing table and who serves it.
    pub routing: RoutingFacts,
    /// Where the signing secrets or API keys stand, where the source is pushed to.
    pub signing: Option<SigningStatus>,
    /// Where the API key of an API destination stands.
    pub api_key: Option<ApiKeyStep>,
    /// How far the endpoint is exposed, where there is one.
    pub exposure: Option<Exposure>,
    /// The version that relays report.
    pub relay_version: Option<String>,
    /// How the route stands at Genesys Cloud.
    pub registration: RegistrationState,
    /// The endpoint that the relays are to serve, and the step of a change of it, where there is one.
    pub endpoint: Option<EndpointStatus>,
    /// Why the registration goes by another name than the spec's.
    pub name_pending: Option<String>,
    /// Whether the spec wants no events, so that a disabled registration is not taken for a working one.
    pub suspended: bool,
}

/// For how long the relay pods of a route have not been as they should be. `None`: they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delays {
    /// Pods are wanted, and none is ready.
    pub none_ready: Option<Duration>,
    /// Pods of an older generation are there.
    pub rollout: Option<Duration>,
}

/// The Deployment's own numbers.
#[derive(Clone, Default)]
pub struct DeploymentFacts {
    /// Pods wanted.
    pub wanted: i32,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods of an older template.
    pub outdated: i32,
    /// Why Kubernetes creates no more of them, such as a quota.
    pub refused: Option<String>,
    /// Whether Kubernetes has given up on the rollout.
    pub stalled: bool,
}

/// The routing table and who serves it.
#[derive(Clone)]
pub struct RoutingFacts {
    /// Its revision.
    pub revision: String,
    /// Its size.
    pub routes: usize,
    /// Ready pods that serve it.
    pub live: usize,
    /// Ready pods.
    pub ready: usize,
    /// Each ready pod that does not serve it, and why.
    pub lagging: Vec<String>,
    /// What to do where none of them can be reached.
    pub unreachable: Option<&'static str>,
    /// Topics that Kafka does not have.
    pub missing_topics: Vec<String>,
    /// Topics that Kafka does not let pods write to.
    pub forbidden_topics: Vec<String>,
}

/// One condition's content.
struct Finding {
    status: &'static str,
    reason: String,
    message: String,
}

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

impl Finding {
    fn holds(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: TRUE, reason: reason.into(), message: message.into() }
    }

    fn fails(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: FALSE, reason: reason.into(), message: message.into() }
    }

    /// It held when it was last observed, and cannot be observed now.
    fn unknown(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: UNKNOWN, reason: reason.into(), message: message.into() }
    }

    fn keep(old: &Condition) -> Self {
        let status = [TRUE, UNKNOWN].into_iter().find(|status| *status == old.status).unwrap_or(FALSE);
        Self { status, reason: old.reason.clone(), message: old.message.clone() }
    }

    fn is_true(&self) -> bool {
        self.status == TRUE
    }
}

/// The status that `observed` amounts to. What has not changed since `previous` keeps its time.
pub fn build(
    previous: Option<&PresenceRouteStatus>,
    generation: Option<i64>,
    observed: Observed,
    now: Timestamp,
) -> PresenceRouteStatus {
    let facts = match observed {
        Observed::Valid(facts) => *facts,
        Observed::Refused { reason, problems, deployment } => {
            return refused(previous, generation, (reason, &problems), deployment, now);
        }
    };
    let previous = previous.cloned().unwrap_or_default();
    let findings = findings(&facts, &previous, generation);
    let routing = &facts.routing;
    // While a newer one is on its way, the version that is registered stands.
    let registered = previous.signing.as_ref().and_then(|signing| signing.secret_version.clone());
    let signing = facts
        .signing
        .clone()
        .map(|signing| SigningStatus { secret_version: signing.secret_version.or(registered), ..signing });
    let exposure = facts.exposure.as_ref().map(|exposure| ExposureStatus {
        exposed_by: exposure.exposed_by.clone(),
        addresses: exposure.addresses.clone(),
    });
    let deployment = facts.deployment.unwrap_or_default();
    let record = record(&facts.registration, RegistrationRecord::read(Some(previous.clone())), now);
    PresenceRouteStatus {
        observed_generation: generation,
        conditions: merge(&previous.conditions, findings, generation, now),
        source: Some(record.into_status()),
        endpoint: facts.endpoint,
        routing: Some(RoutingStatus {
            revision: routing.revision.clone(),
            routes: count(routing.routes),
            live_replicas: count(routing.live),
            missing_topics: routing.missing_topics.clone(),
        }),
        signing,
        exposure,
        relay: Some(RelayPodsStatus {
            replicas: deployment.replicas,
            ready_replicas: deployment.ready,
            pods: Some(pods(&deployment)),
            selector: facts.selector,
            version: facts.relay_version,
        }),
    }
}

/// The relays go on with what they last had, and so does what was known of it; whether they are there is still told.
fn refused(
    previous: Option<&PresenceRouteStatus>,
    generation: Option<i64>,
    (reason, problems): (RefusalReason, &[String]),
    deployment: Option<DeploymentFacts>,
    now: Timestamp,
) -> PresenceRouteStatus {
    let mut kept = previous.cloned().unwrap_or_default();
    let problems = first_of(problems, MAX_PROBLEMS, MAX_PROBLEM);
    let mut findings = vec![("Accepted", Finding::fails(reason.as_str(), problems.clone()))];
    if let Some(deployment) = &deployment {
        findings.push(("RelayAvailable", any_ready(deployment)));
    }
    let ready = Finding::fails(reason.as_str(), problems);
    findings.extend(stalled(&ready));
    findings.push(("Ready", ready));
    kept.conditions = overlay(&kept.conditions, findings, generation, now);
    if let (Some(relay), Some(deployment)) = (&mut kept.relay, deployment) {
        (relay.replicas, relay.ready_replicas) = (deployment.replicas, deployment.ready);
        relay.pods = Some(pods(&deployment));
    }
    PresenceRouteStatus { observed_generation: generation, ..kept }
}

/// The conditions in the order in which a route comes up, so that the first one that fails is the one to look at.
const ORDER: [&str; 8] = [
    "Accepted",
    "SecretsResolved",
    "RelayAvailable",
    "RoutingLive",
    "EndpointExposed",
    "Registered",
    "Ready",
    "Stalled",
];

fn findings(
    facts: &RouteFacts,
    previous: &PresenceRouteStatus,
    generation: Option<i64>,
) -> Vec<(&'static str, Finding)> {
    let mut findings = vec![
        ("Accepted", Finding::holds("Accepted", "the spec is valid")),
        ("SecretsResolved", secrets_resolved(facts)),
        (
            "RelayAvailable",
            match &facts.apply_error {
                Some(error) => Finding::fails("ApplyFailed", error.clone()),
                None => relay_available(facts, previous),
            },
        ),
        ("RoutingLive", routing_live(facts)),
        ("EndpointExposed", endpoint_exposed(facts.exposure.as_ref())),
        ("Registered", registered(facts, previous, generation)),
    ];
    let ready = ready(facts, previous, &findings);
    let stalled = stalled(&ready);
    findings.push(("Ready", ready));
    findings.extend(stalled);
    findings
}

/// Whether all that carries events is as the spec asks. What is only needed to verify the registration, or to change it,
/// takes nothing away from a route that is registered: its own condition and alert say that it is missing.
fn ready(
    facts: &RouteFacts,
    previous: &PresenceRouteStatus,
    findings: &[(&'static str, Finding)],
) -> Finding {
    let unverified = findings.iter().find(|(type_, it)| *type_ == "Registered" && it.status == UNKNOWN);
    let is_unverified = unverified.is_some();
    let only_calls_lack_secrets = facts.relay_secret_problems.is_empty();
    let stands_in_the_way = |(type_, finding): &&(&str, Finding)| match *type_ {
        "SecretsResolved" if is_unverified && only_calls_lack_secrets => false,
        "Registered" if is_unverified => false,
        _ => !finding.is_true(),
    };
    match (findings.iter().find(stands_in_the_way), unverified) {
        (Some((_, failing)), _) => Finding::fails(failing.reason.clone(), failing.message.clone()),
        (None, Some((_, unverified))) => {
            let set_up = is_set_up(facts, previous);
            Finding::holds(UNVERIFIED, format!("{set_up}; {}", unverified.message))
        }
        (None, None) => Finding::holds("Ready", is_set_up(facts, previous)),
    }
}

/// The condition Stalled, which is absent unless it is true, as kstatus reads it.
fn stalled(ready: &Finding) -> Option<(&'static str, Finding)> {
    let is_stalled = !ready.is_true() && STALLED.contains(&ready.reason.as_str());
    is_stalled.then(|| ("Stalled", Finding::holds(ready.reason.clone(), ready.message.clone())))
}

/// What is known of a route that is ready. Whether events come is known to Genesys Cloud alone.
fn is_set_up(facts: &RouteFacts, previous: &PresenceRouteStatus) -> String {
    let record = match &facts.registration {
        RegistrationState::Registered { record, .. } => record.as_ref().clone(),
        _ => RegistrationRecord::read(Some(previous.clone())),
    };
    let revision = &facts.routing.revision;
    let sends = match &record.current {
        Some(current) if current.type_() == SourceType::AmazonEventBridge => {
            format!("Genesys Cloud sends to the event source {}", event_source(current))
        }
        current => {
            let url = current.as_ref().and_then(|current| current.spec.url()).unwrap_or("the endpoint");
            format!("Genesys Cloud is registered to call {url}")
        }
    };
    format!("the relays serve revision {revision}, and {sends}")
}

fn secrets_resolved(facts: &RouteFacts) -> Finding {
    let problems = facts.call_secret_problems.iter().chain(&facts.relay_secret_problems);
    let messages: Vec<_> = problems.map(ToString::to_string).collect();
    if messages.is_empty() {
        const RESOLVED: &str = "every Secret is there and has its keys";
        return match &facts.weak_secret {
            None => Finding::holds("Resolved", RESOLVED),
            Some(weak) => Finding::holds(SECRET_WEAK, format!("{RESOLVED}; {weak}")),
        };
    }
    Finding::fails("SecretsUnresolved", messages.join("; "))
}

fn endpoint_exposed(exposure: Option<&Exposure>) -> Finding {
    let Some(exposure) = exposure else {
        return Finding::holds(
            "NotNeeded",
            "the relays receive events from a queue, so that nothing is exposed",
        );
    };
    let Exposure { is_exposed, reason, message, .. } = exposure;
    if *is_exposed { Finding::holds(*reason, message) } else { Finding::fails(*reason, message) }
}

fn relay_available(facts: &RouteFacts, previous: &PresenceRouteStatus) -> Finding {
    let Some(deployment) = &facts.deployment else {
        return Finding::fails(NOT_CREATED, "the relay's Deployment does not exist yet");
    };
    let finding = any_ready(deployment);
    let before = previous.conditions.iter().find(|old| old.type_ == "RelayAvailable");
    // What was said before the operator was restarted is not taken back for the time of a patience.
    let is_over = |delay: Option<Duration>, patience, was_said: fn(&Condition) -> bool| {
        delay.is_some_and(|delay| delay >= patience || before.is_some_and(was_said))
    };
    if deployment.wanted > 0
        && deployment.ready == 0
        && is_over(facts.delays.none_ready, START_PATIENCE, |old| {
            old.message.starts_with("0 of ") && old.reason != NO_REPLICA_READY
        })
    {
        return match cause(facts, deployment) {
            Some(Obstacle { reason, message }) => {
                Finding::fails(reason, format!("{}: {message}", finding.message))
            }
            None => finding,
        };
    }
    if finding.is_true()
        && is_over(facts.delays.rollout, ROLLOUT_PATIENCE, |old| old.message.starts_with(UNFINISHED))
    {
        let DeploymentFacts { outdated, replicas, .. } = deployment;
        let what = format!("{UNFINISHED}: {outdated} of {replicas} relay pods are of an older generation");
        return match cause(facts, deployment) {
            Some(Obstacle { reason, message }) => {
                Finding::fails(reason, format!("{what}, and another is not ready: {message}"))
            }
            None if deployment.stalled => {
                Finding::fails("RolloutStalled", format!("{what}; see kubectl describe of the newest pods"))
            }
            None => Finding::fails(ROLLOUT, what),
        };
    }
    finding
}

/// Whether a relay pod is ready, whatever its generation.
fn any_ready(deployment: &DeploymentFacts) -> Finding {
    match deployment {
        DeploymentFacts { wanted: 0, .. } => {
            Finding::fails("ScaledToZero", "spec.relay.replicas is 0; no pod receives events")
        }
        DeploymentFacts { ready: 0, wanted, .. } => {
            Finding::fails(NO_REPLICA_READY, format!("0 of {wanted} relay pods are ready"))
        }
        // Not how many, which changes with every rollout and every scaling: status.relay has the numbers.
        _ => Finding::holds("Available", "relay pods are ready"),
    }
}

/// What keeps pods from being ready, or from being created.
fn cause(facts: &RouteFacts, deployment: &DeploymentFacts) -> Option<Obstacle> {
    let refused = || {
        let message = format!("Kubernetes creates no more pods: {}", deployment.refused.as_ref()?);
        Some(Obstacle { reason: "PodsRefused", message: message.into() })
    };
    facts.obstacle.clone().or_else(refused)
}

/// What becomes of the events for a topic that cannot be written to.
fn fate_of_events(facts: &RouteFacts) -> &'static str {
    if facts.endpoint.is_some() {
        "events for it are answered 503, and their sender gives up on them after its retries"
    } else {
        "events for it go back to the queue, which keeps them until its retention or its redrive policy ends that"
    }
}

fn routing_live(facts: &RouteFacts) -> Finding {
    let routing = &facts.routing;
    if routing.ready == 0 {
        return Finding::fails(NO_REPLICA_READY, "no relay pod is ready to serve the routes");
    }
    if let Some(remedy) = routing.unreachable {
        let message = format!(
            "{} relay pods are ready, and the operator can reach /status on port {ADMIN_PORT} of none, so that it does not \
             know what they serve; {remedy}",
            routing.ready
        );
        return Finding::fails(STATUS_UNREACHABLE, message);
    }
    if !routing.lagging.is_empty() {
        let message = format!(
            "revision {} is live on {} of {} ready pods: {}",
            routing.revision,
            routing.live,
            routing.ready,
            routing.lagging.join("; ")
        );
        return Finding::fails(PROGRESSING, message);
    }
    if !routing.missing_topics.is_empty() {
        let message = format!(
            "every pod serves revision {}, but Kafka does not have {}; create what is missing, or correct its \
             name: {}",
            routing.revision,
            routing.missing_topics.join(", "),
            fate_of_events(facts)
        );
        return Finding::fails("TopicsMissing", message);
    }
    if !routing.forbidden_topics.is_empty() {
        let message = format!(
            "every pod serves revision {}, but Kafka does not let it write to {}; grant the relay's user Describe and \
             Write: {}",
            routing.revision,
            routing.forbidden_topics.join(", "),
            fate_of_events(facts)
        );
        return Finding::fails("TopicsForbidden", message);
    }
    Finding::holds("Live", format!("every ready pod serves revision {}", routing.revision))
}

/// Whether a status says that this generation, with this revision of its routes, is on its way to the relays.
pub fn is_progressing(status: &PresenceRouteStatus, generation: Option<i64>, revision: &str) -> bool {
    status.observed_generation == generation
        && status.routing.as_ref().is_some_and(|routing| routing.revision == revision)
        && status.conditions.iter().any(|it| {
            it.type_ == "RoutingLive" && [PROGRESSING, STATUS_UNREACHABLE].contains(&it.reason.as_str())
        })
}

/// The reason of Registered that holds and should be looked at all the same.
pub(super) const FORMER_LEFT: &str = "FormerRegistrationLeft";

/// The reason of Registered while a new endpoint is on its way to the relays.
pub(super) const ENDPOINT_CHANGING: &str = "EndpointChanging";

/// As [`FORMER_LEFT`], where another owner has a registration of the same name.
pub(super) const NAME_SHARED: &str = "NameShared";

/// The reason of SecretsResolved that holds and should be looked at all the same.
pub(super) const SECRET_WEAK: &str = "SigningSecretWeak";

fn registered(facts: &RouteFacts, previous: &PresenceRouteStatus, generation: Option<i64>) -> Finding {
    let before = previous.conditions.iter().find(|old| old.type_ == "Registered");
    match &facts.registration {
        RegistrationState::Failed(failure) => Finding::fails(failure.reason, failure.message.clone()),
        _ if is_endpoint_changing(facts) && !facts.suspended => {
            let url =
                facts.endpoint.as_ref().map(|endpoint| endpoint.current.url.as_str()).unwrap_or_default();
            let message = format!(
                "the relay pods are being replaced by ones that serve {url}; what Genesys Cloud calls is served until it is \
                 told"
            );
            Finding::fails(ENDPOINT_CHANGING, message)
        }
        RegistrationState::Unchanged | RegistrationState::Postponed(_) => {
            before.map_or_else(|| Finding::fails("Waiting", "waiting for the relay pods"), Finding::keep)
        }
        RegistrationState::Pending { confirmed } => {
            // That this spec could not be registered is not forgotten with every new attempt.
            let failed = |old: &&Condition| {
                old.status == FALSE && old.reason != "Waiting" && old.observed_generation == generation
            };
            before.filter(|old| *confirmed || failed(old)).map_or_else(
                || Finding::fails("Waiting", "waiting for Genesys Cloud's answer"),
                Finding::keep,
            )
        }
        RegistrationState::Waiting { what, .. } => Finding::fails("Waiting", *what),
        RegistrationState::Unverified(Failure { reason, message, .. }) => Finding::unknown(
            *reason,
            format!(
                "the {} was as the spec asks when it was last verified, and cannot be verified now: {message}",
                previous.source.as_ref().map_or("registration", |source| noun(source.type_))
            ),
        ),
        RegistrationState::Registered { record, integration: Some(integration), left, .. } => {
            let finding = integrated(facts, record, integration);
            match left {
                Some(left) if finding.is_true() => {
                    Finding::holds(FORMER_LEFT, format!("{}; {left}", finding.message))
                }
                _ => finding,
            }
        }
        RegistrationState::Registered { left, .. } if facts.suspended => {
            let left = left.as_ref().map(|left| format!("; {left}")).unwrap_or_default();
            let message =
                format!("spec.suspend is true: the registration is disabled and no events come{left}");
            Finding::fails("Suspended", message)
        }
        RegistrationState::Registered { left: Some(left), .. } => {
            Finding::holds(FORMER_LEFT, format!("Genesys Cloud sends events to the endpoint; {left}"))
        }
        RegistrationState::Registered { others, .. } if !others.is_empty() => {
            let message = format!(
                "Genesys Cloud sends events to the endpoint; another registration of the same name calls {}: it is not \
                 this route's and is left as it is; give one of the two another spec.source.webhook.name",
                others.join(", ")
            );
            Finding::holds(NAME_SHARED, message)
        }
        RegistrationState::Registered { is_verifiable: true, record, .. } => {
            let name = facts.name_pending.as_ref();
            let name = name.map(|why| format!(", under another name for now: {why}")).unwrap_or_default();
            Finding::holds(
                "Registered",
                format!("Genesys Cloud sends events to the endpoint{name}{}", being_removed(&record.former)),
            )
        }
        RegistrationState::Registered { is_verifiable: false, .. } => Finding::holds(
            "RegisteredUnverified",
            "Genesys Cloud accepted the registration; this API cannot be asked for it, so drift is not noticed",
        ),
    }
}

fn is_endpoint_changing(facts: &RouteFacts) -> bool {
    facts.endpoint.as_ref().is_some_and(|endpoint| endpoint.phase == EndpointPhase::Distributing)
}

/// The full name of an integration's event source.
fn event_source(current: &Recorded) -> String {
    let name = current.event_source_name.clone();
    name.unwrap_or_else(|| format!("aws.partner/genesys.com/cloud/ORGANIZATION/{}", current.spec.name()))
}

/// What an integration with Amazon EventBridge that is there amounts to.
fn integrated(facts: &RouteFacts, record: &RegistrationRecord, integration: &IntegrationReport) -> Finding {
    let Some(current) = &record.current else {
        return Finding::fails("Waiting", "waiting for Genesys Cloud's answer");
    };
    let source = event_source(current);
    let is_external = current.spec.is_external();
    if let Some(fields) = &integration.differs {
        let message = format!(
            "the integration is kept by other means and differs from spec.source.amazonEventBridge in {fields}; change it \
             by these means, or the spec"
        );
        return Finding::fails(INTEGRATION_DIFFERS, message);
    }
    let code = integration.state.as_ref().map_or("ACTIVE", |state| state.code.as_str());
    if facts.suspended && !is_external && code != "ERROR" {
        return Finding::fails(
            "Suspended",
            "spec.suspend is true: the integration is disabled and no events come",
        );
    }
    match code {
        "ACTIVE" => {}
        "ERROR" => {
            let detail = integration.state.as_ref().and_then(|state| state.detail.as_deref());
            let message = format!(
                "Genesys Cloud reports that the integration has failed: {}; check \
                 spec.source.amazonEventBridge.awsAccountId and awsRegion, and the event source {source} in that AWS \
                 account",
                detail.unwrap_or("it gives no reason")
            );
            return Finding::fails(INTEGRATION_FAILED, message);
        }
        code => {
            let message =
                format!("waiting for the integration to become ACTIVE at Genesys Cloud; it is {code}");
            return Finding::fails(ACTIVATING, message);
        }
    }
    if !integration.unavailable_topics.is_empty() {
        let message = format!(
            "the integration is active, but not all of spec.source.amazonEventBridge.topics come: {}",
            integration.unavailable_topics.join("; ")
        );
        return Finding::fails("TopicsUnavailable", message);
    }
    let former = being_removed(&record.former);
    let associated = format!(
        "Genesys Cloud sends to the event source {source}; events come once it is associated, in AWS, with an event bus of \
         the same name"
    );
    if let Some(url_pending) = facts.endpoint.as_ref().and_then(url_pending) {
        return Finding::holds(URL_PENDING, format!("{associated}; {url_pending}{former}"));
    }
    match facts.api_key {
        Some(ApiKeyStep::AwaitedFromAws) => Finding::holds(
            API_KEY_PENDING,
            format!(
                "{associated}; the relays accept the new API key beside the old one: give it to the connection of the API \
                 destination in AWS; the old one goes once a request with the new one has come{former}"
            ),
        ),
        _ => Finding::holds("Registered", format!("{associated}{former}")),
    }
}

/// What a person has to do in AWS after the endpoint of an API destination has changed.
fn url_pending(endpoint: &EndpointStatus) -> Option<String> {
    let until =
        endpoint.former.iter().filter_map(|former| former.retire_time.as_ref()).map(|time| time.0).max()?;
    let url = &endpoint.current.url;
    Some(format!("the API destination in AWS is to call {url}: the former endpoint is served until {until}"))
}

/// The reason of Registered while an integration is on its way to the state that is intended.
pub(super) const ACTIVATING: &str = "Activating";

/// The reason of Registered where Genesys Cloud reports an error of the integration.
const INTEGRATION_FAILED: &str = "IntegrationFailed";

/// The reason of Registered where an integration that is kept by other means is not as the spec asks.
const INTEGRATION_DIFFERS: &str = "IntegrationDiffers";

/// The reason of Registered that holds while the API destination in AWS may still call a former endpoint.
pub(super) const URL_PENDING: &str = "ApiDestinationUrlPending";

/// The reason of Registered that holds while a person has to give AWS the newest API key.
pub(super) const API_KEY_PENDING: &str = "ApiKeyPending";

/// A former registration does not keep the route from being ready: events flow by the current one.
fn being_removed(former: &[RegistrationLocation]) -> String {
    let named: Vec<_> =
        former.iter().map(|place| format!("{:?} at {}", place.name, place.access.api.api_url)).collect();
    let object = former.first().map_or("registration", |place| noun(place.type_));
    match named.as_slice() {
        [] => String::new(),
        [one] => format!("; the former {object} {one} is being removed"),
        several => format!("; the former {object}s {} are being removed", several.join(", ")),
    }
}

/// The status of a route whose deletion waits for Genesys Cloud.
pub fn deletion_blocked(
    previous: Option<&PresenceRouteStatus>,
    generation: Option<i64>,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> PresenceRouteStatus {
    let kept = previous.cloned().unwrap_or_default();
    let findings =
        vec![("Registered", Finding::fails(reason, message)), ("Ready", Finding::fails("Deleting", message))];
    PresenceRouteStatus { conditions: overlay(&kept.conditions, findings, generation, now), ..kept }
}

/// The previous conditions with some of them replaced.
fn overlay(
    previous: &[Condition],
    findings: Vec<(&'static str, Finding)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = merge(previous, findings, generation, now);
    let replaced: Vec<_> = conditions.iter().map(|condition| condition.type_.clone()).collect();
    conditions.extend(previous.iter().filter(|old| !replaced.contains(&old.type_)).cloned());
    conditions.sort_by_key(|condition| ORDER.iter().position(|name| *name == condition.type_));
    conditions
}

/// Conditions with the times of their last transition.
fn merge(
    previous: &[Condition],
    findings: Vec<(&'static str, Finding)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|(type_, finding)| {
            let status = finding.status;
            let unchanged = previous.iter().find(|old| old.type_ == type_ && old.status == status);
            Condition {
                type_: type_.into(),
                status: status.into(),
                reason: finding.reason,
                message: shortened(finding.message, MAX_MESSAGE),
                observed_generation: generation,
                last_transition_time: unchanged
                    .map_or_else(|| Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

fn record(facts: &RegistrationState, previous: RegistrationRecord, now: Timestamp) -> RegistrationRecord {
    let RegistrationState::Registered { record, is_verifiable, .. } = facts else { return previous };
    let RegistrationRecord { current, former } = record.as_ref().clone();
    let current = current.map(|registration| {
        let fresh = Recorded { last_verified_time: is_verifiable.then_some(Time(now)), ..registration };
        // A look that finds all as it was says nothing new: written down, it would wake every watcher of the route.
        previous.current.filter(|old| is_same(old, &fresh)).unwrap_or(fresh)
    });
    RegistrationRecord { current, former }
}

/// Whether both say the same, but for when exactly it was verified.
fn is_same(old: &Recorded, fresh: &Recorded) -> bool {
    let both_or_none = old.last_verified_time.is_some() == fresh.last_verified_time.is_some();
    both_or_none && *old == Recorded { last_verified_time: old.last_verified_time.clone(), ..fresh.clone() }
}

fn pods(deployment: &DeploymentFacts) -> String {
    format!("{}/{}", deployment.ready, deployment.wanted)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use presenceroute_crds::status::{IntegrationStatus, RegistrationStatus, SigningPhase};
    use presenceroute_genesys::integrations::ReportedState;

    use super::*;

    fn registered_as(state: RegistrationState) -> Finding {
        let facts = RouteFacts { registration: state, ..facts() };
        registered(&facts, &PresenceRouteStatus::default(), Some(1))
    }

    fn facts() -> RouteFacts {
        RouteFacts {
            call_secret_problems: Vec::new(),
            relay_secret_problems: Vec::new(),
            weak_secret: None,
            apply_error: None,
            deployment: None,
            obstacle: None,
            delays: Delays::default(),
            selector: String::new(),
            routing: RoutingFacts {
                revision: "r".into(),
                routes: 1,
                live: 1,
                ready: 1,
                lagging: Vec::new(),
                unreachable: None,
                missing_topics: Vec::new(),
                forbidden_topics: Vec::new(),
            },
            signing: Some(SigningStatus {
                revision: "s".into(),
                phase: SigningPhase::Stable,
                secret_version: None,
                retire_time: None,
            }),
            api_key: None,
            exposure: Some(exposed(true)),
            relay_version: None,
            registration: RegistrationState::Unchanged,
            endpoint: Some(EndpointStatus::default()),
            name_pending: None,
            suspended: false,
        }
    }

    #[test]
    fn what_a_missing_topic_means_depends_on_who_keeps_the_events() {
        let routing = RoutingFacts { missing_topics: vec!["t".into()], ..facts().routing };
        let pushed = RouteFacts { routing: routing.clone(), ..facts() };
        let queue = RouteFacts { routing, endpoint: None, ..facts() };
        assert!(routing_live(&pushed).message.contains("answered 503"));
        assert!(routing_live(&queue).message.contains("go back to the queue"));
    }

    fn exposed(is_exposed: bool) -> Exposure {
        Exposure {
            is_exposed,
            reason: if is_exposed { "Exposed" } else { "NotAccepted" },
            message: "HTTPRoute/one-relay is judged by Gateway public".into(),
            exposed_by: "HTTPRoute/one-relay".into(),
            addresses: Vec::new(),
            check_in: None,
        }
    }

    fn state(former: &[&str], others: &[&str]) -> RegistrationState {
        let former = former.iter().map(|name| {
            let mut location = registration(&["a"]).location();
            location.name = (*name).to_owned();
            location
        });
        let record = RegistrationRecord { current: Some(registration(&["a"])), former: former.collect() };
        RegistrationState::Registered {
            record: Box::new(record),
            left: None,
            others: others.iter().map(|url| (*url).to_owned()).collect(),
            is_verifiable: true,
            integration: None,
            trusted_for: Duration::ZERO,
        }
    }

    fn deployment(ready: i32, outdated: i32) -> DeploymentFacts {
        DeploymentFacts { wanted: 2, replicas: 2, ready, outdated, ..DeploymentFacts::default() }
    }

    fn kafka_is_unreachable() -> Option<Obstacle> {
        Some(Obstacle { reason: "KafkaUnreachable", message: "kafka:9092 cannot be resolved".into() })
    }

    fn available(facts: &RouteFacts, before: Option<(&str, &str, &str)>) -> (bool, String, String) {
        let before = before.map(|(status, reason, message)| Condition {
            type_: "RelayAvailable".into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        let previous = PresenceRouteStatus {
            conditions: before.into_iter().collect(),
            ..PresenceRouteStatus::default()
        };
        let finding = relay_available(facts, &previous);
        (finding.is_true(), finding.reason, finding.message)
    }

    #[test]
    fn the_cause_of_pods_that_are_not_ready_is_named_after_a_moment() {
        let delays = |seconds| Delays { none_ready: Some(Duration::from_secs(seconds)), rollout: None };
        let mut facts = RouteFacts {
            deployment: Some(deployment(0, 0)),
            obstacle: kafka_is_unreachable(),
            delays: delays(0),
            ..facts()
        };
        let plain = (false, NO_REPLICA_READY.to_owned(), "0 of 2 relay pods are ready".to_owned());
        assert_eq!(available(&facts, None), plain);
        assert_eq!(available(&facts, Some(("False", NO_REPLICA_READY, &plain.2))), plain);
        let cause = "0 of 2 relay pods are ready: kafka:9092 cannot be resolved";
        let named = (false, "KafkaUnreachable".into(), cause.into());
        assert_eq!(
            available(&facts, Some(("False", "KafkaUnreachable", cause))),
            named,
            "as before a restart"
        );
        facts.delays = delays(3);
        assert_eq!(available(&facts, Some(("False", NO_REPLICA_READY, &plain.2))), named);
        facts.obstacle = None;
        assert_eq!(available(&facts, None), plain);
        facts.deployment =
            Some(DeploymentFacts { refused: Some("exceeded quota".into()), ..deployment(0, 0) });
        let (_, reason, message) = available(&facts, None);
        assert_eq!(reason, "PodsRefused");
        assert!(message.ends_with(": Kubernetes creates no more pods: exceeded quota"), "{message}");
    }

    #[test]
    fn a_rollout_that_does_not_finish_is_named_with_its_cause() {
        let delays = |seconds| Delays { none_ready: None, rollout: Some(Duration::from_secs(seconds)) };
        let mut facts = RouteFacts {
            deployment: Some(deployment(1, 1)),
            obstacle: kafka_is_unreachable(),
            delays: delays(19),
            ..facts()
        };
        assert!(available(&facts, Some(("True", "Available", ""))).0);
        facts.delays = delays(20);
        let (holds, reason, message) = available(&facts, Some(("True", "Available", "")));
        assert!(!holds);
        assert_eq!(reason, "KafkaUnreachable");
        assert!(message.contains("1 of 2 relay pods are of an older generation"), "{message}");
        assert!(message.ends_with(": kafka:9092 cannot be resolved"), "{message}");
        facts.delays = delays(0);
        assert!(!available(&facts, Some(("False", "KafkaUnreachable", &message))).0, "as before a restart");
        facts.delays = delays(20);
        facts.obstacle = None;
        assert_eq!(available(&facts, None).1, ROLLOUT);
        facts.deployment = Some(DeploymentFacts { stalled: true, ..deployment(1, 1) });
        assert_eq!(available(&facts, None).1, "RolloutStalled");
        facts.delays = Delays::default();
        assert!(available(&facts, Some(("False", "RolloutStalled", UNFINISHED))).0);
    }

    #[test]
    fn a_status_stays_small_whatever_is_wrong() {
        let long = "x".repeat(100_000);
        let problems = (0..600).map(|route| format!("spec.routes[{route}].when: {long}")).collect();
        let observed = Observed::Refused { reason: RefusalReason::Invalid, problems, deployment: None };
        let invalid = build(None, Some(1), observed, Timestamp::UNIX_EPOCH);
        let ready = invalid.conditions.iter().find(|it| it.type_ == "Ready").unwrap();
        assert!(ready.message.starts_with("spec.routes[0].when: x"));
        assert!(ready.message.contains("spec.routes[4].when") && ready.message.ends_with("; and 595 more"));

        let facts = RouteFacts { apply_error: Some(long.clone()), ..facts() };
        let valid = build(None, Some(1), Observed::Valid(Box::new(facts)), Timestamp::UNIX_EPOCH);
        let blocked = deletion_blocked(None, Some(1), "Invalid", &long, Timestamp::UNIX_EPOCH);
        for status in [invalid, valid, blocked] {
            assert!(status.conditions.iter().all(|it| it.message.len() <= MAX_MESSAGE));
        }
    }

    #[test]
    fn registered_names_a_former_registration_until_it_is_gone() {
        let finding = registered_as(state(&["presence/old"], &[]));
        assert!(finding.is_true());
        assert_eq!(finding.reason, "Registered");
        assert!(
            finding.message.ends_with(
                "; the former registration \"presence/old\" at https://api.mypurecloud.ie is being removed"
            ),
            "{}",
            finding.message
        );
        assert_eq!(registered_as(state(&[], &[])).message, "Genesys Cloud sends events to the endpoint");
    }

    #[test]
    fn ready_says_what_is_known_and_not_that_events_flow() {
        let facts =
            RouteFacts { deployment: Some(deployment(2, 0)), registration: state(&[], &[]), ..facts() };
        let status = build(None, Some(1), Observed::Valid(Box::new(facts)), Timestamp::UNIX_EPOCH);
        let ready = status.conditions.iter().find(|it| it.type_ == "Ready").unwrap();
        assert_eq!(status.relay.unwrap().pods.as_deref(), Some("2/2"));
        assert_eq!(
            ready.message,
            "the relays serve revision r, and Genesys Cloud is registered to call https://presence.example.com/one"
        );
    }

    fn condition(facts: RouteFacts, previous: Option<&PresenceRouteStatus>, type_: &str) -> Condition {
        let observed = Observed::Valid(Box::new(facts));
        let status = build(previous, Some(1), observed, Timestamp::UNIX_EPOCH);
        status.conditions.into_iter().find(|condition| condition.type_ == type_).unwrap()
    }

    fn ready_facts(registration: RegistrationState) -> RouteFacts {
        RouteFacts { deployment: Some(deployment(2, 0)), registration, ..facts() }
    }

    fn unverified() -> RegistrationState {
        RegistrationState::Unverified(Failure::unresolved(&missing_key()))
    }

    fn missing_key() -> SecretProblem {
        SecretProblem::MissingKey { name: "oauth".into(), key: "clientSecret".into() }
    }

    #[test]
    fn a_registration_that_cannot_be_verified_leaves_the_route_ready() {
        let facts = || RouteFacts { call_secret_problems: vec![missing_key()], ..ready_facts(unverified()) };
        let registered = condition(facts(), None, "Registered");
        assert_eq!(
            (registered.status.as_str(), registered.reason.as_str()),
            ("Unknown", "SecretsUnresolved")
        );
        assert!(
            registered.message.contains("cannot be verified now: Secret \"oauth\""),
            "{}",
            registered.message
        );
        assert_eq!(condition(facts(), None, "SecretsResolved").status, "False");
        let ready = condition(facts(), None, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", UNVERIFIED));
        assert!(ready.message.ends_with(&registered.message), "{}", ready.message);

        // While the next call is running, that stands.
        let observed = Observed::Valid(Box::new(facts()));
        let before = build(None, Some(1), observed, Timestamp::UNIX_EPOCH);
        let pending = || ready_facts(RegistrationState::Pending { confirmed: true });
        assert_eq!(condition(pending(), Some(&before), "Registered").status, "Unknown");
        assert_eq!(condition(pending(), Some(&before), "Ready").reason, UNVERIFIED);

        // What the relays lack, or what is known not to be registered, is another matter.
        let mut relays_lack = facts();
        relays_lack.relay_secret_problems = vec![SecretProblem::Missing("kafka".into())];
        assert_eq!(condition(relays_lack, None, "Ready").status, "False");
        let failed = RegistrationState::Failed(Failure::unresolved(&missing_key()));
        assert_eq!(condition(ready_facts(failed), None, "Ready").status, "False");
        let mut down = facts();
        down.deployment = Some(deployment(0, 0));
        assert_eq!(condition(down, None, "Ready").reason, NO_REPLICA_READY);
    }

    #[test]
    fn the_registered_secret_version_stands_while_a_newer_one_is_on_its_way() {
        let with = |version: Option<&str>, previous: Option<&PresenceRouteStatus>| {
            let mut facts = facts();
            facts.signing.as_mut().unwrap().secret_version = version.map(str::to_owned);
            build(previous, Some(1), Observed::Valid(Box::new(facts)), Timestamp::UNIX_EPOCH)
        };
        let version = |status: &PresenceRouteStatus| status.signing.clone().unwrap().secret_version;
        let first = with(Some("100"), None);
        assert_eq!(version(&first).as_deref(), Some("100"));
        let rotating = with(None, Some(&first));
        assert_eq!(version(&rotating).as_deref(), Some("100"));
        assert_eq!(version(&with(Some("107"), Some(&rotating))).as_deref(), Some("107"));
        assert_eq!(version(&with(None, None)), None);
    }

    #[test]
    fn a_route_whose_endpoint_is_not_exposed_is_not_ready() {
        let hidden = || RouteFacts { exposure: Some(exposed(false)), ..ready_facts(state(&[], &[])) };
        let exposure = condition(hidden(), None, "EndpointExposed");
        assert_eq!((exposure.status.as_str(), exposure.reason.as_str()), ("False", "NotAccepted"));
        let ready = condition(hidden(), None, "Ready");
        assert_eq!((ready.reason, ready.message), (exposure.reason, exposure.message));
        assert_eq!(condition(ready_facts(state(&[], &[])), None, "Ready").reason, "Ready");
        let observed = Observed::Valid(Box::new(hidden()));
        let status = build(None, Some(1), observed, Timestamp::UNIX_EPOCH);
        assert_eq!(status.exposure.unwrap().exposed_by, "HTTPRoute/one-relay");
    }

    #[test]
    fn a_route_is_not_ready_before_genesys_cloud_knows_its_endpoint() {
        let current = presenceroute_crds::status::ServedEndpoint {
            url: "https://presence.example.com/new".into(),
            ..Default::default()
        };
        let of = |phase, registration| {
            let endpoint = EndpointStatus { phase, current: current.clone(), former: Vec::new() };
            let facts = RouteFacts { registration, endpoint: Some(endpoint), ..facts() };
            let finding = registered(&facts, &PresenceRouteStatus::default(), Some(1));
            (finding.is_true(), finding.reason)
        };
        let changing = (false, ENDPOINT_CHANGING.to_owned());
        assert_eq!(of(EndpointPhase::Distributing, state(&[], &[])), changing);
        assert_eq!(of(EndpointPhase::Distributing, RegistrationState::Unchanged), changing);
        let invalid = Failure::invalid("it is not valid".into());
        let (_, reason) = of(EndpointPhase::Distributing, RegistrationState::Failed(invalid));
        assert_eq!(reason, "Invalid");
        for phase in [EndpointPhase::Registering, EndpointPhase::Retiring, EndpointPhase::Stable] {
            assert_eq!(of(phase, state(&[], &[])), (true, "Registered".to_owned()));
        }
    }

    #[test]
    fn registered_names_another_owners_registration() {
        let finding = registered_as(state(&[], &["https://other.example.com/e"]));
        assert!(finding.is_true());
        assert_eq!(finding.reason, NAME_SHARED);
        assert!(finding.message.contains("https://other.example.com/e"), "{}", finding.message);
    }

    #[test]
    fn a_verification_that_finds_no_change_writes_nothing() {
        let registration = |event_types: &[&str]| RegistrationState::Registered {
            record: Box::new(RegistrationRecord {
                current: Some(registration(event_types)),
                former: Vec::new(),
            }),
            left: None,
            others: Vec::new(),
            is_verifiable: true,
            integration: None,
            trusted_for: Duration::ZERO,
        };
        let at = |hours| Timestamp::UNIX_EPOCH + k8s_openapi::jiff::SignedDuration::from_hours(hours);
        let first = record(&registration(&["a"]), RegistrationRecord::default(), at(0));
        let verified =
            |record: &RegistrationRecord| record.current.as_ref().unwrap().last_verified_time.clone();
        assert_eq!(verified(&first), Some(Time(at(0))));
        assert_eq!(record(&registration(&["a"]), first.clone(), at(100)), first);
        let changed = record(&registration(&["a", "b"]), first, at(100));
        assert_eq!(verified(&changed), Some(Time(at(100))));
    }

    fn registration(event_types: &[&str]) -> Recorded {
        let status = serde_json::json!({
            "id": "1", "name": "presence/one", "access": {
                "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"},
                "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Json",
            },
            "url": "https://presence.example.com/one", "enabled": true, "eventTypes": event_types,
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
        });
        serde_json::from_value::<RegistrationStatus>(status).unwrap().into()
    }

    const EVENT_SOURCE: &str = "aws.partner/genesys.com/cloud/7c0d9f8e/presence-one";

    fn integrated_as(mode: &str, integration: IntegrationReport) -> RegistrationState {
        let status = serde_json::json!({
            "id": "1", "name": "presence-one", "eventSourceSuffix": "presence-one", "awsAccountId": "123456789012",
            "awsRegion": "eu-west-1", "topics": ["v2.users.{id}.presence"], "enabled": true, "mode": mode,
            "eventSourceName": EVENT_SOURCE, "access": {
                "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"},
                "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Form",
            },
        });
        let current = serde_json::from_value::<IntegrationStatus>(status).unwrap().into();
        RegistrationState::Registered {
            record: Box::new(RegistrationRecord { current: Some(current), former: Vec::new() }),
            left: None,
            others: Vec::new(),
            is_verifiable: true,
            integration: Some(Box::new(integration)),
            trusted_for: Duration::ZERO,
        }
    }

    fn in_state(code: &str, detail: Option<&str>) -> IntegrationReport {
        let state = ReportedState { code: code.into(), detail: detail.map(str::to_owned) };
        IntegrationReport { state: Some(state), ..IntegrationReport::default() }
    }

    #[test]
    fn an_integration_is_registered_once_it_is_active() {
        for (report, status, reason, words) in [
            (in_state("ACTIVE", None), TRUE, "Registered", EVENT_SOURCE),
            (IntegrationReport::default(), TRUE, "Registered", "associated, in AWS, with an event bus"),
            (in_state("ACTIVATING", None), FALSE, ACTIVATING, "it is ACTIVATING"),
            (in_state("INACTIVE", None), FALSE, ACTIVATING, "it is INACTIVE"),
            (
                in_state("ERROR", Some("no such account")),
                FALSE,
                INTEGRATION_FAILED,
                "failed: no such account;",
            ),
            (in_state("ERROR", None), FALSE, INTEGRATION_FAILED, "it gives no reason"),
            (
                IntegrationReport {
                    unavailable_topics: vec!["v2.x is not sent".into()],
                    ..in_state("ACTIVE", None)
                },
                FALSE,
                "TopicsUnavailable",
                "v2.x is not sent",
            ),
        ] {
            let finding = registered_as(integrated_as("Managed", report));
            assert_eq!((finding.status, finding.reason.as_str()), (status, reason), "{}", finding.message);
            assert!(finding.message.contains(words), "{}", finding.message);
        }
    }

    #[test]
    fn a_suspended_integration_is_disabled_unless_others_keep_it() {
        let reason = |mode, report| {
            let facts = RouteFacts { registration: integrated_as(mode, report), suspended: true, ..facts() };
            registered(&facts, &PresenceRouteStatus::default(), Some(1)).reason
        };
        assert_eq!(reason("Managed", in_state("DEACTIVATING", None)), "Suspended");
        assert_eq!(reason("Managed", in_state("ERROR", None)), INTEGRATION_FAILED);
        assert_eq!(reason("External", in_state("ACTIVE", None)), "Registered");
        let differs = IntegrationReport { differs: Some("eventFilter".into()), ..in_state("ACTIVE", None) };
        assert_eq!(reason("External", differs), INTEGRATION_DIFFERS);
    }

    #[test]
    fn a_new_api_key_is_asked_for_in_aws() {
        let with = |api_key| {
            let registration = integrated_as("Managed", in_state("ACTIVE", None));
            registered(
                &RouteFacts { registration, api_key, ..facts() },
                &PresenceRouteStatus::default(),
                None,
            )
        };
        let awaited = with(Some(ApiKeyStep::AwaitedFromAws));
        assert!(awaited.is_true(), "both keys are accepted");
        assert_eq!(awaited.reason, API_KEY_PENDING);
        assert!(awaited.message.contains("give it to the connection"), "{}", awaited.message);
        for step in [None, Some(ApiKeyStep::InUse), Some(ApiKeyStep::Distributing)] {
            assert_eq!(with(step).reason, "Registered");
        }
    }

    #[test]
    fn a_new_url_is_asked_for_in_aws_while_the_former_is_served() {
        let served =
            |url: &str| presenceroute_crds::status::ServedEndpoint { url: url.into(), ..Default::default() };
        let with = |retire_time: Option<Timestamp>| {
            let former = presenceroute_crds::status::FormerEndpoint {
                endpoint: served("https://a.example.com/old"),
                retire_time: retire_time.map(Time),
            };
            let endpoint = EndpointStatus {
                phase: EndpointPhase::Retiring,
                current: served("https://a.example.com/new"),
                former: vec![former],
            };
            let registration = integrated_as("Managed", in_state("ACTIVE", None));
            let facts = RouteFacts { registration, endpoint: Some(endpoint), ..facts() };
            registered(&facts, &PresenceRouteStatus::default(), None)
        };
        let pending = with(Some(Timestamp::UNIX_EPOCH));
        assert!(pending.is_true() && pending.reason == URL_PENDING, "{}", pending.message);
        assert!(
            pending.message.ends_with(
                "is to call https://a.example.com/new: the former endpoint is served until 1970-01-01T00:00:00Z"
            ),
            "{}",
            pending.message
        );
        assert_eq!(with(None).reason, "Registered");
    }

    #[test]
    fn a_queue_needs_no_endpoint() {
        let facts = RouteFacts {
            exposure: None,
            endpoint: None,
            signing: None,
            ..ready_facts(integrated_as("Managed", in_state("ACTIVE", None)))
        };
        let status = build(None, Some(1), Observed::Valid(Box::new(facts)), Timestamp::UNIX_EPOCH);
        let condition = |type_: &str| status.conditions.iter().find(|it| it.type_ == type_).unwrap();
        assert_eq!(
            (condition("EndpointExposed").status.as_str(), condition("EndpointExposed").reason.as_str()),
            (TRUE, "NotNeeded")
        );
        let ready = condition("Ready");
        assert_eq!(ready.status, TRUE, "{}", ready.message);
        assert!(ready.message.ends_with(EVENT_SOURCE), "{}", ready.message);
        assert!(status.endpoint.is_none() && status.exposure.is_none() && status.signing.is_none());
        let integration = status.integration().unwrap();
        assert_eq!(integration.event_source_name.as_deref(), Some(EVENT_SOURCE));
    }
}
