//! What a route needs in AWS, without the language that describes it.
//!
//! ```text
//! event source of Genesys Cloud → event bus of the same name → rule → queue, read by the relay
//!                                                                   → API destination, which posts to the relay
//! ```

use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::{AmazonEventBridge, Sqs};
use presenceroute_manifest::build::relay_name;
use serde::Serialize;

use super::identity::{CredentialSource, ROLE_ANNOTATION, Role, RoleError};
use super::names::{self, MAX_NAME, fitted};
use super::queue_url::{QueueUrl, QueueUrlError};

/// How long a queue keeps a message, in seconds: the longest that Amazon SQS does, 14 days.
pub(super) const RETENTION_SECONDS: u32 = 1_209_600;
/// How often the relay may receive a message before Amazon SQS moves it to the dead-letter queue. The relay hides what Kafka
/// does not take for up to 8 minutes, so that these are 13 hours of attempts.
pub(super) const MAX_RECEIVE_COUNT: u32 = 100;
/// How long Amazon EventBridge tries to deliver an event, in seconds: the most that it does.
pub(super) const MAX_EVENT_AGE_SECONDS: u32 = 86_400;
/// How often Amazon EventBridge tries again: the most that it does.
pub(super) const MAX_RETRY_ATTEMPTS: u32 = 185;
/// How many events a second an API destination takes unless the person chooses: the default of Amazon EventBridge.
pub(super) const INVOCATIONS_PER_SECOND: u32 = 300;
/// The longest event pattern of a rule, in characters, unless AWS has raised the account's quota.
const MAX_PATTERN: usize = 2048;
/// What the names of Genesys Cloud's event sources begin with. The organisation's id and the suffix follow.
pub(super) const EVENT_SOURCE_PREFIX: &str = "aws.partner/genesys.com/cloud/";
/// How many characters the id of an organisation has, a UUID.
const ORGANIZATION_ID: usize = 36;

/// What a route needs in AWS.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AwsModel {
    /// The route, NAMESPACE/NAME.
    pub(super) route: String,
    /// The name of everything that the manifest gives no name, at most [`MAX_NAME`] characters.
    pub(super) name: String,
    /// The name of the CloudFormation stack.
    pub(super) stack: String,
    /// The account.
    pub(super) account_id: String,
    /// The region.
    pub(super) region: String,
    /// The event source, and so the event bus.
    pub(super) event_source: EventSource,
    /// The notification topics, which Genesys Cloud sends as `detail-type`.
    pub(super) topics: Vec<String>,
    /// Where what cannot be delivered or published goes: the name of a queue.
    pub(super) dead_letters: String,
    /// Where the rule sends the events.
    pub(super) target: Target,
}

/// The event source that Genesys Cloud makes in the account.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum EventSource {
    /// Its full name, from the route's status.
    Known(String),
    /// Its name ends so; the organisation's id, which is before that, is not known yet.
    Unknown {
        /// The last part of its name.
        suffix: String,
    },
}

/// Where the rule sends the events.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// To a queue.
    Queue(Queue),
    /// To an HTTPS endpoint.
    ApiDestination(ApiDestination),
}

/// A queue and its reader.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Queue {
    /// The queue's name.
    pub(super) name: String,
    /// How the relay pods get credentials.
    pub(super) identity: CredentialSource,
    /// The role of the relay pods, where they have one.
    pub(super) role: Role,
    /// Whether the manifest names the role, as IRSA needs.
    pub(super) is_annotated: bool,
    /// The ServiceAccount of the relay pods.
    pub(super) service_account: ServiceAccount,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceAccount {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// An HTTPS endpoint that takes an API key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiDestination {
    /// Its URL.
    pub(super) url: String,
    /// The header with the API key.
    pub(super) header: String,
}

/// The event pattern of a rule: exact values, never a prefix, so that a second integration in the account is none of this
/// rule's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct EventPattern<T> {
    pub(super) source: [T; 1],
    #[serde(rename = "detail-type")]
    pub(super) detail_type: Vec<String>,
}

