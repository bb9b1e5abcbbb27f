//! Ten real relay pods: an edit is live on all of them in time, and RoutingLive says so only when it is.

use std::time::{Duration, Instant};

use presenceroute_core::relay_status::RelayStatus;
use presenceroute_e2e::kubectl::{self, Proxy, text};
use presenceroute_e2e::route::{Route, holds};
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Outcome, ensure, ensure_same};
use serde_json::{Value, json};

use crate::manifests;
use crate::stage::Stage;

const RELAYS: usize = 10;
const EDITS: usize = 10;
const SECRET: &str = "ten-webhook";

/// An edit is live on every pod within this time.
const LIVE_WITHIN: Duration = seconds(2);

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "ten");
    let topics = [stage.topic("ten-one"), stage.topic("ten-other")];

    steps.prove("ten relay pods with ids of OpenShift's range become Ready", || {
        stage.kafka.create_topics(&topics.each_ref().map(String::as_str))?;
        kubectl::apply(&manifests::secret(stage, SECRET, json!({"secret": "signed-ten-times"})))?;
        let mut manifest = manifests::small_route(stage, &route, SECRET, &topics[0]);
        let resources = json!({"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}});
        // As OpenShift assigns ids: a user of the namespace's range, which the image does not know, and group 0.
        let security = json!({"runAsUser": 1_000_660_000, "runAsGroup": 0});
        manifest["spec"]["relay"] =
            json!({"replicas": RELAYS, "resources": resources, "securityContext": security});
        kubectl::apply(&manifest.to_string())?;
        route.becomes_ready(120)?;
        until("ten are ready", seconds(120), || {
            ensure_same("ready pods", &ready_relays(&route)?.len(), &RELAYS)
        })
    })?;
    steps.prove("each of ten edits is live on all ten pods in under 2 s", || {
        let mut took = Vec::new();
        for number in 0..EDITS {
            took.push(edit(&route, &topics[(number + 1) % 2], Some(RELAYS))?.as_millis());
        }
        took.sort_unstable();
        measured(&format!(
            "from before the edit's request to RoutingLive on {RELAYS} pods: {} ms (median of {EDITS}), {} ms at most",
            took[EDITS / 2],
            took[EDITS - 1]
        ));
        ensure(took[EDITS - 1] < LIVE_WITHIN.as_millis(), || format!("{took:?} ms"))
    })?;
    steps.prove("in a rollout too, RoutingLive is true of every ready pod", || {
        let before = ready_relays(&route)?;
        let patch = json!({"spec": {"relay": {"podAnnotations": {"example.com/rollout": "second"}}}});
        kubectl::patch(&route.namespace, &route.object(), &patch)?;
        for number in 0..3 {
            let replaced = number + 1;
            until("one more pod was replaced", seconds(60), || {
                let new = ready_relays(&route)?
                    .into_iter()
                    .filter(|(pod, _)| !before.iter().any(|(old, _)| old == pod));
                ensure(new.count() >= replaced, || "not yet".into())
            })?;
            edit(&route, &topics[number % 2], None)?;
        }
        Ok(())
    })?;
    steps.prove("the route is deleted", || route.delete())
}

/// Sends all events to this topic, waits until the operator says that all pods do, and asks them.
fn edit(route: &Route, topic: &str, relays: Option<usize>) -> Outcome<Duration> {
    let watch = route.watch()?;
    let patch = json!({"spec": {"routes": [{"eventType": manifests::EVENT_TYPES[0], "topic": topic}]}});
    let began = Instant::now();
    kubectl::patch(&route.namespace, &route.object(), &patch)?;
    let generation = kubectl::get(&route.namespace, &route.object())?["metadata"]["generation"].clone();
    let (live, object) = watch.until("the edit is live", seconds(30), |object| {
        object["metadata"]["generation"] == generation && holds(object, "RoutingLive")
    })?;
    let routing = &object["status"]["routing"];
    if let Some(relays) = relays {
        ensure_same("live replicas", &routing["liveReplicas"], &json!(relays))?;
    }
    for (pod, status) in ready_relays(route)? {
        ensure(text(routing, "/revision") == status.routing.revision, || {
            format!("{routing} is said to be live, but {pod} serves {}", status.routing.revision)
        })?;
    }
    Ok(live.saturating_duration_since(began))
}

/// The pods that are ready and not on their way out, each with what it says of itself.
fn ready_relays(route: &Route) -> Outcome<Vec<(String, RelayStatus)>> {
    let selector = format!("{},app.kubernetes.io/component=relay", route.labels());
    let pods = kubectl::list(&route.namespace, "pods", &selector)?;
    let is_ready = |pod: &&Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"].get("deletionTimestamp").is_none()
            && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let mut relays = Vec::new();
    for pod in pods.iter().filter(is_ready) {
        let name = text(pod, "/metadata/name").to_owned();
        // One that has left meanwhile is asked no more.
        if let Ok(status) = Proxy::pod(&route.namespace, &name, 9090).get("/status") {
            relays.push((name, status));
        }
    }
    Ok(relays)
}
