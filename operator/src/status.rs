//! The last step: what has been seen becomes the status. Pure, so that the same facts always read the same, and a
//! status that says nothing new is not written.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use presenceroute_crds::status::{
    PresenceRouteStatus, RegistrationStatus, RelayPodsStatus, RoutingStatus, SigningPhase, SigningStatus,
};

use crate::register::{Failure, Record};
use presenceroute_manifest::dereference::SecretProblem;

/// The reason of RelayAvailable, and of what depends on it.
const NO_REPLICA_READY: &str = "NoReplicaReady";
/// The reason of RoutingLive while relays take up what is new.
const PROGRESSING: &str = "Progressing";

/// What a reconcile has seen.
pub enum Observed {
    /// A spec that is not carried out. What was carried out before goes on.
    Refused {
        /// What is wrong with it.
        problems: Vec<String>,
        /// The Deployment of before, if there is one.
        deployment: Option<DeploymentFacts>,
    },
    /// A legal spec, and what has become of it.
    Legal(Box<Parts>),
}

/// What has been seen of a legal route.
pub struct Parts {
    /// Secrets that are not as they should be.
    pub secret_problems: Vec<SecretProblem>,
    /// Why an object could not be written.
    pub apply_error: Option<String>,
    /// The Deployment, once there is one.
    pub deployment: Option<DeploymentFacts>,
    /// The relay pods' selector, as text.
    pub selector: String,
    /// The routing table and who serves it.
    pub routing: RoutingFacts,
    /// Where the signing secrets stand.
    pub signing: SigningStatus,
    /// The version that relays report.
    pub relay_version: Option<String>,
    /// How the route stands at Genesys Cloud.
    pub registration: RegistrationFacts,
    /// Why the registration goes by another name than the spec's.
    pub waits_for_name: Option<String>,
    /// Whether the spec wants no events, so that a disabled registration is not taken for a working one.
    pub suspended: bool,
}

/// The Deployment's own numbers.
#[derive(Clone, Copy)]
pub struct DeploymentFacts {
    /// Pods wanted.
    pub wanted: i32,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
}

/// The routing table and who serves it.
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
    /// Topics that Kafka does not have.
    pub missing_topics: Vec<String>,
    /// Topics that Kafka does not let pods write to.
    pub forbidden_topics: Vec<String>,
    /// What pods report of Kafka.
    pub kafka_errors: Vec<String>,
}

/// How the route stands at Genesys Cloud.
pub enum RegistrationFacts {
    /// Nothing was asked, because something must come first.
    Waiting {
        /// What it waits for, as the condition says it.
        what: &'static str,
        /// When to look again, where its coming does not wake the route.
        look_in: Option<Duration>,
    },
    /// Nothing was asked yet in this reconcile: what was known stands.
    Unchanged,
    /// Asked, and not answered yet; the answer wakes the route.
    Asked {
        /// Whether what the spec asks for was confirmed before: that stands.
        confirmed: bool,
    },
    /// Nothing is asked before this time is over, because all was in order when it was last seen: that stands.
    Postponed(Duration),
    /// As the spec asks.
    Registered {
        /// What is there now, and where else something may still be.
        record: Box<Record>,
        /// Why something is still elsewhere.
        left: Option<String>,
        /// Whether it can be seen at all.
        verifiable: bool,
        /// How long this is trusted before Genesys Cloud is asked again.
        trusted_for: Duration,
    },
    /// Not as the spec asks.
    Failed(Failure),
}

/// One condition's content.
struct Finding {
    holds: bool,
    reason: String,
    message: String,
}

impl Finding {
    fn holds(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { holds: true, reason: reason.into(), message: message.into() }
    }

    fn fails(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { holds: false, reason: reason.into(), message: message.into() }
    }

    fn repeat(old: &Condition) -> Self {
        Self { holds: old.status == "True", reason: old.reason.clone(), message: old.message.clone() }
    }
}

