//! Objects from YAML literals: what a manifest says is what the cluster gets.

use kube::ResourceExt;
use kube::core::DynamicObject;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_core::relay_config::{Limits, RelayConfig, SourceConfig};
use presenceroute_core::routing::Unmatched;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::ServiceType;
use presenceroute_crds::status::{
    EndpointExposure, EndpointPhase, EndpointStatus, FormerEndpoint, ServedEndpoint,
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Installation, RelayImage, RouteObjects, build};
use crate::dereference::dereference;
use crate::document::Manifest;
use crate::rotation::CredentialRotation;
use crate::validate::{Model, SpecProblem, validate};

const SECRETS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: oauth}
stringData: {clientId: client, clientSecret: hush}
---
apiVersion: v1
kind: Secret
metadata: {name: webhook}
stringData: {secret: "sign-me\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: cluster-ca}
stringData: {ca.crt: pem}
---
apiVersion: v1
kind: Secret
metadata: {name: kafka-user}
stringData: {password: pass}
---
apiVersion: v1
kind: Secret
metadata: {name: relay-tls}
stringData: {tls.crt: pem, tls.key: pem}
---
apiVersion: v1
kind: Secret
metadata: {name: access-key}
stringData: {username: AKIDEXAMPLE, password: secret}
---
apiVersion: v1
kind: Secret
metadata: {name: api-key}
stringData: {apiKey: "0123456789abcdef"}
---
apiVersion: v1
kind: Secret
metadata: {name: aws}
stringData: {accessKeyId: AKIDEXAMPLE, secretAccessKey: secret}
---
"#;

/// A manifest with `extra` inside its spec, at two spaces of indentation.
fn manifest(extra: &str) -> String {
    format!(
        r#"{SECRETS}
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: contact-centre, namespace: presence, uid: 11111111-2222-3333-4444-555555555555}}
spec:
  genesys: {{region: mypurecloud.ie, credentialsSecretRef: {{name: oauth}}}}
  source: {{webhook: {{signingSecretRef: {{name: webhook}}}}}}
  routes:
  - {{eventType: "presence:state:changed", topic: state}}
  - {{eventType: "presence:status:changed", topic: status, key: attributes.userId}}
{extra}"#
    )
}

const ENDPOINT: &str = "
  endpoint: {url: 'https://presence.example.com/eventbridge/presence'}";
const KAFKA: &str = "
  kafka: {bootstrapServers: ['kafka:9092']}";

async fn validated(text: &str) -> Result<Model, Vec<SpecProblem>> {
    let manifest = Manifest::parse(text).unwrap();
    let route: PresenceRoute = serde_json::from_value(manifest.routes[0].value().clone()).unwrap();
    let references = dereference(&route.spec, &manifest).await.unwrap();
    validate(&route, references)
}

async fn objects(extra: &str) -> Vec<DynamicObject> {
    route_objects(extra).await.into_apply_order().unwrap()
}

async fn route_objects(extra: &str) -> RouteObjects {
    built(&validated(&manifest(extra)).await.unwrap())
}

fn built(model: &Model) -> RouteObjects {
    let credential = model.push_credential.as_ref().and_then(|credential| credential.value.as_ref().ok());
    let signing = CredentialRotation::default().advance(
        credential.unwrap_or(&SecretString::from("unused")),
        k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
    );
    let relay_image =
        RelayImage { reference: "presenceroute/relay:1".into(), pull_policy: "IfNotPresent".into() };
    let installation = Installation { relay_image, namespace: "presenceroute-system".into() };
    build(model, &signing, &installation).unwrap()
}

fn kinds(objects: &[DynamicObject]) -> Vec<String> {
    objects
        .iter()
        .map(|object| format!("{} {}", object.types.as_ref().unwrap().kind, object.name_any()))
        .collect()
}

fn find<'o>(objects: &'o [DynamicObject], kind: &str) -> &'o Value {
    &objects.iter().find(|object| object.types.as_ref().unwrap().kind == kind).unwrap().data
}

fn defaults() -> String {
    format!("{ENDPOINT}{KAFKA}")
}

#[tokio::test]
async fn the_smallest_manifest_makes_these_objects_and_no_others() {
    assert_eq!(
        kinds(&objects(&defaults()).await),
        [
            "ServiceAccount contact-centre-relay",
            "Secret contact-centre-signing",
            "ConfigMap contact-centre-routing",
            "ConfigMap contact-centre-relay",
            "Service contact-centre-relay",
            "PodDisruptionBudget contact-centre-relay",
            "Deployment contact-centre-relay",
        ]
    );
}

#[tokio::test]
async fn relay_pods_run_on_linux_and_keep_their_last_line() {
    let made = objects(&defaults()).await;
    let pod = &find(&made, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(pod["containers"][0]["terminationMessagePolicy"], "FallbackToLogsOnError");
    let chosen = "\n  relay: {nodeSelector: {disk: fast, kubernetes.io/os: other}}";
    let made = objects(&format!("{}{chosen}", defaults())).await;
    let pod = &find(&made, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"disk": "fast", "kubernetes.io/os": "other"}));
}

#[tokio::test]
async fn every_object_is_owned_and_labelled() {
    for object in objects(&defaults()).await {
        let name = object.name_any();
        assert_eq!(object.labels().get("presenceroute.io/route").unwrap(), "contact-centre", "{name}");
        assert_eq!(
            object.labels().get("app.kubernetes.io/managed-by").unwrap(),
            "presenceroute-operator",
            "{name}"
        );
        let owner = &object.owner_references()[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("PresenceRoute", Some(true)), "{name}");
    }
}

#[tokio::test]
async fn relay_pods_fulfil_the_restricted_standard_without_a_token() {
    let objects = objects(&defaults()).await;
    let pod = find(&objects, "Deployment").pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
}

/// The Deployment's pod and the route's ServiceAccount and PodDisruptionBudget with these fields of `spec.relay`.
async fn pods(relay: &str) -> (Value, Vec<DynamicObject>) {
    let objects = objects(&format!("{}\n  relay: {relay}", defaults())).await;
    (find(&objects, "Deployment").pointer("/spec/template/spec").unwrap().clone(), objects)
}

