//! A namespace and definitions for the time of the test. PresenceRoutes are tried on a copy of the definition under
//! another group, so that a definition that the cluster has already, perhaps an older one, neither matters nor changes.

use std::fs;
use std::sync::OnceLock;

use presenceroute_e2e::helm::Release;
use presenceroute_e2e::scratch::Scratch;
use presenceroute_e2e::steps::say;
use presenceroute_e2e::{Failure, Outcome, example, harness, tree};

pub(crate) const SCRATCH: Scratch = Scratch("chart-test");
pub(crate) const NAMESPACE: &str = "presenceroute-chart-test";
pub(crate) const RELEASE: Release = Release { name: "presenceroute", namespace: NAMESPACE };

const GROUP: &str = "chart-test.presenceroute.io";

static PREPARED: OnceLock<Outcome> = OnceLock::new();

/// Prepares the scene, once.
pub(crate) fn prepared() -> Outcome {
    PREPARED.get_or_init(prepare).clone()
}

fn prepare() -> Outcome {
    harness::ensure_cluster()?;
    sweep()?;
    // It warns where pods would not fulfil the restricted Pod Security Standard.
    SCRATCH.make_namespace(NAMESPACE, &[("pod-security.kubernetes.io/warn", "restricted")])?;
    let definition = tree::read("crds/presenceroutes.yaml")?
        .replace(
            "\n  name: presenceroutes.presenceroute.io\n",
            &format!("\n  name: presenceroutes.{GROUP}\n"),
        )
        .replace("\n  group: presenceroute.io\n", &format!("\n  group: {GROUP}\n"));
    SCRATCH.define(&format!("presenceroutes.{GROUP}"), &definition)?;
    // Where the cluster has a Prometheus operator or KEDA, their own definitions are the judges.
    harness::run("tools", &["helm"])?;
    for (folder, group, kinds) in [
        (
            "MONITORING_DEFINITIONS",
            "monitoring.coreos.com",
            &["podmonitors", "prometheusrules", "servicemonitors"][..],
        ),
        ("KEDA_DEFINITIONS", "keda.sh", &["scaledobjects", "triggerauthentications"]),
    ] {
        let folder = harness::path(folder)?;
        for kind in kinds {
            let name = format!("{kind}.{group}");
            let file = format!("{folder}/{name}.yaml");
            let definition =
                fs::read_to_string(&file).map_err(|error| Failure(format!("{file}: {error}")))?;
            SCRATCH.define(&name, &definition)?;
        }
    }
    Ok(())
}

/// A manifest of this tree, in this scene's namespace and group.
pub(crate) fn into_scene(manifest: &str) -> String {
    example::in_namespace(manifest, NAMESPACE)
        .replace("apiVersion: presenceroute.io/", &format!("apiVersion: {GROUP}/"))
}

pub(crate) fn clear() {
    if let Some(Ok(())) = PREPARED.get()
        && let Err(failure) = sweep()
    {
        say(&format!("not everything could be removed: {failure}"));
    }
}

fn sweep() -> Outcome {
    RELEASE.uninstall()?;
    SCRATCH.sweep()
}
