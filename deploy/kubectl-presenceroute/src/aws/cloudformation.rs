//! The CloudFormation template.

mod policy;
mod properties;
mod value;

use serde::Serialize;

use self::policy::{PolicyDocument, Principal, Statement};
use self::properties::{
    ApiDestination, ApiKeyAuthParameters, AuthParameters, Connection, DeadLetterConfig, EventBus,
    InlinePolicy, ManagedPolicy, PodIdentityAssociation, Queue, QueuePolicy, RedrivePolicy, RetryPolicy,
    Role, Rule, Target, TrustPolicy,
};
use self::value::Text;
use super::RenderError;
use super::identity::CredentialSource;
use super::model::{
    self, AwsModel, EVENT_SOURCE_PREFIX, EventPattern, EventSource, INVOCATIONS_PER_SECOND,
    MAX_EVENT_AGE_SECONDS, MAX_RECEIVE_COUNT, MAX_RETRY_ATTEMPTS, RETENTION_SECONDS,
};

/// The template, in the order in which it is written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Template {
    #[serde(rename = "AWSTemplateFormatVersion")]
    version: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    parameters: Parameters,
    resources: Resources,
    outputs: Outputs,
}

/// What only the person knows who deploys the template. The names of the fields are those of the parameters.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Parameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_source_name: Option<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oidc_provider: Option<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation_rate_limit_per_second: Option<Parameter>,
}

impl Parameters {
    fn is_empty(&self) -> bool {
        self.required().is_empty() && self.invocation_rate_limit_per_second.is_none()
    }

    /// Those without a default.
    fn required(&self) -> Vec<&'static str> {
        [
            ("EventSourceName", &self.event_source_name),
            ("OidcProvider", &self.oidc_provider),
            ("ClusterName", &self.cluster_name),
            ("ApiKey", &self.api_key),
        ]
        .into_iter()
        .filter_map(|(name, parameter)| parameter.is_some().then_some(name))
        .collect()
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    #[serde(rename = "Type")]
    type_: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraint_description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_value: Option<u32>,
}

/// The resources. The names of the fields are their logical ids.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Resources {
    event_bus: Resource<EventBus>,
    rule: Resource<Rule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Resource<Queue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_policy: Option<Resource<QueuePolicy>>,
    dead_letter_queue: Resource<Queue>,
    dead_letter_queue_policy: Resource<QueuePolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader_policy: Option<Resource<ManagedPolicy>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_role: Option<Resource<Role>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_identity_association: Option<Resource<PodIdentityAssociation>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<Resource<Connection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_destination: Option<Resource<ApiDestination>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation_role: Option<Resource<Role>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Resource<P> {
    #[serde(rename = "Type")]
    type_: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<&'static str>,
    properties: P,
}

/// What the person needs of what was made.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outputs {
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_url: Option<Output>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_queue_url: Option<Output>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader_policy_arn: Option<Output>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_role_arn: Option<Output>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_name: Option<Output>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    description: &'static str,
    value: Text,
}

/// The template as YAML, after a comment that says how to deploy it.
pub(super) fn render(model: &AwsModel) -> Result<String, RenderError> {
    let template = template(model)?;
    Ok(format!("{}{}", comment(model, &template.parameters), serde_saphyr::to_string(&template)?))
}

fn comment(model: &AwsModel, parameters: &Parameters) -> String {
    let AwsModel { region, account_id, stack, .. } = model;
    let required: Vec<_> = parameters.required().into_iter().map(|name| format!("{name}=...")).collect();
    let overrides = match required.as_slice() {
        [] => String::new(),
        required => format!(" \\\n#       --parameter-overrides {}", required.join(" ")),
    };
    let mut lines = vec![
        format!("Account {account_id}, region {region}. Deploy, with this template in a file:"),
        format!("  aws cloudformation deploy --region {region} --stack-name {stack} --template-file FILE \\"),
        format!("      --capabilities CAPABILITY_NAMED_IAM{overrides}"),
    ];
    lines.extend(model.remarks());
    lines.iter().map(|line| format!("# {line}\n")).collect()
}

