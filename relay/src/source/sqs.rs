//! Amazon SQS: the queue that a rule of Amazon EventBridge sends envelopes to.
//!
//! Messages are received in batches, as many at once as the work needs, and never while Kafka is away ([`gate`]). A
//! message is deleted only after every topic has acknowledged its event, so a relay that dies loses none: the queue gives
//! the message to another relay once its visibility time-out is over. What cannot be published comes back after a time
//! that grows with each receive; the queue's own redrive policy decides when it is a dead letter.

mod client;
mod credentials;
mod error;
mod gate;
mod leases;
mod memory;
mod scale;
mod settle;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use presenceroute_core::relay_config::{Limits, SqsConfig};
use presenceroute_runtime::follow::Reloaded;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::presence_definitions::{self, PresenceDefinitions};
use crate::observe::labels::CodeLabel;
use crate::observe::metrics::Metrics;
use crate::observe::queue::Queue;
use crate::observe::trace_context::Trace;
use crate::outcome::{Delivered, Outcome, Problem, ProblemKind};
use crate::pipeline::{Incoming, Invalid, Pipeline};
use client::{Client, LONGEST_WAIT, MOST_MESSAGES, Message};
use error::QueueError;
use gate::{Admission, Gate};
use leases::{Lease, Leases, VISIBILITY};
use memory::{Memory, Share};
use scale::{MOST_RECEIVES, Scale};
use settle::{Settled, Settlement, Settler};

/// The largest message that Amazon SQS takes.
const LARGEST_MESSAGE: usize = 1 << 20;

/// How often it is looked whether Kafka can be reached.
const LOOK_AT_KAFKA: Duration = Duration::from_millis(500);

/// For how long a message is delivered again and again before it is given back. Longer than brokers need to elect a leader.
const HOLD: Duration = Duration::from_secs(30);

/// The first and the longest wait before a message is delivered again.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The first and the longest wait after a receive that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// For how long a message that cannot be published is hidden after its first receive, and at most. The longest is within
/// the default dedupe window of ten minutes, so that of several topics those that have its event get no second record.
const FIRST_HIDDEN: Duration = Duration::from_secs(30);
const LAST_HIDDEN: Duration = Duration::from_secs(480);

/// How long the last deletions may take at the end.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(10);

/// A queue that is to be received from.
pub struct Sqs {
    client: Arc<Client>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
    limits: Limits,
}

/// Why the queue cannot be received from at all. What may pass is on `/status` instead.
#[derive(Debug, thiserror::Error)]
#[error("sqs: {0}")]
pub struct SqsError(QueueError);

/// What receives and deliveries share.
struct Worker {
    client: Arc<Client>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    pipeline: Arc<Pipeline>,
    definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
    gate: Gate,
    /// How many messages may be held.
    permits: Arc<Semaphore>,
    memory: Memory,
    /// How many messages a receive asks for.
    most: usize,
    leases: Arc<Leases>,
    deletions: mpsc::UnboundedSender<Settled>,
    returns: mpsc::UnboundedSender<Settled>,
    stop: CancellationToken,
}

