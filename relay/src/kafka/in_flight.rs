//! Which deliveries are in flight and which were acknowledged recently, so that a repetition is not published again.
//!
//! A delivery is one event to one topic. It is recognised by its id, its topic and its bytes: a sender repeats an
//! event byte for byte, and two different events that carry the same id are both published, because none may be
//! lost. With several topics, only those that have not acknowledged an event are tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::fingerprint::{Fingerprint, Hasher};
use super::recent_ids::RecentIds;
use super::record::Position;
use crate::observe::metrics::Metrics;

/// The outcome of a delivery.
pub(super) type Outcome = Result<Position, Failure>;

/// The deliveries of one relay, bounded in number, bytes and age.
pub(super) struct InFlightTable {
    limits: Limits,
    hasher: Hasher,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// How much a table holds at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_flight: usize,
    pub(super) in_flight_bytes: usize,
    pub(super) dedupe_max_ids: usize,
    pub(super) dedupe_window: Duration,
}

struct State {
    /// The other waiters of each delivery in flight.
    in_flight: HashMap<Fingerprint, Vec<oneshot::Sender<Outcome>>, foldhash::fast::RandomState>,
    in_flight_bytes: usize,
    acknowledged: RecentIds,
}

/// How a delivery starts.
pub(super) enum StartResult {
    /// It was acknowledged within the dedupe window. Its position is not kept.
    Acknowledged,
    /// The same delivery is in flight: both have one outcome.
    Joined(oneshot::Receiver<Outcome>),
    /// It is new.
    First(Delivery, oneshot::Receiver<Outcome>),
    /// The in-flight limit is reached.
    Full,
}

/// A delivery in flight. Its owner reports the outcome, also when no request waits for it any more.
pub(super) struct Delivery {
    table: Arc<InFlightTable>,
    fingerprint: Fingerprint,
    bytes: usize,
    waiting: Option<oneshot::Sender<Outcome>>,
}

impl InFlightTable {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State {
            in_flight: HashMap::default(),
            in_flight_bytes: 0,
            acknowledged: RecentIds::new(limits.dedupe_max_ids, limits.dedupe_window),
        };
        Arc::new(Self { limits, hasher: Hasher::default(), metrics, state: Mutex::new(state) })
    }

    pub(super) fn fingerprint(&self, id: &str, body: &[u8], topic: &str) -> Fingerprint {
        self.hasher.fingerprint(id, body, topic)
    }

    pub(super) fn start(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        bytes: usize,
        now: Instant,
    ) -> StartResult {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(others) = state.in_flight.get_mut(&fingerprint) {
            let (waiting, outcome) = oneshot::channel();
            others.retain(|other| !other.is_closed());
            others.push(waiting);
            return StartResult::Joined(outcome);
        }
        state.acknowledged.expire(now);
        if state.acknowledged.contains(fingerprint) {
            return StartResult::Acknowledged;
        }
        if state.in_flight.len() >= self.limits.in_flight
            || state.in_flight_bytes.saturating_add(bytes) > self.limits.in_flight_bytes
        {
            return StartResult::Full;
        }
        state.in_flight.insert(fingerprint, Vec::new());
        state.in_flight_bytes += bytes;
        drop(guard);
        self.metrics.in_flight.inc();
        let (waiting, outcome) = oneshot::channel();
        let table = Arc::clone(self);
        StartResult::First(Delivery { table, fingerprint, bytes, waiting: Some(waiting) }, outcome)
    }

    /// How many deliveries are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight.len()
    }

    fn finish(
        &self,
        fingerprint: Fingerprint,
        bytes: usize,
        outcome: &Outcome,
    ) -> Vec<oneshot::Sender<Outcome>> {
        let mut state = self.state.lock();
        state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        let others = state.in_flight.remove(&fingerprint).unwrap_or_default();
        if outcome.is_ok() {
            state.acknowledged.insert(fingerprint, Instant::now());
        }
        drop(state);
        self.metrics.in_flight.dec();
        others
    }
}

