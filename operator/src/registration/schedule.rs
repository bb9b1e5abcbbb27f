//! When Genesys Cloud is asked for a route: how long an observation is trusted, how long a failure is waited for, and
//! how long an unconfirmed create request may still take effect.
//!
//! One lock, one method a transition. All of it can be lost at any time: after a restart it is observed, or waited for,
//! again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use presenceroute_core::genesys_api::ApiEndpoint;
use presenceroute_crds::status::RegistrationLocation;
use presenceroute_genesys::Access;
use presenceroute_manifest::dereference::SecretProblem;
use tokio::time::Instant;

use super::backend::Backend;
use super::desired::{Desired, is_same_access};
use super::failure::Failure;
use super::objects::ObservedObject;
use super::plan::{Applied, Change};
use super::record::RegistrationKey;
use super::secret_drift::SecretDrift;

/// How long an observation is trusted: the contract allows one call a route in this time.
const VERIFY_EVERY: Duration = Duration::from_secs(300);
/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// What is remembered between reconciles, by the routes' uids.
pub struct RegistrationCache {
    inner: Mutex<Inner>,
    create_timeout: Duration,
}

#[derive(Default)]
struct Inner {
    routes: HashMap<String, Entry>,
    /// The APIs that ignore the name when they list: what one route has found out, the others need not pay for.
    expensive_lists: HashSet<ApiEndpoint>,
}

#[derive(Default)]
struct Entry {
    verified: Option<Box<Verified>>,
    /// What was in order by the word of an operator before this one, and when it is observed.
    postponed: Option<Box<(Desired, Instant)>>,
    failed: Option<Box<(Desired, Backoff)>>,
    removals_failed: Vec<(RegistrationLocation, Result<Access, SecretProblem>, Backoff)>,
    /// The destination of another owner that the registration had at the last observation.
    foreign_destination: Option<String>,
    /// How often in a row an integration was seen on its way to the intended state.
    unsettled: u32,
    /// Create requests that may still take effect, at the locations that this process has to do with.
    creates: HashMap<RegistrationKey, Option<UnconfirmedCreate>>,
    /// Clients that have worked, by the fingerprint of the OAuth client: a route that is deleted together with its
    /// Secrets can still be deregistered.
    working_clients: Vec<(String, Backend)>,
    secret_drift: SecretDrift,
}

#[derive(Clone)]
struct Verified {
    desired: Desired,
    registration: ObservedObject,
    is_verifiable: bool,
    differs: Option<String>,
    is_cheap_to_list: bool,
    due: Instant,
}

/// A failure, and how often it came in a row.
#[derive(Clone)]
struct Backoff {
    times: u32,
    failure: Failure,
    not_before: Instant,
}

impl Backoff {
    /// The failure after those before it: each is waited for longer than the last.
    fn after(before: Option<&Self>, failure: Failure) -> Self {
        let times = before.map_or(0, |before| before.times);
        let wait = jittered(BACKOFF.0.saturating_mul(1 << times.min(10)).min(BACKOFF.1));
        let failure = Failure { retry_in: failure.retry_in.max(wait), ..failure };
        let not_before = Instant::now() + failure.retry_in;
        Self { times: times.saturating_add(1), failure, not_before }
    }

    /// The failure, while it is too soon to try again.
    fn pending(&self, now: Instant) -> Option<Failure> {
        (now < self.not_before).then(|| Failure { retry_in: self.not_before - now, ..self.failure.clone() })
    }
}

/// Create requests whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnconfirmedCreate {
    /// How many.
    pub count: usize,
    /// When none of them can take effect any more.
    pub until: Instant,
}

impl UnconfirmedCreate {
    /// What may still take effect after an observation that began at `now`. What it found by its name came of one of the
    /// requests; what was known before, or is created now, did not.
    fn after(self, applied: &Applied, known_id: Option<&str>, now: Instant) -> Option<Self> {
        let is_other = applied.change == Some(Change::Created) || known_id == Some(applied.registration.id());
        let count = self.count.saturating_sub(usize::from(!is_other));
        (now < self.until && count > 0).then_some(Self { count, ..self })
    }
}

