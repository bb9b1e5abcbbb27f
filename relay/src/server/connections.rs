//! Which connections are open, and which of them must make room.
//!
//! A connection without a request costs memory and a file descriptor, and whoever can reach the port can open as
//! many as they like. So there is a bound; at the bound, a new connection is taken and another is closed: one that
//! was of no use yet before one that was, and of those the one that has been quiet the longest. A sender that is at
//! work is never locked out by those that are not, not even in the moment between two of its events.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use http::{StatusCode, Version};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::log::NowAndThen;

/// How often quiet connections are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// At the bound, one connection in so many is closed, so that a flood of new ones does not search each time.
const SHARE_CLOSED: usize = 64;

/// How many places a connection of HTTP/2 takes. It has room for a frame in each direction and for headers that are not
/// whole, and remembers streams.
const HTTP2_PLACES: u32 = 4;

/// How many answers that a sender of HTTP/2 does not let through take a place of their own: each keeps its stream, which
/// is 6 KiB.
const UNSENT_A_PLACE: u32 = 2;

/// The connections of one listener.
pub(super) struct Connections {
    most: usize,
    quiet_for: Duration,
    gauge: Gauge,
    common: Arc<Common>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Activity>>,
    closed_for_others: NowAndThen,
}

/// What all connections of a listener have in common.
struct Common {
    /// When the listener began; times are counted from there.
    since: Instant,
    /// One is what a connection takes in memory.
    places: Arc<Semaphore>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
}

/// What one connection is doing.
pub(super) struct Activity {
    common: Arc<Common>,
    /// Requests without an answer.
    requests: AtomicU32,
    /// Answers of HTTP/2 whose bodies the sender does not let through.
    unsent: AtomicU32,
    /// The places that these take.
    unsent_places: Mutex<Option<OwnedSemaphorePermit>>,
    /// When the last request was answered, or the connection came, in milliseconds.
    quiet_since: AtomicU64,
    /// Whether its sender may still be sending when the connection is closed.
    lingers: Arc<AtomicBool>,
    /// Whether it has sent a request of HTTP/2, whose own keep-alive then tells whether its sender lives.
    is_http2: AtomicBool,
    /// Whether a request of it has succeeded, for which a sender must know the secret.
    is_of_use: AtomicBool,
    /// The places that it takes beside the first.
    more_places: OnceLock<OwnedSemaphorePermit>,
    /// What ends it.
    task: OnceLock<AbortHandle>,
    /// What has it look whether it is to end.
    waker: AtomicWaker,
}

/// A request that has no answer yet.
pub(super) struct OpenRequest(Arc<Activity>);

/// An answer that has a body which is not sent yet. It counts for as long as it is kept.
pub(super) struct Unsent(Arc<Activity>);

