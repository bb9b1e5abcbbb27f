//! A stream whose items of one key come at a bounded rate: some at once, and of those beyond the newest, when it is due.
//!
//! A tenant who changes an object in a loop has a route reconciled at that rate, and no faster.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use tokio::time::Instant;
use tokio_util::time::DelayQueue;

/// How often a key may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// How many items pass at once after a calm.
    pub(crate) burst: u32,
    /// How far items are apart beyond.
    pub(crate) interval: Duration,
}

/// See [`throttled`].
pub(crate) struct Throttled<S: Stream, K, F> {
    source: S,
    key: F,
    rate: Rate,
    /// When a key has its whole burst again; a key that has it is forgotten.
    busy_until: HashMap<K, Instant>,
    /// How many keys may be remembered before those that are calm again are looked for.
    forget_at: usize,
    due: DelayQueue<K>,
    waiting: HashMap<K, S::Item>,
}

/// Passes the items of `source` on, those of one key at no more than `rate`. Of the items that would be too early, the
/// newest is kept until it is due.
pub(crate) fn throttled<S, K, F>(source: S, rate: Rate, key: F) -> Throttled<S, K, F>
where
    S: Stream + Unpin,
    K: Clone + Eq + Hash + Unpin,
    F: Fn(&S::Item) -> K,
{
    let (busy_until, waiting) = (HashMap::new(), HashMap::new());
    Throttled { source, key, rate, busy_until, forget_at: 64, due: DelayQueue::new(), waiting }
}

impl<S: Stream, K: Clone + Eq + Hash, F> Throttled<S, K, F> {
    /// Counts an item of the key, or returns when the next may pass.
    fn admit(&mut self, key: &K, now: Instant) -> Result<(), Instant> {
        let busy_until = self.busy_until.get(key).copied().unwrap_or(now).max(now);
        let earliest = busy_until.checked_sub(self.rate.interval * (self.rate.burst - 1)).unwrap_or(now);
        if earliest > now {
            return Err(earliest);
        }
        self.busy_until.insert(key.clone(), busy_until + self.rate.interval);
        if self.busy_until.len() > self.forget_at {
            self.busy_until.retain(|_, until| *until > now);
            self.forget_at = 64.max(2 * self.busy_until.len());
        }
        Ok(())
    }
}

impl<S, K, F> Stream for Throttled<S, K, F>
where
    S: Stream + Unpin,
    S::Item: Unpin,
    K: Clone + Eq + Hash + Unpin,
    F: Fn(&S::Item) -> K + Unpin,
{
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        loop {
            if let Poll::Ready(Some(due)) = this.due.poll_expired(context) {
                let key = due.into_inner();
                // The timer may be a moment early.
                match this.admit(&key, Instant::now()) {
                    Ok(()) => match this.waiting.remove(&key) {
                        Some(item) => return Poll::Ready(Some(item)),
                        None => continue,
                    },
                    Err(at) => {
                        this.due.insert_at(key, at);
                        continue;
                    }
                }
            }
            let item = match this.source.poll_next_unpin(context) {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            let key = (this.key)(&item);
            if let Some(waiting) = this.waiting.get_mut(&key) {
                *waiting = item;
                continue;
            }
            match this.admit(&key, Instant::now()) {
                Ok(()) => return Poll::Ready(Some(item)),
                Err(at) => {
                    this.due.insert_at(key.clone(), at);
                    this.waiting.insert(key, item);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_secs(1) };

    /// A stream of names with numbers, throttled by name.
    fn stream() -> (UnboundedSender<(&'static str, u32)>, impl Stream<Item = (&'static str, u32)> + Unpin) {
        let (sender, mut receiver) = unbounded_channel();
        let source = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        (sender, throttled(source, RATE, |(name, _)| *name))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_of_the_rest_the_newest_when_due() {
        let (sender, mut stream) = stream();
        for number in 1..=10 {
            sender.send(("a", number)).unwrap();
        }
        sender.send(("b", 1)).unwrap();
        for expected in [("a", 1), ("a", 2), ("a", 3), ("b", 1)] {
            assert_eq!(stream.next().now_or_never(), Some(Some(expected)));
        }
        let began = Instant::now();
        assert_eq!(stream.next().await, Some(("a", 10)));
        let waited = began.elapsed();
        assert!(waited >= RATE.interval && waited < 2 * RATE.interval, "{waited:?}");
        assert_eq!(stream.next().now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_passes_at_the_rate_and_ends_with_its_last_item() {
        let (sender, mut stream) = stream();
        tokio::spawn(async move {
            for number in 1..=200 {
                sender.send(("a", number)).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        });
        let mut passed = Vec::new();
        while passed.last() != Some(&200) {
            passed.push(stream.next().await.unwrap().1);
        }
        assert!(passed.is_sorted());
        assert!((10..=14).contains(&passed.len()), "{passed:?} in ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_calm_key_has_its_whole_burst_again_and_is_forgotten() {
        let (source, keys) = (futures::stream::pending::<u32>(), 0..1000);
        let mut throttled = throttled(source, RATE, |key| *key);
        for key in keys {
            throttled.admit(&key, Instant::now()).unwrap();
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert!(throttled.busy_until.len() <= 64, "{}", throttled.busy_until.len());
        tokio::time::advance(Duration::from_secs(10)).await;
        let now = Instant::now();
        let admitted = (0..5).filter(|_| throttled.admit(&7, now).is_ok()).count();
        assert_eq!(admitted, 3);
    }
}
