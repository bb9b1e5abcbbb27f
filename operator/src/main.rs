//! `presenceroute-operator`: arguments in, library called.

use std::process::ExitCode;

use clap::Parser;
use presenceroute_operator::cli::Arguments;

#[tokio::main]
async fn main() -> ExitCode {
    presenceroute_operator::cli::run(Arguments::parse()).await
}