/// The status that `observed` amounts to. What has not changed since `previous` keeps its time.
pub fn build(
    previous: Option<&PresenceRouteStatus>,
    generation: Option<i64>,
    observed: Observed,
    now: Timestamp,
) -> PresenceRouteStatus {
    let parts = match observed {
        Observed::Legal(parts) => *parts,
        Observed::Refused { problems, deployment } => {
            return refused(previous, generation, &problems, deployment, now);
        }
    };
    let previous = previous.cloned().unwrap_or_default();
    let findings = findings(&parts, &previous, generation);
    let routing = &parts.routing;
    let record = record(&parts.registration, Record::read(Some(previous.clone())), now);
    PresenceRouteStatus {
        observed_generation: generation,
        conditions: merge(&previous.conditions, findings, generation, now),
        source: Some(record.into_status()),
        routing: Some(RoutingStatus {
            revision: routing.revision.clone(),
            routes: count(routing.routes),
            live_replicas: count(routing.live),
            missing_topics: routing.missing_topics.clone(),
        }),
        signing: Some(parts.signing),
        relay: Some(RelayPodsStatus {
            replicas: parts.deployment.map_or(0, |deployment| deployment.replicas),
            ready_replicas: parts.deployment.map_or(0, |deployment| deployment.ready),
            selector: parts.selector,
            version: parts.relay_version,
        }),
    }
}

/// The relays go on with what they last had, and so does what was known of it; whether they are there is still told.
fn refused(
    previous: Option<&PresenceRouteStatus>,
    generation: Option<i64>,
    problems: &[String],
    deployment: Option<DeploymentFacts>,
    now: Timestamp,
) -> PresenceRouteStatus {
    let mut kept = previous.cloned().unwrap_or_default();
    let mut findings = vec![("Accepted", Finding::fails("Invalid", problems.join("; ")))];
    if deployment.is_some() {
        findings.push(("RelayAvailable", relay_available(deployment, None)));
    }
    findings.push(("Ready", Finding::fails("Invalid", problems.join("; "))));
    kept.conditions = overlay(&kept.conditions, findings, generation, now);
    if let (Some(relay), Some(deployment)) = (&mut kept.relay, deployment) {
        (relay.replicas, relay.ready_replicas) = (deployment.replicas, deployment.ready);
    }
    PresenceRouteStatus { observed_generation: generation, ..kept }
}

/// The conditions in the order in which a route comes up, so that the first one that fails is the one to look at.
const ORDER: [&str; 6] =
    ["Accepted", "SecretsResolved", "RelayAvailable", "RoutingLive", "Registered", "Ready"];

fn findings(
    parts: &Parts,
    previous: &PresenceRouteStatus,
    generation: Option<i64>,
) -> Vec<(&'static str, Finding)> {
    let mut findings = vec![
        ("Accepted", Finding::holds("Accepted", "the spec is valid")),
        ("SecretsResolved", secrets_resolved(parts)),
        (
            "RelayAvailable",
            match &parts.apply_error {
                Some(error) => Finding::fails("ApplyFailed", error.clone()),
                None => relay_available(parts.deployment, parts.routing.kafka_errors.first()),
            },
        ),
        ("RoutingLive", routing_live(parts)),
        ("Registered", registered(parts, previous, generation)),
    ];
    let ready = match findings.iter().find(|(_, finding)| !finding.holds) {
        Some((_, failing)) => Finding::fails(failing.reason.clone(), failing.message.clone()),
        None => Finding::holds("Ready", "events flow from Genesys Cloud to Kafka"),
    };
    findings.push(("Ready", ready));
    findings
}

fn secrets_resolved(parts: &Parts) -> Finding {
    if parts.secret_problems.is_empty() {
        return Finding::holds("Resolved", "every Secret is there and has its keys");
    }
    let messages: Vec<_> = parts.secret_problems.iter().map(ToString::to_string).collect();
    Finding::fails("SecretsUnresolved", messages.join("; "))
}

