//! What this process remembers of each route from one reconcile to the next: the status that was written last, the
//! backoff after failures, and since when the route has been waiting. All of it can be lost at any time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};
use serde_json::json;

use crate::apply::FIELD_MANAGER;
use crate::cache::version;

/// The first wait after a failed reconcile, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// By the routes' uids.
pub struct RouteStates {
    client: Client,
    states: Mutex<HashMap<String, RouteState>>,
}

#[derive(Default)]
struct RouteState {
    /// The status that was written last, and the version that the object got by it.
    written: Option<(u64, PresenceRouteStatus)>,
    failures: u32,
    /// What it waits for, and since when.
    waits: HashMap<WaitReason, Instant>,
    /// What was last reported of a route that is invalid as it is stored.
    reported: Option<String>,
}

/// What a route waits for before the next step, for a bounded time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// All relay pods to serve the newest revisions.
    Live,
    /// Relay pods that are starting to report what they accept.
    Starting,
    /// The Service to route to a relay pod.
    Service,
    /// What exposes the Service to lead to a new endpoint.
    Exposure,
    /// A first relay pod to be ready.
    Available,
    /// Pods of the newest template to replace those of an older one.
    Rollout,
    /// The object that exposes the endpoint to have an address.
    Address,
}

impl RouteStates {
    /// With nothing remembered.
    pub fn new(client: Client) -> Self {
        Self { client, states: Mutex::default() }
    }

    /// The newest status: the one that was written here last, unless the watch has brought something newer.
    pub fn status(&self, route: &PresenceRoute) -> Option<PresenceRouteStatus> {
        let seen = version(route);
        let states = self.states.lock();
        match states.get(&route.uid().unwrap_or_default()).and_then(|state| state.written.as_ref()) {
            Some((written, status)) if seen.is_none_or(|seen| seen < *written) => Some(status.clone()),
            _ => route.status.clone(),
        }
    }

    /// Writes the status of a route. That the route was deleted meanwhile is no error.
    ///
    /// # Errors
    /// The API server's.
    pub async fn write_status(
        &self,
        route: &PresenceRoute,
        status: &PresenceRouteStatus,
    ) -> Result<(), kube::Error> {
        let namespace = route.namespace().unwrap_or_default();
        let api: Api<PresenceRoute> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": PresenceRoute::api_version(&()),
            "kind": PresenceRoute::kind(&()),
            // Another route of that name may have been created meanwhile.
            "metadata": {"uid": route.uid()},
            "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&route.name_any(), &parameters, &Patch::Apply(patch)).await {
            Ok(answer) => {
                self.wrote(&answer);
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn wrote(&self, answer: &PresenceRoute) {
        if let (Some(version), Some(status)) = (version(answer), answer.status.clone()) {
            let uid = answer.uid().unwrap_or_default();
            self.states.lock().entry(uid).or_default().written = Some((version, status));
        }
    }

    /// A reconcile failed: how long to wait before the next, longer each time.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut states = self.states.lock();
        let state = states.entry(uid.to_owned()).or_default();
        let wait = BACKOFF.0.saturating_mul(1 << state.failures.min(10)).min(BACKOFF.1);
        state.failures = state.failures.saturating_add(1);
        wait
    }

    /// A reconcile succeeded.
    pub fn succeeded(&self, uid: &str) {
        if let Some(state) = self.states.lock().get_mut(uid) {
            state.failures = 0;
        }
    }

    /// For how long a route has been waiting, from the first time this is called.
    pub fn waiting_for(&self, uid: &str, reason: WaitReason) -> Duration {
        let mut states = self.states.lock();
        let state = states.entry(uid.to_owned()).or_default();
        state.waits.entry(reason).or_insert_with(Instant::now).elapsed()
    }

    /// For how long a route has been waiting, where it does; otherwise the wait timer stops.
    pub fn waits(&self, uid: &str, reason: WaitReason, does: bool) -> Option<Duration> {
        if does {
            return Some(self.waiting_for(uid, reason));
        }
        self.clear_wait(uid, reason);
        None
    }

    /// Stops the wait timer.
    pub fn clear_wait(&self, uid: &str, reason: WaitReason) {
        if let Some(state) = self.states.lock().get_mut(uid) {
            state.waits.remove(&reason);
        }
    }

    /// Whether a report about an invalid route differs from the last one.
    pub fn changed(&self, uid: &str, report: &str) -> bool {
        let mut states = self.states.lock();
        let state = states.entry(uid.to_owned()).or_default();
        let changed = state.reported.as_deref() != Some(report);
        state.reported = Some(report.to_owned());
        changed
    }

    /// Forgets a route that is gone.
    pub fn forget(&self, uid: &str) {
        self.states.lock().remove(uid);
    }

    /// Forgets all routes but those that are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.states.lock().retain(|uid, _| is_there(uid));
    }
}
