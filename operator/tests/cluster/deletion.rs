//! Deleting and suspending a route.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use presenceroute_operator::finalizer::FINALIZER;
use serde_json::json;

use crate::stage::{Stage, until};

#[tokio::test]
async fn a_deletion_waits_while_genesys_is_down_unless_it_retains() {
    let mut stage = Stage::new().await;
    stage.apply(stage.route("stuck")).await;
    let operator = stage.operator().await;
    stage.is_ready("stuck").await;
    stage.stop_genesys().await;

    stage.delete("PresenceRoute", "stuck").await;
    let message = until("the condition has the reason", Duration::from_secs(30), async || {
        let route = stage.routes().get("stuck").await.unwrap();
        let conditions = route.status.unwrap_or_default().conditions;
        let registered = conditions.into_iter().find(|condition| condition.type_ == "Registered").unwrap();
        if registered.status == "False" { Ok(registered.message) } else { Err(registered) }
    })
    .await;
    assert!(message.contains("spec.deletionPolicy to Retain"), "{message}");
    until("an event reports the same", Duration::from_secs(10), async || {
        let events = stage.events("stuck").await;
        let is_reported = events.iter().any(|event| {
            event.type_.as_deref() == Some("Warning")
                && event.message.as_deref().is_some_and(|note| note.contains("deletionPolicy"))
        });
        if is_reported { Ok(()) } else { Err(events) }
    })
    .await;
    let route = stage.routes().get("stuck").await.unwrap();
    assert!(route.finalizers().iter().any(|finalizer| finalizer == FINALIZER));
    assert_eq!(stage.simulator.registrations().len(), 1);

    stage.patch("PresenceRoute", "stuck", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    let began = Instant::now();
    stage.is_empty().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(stage.simulator.registrations().len(), 1, "Retain leaves it there");
    stage.end(operator).await;
}

#[tokio::test]
async fn a_route_whose_client_never_was_accepted_can_be_deleted() {
    let stage = Stage::new().await;
    let rejected =
        json!([{"match": {"method": "POST", "path": "/api/v2/oauth/token"}, "do": {"status": 401}}]);
    stage.simulator.set_faults(serde_json::from_value(rejected).unwrap());
    let operator = stage.operator().await;
    for name in ["mistaken", "mistaken-too"] {
        stage.apply(stage.route(name)).await;
        stage.condition(name, "Registered", "False", "CredentialsRejected").await;
    }
    let is_gone = async |name: &str| {
        stage.delete("PresenceRoute", name).await;
        until("it is gone", Duration::from_secs(5), async || {
            stage.get("PresenceRoute", name).await.map_or(Ok(()), |left| Err(left.data))
        })
        .await;
    };
    is_gone("mistaken").await;
    // Another operator knows it, too.
    operator.stop().await;
    let operator = stage.operator().await;
    is_gone("mistaken-too").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn a_deletion_removes_the_registration_and_all_objects() {
    let stage = Stage::new().await;
    stage.apply(stage.route("short-lived")).await;
    let operator = stage.operator().await;
    stage.is_ready("short-lived").await;
    stage.delete("PresenceRoute", "short-lived").await;
    stage.is_empty().await;
    assert!(stage.simulator.registrations().is_empty());
    for (kind, name) in [
        ("Deployment", "short-lived-relay"),
        ("Service", "short-lived-relay"),
        ("ConfigMap", "short-lived-routing"),
        ("Secret", "short-lived-signing"),
        ("PodDisruptionBudget", "short-lived-relay"),
        ("ServiceAccount", "short-lived-relay"),
    ] {
        until(&format!("{kind} {name} is collected"), Duration::from_secs(30), async || {
            if stage.get(kind, name).await.is_none() { Ok(()) } else { Err("it is there") }
        })
        .await;
    }
    stage.end(operator).await;
}

#[tokio::test]
async fn a_route_restored_with_its_finalizer_can_be_deleted() {
    let stage = Stage::new().await;
    let mut restored = stage.route("restored");
    restored["metadata"]["finalizers"] = json!([FINALIZER, "example.com/of-another"]);
    stage.apply(restored).await;
    let operator = stage.operator().await;
    stage.is_ready("restored").await;
    stage.delete("PresenceRoute", "restored").await;
    until("its own finalizer is gone, and no other", Duration::from_secs(10), async || {
        let finalizers = stage.get("PresenceRoute", "restored").await.unwrap().finalizers().to_vec();
        if finalizers == ["example.com/of-another"] { Ok(()) } else { Err(finalizers) }
    })
    .await;
    assert!(stage.simulator.registrations().is_empty());
    stage.patch("PresenceRoute", "restored", json!({"metadata": {"finalizers": null}})).await;
    stage.end(operator).await;
}

#[tokio::test]
async fn suspending_disables_the_registration_and_keeps_the_pods() {
    let stage = Stage::new().await;
    stage.apply(stage.route("resting")).await;
    let operator = stage.operator().await;
    stage.is_ready("resting").await;
    let pods = || async {
        let pods = stage.list("Pod").await;
        let mut uids: Vec<_> =
            pods.iter().map(|pod| (pod.uid(), pod.metadata.deletion_timestamp.clone())).collect();
        uids.sort();
        uids
    };
    let before = pods().await;
    assert_eq!(before.len(), 1);

    stage.patch("PresenceRoute", "resting", json!({"spec": {"suspend": true}})).await;
    stage.condition("resting", "Ready", "False", "Suspended").await;
    assert!(!stage.simulator.registrations()[0].enabled);
    assert_eq!(pods().await, before);
    stage.condition("resting", "RoutingLive", "True", "Live").await;

    stage.patch("PresenceRoute", "resting", json!({"spec": {"suspend": false}})).await;
    stage.is_ready("resting").await;
    assert!(stage.simulator.registrations()[0].enabled);
    assert_eq!(pods().await, before);
    stage.end(operator).await;
}