impl Delivery {
    /// Reports the outcome to all waiters.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        let Some(waiting) = self.waiting.take() else { return };
        for other in self.table.finish(self.fingerprint, self.bytes, &outcome) {
            // A waiter that is gone has been answered already.
            let _ = other.send(outcome.clone());
        }
        let _ = waiting.send(outcome);
    }
}

impl Drop for Delivery {
    /// A delivery that was not finished is no longer in flight, and may be tried again.
    fn drop(&mut self) {
        self.send(Err(Failure::Dropped));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const AT: Position = Position { partition: 0, offset: 7 };

    pub(in crate::kafka) fn table(in_flight: usize, dedupe_max_ids: usize) -> Arc<InFlightTable> {
        let limits = Limits {
            in_flight,
            in_flight_bytes: 100,
            dedupe_max_ids,
            dedupe_window: Duration::from_secs(60),
        };
        InFlightTable::new(limits, Arc::new(Metrics::new()))
    }

    fn start(table: &Arc<InFlightTable>, fingerprint: Fingerprint, bytes: usize) -> StartResult {
        table.start(fingerprint, bytes, Instant::now())
    }

    pub(in crate::kafka) fn first(
        table: &Arc<InFlightTable>,
        id: &str,
    ) -> (Delivery, oneshot::Receiver<Outcome>) {
        match start(table, table.fingerprint(id, b"body", "t"), 10) {
            StartResult::First(delivery, outcome) => (delivery, outcome),
            _ => panic!("{id} is not the first"),
        }
    }

    #[test]
    fn a_repetition_joins_the_first_and_is_a_duplicate_later() {
        let table = table(10, 10);
        let (delivery, mut outcome) = first(&table, "1");
        let fingerprint = table.fingerprint("1", b"body", "t");
        let StartResult::Joined(mut joined) = start(&table, fingerprint, 10) else { panic!("not joined") };
        delivery.finish(Ok(AT));
        assert!(matches!((outcome.try_recv(), joined.try_recv()), (Ok(Ok(AT)), Ok(Ok(AT)))));
        assert!(matches!(start(&table, fingerprint, 10), StartResult::Acknowledged));
    }

    #[test]
    fn a_failed_or_dropped_delivery_is_tried_again() {
        let table = table(10, 10);
        first(&table, "1").0.finish(Err(Failure::Dropped));
        drop(first(&table, "1").0);
        first(&table, "1").0.finish(Ok(AT));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn an_acknowledgement_counts_also_without_a_waiter() {
        let table = table(10, 10);
        let (delivery, outcome) = first(&table, "1");
        drop(outcome);
        delivery.finish(Ok(AT));
        assert!(matches!(start(&table, table.fingerprint("1", b"body", "t"), 10), StartResult::Acknowledged));
    }

    #[test]
    fn other_topic_or_bytes_under_one_id_are_another_delivery() {
        let table = table(10, 10);
        first(&table, "1").0.finish(Ok(AT));
        for (body, topic) in [(b"body", "u"), (b"bodi", "t")] {
            assert!(matches!(start(&table, table.fingerprint("1", body, topic), 10), StartResult::First(..)));
        }
    }

    #[test]
    fn deliveries_in_flight_and_the_dedupe_window_are_bounded() {
        let table = table(2, 2);
        let held = (first(&table, "1"), first(&table, "2"));
        assert!(matches!(start(&table, table.fingerprint("3", b"", "t"), 1), StartResult::Full));
        drop(held);
        assert!(matches!(start(&table, table.fingerprint("3", b"", "t"), 101), StartResult::Full));
        for id in ["1", "2", "3"] {
            first(&table, id).0.finish(Ok(AT));
        }
        first(&table, "1");
        assert!(matches!(start(&table, table.fingerprint("3", b"body", "t"), 1), StartResult::Acknowledged));
    }

    #[test]
    fn what_is_older_than_the_window_is_published_again() {
        let limits =
            Limits { in_flight: 9, in_flight_bytes: 99, dedupe_max_ids: 9, dedupe_window: Duration::ZERO };
        let table = InFlightTable::new(limits, Arc::new(Metrics::new()));
        first(&table, "1").0.finish(Ok(AT));
        first(&table, "1");
    }
}
