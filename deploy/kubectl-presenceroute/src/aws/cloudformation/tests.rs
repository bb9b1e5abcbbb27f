use serde_json::Value;

use super::render;
use crate::aws::identity::CredentialSource;
use crate::aws::model::tests::{EVENT_SOURCE, SQS, api_destination_manifest, model};

fn rendered(manifest: &str, event_source: Option<&str>, identity: Option<CredentialSource>) -> String {
    render(&model(manifest, event_source, identity).unwrap()).unwrap()
}

fn template(manifest: &str, event_source: Option<&str>, identity: Option<CredentialSource>) -> Value {
    serde_saphyr::from_str(&rendered(manifest, event_source, identity)).unwrap()
}

/// Everything that a template says at the places where policies and patterns stand.
fn properties<'t>(template: &'t Value, resource: &str) -> &'t Value {
    &template["Resources"][resource]["Properties"]
}

#[test]
fn the_rule_has_the_exact_source_and_topics() {
    let template = template(SQS, Some(EVENT_SOURCE), None);
    let rule = properties(&template, "Rule");
    assert_eq!(rule["EventPattern"]["source"], serde_json::json!([EVENT_SOURCE]));
    let topics = serde_json::json!(["v2.users.{id}.presence", "v2.users.{id}.routingStatus"]);
    assert_eq!(rule["EventPattern"]["detail-type"], topics);
    let bus = properties(&template, "EventBus");
    assert_eq!((&bus["Name"], &bus["EventSourceName"]), (&EVENT_SOURCE.into(), &EVENT_SOURCE.into()));
    assert!(template["Parameters"].get("EventSourceName").is_none());
    let target = &rule["Targets"][0];
    assert_eq!(target["RetryPolicy"]["MaximumEventAgeInSeconds"], 86_400);
    assert_eq!(target["RetryPolicy"]["MaximumRetryAttempts"], 185);
    assert!(target.get("RoleArn").is_none(), "a queue has a policy instead");
}

#[test]
fn an_unknown_event_source_is_a_parameter_of_its_suffix() {
    let text = rendered(SQS, None, None);
    let template: Value = serde_saphyr::from_str(&text).unwrap();
    let pattern = template["Parameters"]["EventSourceName"]["AllowedPattern"].as_str().unwrap();
    assert_eq!(pattern, "^aws[.]partner/genesys[.]com/cloud/[A-Za-z0-9-]+/presence-contact-centre$");
    assert_eq!(properties(&template, "Rule")["EventPattern"]["source"][0]["Ref"], "EventSourceName");
    assert!(text.contains("--parameter-overrides EventSourceName=... ClusterName=..."), "{text}");
}

#[test]
fn only_the_rule_sends_and_only_the_relay_reads() {
    let template = template(SQS, Some(EVENT_SOURCE), Some(CredentialSource::None));
    for queue in ["QueuePolicy", "DeadLetterQueuePolicy"] {
        let statement = &properties(&template, queue)["PolicyDocument"]["Statement"][0];
        assert_eq!(statement["Principal"]["Service"], "events.amazonaws.com");
        let rule = "arn:${AWS::Partition}:events:eu-west-1:123456789012:rule/${EventBus}/presenceroute-presence-contact-centre";
        assert_eq!(statement["Condition"]["ArnEquals"]["aws:SourceArn"]["Fn::Sub"], rule);
    }
    let statement = &properties(&template, "ReaderPolicy")["PolicyDocument"]["Statement"][0];
    assert_eq!(statement["Resource"]["Fn::GetAtt"], serde_json::json!(["Queue", "Arn"]));
    let actions =
        serde_json::json!(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]);
    assert_eq!(statement["Action"], actions);
    assert!(template["Resources"].get("RelayRole").is_none());
}

