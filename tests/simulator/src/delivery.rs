//! Delivers events to the registrations as Genesys does: signed, retried, dropped. A plan starts a run; the
//! run generates events at its rate and passes each to `send`; `ledger` keeps the outcomes.

mod latency;
mod ledger;
mod pace;
mod plan;
mod send;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use ledger::{
    Attempt, DeliverySummary, EnvelopeRecord, EventRecord, LatencySummary, Outcome, REMEMBERED_BODY_BYTES,
    REMEMBERED_EVENTS, REMEMBERED_RUNS, RunState,
};
pub(crate) use ledger::{Ledger, Run, milliseconds};
pub(crate) use pace::Pace;
pub(crate) use plan::random_seed;
pub use plan::{DeliveryPlan, PlanError, SignWith};
pub(crate) use send::{build as build_client, client, explain, read};

use crate::Simulator;
use crate::event::Generator;
use crate::eventbridges::Registration;
use crate::moment::Moment;
use crate::signature;
use plan::{CheckedPlan, Content};
use send::Outgoing;

/// The most outstanding deliveries of a run, including those that wait for a retry; at that, the run waits.
pub(crate) const OUTSTANDING: usize = 10_000;

/// How long a run without a rate waits when no registration subscribes to its events.
pub(crate) const UNMATCHED_WAIT: Duration = Duration::from_millis(100);

/// A handle of a run. The run continues when the handle is dropped.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(crate) run: Arc<Run>,
    pub(crate) simulator: Simulator,
}

impl Delivery {
    /// The run's id in the control API.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.run.id
    }

    /// The run's state and counts.
    #[must_use]
    pub fn summary(&self) -> DeliverySummary {
        self.run.summary()
    }

    /// Waits until every event has its outcome, and returns the summary.
    pub async fn finished(&self) -> DeliverySummary {
        self.run.finished().await;
        self.run.summary()
    }

    /// Generates no more events and retries no more deliveries; those on the wire get their answer.
    pub fn stop(&self) {
        self.run.stop.cancel();
    }

    /// Generates no more events, and lets those that were generated come to their ends, with every retry.
    pub fn finish(&self) {
        self.run.closing.cancel();
    }

    /// The events whose outcome is known and still kept, in the order of their outcomes.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<EventRecord>> {
        self.simulator.inner.ledger.lock().events(self.run.id)
    }
}

impl Simulator {
    /// Starts a run of that plan. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] names what is wrong with the plan; [`PlanError::NoRegistration`] where there is no
    /// enabled registration.
    pub fn deliver(&self, plan: DeliveryPlan) -> Result<Delivery, PlanError> {
        let plan = plan.check()?;
        if self.candidates(&plan).is_empty() {
            return Err(PlanError::NoRegistration);
        }
        let run = Arc::new(Run::new(plan.seed));
        self.inner.ledger.lock().add(Arc::clone(&run));
        tracing::info!(delivery = %run.id, seed = plan.seed, "delivering");
        tokio::spawn(drive(self.clone(), Arc::clone(&run), plan));
        Ok(Delivery { run, simulator: self.clone() })
    }

    /// The run of that id, while it is kept.
    #[must_use]
    pub fn delivery(&self, id: Uuid) -> Option<Delivery> {
        let run = self.inner.ledger.lock().run(id)?;
        Some(Delivery { run, simulator: self.clone() })
    }

    /// All kept runs, oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        let runs = self.inner.ledger.lock().runs();
        runs.into_iter().map(|run| Delivery { run, simulator: self.clone() }).collect()
    }

    /// Every event of every run from now on, as its outcome becomes known. A receiver that lags by more than
    /// 4096 events loses the oldest and gets their number.
    #[must_use]
    pub fn outcomes(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.inner.ledger.lock().outcomes.subscribe()
    }

    /// The enabled registrations of the plan, whatever event types they subscribe to.
    fn candidates(&self, plan: &CheckedPlan) -> Vec<Arc<Registration>> {
        let named = |registration: &Registration| {
            plan.registration
                .as_ref()
                .is_none_or(|wanted| *wanted == registration.name || *wanted == registration.id.to_string())
        };
        self.inner
            .registrations
            .lock()
            .all()
            .filter(|registration| registration.enabled && named(registration))
            .cloned()
            .collect()
    }
}

/// One generated event, not sent yet.
struct Made {
    id: Option<String>,
    event_type: Option<String>,
    body: Bytes,
}

/// Generates the plan's events at its rate and sends each to its subscribers.
async fn drive(simulator: Simulator, run: Arc<Run>, plan: CheckedPlan) {
    let deliveries = TaskTracker::new();
    let produce = produce(&simulator, &run, &plan, &deliveries);
    complete(&run, &plan.pace, &deliveries, produce).await;
}

/// Lets `produce` make events until it ends, its time is over or the run is stopped, and waits for all outcomes.
pub(crate) async fn complete(
    run: &Run,
    pace: &Pace,
    deliveries: &TaskTracker,
    produce: impl Future<Output = ()>,
) {
    tokio::select! {
        () = produce => {}
        () = run.stop.cancelled() => {}
        () = run.closing.cancelled() => {}
        () = pace.over() => {}
    }
    deliveries.close();
    deliveries.wait().await;
    let state = if run.stop.is_cancelled() { RunState::Stopped } else { RunState::Done };
    run.finish(state);
    tracing::info!(delivery = %run.id, ?state, "delivery ended");
}

