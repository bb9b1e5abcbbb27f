//! The Terraform configurations.

use std::collections::BTreeMap;

use libtest_mimic::{Completion, Failed};
use presenceroute_e2e::aws::{self, ACCOUNT, Credentials, Terraform};
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same};
use serde_json::{Value, json};

use crate::cloudformation::{received, send};
use crate::printed::{EVENT_SOURCE, Format, QUEUE, TOPIC, Variant};

/// The name of what the manifest gives no name.
const NAME: &str = "presenceroute-presence-contact-centre";

/// Runs a proof with Terraform, where there is one.
fn with_terraform(
    directory: &str,
    variant: Variant,
    proof: impl FnOnce(&Terraform) -> Outcome,
) -> Result<Completion, Failed> {
    match Terraform::with(directory, &variant.printed(Format::Terraform)?)? {
        Err(why) => Ok(Completion::ignored_with(why)),
        Ok(terraform) => {
            proof(&terraform)?;
            Ok(Completion::Completed)
        }
    }
}

pub(crate) fn is_valid(variant: Variant) -> Result<Completion, Failed> {
    with_terraform("valid", variant, |terraform| {
        let answer = terraform.run(&["validate", "-json"])?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| Failure(error.to_string()))?;
        ensure(answer["valid"] == true && answer["diagnostics"] == json!([]), || answer.to_string())
    })
}

/// Applies the configuration.
fn applied(terraform: &Terraform, variables: &BTreeMap<&str, &str>) -> Outcome<Credentials> {
    aws::reset()?;
    let person = Credentials::unchecked();
    person.aws(&["events", "create-partner-event-source", "--name", EVENT_SOURCE, "--account", ACCOUNT])?;
    terraform.run_with(&["apply", "-auto-approve", "-input=false", "-no-color"], variables)?;
    Ok(person)
}

/// The only target of the rule.
fn target(person: &Credentials) -> Outcome<Value> {
    let targets =
        person.aws(&["events", "list-targets-by-rule", "--rule", NAME, "--event-bus-name", EVENT_SOURCE])?;
    let target = &targets["Targets"][0];
    let retries = json!({"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185});
    ensure_same("the retry policy", &target["RetryPolicy"], &retries)?;
    Ok(target.clone())
}

/// The policy of a queue, and its attributes.
fn queue(person: &Credentials, name: &str) -> Outcome<(Value, Value)> {
    let url = person.aws(&["sqs", "get-queue-url", "--queue-name", name])?;
    let url = url["QueueUrl"].as_str().unwrap_or_default();
    let answer =
        person.aws(&["sqs", "get-queue-attributes", "--attribute-names", "All", "--queue-url", url])?;
    let attributes = answer["Attributes"].clone();
    ensure_same("the retention", &attributes["MessageRetentionPeriod"], &json!("1209600"))?;
    let policy = serde_json::from_str(attributes["Policy"].as_str().unwrap_or_default());
    Ok((policy.map_err(|error| Failure(format!("the policy of {name}: {error}")))?, attributes))
}

/// Only this route's rule may send to a queue.
fn only_the_rule_sends(policy: &Value) -> Outcome {
    let statement = match &policy["Statement"] {
        Value::Array(statements) => statements[0].clone(),
        statement => statement.clone(),
    };
    let rule = format!("arn:aws:events:{}:{ACCOUNT}:rule/{EVENT_SOURCE}/{NAME}", aws::REGION);
    ensure_same("the sender", &statement["Condition"]["ArnEquals"]["aws:SourceArn"], &json!(rule))
}

pub(crate) fn applies_queue() -> Result<Completion, Failed> {
    with_terraform("queue", Variant::Irsa, |terraform| {
        let variables =
            BTreeMap::from([("event_source_name", EVENT_SOURCE), ("oidc_provider", "oidc.example.com/id/1")]);
        let person = applied(terraform, &variables)?;
        let target = target(&person)?;
        let dead_letters = format!("arn:aws:sqs:{}:{ACCOUNT}:{QUEUE}-dead-letters", aws::REGION);
        ensure_same(
            "the rule's dead-letter queue",
            &target["DeadLetterConfig"]["Arn"],
            &json!(dead_letters),
        )?;
        let (policy, attributes) = queue(&person, QUEUE)?;
        only_the_rule_sends(&policy)?;
        let redrive: Value = serde_json::from_str(attributes["RedrivePolicy"].as_str().unwrap_or_default())
            .map_err(|error| Failure(format!("the redrive policy: {error}")))?;
        ensure_same("the dead-letter queue", &redrive["deadLetterTargetArn"], &json!(dead_letters))?;
        only_the_rule_sends(&queue(&person, &format!("{QUEUE}-dead-letters"))?.0)?;
        send(&person, EVENT_SOURCE, TOPIC, "agent-1")?;
        let url = terraform.run_with(&["output", "-raw", "queue_url"], &variables)?;
        ensure_same("messages", &received(&person, &url)?.len(), &1)
    })
}

pub(crate) fn applies_api_destination() -> Result<Completion, Failed> {
    with_terraform("api-destination", Variant::ApiDestination, |terraform| {
        let key = "0123456789abcdef0123456789abcdef";
        let variables = BTreeMap::from([("event_source_name", EVENT_SOURCE), ("api_key", key)]);
        let person = applied(terraform, &variables)?;
        // The exit code is 2 where there is a difference.
        terraform.run_with(&["plan", "-detailed-exitcode", "-input=false", "-no-color"], &variables)?;
        let target = target(&person)?;
        ensure_same("the role", &target["RoleArn"], &json!(format!("arn:aws:iam::{ACCOUNT}:role/{NAME}")))?;
        let destination = person.aws(&["events", "describe-api-destination", "--name", NAME])?;
        let url = "https://presence.example.com/eventbridge/presence";
        ensure_same("the URL", &destination["InvocationEndpoint"], &json!(url))?;
        ensure_same("the rate", &destination["InvocationRateLimitPerSecond"], &json!(300))?;
        ensure_same("the target", &target["Arn"], &destination["ApiDestinationArn"])?;
        let connection = person.aws(&["events", "describe-connection", "--name", NAME])?;
        let header = &connection["AuthParameters"]["ApiKeyAuthParameters"]["ApiKeyName"];
        ensure_same("the header", header, &json!("X-Api-Key"))?;
        only_the_rule_sends(&queue(&person, &format!("{NAME}-dead-letters"))?.0)
    })
}
