use serde_json::{Value, json};

use super::*;

/// A route with a queue.
pub(in crate::aws) const SQS: &str = r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: contact-centre, namespace: presence}
spec:
  genesys: {region: mypurecloud.ie, credentialsSecretRef: {name: genesys-oauth}}
  source:
    amazonEventBridge:
      topics: ["v2.users.{id}.presence", "v2.users.{id}.routingStatus"]
      awsAccountId: "123456789012"
      awsRegion: eu-west-1
      sqs: {queueUrl: "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"}
  routes:
  - {eventType: "v2.users.{id}.presence", topic: gen-presence-state}
  - {eventType: "v2.users.{id}.routingStatus", topic: gen-presence-status}
  kafka: {bootstrapServers: ["kafka:9092"]}
"#;

/// The part of it that differs with an API destination.
const QUEUE: &str = r#"sqs: {queueUrl: "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"}"#;

/// A route with an API destination.
pub(in crate::aws) fn api_destination_manifest() -> String {
    SQS.replace(QUEUE, "apiDestination: {apiKeySecretRef: {name: presence-api-key}}").replace(
        "  routes:\n",
        "  endpoint: {url: \"https://presence.example.com/eventbridge/presence\"}\n  routes:\n",
    )
}

/// The full name of the event source.
pub(in crate::aws) const EVENT_SOURCE: &str =
    "aws.partner/genesys.com/cloud/0aa1b2c3-d4e5-6f70-8192-a3b4c5d6e7f8/presence-contact-centre";

/// The model of a manifest.
pub(in crate::aws) fn model(
    manifest: &str,
    event_source: Option<&str>,
    identity: Option<CredentialSource>,
) -> Result<AwsModel, AwsModelError> {
    let route = crate::manifest_file::only("route.yaml", manifest).unwrap().unwrap();
    AwsModel::of(&route, "presence", event_source, identity)
}

/// A manifest with a part of the spec changed, by a JSON pointer below `spec`.
fn changed(manifest: &str, pointer: &str, value: Value) -> String {
    let mut object: Value = serde_saphyr::from_str(manifest).unwrap();
    let (around, field) = pointer.rsplit_once('/').unwrap();
    object["spec"].pointer_mut(around).unwrap()[field] = value;
    object.to_string()
}

fn queue_of(manifest: &str, identity: Option<CredentialSource>) -> Queue {
    match model(manifest, None, identity).unwrap().target {
        Target::Queue(queue) => queue,
        other => panic!("{other:?}"),
    }
}

fn refusal(manifest: &str) -> String {
    model(manifest, None, None).unwrap_err().to_string()
}

#[test]
fn names_come_from_the_queue_url_and_the_suffix() {
    let model = model(SQS, None, None).unwrap();
    assert_eq!(model.name, "presenceroute-presence-contact-centre");
    assert_eq!(model.dead_letters, "presence-dead-letters");
    assert_eq!(model.event_source, EventSource::Unknown { suffix: "presence-contact-centre".into() });
    let queue = queue_of(SQS, None);
    assert_eq!(queue.name, "presence");
    let account = ServiceAccount { namespace: "presence".into(), name: "contact-centre-relay".into() };
    assert_eq!(queue.service_account, account);
}

#[test]
fn an_event_source_of_another_suffix_is_not_this_routes() {
    let known = model(SQS, Some(EVENT_SOURCE), None).unwrap().event_source;
    assert_eq!(known, EventSource::Known(EVENT_SOURCE.into()));
    let former = EVENT_SOURCE.replace("contact-centre", "former");
    let unknown = model(SQS, Some(&former), None).unwrap().event_source;
    assert_eq!(unknown, EventSource::Unknown { suffix: "presence-contact-centre".into() });
}

#[test]
fn every_name_fits_however_long_the_suffix_is() {
    let long = changed(SQS, "/source/amazonEventBridge/eventSourceSuffix", json!("s.".repeat(32)));
    let long = long.replace("/presence\"", &format!("/{}\"", "q".repeat(80)));
    let model = model(&long, None, None).unwrap();
    assert!(
        model.name.len() <= 64 && model.dead_letters.len() <= 80 && !model.stack.contains('.'),
        "{model:?}"
    );
}