impl Connections {
    /// At most `most` connections, each without a request for at most `quiet_for`: idle, or with a head that does
    /// not become whole, or with an answer that is not read.
    pub(super) fn new(most: usize, quiet_for: Duration, gauge: Gauge) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            most,
            quiet_for,
            gauge,
            common: Arc::new(Common {
                since: Instant::now(),
                places: Arc::new(Semaphore::new(most)),
                is_draining: AtomicBool::new(false),
                is_stopping: AtomicBool::new(false),
            }),
            open: Mutex::default(),
        }
    }

    /// Room for one more connection, made where there is none.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = Arc::clone(&self.common.places).try_acquire_owned() {
                return place;
            }
            self.close_quietest();
            // Those that are at work are not closed, and may take a while.
            let freed =
                tokio::time::timeout(LOOK_EVERY, Arc::clone(&self.common.places).acquire_owned()).await;
            if let Ok(Ok(place)) = freed {
                return place;
            }
        }
    }

    /// Runs one connection. What is served keeps its entry for as long as the connection is open. (It is not kept beside
    /// it, because a future that only waits for another one has room for it twice.)
    pub(super) fn spawn<C, F>(self: &Arc<Self>, place: OwnedSemaphorePermit, serve: C)
    where
        C: FnOnce(Entry) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let activity = Arc::new(Activity {
            common: Arc::clone(&self.common),
            requests: AtomicU32::new(0),
            unsent: AtomicU32::new(0),
            unsent_places: Mutex::default(),
            quiet_since: AtomicU64::new(milliseconds(self.common.since.elapsed())),
            lingers: Arc::default(),
            is_http2: AtomicBool::new(false),
            is_of_use: AtomicBool::new(false),
            more_places: OnceLock::new(),
            task: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let entry = self.enter(Arc::clone(&activity), place);
        let task = tokio::spawn(serve(entry));
        // It is the first to be set.
        let _ = activity.task.set(task.abort_handle());
    }

    fn enter(self: &Arc<Self>, activity: Arc<Activity>, place: OwnedSemaphorePermit) -> Entry {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Arc::clone(&activity));
        self.gauge.inc();
        Entry { connections: Arc::clone(self), activity, number, _place: place }
    }

    /// Closes what has had no request for too long, for as long as it is polled.
    pub(super) async fn close_what_is_quiet(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK_EVERY.min(self.quiet_for));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Some(before) = self.common.since.elapsed().checked_sub(self.quiet_for).map(milliseconds)
            else {
                continue;
            };
            let quiet: Vec<_> = self
                .lock()
                .connections
                .values()
                .filter(|activity| {
                    !activity.is_http2.load(Ordering::Relaxed) || activity.unsent.load(Ordering::Relaxed) > 0
                })
                .filter(|activity| activity.quiet_since().is_some_and(|since| since < before))
                .cloned()
                .collect();
            quiet.iter().for_each(|activity| activity.close());
        }
    }

    /// Closes those that are missed the least.
    fn close_quietest(&self) {
        let mut quiet: Vec<((bool, u64), Arc<Activity>)> = self
            .lock()
            .connections
            .values()
            .filter_map(|activity| {
                let order = (activity.is_of_use.load(Ordering::Relaxed), activity.quiet_since()?);
                Some((order, Arc::clone(activity)))
            })
            .collect();
        let count = (self.most / SHARE_CLOSED).max(1).min(quiet.len());
        if count < quiet.len() {
            quiet.select_nth_unstable_by_key(count, |(order, _)| *order);
        }
        quiet[..count].iter().for_each(|(_, activity)| activity.close());
        self.say(count);
    }

    /// Gives a connection of HTTP/2 the places that it takes more than another. Where they are not free, others are closed
    /// for it, and its next request finds theirs.
    fn widen(&self, activity: &Activity) {
        match Arc::clone(&self.common.places).try_acquire_many_owned(HTTP2_PLACES - 1) {
            // One that has them already keeps those.
            Ok(places) => drop(activity.more_places.set(places)),
            Err(_) => self.close_quietest(),
        }
    }

    /// Asks the connections to end: those of HTTP/2 at once, those of HTTP/1.1 with their next answer.
    pub(super) fn drain(&self) {
        self.common.is_draining.store(true, Ordering::Release);
        self.wake();
    }

    /// Has every connection end after its request.
    pub(super) fn stop(&self) {
        self.common.is_stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.lock().connections.values().for_each(|activity| activity.waker.wake());
    }

    /// Waits until all connections have ended. No new one is taken from then on.
    pub(super) async fn ended(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // It fails only when the places are gone, and nothing takes them away.
        let _ = self.common.places.acquire_many(all).await;
    }

    fn say(&self, closed: usize) {
        let may_be_said = self.lock().closed_for_others.say();
        if may_be_said.is_some() {
            tracing::warn!(
                connections = self.most,
                closed,
                "as many connections are open as may be; those without a successful request, and then those that were quiet the longest, are closed"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing inside panics half-way, so what another thread left behind is whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among the others, until it ends, however it ends.
pub(super) struct Entry {
    connections: Arc<Connections>,
    activity: Arc<Activity>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Entry {
    /// What the connection is doing.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// A request has come.
    pub(super) fn begin(&self, version: Version) -> OpenRequest {
        let open = self.activity.begin(version);
        if version == Version::HTTP_2 && self.activity.more_places.get().is_none() {
            self.connections.widen(&self.activity);
        }
        open
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.gauge.dec();
        self.connections.lock().connections.remove(&self.number);
    }
}

impl Activity {
    fn begin(self: &Arc<Self>, version: Version) -> OpenRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        OpenRequest(Arc::clone(self))
    }

    /// Since when there is no request, in milliseconds after the listener's beginning.
    fn quiet_since(&self) -> Option<u64> {
        (self.requests.load(Ordering::Relaxed) == 0).then(|| self.quiet_since.load(Ordering::Relaxed))
    }

    /// Whether its sender may still be sending when the connection is closed.
    pub(super) fn lingers(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lingers)
    }

    /// Whether the connection is to end. Only a request tells which protocol it speaks. It is woken when that may have
    /// changed.
    pub(super) fn is_to_end(&self, context: &Context<'_>) -> bool {
        // Before looking, so that no change is missed between the two.
        self.waker.register(context.waker());
        self.common.is_stopping.load(Ordering::Acquire)
            || (self.common.is_draining.load(Ordering::Acquire) && self.is_http2.load(Ordering::Relaxed))
    }

    /// One more answer is there to be sent. A connection that leaves too many of them unread takes more places, and ends
    /// where there are none.
    fn hold_answer(self: &Arc<Self>) -> Unsent {
        let unsent = self.unsent.fetch_add(1, Ordering::Relaxed) + 1;
        if unsent.is_multiple_of(UNSENT_A_PLACE) {
            match Arc::clone(&self.common.places).try_acquire_owned() {
                Ok(place) => match &mut *self.unsent_places() {
                    Some(places) => places.merge(place),
                    none => *none = Some(place),
                },
                Err(_) => self.close(),
            }
        }
        Unsent(Arc::clone(self))
    }

    fn unsent_places(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.unsent_places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl OpenRequest {
    /// Its answer has a body, which HTTP/2 sends only as the other side lets it.
    pub(super) fn hold_answer(&self) -> Unsent {
        self.0.hold_answer()
    }

    /// Its answer closes the connection, though more of the request may come.
    pub(super) fn closes_early(&self) {
        self.0.lingers.store(true, Ordering::Relaxed);
    }

    /// It is answered; whether the answer is to say that the connection is about to end.
    pub(super) fn end(self, status: StatusCode) -> bool {
        if status.is_success() {
            self.0.is_of_use.store(true, Ordering::Relaxed);
        }
        self.0.common.is_draining.load(Ordering::Acquire)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.quiet_since.store(milliseconds(self.0.common.since.elapsed()), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.0.unsent.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.unsent_places() = None;
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize, quiet_for: Duration) -> Arc<Connections> {
        Arc::new(Connections::new(most, quiet_for, Gauge::default()))
    }

    /// A connection that never ends by itself.
    async fn open(connections: &Arc<Connections>) -> Arc<Activity> {
        let place = connections.place().await;
        let mut seen = None;
        connections.spawn(place, |entry| {
            seen = Some(Arc::clone(entry.activity()));
            async move {
                let _entry = entry;
                std::future::pending().await
            }
        });
        seen.unwrap()
    }

    fn is_open(connections: &Connections, activity: &Arc<Activity>) -> bool {
        connections.lock().connections.values().any(|open| Arc::ptr_eq(open, activity))
    }

    #[tokio::test]
    async fn at_the_bound_the_connection_that_was_quiet_the_longest_makes_room() {
        let connections = connections(3, Duration::from_secs(60));
        let old = [open(&connections).await, open(&connections).await, open(&connections).await];
        for (number, activity) in old.iter().enumerate() {
            activity.quiet_since.store(number as u64, Ordering::Relaxed);
        }
        // The oldest is at work, and the second was until now.
        let _working = old[0].begin(Version::HTTP_11);
        old[1].quiet_since.store(10, Ordering::Relaxed);
        let new = open(&connections).await;
        assert_eq!(connections.gauge.get(), 3);
        let left = [&old[0], &old[1], &old[2], &new].map(|activity| is_open(&connections, activity));
        assert_eq!(left, [true, true, false, true]);
    }

    #[tokio::test]
    async fn a_connection_that_was_of_use_outlives_newer_ones_that_were_not() {
        let connections = connections(3, Duration::from_secs(60));
        let sender = open(&connections).await;
        sender.begin(Version::HTTP_11).end(StatusCode::OK);
        sender.quiet_since.store(0, Ordering::Relaxed);
        let guesser = open(&connections).await;
        guesser.begin(Version::HTTP_11).end(StatusCode::FORBIDDEN);
        guesser.quiet_since.store(1, Ordering::Relaxed);
        let silent = open(&connections).await;
        silent.quiet_since.store(2, Ordering::Relaxed);
        let new = open(&connections).await;
        let left = [&sender, &guesser, &silent, &new].map(|activity| is_open(&connections, activity));
        assert_eq!(left, [true, false, true, true]);
    }

    #[tokio::test]
    async fn a_connection_of_http_2_takes_the_room_of_several() {
        let connections = connections(8, Duration::from_secs(60));
        let http2 = open(&connections).await;
        let quiet = [open(&connections).await, open(&connections).await, open(&connections).await];
        for (number, activity) in quiet.iter().enumerate() {
            activity.quiet_since.store(number as u64, Ordering::Relaxed);
        }
        let request = http2.begin(Version::HTTP_2);
        connections.widen(&http2);
        assert_eq!(connections.common.places.available_permits(), 1);
        // Another one finds too few places, and with its next request it has them.
        let second = open(&connections).await;
        let _request = second.begin(Version::HTTP_2);
        while second.more_places.get().is_none() {
            connections.widen(&second);
            tokio::task::yield_now().await;
        }
        let left = quiet.each_ref().map(|activity| is_open(&connections, activity));
        assert_eq!(left, [false; 3]);
        assert!(is_open(&connections, &http2) && is_open(&connections, &second));
        drop(request);
    }

    #[tokio::test]
    async fn answers_that_are_not_let_through_take_places_until_there_are_none() {
        let connections = connections(6, Duration::from_secs(60));
        let http2 = open(&connections).await;
        let request = http2.begin(Version::HTTP_2);
        connections.widen(&http2);
        let mut unsent: Vec<_> = (0..5).map(|_| request.hold_answer()).collect();
        assert_eq!(connections.common.places.available_permits(), 0);
        assert!(is_open(&connections, &http2));
        unsent.clear();
        assert_eq!(connections.common.places.available_permits(), 2);
        unsent.extend((0..6).map(|_| request.hold_answer()));
        while is_open(&connections, &http2) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_connection_of_http_2_that_leaves_answers_unread_is_closed_when_it_is_quiet_for_too_long() {
        let connections = connections(9, Duration::from_millis(20));
        let http2 = open(&connections).await;
        let request = http2.begin(Version::HTTP_2);
        let _unsent = request.hold_answer();
        drop(request);
        let watch = tokio::spawn(Arc::clone(&connections).close_what_is_quiet());
        while is_open(&connections, &http2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        watch.abort();
    }

    #[tokio::test]
    async fn connections_that_are_all_at_work_are_waited_for() {
        let connections = connections(1, Duration::from_secs(60));
        let activity = open(&connections).await;
        let working = activity.begin(Version::HTTP_11);
        let mut waiting = tokio::spawn(async move { drop(open(&connections).await) });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        drop(working);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_quiet_for_too_long_is_closed_and_what_is_at_work_is_not() {
        let connections = connections(9, Duration::from_millis(20));
        let quiet = open(&connections).await;
        let working = open(&connections).await;
        let _request = working.begin(Version::HTTP_11);
        let http2 = open(&connections).await;
        drop(http2.begin(Version::HTTP_2));
        let watch = tokio::spawn(Arc::clone(&connections).close_what_is_quiet());
        while is_open(&connections, &quiet) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(is_open(&connections, &working) && is_open(&connections, &http2));
        watch.abort();
    }
}
