//! What is missing heals when it appears, what is damaged is put back: at once, woken by a watch.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::stage::{Stage, secret, until};

/// From the moment of the edit, on a machine that does other things, too.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_missing_secret_costs_no_calls_and_heals_at_once() {
    let stage = Stage::new().await;
    let mut route = stage.route("late");
    route["spec"]["source"]["webhook"]["signingSecretRef"]["name"] = json!("late-webhook");
    stage.apply(route).await;
    let operator = stage.operator().await;
    let message = stage.condition("late", "SecretsResolved", "False", "SecretsUnresolved").await;
    assert!(message.contains("late-webhook"), "{message}");
    operator.is_quiet().await;
    let calls = operator.calls.count();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let calls: Vec<_> = operator.calls.since(calls).into_iter().filter(|call| !call.is_watch()).collect();
    assert!(calls.is_empty(), "it polls: {calls:#?}");

    stage.apply(secret("late-webhook", json!({"secret": "sign-me-by-hmac-sha256"}))).await;
    let began = Instant::now();
    stage.condition("late", "SecretsResolved", "True", "Resolved").await;
    println!("a Secret that appears is seen after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    stage.is_ready("late").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn an_object_that_kubernetes_rejects_is_sent_again() {
    let stage = Stage::new().await;
    let quota = json!({"hard": {"services": "0"}});
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": quota});
    stage.apply(quota).await;
    stage.apply(stage.route("refused")).await;
    let operator = stage.operator().await;
    let message = stage.condition("refused", "RelayAvailable", "False", "ApplyFailed").await;
    assert!(message.contains("quota"), "{message}");
    stage.condition("refused", "RoutingLive", "True", "Live").await;
    let message = stage.condition("refused", "Registered", "False", "Waiting").await;
    assert!(message.contains("every object of the route to be applied"), "{message}");
    assert!(stage.simulator.registrations().is_empty(), "its URL leads nowhere yet");
    stage.delete("ResourceQuota", "none").await;
    stage.is_ready("refused").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn a_signing_secret_that_can_be_guessed_is_warned_of() {
    let stage = Stage::new().await;
    stage.apply(secret("webhook", json!({"secret": "abc"}))).await;
    stage.apply(stage.route("weak")).await;
    let operator = stage.operator().await;
    let message = stage.condition("weak", "SecretsResolved", "True", "SigningSecretWeak").await;
    assert!(message.contains("fewer than 16 bytes") && !message.contains("abc"), "{message}");
    stage.is_ready("weak").await;
    let events = stage.events("weak").await;
    let warns = |event: &k8s_openapi::api::core::v1::Event| {
        event.type_.as_deref() == Some("Warning") && event.reason.as_deref() == Some("SigningSecretWeak")
    };
    assert_eq!(events.iter().filter(|event| warns(event)).count(), 1, "{events:#?}");
    stage.apply(secret("webhook", json!({"secret": "sign-me-by-hmac-sha256"}))).await;
    stage.condition("weak", "SecretsResolved", "True", "Resolved").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn an_owned_object_that_drifts_is_repaired_at_once() {
    let stage = Stage::new().await;
    let mut route = stage.route("hurt");
    route["spec"]["relay"]["networkPolicy"] = json!({});
    route["spec"]["relay"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 2});
    route["spec"]["endpoint"]["ingress"] = json!({"className": "nginx"});
    stage.apply(route).await;
    let operator = stage.operator().await;
    stage.is_ready("hurt").await;
    operator.is_quiet().await;

    let edits = [
        ("ConfigMap", "hurt-routing", json!({"data": {"routing.yaml": "version: 1"}}), "/data"),
        ("ConfigMap", "hurt-relay", json!({"data": {"relay.yaml": "{}"}}), "/data"),
        ("Secret", "hurt-signing", json!({"data": {"revision": "bm9uZQ=="}}), "/data"),
        (
            "Service",
            "hurt-relay",
            json!({"spec": {"selector": {"presenceroute.io/route": "x"}}}),
            "/spec/selector",
        ),
        (
            "ServiceAccount",
            "hurt-relay",
            json!({"automountServiceAccountToken": true}),
            "/automountServiceAccountToken",
        ),
        ("PodDisruptionBudget", "hurt-relay", json!({"spec": {"maxUnavailable": 9}}), "/spec/maxUnavailable"),
        (
            "Deployment",
            "hurt-relay",
            json!({"spec": {"template": {"spec": {"automountServiceAccountToken": true}}}}),
            "/spec/template/spec/automountServiceAccountToken",
        ),
        ("HorizontalPodAutoscaler", "hurt-relay", json!({"spec": {"maxReplicas": 99}}), "/spec/maxReplicas"),
        (
            "NetworkPolicy",
            "hurt-relay",
            json!({"spec": {"egress": [{}, {"ports": [{"port": 53, "protocol": "UDP"}]}]}}),
            "/spec/egress",
        ),
        ("NetworkPolicy", "hurt-relay", json!({"spec": {"policyTypes": ["Ingress"]}}), "/spec/policyTypes"),
        // What is added to what selects pods, or to what relays mount.
        ("ConfigMap", "hurt-routing", json!({"data": {"added": "x"}}), "/data"),
        ("Secret", "hurt-signing", json!({"data": {"added": "eA=="}}), "/data"),
        (
            "Service",
            "hurt-relay",
            json!({"spec": {"selector": {"example.com/added": "x"}}}),
            "/spec/selector",
        ),
        (
            "PodDisruptionBudget",
            "hurt-relay",
            json!({"spec": {"selector": {"matchLabels": {"example.com/added": "x"}}}}),
            "/spec/selector",
        ),
        (
            "NetworkPolicy",
            "hurt-relay",
            json!({"spec": {"podSelector": {"matchLabels": {"example.com/added": "x"}}}}),
            "/spec/podSelector",
        ),
        ("Ingress", "hurt-relay", json!({"spec": {"ingressClassName": "other"}}), "/spec/ingressClassName"),
        (
            "Ingress",
            "hurt-relay",
            json!({"metadata": {"ownerReferences": null}}),
            "/metadata/ownerReferences/0/name",
        ),
        (
            "Service",
            "hurt-relay",
            json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "/metadata/labels",
        ),
    ];
    let mut slowest = Duration::ZERO;
    for (kind, name, patch, place) in edits {
        let content = |object| serde_json::to_value(object).unwrap().pointer(place).cloned();
        let before = content(stage.get(kind, name).await.unwrap());
        assert_ne!(before, None, "{kind} {name} has no {place}");
        let edited = content(stage.patch(kind, name, patch).await);
        assert_ne!(edited, before, "the edit of {kind} {name} changed nothing");
        let began = Instant::now();
        until(&format!("{place} of {kind} {name} is as it was"), Duration::from_secs(20), async || {
            let now: Option<Value> = content(stage.get(kind, name).await.unwrap());
            if now == before { Ok(()) } else { Err(now) }
        })
        .await;
        slowest = slowest.max(began.elapsed());
        assert!(began.elapsed() < AT_ONCE, "{kind} {name} took {:?}", began.elapsed());
    }
    println!("an edited child is put back after {slowest:?} at most");

    slowest = Duration::ZERO;
    let children = [
        ("ServiceAccount", "hurt-relay"),
        ("Secret", "hurt-signing"),
        ("ConfigMap", "hurt-routing"),
        ("ConfigMap", "hurt-relay"),
        ("Service", "hurt-relay"),
        ("PodDisruptionBudget", "hurt-relay"),
        ("HorizontalPodAutoscaler", "hurt-relay"),
        ("NetworkPolicy", "hurt-relay"),
        ("Ingress", "hurt-relay"),
        ("Deployment", "hurt-relay"),
    ];
    for (kind, name) in children {
        let before = stage.get(kind, name).await.unwrap().uid();
        stage.delete(kind, name).await;
        let began = Instant::now();
        until(&format!("{kind} {name} is there again"), Duration::from_secs(20), async || {
            let now = stage.get(kind, name).await.and_then(|object| object.uid());
            if now.is_some() && now != before { Ok(()) } else { Err(now) }
        })
        .await;
        slowest = slowest.max(began.elapsed());
        assert!(began.elapsed() < AT_ONCE, "{kind} {name} took {:?}", began.elapsed());
    }
    println!("a deleted child is put back after {slowest:?} at most");
    stage.is_ready("hurt").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn an_added_signing_secret_is_removed_without_a_call() {
    let stage = Stage::new().await;
    stage.apply(stage.route("guarded")).await;
    let operator = stage.operator().await;
    stage.is_ready("guarded").await;
    operator.is_quiet().await;
    let data = async || stage.get("Secret", "guarded-signing").await.unwrap().data["data"].clone();
    let (before, asked) = (data().await, stage.simulator.request_counts().total);

    // In an existing key it would be a rotation; one of its own would be a further secret that relays accept.
    stage.patch("Secret", "guarded-signing", json!({"data": {"0a1b2c3d": "Ynktc29tZWJvZHk="}})).await;
    until("it is removed", AT_ONCE, async || {
        let now = data().await;
        if now == before { Ok(()) } else { Err(now.as_object().unwrap().len()) }
    })
    .await;
    operator.is_quiet().await;
    assert_eq!(stage.simulator.request_counts().total, asked, "Genesys Cloud was called");
    assert_eq!(data().await, before);
    stage.is_ready("guarded").await;
    stage.end(operator).await;
}
