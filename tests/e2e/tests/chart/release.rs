//! A release of the chart: installed, upgraded, rolled back, uninstalled, and installed again over what was kept.

use std::fs;

use presenceroute_e2e::scratch::{DEFINITION, ROUTES, is_served};
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::{Failure, Outcome, command, ensure, ensure_same, helm, kubectl, tree};
use serde_json::{Value, json};

use crate::scene::{NAMESPACE, RELEASE, SCRATCH};

const ACCOUNT: &str = "presenceroute-operator";
/// By its group, because the copy of the definition has one more kind of this name.
const ROUTE: &str = "presenceroutes.presenceroute.io/contact-centre";
const LEASE: &str = "leases.coordination.k8s.io/presenceroute-operator";

/// What Helm stores of a release is one Secret, which holds 1 MiB at most.
const MOST_BYTES: usize = 500_000;

/// A sentence, whether the operator may do it, and the question as `kubectl auth can-i` takes it.
type Permission = (&'static str, bool, [&'static str; 4]);

const CLUSTER_WIDE: [Permission; 6] = [
    ("the operator may patch PresenceRoutes anywhere", true, ["patch", ROUTES, "-n", "default"]),
    ("the operator may not create PresenceRoutes", false, ["create", ROUTES, "-n", NAMESPACE]),
    ("the operator may hold its Lease", true, ["update", LEASE, "-n", NAMESPACE]),
    ("the operator may watch its Lease", true, ["watch", LEASE, "-n", NAMESPACE]),
    (
        "the operator may not touch another Lease",
        false,
        ["update", "leases.coordination.k8s.io/other", "-n", NAMESPACE],
    ),
    (
        "the operator may not make Leases elsewhere",
        false,
        ["create", "leases.coordination.k8s.io", "-n", "default"],
    ),
];

const CONFINED: [Permission; 2] = [
    ("confined, it may read Secrets where it serves", true, ["list", "secrets", "-n", NAMESPACE]),
    ("confined, it may not read Secrets elsewhere", false, ["list", "secrets", "-n", "default"]),
];

pub(crate) fn story(steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let label = SCRATCH.chart_value();
    let options = ["--set", "operator.replicas=0", "--set", &label];
    steps.prove("helm installs an older chart with its definition", || {
        RELEASE.upgrade_to(&older_chart()?, &[&["--install"], &options[..]].concat())?;
        is_served(ROUTES)?;
        short_name_is("old")
    })?;
    steps.prove("a PresenceRoute is made", || {
        let example = tree::read("deploy/examples/quickstart.yaml")?;
        kubectl::apply(
            &example.replace("\n  namespace: presence\n", &format!("\n  namespace: {NAMESPACE}\n")),
        )
    })?;
    steps.prove("helm upgrade brings the new definition and keeps the route", || {
        RELEASE.upgrade_to(&helm::chart()?, &options)?;
        short_name_is("pr")?;
        route_is_there()
    })?;
    steps.prove("the release fits into its Secret", release_fits)?;
    permissions(steps, &CLUSTER_WIDE)?;
    steps.prove("helm rollback restores the definition and keeps the route", || {
        RELEASE.roll_back()?;
        short_name_is("old")?;
        route_is_there()
    })?;
    steps.prove("helm uninstall leaves the definition and the route alone", || {
        RELEASE.uninstall()?;
        route_is_there()?;
        nothing_else_is_left()
    })?;
    steps.prove("helm installs the chart again over what was kept", || {
        let here = format!("watchNamespaces={{{NAMESPACE}}}");
        let confined = ["--install", "--set", "rbac.namespaced=true", "--set", &here];
        RELEASE.upgrade_to(&helm::chart()?, &[&confined, &options[..]].concat())
    })?;
    permissions(steps, &CONFINED)?;
    steps.prove("helm uninstalls it again", || RELEASE.uninstall())
}

/// Its definition has another short name: what Helm's own `crds` folder would never upgrade.
fn older_chart() -> Outcome<String> {
    let copy = command::own_directory().join("older");
    let crds = copy.join("files/crds/presenceroutes.yaml");
    let failed = |error: std::io::Error| Failure(format!("{}: {error}", crds.display()));
    fs::create_dir_all(command::own_directory()).map_err(failed)?;
    command::run("cp", &["-r", &helm::chart()?, &copy.display().to_string()], None)?;
    let definition = fs::read_to_string(&crds).map_err(failed)?;
    fs::write(&crds, definition.replace("\n    - pr\n", "\n    - old\n")).map_err(failed)?;
    Ok(copy.display().to_string())
}

fn short_name_is(name: &str) -> Outcome {
    let definition = kubectl::get("", DEFINITION)?;
    ensure_same("the short names", &definition["spec"]["names"]["shortNames"], &json!([name]))
}

fn route_is_there() -> Outcome {
    kubectl::get(NAMESPACE, ROUTE).map(drop)
}

fn release_fits() -> Outcome {
    let secrets = kubectl::list(NAMESPACE, "secrets", "owner=helm")?;
    let sizes = secrets.iter().filter_map(|secret| Some(secret["data"]["release"].as_str()?.len()));
    let size = sizes.max().unwrap_or(0);
    measured(&format!("{size} bytes"));
    ensure(size > 0 && size < MOST_BYTES, || format!("it has {size} bytes"))
}

fn permissions(steps: &mut Steps<'_>, permissions: &[Permission]) -> Result<(), Stopped> {
    for (sentence, expected, question) in permissions {
        steps.prove(sentence, || {
            ensure_same("kubectl auth can-i", &kubectl::may(NAMESPACE, ACCOUNT, question)?, expected)
        })?;
    }
    Ok(())
}

fn nothing_else_is_left() -> Outcome {
    let labels = "app.kubernetes.io/part-of=presenceroute";
    let kinds = "deployments,replicasets,pods,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,configmaps";
    let left = [
        kubectl::list("", "clusterroles,clusterrolebindings", labels)?,
        kubectl::list(NAMESPACE, kinds, labels)?,
    ];
    let left: Vec<_> = left.concat().iter().map(|object: &Value| kubectl::name_of(object)).collect();
    ensure(left.is_empty(), || format!("{left:?} are left"))
}
