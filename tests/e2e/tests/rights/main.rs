//! The operator needs every right that the chart grants it, and no other: two replicas with exactly these rights do all
//! that an operator ever does. Then the API server's audit log tells what operators have asked for, here and wherever
//! else since `PRESENCEROUTE_AUDIT_SINCE`: each granted right was used, and nothing was asked for that is not granted.
//!
//! `cargo test -p presenceroute-e2e --test rights`, with a cluster that `KUBECONFIG` names and whose audit log is at
//! `PRESENCEROUTE_AUDIT_LOG`. Without the log, the comparison is left out.

mod grants;
mod operator;
mod relay;
mod scene;
mod story;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use jiff::Timestamp;
use libtest_mimic::{Completion, Failed, Trial};
use presenceroute_e2e::audit::{self, Request};
use presenceroute_e2e::{Failure, Outcome, ensure, suite};

use crate::grants::Grant;

const LOG: &str = "PRESENCEROUTE_AUDIT_LOG";
const SINCE: &str = "PRESENCEROUTE_AUDIT_SINCE";

/// Asked for by no request, but by the admission plugin OwnerReferencesPermissionEnforcement while it looks at one, as
/// OpenShift has it. Only that the operator has the right is tested: with that plugin, an API server refuses the owner
/// of a new definition for half a minute.
const IN_NO_REQUEST: &str = "update presenceroutes.presenceroute.io/finalizers";

static AT_WORK: OnceLock<Result<(), Failed>> = OnceLock::new();
static REQUESTS: OnceLock<Outcome<Vec<Request>>> = OnceLock::new();

fn main() -> ExitCode {
    let began = Timestamp::now();
    suite::run(tests(began), scene::clear)
}

fn tests(began: Timestamp) -> Outcome<Vec<Trial>> {
    let since = match env::var(SINCE) {
        Ok(since) => since.parse().map_err(|error| Failure(format!("{SINCE}: {error}")))?,
        Err(_) => began,
    };
    let mut tests = vec![Trial::test("the operator does all that it ever does", at_work)];
    let Ok(log) = env::var(LOG) else {
        tests.push(Trial::ignorable_test("the comparison with the audit log", || {
            Ok(Completion::ignored_with(format!("{LOG} names no audit log of this API server")))
        }));
        return Ok(tests);
    };
    let grants = grants::of_chart()?;
    for grant in grants.clone() {
        if grant.right != IN_NO_REQUEST {
            let log = log.clone();
            tests
                .push(suite::test(format!("used: {grant}"), move || is_used(&grant, requests(&log, since)?)));
        }
    }
    tests.push(suite::test("no right is asked for that the chart does not grant", move || {
        nothing_else(&grants, requests(&log, since)?)
    }));
    Ok(tests)
}

fn at_work() -> Result<(), Failed> {
    AT_WORK.get_or_init(story::run).clone()
}

/// What operators have asked for once these have done their work, whether or not all of it went well.
fn requests(log: &str, since: Timestamp) -> Outcome<&'static [Request]> {
    let _ = at_work();
    let requests = REQUESTS.get_or_init(|| audit::requests(Path::new(log), since));
    let requests = requests.as_ref().map_err(Failure::clone)?;
    ensure(!requests.is_empty(), || format!("{log} has no request of an operator since {since}"))?;
    Ok(requests)
}

fn is_used(grant: &Grant, requests: &[Request]) -> Outcome {
    let used =
        |request: &Request| !request.is_denied && request.right == grant.right && grant.covers(request);
    ensure(requests.iter().any(used), || {
        "no operator has asked for it: remove it from charts/presenceroute/templates, or use it in a test"
            .into()
    })
}

/// A request that was denied while its role was not there yet, or not any more, is one for what the chart grants. What
/// only an option grants was allowed to an operator that has the option, and denied to every other.
fn nothing_else(grants: &[Grant], requests: &[Request]) -> Outcome {
    let options = grants::with_options()?;
    let is_granted = |request: &Request| {
        let grants = if request.is_denied { grants } else { &options };
        grants.iter().any(|grant| grant.right == request.right && grant.covers(request))
    };
    let mut others: BTreeMap<&Request, usize> = BTreeMap::new();
    for request in requests.iter().filter(|request| !is_granted(request)) {
        *others.entry(request).or_default() += 1;
    }
    let lines = others.iter().map(|(Request { right, name, is_denied }, times)| {
        let answer = if *is_denied { "denied" } else { "allowed" };
        format!("{right} of the name {name:?}, {answer}, {times} times")
    });
    ensure(others.is_empty(), || {
        format!("the chart does not grant:\n{}", lines.collect::<Vec<_>>().join("\n"))
    })
}
