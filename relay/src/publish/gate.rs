//! When a record is handed to the library: at once while nothing is on its way to Kafka, and together with others
//! while something is.
//!
//! A fixed wait for a batch buys either latency or cost. This buys both: with few events none waits, and with many
//! each hand-over, each request and each answer is shared by those that came while the one before was on its way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::failure::Failure;
use super::ledger::Delivery;
use super::native::{self, Headers, Topic};
use super::producer::{Reports, Sent};
use crate::metrics::seconds;

/// The longest that a record waits for others, so that a slow partition does not hold up the rest.
const LONGEST: Duration = Duration::from_millis(2);

/// Decides when records are handed over.
pub(super) struct Gate {
    reports: Arc<Reports>,
    /// Rung when there is something to do: a report, or the first record that waits.
    pub(super) bell: Arc<Notify>,
    /// How many records the library has.
    on_their_way: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    records: Vec<Message>,
    since: Option<Instant>,
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

impl Gate {
    /// An open gate. What the library does not even take is told to `reports`.
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self {
            reports,
            bell: Arc::default(),
            on_their_way: AtomicUsize::default(),
            waiting: Mutex::default(),
        }
    }

    /// Hands a record over, now or soon.
    pub(super) fn send(&self, message: Message) {
        let mut waiting = self.waiting();
        if waiting.records.is_empty() && self.on_their_way.load(Ordering::Acquire) == 0 {
            drop(waiting);
            return self.hand_over(message);
        }
        waiting.records.push(message);
        if waiting.since.is_none() {
            waiting.since = Some(Instant::now());
            drop(waiting);
            self.bell.notify_one();
        }
    }

    /// One record has its report.
    pub(super) fn reported(&self) {
        self.on_their_way.fetch_sub(1, Ordering::AcqRel);
    }

    /// When what waits is handed over at the latest.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.waiting().since.map(|since| since + LONGEST)
    }

    /// Hands over what waits, if nothing is on its way any more or it has waited long enough.
    pub(super) fn open_if_due(&self) {
        let is_due = self.on_their_way.load(Ordering::Acquire) == 0
            || self.opens_at().is_some_and(|at| at <= Instant::now());
        if is_due {
            self.open();
        }
    }

    /// Hands over what waits.
    pub(super) fn open(&self) {
        let records = {
            let mut waiting = self.waiting();
            waiting.since = None;
            std::mem::take(&mut waiting.records)
        };
        records.into_iter().for_each(|message| self.hand_over(message));
    }

    fn hand_over(&self, message: Message) {
        let Message { topic, key, body, headers, delivery, since } = message;
        let now = Instant::now();
        self.reports.metrics.stages.queue.observe(seconds(now.duration_since(since)));
        self.on_their_way.fetch_add(1, Ordering::AcqRel);
        let sent = Box::new(Sent { delivery, topic: Arc::clone(&topic), body, since: now });
        if let Err((code, sent)) = native::produce(&topic, &key, headers, sent) {
            self.reported();
            self.reports.count_failure(topic.name(), code);
            sent.delivery.finish(Err(Failure::from_code(code)));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside panics half-way, so what another thread left behind is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