async fn produce(simulator: &Simulator, run: &Arc<Run>, plan: &CheckedPlan, deliveries: &TaskTracker) {
    let generator = Generator::new(plan.seed, plan.source.clone(), plan.attributes.clone());
    let wire = Arc::new(Semaphore::new(plan.pace.concurrency));
    let outstanding = Arc::new(Semaphore::new(OUTSTANDING));
    let start = Instant::now();
    for index in 0..plan.pace.count.unwrap_or(u64::MAX) {
        plan.pace.wait(start, index).await;
        // The event is generated once there is room to send it, so that its timestamp is the time of sending.
        let (Ok(mut room), Ok(mut slot)) =
            (Arc::clone(&outstanding).acquire_owned().await, Arc::clone(&wire).acquire_owned().await)
        else {
            return;
        };
        let candidates = simulator.candidates(plan);
        let Some(event) = make(plan, &generator, index, &candidates) else {
            return;
        };
        run.count_event();
        let mut targets =
            candidates.iter().filter(|target| plan.reaches(target, event.event_type.as_deref()));
        let Some(mut target) = targets.next() else {
            drop((room, slot));
            run.count_unmatched();
            if plan.pace.rate_per_second.is_none() && plan.pace.count.is_none() {
                sleep(UNMATCHED_WAIT).await;
            }
            continue;
        };
        loop {
            let outgoing = outgoing(simulator, plan, &event, target);
            run.count_started();
            deliveries.spawn(send::deliver(
                simulator.clone(),
                Arc::clone(run),
                outgoing,
                Arc::clone(&wire),
                slot,
                room,
            ));
            let Some(next) = targets.next() else { break };
            target = next;
            let (Ok(next_room), Ok(next_slot)) =
                (Arc::clone(&outstanding).acquire_owned().await, Arc::clone(&wire).acquire_owned().await)
            else {
                return;
            };
            (room, slot) = (next_room, next_slot);
        }
    }
}

/// The event of that index; `None` after the last of a list.
fn make(
    plan: &CheckedPlan,
    generator: &Generator,
    index: u64,
    candidates: &[Arc<Registration>],
) -> Option<Made> {
    #[derive(Deserialize)]
    struct Head {
        id: Option<String>,
        #[serde(rename = "eventType")]
        event_type: Option<String>,
    }
    match &plan.content {
        Content::Listed(events) => {
            let text = events.get(usize::try_from(index).ok()?)?.get();
            // A listed event need not be a valid event.
            let head = serde_json::from_str(text).unwrap_or(Head { id: None, event_type: None });
            Some(Made {
                id: head.id,
                event_type: head.event_type,
                body: Bytes::copy_from_slice(text.as_bytes()),
            })
        }
        Content::Generated(types) => {
            let event_type = match types {
                Some(types) => in_turn(types.iter(), index),
                None => in_turn(candidates.iter().flat_map(|target| &target.event_types), index),
            };
            let event_type = event_type.cloned().unwrap_or_default();
            let event = generator.event(index, &event_type, Moment::now().as_milliseconds());
            Some(Made {
                id: Some(event.id.to_string()),
                event_type: Some(event_type),
                // An event has only text, numbers and a map with text keys, which always have a JSON form.
                body: serde_json::to_vec(&event).unwrap_or_default().into(),
            })
        }
    }
}

/// The distinct texts in turn, in their order; `None` of none.
pub(crate) fn in_turn<'a>(texts: impl Iterator<Item = &'a String>, index: u64) -> Option<&'a String> {
    let mut distinct: Vec<&String> = Vec::new();
    for text in texts {
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    let turn = index.checked_rem(distinct.len() as u64)?;
    distinct.get(usize::try_from(turn).ok()?).copied()
}

/// Fixes URL, body and signature for all attempts, from the present registration.
fn outgoing(simulator: &Simulator, plan: &CheckedPlan, event: &Made, target: &Registration) -> Outgoing {
    let sign = |secret: &SecretString| Some(signature::sign(secret, &event.body));
    Outgoing {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        registration: target.id,
        endpoint: target.endpoint.clone(),
        body: event.body.clone(),
        signature: match &plan.sign_with {
            SignWith::Registration => sign(&target.secret),
            SignWith::Secret(secret) => sign(secret),
            SignWith::Nothing => None,
        },
        max_retries: target.retry_policy.max_retries,
        first_delay: simulator.inner.config.retry_base_delay,
        multiplier: target.retry_policy.backoff_multiplier.as_f64().unwrap_or(1.0),
    }
}

/// Stops every run.
pub(crate) fn stop_all(simulator: &Simulator) {
    let stops: Vec<CancellationToken> =
        simulator.inner.ledger.lock().runs().iter().map(|run| run.stop.clone()).collect();
    stops.iter().for_each(CancellationToken::cancel);
}