/// As OpenShift's restricted-v2 wants it: the ids are those of the namespace, so the pods must not ask for any.
#[tokio::test]
async fn an_empty_security_context_leaves_the_ids_to_the_platform() {
    let (hardened, _) = pods("{}").await;
    let seccomp = json!({"type": "RuntimeDefault"});
    assert_eq!(
        hardened["securityContext"],
        json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": seccomp})
    );
    let (open, _) = pods("{securityContext: {}}").await;
    assert_eq!(open["securityContext"], json!({"runAsNonRoot": true, "seccompProfile": seccomp}));
    assert_eq!(open["containers"], hardened["containers"]);
    let ids = "runAsUser: 1000, runAsGroup: 0, fsGroup: 2000, supplementalGroups: [3000], seLinuxOptions: {level: 's0:c1'}";
    let (chosen, _) = pods(&format!("{{securityContext: {{{ids}}}}}")).await;
    assert_eq!(
        chosen["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 0, "fsGroup": 2000, "supplementalGroups": [3000],
            "seLinuxOptions": {"level": "s0:c1"}, "seccompProfile": seccomp,
        })
    );
}

/// The kubelet gives mounted Secrets to root and to the fsGroup.
#[tokio::test]
async fn secrets_are_readable_by_whatever_user_the_pod_runs_as() {
    for (relay, mode) in
        [("{}", 0o440), ("{securityContext: {fsGroup: 1}}", 0o440), ("{securityContext: {}}", 0o444)]
    {
        let (pod, _) = pods(relay).await;
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let modes: Vec<_> = volumes.filter_map(|volume| volume.pointer("/secret/defaultMode")).collect();
        assert_eq!(modes, [&json!(mode)], "{relay}");
    }
}

#[tokio::test]
async fn a_priority_class_and_a_disruption_budget_are_those_of_the_spec() {
    let (pod, objects) = pods("{priorityClassName: voice, podDisruptionBudget: {minAvailable: 50%}}").await;
    assert_eq!(pod["priorityClassName"], "voice");
    let budget = &find(&objects, "PodDisruptionBudget")["spec"];
    assert_eq!((&budget["minAvailable"], &budget["maxUnavailable"]), (&json!("50%"), &Value::Null));
}

#[tokio::test]
async fn a_cloud_identity_is_on_the_service_account_and_rolls_the_pods() {
    let account = |objects: &[DynamicObject]| {
        let found = objects.iter().find(|object| object.types.as_ref().unwrap().kind == "ServiceAccount");
        found.unwrap().annotations().clone()
    };
    let (_, without) = pods("{}").await;
    let (_, with) = pods("{serviceAccount: {annotations: {eks.amazonaws.com/role-arn: arn:1}}}").await;
    let (_, other) = pods("{serviceAccount: {annotations: {eks.amazonaws.com/role-arn: arn:2}}}").await;
    assert!(account(&without).is_empty());
    assert_eq!(account(&with)["eks.amazonaws.com/role-arn"], "arn:1");
    assert_ne!(find(&with, "Deployment"), find(&without, "Deployment"));
    assert_ne!(find(&with, "Deployment"), find(&other, "Deployment"));
}

#[tokio::test]
async fn further_variables_come_after_the_relays_own() {
    let (pod, _) = pods(
        "{extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy'}, \
         {name: OTEL_EXPORTER_OTLP_HEADERS, valueFrom: {secretKeyRef: {name: oauth, key: clientId}}}, \
         {name: ZONE, valueFrom: {configMapKeyRef: {name: site, key: zone, optional: true}}}, \
         {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]}",
    )
    .await;
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    assert_eq!(variables[0]["name"], "PRESENCEROUTE_CONFIG");
    let expected = json!([
        {"name": "HTTPS_PROXY", "value": "http://proxy"},
        {"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": {"name": "oauth", "key": "clientId"}}},
        {"name": "ZONE", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "zone", "optional": true}}},
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]);
    assert_eq!(json!(variables[5..]), expected);
}

