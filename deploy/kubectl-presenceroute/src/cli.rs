//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use presenceroute_manifest::lint::command::{self as lint, LintArguments};

use crate::cluster::{Cluster, ClusterError};
use crate::completion::{self, CompletionShell};
use crate::routes::{self, RoutesArguments};
use crate::send::{self, SendArguments};
use crate::status::{self, StatusArguments};
use crate::style;

/// Looks into a PresenceRoute: how it is doing, where an event would go, and an event of your own.
#[derive(Debug, Parser)]
#[command(name = "kubectl-presenceroute", bin_name = "kubectl presenceroute", version, about)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(subcommand)]
    command: Command,
}

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterArguments {
    /// The namespace. Default: the one of the kubeconfig's context.
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The kubeconfig. Default: $KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a route's conditions, registration, pods, topics and rates.
    Status(StatusArguments),
    /// Sign events with the route's own secret and post them.
    Send(SendArguments),
    /// List the routes of a table, or explain where an event would go.
    Routes(RoutesArguments),
    /// Say what the cluster would say of manifests, without one.
    Validate(LintArguments),
    /// Print a completion script.
    #[command(after_long_help = completion::HELP)]
    Completion {
        /// For which shell; `kubectl` is for kubectl's own completion.
        #[arg(value_enum)]
        shell: CompletionShell,
    },
    /// Print the completions of a command line, as kubectl reads them.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Send(#[from] send::SendError),
    #[error(transparent)]
    Routes(#[from] routes::RoutesError),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The name of a route, completed from the cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct RouteName {
    /// The PresenceRoute.
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(completion::route_names))]
    pub(crate) name: String,
}

/// Runs a command to its end. It succeeds when what was asked for is so.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match execute(arguments).await {
        Ok(code) => code,
        Err(error) => {
            style::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let cluster = || Cluster::connect(&arguments.cluster);
    match &arguments.command {
        Command::Status(status) => status::run(status, &cluster().await?).await,
        Command::Send(send) => send::run(send, &cluster().await?).await,
        Command::Routes(routes) => routes::run(routes, cluster).await,
        Command::Validate(validate) => Ok(lint::run(validate).await),
        Command::Completion { shell } => {
            style::say(&completion::script(*shell));
            Ok(ExitCode::SUCCESS)
        }
        Command::Complete { words } => {
            style::say(&completion::candidates(words));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
