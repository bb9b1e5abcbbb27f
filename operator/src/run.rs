//! The command `run`: waits for the CRD, takes part in the leader election, and serves the routes while it leads.
//!
//! SIGTERM ends each of these steps at once. A leader finishes the reconciles in progress and releases its Lease. What a
//! reconcile does is left to the [`controller`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use kube::Client;
use kube::client::ClientBuilder;
use presenceroute_genesys::{Genesys, HostPolicy};
use presenceroute_manifest::build::{Installation, RelayImage};
use presenceroute_manifest::policy::Policy;
use presenceroute_manifest::policy::file::{PolicyFileError, read_policy};
use presenceroute_manifest::relay_defaults::{RelayDefaults, RelayDefaultsError};
use presenceroute_runtime::listen::listen;
use presenceroute_runtime::log::LogFormat;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Readiness};
use crate::cache::RouteIndex;
use crate::cache::ready::unless_stopped;
use crate::controller::{self, Settings, Shared};
use crate::exposure::EXPOSURE_TIMEOUT;
use crate::leader::{LEASE_NAME, LeaderElection, Timings};
use crate::metrics::Metrics;
use crate::registration::execute::CREATE_TIMEOUT;
use crate::relay_pods::RelayStatusAccess;

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The image of the relay pods.
    #[arg(
        long,
        env = "PRESENCEROUTE_RELAY_IMAGE",
        default_value = concat!("ghcr.io/presenceroute/relay:", env!("CARGO_PKG_VERSION"))
    )]
    pub(crate) relay_image: String,
    /// When the relay pods' image is pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "PRESENCEROUTE_RELAY_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) relay_image_pull_policy: String,
    /// A YAML file with defaults for spec.relay, which a route overrides; read at the start.
    #[arg(long, env = "PRESENCEROUTE_RELAY_DEFAULTS_FILE", value_name = "FILE")]
    pub(crate) relay_defaults_file: Option<PathBuf>,
    /// The namespaces whose routes are served, separated by commas. Empty for all.
    #[arg(long, env = "PRESENCEROUTE_WATCH_NAMESPACES", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PRESENCEROUTE_LISTEN", default_value = "[::]:8080")]
    pub(crate) listen: SocketAddr,
    /// A file with what routes may ask for: genesysHosts, namespaceHosts, relayImages and annotations. Without it, every
    /// host but special addresses, every image and every annotation.
    #[arg(long, env = "PRESENCEROUTE_POLICY_FILE", value_name = "FILE")]
    pub(crate) policy_file: Option<PathBuf>,
    /// How long an old signing secret is accepted, and an old endpoint served, after Genesys Cloud has confirmed the new
    /// one, in seconds.
    #[arg(long, env = "PRESENCEROUTE_SECRET_GRACE_SECONDS", default_value_t = 300)]
    pub(crate) secret_grace_seconds: u64,
    /// How long an unconfirmed create request may still take effect at Genesys Cloud, in seconds.
    #[arg(
        long,
        env = "PRESENCEROUTE_CREATE_TIMEOUT_SECONDS",
        default_value_t = CREATE_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=86_400)
    )]
    pub(crate) create_timeout_seconds: u64,
    /// How long a first registration waits for an Ingress or a load balancer that reports no address, in seconds.
    #[arg(
        long,
        env = "PRESENCEROUTE_EXPOSURE_TIMEOUT_SECONDS",
        default_value_t = EXPOSURE_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=86_400)
    )]
    pub(crate) exposure_timeout_seconds: u64,
    /// How relay pods are asked for their status: at port 9090 of their addresses, or through the API server.
    #[arg(long, env = "PRESENCEROUTE_RELAY_STATUS", value_enum, default_value = "Direct")]
    pub(crate) relay_status: RelayStatusAccess,
    /// How the log is written.
    #[arg(long, env = "PRESENCEROUTE_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,kube=debug.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// A file with the log's level, which is followed when it changes; while there is none, --log-level holds.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL_FILE")]
    pub(crate) log_level_file: Option<PathBuf>,
    /// This replica's name in the leader election.
    #[arg(long, env = "POD_NAME", default_value = "presenceroute-operator")]
    pub(crate) pod_name: String,
    /// This pod's uid. The Lease that the pod holds is deleted with it, so that no replica waits for a pod that is gone.
    #[arg(long, env = "POD_UID")]
    pub(crate) pod_uid: Option<String>,
    /// This pod's namespace, and that of the Lease that the replicas compete for.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub(crate) pod_namespace: String,
}