#[tokio::test]
async fn a_variable_without_its_secret_holds_the_deployment_back() {
    let of = |secret: &str| {
        format!("{}\n  relay: {{extraEnv: [{{name: A, valueFrom: {{secretKeyRef: {secret}}}}}]}}", defaults())
    };
    for (secret, problem) in [
        ("{name: nobody, key: a}", r#"Secret "nobody" does not exist"#),
        ("{name: oauth, key: nothing}", r#"Secret "oauth" has no key "nothing""#),
    ] {
        let model = validated(&manifest(&of(secret))).await.unwrap();
        let problems: Vec<_> = model.secret_problems().iter().map(ToString::to_string).collect();
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{problems:?}");
        assert!(route_objects(&of(secret)).await.deployment.is_none(), "{secret}");
    }
    for secret in ["{name: nobody, key: a, optional: true}", "{name: oauth, key: clientId}"] {
        assert!(route_objects(&of(secret)).await.deployment.is_some(), "{secret}");
    }
}

/// What the API server does not know, and what it would refuse in the Deployment only.
#[tokio::test]
async fn pods_that_kubernetes_or_the_relay_would_refuse_are_a_problem() {
    let tracing = "tracing: {endpoint: 'http://collector:4318'}";
    for (relay, problem) in [
        (
            "extraEnv: [{name: A}, {name: PRESENCEROUTE_CONFIG}]".to_owned(),
            r#"spec.relay.extraEnv[1].name: "PRESENCEROUTE_CONFIG" is one of the relay's own"#,
        ),
        (
            "extraEnv: [{name: GENESYS_WEBHOOK_SECRET}]".to_owned(),
            r#"spec.relay.extraEnv[0].name: "GENESYS_WEBHOOK_SECRET" is one of the relay's own"#,
        ),
        (
            format!("{tracing}, extraEnv: [{{name: OTEL_TRACES_SAMPLER}}]"),
            r#"spec.relay.extraEnv[0].name: "OTEL_TRACES_SAMPLER" is set by spec.relay.tracing"#,
        ),
        ("extraEnv: [{name: A}, {name: A}]".to_owned(), r#"spec.relay.extraEnv[1].name: "A" is there twice"#),
        (
            "extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: 'a b', key: k}}}]".to_owned(),
            r#"spec.relay.extraEnv[0].valueFrom.secretKeyRef.name: "a b" cannot be the name of a Secret"#,
        ),
        (
            "extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: contact-centre-signing, key: k}}}]"
                .to_owned(),
            r#"spec.relay.extraEnv[0].valueFrom.secretKeyRef.name: "contact-centre-signing" is a Secret that the operator"#,
        ),
        ("podDisruptionBudget: {}".to_owned(), "spec.relay.podDisruptionBudget: exactly one of"),
        ("podLabels: {'a b': c}".to_owned(), r#"spec.relay.podLabels: "a b" cannot be a label's key"#),
        ("podLabels: {a: 'b c'}".to_owned(), r#"spec.relay.podLabels: the value of "a" must be"#),
        ("nodeSelector: {'/a': b}".to_owned(), r#"spec.relay.nodeSelector: "/a" cannot be a label's key"#),
        ("podAnnotations: {'a/b/c': d}".to_owned(), r#"spec.relay.podAnnotations: "a/b/c" cannot be"#),
        (
            "serviceAccount: {annotations: {'': d}}".to_owned(),
            r#"spec.relay.serviceAccount.annotations: "" cannot be an annotation's key"#,
        ),
    ] {
        let Err(problems) = validated(&manifest(&format!("{}\n  relay: {{{relay}}}", defaults()))).await
        else {
            panic!("{relay} was taken")
        };
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|found| found.starts_with(problem)), "{relay}: {told:?}");
        let field = problems[0].field().to_string();
        assert!(told[0].starts_with(&field), "{field}: {told:?}");
    }
}

#[tokio::test]
async fn the_relay_reads_the_signature_header_of_the_route() {
    let named = "webhook: {signatureHeader: X-Signature, ";
    let manifest = manifest(&defaults()).replace("webhook: {", named);
    let model = validated(&manifest).await.unwrap();
    assert_eq!(model.config.signature_header, "X-Signature");
}

#[tokio::test]
async fn the_relay_gets_the_limits_of_the_manifest() {
    let model = validated(&manifest(&defaults())).await.unwrap();
    assert_eq!(model.config.limits, Limits::default());
    let set = "\n  relay: {limits: {maxBodyBytes: 4194304, idleTimeoutMs: 90000, dedupeMaxIds: 1200000, dedupeWindowMs: 0}}";
    let aged = manifest(&(defaults() + set)).replace("webhook: {", "webhook: {maxEventAgeSeconds: 3600, ");
    let expected = Limits {
        max_body_bytes: 4 << 20,
        idle_timeout_ms: 90_000,
        dedupe_max_ids: 1_200_000,
        dedupe_window_ms: 0,
        max_event_age_ms: Some(3_600_000),
        ..Limits::default()
    };
    assert_eq!(validated(&aged).await.unwrap().config.limits, expected);
    let wrong = aged.replace("4194304", "0").replace("90000", "-1").replace("3600", "0");
    let Err(problems) = validated(&wrong).await else { panic!("it was taken") };
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "spec.relay.limits.maxBodyBytes: must be at least 1, and is 0",
            "spec.relay.limits.idleTimeoutMs: must be at least 1, and is -1",
            "spec.source.webhook.maxEventAgeSeconds: must be at least 1, and is 0",
        ]
    );
}

#[tokio::test]
async fn the_topic_of_invalid_events_is_in_the_routing_table() {
    let with = |unmatched: &str| manifest(&format!("{}\n  unmatched: {unmatched}", defaults()));
    let model = validated(&with("{action: Drop, invalid: {topic: bad}}")).await.unwrap();
    assert_eq!(model.table.unmatched().invalid().unwrap().topic.as_str(), "bad");
    let Err(problems) = validated(&with("{invalid: {topic: 'no good'}}")).await else {
        panic!("it was taken")
    };
    assert!(
        problems[0].to_string().starts_with(r#"spec.unmatched.invalid.topic: topic "no good" is not legal"#),
        "{}",
        problems[0]
    );
}

#[tokio::test]
async fn no_secret_is_in_anything_but_a_secret() {
    for object in objects(&defaults()).await {
        let text = serde_json::to_string(&object).unwrap();
        if object.types.as_ref().unwrap().kind != "Secret" {
            assert!(!text.contains("sign-me") && !text.contains("hush"), "{text}");
        }
    }
}

#[tokio::test]
async fn new_routes_reach_the_pods_without_rolling_them() {
    let one = objects(&defaults()).await;
    let other = objects(&format!("{}\n  unmatched: {{action: Drop}}", defaults())).await;
    assert_ne!(find(&one, "ConfigMap"), find(&other, "ConfigMap"));
    assert_eq!(find(&one, "Deployment"), find(&other, "Deployment"));
    let mounts = find(&one, "Deployment").pointer("/spec/template/spec/containers/0/volumeMounts").unwrap();
    assert!(mounts.as_array().unwrap().iter().all(|mount| mount.get("subPath").is_none()));
}

#[tokio::test]
async fn the_level_of_the_log_reaches_the_pods_without_rolling_them() {
    let one = objects(&defaults()).await;
    let other = objects(&format!("{}\n  relay: {{logLevel: debug}}", defaults())).await;
    assert_eq!(find(&one, "ConfigMap")["data"]["log-level"], "info");
    assert_eq!(find(&other, "ConfigMap")["data"]["log-level"], "debug");
    assert_eq!(find(&one, "Deployment"), find(&other, "Deployment"));
}

#[tokio::test]
async fn another_kafka_rolls_the_pods() {
    let one = objects(&defaults()).await;
    let other = objects(&format!("{ENDPOINT}\n  kafka: {{bootstrapServers: ['other:9092']}}")).await;
    assert_ne!(find(&one, "Deployment"), find(&other, "Deployment"));
}

#[tokio::test]
async fn labels_of_the_spec_cannot_replace_those_that_select_the_pods() {
    let extra =
        format!("{}\n  relay: {{podLabels: {{presenceroute.io/route: other, team: voice}}}}", defaults());
    let objects = objects(&extra).await;
    let deployment = find(&objects, "Deployment");
    assert_eq!(
        deployment["spec"]["template"]["metadata"]["labels"]["presenceroute.io/route"],
        "contact-centre"
    );
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["team"], "voice");
}

#[tokio::test]
async fn an_autoscaler_takes_the_number_of_replicas_over() {
    let extra = format!("{}\n  relay: {{autoscaling: {{minReplicas: 2, maxReplicas: 6}}}}", defaults());
    let objects = objects(&extra).await;
    assert!(find(&objects, "Deployment")["spec"].get("replicas").is_none());
    let autoscaler = find(&objects, "HorizontalPodAutoscaler");
    assert_eq!(autoscaler["spec"]["maxReplicas"], 6);
    assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
}

#[tokio::test]
async fn an_ingress_and_an_http_route_serve_exactly_the_endpoint() {
    let ingress = "
  endpoint:
    url: https://presence.example.com/eventbridge/presence
    ingress: {className: nginx, tlsSecretName: presence-tls}";
    let objects_of_ingress = objects(&format!("{ingress}{KAFKA}")).await;
    let spec = &find(&objects_of_ingress, "Ingress")["spec"];
    assert_eq!(spec["rules"][0]["host"], "presence.example.com");
    assert_eq!(spec["rules"][0]["http"]["paths"][0]["path"], "/eventbridge/presence");
    assert_eq!(spec["tls"][0]["secretName"], "presence-tls");

    let gateway = "
  endpoint:
    url: https://presence.example.com/eventbridge/presence
    gateway: {parentRefs: [{name: public, namespace: gateways}]}";
    let objects_of_gateway = objects(&format!("{gateway}{KAFKA}")).await;
    let spec = &find(&objects_of_gateway, "HTTPRoute")["spec"];
    assert_eq!(spec["hostnames"], json!(["presence.example.com"]));
    assert_eq!(spec["parentRefs"], json!([{"name": "public", "namespace": "gateways"}]));
}

#[tokio::test]
async fn the_service_has_the_type_and_annotations_of_the_spec() {
    let service = |objects: &[DynamicObject]| {
        let service = objects.iter().find(|object| object.types.as_ref().unwrap().kind == "Service").unwrap();
        (service.data["spec"]["type"].clone(), service.annotations().clone())
    };
    let (type_, annotations) = service(&objects(&defaults()).await);
    assert_eq!(type_, "ClusterIP");
    assert!(annotations.is_empty());
    let exposed = "
  endpoint:
    url: https://presence.example.com/eventbridge/presence
    service: {type: LoadBalancer, annotations: {example.com/lb: internal}}";
    let (type_, annotations) = service(&objects(&format!("{exposed}{KAFKA}")).await);
    assert_eq!(type_, "LoadBalancer");
    assert_eq!(annotations["example.com/lb"], "internal");
}

#[tokio::test]
async fn relays_are_spread_over_nodes_and_drained_one_at_a_time() {
    let objects = objects(&defaults()).await;
    let relays = json!({"matchLabels": {
        "app.kubernetes.io/component": "relay",
        "app.kubernetes.io/instance": "contact-centre",
        "presenceroute.io/route": "contact-centre",
    }});
    let spread =
        find(&objects, "Deployment").pointer("/spec/template/spec/topologySpreadConstraints").unwrap();
    let expected = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": relays,
    }]);
    assert_eq!(*spread, expected);
    let budget = &find(&objects, "PodDisruptionBudget")["spec"];
    let expected =
        json!({"maxUnavailable": 1, "selector": relays, "unhealthyPodEvictionPolicy": "AlwaysAllow"});
    assert_eq!(*budget, expected);
}

