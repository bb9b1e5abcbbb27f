//! Leader election by a coordination.k8s.io/v1 Lease: of several replicas at most one leads.
//!
//! The promise rests on two clocks that need not agree. The leader stops by its own clock [`Timings::renew_deadline`]
//! after it *sent* its last successful renewal; a standby takes over, by its own clock, no sooner than
//! [`Timings::lease`] after it *saw* that renewal, hence later. Times written into the Lease are for people and decide
//! nothing. Every write carries the resourceVersion that was read, so of two replicas that try at once one fails.
//!
//! The Lease belongs to the pod that holds it (an owner reference) and is collected with it. A pod that was deleted and
//! could not give its Lease back, because its rights were removed first or because it was killed, keeps no later replica
//! waiting.
//!
//! A process that was frozen for longer than that continues where it stopped, in the middle of anything. So all work of
//! a leader runs under a [`LeaderGuard`], which checks the clock before each of its steps.
//!
//! What a leader does, and in which order it stops, is left to the caller.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use k8s_openapi::Resource as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

/// The name of the operator's Lease.
pub const LEASE_NAME: &str = "presenceroute-operator";

const CONFLICT: u16 = 409;
const NOT_FOUND: u16 = 404;

/// How long a replica that stops waits for what it sent to the API server, and then for the release of the Lease.
const STOP_PATIENCE: Duration = Duration::from_millis(800);

/// How often a release is tried where the Lease changes under it.
const RELEASE_ATTEMPTS: u32 = 3;

/// How long a leader may be silent, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    lease: Duration,
}

impl Timings {
    /// Timings for a Lease of so long, at least a second; whole seconds, because a Lease counts in seconds.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        let seconds = lease.as_secs() + u64::from(lease.subsec_nanos() > 0);
        Self { lease: Duration::from_secs(seconds.clamp(1, 3600)) }
    }

    /// How long a leader that is no longer heard of keeps the others waiting.
    #[must_use]
    pub fn lease(self) -> Duration {
        self.lease
    }

    /// How long a leader goes on without a successful renewal: two thirds of the Lease. The last third is the margin
    /// for clocks that run at different speeds and for work that needs a moment to stop.
    #[must_use]
    pub fn renew_deadline(self) -> Duration {
        self.lease * 2 / 3
    }

    /// How long after one renewal the next is due: a third of the Lease.
    #[must_use]
    pub fn renew_every(self) -> Duration {
        self.lease / 3
    }

    /// How long one try may take, and how long after a failed one the next begins: two fifteenths of the Lease, which
    /// leaves three tries between a renewal that is due and the deadline.
    #[must_use]
    pub fn retry(self) -> Duration {
        self.lease * 2 / 15
    }
}

impl Default for Timings {
    /// A Lease of 15 s, renewed every 5 s, tried again every 2 s, given up after 10 s.
    fn default() -> Self {
        Self::of(Duration::from_secs(15))
    }
}

/// One replica's candidacy.
#[derive(Clone)]
pub struct LeaderElection {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    /// The pod that this candidate runs in.
    pod: Option<OwnerReference>,
    timings: Timings,
}

