//! The command line: `run`, `crd`, `validate`.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kube::Client;
use kube::client::ClientBuilder;
use presenceroute_runtime::listen::listen;
use presenceroute_runtime::log::{self, LogFormat};
use tokio::sync::watch;

use crate::admin::{self, Readiness};
use crate::controller::{self, Settings, Shared};
use crate::leader::{LEASE_NAME, LeaderElection, Timings};
use crate::metrics::Metrics;
use crate::register::LATE_CREATION;
use crate::route_index::Neighbours;
use presenceroute_genesys::Genesys;
use presenceroute_manifest::build::{Installation, RelayImage};
use presenceroute_manifest::lint::command::{self as lint, LintArguments};

/// How long to wait before the API server is asked again for what is not there yet.
const DEFINITION_POLL: Duration = Duration::from_secs(2);
/// What /readyz says meanwhile.
const DEFINITION: &str = "the definition of PresenceRoutes on the API server";

/// Carries presence events from Genesys Cloud to Kafka: the operator.
#[derive(Debug, Parser)]
#[command(name = "presenceroute-operator", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller.
    Run(Box<RunArguments>),
    /// Print the custom resource definition.
    Crd,
    /// Say what the cluster would say of manifests, without one.
    Validate(LintArguments),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The image of the relay pods.
    #[arg(
        long,
        env = "PRESENCEROUTE_RELAY_IMAGE",
        default_value = concat!("ghcr.io/presenceroute/relay:", env!("CARGO_PKG_VERSION"))
    )]
    relay_image: String,
    /// When the relay pods' image is pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "PRESENCEROUTE_RELAY_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    relay_image_pull_policy: String,
    /// The namespaces whose routes are served, separated by commas. Empty for all.
    #[arg(long, env = "PRESENCEROUTE_WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PRESENCEROUTE_LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    /// For how many seconds an old signing secret is accepted after Genesys Cloud has confirmed the new one.
    #[arg(long, env = "PRESENCEROUTE_SECRET_GRACE_SECONDS", default_value_t = 300)]
    secret_grace_seconds: u64,
    /// For how many seconds a registration may still come of a creation that Genesys Cloud has not answered.
    #[arg(
        long,
        env = "PRESENCEROUTE_LATE_CREATION_SECONDS",
        default_value_t = LATE_CREATION.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=86_400)
    )]
    late_creation_seconds: u64,
    /// How the log is written.
    #[arg(long, env = "PRESENCEROUTE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,kube=debug.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// A file with the log's level, which is followed when it changes; while there is none, --log-level holds.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL_FILE")]
    log_level_file: Option<PathBuf>,
    /// This replica's name among those that may lead.
    #[arg(long, env = "POD_NAME", default_value = "presenceroute-operator")]
    pod_name: String,
    /// This pod's uid. The Lease that it holds goes when the pod does, so that nobody waits for a pod that is gone.
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
    /// This pod's namespace, and that of the Lease that the replicas compete for.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pod_namespace: String,
}

/// Why the operator could not go on.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("no way to the API server: {0}; run in a pod, or set KUBECONFIG")]
    Config(kube::config::InferConfigError),
    #[error("no client for the API server: {0}")]
    Client(kube::Error),
    #[error("cannot listen on {address}: {source}; choose another address by --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the health port failed: {0}")]
    Serve(std::io::Error),
    #[error(transparent)]
    Controller(#[from] controller::ControllerError),
    #[error("a task of the operator panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("another replica leads now; this one starts again as a stand-by")]
    LostLeadership,
}

/// Runs a command to its end.
pub async fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Run(arguments) => {
            let level = match log::start(&arguments.log_level, arguments.log_format) {
                Ok(level) => level,
                Err(error) => return complain(&error.to_string()),
            };
            let level_file = arguments.log_level_file.clone();
            let ended = tokio::select! {
                ended = run_controller(*arguments) => ended,
                never = follow(level, level_file) => match never {},
            };
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "the operator stops");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Crd => match presenceroute_crds::crd_yaml() {
            Ok(yaml) => say(&yaml, ExitCode::SUCCESS),
            Err(error) => {
                say(&format!("the definition cannot be written as YAML: {error}\n"), ExitCode::FAILURE)
            }
        },
        Command::Validate(arguments) => lint::run(&arguments).await,
    }
}

