//! The outcome of each event, and the counts of each run. Bounded: the counts of the last runs and the last
//! outcomes are kept, the oldest are dropped first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::latency::Latencies;
use crate::moment::Moment;

/// How many outcomes are kept one by one, over all runs.
pub const REMEMBERED_EVENTS: usize = 100_000;

/// The most bytes of all kept events' bodies; above it, the oldest events are dropped earlier.
pub const REMEMBERED_BODY_BYTES: usize = 256 * 1024 * 1024;

/// How many runs are kept; a run that is not over is never dropped.
pub const REMEMBERED_RUNS: usize = 1_000;

const UNREAD_OUTCOMES: usize = 4_096;

/// One event, delivered to one registration or one target of the event bus, or not.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// Its run.
    pub delivery_id: Uuid,
    /// The event's id; `None` where an event that was sent as it is has none.
    pub id: Option<String>,
    /// The event's type, likewise.
    pub event_type: Option<String>,
    /// The registration it was sent to; `None` where it was sent by the event bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_id: Option<Uuid>,
    /// What is known of an event that was sent by the event bus.
    #[serde(flatten)]
    pub envelope: Option<EnvelopeRecord>,
    /// The lowercase-hex SHA-256 of the body, the same in every attempt.
    pub body_sha256: String,
    /// The body, byte for byte.
    #[serde(skip)]
    pub body: Bytes,
    /// Every attempt, in order; at least one.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub outcome: Outcome,
}

/// An envelope, sent by a rule of the event bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvelopeRecord {
    /// The rule's name.
    pub rule: String,
    /// The agent that it is about.
    pub user_id: Uuid,
    /// The lowercase-hex SHA-256 of its `detail`, byte for byte.
    pub detail_sha256: String,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When it began.
    pub at: Moment,
    /// The answer's status; `None` where there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first 256 characters of an answer that was not a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// From the first byte sent to the last byte of the answer, in milliseconds.
    pub latency_ms: f64,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Answered 2xx.
    Delivered,
    /// Answered with a status that is not retried.
    Dropped,
    /// Failed after all retries that the registration or the rule allows.
    Exhausted,
    /// Waiting for a retry when its run was stopped.
    Abandoned,
}

/// Whether a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Events are generated, or outcomes are awaited.
    Running,
    /// Every event has its outcome.
    Done,
    /// It was stopped before that.
    Stopped,
}

/// The state of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverySummary {
    /// The run.
    pub id: Uuid,
    /// Whether it is over.
    pub state: RunState,
    /// When it began.
    pub started: Moment,
    /// When its last outcome was known.
    pub finished: Option<Moment>,
    /// The seed of its events: a plan with this seed generates the same ids.
    pub seed: u64,
    /// Events generated.
    pub events: u64,
    /// Events that no registration subscribes to, or that no active integration sends to a rule.
    pub unmatched: u64,
    /// Deliveries begun: one for each event and registration that subscribes to it, or rule that matches it.
    pub deliveries: u64,
    /// Deliveries on the wire or waiting for a retry.
    pub in_flight: u64,
    /// Attempts, including retries.
    pub attempts: u64,
    /// Deliveries by outcome; every outcome is listed.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Attempts by status; those without an answer are under `none`.
    pub statuses: BTreeMap<String, u64>,
    /// Deliveries that ended, by event type; those without one are under the empty text.
    pub event_types: BTreeMap<String, u64>,
    /// How long attempts took; `None` before the first.
    pub latency_ms: Option<LatencySummary>,
}

