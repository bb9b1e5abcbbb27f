//! The memory of messages from their receive until they are deleted or given back, bounded for all of them together.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// What memory is counted in, in bytes.
const UNIT: usize = 1 << 10;

/// How much a receive takes before its answer comes: ten events of Genesys Cloud have a few kilobytes.
const INITIAL_BYTES: usize = 256 << 10;

/// What a message costs beside its body.
const MESSAGE_BYTES: usize = 1 << 10;

/// The memory of all messages together.
///
/// A receive waits where there is too little, and so its answer waits in the connection. One answer at a time grows beyond
/// what each has from the start, and it always comes to its end: it may have half of all, and what others hold are
/// messages on their way to Kafka, and beginnings, which are at most a quarter.
pub(super) struct Memory {
    free: Arc<Semaphore>,
    growing: Arc<Mutex<()>>,
    initial: usize,
    /// The most that one answer may have.
    most: usize,
}

/// A part of the memory, until it is dropped.
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
    /// Held by the one that has grown, until its answer is whole.
    growing: Option<OwnedMutexGuard<()>>,
}

impl Memory {
    /// Of so many bytes, for so many receives at once.
    pub(super) fn new(bytes: usize, receives: usize) -> Self {
        let all = (bytes / UNIT).clamp(4, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let initial = (INITIAL_BYTES / UNIT).min(all / 4 / receives.max(1)).max(1);
        Self { free: Arc::new(Semaphore::new(all)), growing: Arc::default(), initial, most: all / 2 }
    }

    /// How many messages of the largest size a receive may ask for.
    pub(super) fn messages(&self, largest_body: usize, most: usize) -> usize {
        // An answer has a body's quotes escaped, and the answer and the bodies are there at once.
        (self.most / units(2 * largest_body)).clamp(1, most)
    }

    /// What one receive begins with, when there is room for it.
    pub(super) async fn begin(&self) -> Option<Share> {
        Some(Share { permit: self.take(self.initial).await?, growing: None })
    }

    /// Has the share cover an answer of `bytes`, when there is room for it. False where an answer may not be so large.
    pub(super) async fn grow(&self, share: &mut Share, bytes: usize) -> bool {
        let needed = units(bytes);
        let held = share.permit.num_permits();
        if needed <= held {
            return true;
        }
        if needed > self.most {
            return false;
        }
        if share.growing.is_none() {
            share.growing = Some(Arc::clone(&self.growing).lock_owned().await);
        }
        // In steps, so that an answer that comes in small parts does not wait for each.
        let step = needed.max(2 * held).min(self.most) - held;
        let Some(more) = self.take(step).await else { return false };
        share.permit.merge(more);
        true
    }

    async fn take(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units).ok()?;
        Arc::clone(&self.free).acquire_many_owned(units).await.ok()
    }

    #[cfg(test)]
    fn free_bytes(&self) -> usize {
        self.free.available_permits() * UNIT
    }
}

impl Share {
    /// The answer is whole: another one may grow.
    pub(super) fn is_whole(&mut self) {
        self.growing = None;
    }

    /// The part of a message with such a body; what the share does not have is not given.
    pub(super) fn split(&mut self, body: usize) -> Option<Self> {
        let wanted = units(body + MESSAGE_BYTES).min(self.permit.num_permits());
        Some(Self { permit: self.permit.split(wanted)?, growing: None })
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_message_holds_its_own_part_alone() {
        let memory = Memory::new(64 << 20, 32);
        let mut share = memory.begin().await.unwrap();
        let first = share.split(2_000).unwrap();
        drop(share);
        assert_eq!(memory.free_bytes(), (64 << 20) - (3 << 10));
        drop(first);
        assert_eq!(memory.free_bytes(), 64 << 20);
    }

    #[tokio::test]
    async fn an_answer_waits_for_room_and_is_never_too_large() {
        let memory = Memory::new(4 << 20, 4);
        let mut large = memory.begin().await.unwrap();
        assert!(memory.grow(&mut large, 2 << 20).await);
        assert!(!memory.grow(&mut large, (2 << 20) + 1).await, "half of all is the most");
        large.is_whole();
        let mut messages = memory.begin().await.unwrap();
        assert!(memory.grow(&mut messages, 1 << 20).await);
        messages.is_whole();
        let mut other = memory.begin().await.unwrap();
        let mut growing = Box::pin(memory.grow(&mut other, 2 << 20));
        assert!(growing.as_mut().now_or_never().is_none());
        drop(large);
        assert!(growing.await);
    }

    #[tokio::test]
    async fn answers_that_grow_together_all_come_to_their_end() {
        let memory = Arc::new(Memory::new(4 << 20, 8));
        let grown = (0..8).map(|_| {
            let memory = Arc::clone(&memory);
            tokio::spawn(async move {
                let mut share = memory.begin().await.unwrap();
                for bytes in [300 << 10, 900 << 10, 2 << 20] {
                    assert!(memory.grow(&mut share, bytes).await);
                    tokio::task::yield_now().await;
                }
            })
        });
        let all = futures::future::join_all(grown);
        let all = tokio::time::timeout(std::time::Duration::from_secs(10), all).await.expect("no deadlock");
        assert!(all.into_iter().all(|one| one.is_ok()));
        assert_eq!(memory.free_bytes(), 4 << 20);
    }

    #[test]
    fn with_little_memory_fewer_messages_are_asked_for() {
        assert_eq!(Memory::new(64 << 20, 32).messages(1 << 20, 10), 10);
        assert_eq!(Memory::new(8 << 20, 32).messages(1 << 20, 10), 2);
        assert_eq!(Memory::new(1 << 20, 32).messages(1 << 20, 10), 1);
    }
}