#[tokio::test]
async fn a_network_policy_opens_only_the_ports_that_are_needed() {
    let policy = async |relay: &str| {
        let kafka = "
  kafka: {bootstrapServers: ['a:9093', 'b:9092', 'c:9093']}";
        let objects = objects(&format!("{ENDPOINT}{kafka}\n  relay: {{networkPolicy: {relay}}}")).await;
        find(&objects, "NetworkPolicy")["spec"].clone()
    };
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "presenceroute-system"}},
        "podSelector": {"matchLabels": {
            "app.kubernetes.io/name": "presenceroute",
            "app.kubernetes.io/component": "operator",
        }},
    });
    let open = policy("{}").await;
    assert_eq!(open["policyTypes"], json!(["Ingress", "Egress"]));
    let expected = json!([
        {"ports": [{"port": 8080, "protocol": "TCP"}]},
        {"from": [operator], "ports": [{"port": 9090, "protocol": "TCP"}]},
    ]);
    assert_eq!(open["ingress"], expected);
    let expected = json!([
        {"ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"},
            {"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"},
        ]},
        {"ports": [{"port": 9092, "protocol": "TCP"}, {"port": 9093, "protocol": "TCP"}]},
    ]);
    assert_eq!(open["egress"], expected);

    let narrow = "{ingressFrom: [{ipBlock: {cidr: 10.0.0.0/8}}], metricsFrom: [{namespaceSelector: {}}]}";
    let narrow = policy(narrow).await;
    assert_eq!(narrow["ingress"][0]["from"], json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]));
    assert_eq!(narrow["ingress"][1]["from"], json!([operator, {"namespaceSelector": {}}]));
}

#[tokio::test]
async fn further_egress_is_added_to_a_network_policy() {
    let rules = json!([
        {"ports": [{"protocol": "TCP", "port": 9094, "endPort": 9097}]},
        {"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}], "ports": [{"protocol": "TCP", "port": "broker"}]},
    ]);
    let relay = format!("\n  relay: {{networkPolicy: {{additionalEgress: {rules}}}}}");
    let with_rules = objects(&format!("{}{relay}", defaults())).await;
    let without = objects(&format!("{}\n  relay: {{networkPolicy: {{}}}}", defaults())).await;
    let egress = |objects| find(objects, "NetworkPolicy")["spec"]["egress"].as_array().unwrap().clone();
    assert_eq!(egress(&with_rules)[..2], egress(&without));
    assert_eq!(egress(&with_rules)[2..], *rules.as_array().unwrap());
}

#[tokio::test]
async fn strimzis_secrets_are_mounted_as_they_are() {
    let kafka = "
  kafka:
    bootstrapServers: ['kafka:9093']
    tls: {caSecretRef: {name: cluster-ca}}
    sasl: {mechanism: SCRAM-SHA-512, credentialsSecretRef: {name: kafka-user}}";
    let objects = objects(&format!("{ENDPOINT}{kafka}")).await;
    let volumes = find(&objects, "Deployment").pointer("/spec/template/spec/volumes").unwrap();
    let secrets: Vec<_> =
        volumes.as_array().unwrap().iter().filter_map(|v| v["secret"]["secretName"].as_str()).collect();
    assert_eq!(secrets, ["contact-centre-signing", "cluster-ca", "kafka-user"]);
    let config = objects
        .iter()
        .find(|o| o.types.as_ref().unwrap().kind == "ConfigMap" && o.name_any().ends_with("-relay"));
    let yaml = config.unwrap().data["data"]["relay.yaml"].as_str().unwrap();
    assert!(yaml.contains("/etc/presenceroute/kafka/ca/ca.crt") && yaml.contains("SCRAM-SHA-512"), "{yaml}");
    assert!(!yaml.contains("pass:") && !yaml.contains("hush"), "{yaml}");
}

#[tokio::test]
async fn a_certificate_has_the_pods_speak_tls_behind_port_443() {
    let tls = "
  relay: {tls: {certificateSecretRef: {name: relay-tls}}}
  endpoint:
    url: https://presence.example.com/eventbridge/presence
    ingress: {className: nginx}";
    let objects = objects(&format!("{tls}{KAFKA}")).await;
    let port = &find(&objects, "Service")["spec"]["ports"][0];
    assert_eq!(
        port,
        &json!({"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP", "appProtocol": "https"})
    );
    let backend =
        find(&objects, "Ingress").pointer("/spec/rules/0/http/paths/0/backend/service/port").unwrap();
    assert_eq!(backend, &json!({"number": 443}));
    let pod = find(&objects, "Deployment").pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["containers"][0]["ports"][0]["name"], "https");
    assert_eq!(pod["containers"][0]["readinessProbe"]["httpGet"]["port"], "admin");
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["secret"]["secretName"] == "relay-tls"), "{volumes:?}");
    let config = objects
        .iter()
        .find(|o| o.types.as_ref().unwrap().kind == "ConfigMap" && o.name_any().ends_with("-relay"));
    let yaml = config.unwrap().data["data"]["relay.yaml"].as_str().unwrap();
    assert!(yaml.contains("/etc/presenceroute/tls/tls.crt"), "{yaml}");
}