/// How soon the API server is asked again for a CRD that it does not have yet.
const CRD_POLL: Duration = Duration::from_secs(2);
/// What /readyz says meanwhile.
const CRD: &str = "the definition of PresenceRoutes on the API server";
/// How long a client of the health port may take to finish its request when the process stops.
const HEALTH_PORT_PATIENCE: Duration = Duration::from_secs(1);

/// Why the operator could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error(
        "{path} with the defaults for relay pods cannot be read: {source}; mount it, or leave out --relay-defaults-file"
    )]
    ReadDefaults { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} with the defaults for relay pods: {source}; correct relay.defaults in the chart's values"
    )]
    Defaults { path: PathBuf, source: RelayDefaultsError },
    #[error("no way to the API server: {0}; run in a pod, or set KUBECONFIG")]
    Config(kube::config::InferConfigError),
    #[error("no client for the API server: {0}")]
    Client(kube::Error),
    #[error("cannot listen on {address}: {source}; choose another address by --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("SIGTERM cannot be caught: {0}")]
    Signals(std::io::Error),
    #[error("the health port failed: {0}")]
    Serve(std::io::Error),
    #[error(transparent)]
    Controller(#[from] controller::ControllerError),
    #[error("a task of the operator panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("another replica leads now; this one starts again as a stand-by")]
    LostLeadership,
}

/// Resolves when the process is to stop.
type Stop = SharedFuture<BoxFuture<'static, ()>>;

/// Runs the operator until SIGTERM, or until it cannot go on.
pub(crate) async fn run(arguments: RunArguments) -> Result<(), RunError> {
    // First of all, so that a signal that arrives from here on is not lost: process 1 of a container ignores the signals
    // that it does not catch.
    let terminated = termination().map_err(RunError::Signals)?;
    let policy = match &arguments.policy_file {
        Some(file) => read_policy(file)?,
        None => Policy::default(),
    };
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let relay_defaults = relay_defaults(arguments.relay_defaults_file.as_deref())?;
    let config = kube::Config::infer().await.map_err(RunError::Config)?;
    let metrics = Metrics::new();
    let client = ClientBuilder::try_from(config).map_err(RunError::Client)?;
    let client = client.with_layer(&metrics.api_requests()).build();
    let readiness = Readiness::default();
    readiness.waits_for(CRD);
    let listener =
        listen(arguments.listen).map_err(|source| RunError::Listen { address: arguments.listen, source })?;
    let (stop, stopped) = watch::channel(false);
    let stopped = flagged(stopped).boxed().shared();
    let mut admin = tokio::spawn(admin::serve(listener, metrics.clone(), readiness.clone(), stopped.clone()));
    let mut work =
        tokio::spawn(lead(arguments, (policy, relay_defaults), client, metrics, readiness, stopped));
    // The first of the two that ends takes the other with it, so that no process only seems to be alive.
    tokio::select! {
        () = terminated => tracing::info!("SIGTERM received, shutting down"),
        ended = &mut work => return ended?,
        ended = &mut admin => return ended?.map_err(RunError::Serve),
    }
    stop.send_replace(true);
    work.await??;
    match tokio::time::timeout(HEALTH_PORT_PATIENCE, admin).await {
        Ok(ended) => ended?.map_err(RunError::Serve),
        // A client that does not finish its request is cut off.
        Err(_) => Ok(()),
    }
}