#[test]
fn the_identity_is_the_one_that_the_manifest_is_written_for() {
    let annotated = |arn: &str| {
        changed(SQS, "/relay", json!({"serviceAccount": {"annotations": {ROLE_ANNOTATION: arn}}}))
    };
    let queue = queue_of(&annotated("arn:aws:iam::123456789012:role/eks/presence-relay"), None);
    assert_eq!(queue.identity, CredentialSource::Irsa);
    assert_eq!((queue.role.path.as_str(), queue.role.name.as_str()), ("/eks/", "presence-relay"));
    assert_eq!(queue_of(SQS, None).identity, CredentialSource::PodIdentity);
    let keyed = changed(SQS, "/source/amazonEventBridge/sqs/credentialsSecretRef", json!({"name": "aws"}));
    assert_eq!(queue_of(&keyed, None).identity, CredentialSource::None);
    let chosen = queue_of(SQS, Some(CredentialSource::Irsa));
    assert!(!chosen.is_annotated && chosen.role == Role::called("presenceroute-presence-contact-centre"));
    let refused = refusal(&annotated("arn:aws:iam::210987654321:role/presence-relay"));
    assert!(refused.contains("another account than 123456789012"), "{refused}");
}

#[test]
fn a_queue_that_the_rule_cannot_reach_is_refused() {
    let with_url = |url: &str| changed(SQS, "/source/amazonEventBridge/sqs/queueUrl", json!(url));
    for (manifest, complaint) in [
        (with_url("https://sqs.eu-west-1.amazonaws.com/210987654321/presence"), "account 210987654321"),
        (with_url("https://sqs.us-east-1.amazonaws.com/123456789012/presence"), "region us-east-1"),
        (with_url("https://sqs.eu-west-1.amazonaws.com/presence"), "is not the URL of a queue"),
        (changed(SQS, "/source/amazonEventBridge/sqs/region", json!("us-east-1")), "region us-east-1"),
    ] {
        let refused = refusal(&manifest);
        assert!(refused.contains(complaint), "{refused}");
    }
    // A stand-in says nothing of its region.
    assert!(model(&with_url("http://127.0.0.1:5000/123456789012/presence"), None, None).is_ok());
}

#[test]
fn an_endpoint_that_is_not_https_is_refused() {
    let manifest = api_destination_manifest();
    let Target::ApiDestination(destination) = model(&manifest, None, None).unwrap().target else { panic!() };
    assert_eq!(destination.header, "X-Api-Key");
    let refused = refusal(&manifest.replace("https://presence.", "http://presence."));
    assert!(refused.contains("https only"), "{refused}");
    let refused = model(&manifest, None, Some(CredentialSource::Irsa)).unwrap_err();
    assert!(matches!(refused, AwsModelError::IdentityOfApiDestination));
}

#[test]
fn another_source_needs_nothing_in_aws() {
    let quickstart = include_str!("../../../../examples/quickstart.yaml");
    let refused = refusal(quickstart);
    assert!(refused.contains("\"presence/contact-centre\" needs nothing in AWS"), "{refused}");
}

#[test]
fn more_topics_than_a_rule_takes_are_refused() {
    let topics = |count: usize| -> Vec<String> {
        (0..count).map(|number| format!("v2.users.{{id}}.{}{number:03}", "a".repeat(80))).collect()
    };
    let with = |topics: Vec<String>| {
        let routes: Vec<_> = topics.iter().map(|topic| json!({"eventType": topic, "topic": "t"})).collect();
        let manifest = changed(SQS, "/source/amazonEventBridge/topics", json!(topics));
        changed(&manifest, "/routes", json!(routes))
    };
    assert!(model(&with(topics(19)), Some(EVENT_SOURCE), None).is_ok());
    let refused = model(&with(topics(20)), Some(EVENT_SOURCE), None).unwrap_err();
    assert!(matches!(refused, AwsModelError::Pattern(length) if length > 2048), "{refused}");
}

#[test]
fn the_pattern_that_is_checked_is_the_one_that_is_written() {
    let pattern = EventPattern {
        source: [EVENT_SOURCE],
        detail_type: vec!["v2.users.{id}.presence".into(), "v2.users.{id}.routingStatus".into()],
    };
    let written = serde_json::to_string(&pattern).unwrap();
    // The check counts a comma after each value.
    let counted = pattern_length(EVENT_SOURCE.len(), &pattern.detail_type);
    assert_eq!(counted, written.len() + 2);
}