#[tokio::test]
async fn the_collector_is_passed_by_opentelemetrys_variables() {
    let relay = "
  relay:
    tracing: {endpoint: 'http://collector.observability:4318', samplePercentage: 5}
    networkPolicy: {}";
    let objects = objects(&format!("{}{relay}", defaults())).await;
    let env = find(&objects, "Deployment").pointer("/spec/template/spec/containers/0/env").unwrap();
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.observability:4318"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.05"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.namespace.name=presence,presenceroute.route=contact-centre"),
    ] {
        assert!(env.as_array().unwrap().contains(&json!({"name": name, "value": value})), "{env}");
    }
    let ports = find(&objects, "NetworkPolicy").pointer("/spec/egress/1/ports").unwrap();
    assert_eq!(ports, &json!([{"protocol": "TCP", "port": 4318}, {"protocol": "TCP", "port": 9092}]));
}

#[tokio::test]
async fn oauthbearer_mounts_the_token_endpoints_ca() {
    let kafka = "
  kafka:
    bootstrapServers: ['kafka:9093']
    sasl:
      mechanism: OAUTHBEARER
      credentialsSecretRef: {name: kafka-user}
      oauth: {tokenEndpointUrl: 'https://id.example.com/token', scope: kafka, caSecretRef: {name: cluster-ca}}
  relay: {networkPolicy: {}}";
    let objects = objects(&format!("{ENDPOINT}{kafka}")).await;
    let volumes = find(&objects, "Deployment").pointer("/spec/template/spec/volumes").unwrap();
    let secrets: Vec<_> =
        volumes.as_array().unwrap().iter().filter_map(|v| v["secret"]["secretName"].as_str()).collect();
    assert_eq!(secrets, ["contact-centre-signing", "kafka-user", "cluster-ca"]);
    let ports = find(&objects, "NetworkPolicy").pointer("/spec/egress/1/ports").unwrap();
    assert_eq!(ports, &json!([{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 9093}]));
}

#[tokio::test]
async fn msk_iam_needs_no_secret_and_opens_the_way_to_credentials() {
    let kafka = |more: &str| {
        format!(
            "{ENDPOINT}
  kafka:
    bootstrapServers: ['b-1.events.kafka.eu-west-1.amazonaws.com:9098']
    tls: {{}}
    sasl: {{mechanism: AWS_MSK_IAM, awsMskIam: {{region: eu-west-1}}{more}}}
  relay: {{networkPolicy: {{}}}}"
        )
    };
    let by_role = objects(&kafka("")).await;
    let expected = json!([
        {"ports": [{"protocol": "TCP", "port": 9098}]},
        {"ports": [{"protocol": "TCP", "port": 443}]},
        {
            "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}, {"ipBlock": {"cidr": "fd00:ec2::23/128"}}],
            "ports": [{"protocol": "TCP", "port": 80}],
        },
    ]);
    assert_eq!(
        find(&by_role, "NetworkPolicy")["spec"]["egress"].as_array().unwrap()[1..],
        *expected.as_array().unwrap()
    );
    let config = |objects: &[DynamicObject]| {
        let is_config = |object: &&DynamicObject| object.types.as_ref().unwrap().kind == "ConfigMap";
        let config = objects.iter().filter(is_config).find(|object| object.name_any().ends_with("-relay"));
        config.unwrap().data["data"]["relay.yaml"].as_str().unwrap().to_owned()
    };
    let yaml = config(&by_role);
    assert!(yaml.contains("AWS_MSK_IAM") && yaml.contains("region: eu-west-1"), "{yaml}");
    assert!(!yaml.contains("File"), "{yaml}");

    let by_key = objects(&kafka(", credentialsSecretRef: {name: access-key}")).await;
    assert_eq!(find(&by_key, "NetworkPolicy")["spec"]["egress"].as_array().unwrap().len(), 2);
    let yaml = config(&by_key);
    assert!(yaml.contains("/kafka/sasl/username") && !yaml.contains("username: access-key"), "{yaml}");
}