fn template(model: &AwsModel) -> Result<Template, RenderError> {
    let mut template = Template {
        version: "2010-09-09",
        description: model.description(),
        parameters: Parameters { event_source_name: event_source_parameter(model), ..Parameters::default() },
        resources: Resources {
            event_bus: resource(
                "AWS::Events::EventBus",
                EventBus { name: event_source(model), event_source_name: event_source(model) },
            ),
            rule: rule(model),
            queue: None,
            queue_policy: None,
            dead_letter_queue: resource("AWS::SQS::Queue", queue_that_keeps(&model.dead_letters)),
            dead_letter_queue_policy: queue_policy(model, "DeadLetterQueue"),
            reader_policy: None,
            relay_role: None,
            pod_identity_association: None,
            connection: None,
            api_destination: None,
            invocation_role: None,
        },
        outputs: Outputs {
            dead_letter_queue_url: Some(Output {
                description: "The queue with what could not be delivered or published",
                value: Text::reference("DeadLetterQueue"),
            }),
            ..Outputs::default()
        },
    };
    match &model.target {
        model::Target::Queue(queue) => add_queue(&mut template, model, queue)?,
        model::Target::ApiDestination(destination) => add_api_destination(&mut template, model, destination),
    }
    Ok(template)
}

fn resource<P>(type_: &'static str, properties: P) -> Resource<P> {
    Resource { type_, depends_on: Vec::new(), properties }
}

fn event_source(model: &AwsModel) -> Text {
    match &model.event_source {
        EventSource::Known(name) => Text::Literal(name.clone()),
        EventSource::Unknown { .. } => Text::reference("EventSourceName"),
    }
}

fn event_source_parameter(model: &AwsModel) -> Option<Parameter> {
    let EventSource::Unknown { suffix } = &model.event_source else { return None };
    let escaped = |text: &str| text.replace('.', "[.]");
    Some(Parameter {
        type_: "String",
        description: format!(
            "The full name of the event source, from the status of PresenceRoute {}: {EVENT_SOURCE_PREFIX}ORGANIZATION/{suffix}",
            model.route
        ),
        allowed_pattern: Some(format!("^{}[A-Za-z0-9-]+/{}$", escaped(EVENT_SOURCE_PREFIX), escaped(suffix))),
        constraint_description: Some(format!("{EVENT_SOURCE_PREFIX}ORGANIZATION/{suffix}")),
        ..Parameter::default()
    })
}

/// The ARN of the rule, written out: the policies come before the rule, because Amazon EventBridge does not try again what
/// a policy forbids.
fn rule_arn(model: &AwsModel) -> Text {
    let AwsModel { region, account_id, name, .. } = model;
    Text::sub(format!("arn:${{AWS::Partition}}:events:{region}:{account_id}:rule/${{EventBus}}/{name}"))
}

fn rule(model: &AwsModel) -> Resource<Rule> {
    let (target, role, depends_on) = match &model.target {
        model::Target::Queue(_) => ("Queue", None, vec!["QueuePolicy", "DeadLetterQueuePolicy"]),
        model::Target::ApiDestination(_) => {
            ("ApiDestination", Some(Text::attribute("InvocationRole", "Arn")), vec!["DeadLetterQueuePolicy"])
        }
    };
    let properties = Rule {
        name: model.name.clone(),
        description: model.description(),
        event_bus_name: Text::reference("EventBus"),
        event_pattern: EventPattern { source: [event_source(model)], detail_type: model.topics.clone() },
        state: "ENABLED",
        targets: [Target {
            id: "presenceroute",
            arn: Text::attribute(target, "Arn"),
            role_arn: role,
            retry_policy: RetryPolicy {
                maximum_event_age_in_seconds: MAX_EVENT_AGE_SECONDS,
                maximum_retry_attempts: MAX_RETRY_ATTEMPTS,
            },
            dead_letter_config: DeadLetterConfig { arn: Text::attribute("DeadLetterQueue", "Arn") },
        }],
    };
    Resource { depends_on, ..resource("AWS::Events::Rule", properties) }
}

fn queue_that_keeps(name: &str) -> Queue {
    Queue {
        queue_name: name.to_owned(),
        message_retention_period: RETENTION_SECONDS,
        sqs_managed_sse_enabled: true,
        redrive_policy: None,
    }
}

