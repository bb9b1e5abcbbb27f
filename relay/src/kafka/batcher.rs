//! When a record is given to the library: at once while there are few, and together with others while there are many.
//!
//! A fixed wait for a batch costs either latency or work. Here flushes keep a minimum interval, and a record that comes
//! later than that after the last flush does not wait. So with few events none waits, and with many each flush, each
//! request to Kafka and each acknowledgement is shared. The next record flushes those before it, which takes no thread
//! and no timer; only where none comes does a timer, and it is that of the first waiting sender.
//!
//! In a burst the first record is flushed at once, and the rest would wait until the interval is over although it is
//! many: so records that are several share a flush earlier, and an acknowledgement, for which the serving thread wakes
//! anyway, flushes them too.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::callbacks::{Reports, Sent, Topic};
use super::failure::Failure;
use super::in_flight::Delivery;
use super::librdkafka::{self, Headers};
use crate::observe::metrics::seconds;

/// The least time between two flushes.
const MIN_INTERVAL: Duration = Duration::from_micros(1_300);

/// The same after a flush of [`MANY`] records or more: then the relay is near its capacity, and a wait costs less than
/// the work it saves.
const MIN_INTERVAL_BUSY: Duration = Duration::from_millis(4);

/// The least time between two flushes once several records wait, unless the relay is near its capacity.
const MIN_INTERVAL_BURST: Duration = Duration::from_micros(400);

/// How many records with the next one are several. More than come within [`MIN_INTERVAL`] at 2,000 a second, at which
/// a flush more often costs more than it is worth.
const SEVERAL: usize = 4;

/// The same at an acknowledgement: the timer that would flush them later costs a wake-up.
const SEVERAL_AT_ACKNOWLEDGEMENT: usize = 2;

/// As many as come within [`MIN_INTERVAL`] at 18,500 a second. Once there are, [`MIN_INTERVAL_BUSY`] holds down to a
/// third of that.
const MANY: usize = 24;

/// Decides when records are produced.
pub(super) struct Batcher {
    reports: Arc<Reports>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    records: Vec<Message>,
    /// When the next flush is allowed; `None` before the first.
    next: Option<NextFlush>,
}

#[derive(Clone, Copy)]
struct NextFlush {
    /// For any number of records.
    at: Instant,
    /// For several.
    of_several_at: Instant,
}

/// A record that is ready to be produced.
pub(super) struct Message {
    pub(super) topic: Arc<Topic>,
    pub(super) key: Box<[u8]>,
    pub(super) value: Bytes,
    pub(super) headers: Headers,
    pub(super) delivery: Delivery,
    /// When it was routed.
    pub(super) since: Instant,
}

/// Owned by the first waiting sender; flushes the batch on its deadline or on drop, so that records are sent also when
/// that sender has gone.
pub(super) struct PendingBatch {
    batcher: Arc<Batcher>,
    flush_at: Instant,
    is_flushed: bool,
}

