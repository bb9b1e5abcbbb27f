//! The messages that the relay holds, and until when the queue hides each from others. It is hidden longer for as long as
//! its delivery lasts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Client, MOST_MESSAGES};
use crate::observe::labels::CodeLabel;
use crate::observe::queue::Queue;

/// For how long the queue hides a message at a time. After a relay that died, its messages come back so late.
pub(super) const VISIBILITY: Duration = Duration::from_secs(30);

/// How often it is looked which messages are to be hidden longer, and how long before their time is over.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const EXTEND_BEFORE: Duration = Duration::from_secs(15);

/// Every message that is held.
#[derive(Default)]
pub(super) struct Leases {
    next: AtomicU64,
    held: Mutex<HashMap<u64, Held, foldhash::fast::RandomState>>,
}

struct Held {
    receipt: Arc<str>,
    until: Instant,
}

/// One message's hold, until it is dropped.
pub(super) struct Lease {
    leases: Arc<Leases>,
    number: u64,
    pub(super) receipt: Arc<str>,
}

impl Leases {
    /// Holds a message that is hidden from `received` on.
    pub(super) fn hold(self: &Arc<Self>, receipt: String, received: Instant) -> Lease {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let receipt: Arc<str> = receipt.into();
        let held = Held { receipt: Arc::clone(&receipt), until: received + VISIBILITY };
        self.held.lock().insert(number, held);
        Lease { leases: Arc::clone(self), number, receipt }
    }

    /// Those that are to be hidden longer at `now`.
    fn due(&self, now: Instant) -> Vec<(u64, Arc<str>)> {
        let held = self.held.lock();
        let due = held.iter().filter(|(_, held)| held.until < now + EXTEND_BEFORE);
        due.map(|(number, held)| (*number, Arc::clone(&held.receipt))).collect()
    }

    /// They are hidden for [`VISIBILITY`] from `now` on.
    fn extended(&self, numbers: impl Iterator<Item = u64>, now: Instant) {
        let mut held = self.held.lock();
        for number in numbers {
            if let Some(held) = held.get_mut(&number) {
                held.until = now + VISIBILITY;
            }
        }
    }

    /// Has the queue hide messages longer, until `stop`.
    pub(super) async fn extend(
        self: Arc<Self>,
        client: Arc<Client>,
        queue: Arc<Queue>,
        stop: CancellationToken,
    ) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let due = self.due(Instant::now());
            let calls = due.chunks(MOST_MESSAGES).map(|batch| self.extend_batch(batch, &client, &queue));
            futures::future::join_all(calls).await;
        }
    }

    async fn extend_batch(&self, batch: &[(u64, Arc<str>)], client: &Client, queue: &Queue) {
        let begun = Instant::now();
        let changes: Vec<_> = batch.iter().map(|(_, receipt)| (&**receipt, VISIBILITY)).collect();
        let failed = match client.change_visibility(&changes).await {
            Ok(failed) => failed,
            Err(error) => {
                queue.metrics.errors.get_or_create(&CodeLabel { code: error.code() }).inc();
                // It is tried again until the time of the messages is over, and then they come again.
                tracing::debug!(%error, "the visibility of messages cannot be extended");
                return;
            }
        };
        for entry in &failed {
            let code = super::error::of_service(&entry.code);
            queue.metrics.errors.get_or_create(&CodeLabel { code }).inc();
        }
        let is_done =
            |index: &usize| !failed.iter().any(|entry| entry.index() == Some(*index) && !entry.sender_fault);
        // What the queue does not extend for good is not asked for every time.
        let done = batch.iter().enumerate().filter(|(index, _)| is_done(index));
        self.extended(done.map(|(_, (number, _))| *number), begun);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_due_before_its_time_is_over_and_while_held() {
        let leases = Arc::new(Leases::default());
        let start = Instant::now();
        let lease = leases.hold("receipt".into(), start);
        assert!(leases.due(start).is_empty());
        // The next look finds it in time.
        let due = leases.due(start + VISIBILITY - EXTEND_BEFORE + LOOK_EVERY);
        assert_eq!(due.len(), 1);
        leases.extended(due.iter().map(|(number, _)| *number), start + EXTEND_BEFORE);
        assert!(leases.due(start + EXTEND_BEFORE).is_empty());
        drop(lease);
        assert!(leases.due(start + 10 * VISIBILITY).is_empty());
    }
}