/// Only the rule may send to the queue.
fn queue_policy(model: &AwsModel, queue: &'static str) -> Resource<QueuePolicy> {
    let statement = Statement::allow("RuleSends", ["sqs:SendMessage"])
        .to(Principal::Service("events.amazonaws.com"))
        .on(Text::attribute(queue, "Arn"))
        .when("ArnEquals", "aws:SourceArn", rule_arn(model));
    resource(
        "AWS::SQS::QueuePolicy",
        QueuePolicy { queues: [Text::reference(queue)], policy_document: PolicyDocument::of(statement) },
    )
}

fn add_queue(template: &mut Template, model: &AwsModel, queue: &model::Queue) -> Result<(), RenderError> {
    let Template { parameters, resources, outputs, .. } = template;
    let dead_letters = Text::attribute("DeadLetterQueue", "Arn");
    resources.queue = Some(resource(
        "AWS::SQS::Queue",
        Queue {
            redrive_policy: Some(RedrivePolicy {
                dead_letter_target_arn: dead_letters,
                max_receive_count: MAX_RECEIVE_COUNT,
            }),
            ..queue_that_keeps(&queue.name)
        },
    ));
    resources.queue_policy = Some(queue_policy(model, "Queue"));
    let reading = Statement::allow("RelayReads", super::READ_ACTIONS).on(Text::attribute("Queue", "Arn"));
    resources.reader_policy = Some(resource(
        "AWS::IAM::ManagedPolicy",
        ManagedPolicy {
            managed_policy_name: model.name.clone(),
            description: format!("Reads the queue of PresenceRoute {}", model.route),
            policy_document: PolicyDocument::of(reading),
            roles: Vec::new(),
        },
    ));
    outputs.queue_url =
        Some(Output { description: "The queue that the relay reads", value: Text::reference("Queue") });
    outputs.reader_policy_arn = Some(Output {
        description: "The policy that allows to read the queue",
        value: Text::reference("ReaderPolicy"),
    });
    let trust = match queue.identity {
        CredentialSource::None => return Ok(()),
        CredentialSource::Irsa => {
            parameters.oidc_provider = Some(Parameter {
                type_: "String",
                description: "The cluster's OIDC provider without https://, such as \
                              oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF. It must be an identity provider of the \
                              account."
                    .into(),
                allowed_pattern: Some("^[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]+)?$".into()),
                constraint_description: Some("the issuer of the cluster's tokens, without https://".into()),
                ..Parameter::default()
            });
            TrustPolicy::Text(irsa_trust(model, queue)?)
        }
        CredentialSource::PodIdentity => {
            parameters.cluster_name = Some(Parameter {
                type_: "String",
                description:
                    "The EKS cluster that the relay runs in. It needs the add-on EKS Pod Identity Agent."
                        .into(),
                allowed_pattern: Some("^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$".into()),
                constraint_description: Some("the name of an EKS cluster".into()),
                ..Parameter::default()
            });
            resources.pod_identity_association = Some(resource(
                "AWS::EKS::PodIdentityAssociation",
                PodIdentityAssociation {
                    cluster_name: Text::reference("ClusterName"),
                    namespace: queue.service_account.namespace.clone(),
                    service_account: queue.service_account.name.clone(),
                    role_arn: Text::attribute("RelayRole", "Arn"),
                },
            ));
            TrustPolicy::Document(pod_identity_trust(queue))
        }
    };
    let relay_role = role(&queue.role.name, Some(queue.role.path.clone()), model, trust);
    resources.relay_role = Some(resource("AWS::IAM::Role", relay_role));
    if let Some(policy) = &mut resources.reader_policy {
        policy.properties.roles = vec![Text::reference("RelayRole")];
    }
    outputs.relay_role_arn = Some(Output {
        description: "The role of the relay pods",
        value: Text::attribute("RelayRole", "Arn"),
    });
    Ok(())
}