/// A message, and what it holds.
struct Held {
    message: Message,
    lease: Lease,
    permit: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Sqs {
    /// A source of the queue that `config` names; presences are named by the definitions. Files with credentials are
    /// followed until `stop`.
    pub async fn new(
        config: &SqsConfig,
        limits: Limits,
        definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
        metrics: Arc<Metrics>,
        queue: Arc<Queue>,
        stop: CancellationToken,
    ) -> Result<Self, SqsError> {
        let client = Arc::new(Client::new(config, stop).await.map_err(SqsError)?);
        Ok(Self { client, queue, metrics, definitions, limits })
    }

    /// Receives and delivers until `stop`; then finishes what it has, and gives back the rest.
    pub async fn run(self, pipeline: Arc<Pipeline>, stop: CancellationToken) {
        let drain = Duration::from_millis(self.limits.drain_ms);
        let settling = TaskTracker::new();
        let settler = |settlement| {
            Settler::start(settlement, Arc::clone(&self.client), Arc::clone(&self.queue), &settling)
        };
        let memory = Memory::new(self.limits.max_in_flight_bytes, MOST_RECEIVES);
        let most = memory.messages(LARGEST_MESSAGE, MOST_MESSAGES).min(self.limits.max_in_flight);
        let worker = Arc::new(Worker {
            deletions: settler(Settlement::Delete),
            returns: settler(Settlement::GiveBack),
            client: self.client,
            queue: self.queue,
            metrics: self.metrics,
            pipeline,
            definitions: self.definitions,
            gate: Gate::new(),
            permits: Arc::new(Semaphore::new(self.limits.max_in_flight.min(Semaphore::MAX_PERMITS))),
            memory,
            most,
            leases: Arc::default(),
            stop: stop.clone(),
        });
        let ended = CancellationToken::new();
        let extending = Arc::clone(&worker.leases).extend(
            Arc::clone(&worker.client),
            Arc::clone(&worker.queue),
            ended.clone(),
        );
        let extending = tokio::spawn(extending);
        let deliveries = TaskTracker::new();
        Arc::clone(&worker).receive_until_stopped(&deliveries, drain).await;
        deliveries.close();
        deliveries.wait().await;
        // With the last of the worker, its channels end.
        drop(worker);
        settling.close();
        if timeout(LAST_SETTLEMENTS, settling.wait()).await.is_err() {
            tracing::warn!("messages of the queue were not deleted or given back in time; they come again");
        }
        ended.cancel();
        // It fails only when extending panicked, and then nothing is left to wait for.
        let _ = extending.await;
    }
}

impl Worker {
    async fn receive_until_stopped(self: Arc<Self>, deliveries: &TaskTracker, drain: Duration) {
        let mut scale = Scale::new();
        let mut receiving = FuturesUnordered::new();
        let mut admission = self.gate.admission();
        let mut look = interval(LOOK_AT_KAFKA);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pause, mut not_before) = (FIRST_PAUSE, Instant::now());
        loop {
            let (receives, most) = match *admission.borrow_and_update() {
                Admission::Open => (scale.wanted(), self.most),
                Admission::Trial => (1, 1),
                Admission::Closed => (0, 0),
            };
            while receiving.len() < receives {
                receiving.push(Arc::clone(&self).receive(most, not_before));
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = look.tick() => self.gate.reachable(self.pipeline.can_deliver()),
                // The sender is the worker's own.
                _ = admission.changed() => {}
                Some(received) = receiving.next() => match received {
                    Ok(Some(messages)) => {
                        pause = FIRST_PAUSE;
                        scale.received(messages.len());
                        for held in messages {
                            deliveries.spawn(Arc::clone(&self).process(held));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        scale.failed();
                        self.queue.not_readable(error.to_string());
                        not_before = Instant::now() + pause;
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                }
            }
        }
        // What the queue gives to a receive that was given up is hidden until its time is over: hence not at once.
        let until = Instant::now() + drain;
        while let Ok(Some(received)) = timeout_at(until, receiving.next()).await {
            for held in received.ok().flatten().into_iter().flatten() {
                self.give_back(held, Duration::ZERO, ProblemKind::ShuttingDown);
            }
        }
    }

    /// One receive. Nothing, where the gate was closed before it began.
    async fn receive(
        self: Arc<Self>,
        most: usize,
        not_before: Instant,
    ) -> Result<Option<Vec<Held>>, QueueError> {
        sleep_until(not_before).await;
        let permits = u32::try_from(most).unwrap_or(1);
        let Ok(mut permits) = Arc::clone(&self.permits).acquire_many_owned(permits).await else {
            return Ok(None);
        };
        let Some(mut share) = self.memory.begin().await else { return Ok(None) };
        if *self.gate.admission().borrow() == Admission::Closed || self.stop.is_cancelled() {
            return Ok(None);
        }
        // The first answer is to come soon, for readiness.
        let wait = if self.queue.is_readable() { LONGEST_WAIT } else { Duration::ZERO };
        let received = self.client.receive(most, wait, VISIBILITY, &self.memory, &mut share).await;
        let messages = received.inspect_err(|error| {
            self.queue.metrics.errors.get_or_create(&CodeLabel { code: error.code() }).inc();
        })?;
        share.is_whole();
        let now = Instant::now();
        self.queue.answered(messages.len(), messages.iter().filter_map(|message| message.sent).min());
        let hold = |mut message: Message| {
            let permit = permits.split(1)?;
            self.queue.metrics.held.inc();
            let lease = self.leases.hold(std::mem::take(&mut message.receipt), now);
            Some(Held { lease, permit, _share: share.split(message.body.len()), message })
        };
        // More messages than were asked for are none of Amazon SQS; they come again.
        Ok(Some(messages.into_iter().map_while(hold).collect()))
    }

    /// Delivers a message, again and again while that may help, and ends its hold.
    async fn process(self: Arc<Self>, held: Held) {
        let begun = Instant::now();
        let mut admission = self.gate.admission();
        let (mut trial, mut retry) = (None, FIRST_RETRY);
        loop {
            let result = self.deliver(&held.message).await;
            let problem = match result {
                Ok(delivered) => {
                    if !matches!(delivered, Delivered::Filtered | Delivered::Dropped) {
                        self.gate.succeeded();
                    }
                    return self.delete(held, delivered);
                }
                Err(problem) if problem.kind.is_transient() => problem.kind,
                Err(problem) => {
                    let hidden = hidden_after(held.message.receives);
                    return self.give_back(held, hidden, problem.kind);
                }
            };
            self.gate.failed();
            trial = trial.or_else(|| self.gate.keep_as_trial());
            let is_kept = begun.elapsed() < HOLD || (trial.is_some() && self.gate.is_reachable());
            if !is_kept || self.stop.is_cancelled() {
                // At once: another relay may reach Kafka, and this one receives nothing until it does.
                return self.give_back(held, Duration::ZERO, problem);
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
                _ = admission.wait_for(|admission| *admission == Admission::Open) => {}
            }
        }
    }

    async fn deliver(&self, message: &Message) -> Result<Delivered, Problem> {
        let trace = Trace::default();
        match presence_definitions::decode(&message.body, &self.definitions) {
            Ok((event, detail)) => {
                let incoming = Incoming {
                    event: &event,
                    value: &detail,
                    trace,
                    received: std::time::Instant::now(),
                    span_start: self.pipeline.span_start(),
                };
                self.pipeline.deliver(&incoming, None).await
            }
            Err(error) => {
                let problem = Problem::new(ProblemKind::EventInvalid, error.to_string());
                let invalid =
                    Invalid { problem, event: None, value: &message.body, content_encoding: None, trace };
                self.pipeline.deliver_invalid(invalid, None).await
            }
        }
    }

    fn delete(&self, held: Held, delivered: Delivered) {
        self.metrics.answered(Outcome::Delivered(delivered));
        if let Some(sent) = held.message.sent {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.queue.metrics.delay.observe(now.saturating_sub(Duration::from_millis(sent)).as_secs_f64());
        }
        self.settle(&self.deletions, Settled::delete(held.lease, held.permit));
    }

    fn give_back(&self, held: Held, hidden: Duration, problem: ProblemKind) {
        self.metrics.answered(Outcome::Rejected(problem));
        self.queue.returned(problem);
        self.settle(&self.returns, Settled::give_back(held.lease, hidden, held.permit));
    }

    fn settle(&self, channel: &mpsc::UnboundedSender<Settled>, settled: Settled) {
        self.queue.metrics.held.dec();
        // It fails only when settling panicked; the message comes again.
        let _ = channel.send(settled);
    }
}

/// For how long a message that cannot be published is hidden after so many receives: doubled each time.
fn hidden_after(receives: u32) -> Duration {
    let doublings = receives.saturating_sub(1).min(16);
    (FIRST_HIDDEN * (1 << doublings)).min(LAST_HIDDEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_published_comes_back_ever_later() {
        let hidden: Vec<_> = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|n| hidden_after(n).as_secs()).into();
        assert_eq!(hidden, [30, 30, 60, 120, 240, 480, 480, 480]);
        assert!(LAST_HIDDEN < Duration::from_millis(Limits::default().dedupe_window_ms));
    }
}