/// What the status and the signing Secret say of a route before Genesys Cloud is asked.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The registration's id.
    pub id: Option<String>,
    /// Where it last sent events, or was about to: a URL, or an AWS account and region.
    pub destination: Option<String>,
    /// Whether another owner was found to have taken it back.
    pub contested: bool,
    /// Whether Genesys Cloud has confirmed all that is desired, but for the secret.
    pub confirmed: bool,
    /// Whether that was observed, and the last observation was good: the next one may wait for its turn.
    pub in_order: bool,
    /// Whether Genesys Cloud has confirmed that it signs with the secret.
    pub secret_registered: bool,
    /// Whether the relays report that it signs with another one all the same.
    pub secret_drifted: bool,
}

impl Known {
    fn secret_is_there(&self) -> bool {
        self.secret_registered && !self.secret_drifted
    }

    /// Whether nothing speaks against the last observation. What was said of a route that has failed meanwhile must be
    /// said anew.
    pub fn stands(&self) -> bool {
        self.in_order && self.secret_is_there()
    }
}

/// Whether Genesys Cloud is asked.
pub enum CacheDecision {
    /// The last observation is recent, and of the same registration.
    Trusted {
        /// As it was observed.
        registration: ObservedObject,
        /// Whether it can be observed at all.
        is_verifiable: bool,
        /// In what an integration that is kept by other means is not as desired.
        differs: Option<String>,
        /// How long that is trusted still.
        trusted_for: Duration,
    },
    /// The last attempt failed a moment ago.
    Backoff(Failure),
    /// It was in order when it was last observed, and is observed after this time.
    Postponed(Duration),
    /// It is time to ask.
    Ask(Inquiry),
}

/// How a registration is asked for, and what has a bearing on the answer.
pub struct Inquiry {
    /// Its id, where it is known.
    pub id: Option<String>,
    /// Whether it is looked up by its name first.
    pub by_name: bool,
    /// The destination of another owner that it had at the last observation.
    pub foreign_destination: Option<String>,
    /// Whether the same was confirmed before by this process.
    pub was_verified: bool,
    /// Create requests that may still take effect.
    unconfirmed: Option<UnconfirmedCreate>,
    began: Instant,
}

impl RegistrationCache {
    /// Empty. `create_timeout` is how long a create request without an answer may still take effect.
    pub fn new(create_timeout: Duration) -> Self {
        Self { inner: Mutex::default(), create_timeout }
    }

    /// The record names this location for the first time: no create request but this process's own can take effect there.
    pub fn begin(&self, uid: &str, location: &RegistrationLocation) {
        self.entry(uid, |entry| entry.creates.entry(location.into()).or_insert(None).is_none());
    }

    /// Why the last attempt failed, while it is too soon for the next.
    pub fn backoff(&self, uid: &str, desired: &Desired) -> Option<Failure> {
        let inner = self.inner.lock();
        let (failed, backoff) = inner.routes.get(uid)?.failed.as_deref()?;
        failed.is_same_attempt(desired).then(|| backoff.pending(Instant::now()))?
    }

    /// Whether to ask, and how. Where a route was in order before this process started, the first question is postponed
    /// to some moment of the next five minutes: all routes at once would use up the budget of a minute.
    pub fn decide(&self, uid: &str, desired: &Desired, known: &Known) -> CacheDecision {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let is_expensive = inner.expensive_lists.contains(desired.api());
        let entry = inner.routes.entry(uid.to_owned()).or_default();
        if let Some((failed, backoff)) = entry.failed.as_deref()
            && failed.is_same_attempt(desired)
            && let Some(failure) = backoff.pending(now)
        {
            return CacheDecision::Backoff(failure);
        }
        if let Some(verified) = &entry.verified
            && verified.desired.is_same_attempt(desired)
            && known.secret_is_there()
            && now < verified.due
        {
            return CacheDecision::Trusted {
                registration: verified.registration.clone(),
                is_verifiable: verified.is_verifiable,
                differs: verified.differs.clone(),
                trusted_for: verified.due - now,
            };
        }
        if let Some((postponed, until)) = entry.postponed.as_deref()
            && postponed.is_same_attempt(desired)
            && known.stands()
            && now < *until
        {
            return CacheDecision::Postponed(*until - now);
        }
        let is_first = entry.postponed.is_none() && entry.verified.is_none() && entry.failed.is_none();
        if is_first && known.stands() {
            let wait = somewhere_in(VERIFY_EVERY);
            entry.postponed = Some(Box::new((desired.clone(), now + wait)));
            return CacheDecision::Postponed(wait);
        }
        let same = entry.verified.as_ref().filter(|verified| verified.desired.is_same_registration(desired));
        let id = known.id.clone().or_else(|| same.map(|verified| verified.registration.id().to_owned()));
        let was_verified = same.is_some();
        let is_cheap = entry.verified.as_ref().map_or(!is_expensive, |verified| verified.is_cheap_to_list);
        let foreign_destination = entry.foreign_destination.clone();
        let unconfirmed = entry.unconfirmed(&(&desired.location).into(), id.is_some(), self.create_timeout);
        let by_name = is_cheap || unconfirmed.is_some();
        CacheDecision::Ask(Inquiry {
            id,
            by_name,
            foreign_destination,
            was_verified,
            unconfirmed,
            began: now,
        })
    }