/// Follows the level in the file, where one is named. Nobody waits for its end.
async fn follow(level: log::Level, file: Option<PathBuf>) -> Infallible {
    if let Some(path) = file {
        level.follow(path).await;
    }
    std::future::pending().await
}

/// For whoever started the program, before there is a log.
fn complain(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

async fn run_controller(arguments: RunArguments) -> Result<(), RunError> {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let config = kube::Config::infer().await.map_err(RunError::Config)?;
    let metrics = Metrics::new();
    let client = ClientBuilder::try_from(config).map_err(RunError::Client)?;
    let client = client.with_layer(&metrics.api_requests()).build();
    let readiness = Readiness::default();
    readiness.waits_for(DEFINITION);
    let listener =
        listen(arguments.listen).map_err(|source| RunError::Listen { address: arguments.listen, source })?;
    let (stop, stopped) = watch::channel(false);
    let mut admin =
        tokio::spawn(admin::serve(listener, metrics.clone(), readiness.clone(), flagged(stopped.clone())));
    let mut work = tokio::spawn(lead(arguments, client, metrics, readiness, stopped));
    // Whichever of the two ends first takes the other with it: a process that only seems alive helps nobody.
    let result = tokio::select! {
        () = terminated() => {
            tracing::info!("asked to stop; finishing what is under way");
            Ok(())
        }
        ended = &mut work => return ended?,
        ended = &mut admin => return ended?.map_err(RunError::Serve),
    };
    // Nobody listens any more only when all tasks have ended.
    let _ = stop.send(true);
    work.await??;
    admin.await?.map_err(RunError::Serve)?;
    result
}

/// Waits for the definition and for the lead, then serves the routes.
async fn lead(
    arguments: RunArguments,
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    stopped: watch::Receiver<bool>,
) -> Result<(), RunError> {
    tokio::select! {
        () = wait_for_definition(&client) => readiness.has(DEFINITION),
        () = flagged(stopped.clone()) => return Ok(()),
    }
    let election = LeaderElection::new(
        client.clone(),
        &arguments.pod_namespace,
        LEASE_NAME,
        &arguments.pod_name,
        Timings::default(),
    )
    .of_pod(&arguments.pod_name, arguments.pod_uid.as_deref());
    let mut leadership = tokio::select! {
        leadership = election.acquire() => leadership,
        () = flagged(stopped.clone()) => return Ok(()),
    };
    metrics.leads(true);
    let namespaces: Vec<Option<String>> = match arguments.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().filter(|name| !name.is_empty()).cloned().map(Some).collect(),
    };
    let namespaces = if namespaces.is_empty() { vec![None] } else { namespaces };
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
            secret_grace: Duration::from_secs(arguments.secret_grace_seconds),
            late_creation: Duration::from_secs(arguments.late_creation_seconds),
        },
        genesys: Genesys::new(),
        neighbours: Neighbours::of(namespaces.len()),
        mandate: leadership.mandate(),
        identity: arguments.pod_name,
        metrics: metrics.clone(),
        readiness,
    };
    let controllers = namespaces
        .into_iter()
        .map(|namespace| controller::run(shared.clone(), namespace, flagged(stopped.clone())));
    let result = tokio::select! {
        // First, so that who was frozen, and led meanwhile no more, does not take up what the watches bring.
        biased;
        // Reconciles that are under way are dropped: another replica does them again, when the Lease has run out. It is
        // not given back, because what was sent to Genesys Cloud may still be on its way.
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

async fn wait_for_definition(client: &Client) {
    let mut told = false;
    loop {
        match controller::definition_exists(client).await {
            Ok(true) => return,
            Ok(false) if told => {}
            Ok(false) => {
                tracing::warn!(
                    "the API server does not know PresenceRoutes yet; waiting for crds/presenceroutes.yaml"
                );
                told = true;
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot be asked for PresenceRoutes; trying again")
            }
        }
        tokio::time::sleep(DEFINITION_POLL).await;
    }
}

async fn flagged(mut flag: watch::Receiver<bool>) {
    // The sender lives as long as the process; were it gone, stopping would be right, too.
    let _ = flag.wait_for(|set| *set).await;
}

/// Resolves on SIGTERM, which Kubernetes sends, and on Ctrl-C.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be caught; only Ctrl-C stops this process cleanly");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

fn say(text: &str, code: ExitCode) -> ExitCode {
    // A reader that has gone away wants no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}
