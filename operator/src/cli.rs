//! The command line: the arguments of `run`, `crd` and `validate`, and where each command leads.
//!
//! What `run` does is left to the module of that name.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use presenceroute_runtime::log::{self, LogFormat};

use crate::registration::execute::CREATE_TIMEOUT;
use crate::run;
use presenceroute_manifest::lint::command::{self as lint, LintArguments};

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
    /// Print the CustomResourceDefinition.
    Crd,
    /// Validate manifests offline.
    Validate(LintArguments),
}

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
    /// The namespaces whose routes are served, separated by commas. Empty for all.
    #[arg(long, env = "PRESENCEROUTE_WATCH_NAMESPACES", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "PRESENCEROUTE_LISTEN", default_value = "[::]:8080")]
    pub(crate) listen: SocketAddr,
    /// How long an old signing secret is accepted after Genesys Cloud has confirmed the new one, in seconds.
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

/// Runs a command to its end.
pub async fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Run(arguments) => {
            let level = match log::start(&arguments.log_level, arguments.log_format) {
                Ok(level) => level,
                Err(error) => return print_error(&error.to_string()),
            };
            let level_file = arguments.log_level_file.clone();
            let ended = tokio::select! {
                ended = run::run(*arguments) => ended,
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
            Ok(yaml) => print(&yaml, ExitCode::SUCCESS),
            Err(error) => print(&format!("the CRD cannot be written as YAML: {error}\n"), ExitCode::FAILURE),
        },
        Command::Validate(arguments) => lint::run(&arguments).await,
    }
}

/// Follows the level in the file, where one is named, for as long as the process runs.
async fn follow(level: log::Level, file: Option<PathBuf>) -> Infallible {
    if let Some(path) = file {
        level.follow(path).await;
    }
    std::future::pending().await
}

/// Prints an error before there is a log.
pub fn print_error(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    // A reader that closed the pipe needs no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}
