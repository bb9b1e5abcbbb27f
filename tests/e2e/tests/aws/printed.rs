//! What the plugin prints for a route.

use std::fmt;

use presenceroute_e2e::aws::{ACCOUNT, REGION};
use presenceroute_e2e::{Outcome, command};

/// The full name of the route's event source.
pub(crate) const EVENT_SOURCE: &str =
    "aws.partner/genesys.com/cloud/0aa1b2c3-d4e5-6f70-8192-a3b4c5d6e7f8/presence-contact-centre";
/// The topic that the route has, and so the only `detail-type` of the rule besides that of routing status.
pub(crate) const TOPIC: &str = "v2.users.{id}.presence";
/// The name of the queue.
pub(crate) const QUEUE: &str = "presence";

/// The tool that the output is for.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    CloudFormation,
    Terraform,
}

/// A way from the event bus to the relay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Irsa,
    PodIdentity,
    AccessKey,
    ApiDestination,
}

/// All of them.
pub(crate) const VARIANTS: [Variant; 4] =
    [Variant::Irsa, Variant::PodIdentity, Variant::AccessKey, Variant::ApiDestination];

impl fmt::Display for Variant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Irsa => "a queue, read by IRSA",
            Self::PodIdentity => "a queue, read by EKS Pod Identity",
            Self::AccessKey => "a queue, read by an access key",
            Self::ApiDestination => "an API destination",
        })
    }
}

impl Variant {
    /// A manifest of this kind.
    fn manifest(self) -> String {
        let queue = format!("sqs: {{queueUrl: 'https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{QUEUE}'}}");
        let (target, endpoint) = match self {
            Self::ApiDestination => (
                "apiDestination: {apiKeySecretRef: {name: presence-api-key}}".to_owned(),
                "endpoint: {url: 'https://presence.example.com/eventbridge/presence'}",
            ),
            _ => (queue, "suspend: false"),
        };
        format!(
            "apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: contact-centre, namespace: presence}}
spec:
  genesys: {{region: mypurecloud.ie, credentialsSecretRef: {{name: genesys-oauth}}}}
  source:
    amazonEventBridge:
      topics: ['{TOPIC}', 'v2.users.{{id}}.routingStatus']
      awsAccountId: '{ACCOUNT}'
      awsRegion: {REGION}
      {target}
  {endpoint}
  routes:
  - {{eventType: '{TOPIC}', topic: gen-presence-state}}
  kafka: {{bootstrapServers: ['kafka:9092']}}
"
        )
    }

    /// What the plugin prints for it, without a cluster.
    pub(crate) fn printed(self, format: Format) -> Outcome<String> {
        let format = match format {
            Format::CloudFormation => "cloudformation",
            Format::Terraform => "terraform",
        };
        let identity = match self {
            Self::Irsa => Some("irsa"),
            Self::PodIdentity => Some("pod-identity"),
            Self::AccessKey => Some("none"),
            Self::ApiDestination => None,
        };
        let plugin = command::built("kubectl-presenceroute")?.display().to_string();
        let mut arguments = vec!["aws", "-f", "-", "--format", format];
        if let Some(identity) = identity {
            arguments.extend(["--identity", identity]);
        }
        command::run(&plugin, &arguments, Some(&self.manifest()))
    }
}
