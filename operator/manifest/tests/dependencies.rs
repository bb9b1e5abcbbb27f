//! The crates are cut along what they may know; what a crate links shows whether the cut holds.

use std::collections::BTreeSet;
use std::process::Command;

/// The packages that a crate links, itself included, without those of its tests and build scripts.
fn linked_by(package: &str) -> Result<BTreeSet<String>, String> {
    let arguments = ["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none", "-p", package];
    let output = Command::new(env!("CARGO")).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<_> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if names.contains(package) { Ok(names) } else { Err(format!("{package} is not in its own tree")) }
}

#[track_caller]
fn assert_not_linked(package: &str, others: &[&str]) {
    let found = linked_by(package)
        .map(|linked| others.iter().filter(|other| linked.contains(**other)).copied().collect::<Vec<_>>());
    assert_eq!(found, Ok(Vec::new()), "what {package} links and should not");
}

#[test]
fn core_knows_no_kubernetes_and_does_no_io() {
    assert_not_linked("presenceroute-core", &["kube", "k8s-openapi", "tokio", "reqwest"]);
}

#[test]
fn a_manifest_is_judged_without_io() {
    assert_not_linked("presenceroute-manifest", &["kube-client", "tokio", "reqwest"]);
}

#[test]
fn the_relay_knows_no_kubernetes() {
    assert_not_linked("presenceroute-relay", &["kube", "k8s-openapi"]);
}

#[test]
fn the_demo_needs_no_api_server() {
    assert_not_linked("presenceroute-demo", &["kube-client"]);
}

#[test]
fn no_other_program_links_the_operator() {
    for package in ["kubectl-presenceroute", "presenceroute-demo", "presenceroute-e2e", "presenceroute-relay"]
    {
        assert_not_linked(package, &["presenceroute-operator"]);
    }
}
