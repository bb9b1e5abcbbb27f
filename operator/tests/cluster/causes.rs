//! The status names causes: why relay pods are not ready, soon; that a rollout does not finish; what is wrong with a spec.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::stage::{Stage, until};

const ERROR: &str = "kafka:9092 cannot be resolved; check spec.kafka.bootstrapServers";

/// Waits for an event with this reason.
async fn event(stage: &Stage, route: &str, reason: &str) -> Event {
    until(&format!("{reason} is reported"), Duration::from_secs(10), async || {
        let events = stage.events(route).await;
        events.into_iter().rfind(|event| event.reason.as_deref() == Some(reason)).ok_or("nothing")
    })
    .await
}

#[tokio::test]
async fn an_unreachable_kafka_is_named_within_ten_seconds() {
    let stage = Stage::new().await;
    stage.relays.cannot_reach_kafka(Some(ERROR));
    let operator = stage.operator().await;
    stage.apply(stage.route("lonely")).await;
    let began = Instant::now();
    let message = stage.condition("lonely", "RelayAvailable", "False", "KafkaUnreachable").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(message, format!("0 of 1 relay pods are ready: {ERROR}"));
    assert_eq!(stage.condition("lonely", "Ready", "False", "KafkaUnreachable").await, message);
    let reported = event(&stage, "lonely", "KafkaUnreachable").await;
    assert_eq!(reported.type_.as_deref(), Some("Warning"));
    assert!(reported.message.unwrap().contains(ERROR));
    assert!(stage.simulator.registrations().is_empty());

    stage.relays.cannot_reach_kafka(None);
    stage.is_ready("lonely").await;
    assert_eq!(event(&stage, "lonely", "Available").await.type_.as_deref(), Some("Normal"));
    stage.end(operator).await;
}

#[tokio::test]
async fn a_quota_that_allows_no_pod_is_named() {
    let stage = Stage::new().await;
    stage.apply(quota(json!({"pods": "0"}))).await;
    let operator = stage.operator().await;
    stage.apply(stage.route("unwelcome")).await;
    let message = stage.condition("unwelcome", "RelayAvailable", "False", "PodsRefused").await;
    assert!(message.contains("exceeded quota: tight"), "{message}");
    stage.delete("ResourceQuota", "tight").await;
    stage.end(operator).await;
}

fn quota(hard: Value) -> Value {
    let spec = json!({"hard": hard});
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": spec})
}

#[tokio::test]
async fn every_refusal_of_pods_is_quoted() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let limit = json!({"limits": [{"type": "Container", "max": {"memory": "16Mi"}}]});
    let limit =
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tight"}, "spec": limit});
    let unconfined =
        json!({"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/relay": "unconfined"}});
    let table = [
        ("limits", Some(quota(json!({"limits.cpu": "1"}))), json!({}), "must specify limits.cpu"),
        (
            "requests",
            Some(quota(json!({"requests.cpu": "1m"}))),
            json!({}),
            "exceeded quota: tight, requested: requests.cpu",
        ),
        ("memory", Some(limit), json!({}), "maximum memory usage per Container is 16Mi"),
        ("security", None, unconfined, "violates PodSecurity \"restricted"),
    ];
    for (name, object, relay, cause) in table {
        if let Some(object) = &object {
            stage.apply(object.clone()).await;
        }
        let mut route = stage.route(name);
        route["spec"]["relay"].as_object_mut().unwrap().extend(relay.as_object().unwrap().clone());
        stage.apply(route).await;
        let message = stage.condition(name, "RelayAvailable", "False", "PodsRefused").await;
        assert!(
            message.starts_with("0 of 1 relay pods are ready: Kubernetes creates no more pods: "),
            "{message}"
        );
        assert!(message.contains(cause), "{message}");
        assert_eq!(stage.condition(name, "Ready", "False", "PodsRefused").await, message);
        if let Some(object) = &object {
            stage.delete(object["kind"].as_str().unwrap(), "tight").await;
        }
    }
    assert!(stage.simulator.registrations().is_empty());
    stage.end(operator).await;
}

#[tokio::test]
async fn a_quota_that_stops_a_rollout_makes_the_route_not_ready() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("crowded")).await;
    stage.is_ready("crowded").await;
    stage.apply(quota(json!({"limits.cpu": "1"}))).await;
    stage.patch("PresenceRoute", "crowded", json!({"spec": {"relay": {"podAnnotations": {"a": "b"}}}})).await;
    let message = stage.condition("crowded", "Ready", "False", "PodsRefused").await;
    assert!(
        message.starts_with("the rollout is not finished: 1 of 1 relay pods are of an older"),
        "{message}"
    );
    assert!(message.contains("must specify limits.cpu"), "{message}");
    assert!(stage.simulator.registrations()[0].enabled, "the pod of before serves on");
    // The API server learns of the deletion a moment later, and the next attempt succeeds.
    stage.delete("ResourceQuota", "tight").await;
    stage.patch("PresenceRoute", "crowded", json!({"spec": {"relay": {"podAnnotations": {"a": "c"}}}})).await;
    stage.is_ready("crowded").await;
    stage.end(operator).await;
}