#[test]
fn both_queues_keep_messages_for_14_days() {
    let template = template(SQS, Some(EVENT_SOURCE), None);
    for queue in ["Queue", "DeadLetterQueue"] {
        assert_eq!(properties(&template, queue)["MessageRetentionPeriod"], 14 * 24 * 60 * 60);
    }
    let redrive = &properties(&template, "Queue")["RedrivePolicy"];
    assert_eq!(redrive["deadLetterTargetArn"]["Fn::GetAtt"][0], "DeadLetterQueue");
    assert_eq!(redrive["maxReceiveCount"], 100);
}

#[test]
fn irsa_trusts_the_relays_service_account_alone() {
    let template = template(SQS, Some(EVENT_SOURCE), Some(CredentialSource::Irsa));
    let text = properties(&template, "RelayRole")["AssumeRolePolicyDocument"]["Fn::Sub"].as_str().unwrap();
    let trust: Value = serde_json::from_str(text).unwrap();
    let statement = &trust["Statement"][0];
    assert_eq!(statement["Action"], serde_json::json!(["sts:AssumeRoleWithWebIdentity"]));
    let equal = &statement["Condition"]["StringEquals"];
    assert_eq!(equal["${OidcProvider}:sub"], "system:serviceaccount:presence:contact-centre-relay");
    assert_eq!(equal["${OidcProvider}:aud"], "sts.amazonaws.com");
}

#[test]
fn pod_identity_trusts_the_relays_service_account_alone() {
    let template = template(SQS, Some(EVENT_SOURCE), Some(CredentialSource::PodIdentity));
    let statement = &properties(&template, "RelayRole")["AssumeRolePolicyDocument"]["Statement"][0];
    assert_eq!(statement["Principal"]["Service"], "pods.eks.amazonaws.com");
    let equal = &statement["Condition"]["StringEquals"];
    assert_eq!(equal["aws:RequestTag/kubernetes-service-account"], "contact-centre-relay");
    let association = properties(&template, "PodIdentityAssociation");
    assert_eq!(
        (&association["Namespace"], &association["ServiceAccount"]),
        (&"presence".into(), &"contact-centre-relay".into())
    );
}

#[test]
fn the_api_key_is_a_parameter_and_never_shown() {
    let template = template(&api_destination_manifest(), Some(EVENT_SOURCE), None);
    assert_eq!(template["Parameters"]["ApiKey"]["NoEcho"], true);
    assert!(template["Parameters"]["ApiKey"].get("Default").is_none());
    let key = &properties(&template, "Connection")["AuthParameters"]["ApiKeyAuthParameters"];
    assert_eq!((&key["ApiKeyName"], &key["ApiKeyValue"]["Ref"]), (&"X-Api-Key".into(), &"ApiKey".into()));
    let outputs = template["Outputs"].to_string();
    assert!(!outputs.contains("\"ApiKey\""), "{outputs}");
}

#[test]
fn an_api_destination_has_a_role_for_itself_alone() {
    let template = template(&api_destination_manifest(), Some(EVENT_SOURCE), None);
    let destination = properties(&template, "ApiDestination");
    assert_eq!(destination["InvocationEndpoint"], "https://presence.example.com/eventbridge/presence");
    assert_eq!(destination["HttpMethod"], "POST");
    let statement = &properties(&template, "InvocationRole")["Policies"][0]["PolicyDocument"]["Statement"][0];
    assert_eq!(statement["Action"], serde_json::json!(["events:InvokeApiDestination"]));
    assert_eq!(statement["Resource"]["Fn::GetAtt"][0], "ApiDestination");
    let target = &properties(&template, "Rule")["Targets"][0];
    assert_eq!(target["RoleArn"]["Fn::GetAtt"][0], "InvocationRole");
    assert_eq!(target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0], "DeadLetterQueue");
    assert!(template["Resources"].get("Queue").is_none());
}

#[test]
fn values_that_yaml_could_mistake_are_quoted() {
    let text = rendered(SQS, Some(EVENT_SOURCE), Some(CredentialSource::None));
    assert!(text.contains("Version: \"2012-10-17\"") || text.contains("Version: '2012-10-17'"), "{text}");
}
