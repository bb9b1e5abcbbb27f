//! Routes whose events come by Amazon EventBridge: the integration at Genesys Cloud, and what the status says of it.

use std::time::Duration;

use kube::ResourceExt;
use presenceroute_core::genesys_api::{IntegrationSpec, TokenRequest};
use presenceroute_core::relay_config::RelayConfig;
use presenceroute_crds::status::{IntegrationStatus, SigningPhase};
use presenceroute_genesys::{Access, DesiredIntegration, Genesys, Integrations};
use presenceroute_operator::finalizer::FINALIZER;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::stage::{Stage, secret, until};

const PRESENCE: &str = "v2.users.{id}.presence";

impl Stage {
    /// A route that receives from a queue.
    fn queue_route(&self, name: &str) -> Value {
        let mut route = self.route(name);
        let spec = &mut route["spec"];
        spec["source"] = json!({"amazonEventBridge": {
            "topics": [PRESENCE], "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
            "sqs": {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"},
        }});
        spec["routes"] = json!([{"eventType": PRESENCE, "topic": "presence"}]);
        spec["genesys"]["loginUrl"] = json!(self.genesys_url());
        spec.as_object_mut().unwrap().remove("endpoint");
        route
    }

    /// A route that an API destination calls.
    fn called_route(&self, name: &str) -> Value {
        let mut route = self.queue_route(name);
        let source = route["spec"]["source"]["amazonEventBridge"].as_object_mut().unwrap();
        source.remove("sqs");
        source.insert("apiDestination".into(), json!({"apiKeySecretRef": {"name": "api-key", "key": "key"}}));
        route["spec"]["endpoint"] =
            json!({"url": format!("https://{name}.{}.example.com/presence", self.namespace)});
        route
    }

    /// As people with access to the organisation write.
    fn by_hand(&self) -> Integrations {
        let access = Access {
            api_url: self.genesys_url(),
            login_url: None,
            token_path: "/oauth/token".into(),
            event_bridges_path: "/api/v2/integrations".into(),
            token_request: TokenRequest::Form,
            client_id: "somebody".into(),
            client_secret: SecretString::from("else"),
            ca_pem: None,
        };
        Genesys::new().client(access).unwrap().integrations()
    }

    /// The integration of a route, as the route asks for it.
    fn integration_of(&self, route: &str) -> DesiredIntegration {
        let suffix = format!("{}-{route}", self.namespace);
        DesiredIntegration {
            spec: IntegrationSpec {
                name: suffix.clone(),
                event_source_suffix: suffix,
                aws_account_id: "123456789012".into(),
                aws_region: "eu-west-1".into(),
                topics: vec![PRESENCE.into()],
                enabled: true,
            },
            owner: format!("{}/{route}", self.namespace),
        }
    }

    async fn integration_status(&self, route: &str) -> IntegrationStatus {
        let status = self.routes().get(route).await.unwrap().status.unwrap();
        status.integration().unwrap().clone()
    }

    /// Another secret of the same OAuth client: the integration is verified with it at once.
    async fn looks_again(&self, client_secret: &str) {
        self.apply(secret("oauth", json!({"clientId": "client", "clientSecret": client_secret}))).await;
    }
}

#[tokio::test]
async fn an_integration_is_made_repaired_suspended_and_deleted() {
    let stage = Stage::new().await;
    stage.apply(stage.queue_route("one")).await;
    let operator = stage.operator().await;
    stage.is_ready("one").await;
    let [there] = stage.simulator.integrations().try_into().unwrap();
    let source = there.event_source.unwrap();
    let message = stage.condition("one", "Registered", "True", "Registered").await;
    assert!(message.contains(&source) && message.contains("event bus"), "{message}");
    stage.condition("one", "EndpointExposed", "True", "NotNeeded").await;
    let status = stage.integration_status("one").await;
    assert_eq!(status.event_source_name.as_deref(), Some(source.as_str()));
    assert_eq!((status.id, status.reported_state.as_deref()), (Some(there.id.to_string()), Some("ACTIVE")));
    assert!(
        stage.get("Service", "one-relay").await.is_none()
            && stage.get("Secret", "one-signing").await.is_none()
    );

    let mut edited = stage.integration_of("one");
    edited.spec.topics = vec!["v2.users.{id}.station".into()];
    stage.by_hand().configure(&there.id.to_string(), &edited).await.unwrap().unwrap();
    stage.looks_again("second").await;
    until("the drift is repaired", Duration::from_secs(30), async || {
        let [there] = stage.simulator.integrations().try_into().unwrap();
        let topics = there.properties.unwrap().event_filter;
        if topics == [PRESENCE] { Ok(()) } else { Err(topics) }
    })
    .await;

    stage.patch("PresenceRoute", "one", json!({"spec": {"suspend": true}})).await;
    stage.condition("one", "Registered", "False", "Suspended").await;
    assert!(!stage.simulator.integrations()[0].enabled);
    stage.patch("PresenceRoute", "one", json!({"spec": {"suspend": false}})).await;
    stage.is_ready("one").await;
    assert!(stage.simulator.integrations()[0].enabled);

    stage.delete("PresenceRoute", "one").await;
    stage.is_empty().await;
    assert!(stage.simulator.integrations().is_empty());
    stage.end(operator).await;
}

#[tokio::test]
async fn the_integration_comes_before_the_queue_can_be_read() {
    let stage = Stage::new().await;
    let refusal = "AccessDenied: arn:aws:iam::123456789012:role/presence may not sqs:ReceiveMessage";
    stage.relays.cannot_read_queue(Some(refusal));
    stage.apply(stage.queue_route("one")).await;
    let operator = stage.operator().await;
    let message = stage.condition("one", "RelayAvailable", "False", "QueueUnreadable").await;
    assert!(message.contains(refusal), "{message}");
    // The event source has to be there before the bus, its rule and the queue can be.
    stage.condition("one", "Registered", "True", "Registered").await;
    stage.condition("one", "Ready", "False", "QueueUnreadable").await;
    stage.relays.cannot_read_queue(None);
    stage.is_ready("one").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn a_failed_integration_is_reported_until_it_is_active() {
    let stage = Stage::new().await;
    stage.simulator.fail_integrations(Some("the AWS account does not exist".into()));
    stage.apply(stage.queue_route("one")).await;
    let operator = stage.operator().await;
    let message = stage.condition("one", "Registered", "False", "IntegrationFailed").await;
    assert!(message.contains("the AWS account does not exist"), "{message}");
    assert_eq!(stage.integration_status("one").await.reported_state.as_deref(), Some("ERROR"));
    stage.simulator.fail_integrations(None);
    // It is looked at again without any edit.
    stage.is_ready("one").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn an_external_integration_is_reported_and_never_changed() {
    let stage = Stage::new().await;
    let mut route = stage.queue_route("one");
    route["spec"]["source"]["amazonEventBridge"]["integration"] = json!("External");
    stage.apply(route).await;
    let operator = stage.operator().await;
    stage.condition("one", "Registered", "False", "IntegrationMissing").await;
    let mut theirs = stage.integration_of("one");
    theirs.owner = "the network team".into();
    theirs.spec.aws_region = "us-east-1".into();
    let integrations = stage.by_hand();
    let id = integrations.create("by Terraform").await.unwrap().id;
    integrations.configure(&id, &theirs).await.unwrap().unwrap();
    integrations.set_enabled(&id, true).await.unwrap().unwrap();
    stage.looks_again("second").await;
    let message = stage.condition("one", "Registered", "False", "IntegrationDiffers").await;
    assert!(message.contains("awsAccountRegion"), "{message}");
    theirs.spec.aws_region = "eu-west-1".into();
    integrations.configure(&id, &theirs).await.unwrap().unwrap();
    stage.looks_again("third").await;
    stage.is_ready("one").await;
    assert_eq!(stage.integration_status("one").await.id, Some(id));
    let route = stage.routes().get("one").await.unwrap();
    assert!(!route.finalizers().iter().any(|finalizer| finalizer == FINALIZER));
    assert!(stage.get("Secret", "one-deregistration").await.is_none(), "nothing will have to be removed");
    stage.delete("PresenceRoute", "one").await;
    stage.is_empty().await;
    let [there] = stage.simulator.integrations().try_into().unwrap();
    assert_eq!((there.config_version, there.enabled), (3, true));
    stage.end(operator).await;
}

#[tokio::test]
async fn another_owners_integration_is_in_conflict() {
    let stage = Stage::new().await;
    let mut theirs = stage.integration_of("one");
    theirs.owner = "another cluster".into();
    let integrations = stage.by_hand();
    let id = integrations.create(&theirs.spec.name).await.unwrap().id;
    integrations.configure(&id, &theirs).await.unwrap().unwrap();
    stage.apply(stage.queue_route("one")).await;
    let operator = stage.operator().await;
    stage.condition("one", "Registered", "False", "Contested").await;
    stage.delete("PresenceRoute", "one").await;
    stage.is_empty().await;
    let [there] = stage.simulator.integrations().try_into().unwrap();
    assert_eq!((there.id.to_string(), there.config_version, there.enabled), (id, 2, false));
    stage.end(operator).await;
}

#[tokio::test]
async fn the_next_operator_finishes_an_integration() {
    let stage = Stage::new().await;
    let fault = json!([{"match": {"method": "PUT", "path": "/api/v2/integrations"}, "do": {"status": 500}}]);
    stage.simulator.set_faults(serde_json::from_value(fault).unwrap());
    stage.apply(stage.queue_route("one")).await;
    let operator = stage.operator().await;
    stage.condition("one", "Registered", "False", "ServerError").await;
    operator.stop().await;
    let [begun] = stage.simulator.integrations().try_into().unwrap();
    assert!(begun.properties.is_none());
    stage.simulator.set_faults(Vec::new());
    let operator = stage.operator().await;
    stage.is_ready("one").await;
    let [there] = stage.simulator.integrations().try_into().unwrap();
    assert_eq!(there.id, begun.id);
    stage.end(operator).await;
}

#[tokio::test]
async fn a_new_url_of_an_api_destination_is_served_beside_the_former() {
    let stage = Stage::new().await;
    let mut route = stage.called_route("one");
    stage.apply(secret("api-key", json!({"key": "the-first-api-key"}))).await;
    stage.apply(route.clone()).await;
    let operator = stage.operator().await;
    stage.is_ready("one").await;
    let url = format!("https://one.{}.example.com/another", stage.namespace);
    route["spec"]["endpoint"]["url"] = json!(url);
    stage.apply(route).await;
    let message = stage.condition("one", "Registered", "True", "ApiDestinationUrlPending").await;
    assert!(message.contains(&url), "{message}");
    stage.is_ready("one").await;
    let map = stage.get("ConfigMap", "one-relay").await.unwrap();
    let config: RelayConfig =
        serde_saphyr::from_str(map.data["data"]["relay.yaml"].as_str().unwrap()).unwrap();
    assert_eq!((config.path.as_str(), config.former_paths), ("/another", vec!["/presence".to_owned()]));
    stage.end(operator).await;
}

#[tokio::test]
async fn a_new_api_key_waits_for_a_person_in_aws() {
    let stage = Stage::new().await;
    stage.apply(secret("api-key", json!({"key": "the-first-api-key"}))).await;
    stage.apply(stage.called_route("one")).await;
    let operator = stage.operator().await;
    stage.is_ready("one").await;
    let phase = async |phase: SigningPhase| {
        until(&format!("the rotation is {phase:?}"), Duration::from_secs(30), async || {
            let signing = stage.routes().get("one").await.unwrap().status.unwrap().signing.unwrap();
            if signing.phase == phase { Ok(()) } else { Err(signing) }
        })
        .await;
    };
    phase(SigningPhase::Stable).await;

    stage.apply(secret("api-key", json!({"key": "the-second-api-key"}))).await;
    let message = stage.condition("one", "Registered", "True", "ApiKeyPending").await;
    assert!(message.contains("give it to the connection"), "{message}");
    phase(SigningPhase::Registering).await;
    stage.is_ready("one").await;
    stage.relays.senders_use_every_secret(true);
    stage.condition("one", "Registered", "True", "Registered").await;
    // The grace period of these tests is a second.
    phase(SigningPhase::Stable).await;
    stage.end(operator).await;
}
