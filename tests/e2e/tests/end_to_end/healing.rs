//! Missing objects are named, wrong input does no harm, and damaged objects are put back, all without a restart.

use std::time::Duration;

use presenceroute_e2e::kubectl::{self, Watch, pod_is, text};
use presenceroute_e2e::route::{Route, conditions, failing};
use presenceroute_e2e::simulator::ensure_all_accepted;
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same};
use serde_json::{Value, json};

use crate::manifests;
use crate::stage::Stage;

const SECRET: &str = "late-webhook";

/// From the scheduler's decision to readiness, where the node has the image.
const READY_WITHIN: Duration = seconds(2);

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "healing");
    let name = route.registration_name();
    let topic = stage.topic("healing");
    let manifest = manifests::small_route(stage, &route, SECRET, &topic);

    steps.prove("a missing Secret is named, and nothing is registered", || {
        kubectl::apply(&manifest.to_string())?;
        until("the status names it", seconds(20), || {
            let message = failing(&route.status()?, "SecretsResolved")?;
            ensure(message.contains(SECRET), || message)
        })?;
        ensure_same("registrations", &stage.simulator.registrations(&name)?, &Vec::new())
    })?;
    steps.prove("the Secret appears; then the missing topic is named", || {
        kubectl::apply(&manifests::secret(stage, SECRET, json!({"secret": "it-came-late"})))?;
        until("the status names the topic", seconds(60), || {
            let status = route.status()?;
            ensure(failing(&status, "SecretsResolved").is_err(), || conditions(&status))?;
            let message = failing(&status, "RoutingLive")?;
            ensure(message.contains(&topic), || message)
        })
    })?;
    steps.prove("the topic appears, and the route becomes Ready", || {
        stage.kafka.create_topics(&[&topic])?;
        route.becomes_ready(60).map(drop)
    })?;
    steps.prove("an empty Secret is named; relays keep the last secret", || {
        kubectl::apply(&manifests::secret(stage, SECRET, json!({"secret": ""})))?;
        until("the status names it", seconds(20), || {
            let message = failing(&route.status()?, "SecretsResolved")?;
            ensure(message.contains(SECRET), || message)
        })?;
        events_flow(stage, &name)?;
        kubectl::apply(&manifests::secret(stage, SECRET, json!({"secret": "it-came-late"})))?;
        route.becomes_ready(30).map(drop)
    })?;
    steps.prove("a condition that does not compile is named; routes stay", || {
        let mut broken = manifest.clone();
        broken["spec"]["routes"][0]["when"] = json!("attributes.presence ==");
        kubectl::apply(&broken.to_string())?;
        until("the status names it", seconds(20), || {
            let message = failing(&route.status()?, "Accepted")?;
            ensure(message.contains("routes[0]") && message.contains("when"), || message)
        })?;
        events_flow(stage, &name)?;
        kubectl::apply(&manifest.to_string())?;
        route.becomes_ready(30).map(drop)
    })?;

    for object in [
        "configmap/healing-routing",
        "configmap/healing-relay",
        "secret/healing-signing",
        "service/healing-relay",
        "serviceaccount/healing-relay",
        "poddisruptionbudget/healing-relay",
    ] {
        steps.prove(&format!("deleted, {object} is put back"), || {
            let before = kubectl::get(&route.namespace, object)?;
            kubectl::delete(&route.namespace, object)?;
            until("it is there again", seconds(20), || {
                let now = kubectl::get(&route.namespace, object)?;
                ensure(uid(&now) != uid(&before), || "it is still the old one".into())?;
                // What a secret is called in it is chosen anew.
                if object.starts_with("secret/") {
                    Ok(())
                } else {
                    ensure_same("its data", &now["data"], &before["data"])
                }
            })
        })?;
    }
    steps.prove("an edited routing table is put back", || {
        let patch = json!({"data": {"routing.yaml": "version: 1\nroutes: []\n"}});
        is_put_back(&route, "configmap/healing-routing", &patch, "/data")
    })?;
    steps.prove("an edited Service is put back", || {
        let patch = json!({"spec": {"selector": {"presenceroute.io/route": "another"}}});
        is_put_back(&route, "service/healing-relay", &patch, "/spec/selector")
    })?;
    steps.prove("a Deployment scaled by hand is put back", || {
        is_put_back(&route, "deployment/healing-relay", &json!({"spec": {"replicas": 1}}), "/spec/replicas")
    })?;
    steps.prove("a lost relay pod's successor is Ready within 2 s", || replace_a_pod(&route))?;
    steps.prove("afterwards the route is Ready, and events flow", || {
        route.becomes_ready(60)?;
        until("both pods are there", seconds(60), || {
            ensure_same("pods", &route.status()?.relay.map(|relay| relay.ready_replicas), &Some(2))
        })?;
        events_flow(stage, &name)
    })?;
    steps.prove("the route is deleted", || route.delete())
}

/// Deletes one relay pod, and measures how long its successor takes.
fn replace_a_pod(route: &Route) -> Outcome {
    let old = route.pods()?;
    let Some(lost) = old.first() else { return Err(Failure("there is no relay pod".into())) };
    let watch = Watch::pods(&route.namespace, &route.labels())?;
    kubectl::delete(&route.namespace, &format!("pod/{}", lost.name))?;
    let is_new = |pod: &Value| old.iter().all(|known| known.uid != uid(pod));
    let (scheduled, _) = watch
        .until("a new pod is scheduled", seconds(30), |pod| is_new(pod) && pod_is(pod, "PodScheduled"))?;
    let (ready, _) = watch.until("it is ready", seconds(30), |pod| is_new(pod) && pod_is(pod, "Ready"))?;
    let took = ready.saturating_duration_since(scheduled);
    measured(&format!("ready {} ms after it was scheduled", took.as_millis()));
    ensure(took < READY_WITHIN, || format!("it took {} ms", took.as_millis()))
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

fn is_put_back(route: &Route, object: &str, patch: &Value, place: &str) -> Outcome {
    let content = |value: &Value| value.pointer(place).cloned().unwrap_or_default();
    let before = content(&kubectl::get(&route.namespace, object)?);
    kubectl::patch(&route.namespace, object, patch)?;
    until("it is as it was", seconds(20), || {
        ensure_same(place, &content(&kubectl::get(&route.namespace, object)?), &before)
    })
}

fn events_flow(stage: &Stage, name: &str) -> Outcome {
    let deliveries = stage.simulator.deliver(name, json!({"count": 20}))?.finished(seconds(30))?;
    ensure(deliveries.len() == 20, || format!("{} events were delivered", deliveries.len()))?;
    ensure_all_accepted(&deliveries)
        .map_err(|Failure(message)| Failure(format!("events do not flow: {message}")))
}
