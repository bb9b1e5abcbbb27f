//! Which deliveries are in flight and which were acknowledged lately, so that a repetition is not published again.
//!
//! A delivery is one event to one topic. It is recognised by its id, its topic and its bytes: a sender repeats an
//! event byte for byte, and two different events that carry the same id are both published, because none may be
//! lost. With several topics, only those that have not acknowledged an event are tried again.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::record::Position;
use super::remembered::Remembered;
use crate::metrics::Metrics;

/// What became of a delivery.
pub(super) type Outcome = Result<Position, Failure>;

/// What identifies a delivery: hashes with keys of this process, one of the bytes, one of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(pub(super) u64, pub(super) u64);

impl Fingerprint {
    /// One number of both, for a table of fingerprints: they are hashes already.
    pub(super) fn hash(self) -> u64 {
        self.0 ^ self.1
    }
}

/// The deliveries of one relay, bounded in number, bytes and age.
pub(super) struct Ledger {
    bounds: Bounds,
    hasher: RandomState,
    metrics: Arc<Metrics>,
    entries: Mutex<Entries>,
}

/// How much a ledger holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) in_flight: usize,
    pub(super) in_flight_bytes: usize,
    pub(super) remembered: usize,
    pub(super) remembered_for: Duration,
}

struct Entries {
    /// Who else waits for a delivery in flight.
    in_flight: HashMap<Fingerprint, Vec<oneshot::Sender<Outcome>>, foldhash::fast::RandomState>,
    in_flight_bytes: usize,
    acknowledged: Remembered,
}

/// How a delivery begins.
pub(super) enum Begun {
    /// It was acknowledged lately: there is nothing to do. Where, is not kept.
    Acknowledged,
    /// The same is in flight: its outcome is this one's.
    Joined(oneshot::Receiver<Outcome>),
    /// It is the first.
    First(Delivery, oneshot::Receiver<Outcome>),
    /// The ledger is full.
    Full,
}

/// A delivery in flight. Whoever holds it says what became of it, also after everyone has stopped waiting.
pub(super) struct Delivery {
    ledger: Arc<Ledger>,
    fingerprint: Fingerprint,
    bytes: usize,
    waiting: Option<oneshot::Sender<Outcome>>,
}

impl Ledger {
    pub(super) fn new(bounds: Bounds, metrics: Arc<Metrics>) -> Arc<Self> {
        let entries = Entries {
            in_flight: HashMap::default(),
            in_flight_bytes: 0,
            acknowledged: Remembered::new(bounds.remembered, bounds.remembered_for),
        };
        Arc::new(Self { bounds, hasher: RandomState::default(), metrics, entries: Mutex::new(entries) })
    }

    pub(super) fn fingerprint(&self, id: &str, body: &[u8], topic: &str) -> Fingerprint {
        Fingerprint(self.hasher.hash_one(body), self.hasher.hash_one((id, topic)))
    }

    pub(super) fn begin(self: &Arc<Self>, fingerprint: Fingerprint, bytes: usize, now: Instant) -> Begun {
        let mut guard = self.entries();
        let entries = &mut *guard;
        if let Some(others) = entries.in_flight.get_mut(&fingerprint) {
            let (waiting, outcome) = oneshot::channel();
            others.retain(|other| !other.is_closed());
            others.push(waiting);
            return Begun::Joined(outcome);
        }
        entries.acknowledged.forget(now);
        if entries.acknowledged.contains(fingerprint) {
            return Begun::Acknowledged;
        }
        if entries.in_flight.len() >= self.bounds.in_flight
            || entries.in_flight_bytes.saturating_add(bytes) > self.bounds.in_flight_bytes
        {
            return Begun::Full;
        }
        entries.in_flight.insert(fingerprint, Vec::new());
        entries.in_flight_bytes += bytes;
        drop(guard);
        self.metrics.in_flight.inc();
        let (waiting, outcome) = oneshot::channel();
        let ledger = Arc::clone(self);
        Begun::First(Delivery { ledger, fingerprint, bytes, waiting: Some(waiting) }, outcome)
    }

