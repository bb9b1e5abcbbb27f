//! The Terraform configuration, in [JSON syntax](https://developer.hashicorp.com/terraform/language/syntax/json).

mod blocks;
mod expression;

use std::collections::BTreeMap;

use serde::Serialize;

use self::blocks::{
    ApiDestination, ApiKey, AuthParameters, Condition, Connection, DeadLetterConfig, EventBus, ManagedPolicy,
    PodIdentityAssociation, PolicyAttachment, PolicyDocument, Principal, Queue, QueuePolicy, RetryPolicy,
    Role, RolePolicy, Rule, Statement, Target,
};
use self::expression::{Template, json};
use super::RenderError;
use super::identity::CredentialSource;
use super::model::{
    self, AwsModel, EVENT_SOURCE_PREFIX, EventPattern, EventSource, INVOCATIONS_PER_SECOND,
    MAX_EVENT_AGE_SECONDS, MAX_RECEIVE_COUNT, MAX_RETRY_ATTEMPTS, RETENTION_SECONDS,
};

/// The label of what there is one of, and of what concerns the dead-letter queue.
const MAIN: &str = "presence";
const DEAD_LETTERS: &str = "dead_letters";

/// Blocks of one type, by their labels.
type Labelled<T> = BTreeMap<&'static str, T>;

/// The configuration, in the order in which it is written.
#[derive(Debug, Serialize)]
struct Configuration {
    #[serde(rename = "//")]
    comment: String,
    terraform: Settings,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    variable: Labelled<Variable>,
    data: Data,
    resource: Resources,
    output: Labelled<Output>,
}

#[derive(Debug, Serialize)]
struct Settings {
    required_providers: RequiredProviders,
}

#[derive(Debug, Serialize)]
struct RequiredProviders {
    aws: Provider,
}

#[derive(Debug, Serialize)]
struct Provider {
    source: &'static str,
    version: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Variable {
    #[serde(rename = "type")]
    type_: &'static str,
    description: Template,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sensitive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<Validation>,
}

#[derive(Debug, Serialize)]
struct Validation {
    condition: Template,
    error_message: Template,
}

#[derive(Debug, Default, Serialize)]
struct Data {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_partition: Labelled<Empty>,
    aws_iam_policy_document: Labelled<PolicyDocument>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Default, Serialize)]
struct Resources {
    aws_cloudwatch_event_bus: Labelled<EventBus>,
    aws_cloudwatch_event_rule: Labelled<Rule>,
    aws_cloudwatch_event_target: Labelled<Target>,
    aws_sqs_queue: Labelled<Queue>,
    aws_sqs_queue_policy: Labelled<QueuePolicy>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_iam_policy: Labelled<ManagedPolicy>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_iam_role: Labelled<Role>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_iam_role_policy: Labelled<RolePolicy>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_iam_role_policy_attachment: Labelled<PolicyAttachment>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_eks_pod_identity_association: Labelled<PodIdentityAssociation>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_cloudwatch_event_connection: Labelled<Connection>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    aws_cloudwatch_event_api_destination: Labelled<ApiDestination>,
}

#[derive(Debug, Serialize)]
struct Output {
    description: &'static str,
    value: Template,
}

/// The configuration as JSON.
pub(super) fn render(model: &AwsModel) -> Result<String, RenderError> {
    Ok(serde_json::to_string_pretty(&configuration(model)?)? + "\n")
}

fn configuration(model: &AwsModel) -> Result<Configuration, RenderError> {
    let mut configuration = Configuration {
        comment: comment(model),
        terraform: Settings {
            // The oldest version with every resource that is used here.
            required_providers: RequiredProviders {
                aws: Provider { source: "hashicorp/aws", version: ">= 5.31.0" },
            },
        },
        variable: Labelled::new(),
        data: Data::default(),
        resource: Resources::default(),
        output: Labelled::new(),
    };
    add_bus_and_rule(&mut configuration, model)?;
    add_queue(&mut configuration, DEAD_LETTERS, &model.dead_letters, None);
    output(
        &mut configuration,
        "dead_letter_queue_url",
        "The queue with what could not be delivered or published",
        "aws_sqs_queue.dead_letters.url",
    );
    match &model.target {
        model::Target::Queue(queue) => add_reading(&mut configuration, model, queue),
        model::Target::ApiDestination(destination) => {
            add_api_destination(&mut configuration, model, destination)
        }
    }
    Ok(configuration)
}

