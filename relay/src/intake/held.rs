//! The memory that requests hold until they are answered, and which of them give way where there is too little.
//!
//! Whoever can reach the port can begin bodies and not end them, without a secret. So where everything is taken, an
//! event is not refused for their sake: of the requests whose bodies are still waited for, the oldest are refused and
//! leave it their room. An event that comes as senders send it is whole long before it is the oldest.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::problem::{Kind, Problem};

/// What a request costs beside its body and its connection: a stream of HTTP/2, and the work on it.
pub(super) const REQUEST_BYTES: usize = 6 << 10;

/// A body that is taken as long as anything is free, or held by bodies that are waited for.
pub(super) const MODEST_BYTES: usize = 16 << 10;

/// What all requests hold together, over all connections: bodies that are being read or worked on, and what a request
/// costs beside its body.
pub(super) struct Held {
    bytes: Gauge,
    most: i64,
    waiting: Mutex<Waiting>,
}

/// The requests whose bodies did not come at once, the oldest first.
#[derive(Default)]
struct Waiting {
    next: u64,
    requests: BTreeMap<u64, Holder>,
}

/// What one of them holds, and what tells it that it does not any more.
struct Holder {
    bytes: i64,
    gives_way: Arc<Notify>,
}

impl Held {
    /// At most `most` bytes at once, shown in `gauge`.
    pub(super) fn new(most: usize, gauge: Gauge) -> Self {
        Self { bytes: gauge, most: signed(most), waiting: Mutex::default() }
    }

    /// A part of it for one request, which is nothing yet.
    pub(super) fn reserve(&self) -> Reservation<'_> {
        Reservation { held: self, bytes: 0, waiting: None }
    }

    /// Takes what is `missing` from requests whose bodies are waited for, and whether that was enough.
    fn make_way(&self, mut missing: i64) -> bool {
        let mut waiting = self.lock();
        while missing > 0 {
            let Some((_, oldest)) = waiting.requests.pop_first() else { return false };
            // Its memory is free as soon as it is told.
            self.bytes.dec_by(oldest.bytes);
            missing -= oldest.bytes;
            oldest.gives_way.notify_one();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside panics half-way, so what another thread left behind is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's part. It is given back when the request is answered.
pub(super) struct Reservation<'a> {
    held: &'a Held,
    bytes: i64,
    /// Its number among those that are waited for, from when it was first, and until its body is whole.
    waiting: Option<u64>,
}

impl Reservation<'_> {
    /// Takes more, unless too much is held. A large event is taken only while half is free, so that a few large
    /// bodies that never end cannot keep out all others.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = signed(bytes);
        let (grown, most) = (self.bytes.saturating_add(bytes), self.held.most);
        let held = self.held.bytes.inc_by(bytes).saturating_add(bytes);
        let has_room = if grown <= signed(REQUEST_BYTES + MODEST_BYTES) {
            held <= most || self.held.make_way(held - most)
        } else {
            held <= most / 2
        };
        // It may have been the oldest itself.
        if !has_room || !self.holds(grown) {
            self.held.bytes.dec_by(bytes);
            let detail = format!("{held} bytes of {most} are in use; send the event again later");
            return Err(Problem::new(Kind::Overloaded, detail));
        }
        self.bytes = grown;
        Ok(())
    }

    /// Makes `whole` as large as `room`, reserved before it is there.
    pub(super) fn make_room(&mut self, whole: &mut Vec<u8>, room: usize) -> Result<(), Problem> {
        if room <= whole.capacity() {
            return Ok(());
        }
        self.grow(room - whole.capacity())?;
        whole.reserve_exact(room - whole.len());
        Ok(())
    }

    /// Waits for a part of the body, unless the room is needed by others meanwhile.
    pub(super) async fn wait_for<T>(&mut self, part: impl Future<Output = T>) -> Result<T, Problem> {
        let gives_way = self.wait();
        let gives_way = gives_way.as_ref().ok_or_else(gave_way)?;
        tokio::select! {
            biased;
            () = gives_way.notified() => Err(gave_way()),
            part = part => Ok(part),
        }
    }

    /// Has it known that its body is waited for. Nothing, where it had to give way.
    fn wait(&mut self) -> Option<Arc<Notify>> {
        let mut waiting = self.held.lock();
        if let Some(number) = self.waiting {
            return waiting.requests.get(&number).map(|holder| Arc::clone(&holder.gives_way));
        }
        let (number, gives_way) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.requests.insert(number, Holder { bytes: self.bytes, gives_way: Arc::clone(&gives_way) });
        self.waiting = Some(number);
        Some(gives_way)
    }

    /// The body is whole, and takes no more than `bytes` beside the request itself: it is not taken away any more.
    pub(super) fn settle(&mut self, bytes: usize) -> Result<(), Problem> {
        if let Some(number) = self.waiting
            && self.held.lock().requests.remove(&number).is_none()
        {
            return Err(gave_way());
        }
        self.waiting = None;
        let needed = signed(REQUEST_BYTES + bytes);
        self.held.bytes.dec_by(self.bytes - needed);
        self.bytes = needed;
        Ok(())
    }

    /// Says that it holds so many bytes, and whether it holds any at all.
    fn holds(&self, bytes: i64) -> bool {
        let Some(number) = self.waiting else { return true };
        let mut waiting = self.held.lock();
        waiting.requests.get_mut(&number).map(|holder| holder.bytes = bytes).is_some()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let has_given_way =
            self.waiting.is_some_and(|number| self.held.lock().requests.remove(&number).is_none());
        if !has_given_way {
            self.held.bytes.dec_by(self.bytes);
        }
    }
}

