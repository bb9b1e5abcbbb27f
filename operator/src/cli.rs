//! The command line: `run`, `crd`, `validate` and `check-ready`, and where each command leads.
//!
//! What `run` does is left to the module of that name.

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use presenceroute_runtime::log;

use crate::readiness_check::{self, ReadinessCheckArguments};
use crate::run::{self, RunArguments};
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
    Crd {
        /// Print the JSON schema of a manifest instead, for editors and for kubeconform.
        #[arg(long)]
        json_schema: bool,
    },
    /// Validate manifests offline.
    Validate(LintArguments),
    /// Wait until a running operator is ready.
    CheckReady(ReadinessCheckArguments),
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
        Command::Crd { json_schema: true } => match presenceroute_crds::json_schema() {
            Ok(json) => print(&json, ExitCode::SUCCESS),
            Err(error) => print_error(&format!("the JSON schema cannot be written: {error}")),
        },
        Command::Crd { json_schema: false } => match presenceroute_crds::crd_yaml() {
            Ok(yaml) => print(&yaml, ExitCode::SUCCESS),
            Err(error) => print(&format!("the CRD cannot be written as YAML: {error}\n"), ExitCode::FAILURE),
        },
        Command::Validate(arguments) => lint::run(&arguments).await,
        Command::CheckReady(arguments) => match readiness_check::run(&arguments).await {
            Ok(answer) => print(&format!("{answer}\n"), ExitCode::SUCCESS),
            Err(error) => print_error(&error.to_string()),
        },
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