impl Batcher {
    /// A batcher whose first record does not wait. What the library rejects at once is counted in `reports`.
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self { reports, waiting: Mutex::default() }
    }

    /// Produces a record now, or adds it to those that wait. The sender of the first that waits gets the
    /// [`PendingBatch`] and must poll or drop it.
    pub(super) fn send(self: &Arc<Self>, message: Message) -> Option<PendingBatch> {
        let now = message.since;
        let records = {
            let mut waiting = self.waiting.lock();
            if let Some(flush_at) = waiting.not_before(now, 1, SEVERAL) {
                waiting.records.push(message);
                let is_first = waiting.records.len() == 1;
                return is_first.then(|| PendingBatch {
                    batcher: Arc::clone(self),
                    flush_at,
                    is_flushed: false,
                });
            }
            waiting.take(now, 1)
        };
        records.into_iter().chain([message]).for_each(|message| self.produce(message, now));
        None
    }

    /// Produces what waits, if a flush is allowed: after an acknowledgement, or when the first has waited long enough.
    pub(super) fn flush_if_due(&self) {
        let now = Instant::now();
        let records = {
            let mut waiting = self.waiting.lock();
            if waiting.records.is_empty() || waiting.not_before(now, 0, SEVERAL_AT_ACKNOWLEDGEMENT).is_some()
            {
                return;
            }
            waiting.take(now, 0)
        };
        records.into_iter().for_each(|message| self.produce(message, now));
    }

    /// Produces what waits.
    pub(super) fn flush(&self) {
        let now = Instant::now();
        let records = self.waiting.lock().take(now, 0);
        records.into_iter().for_each(|message| self.produce(message, now));
    }

    fn produce(&self, message: Message, now: Instant) {
        let Message { topic, key, value, headers, delivery, since } = message;
        self.reports.metrics.stages.queue.observe(seconds(now.duration_since(since)));
        let sent = Sent { delivery, topic: Arc::clone(&topic), since: now };
        if let Err((code, sent)) = librdkafka::produce(&topic.handle, &key, headers, value, sent) {
            self.reports.count_failure(topic.handle.name(), code);
            sent.delivery.finish(Err(Failure::from_code(code)));
        }
    }
}

impl Waiting {
    /// When a flush is allowed, of what waits and `more` others, if it is not allowed at `now`.
    fn not_before(&self, now: Instant, more: usize, several: usize) -> Option<Instant> {
        let next = self.next.filter(|next| !next.allows(now, self.records.len() + more, several))?;
        Some(next.at)
    }

    /// All that waits, to be produced now together with `more` others.
    fn take(&mut self, now: Instant, more: usize) -> Vec<Message> {
        let waited = self.records.len();
        self.next = Some(NextFlush::after(now, waited + more));
        // As many are likely to wait again; where none did, nothing is allocated for none.
        std::mem::replace(&mut self.records, Vec::with_capacity(waited))
    }
}

impl NextFlush {
    /// After a flush of so many records.
    fn after(flush: Instant, records: usize) -> Self {
        let (interval, of_several) = if records < MANY {
            (MIN_INTERVAL, MIN_INTERVAL_BURST)
        } else {
            (MIN_INTERVAL_BUSY, MIN_INTERVAL_BUSY)
        };
        Self { at: flush + interval, of_several_at: flush + of_several }
    }

    /// Whether so many records may be flushed, where `several` may be earlier.
    fn allows(self, now: Instant, records: usize, several: usize) -> bool {
        now >= self.at || (records >= several && now >= self.of_several_at)
    }
}

impl PendingBatch {
    /// Waits for `outcome`, and flushes the batch at its deadline.
    pub(super) async fn until<T>(mut self, outcome: impl Future<Output = T>) -> T {
        let mut outcome = pin!(outcome);
        let result = tokio::time::timeout_at(self.flush_at.into(), &mut outcome).await;
        self.is_flushed = true;
        match result {
            Ok(outcome) => outcome,
            Err(_) => {
                self.batcher.flush_if_due();
                outcome.await
            }
        }
    }
}

impl Drop for PendingBatch {
    fn drop(&mut self) {
        if !self.is_flushed {
            self.batcher.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_records_are_flushed_earlier_than_few() {
        let flush = Instant::now();
        let next = NextFlush::after(flush, 1);
        let after = |micros| flush + Duration::from_micros(micros);
        assert!(!next.allows(after(399), SEVERAL, SEVERAL));
        assert!(next.allows(after(400), SEVERAL, SEVERAL));
        assert!(!next.allows(after(1_299), SEVERAL - 1, SEVERAL));
        assert!(next.allows(after(1_300), 1, SEVERAL));
    }

    #[test]
    fn after_many_records_several_wait_as_long_as_few() {
        let flush = Instant::now();
        let next = NextFlush::after(flush, MANY);
        assert!(!next.allows(flush + Duration::from_micros(3_999), 1_000, SEVERAL));
        assert!(next.allows(flush + MIN_INTERVAL_BUSY, 1, SEVERAL));
    }
}
