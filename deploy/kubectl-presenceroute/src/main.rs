//! `kubectl presenceroute`: how a route is doing, where an event would go, and an event of your own.
//!
//! kubectl runs any program on `PATH` that is called `kubectl-presenceroute`. This one reads the cluster as the person
//! who calls it, with the rights that they have, and changes nothing there; `send` alone has an effect, on Kafka.

mod cli;
mod cluster;
mod completion;
mod counters;
mod explain;
mod routes;
mod send;
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
            style::complain(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(cli::run(Arguments::parse()))
}