fn gave_way() -> Problem {
    let detail = "the room for this body was needed before it was whole; send the event again later";
    Problem::new(Kind::Overloaded, detail)
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

    fn held(most: usize) -> Held {
        Held::new(most, Gauge::default())
    }

    #[test]
    fn what_is_set_aside_is_held_until_less_is_needed_or_it_is_answered() {
        let held = held(MOST);
        let mut reservation = held.reserve();
        reservation.grow(REQUEST_BYTES).unwrap();
        let mut whole = Vec::new();
        for room in [16 << 10, 32 << 10, 64 << 10] {
            reservation.make_room(&mut whole, room).unwrap();
            assert_eq!((whole.capacity(), held.bytes.get()), (room, signed(REQUEST_BYTES + room)));
        }
        reservation.settle(100).unwrap();
        assert_eq!(held.bytes.get(), signed(REQUEST_BYTES + 100));
        drop(reservation);
        assert_eq!(held.bytes.get(), 0);
    }

    #[test]
    fn nothing_is_set_aside_where_there_is_no_room() {
        let held = held(1_000);
        let mut reservation = held.reserve();
        let mut whole = Vec::new();
        assert!(reservation.make_room(&mut whole, 16 << 10).is_err());
        assert_eq!((whole.capacity(), held.bytes.get()), (0, 0));
    }

    #[test]
    fn an_event_of_usual_size_is_taken_as_long_as_anything_is_free() {
        let held = held(MOST);
        held.bytes.inc_by(signed(MOST / 2));
        let mut modest = held.reserve();
        modest.grow(REQUEST_BYTES).unwrap();
        modest.grow(MODEST_BYTES).unwrap();
        assert!(modest.grow(1).is_err());
    }

    #[test]
    fn where_all_is_taken_the_oldest_of_those_that_are_waited_for_give_way() {
        let held = held(3 * REQUEST_BYTES);
        let [mut whole, mut oldest, mut newer] = [held.reserve(), held.reserve(), held.reserve()];
        for reservation in [&mut whole, &mut oldest, &mut newer] {
            reservation.grow(REQUEST_BYTES).unwrap();
        }
        let mut oldest = Box::pin(oldest.wait_for(pending::<()>()));
        assert!(oldest.as_mut().now_or_never().is_none());
        assert!(newer.wait_for(pending::<()>()).now_or_never().is_none());
        let mut event = held.reserve();
        event.grow(REQUEST_BYTES).unwrap();
        let told = oldest.as_mut().now_or_never().unwrap().unwrap_err();
        assert_eq!(told.kind, Kind::Overloaded);
        drop(oldest);
        assert_eq!(held.bytes.get(), signed(3 * REQUEST_BYTES));
        // What is whole stays, and so does what was waited for until then.
        assert!(newer.wait_for(ready(())).now_or_never().unwrap().is_ok());
        newer.settle(0).unwrap();
        whole.settle(0).unwrap();
        assert!(held.reserve().grow(REQUEST_BYTES).is_err());
        drop((whole, newer, event));
        assert_eq!(held.bytes.get(), 0);
    }

    #[test]
    fn one_that_had_to_give_way_holds_nothing_and_gets_nothing() {
        let held = held(MOST);
        for (attempt, more) in [1_usize, MOST].into_iter().enumerate() {
            let mut slow = held.reserve();
            slow.grow(REQUEST_BYTES).unwrap();
            assert!(slow.wait_for(pending::<()>()).now_or_never().is_none());
            assert!(held.make_way(1));
            assert!(slow.grow(more).is_err(), "attempt {attempt}");
            assert!(slow.wait_for(ready(())).now_or_never().unwrap().is_err());
            assert!(slow.settle(0).is_err());
            drop(slow);
            assert_eq!(held.bytes.get(), 0);
        }
    }

    #[test]
    fn one_that_is_the_oldest_itself_gives_way_to_nobody() {
        let held = held(REQUEST_BYTES);
        let mut alone = held.reserve();
        alone.grow(REQUEST_BYTES).unwrap();
        assert!(alone.wait_for(pending::<()>()).now_or_never().is_none());
        assert!(alone.grow(1).is_err());
        drop(alone);
        assert_eq!(held.bytes.get(), 0);
    }
}