fn comment(model: &AwsModel) -> String {
    let AwsModel { region, account_id, .. } = model;
    let mut sentences = vec![format!(
        "{} Account {account_id}, region {region}. Keep it in a directory of its own, as a module or a root module; the \
         provider is the caller's.",
        model.description()
    )];
    sentences.extend(model.remarks());
    sentences.join(" ")
}

fn output(configuration: &mut Configuration, name: &'static str, description: &'static str, value: &str) {
    configuration.output.insert(name, Output { description, value: Template::of(value) });
}

fn add_bus_and_rule(configuration: &mut Configuration, model: &AwsModel) -> Result<(), RenderError> {
    let event_source = match &model.event_source {
        EventSource::Known(name) => Template::literal(name),
        EventSource::Unknown { suffix } => {
            let escaped = |text: &str| text.replace('.', "[.]");
            let pattern = format!("^{}[A-Za-z0-9-]+/{}$", escaped(EVENT_SOURCE_PREFIX), escaped(suffix));
            configuration.variable.insert(
                "event_source_name",
                Variable {
                    type_: "string",
                    description: Template::literal(&format!(
                        "The full name of the event source, from the status of PresenceRoute {}.",
                        model.route
                    )),
                    validation: Some(Validation {
                        condition: Template::of(&format!("can(regex({pattern:?}, var.event_source_name))")),
                        error_message: Template::literal(&format!(
                            "The name must be {EVENT_SOURCE_PREFIX}ORGANIZATION/{suffix}."
                        )),
                    }),
                    ..Variable::default()
                },
            );
            Template::of("var.event_source_name")
        }
    };
    let resource = &mut configuration.resource;
    resource
        .aws_cloudwatch_event_bus
        .insert(MAIN, EventBus { name: event_source.clone(), event_source_name: event_source.clone() });
    let pattern = EventPattern {
        source: [Template::of("aws_cloudwatch_event_bus.presence.name")],
        detail_type: model.topics.clone(),
    };
    resource.aws_cloudwatch_event_rule.insert(
        MAIN,
        Rule {
            name: Template::literal(&model.name),
            description: Template::literal(&model.description()),
            event_bus_name: Template::of("aws_cloudwatch_event_bus.presence.name"),
            event_pattern: json(&pattern)?,
        },
    );
    let (arn, role_arn, depends_on) = match &model.target {
        model::Target::Queue(_) => (
            "aws_sqs_queue.presence.arn",
            None,
            vec!["aws_sqs_queue_policy.presence", "aws_sqs_queue_policy.dead_letters"],
        ),
        model::Target::ApiDestination(_) => (
            "aws_cloudwatch_event_api_destination.presence.arn",
            Some(Template::of("aws_iam_role.invocation.arn")),
            vec!["aws_iam_role_policy.invocation", "aws_sqs_queue_policy.dead_letters"],
        ),
    };
    resource.aws_cloudwatch_event_target.insert(
        MAIN,
        Target {
            rule: Template::of("aws_cloudwatch_event_rule.presence.name"),
            event_bus_name: Template::of("aws_cloudwatch_event_bus.presence.name"),
            target_id: "presenceroute",
            arn: Template::of(arn),
            role_arn,
            retry_policy: RetryPolicy {
                maximum_event_age_in_seconds: MAX_EVENT_AGE_SECONDS,
                maximum_retry_attempts: MAX_RETRY_ATTEMPTS,
            },
            dead_letter_config: DeadLetterConfig { arn: Template::of("aws_sqs_queue.dead_letters.arn") },
            depends_on,
        },
    );
    Ok(())
}

/// A queue that only the rule may send to.
fn add_queue(
    configuration: &mut Configuration,
    label: &'static str,
    name: &str,
    redrive_policy: Option<Template>,
) {
    let Configuration { data, resource, .. } = configuration;
    resource.aws_sqs_queue.insert(
        label,
        Queue {
            name: Template::literal(name),
            message_retention_seconds: RETENTION_SECONDS,
            sqs_managed_sse_enabled: true,
            redrive_policy,
        },
    );
    let statement = Statement {
        sid: "RuleSends",
        actions: vec!["sqs:SendMessage"],
        resources: vec![Template::of(&format!("aws_sqs_queue.{label}.arn"))],
        principals: Some(Principal::service("events.amazonaws.com")),
        condition: vec![Condition::of(
            "ArnEquals",
            "aws:SourceArn",
            Template::of("aws_cloudwatch_event_rule.presence.arn"),
        )],
    };
    data.aws_iam_policy_document.insert(label, PolicyDocument { statement });
    resource.aws_sqs_queue_policy.insert(
        label,
        QueuePolicy {
            queue_url: Template::of(&format!("aws_sqs_queue.{label}.url")),
            policy: Template::of(&format!("data.aws_iam_policy_document.{label}.json")),
        },
    );
}

