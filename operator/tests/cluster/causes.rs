//! The status names causes: why relay pods are not ready, soon; that a rollout does not finish; what is wrong with a spec.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Event;
use serde_json::json;

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
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    });
    stage.apply(quota).await;
    let operator = stage.operator().await;
    stage.apply(stage.route("unwelcome")).await;
    let message = stage.condition("unwelcome", "RelayAvailable", "False", "PodsRefused").await;
    assert!(message.contains("exceeded quota: none"), "{message}");
    stage.delete("ResourceQuota", "none").await;
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
