//! Which connections are open, and which of them are closed at the limit.
//!
//! A connection without a request costs memory and a file descriptor, and any client that reaches the port can open
//! many. So there is a limit; at the limit, a new connection is accepted and another is closed: one that never had a
//! verified request before one that did, and of those the one that has waited the longest. Only a verified request
//! protects its connection: a client without the secret can begin requests that never end.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Context;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use http::{StatusCode, Version};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::observe::request_log::RateLimitedLog;

/// How often idle connections are searched.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// At the limit, one connection in so many is closed, so that a flood of new ones does not search each time.
const EVICTED_SHARE: usize = 64;

/// How many permits an HTTP/2 connection takes. It has room for a frame in each direction and for incomplete headers, and
/// keeps state of its streams.
const HTTP2_PERMITS: u32 = 4;

/// How many unsent HTTP/2 responses take a permit of their own: each keeps its stream, which is 6 KiB.
const UNSENT_PER_PERMIT: u32 = 2;

/// The connections of one listener.
pub(super) struct Connections {
    most: usize,
    idle_timeout: Duration,
    gauge: Gauge,
    common: Arc<Common>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Activity>>,
    limit_reached: RateLimitedLog,
}

/// What all connections of a listener have in common.
struct Common {
    /// When the listener began; times are counted from there.
    since: Instant,
    /// One is what a connection takes in memory.
    permits: Arc<Semaphore>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
}

/// What one connection is doing.
pub(super) struct Activity {
    common: Arc<Common>,
    /// Requests without an answer.
    requests: AtomicU32,
    /// HTTP/2 responses whose bodies the sender does not let through.
    unsent: AtomicU32,
    /// Their permits.
    unsent_permits: Mutex<Option<OwnedSemaphorePermit>>,
    /// When the last request was answered, or the connection was accepted, in milliseconds.
    idle_since: AtomicU64,
    /// Whether its sender may still be sending when the connection is closed.
    linger_on_close: Arc<AtomicBool>,
    /// Whether it has sent an HTTP/2 request. HTTP/2's keep-alive detects a dead sender.
    is_http2: AtomicBool,
    /// Whether one of its requests was verified, for which a sender must know the secret, or succeeded.
    has_verified: AtomicBool,
    /// Whether one was verified since it last was without a request.
    is_verified: AtomicBool,
    /// Its permits beside the first.
    http2_permits: OnceLock<OwnedSemaphorePermit>,
    /// Ends it.
    task: OnceLock<AbortHandle>,
    /// Wakes it to check whether it is to end.
    waker: AtomicWaker,
}

/// What a connection has shown of its sender, those that are evicted first before the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It never had a verified request, and is idle or in the middle of one that is not.
    Unknown,
    /// It had one, and is idle.
    Idle,
    /// It had one, and is in the middle of another that is not verified yet.
    Receiving,
}

/// A request that has no answer yet.
pub(super) struct OpenRequest(Arc<Activity>);

/// A response whose body is not sent yet. It counts until it is dropped.
pub(super) struct Unsent(Arc<Activity>);