fn add_reading(configuration: &mut Configuration, model: &AwsModel, queue: &model::Queue) {
    let redrive = format!(
        "jsonencode({{\"deadLetterTargetArn\" = aws_sqs_queue.dead_letters.arn, \"maxReceiveCount\" = {MAX_RECEIVE_COUNT}}})"
    );
    add_queue(configuration, MAIN, &queue.name, Some(Template::of(&redrive)));
    output(configuration, "queue_url", "The queue that the relay reads", "aws_sqs_queue.presence.url");
    output(
        configuration,
        "reader_policy_arn",
        "The policy that allows to read the queue",
        "aws_iam_policy.reader.arn",
    );
    let Configuration { data, resource, .. } = &mut *configuration;
    data.aws_iam_policy_document.insert(
        "reader",
        PolicyDocument {
            statement: Statement {
                sid: "RelayReads",
                actions: super::READ_ACTIONS.to_vec(),
                resources: vec![Template::of("aws_sqs_queue.presence.arn")],
                principals: None,
                condition: Vec::new(),
            },
        },
    );
    resource.aws_iam_policy.insert(
        "reader",
        ManagedPolicy {
            name: Template::literal(&model.name),
            description: Template::literal(&format!("Reads the queue of PresenceRoute {}", model.route)),
            policy: Template::of("data.aws_iam_policy_document.reader.json"),
        },
    );
    let trust = match queue.identity {
        CredentialSource::None => return,
        CredentialSource::Irsa => irsa_trust(configuration, model, queue),
        CredentialSource::PodIdentity => pod_identity_trust(configuration, queue),
    };
    let Configuration { data, resource, .. } = &mut *configuration;
    data.aws_iam_policy_document.insert("relay_trust", PolicyDocument { statement: trust });
    resource.aws_iam_role.insert(
        "relay",
        Role {
            name: Template::literal(&queue.role.name),
            path: Some(Template::literal(&queue.role.path)),
            description: Template::literal(&model.description()),
            assume_role_policy: Template::of("data.aws_iam_policy_document.relay_trust.json"),
        },
    );
    resource.aws_iam_role_policy_attachment.insert(
        "relay",
        PolicyAttachment {
            role: Template::of("aws_iam_role.relay.name"),
            policy_arn: Template::of("aws_iam_policy.reader.arn"),
        },
    );
    output(configuration, "relay_role_arn", "The role of the relay pods", "aws_iam_role.relay.arn");
}

fn irsa_trust(configuration: &mut Configuration, model: &AwsModel, queue: &model::Queue) -> Statement {
    configuration.variable.insert(
        "oidc_provider",
        Variable {
            type_: "string",
            description: Template::literal(
                "The cluster's OIDC provider without https://, such as \
                 oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF. It must be an identity provider of the account.",
            ),
            validation: Some(Validation {
                condition: Template::of(
                    "can(regex(\"^[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]+)?$\", var.oidc_provider))",
                ),
                error_message: Template::literal("It must be the issuer of the cluster's tokens, without https://."),
            }),
            ..Variable::default()
        },
    );
    configuration.data.aws_partition.insert("current", Empty {});
    let model::ServiceAccount { namespace, name } = &queue.service_account;
    let account_id = &model.account_id;
    Statement {
        sid: "RelayPods",
        actions: vec!["sts:AssumeRoleWithWebIdentity"],
        resources: Vec::new(),
        principals: Some(Principal::federated(Template::with(&format!(
            "arn:${{data.aws_partition.current.partition}}:iam::{account_id}:oidc-provider/${{var.oidc_provider}}"
        )))),
        condition: vec![
            Condition {
                variable: Template::with("${var.oidc_provider}:aud"),
                ..Condition::of("StringEquals", "", Template::literal("sts.amazonaws.com"))
            },
            Condition {
                variable: Template::with("${var.oidc_provider}:sub"),
                ..Condition::of(
                    "StringEquals",
                    "",
                    Template::literal(&format!("system:serviceaccount:{namespace}:{name}")),
                )
            },
        ],
    }
}

