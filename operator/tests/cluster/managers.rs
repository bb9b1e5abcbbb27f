//! What other managers add to a route's objects on purpose is left alone: by the operator when it has nothing to write,
//! and by its writes.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::stage::{Stage, until};

/// What controllers and people add, by the object's kind and name, the patch, and where it is found.
fn additions() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let note = || json!({"metadata": {"annotations": {"example.com/note": "by another"}}});
    let place = "/metadata/annotations/example.com~1note";
    vec![
        ("ServiceAccount", "shared-relay", note(), place),
        (
            "ServiceAccount",
            "shared-relay",
            json!({"imagePullSecrets": [{"name": "registry"}]}),
            "/imagePullSecrets",
        ),
        ("Secret", "shared-signing", note(), place),
        ("Secret", "shared-deregistration", note(), place),
        ("ConfigMap", "shared-routing", note(), place),
        (
            "ConfigMap",
            "shared-relay",
            json!({"metadata": {"labels": {"example.com/team": "a"}}}),
            "/metadata/labels/example.com~1team",
        ),
        ("Service", "shared-relay", note(), place),
        (
            "Service",
            "shared-relay",
            json!({"spec": {"externalTrafficPolicy": "Local"}}),
            "/spec/externalTrafficPolicy",
        ),
        (
            "Service",
            "shared-relay",
            json!({"metadata": {"finalizers": ["example.com/load-balancer"]}}),
            "/metadata/finalizers",
        ),
        (
            "PodDisruptionBudget",
            "shared-relay",
            json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
            "/spec/unhealthyPodEvictionPolicy",
        ),
        (
            "Deployment",
            "shared-relay",
            json!({"spec": {"progressDeadlineSeconds": 900}}),
            "/spec/progressDeadlineSeconds",
        ),
        (
            "Deployment",
            "shared-relay",
            json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}),
            "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt",
        ),
        (
            "HorizontalPodAutoscaler",
            "shared-relay",
            json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}}),
            "/spec/behavior/scaleDown/stabilizationWindowSeconds",
        ),
        ("NetworkPolicy", "shared-relay", note(), place),
        (
            "Ingress",
            "shared-relay",
            json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/limit-rps": "500"}}}),
            "/metadata/annotations/nginx.ingress.kubernetes.io~1limit-rps",
        ),
        (
            "Ingress",
            "shared-relay",
            json!({"metadata": {"finalizers": ["example.com/load-balancer"]}}),
            "/metadata/finalizers",
        ),
    ]
}

#[tokio::test]
async fn what_other_managers_add_is_left_alone() {
    let stage = Stage::new().await;
    let mut route = stage.route("shared");
    route["spec"]["relay"]["networkPolicy"] = json!({});
    route["spec"]["relay"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 2});
    route["spec"]["endpoint"]["service"] = json!({"type": "NodePort"});
    route["spec"]["endpoint"]["ingress"] =
        json!({"className": "nginx", "annotations": {"example.com/ours": "1"}});
    stage.apply(route).await;
    let operator = stage.operator().await;
    stage.is_ready("shared").await;
    operator.is_quiet().await;

    let calls = operator.calls.count();
    let mut added = Vec::new();
    for (kind, name, patch, place) in additions() {
        let object = serde_json::to_value(stage.patch(kind, name, patch).await).unwrap();
        let value = object.pointer(place).cloned().unwrap_or_else(|| panic!("{kind} {name} has no {place}"));
        added.push((kind, name, place, value));
    }
    // A controller reports its load balancer, and the API server has chosen a port.
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}});
    let controller =
        PatchParams { field_manager: Some("ingress-controller".into()), ..PatchParams::default() };
    stage
        .objects("Ingress")
        .patch_status("shared-relay", &controller, &Patch::Merge(status.clone()))
        .await
        .unwrap();
    added.push((
        "Ingress",
        "shared-relay",
        "/status/loadBalancer/ingress",
        status["status"]["loadBalancer"]["ingress"].clone(),
    ));
    let service = stage.get("Service", "shared-relay").await.unwrap();
    let port = service.data["spec"]["ports"][0]["nodePort"].clone();
    assert!(port.is_i64(), "{port}");
    added.push(("Service", "shared-relay", "/spec/ports/0/nodePort", port));
    operator.is_quiet().await;
    let writes: Vec<_> = operator.calls.since(calls).into_iter().filter(|call| call.is_write()).collect();
    let to_objects = writes
        .iter()
        .filter(|call| call.uri.path().contains("/shared-") && !call.uri.path().contains("/pods/"));
    assert_eq!(to_objects.count(), 0, "{writes:#?}");

    let all_is_there = async |when: &str| {
        for (kind, name, place, value) in &added {
            let live = serde_json::to_value(stage.get(kind, name).await.unwrap()).unwrap();
            assert_eq!(live.pointer(place), Some(value), "{kind} {name} {place}, {when}");
        }
    };
    all_is_there("after a quiet moment").await;
    // Every object is written, because it lacks something of the operator's.
    let mut objects: Vec<_> = added.iter().map(|(kind, name, ..)| (*kind, *name)).collect();
    objects.dedup();
    for (kind, name) in objects {
        let label = json!({"metadata": {"labels": {"app.kubernetes.io/name": null}}});
        stage.patch(kind, name, label).await;
        until(&format!("{kind} {name} has its label again"), Duration::from_secs(10), async || {
            let live = stage.get(kind, name).await.unwrap();
            live.labels().get("app.kubernetes.io/name").map(|_| ()).ok_or(live.metadata.labels.clone())
        })
        .await;
    }
    all_is_there("after a write").await;
    // And an edit of the spec.
    let edit = json!({"spec": {
        "endpoint": {"ingress": {"annotations": {"example.com/ours": "2"}}, "service": {"annotations": {"a": "b"}}},
        "relay": {"podAnnotations": {"a": "b"}, "autoscaling": {"maxReplicas": 3}},
    }});
    stage.patch("PresenceRoute", "shared", edit).await;
    stage.is_ready("shared").await;
    until("the edit has arrived", Duration::from_secs(10), async || {
        let ingress = stage.get("Ingress", "shared-relay").await.unwrap();
        if ingress.annotations()["example.com/ours"] == "2" {
            Ok(())
        } else {
            Err(ingress.metadata.annotations.clone())
        }
    })
    .await;
    all_is_there("after an edit").await;
    for kind in ["Service", "Ingress"] {
        stage.patch(kind, "shared-relay", json!({"metadata": {"finalizers": null}})).await;
    }
    stage.end(operator).await;
}
