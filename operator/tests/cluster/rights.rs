//! The operator with exactly the rights that the chart grants.

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Config};
use presenceroute_operator::leader::{LEASE_NAME, LeaderElection, Timings};
use serde_json::json;

use crate::api_calls::ApiCalls;
use crate::operator::Operator;
use crate::stage::{MADE_BY, Stage, secret, until};

/// Applies what `helm template` renders with these settings.
pub(crate) fn apply_rights(stage: &Stage, settings: &[&str]) {
    let release = format!("rights-{}", stage.namespace.rsplit('-').next().unwrap());
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/presenceroute");
    let label = format!("commonLabels.{}={}", MADE_BY.0.replace('.', "\\."), MADE_BY.1);
    let mut helm = Command::new("helm");
    helm.args(["template", &release, chart, "--namespace", &stage.namespace, "--set", &label]);
    // A helm that was built from its module would take the cluster for a far older one.
    helm.args(["--kube-version", "1.29.0"]);
    for template in ["operator-serviceaccount", "rbac-operator", "rbac-leader-election"] {
        helm.args(["--show-only", &format!("templates/{template}.yaml")]);
    }
    for setting in settings {
        helm.args(["--set", setting]);
    }
    let rendered = helm.output().expect("helm is on PATH");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let mut kubectl = Command::new("kubectl")
        .args(["apply", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut kubectl.stdin.take().unwrap(), &rendered.stdout).unwrap();
    assert!(kubectl.wait().unwrap().success());
}

/// A client configuration with the identity of the operator's pods.
pub(crate) async fn service_account(stage: &Stage) -> Config {
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let name = until("the ServiceAccount is there", Duration::from_secs(10), async || {
        let accounts = accounts.list(&Default::default()).await.unwrap();
        let mut ours = accounts.items.into_iter().filter_map(|account| account.metadata.name);
        ours.find(|name| name.ends_with("-operator")).ok_or("not yet")
    })
    .await;
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() },
        ..Default::default()
    };
    let answer = accounts.create_token_request(&name, &Default::default(), &request).await.unwrap();
    let mut config = Config::infer().await.unwrap();
    config.auth_info =
        kube::config::AuthInfo { token: Some(answer.status.unwrap().token.into()), ..Default::default() };
    config
}

/// Everything that the operator ever does, once.
async fn a_life(stage: &Stage, operator: &Operator) {
    let mut route = stage.route("life");
    route["spec"]["relay"]["networkPolicy"] = json!({});
    route["spec"]["relay"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 2});
    route["spec"]["endpoint"]["ingress"] = json!({"className": "nginx"});
    stage.apply(route).await;
    stage.is_ready("life").await;
    let less = json!({"spec": {
        "routes": [{"eventType": "presence:state:changed", "topic": "other"}],
        "endpoint": {"ingress": null},
        "relay": {"networkPolicy": null, "autoscaling": null},
    }});
    stage.patch("PresenceRoute", "life", less).await;
    stage.apply(secret("webhook", json!({"secret": "sign-me-otherwise"}))).await;
    operator.is_quiet().await;
    stage.is_ready("life").await;
    stage.delete("PresenceRoute", "life").await;
    stage.is_empty().await;
}

fn assert_nothing_was_forbidden(calls: &ApiCalls) {
    let forbidden: Vec<_> = calls.since(0).into_iter().filter(|call| call.status == 403).collect();
    assert!(forbidden.is_empty(), "{forbidden:#?}");
}

async fn leads_and_gives_the_lease_back(stage: &Stage, config: Config) {
    let calls = ApiCalls::default();
    let election = LeaderElection::new(
        calls.client(config),
        &stage.namespace,
        LEASE_NAME,
        "rights",
        Timings::of(Duration::from_secs(3)),
    );
    let mut leadership = election.acquire(std::future::pending()).await.unwrap();
    // It is renewed in this time.
    assert!(tokio::time::timeout(Duration::from_secs(4), leadership.lost()).await.is_err());
    leadership.release().await;
    let lease = stage.get("Lease", LEASE_NAME).await.unwrap();
    assert_eq!(lease.data["spec"].get("holderIdentity"), None);
    assert_nothing_was_forbidden(&calls);
}

#[tokio::test]
async fn the_charts_role_in_one_namespace_is_enough() {
    let stage = Stage::new().await;
    let namespaces = format!("watchNamespaces={{{}}}", stage.namespace);
    apply_rights(&stage, &["rbac.namespaced=true", &namespaces]);
    let config = service_account(&stage).await;
    let operator = Operator::start(config.clone(), Some(&stage.namespace));
    a_life(&stage, &operator).await;
    assert_nothing_was_forbidden(&operator.calls);
    leads_and_gives_the_lease_back(&stage, config).await;
    stage.end(operator).await;
}

/// Alone, because this operator serves the routes of all namespaces.
#[tokio::test]
async fn the_charts_cluster_role_is_enough() {
    let stage = Stage::alone().await;
    apply_rights(&stage, &[]);
    let operator = Operator::start(service_account(&stage).await, None);
    a_life(&stage, &operator).await;
    assert_nothing_was_forbidden(&operator.calls);
    stage.end(operator).await;
}
