use serde_json::Value;

use super::render;
use crate::aws::identity::CredentialSource;
use crate::aws::model::tests::{EVENT_SOURCE, SQS, api_destination_manifest, model};

fn configuration(manifest: &str, event_source: Option<&str>, identity: Option<CredentialSource>) -> Value {
    let text = render(&model(manifest, event_source, identity).unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn resource<'c>(configuration: &'c Value, type_: &str, label: &str) -> &'c Value {
    &configuration["resource"][type_][label]
}

fn statement<'c>(configuration: &'c Value, label: &str) -> &'c Value {
    &configuration["data"]["aws_iam_policy_document"][label]["statement"]
}

#[test]
fn the_rule_has_the_exact_source_and_topics() {
    let configuration = configuration(SQS, Some(EVENT_SOURCE), None);
    let bus = resource(&configuration, "aws_cloudwatch_event_bus", "presence");
    assert_eq!((&bus["name"], &bus["event_source_name"]), (&EVENT_SOURCE.into(), &EVENT_SOURCE.into()));
    let rule = resource(&configuration, "aws_cloudwatch_event_rule", "presence");
    let pattern = concat!(
        r#"${jsonencode({"source":["${aws_cloudwatch_event_bus.presence.name}"],"#,
        r#""detail-type":["v2.users.{id}.presence","v2.users.{id}.routingStatus"]})}"#
    );
    assert_eq!(rule["event_pattern"], pattern);
    let target = resource(&configuration, "aws_cloudwatch_event_target", "presence");
    assert_eq!(target["retry_policy"]["maximum_event_age_in_seconds"], 86_400);
    assert_eq!(target["retry_policy"]["maximum_retry_attempts"], 185);
    assert_eq!(configuration["variable"]["event_source_name"], Value::Null);
}

#[test]
fn an_unknown_event_source_is_a_variable_of_its_suffix() {
    let configuration = configuration(SQS, None, Some(CredentialSource::None));
    let variable = &configuration["variable"]["event_source_name"];
    let condition = variable["validation"]["condition"].as_str().unwrap();
    assert!(condition.contains("/presence-contact-centre$"), "{condition}");
    let bus = resource(&configuration, "aws_cloudwatch_event_bus", "presence");
    assert_eq!(bus["name"], "${var.event_source_name}");
}

#[test]
fn only_the_rule_sends_and_only_the_relay_reads() {
    let configuration = configuration(SQS, Some(EVENT_SOURCE), Some(CredentialSource::Irsa));
    for queue in ["presence", "dead_letters"] {
        let statement = statement(&configuration, queue);
        assert_eq!(statement["condition"][0]["values"][0], "${aws_cloudwatch_event_rule.presence.arn}");
        assert_eq!(statement["principals"]["identifiers"][0], "events.amazonaws.com");
        let keeps = resource(&configuration, "aws_sqs_queue", queue);
        assert_eq!(keeps["message_retention_seconds"], 14 * 24 * 60 * 60);
    }
    let reading = statement(&configuration, "reader");
    assert_eq!(reading["resources"][0], "${aws_sqs_queue.presence.arn}");
    let trust = statement(&configuration, "relay_trust");
    assert_eq!(trust["condition"][1]["variable"], "${var.oidc_provider}:sub");
    assert_eq!(trust["condition"][1]["values"][0], "system:serviceaccount:presence:contact-centre-relay");
}

#[test]
fn pod_identity_is_associated_with_the_relays_service_account() {
    let configuration = configuration(SQS, Some(EVENT_SOURCE), Some(CredentialSource::PodIdentity));
    let association = resource(&configuration, "aws_eks_pod_identity_association", "relay");
    assert_eq!(association["service_account"], "contact-centre-relay");
    assert_eq!(association["namespace"], "presence");
}

#[test]
fn the_api_key_is_a_sensitive_variable_without_default() {
    let configuration = configuration(&api_destination_manifest(), Some(EVENT_SOURCE), None);
    let variable = &configuration["variable"]["api_key"];
    assert_eq!((&variable["sensitive"], &variable["default"]), (&true.into(), &Value::Null));
    let connection = resource(&configuration, "aws_cloudwatch_event_connection", "presence");
    assert_eq!(connection["auth_parameters"]["api_key"]["value"], "${var.api_key}");
    let invoking = statement(&configuration, "invocation");
    assert_eq!(invoking["resources"][0], "${aws_cloudwatch_event_api_destination.presence.arn}");
    assert_eq!(configuration["resource"].get("aws_iam_role_policy_attachment"), None);
}

#[test]
fn text_of_the_manifest_is_never_evaluated() {
    let manifest = api_destination_manifest().replace("eventbridge/presence", "a$${b}");
    let configuration = configuration(&manifest.replace("$$", "%"), Some(EVENT_SOURCE), None);
    let destination = resource(&configuration, "aws_cloudwatch_event_api_destination", "presence");
    assert_eq!(destination["invocation_endpoint"], "https://presence.example.com/a%%{b}");
}
