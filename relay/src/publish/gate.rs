//! When a record is handed to the library: at once while there are few, and together with others while there are
//! many.
//!
//! A fixed wait for a batch buys either latency or cost. This buys both: hand-overs keep a distance, and a record that
//! comes later than that after the last one does not wait. So with few events none waits, and with many each hand-over,
//! each request to Kafka and each answer is shared. The next record to come opens the gate for those before it, which
//! takes no thread and no timer; only where none comes does a timer, and it is that of the first sender that waits.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::failure::Failure;
use super::ledger::Delivery;
use super::native::{self, Headers, Topic};
use super::producer::{Reports, Sent};
use crate::metrics::seconds;

/// How far apart hand-overs are, at least.
const APART: Duration = Duration::from_micros(1_300);

/// The same after one of [`MANY`] records or more: then the relay is near what it can do, and a wait costs less than
/// the work it saves.
const FAR_APART: Duration = Duration::from_millis(4);

/// As many as come within [`APART`] at 18,500 a second. Once there are, [`FAR_APART`] holds down to a third of that.
const MANY: usize = 24;

/// Decides when records are handed over.
pub(super) struct Gate {
    reports: Arc<Reports>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    records: Vec<Message>,
    /// When the gate may open again.
    opens_at: Option<Instant>,
}

/// A record that is ready to be handed over.
pub(super) struct Message {
    pub(super) topic: Arc<Topic>,
    pub(super) key: Box<[u8]>,
    pub(super) body: Bytes,
    pub(super) headers: Headers,
    pub(super) delivery: Delivery,
    /// When it was decided where it goes.
    pub(super) since: Instant,
}

/// The first record that waits for the gate to open. Dropped, it opens the gate: records are sent also when the sender of
/// the first has gone.
pub(super) struct Gathering {
    gate: Arc<Gate>,
    opens_at: Instant,
    is_over: bool,
}

impl Gate {
    /// An open gate. What the library does not even take is told to `reports`.
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self { reports, waiting: Mutex::default() }
    }

    /// Hands a record over, now or soon: where it is the first of those that wait, whoever called sees to the
    /// [`Gathering`], which is that of all of them.
    pub(super) fn send(self: &Arc<Self>, message: Message) -> Option<Gathering> {
        let now = message.since;
        let records = {
            let mut waiting = self.waiting();
            if let Some(opens_at) = waiting.opens_at.filter(|at| now < *at) {
                waiting.records.push(message);
                let is_first = waiting.records.len() == 1;
                return is_first.then(|| Gathering { gate: Arc::clone(self), opens_at, is_over: false });
            }
            waiting.take(now, 1)
        };
        records.into_iter().chain([message]).for_each(|message| self.hand_over(message, now));
        None
    }

    /// Hands over what waits, if it may be.
    pub(super) fn open_if_due(&self) {
        let now = Instant::now();
        let records = {
            let mut waiting = self.waiting();
            if waiting.records.is_empty() || waiting.opens_at.is_some_and(|at| now < at) {
                return;
            }
            waiting.take(now, 0)
        };
        records.into_iter().for_each(|message| self.hand_over(message, now));
    }

    /// Hands over what waits.
    pub(super) fn open(&self) {
        let now = Instant::now();
        let records = self.waiting().take(now, 0);
        records.into_iter().for_each(|message| self.hand_over(message, now));
    }

    fn hand_over(&self, message: Message, now: Instant) {
        let Message { topic, key, body, headers, delivery, since } = message;
        self.reports.metrics.stages.queue.observe(seconds(now.duration_since(since)));
        let sent = Box::new(Sent { delivery, topic: Arc::clone(&topic), body, since: now });
        if let Err((code, sent)) = native::produce(&topic, &key, headers, sent) {
            self.reports.count_failure(topic.name(), code);
            sent.delivery.finish(Err(Failure::from_code(code)));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside panics half-way, so what another thread left behind is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// All that waits, to be handed over now together with so many `more`.
    fn take(&mut self, now: Instant, more: usize) -> Vec<Message> {
        let waited = self.records.len();
        self.opens_at = Some(now + apart(waited + more));
        // As many are likely to wait again; where none did, nothing is allocated for none.
        std::mem::replace(&mut self.records, Vec::with_capacity(waited))
    }
}

/// How long after a hand-over of so many the next one may be.
fn apart(records: usize) -> Duration {
    if records < MANY { APART } else { FAR_APART }
}

impl Gathering {
    /// Waits for `outcome`, and opens the gate when nobody else does.
    pub(super) async fn until<T>(mut self, outcome: impl Future<Output = T>) -> T {
        let mut outcome = pin!(outcome);
        let came = tokio::time::timeout_at(self.opens_at.into(), &mut outcome).await;
        self.is_over = true;
        match came {
            Ok(outcome) => outcome,
            Err(_) => {
                self.gate.open_if_due();
                outcome.await
            }
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        if !self.is_over {
            self.gate.open();
        }
    }
}