impl LeaderElection {
    /// A candidate for the Lease `name` in `namespace`. The pod's name is made unique by a suffix, so that a container
    /// that was restarted is not mistaken for its predecessor.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, pod_name: &str, timings: Timings) -> Self {
        let mut suffix = Uuid::new_v4().simple().to_string();
        suffix.truncate(8);
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: format!("{pod_name}_{suffix}"),
            pod: None,
            timings,
        }
    }

    /// Runs in this pod, of the Lease's namespace; without a uid it runs in none.
    #[must_use]
    pub fn of_pod(mut self, name: &str, uid: Option<&str>) -> Self {
        self.pod = uid.filter(|uid| !uid.is_empty()).map(|uid| OwnerReference {
            api_version: Pod::API_VERSION.to_owned(),
            kind: Pod::KIND.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
        self
    }

    /// What the Lease's `holderIdentity` is while this candidate leads.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Waits until this replica leads, for as long as it takes; failures are logged and tried again. A released Lease is
    /// taken at once, and a Lease whose holder fell silent when its time is over.
    ///
    /// When `stop` resolves, the wait ends with `None`, and this replica does not keep the Lease: an attempt in flight is
    /// awaited for a moment, because its write may take the Lease after the process has ended.
    pub async fn acquire(&self, stop: impl Future<Output = ()> + Clone) -> Option<Leadership> {
        let mut observer = Observer::new(self.identity.clone(), self.timings.lease());
        loop {
            let asked = Instant::now();
            let patience = async {
                stop.clone().await;
                sleep(STOP_PATIENCE).await;
            };
            let outcome = tokio::select! {
                biased;
                outcome = timeout(self.timings.retry(), self.attempt(&mut observer)) => outcome,
                () = patience => {
                    self.clear_within(STOP_PATIENCE).await;
                    return None;
                }
            };
            let (next_attempt, may_have_written) = match outcome {
                Ok(Ok(Attempt::Leads(lease))) => {
                    info!(lease = %self, identity = self.identity, "leading");
                    return Some(Leadership::begin(self.clone(), *lease, asked));
                }
                Ok(Ok(Attempt::Waits { seen, at_most })) => (self.change_after(seen, at_most).boxed(), false),
                Ok(Err(error)) => (self.retry_after(&error), true),
                Err(elapsed) => (self.retry_after(&elapsed), true),
            };
            tokio::select! {
                biased;
                () = stop.clone() => {
                    if may_have_written {
                        self.clear_within(STOP_PATIENCE).await;
                    }
                    return None;
                }
                () = next_attempt => {}
            }
        }
    }

    fn retry_after(&self, error: &(dyn std::error::Error + Sync)) -> BoxFuture<'static, ()> {
        warn!(lease = %self, %error, "cannot take part in the leader election; trying again");
        sleep(self.timings.retry()).boxed()
    }

    /// Gives the Lease back if this candidate holds it. Where the API server does not answer, the Lease runs out.
    async fn clear_within(&self, limit: Duration) {
        match timeout(limit, self.clear()).await {
            Ok(Ok(true)) => info!(lease = %self, "released the leadership"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                warn!(lease = %self, %error, "cannot release the leadership; it runs out by itself")
            }
            Err(_) => {
                warn!(lease = %self, "the API server did not answer the release; it runs out by itself")
            }
        }
    }

    /// Looks at the Lease once and takes it if it may be taken.
    async fn attempt(&self, observer: &mut Observer) -> kube::Result<Attempt> {
        let lease = self.leases.get_opt(&self.name).await?;
        let taken =
            match observer.decide(lease.as_ref().and_then(|lease| lease.spec.as_ref()), Instant::now()) {
                Action::Take => self.write(lease.as_ref()).await?,
                Action::Wait { at_most } => {
                    let seen = lease.and_then(|lease| lease.metadata.resource_version);
                    return Ok(Attempt::Waits { seen, at_most });
                }
            };
        Ok(match taken {
            Some(lease) => Attempt::Leads(Box::new(lease)),
            // Another was faster; what it wrote is looked at next.
            None => Attempt::Waits { seen: None, at_most: Duration::ZERO },
        })
    }

    /// Writes this candidate into the Lease as it was read; `None` if it has changed since.
    async fn write(&self, read: Option<&Lease>) -> kube::Result<Option<Lease>> {
        let spec =
            held(read.and_then(|lease| lease.spec.as_ref()), &self.identity, self.timings, Timestamp::now());
        let parameters = PostParams::default();
        let metadata = read.map_or_else(
            || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            |read| read.metadata.clone(),
        );
        let lease = Lease { metadata: owned_by(metadata, self.pod.as_ref()), spec: Some(spec) };
        let written = match read {
            None => self.leases.create(&parameters, &lease).await,
            Some(_) => self.leases.replace(&self.name, &parameters, &lease).await,
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if matches!(status.code, CONFLICT | NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when the Lease is no longer as it was seen, and after `at_most` in any case.
    async fn change_after(&self, seen: Option<String>, at_most: Duration) {
        let latest = Instant::now() + at_most;
        let change = async {
            let Some(seen) = seen else {
                // Nothing to watch from: the Lease does not exist.
                return sleep(self.timings.retry()).await;
            };
            let parameters = WatchParams::default()
                .fields(&format!("metadata.name={}", self.name))
                .timeout(u32::try_from(at_most.as_secs()).unwrap_or(u32::MAX).clamp(1, 290));
            let event = match self.leases.watch(&parameters, &seen).await {
                Ok(events) => std::pin::pin!(events).try_next().await,
                Err(error) => Err(error),
            };
            match event {
                Ok(Some(WatchEvent::Error(_)) | None) | Err(_) => {
                    debug!(lease = %self, ?event, "cannot watch the Lease; looking again shortly");
                    sleep(self.timings.retry()).await;
                }
                Ok(Some(_)) => {}
            }
        };
        // That the time is over is as good a reason to look again as a change.
        let _ = timeout_at(latest, change).await;
    }

    /// Renews before every deadline, until one is missed or another holds the Lease.
    async fn renew(self, mut lease: Lease, mut term: LeaderTerm, valid_until: watch::Sender<Instant>) {
        loop {
            sleep_until(term.next_attempt).await;
            let asked = Instant::now();
            if asked >= term.valid_until() {
                warn!(lease = %self, "no longer leading: no renewal succeeded in time");
                return;
            }
            let at_latest = term.valid_until().min(asked + self.timings.retry());
            match timeout_at(at_latest, self.renew_once(&lease)).await {
                Ok(Ok(Renewal::Renewed(renewed))) => {
                    lease = *renewed;
                    term.renewed(asked);
                    valid_until.send_replace(term.valid_until());
                }
                Ok(Ok(Renewal::Lost { holder })) => {
                    warn!(lease = %self, holder, "no longer leading: another holds the Lease");
                    valid_until.send_replace(asked);
                    return;
                }
                Ok(Err(error)) => {
                    warn!(lease = %self, %error, "cannot renew the Lease; trying again");
                    term.failed(asked);
                }
                Err(_) => {
                    warn!(lease = %self, "the API server did not answer a renewal in time; trying again");
                    term.failed(asked);
                }
            }
        }
    }

    /// One renewal. A Lease that changed is read again: it may have been our own write whose answer was lost, or
    /// an annotation of another client's; and a deleted Lease is created again.
    async fn renew_once(&self, lease: &Lease) -> kube::Result<Renewal> {
        if let Some(renewed) = self.write(Some(lease)).await? {
            return Ok(Renewal::Renewed(Box::new(renewed)));
        }
        let current = self.leases.get_opt(&self.name).await?;
        let holder = current.as_ref().and_then(|lease| holder(lease.spec.as_ref()));
        if current.is_some() && holder != Some(self.identity.as_str()) {
            return Ok(Renewal::Lost { holder: holder.unwrap_or_default().to_owned() });
        }
        Ok(match self.write(current.as_ref()).await? {
            Some(renewed) => Renewal::Renewed(Box::new(renewed)),
            None => Renewal::Lost { holder: String::new() },
        })
    }

    /// Takes this candidate's name out of the Lease. Returns whether the Lease had it.
    async fn clear(&self) -> kube::Result<bool> {
        for _ in 0..RELEASE_ATTEMPTS {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(false) };
            if holder(lease.spec.as_ref()) != Some(self.identity.as_str()) {
                return Ok(false);
            }
            lease.spec = lease.spec.map(|spec| released(spec, Timestamp::now()));
            lease.metadata = owned_by(lease.metadata, None);
            match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
                // A renewal that was on its way came first.
                Err(kube::Error::Api(status)) if status.code == CONFLICT => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(true),
            }
        }
        Ok(false)
    }
}

impl std::fmt::Display for LeaderElection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The right to act. Dropping it ends the renewals, and the others take over when the Lease is over; [`release`] lets
/// them do so at once.
///
/// [`release`]: Leadership::release
pub struct Leadership {
    election: LeaderElection,
    valid_until: watch::Receiver<Instant>,
    renewals: JoinHandle<()>,
}

impl Leadership {
    fn begin(election: LeaderElection, lease: Lease, asked: Instant) -> Self {
        let term = LeaderTerm::begin(asked, election.timings);
        let (sender, valid_until) = watch::channel(term.valid_until());
        let renewals = tokio::spawn(election.clone().renew(lease, term, sender));
        Self { election, valid_until, renewals }
    }

    /// The right to act, for the tasks that do.
    #[must_use]
    pub fn guard(&self) -> LeaderGuard {
        LeaderGuard { valid_until: Some(self.valid_until.clone()) }
    }

    /// Returns when this replica must not act any longer, in time before another can. May be called again, and may be
    /// dropped at any point.
    pub async fn lost(&mut self) {
        passed(&mut self.valid_until).await;
    }

    /// Gives the Lease back, so that another replica leads at once. Everything that acts must have stopped before.
    /// Where the API server cannot be reached, the Lease runs out by itself.
    pub async fn release(mut self) {
        self.renewals.abort();
        // A renewal that was sent already carries an older resourceVersion than the release, or comes before it.
        let _ = (&mut self.renewals).await;
        self.election.clear_within(self.election.timings.renew_every()).await;
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// The right to act as long as a [`Leadership`] lasts. Clones share it.
#[derive(Clone, Debug)]
pub struct LeaderGuard {
    /// `None` where no leadership is needed to act.
    valid_until: Option<watch::Receiver<Instant>>,
}

impl LeaderGuard {
    /// Of a process that has no competitor.
    #[must_use]
    pub fn without_end() -> Self {
        Self { valid_until: None }
    }

    /// Runs `work` step by step while this process leads. Afterwards no further step of it runs and the future never
    /// resolves: [`Leadership::lost`] is what ends the process. A step that begins a request is followed by
    /// the next only when there is an answer, so that what was frozen in between sends nothing more.
    pub async fn run_while_leading<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| if self.is_leading() { work.as_mut().poll(context) } else { Poll::Pending }).await
    }

    /// By the clock, because the timers of a process that was frozen fire in any order with what else wakes it.
    fn is_leading(&self) -> bool {
        self.valid_until.as_ref().is_none_or(|moment| Instant::now() < *moment.borrow())
    }
}

/// Returns when the moment that the channel names has passed, or the sender that moves it is gone.
async fn passed(valid_until: &mut watch::Receiver<Instant>) {
    loop {
        let moment = *valid_until.borrow_and_update();
        tokio::select! {
            changed = valid_until.changed() => if changed.is_err() { return },
            // Not left to the renewals alone: whatever keeps them busy does not prolong the leadership.
            () = sleep_until(moment) => return,
        }
    }
}

/// What came of looking at the Lease.
enum Attempt {
    Leads(Box<Lease>),
    /// Until the Lease is no longer as in this resourceVersion, or the time is over.
    Waits {
        seen: Option<String>,
        at_most: Duration,
    },
}

/// What came of a renewal that got an answer.
enum Renewal {
    Renewed(Box<Lease>),
    Lost { holder: String },
}

/// What a candidate decides about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// Write itself into it, or create it.
    Take,
    /// Look again when it changed, and at the end of this time.
    Wait { at_most: Duration },
}

