//! A registered route stays ready while its registration cannot be verified, and says so.

use serde_json::{Value, json};

use crate::stage::{Stage, secret, until};

const REGISTRATIONS: &str = "/api/v2/analytics/events/eventbridges";

impl Stage {
    fn answers(&self, method: &str, path: &str, status: u16) {
        let rule = json!([{"match": {"method": method, "path": path}, "do": {"status": status}}]);
        self.simulator.set_faults(serde_json::from_value(rule).unwrap());
    }

    /// Another secret of the same OAuth client: the registration is verified with it at once.
    async fn is_verified_with(&self, client_secret: &str) {
        self.apply(secret("oauth", json!({"clientSecret": client_secret}))).await;
    }
}

#[tokio::test]
async fn a_route_stays_ready_while_its_oauth_secret_lacks_a_key() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("kept")).await;
    stage.is_ready("kept").await;
    let removed = json!({"data": {"clientSecret": Value::Null}});
    stage.patch("Secret", "oauth", removed).await;
    let message = stage.condition("kept", "Registered", "Unknown", "SecretsUnresolved").await;
    assert!(message.contains("cannot be verified now") && message.contains("clientSecret"), "{message}");
    stage.condition("kept", "SecretsResolved", "False", "SecretsUnresolved").await;
    let ready = stage.condition("kept", "Ready", "True", "Unverified").await;
    assert!(ready.ends_with(&message), "{ready}");
    until("an event warns of it", std::time::Duration::from_secs(10), async || {
        let events = stage.events("kept").await;
        let warns = |event: &&k8s_openapi::api::core::v1::Event| {
            event.type_.as_deref() == Some("Warning") && event.reason.as_deref() == Some("SecretsUnresolved")
        };
        events.iter().find(warns).map(drop).ok_or(events.len())
    })
    .await;

    // Another operator knows no more, and an edit of the routes is live all the same.
    operator.stop().await;
    let operator = stage.operator().await;
    let edit = json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": "other"}]}});
    stage.patch("PresenceRoute", "kept", edit).await;
    stage.condition("kept", "RoutingLive", "True", "Live").await;
    stage.condition("kept", "Ready", "True", "Unverified").await;

    // What was never registered is not ready without the key.
    stage.apply(stage.route("new")).await;
    stage.condition("new", "Ready", "False", "SecretsUnresolved").await;
    stage.condition("new", "Registered", "False", "SecretsUnresolved").await;
    // Nor is what the registration does not have yet.
    let edit =
        json!({"spec": {"source": {"webhook": {"eventTypes": ["presence:state:changed", "presence:new"]}}}});
    stage.patch("PresenceRoute", "kept", edit).await;
    stage.condition("kept", "Ready", "False", "SecretsUnresolved").await;

    stage.is_verified_with("hush").await;
    stage.is_ready("kept").await;
    stage.is_ready("new").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn a_genesys_that_refuses_to_verify_is_told_from_drift() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("seen")).await;
    stage.is_ready("seen").await;
    let unverified = [
        ("POST", "/api/v2/oauth/token", 401, "CredentialsRejected"),
        ("GET", REGISTRATIONS, 403, "Forbidden"),
        ("GET", REGISTRATIONS, 503, "ServerError"),
    ];
    for (method, path, status, reason) in unverified {
        stage.answers(method, path, status);
        stage.is_verified_with(&format!("hush-{reason}")).await;
        stage.condition("seen", "Registered", "Unknown", reason).await;
        stage.condition("seen", "Ready", "True", "Unverified").await;
    }

    // It is gone, and cannot be made again.
    stage.simulator.reset();
    stage.answers("POST", REGISTRATIONS, 403);
    stage.is_verified_with("hush-again").await;
    stage.condition("seen", "Registered", "False", "Forbidden").await;
    stage.condition("seen", "Ready", "False", "Forbidden").await;
    // Once it was seen not to be there, no failure makes it uncertain again.
    stage.answers("GET", REGISTRATIONS, 503);
    stage.is_verified_with("hush-once-more").await;
    stage.condition("seen", "Registered", "False", "ServerError").await;

    stage.simulator.set_faults(Vec::new());
    stage.is_verified_with("hush").await;
    stage.is_ready("seen").await;
    assert_eq!(stage.simulator.registrations().len(), 1);
    stage.end(operator).await;
}
