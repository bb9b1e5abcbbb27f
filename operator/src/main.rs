//! `presenceroute-operator`: arguments in, library called.

use std::process::ExitCode;

use clap::Parser;
use presenceroute_operator::cli::{self, Arguments};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::print_error(&format!("the async runtime cannot start: {error}")),
    };
    let code = runtime.block_on(cli::run(arguments));
    // A name lookup that hangs in a thread of the runtime does not hold up the end of the process.
    runtime.shutdown_background();
    code
}