/// Waits for the CRD and for the leadership, then serves the routes.
async fn lead(
    arguments: RunArguments,
    (policy, relay_defaults): (Policy, RelayDefaults),
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    stop: Stop,
) -> Result<(), RunError> {
    if unless_stopped(wait_for_crd(&client), stop.clone()).await.is_err() {
        return Ok(());
    }
    readiness.has(CRD);
    let election = LeaderElection::new(
        client.clone(),
        &arguments.pod_namespace,
        LEASE_NAME,
        &arguments.pod_name,
        Timings::default(),
    )
    .of_pod(&arguments.pod_name, arguments.pod_uid.as_deref());
    let Some(mut leadership) = election.acquire(stop.clone()).await else { return Ok(()) };
    metrics.leads(true);
    let named = arguments.watch_namespaces.iter().filter(|name| !name.is_empty());
    let mut namespaces: Vec<_> = named.cloned().map(Some).collect();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    let host_policy = HostPolicy::new(policy.genesys_hosts.clone());
    let shared = Shared {
        client,
        settings: Settings {
            installation: Installation {
                relay_image: RelayImage {
                    reference: arguments.relay_image,
                    pull_policy: arguments.relay_image_pull_policy,
                },
                namespace: arguments.pod_namespace,
            },
            policy,
            relay_defaults,
            secret_grace: Duration::from_secs(arguments.secret_grace_seconds),
            create_timeout: Duration::from_secs(arguments.create_timeout_seconds),
            exposure_timeout: Duration::from_secs(arguments.exposure_timeout_seconds),
            relay_status: arguments.relay_status,
        },
        genesys: Genesys::builder().host_policy(host_policy).build(),
        conditions: Arc::default(),
        neighbours: RouteIndex::of(namespaces.len()),
        mandate: leadership.guard(),
        identity: arguments.pod_name,
        metrics: metrics.clone(),
        readiness,
    };
    let controllers =
        namespaces.into_iter().map(|namespace| controller::run(shared.clone(), namespace, stop.clone()));
    let result = tokio::select! {
        // First, so that a process that was frozen, and lost its Lease meanwhile, does not act on what the watches bring.
        biased;
        // Reconciles in progress are dropped: the next leader does them again when the Lease has run out. The Lease is
        // not released, because requests to Genesys Cloud may still be in flight.
        () = leadership.lost() => {
            metrics.leads(false);
            return Err(RunError::LostLeadership);
        }
        served = futures::future::try_join_all(controllers) => served.map(drop).map_err(RunError::from),
    };
    metrics.leads(false);
    leadership.release().await;
    result
}

/// The defaults in the file, where one is named. A wrong one is no reason to replace every relay pod by the rest of it.
fn relay_defaults(file: Option<&Path>) -> Result<RelayDefaults, RunError> {
    let Some(path) = file else { return Ok(RelayDefaults::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| RunError::ReadDefaults { path: path.to_owned(), source })?;
    RelayDefaults::parse(&text).map_err(|source| RunError::Defaults { path: path.to_owned(), source })
}

async fn wait_for_crd(client: &Client) {
    let mut has_warned = false;
    loop {
        match controller::definition_exists(client).await {
            Ok(true) => return,
            Ok(false) if has_warned => {}
            Ok(false) => {
                tracing::warn!(
                    "the API server does not know PresenceRoutes yet; waiting for crds/presenceroutes.yaml"
                );
                has_warned = true;
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot be asked for PresenceRoutes; trying again")
            }
        }
        tokio::time::sleep(CRD_POLL).await;
    }
}

async fn flagged(mut flag: watch::Receiver<bool>) {
    // The sender lives as long as the process; were it gone, stopping would be right, too.
    let _ = flag.wait_for(|set| *set).await;
}

/// Catches SIGTERM, which Kubernetes sends, and SIGINT from now on, and resolves on the first of them.
fn termination() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests;
