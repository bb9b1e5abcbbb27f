//! The operator's controller in this process, with a client whose calls are noted.

use std::time::Duration;

use kube::Config;
use presenceroute_genesys::{Genesys, HostPolicy};
use presenceroute_manifest::build::{Installation, RelayImage};
use presenceroute_manifest::policy::Policy;
use presenceroute_manifest::relay_defaults::RelayDefaults;
use presenceroute_operator::admin::Readiness;
use presenceroute_operator::cache::RouteIndex;
use presenceroute_operator::controller::{self, ControllerError, Settings, Shared};
use presenceroute_operator::leader::LeaderGuard;
use presenceroute_operator::metrics::Metrics;
use presenceroute_operator::registration::execute::CREATE_TIMEOUT;
use presenceroute_operator::relay_pods::RelayStatusAccess;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api_calls::ApiCalls;
use crate::stage::until;

/// A controller that runs.
pub(crate) struct Operator {
    pub(crate) calls: ApiCalls,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ControllerError>>,
}

/// What an installation chooses.
pub(crate) struct Options {
    /// How long an address is waited for.
    pub(crate) exposure_timeout: Duration,
    /// What routes may ask for.
    pub(crate) policy: Policy,
    /// The defaults for the relay pods.
    pub(crate) relay_defaults: RelayDefaults,
    /// How relay pods are asked.
    pub(crate) relay_status: RelayStatusAccess,
}

impl Default for Options {
    fn default() -> Self {
        let policy = Policy::parse(include_str!("../policy.yaml")).unwrap();
        let exposure_timeout = Duration::from_secs(1);
        let relay_status = RelayStatusAccess::Direct;
        Self { exposure_timeout, policy, relay_defaults: RelayDefaults::default(), relay_status }
    }
}

impl Operator {
    /// Starts it for one namespace, or for all, with the identity of `config`. No Ingress of these tests has a controller
    /// that would report an address: it is waited for but a moment.
    pub(crate) fn start(config: Config, namespace: Option<&str>) -> Self {
        Self::start_with(config, namespace, Options::default())
    }

    /// The same with other options.
    pub(crate) fn start_with(config: Config, namespace: Option<&str>, options: Options) -> Self {
        let Options { exposure_timeout, policy, relay_defaults, relay_status } = options;
        let host_policy = HostPolicy::new(policy.genesys_hosts.clone());
        let (calls, metrics) = (ApiCalls::default(), Metrics::new());
        let shared = Shared {
            client: calls.client(config),
            settings: Settings {
                installation: Installation {
                    relay_image: RelayImage {
                        reference: "presenceroute/relay:none".into(),
                        pull_policy: "Never".into(),
                    },
                    namespace: "presenceroute-system".into(),
                },
                policy,
                relay_defaults,
                secret_grace: Duration::from_secs(1),
                create_timeout: CREATE_TIMEOUT,
                exposure_timeout,
                relay_status,
            },
            genesys: Genesys::builder().host_policy(host_policy).build(),
            conditions: Default::default(),
            neighbours: RouteIndex::of(1),
            mandate: LeaderGuard::without_end(),
            identity: "cluster-test".into(),
            metrics: metrics.clone(),
            readiness: Readiness::default(),
        };
        let (stop, mut stopped) = watch::channel(false);
        let stop_requested = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let task = tokio::spawn(controller::run(shared, namespace.map(str::to_owned), stop_requested));
        Self { calls, metrics, stop, task }
    }

    /// Stops it, and fails when it ends with an error.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }

    /// How many reconciles it has finished.
    pub(crate) fn reconciles(&self) -> u64 {
        let text = self.metrics.text();
        let counts = text.lines().filter_map(|line| {
            line.strip_prefix("presenceroute_operator_reconciles_total{")?
                .rsplit_once(' ')?
                .1
                .parse::<u64>()
                .ok()
        });
        counts.sum()
    }

    /// Waits until it has finished so many more, and then for a moment in which there are none.
    pub(crate) async fn has_reconciled(&self, more: u64) {
        let goal = self.reconciles() + more;
        until("it has reconciled", Duration::from_secs(20), async || {
            (self.reconciles() >= goal).then_some(()).ok_or("not yet")
        })
        .await;
        self.is_quiet().await;
    }

    /// Waits for a second in which it finishes no reconcile.
    pub(crate) async fn is_quiet(&self) {
        until("it is quiet", Duration::from_secs(60), async || {
            let before = self.reconciles();
            tokio::time::sleep(Duration::from_secs(1)).await;
            (self.reconciles() == before).then_some(()).ok_or("it still reconciles")
        })
        .await;
    }
}
