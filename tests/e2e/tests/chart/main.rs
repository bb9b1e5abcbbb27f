//! The chart, the plain-YAML install and the examples before a real API server, which must take them without any
//! warning; and a release of the chart from its installation to its end. No pod is wanted, so that no image is needed.
//!
//! `cargo test -p presenceroute-e2e --test chart`; what takes no cluster is in `charts/test`.

mod release;
mod scene;

use std::process::ExitCode;

use libtest_mimic::{Completion, Trial};
use presenceroute_e2e::scratch::DEFINITION;
use presenceroute_e2e::steps::Steps;
use presenceroute_e2e::{Failure, Outcome, command, ensure, kubectl, suite, tree};

use crate::scene::{NAMESPACE, RELEASE};

const EXAMPLES: &str = "deploy/examples";
const SHARED_CONNECTION: &str = "deploy/kustomize/shared-kafka";
const SCALED_OBJECT: &str = "deploy/keda/scaled-object.yaml";
const VALUES: &str = "charts/presenceroute/ci";

fn main() -> ExitCode {
    suite::run(tests(), scene::clear)
}

fn tests() -> Outcome<Vec<Trial>> {
    let mut tests = Vec::new();
    let examples = tree::files(EXAMPLES, ".yaml")?;
    for example in examples.clone() {
        if tree::read(&example)?.contains("\nkind: PresenceRoute\n") {
            tests.push(suite::test(format!("valid offline: {example}"), move || valid_offline(&example)));
        }
    }
    for example in examples {
        tests.push(suite::test(format!("accepted: {example}"), move || {
            scene::prepared()?;
            kubectl::try_out_strictly(&scene::into_scene(&tree::read(&example)?))
        }));
    }
    tests.push(suite::test(
        "accepted: several routes with one Kafka connection",
        shared_connection_is_accepted,
    ));
    tests.push(suite::test(format!("accepted: {SCALED_OBJECT}"), || {
        scene::prepared()?;
        kubectl::try_out_strictly(&scene::into_scene(&tree::read(SCALED_OBJECT)?))
    }));
    tests.push(suite::test("accepted: the plain-YAML install", install_is_accepted));
    tests.push(suite::test("accepted: the chart with its defaults", || accepted(&[])));
    for values in tree::files(VALUES, "-values.yaml")? {
        let name =
            format!("accepted: the chart with {}", values.trim_start_matches(VALUES).trim_start_matches('/'));
        tests.push(suite::test(name, move || accepted_with(&values)));
    }
    tests.push(suite::test("warned of: a container that may gain privileges", privileges_are_warned_of));
    tests.push(Trial::ignorable_test("a release, from installation to its end", || {
        scene::prepared()?;
        if kubectl::find("", DEFINITION)?.is_some() {
            return Ok(Completion::ignored_with("the cluster has a definition of PresenceRoutes already"));
        }
        Steps::run(|| {}, release::story).map(|()| Completion::Completed)
    }));
    Ok(tests)
}

/// As a person would do it before there is a cluster.
fn valid_offline(example: &str) -> Outcome {
    let operator = command::built("presenceroute-operator")?.display().to_string();
    command::run(&operator, &["validate", "-f", &tree::path(example).display().to_string()], None).map(drop)
}

/// What docs/securing-kafka.md shows: each route has the connection that is written once.
fn shared_connection_is_accepted() -> Outcome {
    let folder = tree::path(SHARED_CONNECTION).display().to_string();
    let manifest = command::run("kubectl", &["kustomize", &folder], None)?;
    let with_connection = manifest.matches("events-kafka-bootstrap.kafka:9093").count();
    ensure(with_connection == 2 && manifest.matches("kind: PresenceRoute").count() == 2, || {
        manifest.clone()
    })?;
    let operator = command::built("presenceroute-operator")?.display().to_string();
    command::run(&operator, &["validate", "-f", "-"], Some(&manifest))?;
    scene::prepared()?;
    kubectl::try_out_strictly(&scene::into_scene(&manifest))
}

fn install_is_accepted() -> Outcome {
    scene::prepared()?;
    let script = tree::path("deploy/install-manifest").display().to_string();
    let manifest = command::run(&script, &[], None)?;
    ensure(manifest.contains("kind: Deployment"), || format!("it installs no operator: {manifest}"))?;
    ensure(!manifest.contains("helm.sh/hook"), || "it has a hook, which only Helm would run as one".into())?;
    kubectl::try_out_strictly(&manifest.replace("presenceroute-system", NAMESPACE))
}

/// The chart with these options of `helm template`.
fn accepted(options: &[&str]) -> Outcome {
    scene::prepared()?;
    kubectl::try_out_strictly(&RELEASE.template(options)?)
}

fn accepted_with(values: &str) -> Outcome {
    let file = tree::path(values).display().to_string();
    let here = format!("watchNamespaces={{{NAMESPACE}}}");
    let mut options = vec!["--values", &file];
    // With the one namespace that is there.
    if tree::read(values)?.contains("\nwatchNamespaces:") {
        options.extend(["--set", &here]);
    }
    accepted(&options)
}

fn privileges_are_warned_of() -> Outcome {
    match accepted(&["--set", "operator.securityContext.allowPrivilegeEscalation=true"]) {
        Ok(()) => Err(Failure("it was accepted".into())),
        Err(Failure(message)) => {
            ensure(message.contains("would violate PodSecurity \"restricted"), || message)
        }
    }
}