/// The trust in the cluster's OIDC provider. The keys of its condition depend on a parameter, which CloudFormation allows in
/// a text alone.
fn irsa_trust(model: &AwsModel, queue: &model::Queue) -> Result<Text, serde_json::Error> {
    let provider =
        format!("arn:${{AWS::Partition}}:iam::{}:oidc-provider/${{OidcProvider}}", model.account_id);
    let model::ServiceAccount { namespace, name } = &queue.service_account;
    let statement = Statement::allow("RelayPods", ["sts:AssumeRoleWithWebIdentity"])
        .to(Principal::Federated(provider))
        .when("StringEquals", "${OidcProvider}:aud", "sts.amazonaws.com".to_owned())
        .when("StringEquals", "${OidcProvider}:sub", format!("system:serviceaccount:{namespace}:{name}"));
    Ok(Text::sub(serde_json::to_string_pretty(&PolicyDocument::of(statement))?))
}

fn pod_identity_trust(queue: &model::Queue) -> PolicyDocument<Text> {
    let model::ServiceAccount { namespace, name } = &queue.service_account;
    let literal = |text: &String| Text::Literal(text.clone());
    PolicyDocument::of(
        Statement::allow("RelayPods", ["sts:AssumeRole", "sts:TagSession"])
            .to(Principal::Service("pods.eks.amazonaws.com"))
            .when("StringEquals", "aws:RequestTag/eks-cluster-name", Text::reference("ClusterName"))
            .when("StringEquals", "aws:RequestTag/kubernetes-namespace", literal(namespace))
            .when("StringEquals", "aws:RequestTag/kubernetes-service-account", literal(name)),
    )
}

fn role(name: &str, path: Option<String>, model: &AwsModel, trust: TrustPolicy) -> Role {
    Role {
        role_name: name.to_owned(),
        path,
        description: model.description(),
        assume_role_policy_document: trust,
        policies: Vec::new(),
    }
}

fn add_api_destination(template: &mut Template, model: &AwsModel, destination: &model::ApiDestination) {
    let Template { parameters, resources, outputs, .. } = template;
    parameters.api_key = Some(Parameter {
        type_: "String",
        description: format!(
            "The API key: the content of the Secret of apiKeySecretRef of PresenceRoute {}",
            model.route
        ),
        no_echo: Some(true),
        min_length: Some(1),
        max_length: Some(512),
        ..Parameter::default()
    });
    parameters.invocation_rate_limit_per_second = Some(Parameter {
        type_: "Number",
        description: "How many events a second are sent at most. The rest waits.".into(),
        default: Some(INVOCATIONS_PER_SECOND),
        min_value: Some(1),
        ..Parameter::default()
    });
    resources.connection = Some(resource(
        "AWS::Events::Connection",
        Connection {
            name: model.name.clone(),
            description: model.description(),
            authorization_type: "API_KEY",
            auth_parameters: AuthParameters {
                api_key_auth_parameters: ApiKeyAuthParameters {
                    api_key_name: destination.header.clone(),
                    api_key_value: Text::reference("ApiKey"),
                },
            },
        },
    ));
    resources.api_destination = Some(resource(
        "AWS::Events::ApiDestination",
        ApiDestination {
            name: model.name.clone(),
            description: model.description(),
            connection_arn: Text::attribute("Connection", "Arn"),
            http_method: "POST",
            invocation_endpoint: destination.url.clone(),
            invocation_rate_limit_per_second: Text::reference("InvocationRateLimitPerSecond"),
        },
    ));
    let invoking = Statement::allow("Invoke", ["events:InvokeApiDestination"])
        .on(Text::attribute("ApiDestination", "Arn"));
    let trust = Statement::allow("Rule", ["sts:AssumeRole"])
        .to(Principal::Service("events.amazonaws.com"))
        .when("StringEquals", "aws:SourceAccount", Text::Literal(model.account_id.clone()))
        .when("ArnEquals", "aws:SourceArn", rule_arn(model));
    resources.invocation_role = Some(resource(
        "AWS::IAM::Role",
        Role {
            policies: vec![InlinePolicy {
                policy_name: "invoke-api-destination",
                policy_document: PolicyDocument::of(invoking),
            }],
            ..role(&model.name, None, model, TrustPolicy::Document(PolicyDocument::of(trust)))
        },
    ));
    outputs.connection_name = Some(Output {
        description: "The connection that holds the API key",
        value: Text::reference("Connection"),
    });
}

#[cfg(test)]
mod tests;