fn relay_available(deployment: Option<DeploymentFacts>, kafka_error: Option<&String>) -> Finding {
    match deployment {
        None => Finding::fails("RelayNotCreated", "the relay's Deployment does not exist yet"),
        Some(DeploymentFacts { wanted: 0, .. }) => {
            Finding::fails("ScaledToZero", "spec.relay.replicas is 0; no pod receives events")
        }
        Some(DeploymentFacts { ready: 0, wanted, .. }) => {
            let cause = kafka_error.map(|error| format!(": {error}")).unwrap_or_default();
            Finding::fails(NO_REPLICA_READY, format!("0 of {wanted} relay pods are ready{cause}"))
        }
        // Not how many, which changes with every rollout and every scaling: status.relay has the numbers.
        Some(_) => Finding::holds("Available", "relay pods are ready"),
    }
}

fn routing_live(parts: &Parts) -> Finding {
    let routing = &parts.routing;
    if routing.ready == 0 {
        return Finding::fails(NO_REPLICA_READY, "no relay pod is ready to serve the routes");
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
            "every pod serves revision {}, but Kafka does not have {}; create what is missing: events for it are \
             answered 503 and Genesys Cloud gives up on them after its retries",
            routing.revision,
            routing.missing_topics.join(", ")
        );
        return Finding::fails("TopicsMissing", message);
    }
    if !routing.forbidden_topics.is_empty() {
        let message = format!(
            "every pod serves revision {}, but Kafka does not let it write to {}; grant the relay's user Describe and \
             Write: events for it are answered 503 and Genesys Cloud gives up on them after its retries",
            routing.revision,
            routing.forbidden_topics.join(", ")
        );
        return Finding::fails("TopicsForbidden", message);
    }
    Finding::holds("Live", format!("every ready pod serves revision {}", routing.revision))
}

/// Whether a status says that this generation, with this revision of its routes, is on its way to the relays.
pub fn is_progressing(status: &PresenceRouteStatus, generation: Option<i64>, revision: &str) -> bool {
    status.observed_generation == generation
        && status.routing.as_ref().is_some_and(|routing| routing.revision == revision)
        && status.conditions.iter().any(|it| it.type_ == "RoutingLive" && it.reason == PROGRESSING)
}

/// Holds, and somebody should know all the same.
const FORMER_LEFT: &str = "FormerRegistrationLeft";

fn registered(parts: &Parts, previous: &PresenceRouteStatus, generation: Option<i64>) -> Finding {
    let before = previous.conditions.iter().find(|old| old.type_ == "Registered");
    match &parts.registration {
        RegistrationFacts::Unchanged | RegistrationFacts::Postponed(_) => {
            before.map_or_else(|| Finding::fails("Waiting", "waits for the relay pods"), Finding::repeat)
        }
        RegistrationFacts::Asked { confirmed } => {
            // That this spec could not be registered is not forgotten with every new attempt.
            let failed = |old: &&Condition| {
                old.status == "False" && old.reason != "Waiting" && old.observed_generation == generation
            };
            before.filter(|old| *confirmed || failed(old)).map_or_else(
                || Finding::fails("Waiting", "waits for Genesys Cloud's answer"),
                Finding::repeat,
            )
        }
        RegistrationFacts::Waiting { what, .. } => Finding::fails("Waiting", *what),
        RegistrationFacts::Failed(failure) => Finding::fails(failure.reason, failure.message.clone()),
        RegistrationFacts::Registered { left, .. } if parts.suspended => {
            let left = left.as_ref().map(|left| format!("; {left}")).unwrap_or_default();
            let message =
                format!("spec.suspend is true: the registration is disabled and no events come{left}");
            Finding::fails("Suspended", message)
        }
        RegistrationFacts::Registered { left: Some(left), .. } => {
            Finding::holds(FORMER_LEFT, format!("Genesys Cloud sends events to the endpoint; {left}"))
        }
        RegistrationFacts::Registered { verifiable: true, .. } => {
            let name = parts.waits_for_name.as_ref();
            let name = name.map(|why| format!(", under another name for now: {why}")).unwrap_or_default();
            Finding::holds("Registered", format!("Genesys Cloud sends events to the endpoint{name}"))
        }
        RegistrationFacts::Registered { verifiable: false, .. } => Finding::holds(
            "RegisteredUnverified",
            "Genesys Cloud accepted the registration; this API cannot be asked for it, so drift is not noticed",
        ),
    }
}