/// How long attempts took, in milliseconds. Quantiles are right to 1 part in 64.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// The median.
    pub p50: f64,
    /// What 99 in 100 do not exceed.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: Uuid,
    pub(crate) stop: CancellationToken,
    /// Ends the making of events, and lets those that were made come to their ends.
    pub(crate) closing: CancellationToken,
    seed: u64,
    started: Moment,
    state: watch::Sender<RunState>,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    finished: Option<Moment>,
    events: u64,
    unmatched: u64,
    deliveries: u64,
    attempts: u64,
    outcomes: BTreeMap<Outcome, u64>,
    statuses: BTreeMap<Option<u16>, u64>,
    event_types: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            id: Uuid::new_v4(),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
            seed,
            started: Moment::now(),
            state: watch::Sender::new(RunState::Running),
            tally: Mutex::default(),
        }
    }

    pub(crate) fn count_event(&self) {
        self.tally.lock().events += 1;
    }

    pub(crate) fn count_unmatched(&self) {
        self.tally.lock().unmatched += 1;
    }

    pub(crate) fn count_started(&self) {
        self.tally.lock().deliveries += 1;
    }

    pub(crate) fn count_attempt(&self, status: Option<u16>, latency: Duration) {
        let mut tally = self.tally.lock();
        tally.attempts += 1;
        *tally.statuses.entry(status).or_default() += 1;
        tally.latencies.add(latency);
    }

    fn count_outcome(&self, record: &EventRecord) {
        let mut tally = self.tally.lock();
        *tally.outcomes.entry(record.outcome).or_default() += 1;
        let event_type = record.event_type.as_deref().unwrap_or_default();
        match tally.event_types.get_mut(event_type) {
            Some(count) => *count += 1,
            None => {
                tally.event_types.insert(event_type.to_owned(), 1);
            }
        }
    }

    pub(crate) fn finish(&self, state: RunState) {
        self.tally.lock().finished = Some(Moment::now());
        self.state.send_replace(state);
    }

    pub(crate) async fn finished(&self) {
        // This run owns the sender, so the channel cannot close during the wait.
        let _ = self.state.subscribe().wait_for(|state| *state != RunState::Running).await;
    }

    fn is_running(&self) -> bool {
        *self.state.borrow() == RunState::Running
    }

    pub(crate) fn summary(&self) -> DeliverySummary {
        let state = *self.state.borrow();
        let tally = self.tally.lock();
        let every = [Outcome::Delivered, Outcome::Dropped, Outcome::Exhausted, Outcome::Abandoned];
        let count = |outcome: &Outcome| tally.outcomes.get(outcome).copied().unwrap_or_default();
        let outcomes: BTreeMap<_, _> = every.into_iter().map(|outcome| (outcome, count(&outcome))).collect();
        DeliverySummary {
            id: self.id,
            state,
            started: self.started,
            finished: tally.finished,
            seed: self.seed,
            events: tally.events,
            unmatched: tally.unmatched,
            deliveries: tally.deliveries,
            in_flight: tally.deliveries - outcomes.values().sum::<u64>(),
            attempts: tally.attempts,
            outcomes,
            statuses: tally
                .statuses
                .iter()
                .map(|(status, count)| {
                    (status.map_or("none".to_owned(), |status| status.to_string()), *count)
                })
                .collect(),
            event_types: tally.event_types.clone(),
            latency_ms: latency_summary(&tally.latencies),
        }
    }
}

fn latency_summary(latencies: &Latencies) -> Option<LatencySummary> {
    Some(LatencySummary {
        p50: milliseconds(latencies.quantile(0.5)?),
        p99: milliseconds(latencies.quantile(0.99)?),
        max: milliseconds(latencies.longest()?),
    })
}

/// To the microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// All runs and the outcomes of their events.
pub(crate) struct Ledger {
    runs: VecDeque<Arc<Run>>,
    events: VecDeque<Arc<EventRecord>>,
    body_bytes: usize,
    pub(super) outcomes: broadcast::Sender<Arc<EventRecord>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            runs: VecDeque::new(),
            events: VecDeque::new(),
            body_bytes: 0,
            outcomes: broadcast::Sender::new(UNREAD_OUTCOMES),
        }
    }
}

impl Ledger {
    pub(crate) fn add(&mut self, run: Arc<Run>) {
        if self.runs.len() >= REMEMBERED_RUNS
            && let Some(oldest) = self.runs.iter().position(|run| !run.is_running())
        {
            self.runs.remove(oldest);
        }
        self.runs.push_back(run);
    }

    pub(super) fn run(&self, id: Uuid) -> Option<Arc<Run>> {
        self.runs.iter().find(|run| run.id == id).cloned()
    }

    pub(super) fn runs(&self) -> Vec<Arc<Run>> {
        self.runs.iter().cloned().collect()
    }

    pub(super) fn events(&self, run: Uuid) -> Vec<Arc<EventRecord>> {
        self.events.iter().filter(|event| event.delivery_id == run).cloned().collect()
    }

    /// Records an outcome; that of a run that was dropped meanwhile is not kept.
    pub(crate) fn record(&mut self, run: &Run, record: EventRecord) {
        run.count_outcome(&record);
        let record = Arc::new(record);
        // There may be no receiver.
        let _ = self.outcomes.send(Arc::clone(&record));
        if !self.runs.iter().any(|known| known.id == run.id) {
            return;
        }
        self.body_bytes += record.body.len();
        self.events.push_back(record);
        while self.events.len() > REMEMBERED_EVENTS || self.body_bytes > REMEMBERED_BODY_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.body_bytes -= oldest.body.len();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.events.clear();
        self.body_bytes = 0;
    }
}
