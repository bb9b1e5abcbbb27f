//! Every kind of object that a route can have: the API server accepts it, and it is deleted when the spec drops it.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::gateway;
use crate::stage::{Stage, until};

/// Alone, because the Gateway API comes and goes with it.
#[tokio::test]
async fn every_kind_of_object_is_created_and_deleted() {
    let stage = Stage::alone().await;
    gateway::install(&stage).await;

    let mut route = stage.route("all");
    route["spec"]["relay"]["networkPolicy"] = json!({
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "metricsFrom": [{"podSelector": {}, "namespaceSelector": {}}],
    });
    route["spec"]["relay"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 3});
    route["spec"]["relay"]["topologySpreadConstraints"] =
        json!([{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    for (field, value) in [
        ("priorityClassName", json!("system-cluster-critical")),
        (
            "serviceAccount",
            json!({"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/relay"}}),
        ),
        ("securityContext", json!({"runAsUser": 1_000_660_000, "supplementalGroups": [1]})),
        ("podDisruptionBudget", json!({"minAvailable": "50%"})),
        (
            "extraEnv",
            json!([
                {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                {"name": "CLIENT", "valueFrom": {"secretKeyRef": {"name": "oauth", "key": "clientId"}}},
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ]),
        ),
    ] {
        route["spec"]["relay"][field] = value;
    }
    route["spec"]["endpoint"]["service"] =
        json!({"type": "NodePort", "annotations": {"example.com/lb": "yes"}});
    route["spec"]["endpoint"]["ingress"] = json!({
        "className": "nginx",
        "tlsSecretName": "presence-tls",
        "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
    });
    stage.apply(route.clone()).await;
    let operator = stage.operator().await;
    stage.is_ready("all").await;
    for kind in ["HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Ingress", "Service"] {
        assert!(stage.get(kind, "all-relay").await.is_some(), "there is no {kind}");
    }
    let service = stage.get("Service", "all-relay").await.unwrap();
    assert_eq!(service.data["spec"]["type"], "NodePort");
    assert_eq!(service.annotations()["example.com/lb"], "yes");
    let deployment = stage.get("Deployment", "all-relay").await.unwrap();
    let spread = &deployment.data["spec"]["template"]["spec"]["topologySpreadConstraints"];
    assert_eq!(spread[0]["topologyKey"], "zone");
    let budget = stage.get("PodDisruptionBudget", "all-relay").await.unwrap();
    assert_eq!(budget.data["spec"]["minAvailable"], "50%");

    // The namespace accepts only restricted pods, and this one has no token.
    let pods = stage.list("Pod").await;
    assert!(!pods.is_empty());
    for pod in &pods {
        let spec = serde_json::to_string(&pod.data["spec"]).unwrap();
        assert!(!spec.contains("serviceAccountToken") && !spec.contains("kube-api-access"), "{spec}");
    }

    // From an Ingress to the Gateway API, and the rest away.
    let gateway =
        json!({"parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}]});
    stage
        .patch(
            "PresenceRoute",
            "all",
            json!({"spec": {
                "endpoint": {"ingress": null, "gateway": gateway, "service": {"type": "ClusterIP"}},
                "relay": {"autoscaling": null, "networkPolicy": null},
            }}),
        )
        .await;
    until("what is not asked for any more is gone", Duration::from_secs(10), async || {
        for kind in ["Ingress", "HorizontalPodAutoscaler", "NetworkPolicy"] {
            if stage.get(kind, "all-relay").await.is_some() {
                return Err(kind);
            }
        }
        Ok(())
    })
    .await;
    let http_route = until("the HTTPRoute is there", Duration::from_secs(10), async || {
        stage.get("HTTPRoute", "all-relay").await.ok_or("not yet")
    })
    .await;
    let spec = &http_route.data["spec"];
    assert_eq!(spec["parentRefs"][0]["sectionName"], "https");
    assert_eq!(spec["rules"][0]["matches"][0]["path"]["value"], "/eventbridge/presence");
    assert_eq!(spec["rules"][0]["backendRefs"][0], json!({"name": "all-relay", "port": 8080}));
    until("the Service has the other type", Duration::from_secs(10), async || {
        let service = stage.get("Service", "all-relay").await.unwrap();
        if service.data["spec"]["type"] == "ClusterIP" { Ok(()) } else { Err(service.data) }
    })
    .await;
    gateway::accept(&stage, "all-relay").await;
    stage.is_ready("all").await;
    // None of it is a fight: the API server's defaults are no differences.
    let calls = operator.calls.count();
    let note = json!({"metadata": {"annotations": {"example.com/note": "hello"}}});
    stage.patch("HTTPRoute", "all-relay", note).await;
    operator.is_quiet().await;
    let writes: Vec<_> = operator.calls.since(calls).into_iter().filter(|call| call.is_write()).collect();
    assert!(writes.is_empty(), "{writes:#?}");
    stage.end(operator).await;
}

/// What a user has made under a name that the route's objects need.
fn foreign_objects() -> [Value; 4] {
    let pods = json!({"app": "foreign"});
    [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "taken-routing"}, "data": {"a": "b"}}),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken-signing"}, "data": {"secret": "YQ=="},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken-relay"},
            "spec": {"selector": pods, "ports": [{"port": 80}]},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "taken-relay"},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": pods},
                "template": {
                    "metadata": {"labels": pods},
                    "spec": {"containers": [{"name": "foreign", "image": "foreign"}]},
                },
            },
        }),
    ]
}

#[tokio::test]
async fn an_object_of_another_owner_is_left_as_it_is() {
    let stage = Stage::new().await;
    let mut kept = Vec::new();
    for object in foreign_objects() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        kept.push((kind, stage.apply(object).await));
    }
    let operator = stage.operator().await;
    stage.apply(stage.route("taken")).await;
    // Each is named in its turn, in the order of the objects, and is free when its owner has deleted it.
    kept.sort_by_key(|(kind, _)| {
        ["Secret", "ConfigMap", "Service", "Deployment"].iter().position(|it| it == kind)
    });
    for position in 0..kept.len() {
        let (kind, object) = &kept[position];
        let named = format!("{kind} {:?} exists and is not the operator's", object.name_any());
        until("the condition names the object", Duration::from_secs(60), async || {
            let message = stage.condition("taken", "RelayAvailable", "False", "ApplyFailed").await;
            if message.contains(&named) { Ok(()) } else { Err(message) }
        })
        .await;
        for (kind, object) in &kept[position..] {
            let now = stage.get(kind, &object.name_any()).await.unwrap();
            assert_eq!((now.uid(), &now.metadata.labels), (object.uid(), &None), "{kind}");
            let content = |object: &kube::api::DynamicObject| {
                (object.data["data"].clone(), object.data["spec"].clone())
            };
            assert_eq!(content(&now), content(object), "{kind}");
        }
        stage.delete(kind, &object.name_any()).await;
    }
    stage.is_ready("taken").await;

    // A route that is deleted takes none of them along.
    let [config_map, ..] = foreign_objects();
    let mut config_map = config_map;
    config_map["metadata"]["name"] = json!("left-routing");
    let left = stage.apply(config_map).await;
    stage.apply(stage.route("left")).await;
    stage.condition("left", "RelayAvailable", "False", "ApplyFailed").await;
    stage.delete("PresenceRoute", "left").await;
    until("the route is gone", Duration::from_secs(20), async || {
        if stage.get("PresenceRoute", "left").await.is_none() { Ok(()) } else { Err("it is there") }
    })
    .await;
    assert_eq!(stage.get("ConfigMap", "left-routing").await.unwrap().uid(), left.uid());
    stage.end(operator).await;
}