impl Connections {
    /// At most `most` connections, each without a request for at most `idle_timeout`: idle, or with a head that does
    /// not become whole, or with an answer that is not read.
    pub(super) fn new(most: usize, idle_timeout: Duration, gauge: Gauge) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            most,
            idle_timeout,
            gauge,
            common: Arc::new(Common {
                since: Instant::now(),
                permits: Arc::new(Semaphore::new(most)),
                is_draining: AtomicBool::new(false),
                is_stopping: AtomicBool::new(false),
            }),
            open: Mutex::default(),
        }
    }

    /// A permit for one more connection. At the limit, other connections are closed for it.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.common.permits).try_acquire_owned() {
                return permit;
            }
            self.evict();
            // Those with verified requests are not closed, and may take a while.
            let freed =
                tokio::time::timeout(CHECK_EVERY, Arc::clone(&self.common.permits).acquire_owned()).await;
            if let Ok(Ok(permit)) = freed {
                return permit;
            }
        }
    }

    /// Runs one connection. What is served keeps its entry while the connection is open. (The entry is not kept beside it,
    /// because a future that only waits for another one has room for it twice.)
    pub(super) fn spawn<C, F>(self: &Arc<Self>, permit: OwnedSemaphorePermit, serve: C)
    where
        C: FnOnce(Entry) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let activity = Arc::new(Activity {
            common: Arc::clone(&self.common),
            requests: AtomicU32::new(0),
            unsent: AtomicU32::new(0),
            unsent_permits: Mutex::default(),
            idle_since: AtomicU64::new(milliseconds(self.common.since.elapsed())),
            linger_on_close: Arc::default(),
            is_http2: AtomicBool::new(false),
            has_verified: AtomicBool::new(false),
            is_verified: AtomicBool::new(false),
            http2_permits: OnceLock::new(),
            task: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let entry = self.enter(Arc::clone(&activity), permit);
        let task = tokio::spawn(serve(entry));
        // The only place that sets it.
        let _ = activity.task.set(task.abort_handle());
    }

    fn enter(self: &Arc<Self>, activity: Arc<Activity>, permit: OwnedSemaphorePermit) -> Entry {
        let mut open = self.open.lock();
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Arc::clone(&activity));
        self.gauge.inc();
        Entry { connections: Arc::clone(self), activity, number, _permit: permit }
    }

    /// Closes connections that have been idle for too long, for as long as it is polled.
    pub(super) async fn close_idle(self: Arc<Self>) {
        let mut look = tokio::time::interval(CHECK_EVERY.min(self.idle_timeout));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Some(before) = self.common.since.elapsed().checked_sub(self.idle_timeout).map(milliseconds)
            else {
                continue;
            };
            let idle: Vec<_> = self
                .open
                .lock()
                .connections
                .values()
                .filter(|activity| {
                    !activity.is_http2.load(Ordering::Relaxed) || activity.unsent.load(Ordering::Relaxed) > 0
                })
                .filter(|activity| activity.idle_since().is_some_and(|since| since < before))
                .cloned()
                .collect();
            idle.iter().for_each(|activity| activity.close());
        }
    }

    /// Evicts connections without a verified request: never-verified first, then longest waiting.
    fn evict(&self) {
        let mut idle: Vec<((Standing, u64), Arc<Activity>)> = self
            .open
            .lock()
            .connections
            .values()
            .filter_map(|activity| {
                let order = (activity.standing()?, activity.idle_since.load(Ordering::Relaxed));
                Some((order, Arc::clone(activity)))
            })
            .collect();
        let count = (self.most / EVICTED_SHARE).max(1).min(idle.len());
        if count < idle.len() {
            idle.select_nth_unstable_by_key(count, |(order, _)| *order);
        }
        idle[..count].iter().for_each(|(_, activity)| activity.close());
        self.log_eviction(count);
    }

    /// Charges an HTTP/2 connection its additional permits. Where they are not free, connections are evicted, and its
    /// next request finds theirs.
    fn charge_http2(&self, activity: &Activity) {
        match Arc::clone(&self.common.permits).try_acquire_many_owned(HTTP2_PERMITS - 1) {
            // A connection that has them already keeps those.
            Ok(permits) => drop(activity.http2_permits.set(permits)),
            Err(_) => self.evict(),
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
        self.open.lock().connections.values().for_each(|activity| activity.waker.wake());
    }

    /// Waits until all connections have ended. No new one is taken from then on.
    pub(super) async fn ended(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // It fails only when the semaphore is closed, which it never is.
        let _ = self.common.permits.acquire_many(all).await;
    }

    fn log_eviction(&self, closed: usize) {
        let is_due = self.open.lock().limit_reached.count();
        if is_due.is_some() {
            tracing::warn!(limit = self.most, closed, "connection limit reached; closing idle connections");
        }
    }
}

