//! What this process remembers of each route from one reconcile to the next. All of it can be lost at any time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};

use crate::cache::version;

/// The first wait after a failed reconcile, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// By the routes' uids.
#[derive(Default)]
pub struct Ledger(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    /// The status that was written last, and the version that the object got by it.
    written: Option<(u64, PresenceRouteStatus)>,
    failures: u32,
    /// What it waits for, and since when.
    awaited: HashMap<Awaited, Instant>,
    /// What was last said of a route that cannot be read.
    unreadable: Option<String>,
}

/// What a route waits for before anything else is done for it, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// All relays to be live, whatever they are to take up meanwhile.
    Live,
    /// Relay pods that are starting to say what they accept.
    Started,
    /// The Service to lead to a relay.
    Service,
}

impl Ledger {
    /// The newest status: the one that was written here last, unless the watch has brought something newer.
    pub fn status(&self, route: &PresenceRoute) -> Option<PresenceRouteStatus> {
        let seen = version(route);
        match self.lock().get(&route.uid().unwrap_or_default()).and_then(|entry| entry.written.as_ref()) {
            Some((written, status)) if seen.is_none_or(|seen| seen < *written) => Some(status.clone()),
            _ => route.status.clone(),
        }
    }

    /// Remembers the object as the API server answered after its status was written.
    pub fn wrote(&self, answer: &PresenceRoute) {
        if let (Some(version), Some(status)) = (version(answer), answer.status.clone()) {
            self.lock().entry(answer.uid().unwrap_or_default()).or_default().written =
                Some((version, status));
        }
    }

    /// A reconcile failed: how long to wait before the next, longer each time.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        let wait = BACKOFF.0.saturating_mul(1 << entry.failures.min(10)).min(BACKOFF.1);
        entry.failures = entry.failures.saturating_add(1);
        wait
    }

    /// A reconcile went through.
    pub fn succeeded(&self, uid: &str) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.failures = 0;
        }
    }

    /// For how long a route has been waiting, from the first time this is asked on.
    pub fn has_waited(&self, uid: &str, awaited: Awaited) -> Duration {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        entry.awaited.entry(awaited).or_insert_with(Instant::now).elapsed()
    }

    /// It came, or is not waited for any more.
    pub fn came(&self, uid: &str, awaited: Awaited) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.awaited.remove(&awaited);
        }
    }

    /// What there is to say of a route that cannot be read: whether this has not been said yet.
    pub fn is_news(&self, uid: &str, note: &str) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        let is_news = entry.unreadable.as_deref() != Some(note);
        entry.unreadable = Some(note.to_owned());
        is_news
    }

    /// The route is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets all routes but those that are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Every critical section above leaves the map whole, even one that panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
