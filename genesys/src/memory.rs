//! The memory of all responses that are being read, bounded in sum for the process.
//!
//! A [`Lease`] grows with its response. Where no room is left, the largest lease gives way: a server that sends much, or
//! begins much and never ends, takes nothing from responses of an ordinary size.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) struct ResponseMemory {
    capacity: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    used: usize,
    leases: HashMap<u64, Entry>,
    last_id: u64,
}

#[derive(Default)]
struct Entry {
    held: usize,
    is_evicted: bool,
    evicted: Arc<Notify>,
}

/// The share of one response. Dropped, it is free again.
pub(crate) struct Lease {
    memory: Arc<ResponseMemory>,
    id: u64,
    evicted: Arc<Notify>,
}

/// The response has to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted;

/// What came of a request for room.
enum Growth {
    Done,
    /// Others give way; their room is free soon.
    Wait,
}

impl ResponseMemory {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default(), freed: Notify::new() })
    }

    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        let entry = state.leases.entry(id).or_default();
        Lease { memory: Arc::clone(self), id, evicted: Arc::clone(&entry.evicted) }
    }

    fn try_grow(&self, id: u64, bytes: usize) -> Result<Growth, Evicted> {
        let mut state = self.state.lock();
        let own = match state.leases.get(&id) {
            Some(entry) if !entry.is_evicted => entry.held + bytes,
            _ => return Err(Evicted),
        };
        let mut leaving: usize =
            state.leases.values().filter(|entry| entry.is_evicted).map(|entry| entry.held).sum();
        if state.used + bytes <= self.capacity {
            state.used += bytes;
            if let Some(entry) = state.leases.get_mut(&id) {
                entry.held = own;
            }
            return Ok(Growth::Done);
        }
        while state.used + bytes > self.capacity + leaving {
            let largest = state
                .leases
                .iter_mut()
                .filter(|(other, entry)| **other != id && !entry.is_evicted)
                .map(|(_, entry)| entry)
                .max_by_key(|entry| entry.held)
                .filter(|largest| largest.held > own)
                .ok_or(Evicted)?;
            largest.is_evicted = true;
            largest.evicted.notify_one();
            leaving += largest.held;
        }
        Ok(Growth::Wait)
    }
}

impl Lease {
    /// Waits for room for so many bytes more.
    pub(crate) async fn grow(&self, bytes: usize) -> Result<(), Evicted> {
        loop {
            let freed = self.memory.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that room that is freed after it is not missed.
            freed.as_mut().enable();
            match self.memory.try_grow(self.id, bytes)? {
                Growth::Done => return Ok(()),
                Growth::Wait => tokio::select! {
                    () = freed => {}
                    () = self.evicted() => return Err(Evicted),
                },
            }
        }
    }

    /// Returns once the response has to be given up.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.memory.state.lock();
        if let Some(entry) = state.leases.remove(&self.id) {
            state.used -= entry.held;
        }
        drop(state);
        self.memory.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn room_is_given_until_it_is_used_up_and_free_again() {
        let memory = ResponseMemory::new(10);
        let (one, other) = (memory.lease(), memory.lease());
        one.grow(4).await.unwrap();
        other.grow(6).await.unwrap();
        assert_eq!(memory.state.lock().used, 10);
        drop(other);
        one.grow(6).await.unwrap();
        drop(one);
        let state = memory.state.lock();
        assert_eq!((state.used, state.leases.len()), (0, 0));
    }

    #[tokio::test]
    async fn the_largest_gives_way_and_its_room_is_waited_for() {
        let memory = ResponseMemory::new(10);
        let [small, large, middle] = [1, 6, 3].map(|bytes| {
            let lease = memory.lease();
            lease.grow(bytes).now_or_never().unwrap().unwrap();
            lease
        });
        let mut growth = Box::pin(small.grow(1));
        assert!(growth.as_mut().now_or_never().is_none());
        assert!(large.evicted().now_or_never().is_some() && middle.evicted().now_or_never().is_none());
        // Another one waits for the same room, and evicts nothing.
        let late = memory.lease();
        let mut late_growth = Box::pin(late.grow(2));
        assert!(late_growth.as_mut().now_or_never().is_none());
        assert!(middle.evicted().now_or_never().is_none());
        assert_eq!(large.grow(1).await, Err(Evicted));
        drop(large);
        growth.await.unwrap();
        late_growth.await.unwrap();
        assert_eq!(memory.state.lock().used, 7);
    }

    #[tokio::test]
    async fn the_largest_itself_gets_no_more() {
        let memory = ResponseMemory::new(10);
        let (one, other) = (memory.lease(), memory.lease());
        one.grow(3).await.unwrap();
        other.grow(7).await.unwrap();
        assert_eq!(other.grow(1).await, Err(Evicted));
        assert_eq!(memory.lease().grow(11).await, Err(Evicted), "more than there is at all");
        one.grow(0).await.unwrap();
        assert_eq!(memory.state.lock().used, 10, "a refusal takes nothing");
    }

    #[tokio::test]
    async fn readers_stay_within_the_capacity_and_small_ones_finish() {
        let memory = ResponseMemory::new(1000);
        let readers = (0..200_usize).map(|number| {
            let memory = Arc::clone(&memory);
            async move {
                let lease = memory.lease();
                let (steps, bytes) = if number.is_multiple_of(2) { (2, 2) } else { (100, 50) };
                for _ in 0..steps {
                    lease.grow(bytes).await?;
                    assert!(memory.state.lock().used <= 1000);
                    tokio::task::yield_now().await;
                }
                Ok::<_, Evicted>(())
            }
        });
        let results = futures::future::join_all(readers).await;
        assert!(results.iter().step_by(2).all(Result::is_ok));
        assert!(results.iter().skip(1).step_by(2).all(Result::is_err));
        assert_eq!(memory.state.lock().used, 0);
    }
}
