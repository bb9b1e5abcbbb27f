//! What the installation's policy refuses, and what becomes of it.

use kube::Config;
use presenceroute_manifest::policy::Policy;
use serde_json::{Value, json};

use crate::operator::{Operator, Options};
use crate::stage::Stage;

async fn operator_under(stage: &Stage, policy: &str) -> Operator {
    let policy = Policy::parse(policy).unwrap();
    Operator::start_with(
        Config::infer().await.unwrap(),
        Some(&stage.namespace),
        Options { policy, ..Options::default() },
    )
}

async fn refusal(stage: &Stage, route: &str) -> String {
    let message = stage.condition(route, "Accepted", "False", "PolicyViolation").await;
    assert_eq!(stage.condition(route, "Ready", "False", "PolicyViolation").await, message);
    message
}

fn calls(stage: &Stage) -> u64 {
    stage.simulator.request_counts().total
}

#[tokio::test]
async fn without_a_policy_addresses_of_the_operator_itself_are_not_called() {
    let stage = Stage::new().await;
    let operator = operator_under(&stage, "").await;
    let port = stage.genesys_url().rsplit_once(':').unwrap().1.to_owned();
    let at = |name: &str, host: &str| {
        let mut route = stage.route(name);
        route["spec"]["genesys"]["apiUrl"] = json!(format!("http://{host}:{port}"));
        route
    };
    for (name, host) in [("by-address", "127.0.0.1"), ("mapped", "[::ffff:127.0.0.1]")] {
        stage.apply(at(name, host)).await;
        let message = refusal(&stage, name).await;
        assert!(message.starts_with("spec.genesys.apiUrl: host "), "{message}");
        assert!(message.contains("operator.policy.genesysHosts"), "{message}");
        assert!(stage.get("Deployment", &format!("{name}-relay")).await.is_none());
    }
    // A name is known to lead here only once it is resolved.
    stage.apply(at("by-name", "localhost")).await;
    let message = stage.condition("by-name", "Registered", "False", "HostNotAllowed").await;
    assert!(
        message.contains("localhost resolves to ") && message.contains("this machine itself"),
        "{message}"
    );
    assert!(message.contains("operator.policy.genesysHosts"), "{message}");
    assert_eq!(calls(&stage), 0);
    stage.end(operator).await;
}

#[tokio::test]
async fn what_the_policy_refuses_is_carried_out_once_it_fits() {
    let stage = Stage::new().await;
    let operator = operator_under(
        &stage,
        &format!(
            "{{genesysHosts: [127.0.0.1], relayImages: ['registry.example.com/*'], annotations: [example.com/owner], \
             namespaceHosts: {{{}: ['*.ours.example.com'], another: [theirs.example.com]}}}}",
            stage.namespace
        ),
    )
    .await;
    let refused: [(&str, Value, Value); 4] = [
        ("spec.endpoint.url", json!({"endpoint": {"url": "https://theirs.example.com/a"}}), json!(null)),
        ("spec.genesys.apiUrl", json!({"genesys": {"apiUrl": "http://10.0.0.1"}}), json!(null)),
        ("spec.relay.image", json!({"relay": {"image": "elsewhere.example.com/relay:1"}}), json!(null)),
        (
            "spec.endpoint.service.annotations[example.com/lb]",
            json!({"endpoint": {"service": {"annotations": {"example.com/lb": "public"}}}}),
            json!({"endpoint": {"service": {"annotations": {"example.com/lb": null, "example.com/owner": "us"}}}}),
        ),
    ];
    for (number, (field, wrong, right)) in refused.into_iter().enumerate() {
        let name = format!("route-{number}");
        let mut route = stage.route(&name);
        route["spec"]["endpoint"]["url"] = json!(format!("https://{name}.ours.example.com/a"));
        let fitting = route["spec"].clone();
        merge(&mut route["spec"], &wrong);
        stage.apply(route).await;
        let message = refusal(&stage, &name).await;
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
        assert!(message.contains("or ask the cluster's administrators to add "), "{message}");
        assert!(stage.get("Deployment", &format!("{name}-relay")).await.is_none());
        assert_eq!(stage.simulator.registrations().len(), number);

        let mut fits = json!({"endpoint": {"url": fitting["endpoint"]["url"]},
            "genesys": {"apiUrl": fitting["genesys"]["apiUrl"]}, "relay": {"image": null}});
        merge(&mut fits, &right);
        stage.patch("PresenceRoute", &name, json!({"spec": fits})).await;
        stage.is_ready(&name).await;
        assert_eq!(stage.simulator.registrations().len(), number + 1);
    }
    stage.end(operator).await;
}

/// Merges `patch` into `value`, as a JSON merge patch does but for null, which stays.
fn merge(value: &mut Value, patch: &Value) {
    match (value, patch) {
        (Value::Object(value), Value::Object(patch)) => {
            for (key, patch) in patch {
                merge(value.entry(key).or_insert(Value::Null), patch);
            }
        }
        (_, Value::Null) => {}
        (value, patch) => *value = patch.clone(),
    }
}

#[tokio::test]
async fn a_route_that_a_new_policy_refuses_keeps_what_it_has() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("settled")).await;
    stage.is_ready("settled").await;
    operator.stop().await;

    let operator =
        operator_under(&stage, "{genesysHosts: [127.0.0.1], namespaceHosts: {another: ['*.example.com']}}")
            .await;
    let message = refusal(&stage, "settled").await;
    assert!(message.contains("for another namespace"), "{message}");
    assert!(stage.get("Deployment", "settled-relay").await.is_some());
    assert_eq!(stage.simulator.registrations().len(), 1);
    // It can be deleted, and takes its registration with it.
    stage.delete("PresenceRoute", "settled").await;
    stage.is_empty().await;
    assert_eq!(stage.simulator.registrations().len(), 0);
    stage.end(operator).await;
}