#[tokio::test]
async fn msk_iam_is_refused_without_tls_region_or_with_half_a_key() {
    let problems = async |kafka: &str| {
        let kafka = format!("{ENDPOINT}\n  kafka: {{bootstrapServers: ['a:9098'], {kafka}}}");
        match validated(&manifest(&kafka)).await {
            Ok(model) => model.mount_problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    };
    for (kafka, cause) in [
        (
            "sasl: {mechanism: AWS_MSK_IAM, awsMskIam: {region: eu-west-1}}",
            "spec.kafka: sasl.mechanism AWS_MSK_IAM needs tls",
        ),
        ("tls: {}, sasl: {mechanism: AWS_MSK_IAM}", "spec.kafka.sasl: awsMskIam must be set"),
        (
            "tls: {}, sasl: {mechanism: PLAIN, credentialsSecretRef: {name: kafka-user}, awsMskIam: {region: eu-west-1}}",
            "spec.kafka.sasl: awsMskIam must be set",
        ),
        ("tls: {}, sasl: {mechanism: PLAIN}", "spec.kafka.sasl: credentialsSecretRef must be set"),
        (
            "tls: {}, sasl: {mechanism: AWS_MSK_IAM, awsMskIam: {region: eu-west-1}, credentialsSecretRef: {name: kafka-user}}",
            r#"Secret "kafka-user" has no key "username""#,
        ),
    ] {
        let found = problems(kafka).await;
        assert!(found.len() == 1 && found[0].starts_with(cause), "{kafka}: {found:?}");
    }
}

#[tokio::test]
async fn a_missing_kafka_secret_holds_the_deployment_back() {
    let kafka = "
  kafka:
    bootstrapServers: ['kafka:9093']
    sasl: {mechanism: PLAIN, credentialsSecretRef: {name: nobody}}";
    let model = validated(&manifest(&format!("{ENDPOINT}{kafka}"))).await.unwrap();
    assert_eq!(
        model.secret_problems()[0].to_string(),
        r#"Secret "nobody" does not exist; create it in the namespace of the PresenceRoute"#
    );
    let held_back = route_objects(&format!("{ENDPOINT}{kafka}")).await;
    assert_eq!(
        (held_back.deployment.as_ref(), held_back.held_back.as_slice()),
        (None, ["Deployment"].as_slice())
    );
    let complete = route_objects(&defaults()).await;
    assert!(complete.deployment.is_some() && complete.held_back.is_empty());
}

#[tokio::test]
async fn white_space_after_a_secret_is_trimmed() {
    use secrecy::ExposeSecret;
    let model = validated(&manifest(&defaults())).await.unwrap();
    let secret = model.push_credential.unwrap().value.unwrap();
    assert_eq!(secret.expose_secret(), "sign-me");
}

#[tokio::test]
async fn the_subscription_follows_the_exact_routes_unless_it_is_given() {
    let model = validated(&manifest(&defaults())).await.unwrap();
    let webhook = model.webhook().unwrap();
    assert_eq!(webhook.registration.event_types, ["presence:state:changed", "presence:status:changed"]);
    assert_eq!(webhook.registration.name, "presence/contact-centre");
    let api = model.genesys.api_endpoint(&webhook.event_bridges_path);
    assert_eq!(api.api_url, "https://api.mypurecloud.ie");
}

#[tokio::test]
async fn every_problem_of_a_spec_is_reported_with_its_place() {
    let text = format!(
        r#"{SECRETS}
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: contact-centre, namespace: presence}}
spec:
  genesys: {{region: mypurecloud.ie, apiUrl: "http://x", credentialsSecretRef: {{name: oauth}}}}
  source: {{webhook: {{signingSecretRef: {{name: webhook}}}}}}
  endpoint: {{url: "https://presence.example.com/e?x=1"}}
  routes:
  - {{eventType: "presence:*", topic: "no good"}}
  - {{eventType: "a", topic: b, when: "attribute.x == 1"}}
  unmatched: {{action: DeadLetter}}
  kafka:
    bootstrapServers: ["kafka:9092"]
    properties: {{acks: "1"}}
    sasl: {{mechanism: OAUTHBEARER, credentialsSecretRef: {{name: kafka-user}}}}
"#
    );
    let Err(problems) = validated(&text).await else { panic!("it was taken") };
    let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for part in [
        r#"spec.routes[0].topic: topic "no good" is not legal"#,
        "spec.routes[1].when: `attribute.x == 1` uses `attribute`, which is unknown",
        "spec.unmatched: topic must be set when action is DeadLetter",
        "spec.source.webhook.eventTypes: must be set",
        r#"spec.endpoint.url: "https://presence.example.com/e?x=1" is not"#,
        "spec.genesys: exactly one of region and apiUrl must be set",
        r#"spec.kafka.properties: "acks" cannot be set: an answer of 200 promises"#,
        "spec.kafka.sasl: oauth must be set when mechanism is OAUTHBEARER, and only then",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

/// As the operator sees an object that was stored under an older CRD, whose rules were others.
#[tokio::test]
async fn what_kubernetes_would_refuse_later_is_a_problem_of_the_spec() {
    let extra = defaults()
        + "
  relay: {autoscaling: {maxReplicas: 4}, resources: {limits: {memory: 64Mi}}}";
    let properties = "bootstrapServers: ['kafka:9092'], properties: {compression.level: '13'}";
    let text = manifest(&extra)
        .replace("{name: contact-centre,", "{name: 24x7-desk,")
        .replace("signingSecretRef: {name: webhook}", "signingSecretRef: {name: web hook}")
        .replace("bootstrapServers: ['kafka:9092']", properties);
    let Err(problems) = validated(&text).await else { panic!("it was taken") };
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for part in [
        r#"metadata.name: "24x7-desk" must begin with a letter"#,
        r#"spec.source.webhook.signingSecretRef.name: "web hook" cannot be the name of a Secret"#,
        r#"spec.kafka.properties: "compression.level" must be a whole number from -1 to 12"#,
        "spec.relay: autoscaling needs resources.requests.cpu",
    ] {
        assert!(told.iter().any(|problem| problem.contains(part)), "{part:?} is not in\n{told:#?}");
    }
    assert_eq!(told.len(), 4, "{told:#?}");
    let limited = extra.replace("limits: {memory: 64Mi}", "limits: {cpu: 1}");
    assert!(validated(&manifest(&limited)).await.is_ok(), "a limit is a request, too");
}

#[tokio::test]
async fn a_table_that_no_config_map_holds_is_a_problem_of_the_spec() {
    let route = |number: usize| {
        format!(
            "  - {{eventType: \"{number:04}{}\", topic: \"{number:04}{}\", key: \"attributes.{}\"}}\n",
            "\u{1f600}".repeat(250),
            "t".repeat(240),
            "k".repeat(240)
        )
    };
    let of = |count: usize| {
        let routes: String = (0..count).map(route).collect();
        let text = manifest(&defaults());
        text.replace("  endpoint:", &format!("{routes}  endpoint:"))
    };
    assert!(validated(&of(500)).await.is_ok());
    let Err(problems) = validated(&of(1000)).await else { panic!("it was taken") };
    let told = problems[0].to_string();
    assert!(
        told.starts_with("spec.routes: the routing table has ") && told.contains("several PresenceRoutes"),
        "{told}"
    );
}

/// The objects while former endpoints are served, each given as URL, Secret of the certificate and exposure.
async fn changing(extra: &str, phase: EndpointPhase, former: ServedEndpoint) -> (RouteObjects, String) {
    let mut model = validated(&manifest(extra)).await.unwrap();
    let registered_url = former.url.clone();
    let former = vec![FormerEndpoint { endpoint: former, retire_time: None }];
    let served = EndpointStatus { phase, former, ..model.served.clone() };
    model.serve(served, Some(&registered_url), true);
    (built(&model), model.webhook().unwrap().registration.url.clone())
}

fn relay_yaml(objects: &RouteObjects) -> RelayConfig {
    serde_saphyr::from_str(&objects.relay_config.data.as_ref().unwrap()["relay.yaml"]).unwrap()
}

fn former(url: &str) -> ServedEndpoint {
    ServedEndpoint { url: url.into(), ..ServedEndpoint::default() }
}

const FORMER: &str = "https://before.example.com/before";

#[tokio::test]
async fn a_former_path_is_served_and_registered_until_every_pod_has_the_new_one() {
    let stable = route_objects(&defaults()).await;
    let (objects, url) = changing(&defaults(), EndpointPhase::Distributing, former(FORMER)).await;
    assert_eq!(url, FORMER);
    let config = relay_yaml(&objects);
    assert_eq!(
        (config.path.as_str(), config.former_paths),
        ("/eventbridge/presence", vec!["/before".to_owned()])
    );
    assert_ne!(objects.config_hash(), stable.config_hash(), "the pods are not replaced");
    let (registering, url) = changing(&defaults(), EndpointPhase::Registering, former(FORMER)).await;
    assert_eq!(url, "https://presence.example.com/eventbridge/presence");
    assert_eq!(registering.config_hash(), objects.config_hash(), "the pods are replaced for nothing");
    // Another host of the same path is no other path.
    let host = former("https://before.example.com/eventbridge/presence");
    let (objects, _) = changing(&defaults(), EndpointPhase::Distributing, host).await;
    assert_eq!(objects.config_hash(), stable.config_hash());
}

#[tokio::test]
async fn both_protocols_have_a_port_while_one_replaces_the_other() {
    let tls = "\n  relay: {tls: {certificateSecretRef: {name: relay-tls}}, networkPolicy: {}}";
    let plain = "\n  relay: {networkPolicy: {}}";
    let encrypted = ServedEndpoint { certificate_secret_name: Some("relay-tls".into()), ..former(FORMER) };
    for (relay, before) in [(tls, former(FORMER)), (plain, encrypted)] {
        let extra = format!("{}{relay}", defaults());
        let (objects, _) = changing(&extra, EndpointPhase::Distributing, before).await;
        assert_eq!(relay_yaml(&objects).tls_port, Some(8443));
        let made = objects.into_apply_order().unwrap();
        let ports = |value: &Value, number: &str| {
            let ports = value.as_array().unwrap().iter();
            ports
                .map(|port| format!("{} {}", port["name"].as_str().unwrap_or_default(), port[number]))
                .collect::<Vec<_>>()
        };
        assert_eq!(ports(&find(&made, "Service")["spec"]["ports"], "port"), ["http 8080", "https 443"]);
        let pod = &find(&made, "Deployment")["spec"]["template"]["spec"];
        let container = &pod["containers"][0]["ports"];
        assert_eq!(ports(container, "containerPort"), ["http 8080", "https 8443", "admin 9090"]);
        assert!(pod["volumes"].to_string().contains("relay-tls"));
        let policy = &find(&made, "NetworkPolicy")["spec"]["ingress"][0]["ports"];
        assert_eq!(ports(policy, "port"), [" 8080", " 8443"]);
    }
}

#[tokio::test]
async fn what_exposes_a_former_endpoint_is_kept() {
    let ingress = "
  endpoint: {url: 'https://presence.example.com/new', ingress: {className: nginx, tlsSecretName: new}}";
    let before = ServedEndpoint {
        exposure: EndpointExposure::Ingress,
        service_type: ServiceType::LoadBalancer,
        ingress_tls_secret_name: Some("old".into()),
        ..former(FORMER)
    };
    let (objects, _) = changing(&format!("{ingress}{KAFKA}"), EndpointPhase::Retiring, before.clone()).await;
    assert!(objects.held_back.is_empty());
    let made = objects.into_apply_order().unwrap();
    let spec = &find(&made, "Ingress")["spec"];
    for (place, expected) in
        [("0", ["presence.example.com", "/new", "new"]), ("1", ["before.example.com", "/before", "old"])]
    {
        let at =
            |pointer: String| spec.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let found = [
            at(format!("/rules/{place}/host")),
            at(format!("/rules/{place}/http/paths/0/path")),
            at(format!("/tls/{place}/secretName")),
        ];
        assert_eq!(found, expected);
    }
    assert_eq!(find(&made, "Service")["spec"]["type"], "LoadBalancer");
    // Without an Ingress of its own, the route keeps the one that there is.
    let (objects, _) = changing(&defaults(), EndpointPhase::Retiring, before).await;
    assert_eq!((objects.ingress, objects.held_back), (None, vec!["Ingress"]));

    let gateway = "
  endpoint: {url: 'https://presence.example.com/new', gateway: {parentRefs: [{name: public}]}}";
    let before = ServedEndpoint { exposure: EndpointExposure::Gateway, ..former(FORMER) };
    let (objects, _) = changing(&format!("{gateway}{KAFKA}"), EndpointPhase::Retiring, before).await;
    let spec = &objects.http_route.unwrap().data["spec"];
    assert_eq!(spec["hostnames"], json!(["presence.example.com", "before.example.com"]));
    let paths: Vec<_> =
        spec["rules"][0]["matches"].as_array().unwrap().iter().map(|it| &it["path"]["value"]).collect();
    assert_eq!(paths, ["/new", "/before"]);
}

/// A manifest of the source amazonEventBridge with these fields inside, and `extra` inside its spec.
fn event_bridge_manifest(fields: &str, extra: &str) -> String {
    format!(
        r#"{SECRETS}
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: contact-centre, namespace: presence, uid: 11111111-2222-3333-4444-555555555555}}
spec:
  genesys: {{region: mypurecloud.ie, credentialsSecretRef: {{name: oauth}}}}
  source:
    amazonEventBridge:
      topics: ["v2.users.{{id}}.routingStatus", "v2.users.{{id}}.presence"]
      awsAccountId: "123456789012"
      awsRegion: eu-west-1
      {fields}
  routes:
  - {{eventType: "v2.users.{{id}}.presence", topic: presence}}
  - {{eventType: "v2.users.{{id}}.*", topic: all, key: id}}
{extra}"#
    )
}