/// On the node: its kubelet says what is wrong with the pods.
#[tokio::test]
async fn what_the_kubelet_says_of_a_pod_is_quoted() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let here = json!({"nodeSelector": {"presenceroute.io/nowhere": null, "kubernetes.io/os": "linux"}});
    let table = [
        (
            "unpullable",
            json!({"image": "registry.invalid/relay:1"}),
            "ImagePullFailed",
            "registry.invalid/relay:1",
        ),
        ("misnamed", json!({"image": "Not A Name"}), "ImagePullFailed", "Not A Name"),
    ];
    for (name, relay, reason, cause) in table {
        let mut route = stage.route(name);
        route["spec"]["relay"] = json!({"replicas": 1, "nodeSelector": {"kubernetes.io/os": "linux"}});
        route["spec"]["relay"].as_object_mut().unwrap().extend(relay.as_object().unwrap().clone());
        stage.apply(route).await;
        let message = stage.condition(name, "RelayAvailable", "False", reason).await;
        assert!(message.starts_with("0 of 1 relay pods are ready: ") && message.contains(cause), "{message}");
    }
    // A rollout, too: the pod of before serves on.
    stage.apply(stage.route("stuck")).await;
    stage.is_ready("stuck").await;
    let edit = json!({"spec": {"relay": {"nodeSelector": here["nodeSelector"], "image": "registry.invalid/relay:2"}}});
    stage.patch("PresenceRoute", "stuck", edit).await;
    let message = stage.condition("stuck", "Ready", "False", "ImagePullFailed").await;
    assert!(message.starts_with("the rollout is not finished: 1 of 2 relay pods"), "{message}");
    assert!(message.contains("registry.invalid/relay:2"), "{message}");
    stage.end(operator).await;
}

#[tokio::test]
async fn a_pod_killed_for_its_memory_is_named_with_the_limit() {
    let stage = Stage::new().await;
    stage.relays.cannot_reach_kafka(Some(ERROR));
    let operator = stage.operator().await;
    stage.apply(stage.route("hungry")).await;
    stage.condition("hungry", "RelayAvailable", "False", "KafkaUnreachable").await;
    stage.relays.fall_silent(true);
    // What a kubelet writes of a container that the kernel has killed.
    let killed = json!({"exitCode": 137, "reason": "OOMKilled", "startedAt": null, "finishedAt": null, "containerID": ""});
    let status = json!({"status": {"containerStatuses": [{
        "name": "relay", "image": "relay", "imageID": "", "ready": false, "restartCount": 1, "started": false,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}},
        "lastState": {"terminated": killed},
    }]}});
    for pod in stage.list("Pod").await {
        let patch = Patch::Strategic(status.clone());
        stage.objects("Pod").patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }
    let message = stage.condition("hungry", "RelayAvailable", "False", "OutOfMemory").await;
    assert!(message.contains("spec.relay.resources.limits.memory"), "{message}");
    stage.relays.fall_silent(false);
    stage.end(operator).await;
}

#[tokio::test]
async fn a_rollout_that_cannot_finish_makes_the_route_not_ready() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("halfway")).await;
    stage.is_ready("halfway").await;
    stage.relays.cannot_reach_kafka(Some(ERROR));
    let kafka = json!({"spec": {"kafka": {"bootstrapServers": ["nowhere:9092"]}}});
    stage.patch("PresenceRoute", "halfway", kafka).await;
    let message = stage.condition("halfway", "RelayAvailable", "False", "KafkaUnreachable").await;
    assert!(message.starts_with("the rollout is not finished: 1 of 2 relay pods"), "{message}");
    assert!(message.ends_with(ERROR), "{message}");
    stage.condition("halfway", "Ready", "False", "KafkaUnreachable").await;
    // The pod of before serves on, and what is registered stays.
    stage.condition("halfway", "RoutingLive", "True", "Live").await;
    assert!(stage.simulator.registrations()[0].enabled);

    // A restart takes nothing of it back.
    operator.stop().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;
    stage.condition("halfway", "Ready", "False", "KafkaUnreachable").await;

    stage.relays.cannot_reach_kafka(None);
    stage.is_ready("halfway").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn six_hundred_invalid_conditions_make_a_written_status() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let mut route = stage.route("mistyped");
    let routes = (0..600).map(|number| {
        json!({"eventType": "presence:state:changed", "topic": format!("t{number}"), "when": "attributes.presence =="})
    });
    route["spec"]["routes"] = routes.collect();
    stage.apply(route).await;
    let message = stage.condition("mistyped", "Accepted", "False", "Invalid").await;
    assert!(message.contains("spec.routes[0].when") && message.ends_with("; and 595 more"), "{message}");
    stage.end(operator).await;
}
