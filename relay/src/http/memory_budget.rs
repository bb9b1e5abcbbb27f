//! The memory that requests hold until they are answered, and which of them are evicted where there is too little.
//!
//! A client without a secret can begin bodies and never end them. So where the budget is used up, an event is not
//! rejected because of them: of the requests whose bodies are incomplete, the oldest are evicted. An event of a normal
//! sender is complete long before it is the oldest.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::outcome::{Problem, ProblemKind};

/// What a request costs beside its body and its connection: a stream of HTTP/2, and the work on it.
pub(super) const REQUEST_BYTES: usize = 6 << 10;

/// A body of this size is accepted as long as anything is free, or held by incomplete bodies.
pub(super) const SMALL_BODY_BYTES: usize = 16 << 10;

/// The memory of all requests together, over all connections: bodies that are being read or delivered, and what a request
/// costs beside its body.
pub(super) struct MemoryBudget {
    bytes: Gauge,
    most: i64,
    waiting: Mutex<Waiting>,
}

/// The requests with incomplete bodies, the oldest first.
#[derive(Default)]
struct Waiting {
    next: u64,
    requests: BTreeMap<u64, Holder>,
}

/// What one of them holds, and its notification of an eviction.
struct Holder {
    bytes: i64,
    evicted: Arc<Notify>,
}

impl MemoryBudget {
    /// At most `most` bytes at once, shown in `gauge`.
    pub(super) fn new(most: usize, gauge: Gauge) -> Self {
        Self { bytes: gauge, most: signed(most), waiting: Mutex::default() }
    }

    /// The share of one request, empty at first.
    pub(super) fn reserve(&self) -> Reservation<'_> {
        Reservation { budget: self, bytes: 0, waiting: None }
    }

    /// Evicts the oldest requests with incomplete bodies until `missing` bytes are free. False if that was not enough.
    fn evict_oldest(&self, mut missing: i64) -> bool {
        let mut waiting = self.waiting.lock();
        while missing > 0 {
            let Some((_, oldest)) = waiting.requests.pop_first() else { return false };
            // It frees its memory as soon as it is notified.
            self.bytes.dec_by(oldest.bytes);
            missing -= oldest.bytes;
            oldest.evicted.notify_one();
        }
        true
    }
}

/// One request's share, until the request is answered.
pub(super) struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: i64,
    /// Its number among the incomplete ones, from its first wait until its body is complete.
    waiting: Option<u64>,
}

impl Reservation<'_> {
    /// Takes more, unless the budget is used up. A large event is accepted only while half is free, so that a few large
    /// bodies that never end cannot keep out all others.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = signed(bytes);
        let (grown, most) = (self.bytes.saturating_add(bytes), self.budget.most);
        let held = self.budget.bytes.inc_by(bytes).saturating_add(bytes);
        let has_room = if grown <= signed(REQUEST_BYTES + SMALL_BODY_BYTES) {
            held <= most || self.budget.evict_oldest(held - most)
        } else {
            held <= most / 2
        };
        // It may have been the oldest itself.
        if !has_room || !self.update_share(grown) {
            self.budget.bytes.dec_by(bytes);
            let detail = format!("{held} bytes of {most} are in use; send the event again later");
            return Err(Problem::new(ProblemKind::Overloaded, detail));
        }
        self.bytes = grown;
        Ok(())
    }

    /// Grows `whole` to the capacity `room`, reserved before it is allocated.
    pub(super) fn make_room(&mut self, whole: &mut Vec<u8>, room: usize) -> Result<(), Problem> {
        if room <= whole.capacity() {
            return Ok(());
        }
        self.grow(room - whole.capacity())?;
        whole.reserve_exact(room - whole.len());
        Ok(())
    }

    /// Waits for a part of the body, unless the request is evicted meanwhile.
    pub(super) async fn wait_for<T>(&mut self, part: impl Future<Output = T>) -> Result<T, Problem> {
        let evicted = self.wait();
        let evicted = evicted.as_ref().ok_or_else(evicted_problem)?;
        tokio::select! {
            biased;
            () = evicted.notified() => Err(evicted_problem()),
            part = part => Ok(part),
        }
    }

    /// Enters the incomplete requests. `None` if it was evicted.
    fn wait(&mut self) -> Option<Arc<Notify>> {
        let mut waiting = self.budget.waiting.lock();
        if let Some(number) = self.waiting {
            return waiting.requests.get(&number).map(|holder| Arc::clone(&holder.evicted));
        }
        let (number, evicted) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.requests.insert(number, Holder { bytes: self.bytes, evicted: Arc::clone(&evicted) });
        self.waiting = Some(number);
        Some(evicted)
    }

    /// The body is complete with `bytes`: the share shrinks to that, and can no longer be evicted.
    pub(super) fn shrink_to(&mut self, bytes: usize) -> Result<(), Problem> {
        if let Some(number) = self.waiting
            && self.budget.waiting.lock().requests.remove(&number).is_none()
        {
            return Err(evicted_problem());
        }
        self.waiting = None;
        let needed = signed(REQUEST_BYTES + bytes);
        self.budget.bytes.dec_by(self.bytes - needed);
        self.bytes = needed;
        Ok(())
    }

    /// Updates this request's share. False if it was evicted meanwhile.
    fn update_share(&self, bytes: i64) -> bool {
        let Some(number) = self.waiting else { return true };
        let mut waiting = self.budget.waiting.lock();
        waiting.requests.get_mut(&number).map(|holder| holder.bytes = bytes).is_some()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let was_evicted =
            self.waiting.is_some_and(|number| self.budget.waiting.lock().requests.remove(&number).is_none());
        if !was_evicted {
            self.budget.bytes.dec_by(self.bytes);
        }
    }
}

