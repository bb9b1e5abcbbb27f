//! The wait for the first listings of a start, which ends with them or with the process.
//!
//! A watch is polled by the controller that it wakes. A controller that stops polls no watch any more, so a wait for a
//! listing must end by the same signal: otherwise the process would wait for itself.

use tokio::sync::watch;

/// The listings that are not complete yet. Clones share the count, and any number of tasks may wait.
#[derive(Clone, Debug)]
pub struct Outstanding(watch::Sender<usize>);

impl Outstanding {
    /// So many listings.
    #[must_use]
    pub fn listings(count: usize) -> Self {
        Self(watch::Sender::new(count))
    }

    /// Counts one listing as complete.
    pub fn complete_one(&self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }

    /// Resolves when every listing is complete.
    pub async fn all_complete(&self) {
        // The sender lives in `self`, so the channel is open.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// The process was asked to stop before the caches were filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operator stops before its caches are filled")]
pub struct Stopped;

/// Waits for `ready`, and no longer than until `stop` resolves.
///
/// # Errors
/// [`Stopped`] when `stop` resolves first, or has resolved already.
pub async fn unless_stopped<T>(
    ready: impl Future<Output = T>,
    stop: impl Future<Output = ()>,
) -> Result<T, Stopped> {
    tokio::select! {
        biased;
        () = stop => Err(Stopped),
        ready = ready => Ok(ready),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_last_listing_wakes_every_waiter() {
        let outstanding = Outstanding::listings(2);
        let waiting = join_all([outstanding.all_complete(), outstanding.all_complete()]);
        let mut waiting = Box::pin(waiting);
        outstanding.complete_one();
        assert!((&mut waiting).now_or_never().is_none());
        outstanding.clone().complete_one();
        assert!(waiting.now_or_never().is_some());
        assert!(outstanding.all_complete().now_or_never().is_some(), "a later wait ends at once");
    }

    #[tokio::test]
    async fn a_stop_ends_every_wait_for_a_listing_that_never_comes() {
        let outstanding = Outstanding::listings(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) }.boxed().shared();
        let wait = async || unless_stopped(outstanding.all_complete(), stopped.clone()).await;
        let waiting = join_all([wait(), wait()]);
        stop.send(()).unwrap();
        assert_eq!(waiting.now_or_never(), Some(vec![Err(Stopped); 2]));
    }

    #[tokio::test]
    async fn a_wait_that_begins_after_the_stop_ends_at_once() {
        assert_eq!(unless_stopped(pending::<()>(), ready(())).now_or_never(), Some(Err(Stopped)));
        assert_eq!(unless_stopped(ready(7), pending()).now_or_never(), Some(Ok(7)));
    }
}