    /// The registration is as desired. Returns how long that is trusted.
    pub fn verified(
        &self,
        uid: &str,
        desired: Desired,
        inquiry: &Inquiry,
        applied: &Applied,
        backend: Backend,
    ) -> Duration {
        let mut inner = self.inner.lock();
        let api = desired.api().clone();
        if applied.is_cheap_to_list {
            inner.expensive_lists.remove(&api);
        } else {
            inner.expensive_lists.insert(api);
        }
        let entry = inner.routes.entry(uid.to_owned()).or_default();
        let now = inquiry.began;
        let left = inquiry.unconfirmed.and_then(|before| before.after(applied, inquiry.id.as_deref(), now));
        entry.creates.insert((&desired.location).into(), left);
        let settles_in = applied.registration.settles_in(entry.unsettled);
        entry.unsettled = settles_in.map_or(0, |_| entry.unsettled.saturating_add(1));
        let trusted_for = left.map_or_else(|| jittered(VERIFY_EVERY), |left| left.until - now);
        let trusted_for = settles_in.map_or(trusted_for, |wait| jittered(wait).min(trusted_for));
        let client = desired.location.access.client_fingerprint.clone();
        entry.working_clients.retain(|(known, way)| !(*known == client && way.is_same_api(&backend)));
        entry.working_clients.push((client, backend));
        entry.failed = None;
        entry.postponed = None;
        entry.foreign_destination.clone_from(&applied.foreign_destination);
        entry.verified = Some(Box::new(Verified {
            desired,
            registration: applied.registration.clone(),
            is_verifiable: applied.is_verifiable,
            differs: applied.differs.clone(),
            is_cheap_to_list: applied.is_cheap_to_list,
            due: now + trusted_for,
        }));
        trusted_for
    }

    /// The attempt failed. Returns the failure with its wait, longer each time.
    pub fn failed(&self, uid: &str, desired: Desired, failure: Failure) -> Failure {
        self.entry(uid, |entry| {
            let before = entry.failed.as_deref().filter(|(failed, _)| failed.is_same_attempt(&desired));
            let backoff = Backoff::after(before.map(|(_, backoff)| backoff), failure);
            let failure = backoff.failure.clone();
            entry.failed = Some(Box::new((desired, backoff)));
            // What is known of the registration may be out of date, and there may be a second one.
            if let Some(verified) = &mut entry.verified {
                verified.due = Instant::now();
                verified.is_cheap_to_list = true;
            }
            failure
        })
    }

    /// As [`RegistrationCache::failed`], by a create request that may have taken effect, or may still.
    pub fn create_unconfirmed(
        &self,
        uid: &str,
        desired: Desired,
        inquiry: &Inquiry,
        failure: Failure,
    ) -> Failure {
        let count = inquiry.unconfirmed.map_or(0, |before| before.count) + 1;
        let until = Instant::now() + self.create_timeout;
        let key = RegistrationKey::from(&desired.location);
        self.entry(uid, |entry| entry.creates.insert(key, Some(UnconfirmedCreate { count, until })));
        self.failed(uid, desired, failure)
    }

    /// No call was left for what stands: it is observed after this time.
    pub fn postponed(&self, uid: &str, desired: Desired, wait: Duration) {
        let postponed = Box::new((desired, Instant::now() + wait));
        self.entry(uid, |entry| entry.postponed = Some(postponed));
    }