    /// How many deliveries are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.entries().in_flight.len()
    }

    fn finish(
        &self,
        fingerprint: Fingerprint,
        bytes: usize,
        outcome: &Outcome,
    ) -> Vec<oneshot::Sender<Outcome>> {
        let mut entries = self.entries();
        entries.in_flight_bytes = entries.in_flight_bytes.saturating_sub(bytes);
        let others = entries.in_flight.remove(&fingerprint).unwrap_or_default();
        if outcome.is_ok() {
            entries.acknowledged.insert(fingerprint, Instant::now());
        }
        drop(entries);
        self.metrics.in_flight.dec();
        others
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing inside panics half-way, so what another thread left behind is whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// Says what became of it, to everyone who waits.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some(waiting) = self.waiting.take() else { return };
        for other in self.ledger.finish(self.fingerprint, self.bytes, &outcome) {
            // Whoever stopped waiting has been answered already.
            let _ = other.send(outcome.clone());
        }
        let _ = waiting.send(outcome);
    }
}

impl Drop for Delivery {
    /// A delivery that nobody finished is not in flight any more, and may be tried again.
    fn drop(&mut self) {
        self.settle(Err(Failure::Abandoned));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const AT: Position = Position { partition: 0, offset: 7 };

    pub(in crate::publish) fn ledger(in_flight: usize, remembered: usize) -> Arc<Ledger> {
        let bounds =
            Bounds { in_flight, in_flight_bytes: 100, remembered, remembered_for: Duration::from_secs(60) };
        Ledger::new(bounds, Arc::new(Metrics::new()))
    }

    fn begin(ledger: &Arc<Ledger>, fingerprint: Fingerprint, bytes: usize) -> Begun {
        ledger.begin(fingerprint, bytes, Instant::now())
    }

    pub(in crate::publish) fn first(
        ledger: &Arc<Ledger>,
        id: &str,
    ) -> (Delivery, oneshot::Receiver<Outcome>) {
        match begin(ledger, ledger.fingerprint(id, b"body", "t"), 10) {
            Begun::First(delivery, outcome) => (delivery, outcome),
            _ => panic!("{id} is not the first"),
        }
    }

    #[test]
    fn a_repetition_joins_what_is_in_flight_and_then_is_remembered() {
        let ledger = ledger(10, 10);
        let (delivery, mut outcome) = first(&ledger, "1");
        let fingerprint = ledger.fingerprint("1", b"body", "t");
        let Begun::Joined(mut joined) = begin(&ledger, fingerprint, 10) else { panic!("not joined") };
        delivery.finish(Ok(AT));
        assert!(matches!((outcome.try_recv(), joined.try_recv()), (Ok(Ok(AT)), Ok(Ok(AT)))));
        assert!(matches!(begin(&ledger, fingerprint, 10), Begun::Acknowledged));
    }

    #[test]
    fn what_failed_or_was_abandoned_is_tried_again() {
        let ledger = ledger(10, 10);
        first(&ledger, "1").0.finish(Err(Failure::Abandoned));
        drop(first(&ledger, "1").0);
        first(&ledger, "1").0.finish(Ok(AT));
        assert_eq!(ledger.in_flight(), 0);
    }

    #[test]
    fn an_acknowledgement_counts_also_when_nobody_waits_any_more() {
        let ledger = ledger(10, 10);
        let (delivery, outcome) = first(&ledger, "1");
        drop(outcome);
        delivery.finish(Ok(AT));
        assert!(matches!(begin(&ledger, ledger.fingerprint("1", b"body", "t"), 10), Begun::Acknowledged));
    }

    #[test]
    fn another_topic_or_other_bytes_under_the_same_id_are_another_delivery() {
        let ledger = ledger(10, 10);
        first(&ledger, "1").0.finish(Ok(AT));
        for (body, topic) in [(b"body", "u"), (b"bodi", "t")] {
            assert!(matches!(begin(&ledger, ledger.fingerprint("1", body, topic), 10), Begun::First(..)));
        }
    }

    #[test]
    fn what_is_in_flight_and_what_is_remembered_is_bounded() {
        let ledger = ledger(2, 2);
        let held = (first(&ledger, "1"), first(&ledger, "2"));
        assert!(matches!(begin(&ledger, ledger.fingerprint("3", b"", "t"), 1), Begun::Full));
        drop(held);
        assert!(matches!(begin(&ledger, ledger.fingerprint("3", b"", "t"), 101), Begun::Full));
        for id in ["1", "2", "3"] {
            first(&ledger, id).0.finish(Ok(AT));
        }
        first(&ledger, "1");
        assert!(matches!(begin(&ledger, ledger.fingerprint("3", b"body", "t"), 1), Begun::Acknowledged));
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let bounds =
            Bounds { in_flight: 9, in_flight_bytes: 99, remembered: 9, remembered_for: Duration::ZERO };
        let ledger = Ledger::new(bounds, Arc::new(Metrics::new()));
        first(&ledger, "1").0.finish(Ok(AT));
        first(&ledger, "1");
    }
}
