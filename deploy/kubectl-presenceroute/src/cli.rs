//! The command line: its commands, and what each ends with.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use presenceroute_manifest::lint::command::{self as lint, LintArguments};

use crate::arguments::ClusterArguments;
use crate::aws::{self, AwsArguments, AwsError};
use crate::cluster::{Cluster, ClusterError};
use crate::completion::{self, CompletionShell};
use crate::replay::{self, ReplayArguments, ReplayError};
use crate::routes::{self, RoutesArguments, RoutesError};
use crate::send::{self, SendArguments, SendError};
use crate::status::{self, StatusArguments, StatusError};
use crate::style;

/// Inspect a PresenceRoute, send a test event, and send dead letters again.
#[derive(Debug, Parser)]
#[command(name = "kubectl-presenceroute", bin_name = "kubectl presenceroute", version, about)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a route's conditions, registration, pods, topics and rates; without a name, whether each route is ready.
    Status(StatusArguments),
    /// Sign events with the route's own secret and post them.
    Send(SendArguments),
    /// List the routes of a table, or explain where an event would go.
    Routes(RoutesArguments),
    /// Send the events of a dead-letter topic again through the route, by a Job in its namespace.
    Replay(ReplayArguments),
    /// Print what a route with Amazon EventBridge needs in AWS, for CloudFormation or Terraform.
    Aws(AwsArguments),
    /// Validate manifests offline.
    Validate(LintArguments),
    /// Print a completion script.
    #[command(after_long_help = completion::HELP)]
    Completion {
        /// For which shell; `kubectl` is for kubectl's own completion.
        #[arg(value_enum)]
        shell: CompletionShell,
    },
    /// Print the completions of a command line for kubectl.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Routes(#[from] RoutesError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Aws(#[from] AwsError),
}

/// Runs a command and gives the exit code.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match execute(arguments).await {
        Ok(code) => code,
        Err(error) => {
            style::print_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let cluster = || Cluster::connect(&arguments.cluster);
    match &arguments.command {
        Command::Status(status) => Ok(status::run(status, &cluster().await?).await?),
        Command::Send(send) => Ok(send::run(send, &cluster().await?).await?),
        Command::Routes(routes) => Ok(routes::run(routes, cluster).await?),
        Command::Replay(replay) => Ok(replay::run(replay, &cluster().await?).await?),
        Command::Aws(aws) => Ok(aws::run(aws, arguments.cluster.namespace.as_deref(), cluster).await?),
        Command::Validate(validate) => Ok(lint::run(validate).await),
        Command::Completion { shell } => {
            style::print(&completion::script(*shell, &mut Arguments::command()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Complete { words } => {
            style::print(&completion::candidates(words, &mut Arguments::command()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_route_for_aws_is_named_or_in_a_file() {
        let parsed = |words: &[&str]| {
            Arguments::try_parse_from(["kubectl-presenceroute", "aws"].iter().chain(words)).is_ok()
        };
        assert!(!parsed(&[]));
        assert!(parsed(&["contact-centre", "--format", "terraform"]));
        assert!(parsed(&["-f", "route.yaml", "--identity", "irsa"]));
    }
}