const QUEUE: &str = "sqs: {queueUrl: 'https://sqs.eu-west-1.amazonaws.com/123456789012/presence'}";
const DESTINATION: &str = "apiDestination: {apiKeySecretRef: {name: api-key}}";

#[tokio::test]
async fn a_queue_needs_no_service_and_no_signing_secret() {
    let model = validated(&event_bridge_manifest(QUEUE, KAFKA)).await.unwrap();
    let objects = built(&model).into_apply_order().unwrap();
    assert_eq!(
        kinds(&objects),
        [
            "ServiceAccount contact-centre-relay",
            "ConfigMap contact-centre-routing",
            "ConfigMap contact-centre-relay",
            "PodDisruptionBudget contact-centre-relay",
            "Deployment contact-centre-relay",
        ]
    );
    let container = &find(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let ports: Vec<_> = container["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    assert_eq!(ports, ["admin"]);
    let names: Vec<_> =
        container["env"].as_array().unwrap().iter().map(|variable| &variable["name"]).collect();
    assert!(!names.contains(&&json!("PRESENCEROUTE_SECRET_DIR")), "{names:?}");
    assert!(names.contains(&&json!("PRESENCEROUTE_PRESENCE_DEFINITIONS_FILE")), "{names:?}");
    let relay = relay_yaml(&built(&model));
    let SourceConfig::Sqs(queue) = relay.source else { panic!("{:?}", relay.source) };
    assert_eq!((queue.region.as_str(), queue.credentials), ("eu-west-1", None));
}

#[tokio::test]
async fn an_access_key_of_a_queue_is_mounted() {
    let queue =
        "sqs: {queueUrl: 'https://sqs.eu-west-1.amazonaws.com/1/q', credentialsSecretRef: {name: aws}}";
    let model = validated(&event_bridge_manifest(queue, KAFKA)).await.unwrap();
    let objects = built(&model).into_apply_order().unwrap();
    let pod = &find(&objects, "Deployment")["spec"]["template"]["spec"];
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(volumes, ["relay", "routing", "aws"]);
    let SourceConfig::Sqs(queue) = relay_yaml(&built(&model)).source else { panic!("no queue") };
    let files = queue.credentials.unwrap();
    assert_eq!(files.access_key_id_file.to_str(), Some("/etc/presenceroute/aws/accessKeyId"));
    let missing =
        queue_problem("sqs: {queueUrl: 'https://q.example.com/1/q', credentialsSecretRef: {name: oauth}}");
    assert!(missing.await.contains(r#"Secret "oauth" has no key "accessKeyId""#));
}

async fn queue_problem(queue: &str) -> String {
    let model = validated(&event_bridge_manifest(queue, KAFKA)).await.unwrap();
    model.mount_problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn an_api_destination_is_served_like_a_webhook() {
    let extra = format!("{ENDPOINT}{KAFKA}");
    let model = validated(&event_bridge_manifest(DESTINATION, &extra)).await.unwrap();
    let objects = built(&model).into_apply_order().unwrap();
    assert_eq!(
        kinds(&objects),
        kinds(&self::objects(&defaults()).await),
        "what pods serve and mount does not depend on who calls them"
    );
    let relay = relay_yaml(&built(&model));
    let SourceConfig::ApiDestination(destination) = relay.source else { panic!("{:?}", relay.source) };
    assert_eq!((destination.header.as_str(), relay.path.as_str()), ("X-Api-Key", "/eventbridge/presence"));
}

#[tokio::test]
async fn the_integration_is_named_after_the_route() {
    let model = validated(&event_bridge_manifest(QUEUE, KAFKA)).await.unwrap();
    let integration = &model.integration().unwrap().integration;
    assert_eq!(integration.event_source_suffix, "presence-contact-centre");
    assert_eq!(integration.topics, ["v2.users.{id}.presence", "v2.users.{id}.routingStatus"]);
    let named = format!("{QUEUE}\n      eventSourceSuffix: other");
    let model = validated(&event_bridge_manifest(&named, KAFKA)).await.unwrap();
    assert_eq!(model.integration().unwrap().integration.event_source_suffix, "other");
}

#[tokio::test]
async fn tokens_come_from_the_login_service_of_the_region() {
    let model = validated(&event_bridge_manifest(QUEUE, KAFKA)).await.unwrap();
    let api = model.genesys.api_endpoint("/");
    assert_eq!(
        (api.login_url.as_deref(), api.token_path.as_str(), api.token_request),
        (Some("https://login.mypurecloud.ie"), "/oauth/token", TokenRequest::Form)
    );
    let webhook = validated(&manifest(&defaults())).await.unwrap().genesys.api_endpoint("/");
    assert_eq!(
        (webhook.login_url, webhook.token_path.as_str(), webhook.token_request),
        (None, "/api/v2/oauth/token", TokenRequest::Json)
    );
}

#[tokio::test]
async fn events_of_a_queue_are_keyed_by_user_and_never_rejected() {
    let model = validated(&event_bridge_manifest(QUEUE, KAFKA)).await.unwrap();
    let keys: Vec<String> = model.table.routes().iter().map(|route| route.key.clone().into()).collect();
    assert_eq!(keys, ["subject", "id"]);
    assert!(matches!(model.table.unmatched(), Unmatched::Drop { .. }));
    let extra = format!("{ENDPOINT}{KAFKA}");
    let pushed = validated(&event_bridge_manifest(DESTINATION, &extra)).await.unwrap();
    assert!(matches!(pushed.table.unmatched(), Unmatched::Reject { .. }));
}

#[tokio::test]
async fn what_contradicts_the_event_bridge_is_refused() {
    let refused = async |fields: &str, extra: &str| {
        let problems = validated(&event_bridge_manifest(fields, extra)).await.err().unwrap();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let with_endpoint = format!("{ENDPOINT}{KAFKA}");
    assert!(refused(QUEUE, &with_endpoint).await.contains("spec.endpoint: must not be set"));
    assert!(refused(DESTINATION, KAFKA).await.contains("what Amazon EventBridge calls"));
    let both = format!("{QUEUE}\n      {DESTINATION}");
    assert!(refused(&both, KAFKA).await.contains("exactly one of sqs and apiDestination"));
    let status = format!("{KAFKA}\n  unmatched: {{action: Reject, status: 400}}");
    assert!(refused(QUEUE, &status).await.contains("spec.unmatched.status"));
    let long = format!("{QUEUE}\n      eventSourceSuffix: {}", "x".repeat(65));
    assert!(refused(&long, KAFKA).await.contains("eventSourceSuffix"));
    let text = event_bridge_manifest(QUEUE, KAFKA)
        .replace("- {eventType: \"v2.users.{id}.presence\"", "- {eventType: x");
    let problems = validated(&text).await.err().unwrap();
    assert_eq!(problems[0].field().to_string(), "spec.routes[0].eventType");
    assert!(problems[0].to_string().contains("\"x\" is none of spec.source.amazonEventBridge.topics"));
}

#[tokio::test]
async fn a_network_policy_lets_relays_reach_the_queue() {
    let extra = format!("{KAFKA}\n  relay: {{networkPolicy: {{}}}}");
    let model = validated(&event_bridge_manifest(QUEUE, &extra)).await.unwrap();
    let objects = built(&model).into_apply_order().unwrap();
    let policy = &find(&objects, "NetworkPolicy")["spec"];
    assert_eq!(policy["ingress"].as_array().unwrap().len(), 1, "only the admin port");
    let ports: Vec<_> =
        policy["egress"][1]["ports"].as_array().unwrap().iter().map(|it| &it["port"]).collect();
    assert_eq!(ports, [443, 9092]);
    assert!(policy["egress"].to_string().contains("169.254.170.23/32"));
}
