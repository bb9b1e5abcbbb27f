//! `kubectl presenceroute`: the state of a route, where an event would go, and a test event.
//!
//! kubectl runs any program on `PATH` that is called `kubectl-presenceroute`. This one uses the kubeconfig's credentials
//! and is read-only, but for `send`, which has an effect on Kafka, and `replay`, which runs a Job.

mod arguments;
mod aws;
mod cli;
mod cluster;
mod completion;
mod counters;
mod explain;
mod format;
mod manifest_file;
mod overview;
mod replay;
mod route_name;
mod routes;
mod send;
mod snapshot;
mod status;
mod style;
mod tree;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Arguments;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            style::print_error(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(cli::run(Arguments::parse()))
}
