//! The CloudFormation templates.

use presenceroute_e2e::aws::{self, ACCOUNT, Credentials, REGION};
use presenceroute_e2e::{Failure, Outcome, command, ensure, ensure_same};
use serde_json::{Value, json};

use crate::printed::{EVENT_SOURCE, Format, QUEUE, TOPIC, Variant};

const STACK: &str = "presenceroute-presence-contact-centre";
/// The cluster's OIDC provider.
const OIDC_PROVIDER: &str = "oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF";

/// Whether cfn-lint has nothing to say.
pub(crate) fn is_linted(template: &str) -> Outcome {
    let file = command::file("template.yaml", template)?.display().to_string();
    command::run(&aws::tool("cfn-lint")?, &["--regions", REGION, "--", &file], None).map(drop)
}

/// An account with the event source, and the file with the template.
fn prepared() -> Outcome<(Credentials, String)> {
    aws::reset()?;
    let person = Credentials::unchecked();
    person.aws(&["events", "create-partner-event-source", "--name", EVENT_SOURCE, "--account", ACCOUNT])?;
    let template = Variant::Irsa.printed(Format::CloudFormation)?;
    Ok((person, command::file("template.yaml", &template)?.display().to_string()))
}

/// Deploys the stack as the comment of the template says.
fn deploy(person: &Credentials, file: &str) -> Outcome {
    person.aws(&[
        "cloudformation",
        "deploy",
        "--stack-name",
        STACK,
        "--template-file",
        file,
        "--capabilities",
        "CAPABILITY_NAMED_IAM",
        "--parameter-overrides",
        &format!("EventSourceName={EVENT_SOURCE}"),
        &format!("OidcProvider={OIDC_PROVIDER}"),
    ])?;
    Ok(())
}

/// Creates the stack in one call, so that the stand-in gives its outputs.
fn create(person: &Credentials, file: &str) -> Outcome {
    person.aws(&[
        "cloudformation",
        "create-stack",
        "--stack-name",
        STACK,
        "--template-body",
        &format!("file://{file}"),
        "--capabilities",
        "CAPABILITY_NAMED_IAM",
        "--parameters",
        &format!("ParameterKey=EventSourceName,ParameterValue={EVENT_SOURCE}"),
        &format!("ParameterKey=OidcProvider,ParameterValue={OIDC_PROVIDER}"),
    ])?;
    Ok(())
}

/// An output of the stack.
fn output(person: &Credentials, name: &str) -> Outcome<String> {
    let stacks = person.aws(&["cloudformation", "describe-stacks", "--stack-name", STACK])?;
    let outputs = stacks["Stacks"][0]["Outputs"].as_array().cloned().unwrap_or_default();
    let found = outputs.iter().find(|output| output["OutputKey"] == name);
    let value = found.and_then(|output| output["OutputValue"].as_str());
    value.map(str::to_owned).ok_or_else(|| Failure(format!("the stack has no output {name}: {outputs:?}")))
}

/// Sends an event to the event bus, as Genesys Cloud would.
pub(crate) fn send(person: &Credentials, source: &str, detail_type: &str, user: &str) -> Outcome {
    let detail =
        json!({"topicName": format!("v2.users.{user}.presence"), "eventBody": {"source": "PURECLOUD"}});
    let entries = json!([{
        "EventBusName": EVENT_SOURCE, "Source": source, "DetailType": detail_type, "Detail": detail.to_string(),
    }]);
    let answer = person.aws(&["events", "put-events", "--entries", &entries.to_string()])?;
    ensure_same("events that were refused", &answer["FailedEntryCount"], &json!(0))
}

/// The messages of a queue, as far as one request gives them.
pub(crate) fn received(reader: &Credentials, queue_url: &str) -> Outcome<Vec<Value>> {
    let receive = ["sqs", "receive-message", "--max-number-of-messages", "10", "--queue-url", queue_url];
    let answer = reader.aws(&receive)?;
    Ok(answer["Messages"].as_array().cloned().unwrap_or_default())
}

pub(crate) fn carries_events() -> Outcome {
    let (person, file) = prepared()?;
    deploy(&person, &file)?;
    let queue_url = person.aws(&["sqs", "get-queue-url", "--queue-name", QUEUE])?;
    let queue_url = queue_url["QueueUrl"].as_str().unwrap_or_default();
    // A second integration of the organisation, whose name begins as this one's does.
    send(&person, &format!("{EVENT_SOURCE}-2"), TOPIC, "other-source")?;
    send(&person, EVENT_SOURCE, "v2.users.{id}.activity", "other-topic")?;
    send(&person, EVENT_SOURCE, TOPIC, "agent-1")?;
    let messages = received(&person, queue_url)?;
    ensure_same("messages", &messages.len(), &1)?;
    let envelope: Value = serde_json::from_str(messages[0]["Body"].as_str().unwrap_or_default())
        .map_err(|error| Failure(format!("the message is no envelope: {error}")))?;
    ensure_same("detail-type", &envelope["detail-type"], &json!(TOPIC))?;
    ensure_same("source", &envelope["source"], &json!(EVENT_SOURCE))?;
    ensure_same("topicName", &envelope["detail"]["topicName"], &json!("v2.users.agent-1.presence"))
}

pub(crate) fn role_only_reads() -> Outcome {
    let (person, file) = prepared()?;
    create(&person, &file)?;
    let queue_url = output(&person, "QueueUrl")?;
    ensure(queue_url.ends_with(&format!("/{ACCOUNT}/{QUEUE}")), || queue_url.clone())?;
    let role = output(&person, "RelayRoleArn")?;
    send(&person, EVENT_SOURCE, TOPIC, "agent-1")?;
    let session = person.aws(&[
        "sts",
        "assume-role-with-web-identity",
        "--role-arn",
        &role,
        "--role-session-name",
        "relay",
        "--web-identity-token",
        "token",
    ])?;
    let relay = Credentials::of(&session["Credentials"])?;
    aws::check_credentials(true)?;
    let proven = reads_and_nothing_else(&relay, &queue_url);
    aws::check_credentials(false)?;
    proven
}

fn reads_and_nothing_else(relay: &Credentials, queue_url: &str) -> Outcome {
    let on_queue = |arguments: &[&str]| {
        let arguments: Vec<_> =
            ["sqs"].iter().chain(arguments).chain(&["--queue-url", queue_url]).copied().collect();
        relay.aws(&arguments)
    };
    let messages = received(relay, queue_url)?;
    ensure_same("messages", &messages.len(), &1)?;
    let receipt = messages[0]["ReceiptHandle"].as_str().unwrap_or_default();
    on_queue(&["change-message-visibility", "--visibility-timeout", "60", "--receipt-handle", receipt])?;
    on_queue(&["delete-message", "--receipt-handle", receipt])?;
    for refused in [&["send-message", "--message-body", "x"][..], &["purge-queue"], &["delete-queue"]] {
        match on_queue(refused) {
            Err(Failure(cause)) if cause.contains("AccessDenied") => {}
            Err(failure) => return Err(failure),
            Ok(_) => return Err(Failure(format!("the relay's role may {}", refused[0]))),
        }
    }
    Ok(())
}