/// What a candidate has observed of a Lease that another replica holds.
struct Observer {
    identity: String,
    own_lease: Duration,
    observed: Option<Observed>,
}

struct Observed {
    spec: LeaseSpec,
    first_seen: Instant,
}

impl Observer {
    fn new(identity: String, own_lease: Duration) -> Self {
        Self { identity, own_lease, observed: None }
    }

    /// Decides about the Lease as it was read just now; `None` where there is none.
    fn decide(&mut self, spec: Option<&LeaseSpec>, now: Instant) -> Action {
        if let Some(spec) = spec {
            if holder(Some(spec)).is_none_or(|holder| holder == self.identity) {
                // Ours already means a write whose answer was lost.
                return Action::Take;
            }
            if self.observed.as_ref().is_none_or(|observed| observed.spec != *spec) {
                self.observed = Some(Observed { spec: spec.clone(), first_seen: now });
            }
        }
        // A Lease that was deleted does not stop its holder; the time that the holder was given is waited for.
        match &self.observed {
            None => Action::Take,
            Some(observed) => {
                let free_at = observed.first_seen + promised(&observed.spec).unwrap_or(self.own_lease);
                match free_at.saturating_duration_since(now) {
                    Duration::ZERO => Action::Take,
                    at_most => Action::Wait { at_most },
                }
            }
        }
    }
}

