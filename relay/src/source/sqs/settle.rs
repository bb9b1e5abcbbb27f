//! Ends the hold of messages: deletes those whose events are in Kafka, gives back the others. Both in batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::client::{Client, FailedEntry, MOST_MESSAGES};
use super::error::{QueueError, of_service};
use super::leases::{Lease, VISIBILITY};
use crate::observe::labels::CodeLabel;
use crate::observe::queue::Queue;
use crate::observe::request_log::RateLimitedLog;
use parking_lot::Mutex;

/// How long a batch waits for further messages. Those of one receive are acknowledged together.
const LINGER: Duration = Duration::from_millis(10);

/// The most batches of one kind on their way at once.
const MOST_CALLS: usize = 16;

/// The waits before a batch is tried again: altogether less than the messages are hidden.
const RETRIES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(6),
];

/// A message whose hold is to end, and what it holds until then.
pub(super) struct Settled {
    receipt: Arc<str>,
    /// For how long the queue hides it, where it is given back.
    hidden: Duration,
    /// It stays hidden until it is deleted.
    _lease: Option<Lease>,
    _permit: OwnedSemaphorePermit,
}

impl Settled {
    /// A message that is to be deleted.
    pub(super) fn delete(lease: Lease, permit: OwnedSemaphorePermit) -> Self {
        let receipt = Arc::clone(&lease.receipt);
        Self { receipt, hidden: Duration::ZERO, _lease: Some(lease), _permit: permit }
    }

    /// A message that is to come again after `hidden`.
    pub(super) fn give_back(lease: Lease, hidden: Duration, permit: OwnedSemaphorePermit) -> Self {
        let receipt = Arc::clone(&lease.receipt);
        drop(lease);
        Self { receipt, hidden, _lease: None, _permit: permit }
    }
}

/// What becomes of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    Delete,
    GiveBack,
}

/// Collects messages of one settlement.
pub(super) struct Settler {
    settlement: Settlement,
    client: Arc<Client>,
    queue: Arc<Queue>,
    log: Mutex<RateLimitedLog>,
}

impl Settler {
    /// Settles what is sent, in a task of its own, which ends when every sender is gone and everything is settled.
    pub(super) fn start(
        settlement: Settlement,
        client: Arc<Client>,
        queue: Arc<Queue>,
        tasks: &TaskTracker,
    ) -> mpsc::UnboundedSender<Settled> {
        // What is sent holds a permit of a message each, so there are never more.
        let (sender, receiver) = mpsc::unbounded_channel();
        let settler = Arc::new(Self { settlement, client, queue, log: Mutex::default() });
        tasks.spawn(settler.run(receiver, tasks.clone()));
        sender
    }

    async fn run(self: Arc<Self>, mut messages: mpsc::UnboundedReceiver<Settled>, tasks: TaskTracker) {
        let calls = Arc::new(Semaphore::new(MOST_CALLS));
        let mut batch = Vec::with_capacity(MOST_MESSAGES);
        while messages.recv_many(&mut batch, MOST_MESSAGES).await > 0 {
            let until = Instant::now() + LINGER;
            while batch.len() < MOST_MESSAGES {
                let room = MOST_MESSAGES - batch.len();
                match timeout_at(until, messages.recv_many(&mut batch, room)).await {
                    Ok(received) if received > 0 => {}
                    _ => break,
                }
            }
            let Ok(call) = Arc::clone(&calls).acquire_owned().await else { return };
            let (settler, settled) = (Arc::clone(&self), std::mem::take(&mut batch));
            tasks.spawn(async move {
                settler.settle(settled).await;
                drop(call);
            });
        }
    }

    /// Settles a batch, and what failed of it again. What cannot be settled comes back when its time is over.
    async fn settle(&self, mut batch: Vec<Settled>) {
        for wait in RETRIES.into_iter().map(Some).chain([None]) {
            let (failed, cause) = match self.call(&batch).await {
                Ok(failed) => {
                    let cause = failed.first().map(|entry| entry.code.clone());
                    (failed_again(&failed, &mut batch, |done| self.count(done)), cause)
                }
                Err(error) => {
                    self.queue.metrics.errors.get_or_create(&CodeLabel { code: error.code() }).inc();
                    (std::mem::take(&mut batch), Some(error.to_string()))
                }
            };
            if let Some(cause) = cause {
                self.warn(&cause, failed.len());
            }
            batch = failed;
            let Some(wait) = wait.filter(|_| !batch.is_empty()) else { return };
            tokio::time::sleep(wait).await;
        }
    }

    async fn call(&self, batch: &[Settled]) -> Result<Vec<FailedEntry>, QueueError> {
        let failed = match self.settlement {
            Settlement::Delete => {
                let receipts: Vec<_> = batch.iter().map(|message| &*message.receipt).collect();
                self.client.delete(&receipts).await
            }
            Settlement::GiveBack => {
                let changes: Vec<_> =
                    batch.iter().map(|message| (&*message.receipt, message.hidden)).collect();
                self.client.change_visibility(&changes).await
            }
        }?;
        for entry in &failed {
            self.queue.metrics.errors.get_or_create(&CodeLabel { code: of_service(&entry.code) }).inc();
        }
        Ok(failed)
    }

    fn count(&self, done: usize) {
        if self.settlement == Settlement::Delete {
            self.queue.metrics.deleted.inc_by(done as u64);
        }
    }

    fn warn(&self, cause: &str, again: usize) {
        if let Some(failures) = self.log.lock().count() {
            let settlement = self.settlement;
            tracing::warn!(
                ?settlement,
                cause,
                again,
                failures,
                "messages of the queue could not be settled; without success, they come again after {} s",
                VISIBILITY.as_secs()
            );
        }
    }
}

/// What is to be tried again of a batch, when the service answered what failed of it. `done` hears how many were settled.
fn failed_again(failed: &[FailedEntry], batch: &mut Vec<Settled>, done: impl FnOnce(usize)) -> Vec<Settled> {
    let fault = |index: usize| failed.iter().find(|entry| entry.index() == Some(index));
    let mut again = Vec::new();
    let mut settled = 0;
    for (index, message) in std::mem::take(batch).into_iter().enumerate() {
        match fault(index) {
            None => settled += 1,
            // Its receipt is no longer good: it has come again, or is deleted.
            Some(entry) if entry.sender_fault => {}
            Some(_) => again.push(message),
        }
    }
    done(settled);
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::sqs::leases::Leases;

    fn message(leases: &Arc<Leases>, receipt: &str) -> Settled {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Settled::delete(leases.hold(receipt.into(), Instant::now()), permit)
    }

    #[tokio::test]
    async fn only_what_may_still_succeed_is_tried_again() {
        let leases = Arc::new(Leases::default());
        let mut batch: Vec<_> = ["a", "b", "c"].map(|receipt| message(&leases, receipt)).into();
        let failed: Vec<FailedEntry> = serde_json::from_str(
            r#"[{"Id":"1","SenderFault":true,"Code":"ReceiptHandleIsInvalid"},{"Id":"2","Code":"InternalError"}]"#,
        )
        .unwrap();
        let mut settled = 0;
        let again = failed_again(&failed, &mut batch, |done| settled = done);
        let receipts: Vec<_> = again.iter().map(|message| &*message.receipt).collect();
        assert_eq!((settled, receipts), (1, vec!["c"]));
    }

    #[test]
    fn the_retries_end_before_the_messages_come_again() {
        assert!(RETRIES.into_iter().sum::<Duration>() < VISIBILITY);
    }
}