/// Why there is nothing to be made in AWS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwsModelError {
    #[error(
        "PresenceRoute {route:?} needs nothing in AWS: its source is not amazonEventBridge; see spec.source of the route"
    )]
    OtherSource { route: String },
    #[error("spec.source.amazonEventBridge.sqs.queueUrl {url:?} is not the URL of a queue: {cause}")]
    QueueUrl { url: String, cause: QueueUrlError },
    #[error(
        "spec.source.amazonEventBridge.sqs.queueUrl names account {queue}, and awsAccountId is {bus}; the queue must be in \
         the account of the event bus"
    )]
    QueueAccount { queue: String, bus: String },
    #[error(
        "spec.source.amazonEventBridge.sqs is in region {queue}, and awsRegion is {bus}; a rule sends to queues of its own \
         region only"
    )]
    QueueRegion { queue: String, bus: String },
    #[error("spec.relay.serviceAccount.annotations[{annotation}]: {cause}", annotation = ROLE_ANNOTATION, cause = .0)]
    Role(#[from] RoleError),
    #[error("--identity is for sqs: nothing of AWS is read by the relay of an API destination")]
    IdentityOfApiDestination,
    #[error(
        "spec.endpoint.url {0:?} cannot be called by an API destination, which takes https only; choose an https URL, or sqs"
    )]
    NotHttps(String),
    #[error(
        "spec.source.amazonEventBridge.eventSourceSuffix must be set: NAMESPACE-NAME has {0} characters, and Genesys Cloud \
         takes at most 64"
    )]
    Suffix(usize),
    #[error(
        "the event pattern of spec.source.amazonEventBridge.topics has {length} characters, and Amazon EventBridge takes \
         {max}; divide the topics between two routes",
        length = .0,
        max = MAX_PATTERN
    )]
    Pattern(usize),
}

impl AwsModel {
    /// What the route needs. `event_source` is the full name of its event source, as far as it is known. Without an
    /// `identity` it is the one that the manifest is written for.
    pub(super) fn of(
        route: &PresenceRoute,
        namespace: &str,
        event_source: Option<&str>,
        identity: Option<CredentialSource>,
    ) -> Result<Self, AwsModelError> {
        let name = route.name_any();
        let full_name = format!("{namespace}/{name}");
        let Some(event_bridge) = &route.spec.source.amazon_event_bridge else {
            return Err(AwsModelError::OtherSource { route: full_name });
        };
        let suffix = event_bridge.event_source_suffix(namespace, &name);
        if suffix.len() > 64 {
            return Err(AwsModelError::Suffix(suffix.len()));
        }
        // While the status is still about a suffix of before, the new event source is not known.
        let event_source = event_source.filter(|name| name.rsplit('/').next() == Some(suffix.as_str()));
        let topics: Vec<String> = event_bridge.topics.iter().map(|topic| topic.0.clone()).collect();
        check_pattern(event_source, &suffix, &topics)?;
        // The suffix is unique in the organisation, so that two clusters with routes of one name do not share names.
        let base = format!("presenceroute-{suffix}");
        let target = match (&event_bridge.sqs, &event_bridge.api_destination) {
            (Some(sqs), _) => {
                let service_account =
                    ServiceAccount { namespace: namespace.to_owned(), name: relay_name(&name) };
                Target::Queue(queue(route, event_bridge, sqs, identity, &base, service_account)?)
            }
            (None, Some(_)) if identity.is_some() => return Err(AwsModelError::IdentityOfApiDestination),
            (None, Some(destination)) => {
                let url = route.spec.endpoint_url().unwrap_or_default();
                if !url.starts_with("https://") {
                    return Err(AwsModelError::NotHttps(url.to_owned()));
                }
                Target::ApiDestination(ApiDestination {
                    url: url.to_owned(),
                    header: destination.header.clone(),
                })
            }
            (None, None) => return Err(AwsModelError::OtherSource { route: full_name }),
        };
        let beside = match &target {
            Target::Queue(queue) => &queue.name,
            Target::ApiDestination(_) => &base,
        };
        Ok(Self {
            route: full_name,
            stack: names::stack(&base),
            dead_letters: names::queue(&format!("{beside}-dead-letters")),
            name: fitted(&base, MAX_NAME),
            account_id: event_bridge.aws_account_id.clone(),
            region: event_bridge.aws_region.clone(),
            event_source: match event_source {
                Some(name) => EventSource::Known(name.to_owned()),
                None => EventSource::Unknown { suffix },
            },
            topics,
            target,
        })
    }
}