fn pod_identity_trust(configuration: &mut Configuration, queue: &model::Queue) -> Statement {
    let model::ServiceAccount { namespace, name } = &queue.service_account;
    configuration.variable.insert(
        "cluster_name",
        Variable {
            type_: "string",
            description: Template::literal(
                "The EKS cluster that the relay runs in. It needs the add-on EKS Pod Identity Agent.",
            ),
            ..Variable::default()
        },
    );
    configuration.resource.aws_eks_pod_identity_association.insert(
        "relay",
        PodIdentityAssociation {
            cluster_name: Template::of("var.cluster_name"),
            namespace: Template::literal(namespace),
            service_account: Template::literal(name),
            role_arn: Template::of("aws_iam_role.relay.arn"),
        },
    );
    let tag = |tag: &str, value| Condition::of("StringEquals", &format!("aws:RequestTag/{tag}"), value);
    Statement {
        sid: "RelayPods",
        actions: vec!["sts:AssumeRole", "sts:TagSession"],
        resources: Vec::new(),
        principals: Some(Principal::service("pods.eks.amazonaws.com")),
        condition: vec![
            tag("eks-cluster-name", Template::of("var.cluster_name")),
            tag("kubernetes-namespace", Template::literal(namespace)),
            tag("kubernetes-service-account", Template::literal(name)),
        ],
    }
}

fn add_api_destination(
    configuration: &mut Configuration,
    model: &AwsModel,
    destination: &model::ApiDestination,
) {
    configuration.variable.insert(
        "api_key",
        Variable {
            type_: "string",
            description: Template::literal(&format!(
                "The API key: the content of the Secret of apiKeySecretRef of PresenceRoute {}. Terraform keeps it in its \
                 state.",
                model.route
            )),
            sensitive: true,
            ..Variable::default()
        },
    );
    configuration.variable.insert(
        "invocation_rate_limit_per_second",
        Variable {
            type_: "number",
            description: Template::literal("How many events a second are sent at most. The rest waits."),
            default: Some(INVOCATIONS_PER_SECOND),
            ..Variable::default()
        },
    );
    output(
        configuration,
        "connection_name",
        "The connection that holds the API key",
        "aws_cloudwatch_event_connection.presence.name",
    );
    let Configuration { data, resource, .. } = configuration;
    let (name, description) = (Template::literal(&model.name), Template::literal(&model.description()));
    resource.aws_cloudwatch_event_connection.insert(
        MAIN,
        Connection {
            name: name.clone(),
            description: description.clone(),
            authorization_type: "API_KEY",
            auth_parameters: AuthParameters {
                api_key: ApiKey {
                    key: Template::literal(&destination.header),
                    value: Template::of("var.api_key"),
                },
            },
        },
    );
    resource.aws_cloudwatch_event_api_destination.insert(
        MAIN,
        ApiDestination {
            name: name.clone(),
            description: description.clone(),
            connection_arn: Template::of("aws_cloudwatch_event_connection.presence.arn"),
            http_method: "POST",
            invocation_endpoint: Template::literal(&destination.url),
            invocation_rate_limit_per_second: Template::of("var.invocation_rate_limit_per_second"),
        },
    );
    data.aws_iam_policy_document.insert(
        "invocation",
        PolicyDocument {
            statement: Statement {
                sid: "Invoke",
                actions: vec!["events:InvokeApiDestination"],
                resources: vec![Template::of("aws_cloudwatch_event_api_destination.presence.arn")],
                principals: None,
                condition: Vec::new(),
            },
        },
    );
    data.aws_iam_policy_document.insert(
        "invocation_trust",
        PolicyDocument {
            statement: Statement {
                sid: "Rule",
                actions: vec!["sts:AssumeRole"],
                resources: Vec::new(),
                principals: Some(Principal::service("events.amazonaws.com")),
                condition: vec![
                    Condition::of("StringEquals", "aws:SourceAccount", Template::literal(&model.account_id)),
                    Condition::of(
                        "ArnEquals",
                        "aws:SourceArn",
                        Template::of("aws_cloudwatch_event_rule.presence.arn"),
                    ),
                ],
            },
        },
    );
    resource.aws_iam_role.insert(
        "invocation",
        Role {
            name,
            path: None,
            description,
            assume_role_policy: Template::of("data.aws_iam_policy_document.invocation_trust.json"),
        },
    );
    resource.aws_iam_role_policy.insert(
        "invocation",
        RolePolicy {
            name: "invoke-api-destination",
            role: Template::of("aws_iam_role.invocation.name"),
            policy: Template::of("data.aws_iam_policy_document.invocation.json"),
        },
    );
}

#[cfg(test)]
mod tests;
