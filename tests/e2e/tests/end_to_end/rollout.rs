//! Relay pods are replaced under load behind their Service, and no sender notices.

use presenceroute_e2e::kubectl::{self, PodIdentity};
use presenceroute_e2e::route::Route;
use presenceroute_e2e::simulator::{Delivery, ensure_all_accepted};
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Outcome, ensure};
use serde_json::json;

use crate::deliveries::{Key, ensure_exactly_once};
use crate::manifests;
use crate::stage::Stage;

/// Events a second.
const RATE: u64 = 100;

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "rollout");
    let topic = stage.topic("rollout");
    let mut manifest = manifests::small_route(stage, &route, "rollout-webhook", &topic);
    steps.prove("a route is Ready", || {
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "rollout-webhook", json!({"secret": "rollout"})))?;
        kubectl::apply(&manifest.to_string())?;
        route.becomes_ready(60).map(drop)
    })?;
    let mut sent = steps.prove("kubectl rollout restart under load fails no request", || {
        under_load(stage, &route, || {
            let deployment = format!("deployment/{}-relay", route.name);
            kubectl::run(&["-n", &route.namespace, "rollout", "restart", &deployment]).map(drop)
        })
    })?;
    sent.extend(steps.prove("an edit that replaces the pods under load fails no request", || {
        manifest["spec"]["relay"] = json!({"podAnnotations": {"example.com/rollout": "2"}});
        under_load(stage, &route, || kubectl::apply(&manifest.to_string()))
    })?);
    steps.prove("Kafka has every event once", || {
        ensure_exactly_once(stage, &topic, sent.iter(), Key::Id)?;
        measured(&format!("{} events", sent.len()));
        Ok(())
    })?;
    steps.prove("the route is deleted", || route.delete())
}

/// Does something that replaces every relay pod while events flow, and fails unless each event was accepted at the
/// first try.
fn under_load(stage: &Stage, route: &Route, replace: impl FnOnce() -> Outcome) -> Outcome<Vec<Delivery>> {
    let old = route.pods()?;
    let run = stage.simulator.deliver(&route.registration_name(), json!({"ratePerSecond": RATE}))?;
    run.flows(RATE)?;
    replace()?;
    until("every pod is another one, and all are there", seconds(90), || {
        let now = route.pods()?;
        ensure(now.len() == old.len() && are_others(&now, &old), || format!("{now:?}"))?;
        ensure(all_pods(route)?.len() == old.len(), || "some are still ending".into())
    })?;
    run.flows(RATE)?;
    let deliveries = run.stop()?;
    ensure_all_accepted(&deliveries)?;
    measured(&format!("{} events at {RATE} a second", deliveries.len()));
    Ok(deliveries)
}

fn are_others(now: &[PodIdentity], old: &[PodIdentity]) -> bool {
    now.iter().all(|pod| old.iter().all(|old| old.uid != pod.uid))
}

/// Also those on their way out, which still answer.
fn all_pods(route: &Route) -> Outcome<Vec<serde_json::Value>> {
    kubectl::list(&route.namespace, "pods", &format!("{},app.kubernetes.io/component=relay", route.labels()))
}
