//! Runs tests that share one cluster: in their order, one at a time, with the options and the lines of cargo's own
//! runner.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::steps::say;
use crate::{Outcome, command};

/// A test that is one proof.
pub fn test(name: impl Into<String>, proof: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, || Ok(proof()?))
}

/// Runs the tests that the command line selects. `clear` then removes what they share, if one of them made it.
pub fn run(tests: Outcome<Vec<Trial>>, clear: impl FnOnce()) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = tests.unwrap_or_else(|failure| vec![test("the tests can be listed", || Err(failure))]);
    let conclusion = libtest_mimic::run(&arguments, tests);
    clear();
    command::clear();
    if arguments.list || conclusion.num_passed > 0 || conclusion.has_failed() {
        conclusion.exit_code()
    } else {
        say("no test was run");
        ExitCode::FAILURE
    }
}