impl AwsModel {
    /// A sentence for what can carry a description.
    pub(super) fn description(&self) -> String {
        format!("Presence of Genesys Cloud for PresenceRoute {}.", self.route)
    }

    /// What is left to be done by hand, a sentence each.
    pub(super) fn remarks(&self) -> Vec<String> {
        let Self { account_id, name, .. } = self;
        match &self.target {
            Target::Queue(Queue { identity: CredentialSource::Irsa, is_annotated: false, role, .. }) => vec![format!(
                "Set spec.relay.serviceAccount.annotations of the route: {ROLE_ANNOTATION}: \
                 arn:aws:iam::{account_id}:role{}{}.",
                role.path, role.name
            )],
            Target::Queue(Queue { identity: CredentialSource::None, .. }) => {
                vec![format!("Attach the policy {name} to the user or role whose access key the relay has.")]
            }
            Target::Queue(_) => Vec::new(),
            Target::ApiDestination(_) => vec![
                "Deploy once the route is Ready: after an answer of 401, Amazon EventBridge de-authorizes the connection."
                    .to_owned(),
            ],
        }
    }
}

fn queue(
    route: &PresenceRoute,
    event_bridge: &AmazonEventBridge,
    sqs: &Sqs,
    identity: Option<CredentialSource>,
    base: &str,
    service_account: ServiceAccount,
) -> Result<Queue, AwsModelError> {
    let url = QueueUrl::parse(&sqs.queue_url)
        .map_err(|cause| AwsModelError::QueueUrl { url: sqs.queue_url.clone(), cause })?;
    let (account_id, bus_region) = (&event_bridge.aws_account_id, &event_bridge.aws_region);
    if url.account_id != *account_id {
        return Err(AwsModelError::QueueAccount { queue: url.account_id, bus: account_id.clone() });
    }
    if let Some(queue) =
        [sqs.region.as_ref(), url.region.as_ref()].into_iter().flatten().find(|region| *region != bus_region)
    {
        return Err(AwsModelError::QueueRegion { queue: queue.clone(), bus: bus_region.clone() });
    }
    let account = route.spec.relay.service_account.as_ref();
    let arn = account.and_then(|account| account.annotations.get(ROLE_ANNOTATION));
    let identity = identity.unwrap_or(match (arn, &sqs.credentials_secret_ref) {
        (Some(_), _) => CredentialSource::Irsa,
        (None, Some(_)) => CredentialSource::None,
        (None, None) => CredentialSource::PodIdentity,
    });
    let role = match (identity, arn) {
        (CredentialSource::Irsa, Some(arn)) => Role::of_arn(arn, account_id)?,
        _ => Role::called(base),
    };
    Ok(Queue { name: url.name, identity, role, is_annotated: arn.is_some(), service_account })
}

/// Whether Amazon EventBridge takes the event pattern.
fn check_pattern(event_source: Option<&str>, suffix: &str, topics: &[String]) -> Result<(), AwsModelError> {
    let source =
        event_source.map_or(EVENT_SOURCE_PREFIX.len() + ORGANIZATION_ID + 1 + suffix.len(), str::len);
    let length = pattern_length(source, topics);
    if length > MAX_PATTERN { Err(AwsModelError::Pattern(length)) } else { Ok(()) }
}

/// The length of an event pattern as JSON, with a comma after each of its values.
fn pattern_length(source: usize, topics: &[String]) -> usize {
    let quoted = |length: usize| length + "\"\",".len();
    "{\"source\":[],\"detail-type\":[]}".len()
        + quoted(source)
        + topics.iter().map(|topic| quoted(topic.len())).sum::<usize>()
}

#[cfg(test)]
pub(super) mod tests;
