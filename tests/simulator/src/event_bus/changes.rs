//! Runs of presence changes: simulated agents change, active integrations send that to the bus, and each rule that matches
//! delivers it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Rule;
use super::retry::{self, Next};
use crate::Simulator;
use crate::delivery::{
    Delivery, EnvelopeRecord, EventRecord, OUTSTANDING, Outcome, Pace, PlanError, Run, UNMATCHED_WAIT,
    complete, in_turn, random_seed,
};
use crate::integrations::{EventBridgeProperties, IntegrationState};
use crate::moment::Moment;
use crate::notification::{Notification, NotificationGenerator, PRESENCE, envelope, envelope_id};

const DEFAULT_AGENTS: u32 = 250;
const MOST_AGENTS: u32 = 1_000_000;

/// How many agents change, what, and how fast. Every field is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PresencePlan {
    /// How many agents take turns, 1 to 1000000; 250 by default.
    pub agents: Option<u32>,
    /// How many changes; without it, until the run is stopped or `max_seconds` are over.
    pub count: Option<u64>,
    /// How many changes a second, above 0 and up to 100000; by default as many as `concurrency` allows.
    pub rate_per_second: Option<f64>,
    /// How many deliveries may be on the wire at once, 1 to 1024; 32 by default. One that waits for its retry
    /// is not on the wire.
    pub concurrency: Option<usize>,
    /// The topics of the changes, in turn, such as `v2.users.{id}.presence`; by default those of the active integrations.
    pub topics: Option<Vec<String>>,
    /// The full name of the event source that sends the changes; by default that of every active integration.
    pub event_source: Option<String>,
    /// The seed of agents, ids and bodies; by default a new one for each run, so that no id repeats.
    pub seed: Option<u64>,
    /// No change is made later than this many seconds after the start; 3600 where there is no `count`.
    pub max_seconds: Option<u64>,
}

/// A valid plan.
struct CheckedPlan {
    agents: u32,
    pace: Pace,
    topics: Option<Vec<String>>,
    event_source: Option<String>,
    seed: u64,
}

impl PresencePlan {
    fn check(self) -> Result<CheckedPlan, PlanError> {
        let invalid = |message: &str| Err(PlanError::Invalid(message.to_owned()));
        let agents = self.agents.unwrap_or(DEFAULT_AGENTS);
        if !(1..=MOST_AGENTS).contains(&agents) {
            return invalid("\"agents\" must be 1 to 1000000");
        }
        if self.topics.as_ref().is_some_and(Vec::is_empty) {
            return invalid("\"topics\" must not be empty; leave it out for those of the integrations");
        }
        Ok(CheckedPlan {
            agents,
            pace: Pace::check(self.count, self.rate_per_second, self.concurrency, self.max_seconds)?,
            topics: self.topics,
            event_source: self.event_source,
            seed: self.seed.unwrap_or_else(random_seed),
        })
    }
}

impl Simulator {
    /// Starts a run of that plan. Changes that no active integration sends to a rule count as unmatched. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] names what is wrong with the plan; [`PlanError::NoRule`] where the event bus has no rule.
    pub fn change_presence(&self, plan: PresencePlan) -> Result<Delivery, PlanError> {
        let plan = plan.check()?;
        if self.rules().is_empty() {
            return Err(PlanError::NoRule);
        }
        let run = Arc::new(Run::new(plan.seed));
        self.inner.ledger.lock().add(Arc::clone(&run));
        tracing::info!(delivery = %run.id, seed = plan.seed, agents = plan.agents, "changing presence");
        let (simulator, its_run) = (self.clone(), Arc::clone(&run));
        tokio::spawn(async move {
            let deliveries = TaskTracker::new();
            let produce = produce(&simulator, &its_run, &plan, &deliveries);
            complete(&its_run, &plan.pace, &deliveries, produce).await;
        });
        Ok(Delivery { run, simulator: self.clone() })
    }

    /// The integrations that send events now, of that event source or of all.
    fn sources(&self, event_source: Option<&String>) -> Vec<Source> {
        self.integrations()
            .into_iter()
            .filter(|integration| integration.state == IntegrationState::Active)
            .filter_map(|integration| {
                Some(Source { name: integration.event_source?, properties: integration.properties? })
            })
            .filter(|source| event_source.is_none_or(|wanted| *wanted == source.name))
            .collect()
    }
}

struct Source {
    name: String,
    properties: EventBridgeProperties,
}

/// Permits of a delivery: to be outstanding, and to be on the wire.
struct Permits {
    outstanding: Arc<Semaphore>,
    wire: Arc<Semaphore>,
}

struct Permit {
    room: OwnedSemaphorePermit,
    slot: OwnedSemaphorePermit,
}

impl Permits {
    async fn acquire(&self) -> Option<Permit> {
        let room = Arc::clone(&self.outstanding).acquire_owned().await.ok()?;
        let slot = Arc::clone(&self.wire).acquire_owned().await.ok()?;
        Some(Permit { room, slot })
    }
}

