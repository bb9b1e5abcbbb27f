//! What the pages take for granted: a cluster without PresenceRoutes, and a Kafka without the topics.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

use presenceroute_e2e::helm::Release;
use presenceroute_e2e::kafka::Kafka;
use presenceroute_e2e::scratch::{DEFINITION, Scratch, release_clients};
use presenceroute_e2e::steps::say;
use presenceroute_e2e::{Outcome, ensure, harness, kubectl, tree};
use serde_json::json;

const SCRATCH: Scratch = Scratch("docs-test");
const TOPICS: [&str; 3] = ["gen-presence-state", "gen-presence-status", "gen-presence-location"];

/// What the pages make.
const RELEASE: Release = Release { name: "presenceroute", namespace: "presenceroute-system" };
const NAMESPACES: [&str; 3] = ["presence", "genesys-simulator", RELEASE.namespace];

static PREPARED: OnceLock<Outcome> = OnceLock::new();

/// Prepares the scene, once.
pub(crate) fn prepared() -> Outcome {
    PREPARED.get_or_init(prepare).clone()
}

fn prepare() -> Outcome {
    let kafka = Kafka::of_environment()?;
    harness::ensure_cluster()?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| tree::path("target"), PathBuf::from);
    ensure(target.join("release/presenceroute-relay").is_file(), || {
        "the programs are not built; build them: deploy/images out/images".into()
    })?;
    SCRATCH.sweep()?;
    ensure(kubectl::find("", DEFINITION)?.is_none(), || {
        "the cluster knows PresenceRoutes already, and these pages begin without".into()
    })?;
    for namespace in NAMESPACES {
        ensure(kubectl::find("", &format!("namespace/{namespace}"))?.is_none(), || {
            format!("the cluster has a namespace {namespace} already, and these pages begin without")
        })?;
    }
    kafka.delete_topics(&TOPICS)
}

/// Shows the routes after a failure.
pub(crate) fn show() {
    let shown = kubectl::run(&["-n", "presence", "describe", "presenceroutes"]);
    for line in shown.unwrap_or_else(|failure| failure.to_string()).lines() {
        say(&format!("      {line}"));
    }
}

/// Removes what the pages made, where one of them failed before the end.
pub(crate) fn clear() {
    if let Some(Ok(())) = PREPARED.get()
        && let Err(failure) = remove()
    {
        say(&format!("not everything could be removed: {failure}"));
    }
}

fn remove() -> Outcome {
    RELEASE.uninstall()?;
    if kubectl::find("", DEFINITION)?.is_some() {
        for route in kubectl::list("presence", "presenceroutes", "")? {
            let patch = json!({"metadata": {"finalizers": null}});
            kubectl::patch("presence", &kubectl::name_of(&route), &patch)?;
        }
        release_clients("presence")?;
        kubectl::run(&["delete", DEFINITION, "--timeout=60s"])?;
    }
    for namespace in NAMESPACES {
        kubectl::run(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s"])?;
    }
    SCRATCH.sweep()?;
    Kafka::of_environment()?.delete_topics(&TOPICS)
}