/// The status of a route whose deletion waits for Genesys Cloud.
pub fn stuck(
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
            let status = if finding.holds { "True" } else { "False" };
            let unchanged = previous.iter().find(|old| old.type_ == type_ && old.status == status);
            Condition {
                type_: type_.into(),
                status: status.into(),
                reason: finding.reason,
                message: finding.message,
                observed_generation: generation,
                last_transition_time: unchanged
                    .map_or_else(|| Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

fn record(facts: &RegistrationFacts, previous: Record, now: Timestamp) -> Record {
    let RegistrationFacts::Registered { record, verifiable, .. } = facts else { return previous };
    let Record { current, former } = record.as_ref().clone();
    let current = current.map(|registration| {
        let fresh =
            RegistrationStatus { last_verified_time: verifiable.then_some(Time(now)), ..registration };
        // A look that finds all as it was says nothing new: written down, it would wake every watcher of the route.
        previous.current.filter(|old| is_same(old, &fresh)).unwrap_or(fresh)
    });
    Record { current, former }
}

/// Whether both say the same, but for when exactly it was verified.
fn is_same(old: &RegistrationStatus, fresh: &RegistrationStatus) -> bool {
    let both_or_none = old.last_verified_time.is_some() == fresh.last_verified_time.is_some();
    both_or_none
        && *old == RegistrationStatus { last_verified_time: old.last_verified_time.clone(), ..fresh.clone() }
}

/// The signing part of the status.
pub fn signing(revision: String, phase: SigningPhase, retire_at: Option<Timestamp>) -> SigningStatus {
    SigningStatus { revision, phase, retire_time: retire_at.map(Time) }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A condition that reads otherwise than before.
pub struct Change<'s> {
    /// The condition as it is now.
    pub condition: &'s Condition,
    /// Whether somebody should look at it, because it is neither good nor on its way to be.
    pub is_alarming: bool,
}

/// The conditions that read otherwise than before, for the events that tell of them. What repeats another condition is
/// left out.
pub fn changes<'s>(
    previous: Option<&PresenceRouteStatus>,
    current: &'s PresenceRouteStatus,
) -> impl Iterator<Item = Change<'s>> {
    let before: Vec<Condition> = previous.iter().flat_map(|status| status.conditions.clone()).collect();
    current.conditions.iter().filter_map(move |condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        let is_first = old.is_none();
        let holds = condition.status == "True";
        let (type_, reason) = (condition.type_.as_str(), condition.reason.as_str());
        let is_repeated = type_ == "Ready" || (type_ == "RoutingLive" && reason == NO_REPLICA_READY);
        let is_expected = is_first && holds && matches!(type_, "Accepted" | "SecretsResolved");
        let is_known = old.is_some_and(|old| {
            // That another revision is live is news, even where it took no time.
            let is_same_revision = !(holds && type_ == "RoutingLive") || old.message == condition.message;
            old.status == condition.status && old.reason == condition.reason && is_same_revision
        });
        if is_repeated || is_expected || is_known {
            return None;
        }
        // A route that was just made has no ready pod yet.
        let is_starting = is_first && matches!(reason, NO_REPLICA_READY | "RelayNotCreated");
        let is_meant = matches!(reason, "Waiting" | PROGRESSING | "Suspended" | "ScaledToZero");
        let is_left = reason == FORMER_LEFT;
        Some(Change { condition, is_alarming: is_left || !(holds || is_starting || is_meant) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> PresenceRouteStatus {
        let conditions = conditions.iter().map(|(type_, status, reason)| Condition {
            type_: (*type_).into(),
            status: (*status).into(),
            reason: (*reason).into(),
            message: String::new(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        PresenceRouteStatus { conditions: conditions.collect(), ..PresenceRouteStatus::default() }
    }

    fn told(previous: Option<&PresenceRouteStatus>, current: &PresenceRouteStatus) -> Vec<(String, bool)> {
        changes(previous, current)
            .map(|change| {
                (format!("{} {}", change.condition.type_, change.condition.reason), change.is_alarming)
            })
            .collect()
    }

    #[test]
    fn a_route_that_comes_up_tells_each_step_once_and_alarms_nobody() {
        let made = status(&[
            ("Accepted", "True", "Accepted"),
            ("SecretsResolved", "True", "Resolved"),
            ("RelayAvailable", "False", "NoReplicaReady"),
            ("RoutingLive", "False", "NoReplicaReady"),
            ("Registered", "False", "Waiting"),
            ("Ready", "False", "NoReplicaReady"),
        ]);
        let expected =
            [("RelayAvailable NoReplicaReady".into(), false), ("Registered Waiting".into(), false)];
        assert_eq!(told(None, &made), expected);
        assert_eq!(told(Some(&made), &made), []);
        let up = status(&[
            ("Accepted", "True", "Accepted"),
            ("SecretsResolved", "True", "Resolved"),
            ("RelayAvailable", "True", "Available"),
            ("RoutingLive", "True", "Live"),
            ("Registered", "True", "Registered"),
            ("Ready", "True", "Ready"),
        ]);
        let steps = ["RelayAvailable Available", "RoutingLive Live", "Registered Registered"];
        assert_eq!(told(Some(&made), &up), steps.map(|step| (step.to_owned(), false)));
    }

    #[test]
    fn relays_that_go_are_told_of_also_while_the_spec_is_refused() {
        let up = status(&[("Accepted", "True", "Accepted"), ("RelayAvailable", "True", "Available")]);
        let deployment = Some(DeploymentFacts { wanted: 2, replicas: 2, ready: 0 });
        let observed = Observed::Refused { problems: vec!["spec.kafka: ...".into()], deployment };
        let down = build(Some(&up), Some(2), observed, Timestamp::UNIX_EPOCH);
        assert_eq!(
            told(Some(&up), &down),
            [("Accepted Invalid".into(), true), ("RelayAvailable NoReplicaReady".into(), true)]
        );
    }

    #[test]
    fn a_registration_that_stays_as_it_was_is_not_written_anew_however_often_it_is_looked_at() {
        let registration = |event_types: &[&str]| RegistrationFacts::Registered {
            record: Box::new(Record { current: Some(registration(event_types)), former: Vec::new() }),
            left: None,
            verifiable: true,
            trusted_for: Duration::ZERO,
        };
        let at = |hours| Timestamp::UNIX_EPOCH + k8s_openapi::jiff::SignedDuration::from_hours(hours);
        let first = record(&registration(&["a"]), Record::default(), at(0));
        let verified = |record: &Record| record.current.as_ref().unwrap().last_verified_time.clone();
        assert_eq!(verified(&first), Some(Time(at(0))));
        assert_eq!(record(&registration(&["a"]), first.clone(), at(100)), first);
        let changed = record(&registration(&["a", "b"]), first, at(100));
        assert_eq!(verified(&changed), Some(Time(at(100))));
    }

    fn registration(event_types: &[&str]) -> RegistrationStatus {
        let status = serde_json::json!({
            "id": "1", "name": "presence/one",
            "access": {
                "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/b",
                "tokenRequest": "Json", "clientId": "c", "credentialsSecretRef": {"name": "oauth"},
            },
            "url": "https://presence.example.com/one", "enabled": true, "eventTypes": event_types,
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_fails_later_alarms() {
        let up = status(&[("SecretsResolved", "True", "Resolved"), ("RelayAvailable", "True", "Available")]);
        let down = status(&[
            ("SecretsResolved", "False", "SecretsUnresolved"),
            ("RelayAvailable", "False", "NoReplicaReady"),
        ]);
        let alarms = ["SecretsResolved SecretsUnresolved", "RelayAvailable NoReplicaReady"];
        assert_eq!(told(Some(&up), &down), alarms.map(|alarm| (alarm.to_owned(), true)));
        assert_eq!(told(Some(&down), &up)[0], ("SecretsResolved Resolved".into(), false));
    }
}