/// A connection's entry among the open ones, until it ends in any way.
pub(super) struct Entry {
    connections: Arc<Connections>,
    activity: Arc<Activity>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Entry {
    /// What the connection is doing.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// A request begins.
    pub(super) fn begin(&self, version: Version) -> OpenRequest {
        let open = self.activity.begin(version);
        if version == Version::HTTP_2 && self.activity.http2_permits.get().is_none() {
            self.connections.charge_http2(&self.activity);
        }
        open
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.gauge.dec();
        self.connections.open.lock().connections.remove(&self.number);
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
    fn idle_since(&self) -> Option<u64> {
        (self.requests.load(Ordering::Relaxed) == 0).then(|| self.idle_since.load(Ordering::Relaxed))
    }

    /// How it stands in an eviction. `None` while it has a verified request.
    fn standing(&self) -> Option<Standing> {
        if !self.has_verified.load(Ordering::Relaxed) {
            Some(Standing::Unknown)
        } else if self.requests.load(Ordering::Relaxed) == 0 {
            Some(Standing::Idle)
        } else if self.is_verified.load(Ordering::Relaxed) {
            None
        } else {
            Some(Standing::Receiving)
        }
    }

    /// One of its requests is verified, which protects it until it has no request.
    pub(super) fn verified(&self) {
        self.has_verified.store(true, Ordering::Relaxed);
        self.is_verified.store(true, Ordering::Relaxed);
    }

    /// Whether its sender may still be sending when the connection is closed.
    pub(super) fn linger_on_close(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.linger_on_close)
    }

    /// Whether the connection is to end. Its protocol is known from its first request. It is woken when that may have
    /// changed.
    pub(super) fn is_to_end(&self, context: &Context<'_>) -> bool {
        // Before checking, so that no change is missed between the two.
        self.waker.register(context.waker());
        self.common.is_stopping.load(Ordering::Acquire)
            || (self.common.is_draining.load(Ordering::Acquire) && self.is_http2.load(Ordering::Relaxed))
    }

    /// Counts one more unsent response. A connection that leaves too many of them unread takes more permits, and is closed
    /// where there are none.
    fn hold_answer(self: &Arc<Self>) -> Unsent {
        let unsent = self.unsent.fetch_add(1, Ordering::Relaxed) + 1;
        if unsent.is_multiple_of(UNSENT_PER_PERMIT) {
            match Arc::clone(&self.common.permits).try_acquire_owned() {
                Ok(permit) => match &mut *self.unsent_permits.lock() {
                    Some(permits) => permits.merge(permit),
                    none => *none = Some(permit),
                },
                Err(_) => self.close(),
            }
        }
        Unsent(Arc::clone(self))
    }

    fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl OpenRequest {
    /// The connection that it is on.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.0
    }

    /// Its response has a body, which HTTP/2 sends only as the other side lets it.
    pub(super) fn hold_answer(&self) -> Unsent {
        self.0.hold_answer()
    }

    /// Its response closes the connection, though more of the request may come.
    pub(super) fn closes_early(&self) {
        self.0.linger_on_close.store(true, Ordering::Relaxed);
    }

    /// It is answered. Returns whether the response must announce that the connection ends.
    pub(super) fn end(self, status: StatusCode) -> bool {
        if status.is_success() {
            self.0.has_verified.store(true, Ordering::Relaxed);
        }
        self.0.common.is_draining.load(Ordering::Acquire)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.idle_since.store(milliseconds(self.0.common.since.elapsed()), Ordering::Relaxed);
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.is_verified.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.0.unsent.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.unsent_permits.lock() = None;
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize, idle_timeout: Duration) -> Arc<Connections> {
        Arc::new(Connections::new(most, idle_timeout, Gauge::default()))
    }

    /// A connection that never ends by itself.
    async fn open(connections: &Arc<Connections>) -> Arc<Activity> {
        let permit = connections.permit().await;
        let mut seen = None;
        connections.spawn(permit, |entry| {
            seen = Some(Arc::clone(entry.activity()));
            async move {
                let _entry = entry;
                std::future::pending().await
            }
        });
        seen.unwrap()
    }

    fn is_open(connections: &Connections, activity: &Arc<Activity>) -> bool {
        connections.open.lock().connections.values().any(|open| Arc::ptr_eq(open, activity))
    }

    #[tokio::test]
    async fn at_the_limit_the_longest_idle_connection_is_closed() {
        let connections = connections(3, Duration::from_secs(60));
        let old = [open(&connections).await, open(&connections).await, open(&connections).await];
        for (number, activity) in old.iter().enumerate() {
            activity.idle_since.store(number as u64, Ordering::Relaxed);
        }
        // The oldest is at work, and the second was until now.
        let _working = old[0].begin(Version::HTTP_11);
        old[0].verified();
        old[1].idle_since.store(10, Ordering::Relaxed);
        let new = open(&connections).await;
        assert_eq!(connections.gauge.get(), 3);
        let left = [&old[0], &old[1], &old[2], &new].map(|activity| is_open(&connections, activity));
        assert_eq!(left, [true, true, false, true]);
    }

    #[tokio::test]
    async fn a_successful_connection_outlives_newer_ones_that_were_not() {
        let connections = connections(3, Duration::from_secs(60));
        let sender = open(&connections).await;
        sender.begin(Version::HTTP_11).end(StatusCode::OK);
        sender.idle_since.store(0, Ordering::Relaxed);
        let guesser = open(&connections).await;
        guesser.begin(Version::HTTP_11).end(StatusCode::FORBIDDEN);
        guesser.idle_since.store(1, Ordering::Relaxed);
        let silent = open(&connections).await;
        silent.idle_since.store(2, Ordering::Relaxed);
        let new = open(&connections).await;
        let left = [&sender, &guesser, &silent, &new].map(|activity| is_open(&connections, activity));
        assert_eq!(left, [true, false, true, true]);
    }

    #[tokio::test]
    async fn a_request_protects_its_connection_only_once_it_is_verified() {
        let connections = connections(4, Duration::from_secs(60));
        let opened = [
            open(&connections).await,
            open(&connections).await,
            open(&connections).await,
            open(&connections).await,
        ];
        let [verified, receiving, idle, stranger] = &opened;
        let _requests = [verified, receiving, stranger].map(|activity| activity.begin(Version::HTTP_11));
        for activity in [verified, receiving, idle] {
            activity.verified();
        }
        receiving.is_verified.store(false, Ordering::Relaxed);
        for (number, activity) in opened.iter().enumerate() {
            activity.idle_since.store(number as u64, Ordering::Relaxed);
        }
        let mut newer = Vec::new();
        for left in [[true, true, true, false], [true, true, false, false], [true, false, false, false]] {
            let new = open(&connections).await;
            newer.push(new.begin(Version::HTTP_11));
            new.verified();
            assert_eq!(opened.each_ref().map(|activity| is_open(&connections, activity)), left);
        }
    }

    #[tokio::test]
    async fn an_http2_connection_takes_several_permits() {
        let connections = connections(8, Duration::from_secs(60));
        let http2 = open(&connections).await;
        let idle = [open(&connections).await, open(&connections).await, open(&connections).await];
        for (number, activity) in idle.iter().enumerate() {
            activity.idle_since.store(number as u64, Ordering::Relaxed);
        }
        let request = http2.begin(Version::HTTP_2);
        http2.verified();
        connections.charge_http2(&http2);
        assert_eq!(connections.common.permits.available_permits(), 1);
        // Another one finds too few permits, and with its next request it has them.
        let second = open(&connections).await;
        let _request = second.begin(Version::HTTP_2);
        second.verified();
        while second.http2_permits.get().is_none() {
            connections.charge_http2(&second);
            tokio::task::yield_now().await;
        }
        let left = idle.each_ref().map(|activity| is_open(&connections, activity));
        assert_eq!(left, [false; 3]);
        assert!(is_open(&connections, &http2) && is_open(&connections, &second));
        drop(request);
    }

    #[tokio::test]
    async fn unsent_answers_take_permits_until_there_are_none() {
        let connections = connections(6, Duration::from_secs(60));
        let http2 = open(&connections).await;
        let request = http2.begin(Version::HTTP_2);
        connections.charge_http2(&http2);
        let mut unsent: Vec<_> = (0..5).map(|_| request.hold_answer()).collect();
        assert_eq!(connections.common.permits.available_permits(), 0);
        assert!(is_open(&connections, &http2));
        unsent.clear();
        assert_eq!(connections.common.permits.available_permits(), 2);
        unsent.extend((0..6).map(|_| request.hold_answer()));
        while is_open(&connections, &http2) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_idle_http2_connection_with_unread_answers_is_closed() {
        let connections = connections(9, Duration::from_millis(20));
        let http2 = open(&connections).await;
        let request = http2.begin(Version::HTTP_2);
        let _unsent = request.hold_answer();
        drop(request);
        let watch = tokio::spawn(Arc::clone(&connections).close_idle());
        while is_open(&connections, &http2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        watch.abort();
    }

    #[tokio::test]
    async fn connections_with_verified_requests_are_waited_for() {
        let connections = connections(1, Duration::from_secs(60));
        let activity = open(&connections).await;
        let working = activity.begin(Version::HTTP_11);
        activity.verified();
        let mut waiting = tokio::spawn(async move { drop(open(&connections).await) });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        drop(working);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn only_connections_idle_for_too_long_are_closed() {
        let connections = connections(9, Duration::from_millis(20));
        let idle = open(&connections).await;
        let working = open(&connections).await;
        let _request = working.begin(Version::HTTP_11);
        let http2 = open(&connections).await;
        drop(http2.begin(Version::HTTP_2));
        let watch = tokio::spawn(Arc::clone(&connections).close_idle());
        while is_open(&connections, &idle) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(is_open(&connections, &working) && is_open(&connections, &http2));
        watch.abort();
    }
}
