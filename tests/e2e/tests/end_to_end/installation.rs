//! The chart is installed, and Genesys stands by.

use presenceroute_e2e::kubectl;
use presenceroute_e2e::scratch::DEFINITION;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, ensure, ensure_same};

use crate::manifests;
use crate::stage::{RELEASE, Stage};

const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// What every other scenario stands on.
pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let namespace = RELEASE.namespace;
    steps.prove("helm installs the chart, and two operator pods are ready", || {
        // A definition that was applied by hand belongs to no release.
        RELEASE.upgrade(&stage.values(), &["--take-ownership"])?;
        ensure_same("operator pods", &kubectl::pods(namespace, OPERATOR)?.len(), &2)
    })?;
    steps.prove("helm test finds the operator ready", || RELEASE.test())?;
    steps.prove("one of the two operator pods leads", || {
        until("the lease has a holder", seconds(30), || {
            let lease = kubectl::get(namespace, "lease/presenceroute-operator")?;
            let holder = kubectl::text(&lease, "/spec/holderIdentity");
            let pods = kubectl::pods(namespace, OPERATOR)?;
            ensure(pods.iter().any(|pod| holder.starts_with(&pod.name)), || {
                format!("it is held by {holder:?}")
            })
        })
    })?;
    steps.prove("PresenceRoutes have a short name and no category", || {
        kubectl::run(&["get", "pr", "-n", &stage.namespace])?;
        let definition = kubectl::get("", DEFINITION)?;
        // `kubectl delete all --all` must not delete routes.
        ensure(definition["spec"]["names"].get("categories").is_none(), || "they have a category".into())
    })?;
    steps.prove("the Genesys simulator runs in the cluster", || {
        kubectl::apply(&manifests::example(stage, "genesys-simulator.yaml")?)?;
        kubectl::apply(&manifests::oauth_client(stage))?;
        let deployment = "deployment/genesys-simulator";
        kubectl::run(&["-n", &stage.namespace, "rollout", "status", deployment, "--timeout=90s"])?;
        until("it answers", seconds(20), || stage.simulator.answers()).map_err(|failure| {
            Failure(format!("{failure}; are the images loaded? tests/harness/load-images DIR"))
        })
    })
}