    /// Create requests at a location that may still take effect.
    pub fn unconfirmed_create(
        &self,
        uid: &str,
        location: &RegistrationLocation,
    ) -> Option<UnconfirmedCreate> {
        let timeout = self.create_timeout;
        self.entry(uid, |entry| entry.unconfirmed(&location.into(), location.id.is_some(), timeout))
    }

    /// A client of this location's API, of the OAuth client that registered there, that has worked for the route.
    pub fn working_client(&self, uid: &str, location: &RegistrationLocation) -> Option<Backend> {
        let access = &location.access;
        let inner = self.inner.lock();
        let mut clients = inner.routes.get(uid)?.working_clients.iter();
        let is_at = |backend: &Backend| backend.is_for(location.type_) && backend.is_at(&access.api);
        clients
            .find(|(client, backend)| *client == access.client_fingerprint && is_at(backend))
            .map(|(_, backend)| backend.clone())
    }

    /// The failure of the last removal from this location, while it is too soon to try again with this access.
    pub fn removal_backoff(
        &self,
        uid: &str,
        location: &RegistrationLocation,
        access: &Result<Access, SecretProblem>,
    ) -> Option<Failure> {
        let inner = self.inner.lock();
        let mut failed = inner.routes.get(uid)?.removals_failed.iter();
        failed
            .find(|(known, with, _)| known == location && is_same_access(with, access))?
            .2
            .pending(Instant::now())
    }

    /// A removal succeeded, or failed. Returns the failure with its wait, longer each time.
    ///
    /// # Errors
    /// The failure.
    pub fn removal_ended(
        &self,
        uid: &str,
        location: &RegistrationLocation,
        access: Result<Access, SecretProblem>,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.entry(uid, |entry| {
            let position = entry.removals_failed.iter().position(|(known, ..)| known == location);
            let before = position.map(|position| entry.removals_failed.remove(position));
            result.map_err(|failure| {
                let before = before.as_ref().filter(|(_, with, _)| is_same_access(with, &access));
                let backoff = Backoff::after(before.map(|(_, _, backoff)| backoff), failure);
                let failure = backoff.failure.clone();
                entry.removals_failed.push((location.clone(), access, backoff));
                failure
            })
        })
    }

    /// Why the last removal from this location failed.
    pub fn last_removal_failure(&self, uid: &str, location: &RegistrationLocation) -> Option<Failure> {
        let inner = self.inner.lock();
        let mut failed = inner.routes.get(uid)?.removals_failed.iter();
        failed.find(|(known, ..)| known == location).map(|(_, _, backoff)| backoff.failure.clone())
    }

    /// What a route's relays have reported of signatures.
    pub fn with_secret_drift<T>(&self, uid: &str, observe: impl FnOnce(&mut SecretDrift) -> T) -> T {
        self.entry(uid, |entry| observe(&mut entry.secret_drift))
    }

    /// Forgets a route that is gone.
    pub fn forget(&self, uid: &str) {
        self.inner.lock().routes.remove(uid);
    }

    /// Forgets all routes but those that are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.inner.lock().routes.retain(|uid, _| is_there(uid));
    }

    fn entry<T>(&self, uid: &str, transition: impl FnOnce(&mut Entry) -> T) -> T {
        transition(self.inner.lock().routes.entry(uid.to_owned()).or_default())
    }
}

impl Entry {
    /// A location without an id that this process has not begun was left by another operator, perhaps in the middle of a
    /// create request.
    fn unconfirmed(
        &mut self,
        key: &RegistrationKey,
        has_id: bool,
        create_timeout: Duration,
    ) -> Option<UnconfirmedCreate> {
        if has_id && !self.creates.contains_key(key) {
            return None;
        }
        let inherited = || Some(UnconfirmedCreate { count: 1, until: Instant::now() + create_timeout });
        *self.creates.entry(key.clone()).or_insert_with(inherited)
    }
}

/// Any part of `duration`.
fn somewhere_in(duration: Duration) -> Duration {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    duration.mul_f64(f64::from(u16::from_be_bytes([bytes[0], bytes[1]])) / f64::from(u16::MAX))
}

/// Up to a tenth longer than `duration`, so that routes made together do not call together for ever.
fn jittered(duration: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    duration.mul_f64(1.0 + 0.1 * f64::from(random) / 255.0)
}
