//! What all reconciles of one controller share.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use kube::Client;
use kube::runtime::reflector::Store;
use presenceroute_manifest::build::Installation;
use presenceroute_manifest::policy::Policy;
use presenceroute_manifest::relay_defaults::RelayDefaults;

use crate::cache::{OwnedObjects, RouteOrInvalid, SecretCache, Stopped};
use crate::condition_compiler::ConditionCompiler;
use crate::events::EventRecorder;
use crate::exposure::ExposureJudge;
use crate::metrics::Metrics;
use crate::namespace_limits::NamespaceLimits;
use crate::registration::Registrations;
use crate::relay_pods::{RelayStatusAccess, RelayStatusClient};
use crate::route_state::RouteStates;
use crate::status::write::StatusWriter;

/// How the operator was configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What shows in the objects that it builds.
    pub installation: Installation,
    /// What routes may ask for.
    pub policy: Policy,
    /// The defaults for the relay pods of every route.
    pub relay_defaults: RelayDefaults,
    /// How long an old signing secret is accepted, and an old endpoint served, after Genesys Cloud has confirmed the new
    /// one.
    pub secret_grace: Duration,
    /// How long an unconfirmed create request may still take effect at Genesys Cloud.
    pub create_timeout: Duration,
    /// How long a first registration waits for the address of an Ingress or a load balancer.
    pub exposure_timeout: Duration,
    /// How relay pods are asked for their status.
    pub relay_status: RelayStatusAccess,
}

/// Everything that a reconcile needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) routes: Store<RouteOrInvalid>,
    pub(crate) conditions: Arc<ConditionCompiler>,
    pub(crate) secrets: Arc<SecretCache>,
    pub(crate) owned: Arc<OwnedObjects>,
    /// Resolves when the caches are filled, or when the process is to stop before they are.
    pub(crate) caches_ready: Shared<BoxFuture<'static, Result<(), Stopped>>>,
    pub(crate) relay_status: RelayStatusClient,
    pub(crate) exposures: ExposureJudge,
    pub(crate) registrations: Registrations,
    pub(crate) states: Arc<RouteStates>,
    pub(crate) events: Arc<EventRecorder>,
    pub(crate) metrics: Metrics,
    /// How many routes are built and applied at a time. Waiting for relays or for Genesys Cloud is not counted: a route
    /// that waits holds up no other.
    pub(crate) workers: NamespaceLimits,
}

impl Context {
    pub(crate) fn status(&self) -> StatusWriter<'_> {
        StatusWriter { states: &self.states, events: &self.events }
    }
}