async fn produce(simulator: &Simulator, run: &Arc<Run>, plan: &CheckedPlan, deliveries: &TaskTracker) {
    let generator = NotificationGenerator::new(plan.seed, plan.agents);
    let permits = Permits {
        outstanding: Arc::new(Semaphore::new(OUTSTANDING)),
        wire: Arc::new(Semaphore::new(plan.pace.concurrency)),
    };
    let start = Instant::now();
    for index in 0..plan.pace.count.unwrap_or(u64::MAX) {
        plan.pace.wait(start, index).await;
        // The change is made once there is room to send it, so that its time is the time of sending.
        let mut permit = permits.acquire().await;
        let sources = simulator.sources(plan.event_source.as_ref());
        let topic = match &plan.topics {
            Some(topics) => in_turn(topics.iter(), index),
            None => in_turn(sources.iter().flat_map(|source| &source.properties.event_filter), index),
        };
        let notification =
            generator.notification(index, topic.map_or(PRESENCE, String::as_str), Moment::now());
        run.count_event();
        let rules = simulator.rules();
        let mut is_matched = false;
        for source in
            sources.iter().filter(|source| source.properties.event_filter.contains(&notification.topic))
        {
            let body = Bytes::from(envelope(&notification, &source.name, &source.properties));
            for rule in rules.iter().filter(|rule| rule.spec.matches(&source.name, &notification.topic)) {
                is_matched = true;
                let permit = match permit.take() {
                    Some(permit) => permit,
                    None => match permits.acquire().await {
                        Some(permit) => permit,
                        None => return,
                    },
                };
                run.count_started();
                let envelope = Envelope::new(rule, &notification, &source.name, body.clone());
                let wire = Arc::clone(&permits.wire);
                deliveries.spawn(deliver(simulator.clone(), Arc::clone(run), envelope, wire, permit));
            }
        }
        if !is_matched {
            drop(permit);
            run.count_unmatched();
            if plan.pace.rate_per_second.is_none() && plan.pace.count.is_none() {
                sleep(UNMATCHED_WAIT).await;
            }
        }
    }
}

/// An envelope on its way to the target of a rule, the same in every try.
struct Envelope {
    rule: Arc<Rule>,
    id: Uuid,
    detail_type: String,
    user_id: Uuid,
    detail_sha256: String,
    body: Bytes,
}

impl Envelope {
    fn new(rule: &Arc<Rule>, notification: &Notification, event_source: &str, body: Bytes) -> Self {
        Self {
            rule: Arc::clone(rule),
            id: envelope_id(notification, event_source),
            detail_type: notification.topic.clone(),
            user_id: notification.user_id,
            detail_sha256: hex::encode(Sha256::digest(&notification.detail)),
            body,
        }
    }
}

/// Delivers, and records the outcome.
async fn deliver(
    simulator: Simulator,
    run: Arc<Run>,
    envelope: Envelope,
    wire: Arc<Semaphore>,
    permit: Permit,
) {
    let Permit { room, slot } = permit;
    let begun = Instant::now();
    let mut attempts = Vec::new();
    let mut slot = Some(slot);
    let outcome = loop {
        let tried = envelope.rule.send(&envelope.body).await;
        drop(slot.take());
        run.count_attempt(tried.attempt.status, tried.latency);
        attempts.push(tried.attempt);
        let next = retry::next(
            tried.verdict,
            envelope.rule.spec.retry_policy,
            attempts.len(),
            begun.elapsed(),
            simulator.inner.config.retry_base_delay,
            random(),
        );
        let wait = match next {
            Next::Done(outcome) => break outcome,
            Next::TryAgainIn(wait) => wait,
        };
        let again = async {
            sleep(wait).await;
            Arc::clone(&wire).acquire_owned().await.ok()
        };
        slot = tokio::select! {
            slot = again => slot,
            () = run.stop.cancelled() => break Outcome::Abandoned,
        };
    };
    tracing::debug!(delivery = %run.id, event = %envelope.id, attempts = attempts.len(), ?outcome, "envelope");
    let record = EventRecord {
        delivery_id: run.id,
        id: Some(envelope.id.to_string()),
        event_type: Some(envelope.detail_type),
        registration_id: None,
        body_sha256: hex::encode(Sha256::digest(&envelope.body)),
        envelope: Some(EnvelopeRecord {
            rule: envelope.rule.spec.name.clone(),
            user_id: envelope.user_id,
            detail_sha256: envelope.detail_sha256,
        }),
        body: envelope.body,
        attempts,
        outcome,
    };
    simulator.inner.ledger.lock().record(&run, record);
    drop(room);
}

/// From 0 to 1.
fn random() -> f64 {
    (Uuid::new_v4().as_u64_pair().1 & 0xffff_ffff) as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_that_cannot_be_is_refused() {
        for plan in [json!({"agents": 0}), json!({"topics": []}), json!({"count": 0})] {
            let plan: PresencePlan = serde_json::from_str(&plan.to_string()).unwrap();
            assert!(matches!(plan.clone().check(), Err(PlanError::Invalid(_))), "{plan:?}");
        }
        assert!(serde_json::from_str::<PresencePlan>(r#"{"agent": 1}"#).is_err());
    }
}
