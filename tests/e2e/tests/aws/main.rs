//! What `kubectl presenceroute aws` prints, before the tools that people deploy it with and a stand-in for AWS: every
//! template is one that cfn-lint and Terraform take, and what they deploy carries an event of Genesys Cloud to the queue.
//!
//! `cargo test -p presenceroute-e2e --test aws`, with `tests/harness/moto up`. Without Terraform and its AWS provider, the
//! tests of Terraform are left out.

mod cloudformation;
mod printed;
mod terraform;

use std::process::ExitCode;

use libtest_mimic::Trial;
use presenceroute_e2e::{Outcome, suite};

use crate::printed::{Format, VARIANTS};

fn main() -> ExitCode {
    suite::run(tests(), || {})
}

fn tests() -> Outcome<Vec<Trial>> {
    let mut tests = Vec::new();
    for variant in VARIANTS {
        tests.push(suite::test(format!("cfn-lint takes the template: {variant}"), move || {
            cloudformation::is_linted(&variant.printed(Format::CloudFormation)?)
        }));
        tests.push(Trial::ignorable_test(
            format!("terraform takes the configuration: {variant}"),
            move || terraform::is_valid(variant),
        ));
    }
    tests.push(suite::test("a stack carries the route's events to the queue, and no others", || {
        cloudformation::carries_events()
    }));
    tests.push(suite::test("the relay's role reads the queue and does nothing else", || {
        cloudformation::role_only_reads()
    }));
    tests.push(Trial::ignorable_test("a queue made by terraform takes the route's events", || {
        terraform::applies_queue()
    }));
    tests.push(Trial::ignorable_test("terraform makes an API destination, and finds no difference", || {
        terraform::applies_api_destination()
    }));
    Ok(tests)
}