/// One leadership by the leader's own clock.
#[derive(Debug)]
struct LeaderTerm {
    timings: Timings,
    /// When the last successful renewal was sent.
    renewed: Instant,
    next_attempt: Instant,
}

impl LeaderTerm {
    fn begin(asked: Instant, timings: Timings) -> Self {
        Self { timings, renewed: asked, next_attempt: asked + timings.renew_every() }
    }

    fn valid_until(&self) -> Instant {
        self.renewed + self.timings.renew_deadline()
    }

    fn renewed(&mut self, asked: Instant) {
        *self = Self::begin(asked, self.timings);
    }

    fn failed(&mut self, asked: Instant) {
        self.next_attempt = (asked + self.timings.retry()).min(self.valid_until());
    }
}

/// The holder of the Lease; a released Lease has none, or an empty name.
fn holder(spec: Option<&LeaseSpec>) -> Option<&str> {
    spec?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// How long the holder was promised, where it said something sensible.
fn promised(spec: &LeaseSpec) -> Option<Duration> {
    let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The Lease's content while `identity` holds it.
fn held(before: Option<&LeaseSpec>, identity: &str, timings: Timings, now: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let goes_on = holder(Some(&before)) == Some(identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(timings.lease().as_secs()).ok(),
        acquire_time: before.acquire_time.filter(|_| goes_on).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        // The first holder ever makes no transition, as client-go counts.
        lease_transitions: Some(if goes_on || before.renew_time.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        preferred_holder: before.preferred_holder,
        strategy: before.strategy,
    }
}

/// The Lease's metadata while this pod holds it, or none does. Owners of another kind are left alone.
fn owned_by(mut metadata: ObjectMeta, pod: Option<&OwnerReference>) -> ObjectMeta {
    let owners = metadata.owner_references.take().unwrap_or_default().into_iter();
    let owners: Vec<_> = owners.filter(|owner| owner.kind != Pod::KIND).chain(pod.cloned()).collect();
    metadata.owner_references = (!owners.is_empty()).then_some(owners);
    metadata
}

/// The Lease's content once it is released, with the shortest duration for a reader that ignores the empty name.
fn released(held: LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: None,
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn observer() -> Observer {
        Observer::new("me".to_owned(), LEASE)
    }

    fn held_by(identity: &str, renewed_at: i64) -> LeaseSpec {
        let now = Timestamp::from_second(renewed_at).unwrap();
        held(None, identity, Timings::default(), now)
    }

    #[test]
    fn the_default_timings_are_15_10_5_and_2_seconds() {
        let timings = Timings::default();
        let all = [timings.lease(), timings.renew_deadline(), timings.renew_every(), timings.retry()];
        assert_eq!(all, [seconds(15), seconds(10), seconds(5), seconds(2)]);
    }

    #[test]
    fn a_lease_that_does_not_exist_is_taken() {
        assert_eq!(observer().decide(None, Instant::now()), Action::Take);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut observer = observer();
        let now = Instant::now();
        observer.decide(Some(&held_by("other", 0)), now);
        assert_eq!(
            observer.decide(Some(&released(held_by("other", 0), Timestamp::UNIX_EPOCH)), now),
            Action::Take
        );
        let empty = LeaseSpec { holder_identity: Some(String::new()), ..held_by("other", 0) };
        assert_eq!(observer.decide(Some(&empty), now), Action::Take);
    }

    #[test]
    fn a_lease_that_already_names_us_is_taken() {
        assert_eq!(observer().decide(Some(&held_by("me", 0)), Instant::now()), Action::Take);
    }

    #[test]
    fn an_unchanged_lease_is_taken_after_its_duration() {
        let mut observer = observer();
        let start = Instant::now();
        let spec = held_by("other", 0);
        assert_eq!(observer.decide(Some(&spec), start), Action::Wait { at_most: seconds(15) });
        assert_eq!(observer.decide(Some(&spec), start + seconds(14)), Action::Wait { at_most: seconds(1) });
        assert_eq!(observer.decide(Some(&spec), start + seconds(15)), Action::Take);
    }

    #[test]
    fn a_renewal_begins_the_wait_anew() {
        let mut observer = observer();
        let start = Instant::now();
        observer.decide(Some(&held_by("other", 0)), start);
        let renewed = held_by("other", 5);
        assert_eq!(
            observer.decide(Some(&renewed), start + seconds(14)),
            Action::Wait { at_most: seconds(15) }
        );
    }

    #[test]
    fn the_times_in_the_lease_decide_nothing() {
        let long_ago = held_by("other", 0);
        let far_ahead = held_by("other", 9_000_000_000);
        for spec in [long_ago, far_ahead] {
            assert_eq!(observer().decide(Some(&spec), Instant::now()), Action::Wait { at_most: LEASE });
        }
    }

    #[test]
    fn a_holder_with_a_longer_lease_is_waited_for_longer() {
        let spec = LeaseSpec { lease_duration_seconds: Some(40), ..held_by("other", 0) };
        assert_eq!(observer().decide(Some(&spec), Instant::now()), Action::Wait { at_most: seconds(40) });
    }

    #[test]
    fn a_senseless_duration_counts_as_our_own() {
        for duration in [None, Some(0), Some(-1)] {
            let spec = LeaseSpec { lease_duration_seconds: duration, ..held_by("other", 0) };
            assert_eq!(observer().decide(Some(&spec), Instant::now()), Action::Wait { at_most: LEASE });
        }
    }

    #[test]
    fn deleting_the_lease_does_not_shorten_its_time() {
        let mut observer = observer();
        let start = Instant::now();
        observer.decide(Some(&held_by("other", 0)), start);
        assert_eq!(observer.decide(None, start + seconds(5)), Action::Wait { at_most: seconds(10) });
        assert_eq!(observer.decide(None, start + seconds(15)), Action::Take);
    }

    #[test]
    fn a_leader_stops_before_a_standby_may_take_over() {
        for lease in 1..=60 {
            let timings = Timings::of(seconds(lease));
            let sent = Instant::now();
            // The candidate sees the renewal in the very moment in which it was sent: the earliest there is.
            let mut observer = Observer::new("me".to_owned(), timings.lease());
            observer.decide(Some(&held(None, "other", timings, Timestamp::UNIX_EPOCH)), sent);
            let stops = LeaderTerm::begin(sent, timings).valid_until();
            let action = observer.decide(Some(&held(None, "other", timings, Timestamp::UNIX_EPOCH)), stops);
            assert_eq!(action, Action::Wait { at_most: timings.lease() - timings.renew_deadline() });
        }
    }

    #[test]
    fn a_renewal_has_three_tries_before_the_deadline() {
        let start = Instant::now();
        let mut term = LeaderTerm::begin(start, Timings::default());
        let mut tries = Vec::new();
        while term.next_attempt < term.valid_until() {
            tries.push(term.next_attempt - start);
            term.failed(term.next_attempt);
        }
        assert_eq!(tries, [seconds(5), seconds(7), seconds(9)]);
        assert_eq!(term.valid_until() - start, seconds(10));
    }

    #[test]
    fn a_renewal_prolongs_from_when_it_was_sent() {
        let start = Instant::now();
        let mut term = LeaderTerm::begin(start, Timings::default());
        term.renewed(start + seconds(5));
        assert_eq!(term.valid_until() - start, seconds(15));
        assert_eq!(term.next_attempt - start, seconds(10));
    }

    #[test]
    fn holding_on_keeps_the_beginning_and_the_transitions() {
        let first = held_by("me", 100);
        let second = held(Some(&first), "me", Timings::default(), Timestamp::from_second(105).unwrap());
        assert_eq!(second.acquire_time, first.acquire_time);
        assert_eq!(second.lease_transitions, Some(0));
        assert_ne!(second.renew_time, first.renew_time);
    }

    #[test]
    fn a_change_of_holder_counts_as_a_transition() {
        let mine = held(
            Some(&held_by("other", 100)),
            "me",
            Timings::default(),
            Timestamp::from_second(200).unwrap(),
        );
        assert_eq!(mine.lease_transitions, Some(1));
        let again = released(mine, Timestamp::from_second(201).unwrap());
        let theirs = held(Some(&again), "other", Timings::default(), Timestamp::from_second(202).unwrap());
        assert_eq!((theirs.lease_transitions, theirs.lease_duration_seconds), (Some(2), Some(15)));
    }

    #[test]
    fn the_lease_belongs_to_the_pod_that_holds_it() {
        let owner = |kind: &str, uid: &str| OwnerReference {
            kind: kind.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        };
        let foreign =
            ObjectMeta { owner_references: Some(vec![owner("Team", "0")]), ..ObjectMeta::default() };
        let uids = |metadata: &ObjectMeta| -> Vec<String> {
            metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
        };
        let first = owned_by(foreign, Some(&owner("Pod", "1")));
        assert_eq!(uids(&first), ["0", "1"]);
        let second = owned_by(first, Some(&owner("Pod", "2")));
        assert_eq!(uids(&second), ["0", "2"]);
        assert_eq!(uids(&owned_by(second, None)), ["0"]);
        assert_eq!(owned_by(ObjectMeta::default(), None).owner_references, None);
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_at_its_deadline_if_renewals_hang() {
        let start = Instant::now();
        let (_renewals, mut valid_until) = watch::channel(start + seconds(10));
        passed(&mut valid_until).await;
        assert_eq!(start.elapsed(), seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_moves_the_end_of_the_leadership() {
        let start = Instant::now();
        let (renewals, mut valid_until) = watch::channel(start + seconds(10));
        let renewal = async {
            sleep(seconds(5)).await;
            renewals.send_replace(start + seconds(15));
        };
        tokio::join!(passed(&mut valid_until), renewal);
        assert_eq!(start.elapsed(), seconds(15));
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_when_the_renewals_do() {
        let start = Instant::now();
        let (renewals, mut valid_until) = watch::channel(start + seconds(10));
        drop(renewals);
        passed(&mut valid_until).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn after_the_leadership_no_step_of_the_work_runs() {
        let (sender, valid_until) = watch::channel(Instant::now() + seconds(3600));
        let guard = LeaderGuard { valid_until: Some(valid_until) };
        let steps = std::cell::Cell::new(0);
        let mut work = pin!(guard.run_while_leading(async {
            loop {
                steps.set(steps.get() + 1);
                tokio::task::yield_now().await;
            }
        }));
        assert!(futures::poll!(&mut work).is_pending());
        assert!(futures::poll!(&mut work).is_pending());
        assert_eq!(steps.get(), 2);
        sender.send_replace(Instant::now());
        assert!(futures::poll!(&mut work).is_pending());
        assert_eq!(steps.get(), 2);
    }
}