fn evicted_problem() -> Problem {
    let detail = "the room for this body was needed before it was whole; send the event again later";
    Problem::new(ProblemKind::Overloaded, detail)
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::{pending, ready};

    const MOST: usize = 1 << 20;

    fn budget(most: usize) -> MemoryBudget {
        MemoryBudget::new(most, Gauge::default())
    }

    #[test]
    fn a_share_is_held_until_it_shrinks_or_the_request_is_answered() {
        let budget = budget(MOST);
        let mut reservation = budget.reserve();
        reservation.grow(REQUEST_BYTES).unwrap();
        let mut whole = Vec::new();
        for room in [16 << 10, 32 << 10, 64 << 10] {
            reservation.make_room(&mut whole, room).unwrap();
            assert_eq!((whole.capacity(), budget.bytes.get()), (room, signed(REQUEST_BYTES + room)));
        }
        reservation.shrink_to(100).unwrap();
        assert_eq!(budget.bytes.get(), signed(REQUEST_BYTES + 100));
        drop(reservation);
        assert_eq!(budget.bytes.get(), 0);
    }

    #[test]
    fn nothing_is_allocated_without_room() {
        let budget = budget(1_000);
        let mut reservation = budget.reserve();
        let mut whole = Vec::new();
        assert!(reservation.make_room(&mut whole, 16 << 10).is_err());
        assert_eq!((whole.capacity(), budget.bytes.get()), (0, 0));
    }

    #[test]
    fn a_small_event_is_accepted_while_anything_is_free() {
        let budget = budget(MOST);
        budget.bytes.inc_by(signed(MOST / 2));
        let mut modest = budget.reserve();
        modest.grow(REQUEST_BYTES).unwrap();
        modest.grow(SMALL_BODY_BYTES).unwrap();
        assert!(modest.grow(1).is_err());
    }

    #[test]
    fn without_room_the_oldest_incomplete_request_is_evicted() {
        let budget = budget(3 * REQUEST_BYTES);
        let [mut whole, mut oldest, mut newer] = [budget.reserve(), budget.reserve(), budget.reserve()];
        for reservation in [&mut whole, &mut oldest, &mut newer] {
            reservation.grow(REQUEST_BYTES).unwrap();
        }
        let mut oldest = Box::pin(oldest.wait_for(pending::<()>()));
        assert!(oldest.as_mut().now_or_never().is_none());
        assert!(newer.wait_for(pending::<()>()).now_or_never().is_none());
        let mut event = budget.reserve();
        event.grow(REQUEST_BYTES).unwrap();
        let evicted = oldest.as_mut().now_or_never().unwrap().unwrap_err();
        assert_eq!(evicted.kind, ProblemKind::Overloaded);
        drop(oldest);
        assert_eq!(budget.bytes.get(), signed(3 * REQUEST_BYTES));
        // What is whole stays, and so does what was waited for until then.
        assert!(newer.wait_for(ready(())).now_or_never().unwrap().is_ok());
        newer.shrink_to(0).unwrap();
        whole.shrink_to(0).unwrap();
        assert!(budget.reserve().grow(REQUEST_BYTES).is_err());
        drop((whole, newer, event));
        assert_eq!(budget.bytes.get(), 0);
    }

    #[test]
    fn an_evicted_request_holds_nothing_and_gets_nothing() {
        let budget = budget(MOST);
        for (attempt, more) in [1_usize, MOST].into_iter().enumerate() {
            let mut slow = budget.reserve();
            slow.grow(REQUEST_BYTES).unwrap();
            assert!(slow.wait_for(pending::<()>()).now_or_never().is_none());
            assert!(budget.evict_oldest(1));
            assert!(slow.grow(more).is_err(), "attempt {attempt}");
            assert!(slow.wait_for(ready(())).now_or_never().unwrap().is_err());
            assert!(slow.shrink_to(0).is_err());
            drop(slow);
            assert_eq!(budget.bytes.get(), 0);
        }
    }

    #[test]
    fn a_request_that_is_the_oldest_itself_is_rejected() {
        let budget = budget(REQUEST_BYTES);
        let mut alone = budget.reserve();
        alone.grow(REQUEST_BYTES).unwrap();
        assert!(alone.wait_for(pending::<()>()).now_or_never().is_none());
        assert!(alone.grow(1).is_err());
        drop(alone);
        assert_eq!(budget.bytes.get(), 0);
    }
}
