//! Integrations of the type `amazon-eventbridge-source`: they make Genesys Cloud send notifications to a partner event
//! source of Amazon EventBridge.
//!
//! [`Integrations`] offers the requests to the API, and says how an integration differs from the desired one. The name, the
//! event source, and the topics are its configuration, a resource of its own with a version; whether it is enabled is its
//! intended state, and what has become of that its reported state. Source: `genesyscloud_integration` of
//! <https://github.com/MyPureCloud/terraform-provider-genesyscloud>, and the models of Genesys's own clients.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use presenceroute_core::genesys_api::IntegrationSpec;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use url::Url;

use crate::client::{Client, Payload, base_url, below, object};
use crate::error::{GenesysError, Operation, RequestInfo, Resource};
use crate::event_bridges::{bounded_event_types, is_id};
pub use crate::organization::UnavailableTopic;
use crate::paging::{self, Listing};
use crate::transport::Response;

/// The type of integration that sends to Amazon EventBridge.
const TYPE: &str = "amazon-eventbridge-source";

/// The path of the integrations, below the API's URL.
const PATH: &str = "/api/v2/integrations";

/// The most bytes of a configuration. One with 128 topics has less than 32 KiB.
const MAX_CONFIG_BYTES: usize = 256 << 10;

/// How often a configuration is sent when others have written theirs meanwhile.
const MAX_VERSIONS: usize = 4;

/// How long a deleted integration may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// The first wait for an integration to be gone, and the longest.
const GONE_POLL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// What the notes of a configuration that this client has written begin with.
const NOTES: &str = "Kept by PresenceRoute ";

/// The most bytes of notes that are looked at. Those that this client writes are shorter.
const MAX_NOTES_BYTES: usize = 640;

const INTEGRATION: Resource = Resource {
    name: "integration",
    path_field: "that the organization offers integrations of the type amazon-eventbridge-source",
    permission: "view, add, edit and delete integrations (integrations:integration:view, :add, :edit, :delete)",
    unsupported: "check that spec.genesys points to a Genesys Cloud API",
    conflict: "no other integration in the organization may have the suffix of \
               spec.source.amazonEventBridge.eventSourceSuffix",
};

const CONFIG: Resource = Resource { name: "integration's configuration", ..INTEGRATION };

/// The integrations with Amazon EventBridge of the organization that a [`Client`] belongs to.
///
/// Every method fails with a [`GenesysError`] that says what to do about it.
#[derive(Clone, Debug)]
pub struct Integrations {
    client: Client,
    collection: Url,
}

impl Client {
    /// The integrations with Amazon EventBridge.
    #[must_use]
    pub fn integrations(&self) -> Integrations {
        Integrations { client: self.clone(), collection: self.url(PATH) }
    }
}

impl Integrations {
    /// Whether this is the API with this base URL.
    #[must_use]
    pub fn is_at(&self, api_url: &str) -> bool {
        base_url(api_url, "spec.genesys.apiUrl").is_ok_and(|api| below(&api, PATH) == self.collection)
    }

    /// Whether both are of one API.
    #[must_use]
    pub fn is_same_api(&self, other: &Self) -> bool {
        self.collection == other.collection
    }

    /// Has the OAuth client accepted, without any call to the integrations.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self) -> Result<(), GenesysError> {
        self.client.authenticate().await
    }

    /// All integrations of this event source's suffix, and those of this name that have no suffix yet, in the server's
    /// order. Costs a request a page, and one for each of them whose configuration the list does not show.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot list.
    pub async fn find(&self, suffix: &str, name: &str) -> Result<Listing<Integration>, GenesysError> {
        let request = self.request(Operation::List, &INTEGRATION, &self.collection);
        let mut url = self.collection.clone();
        url.query_pairs_mut().append_pair("integrationType", TYPE).append_pair("expand", "config.current");
        let mut listing = paging::list(&self.client, &request, url, |entity| {
            let has_name = entity.name.as_deref() == Some(name);
            let received = match entity.decode::<Received>() {
                Ok(received) if received.is_of_another_type() => return Ok(None),
                Ok(received) => received,
                Err(_) if has_name => return Err(malformed(&request)),
                Err(_) => return Ok(None),
            };
            let integration = received.into_integration(&self.client);
            let is_asked_for = |found: &Integration| match &found.config {
                Some(config) => config.is_asked_for(suffix, found.name() == name),
                None => has_name,
            };
            Ok(integration.filter(is_asked_for))
        })
        .await?;
        // An object may move to the next page between two requests, and is then listed twice.
        let mut once = BTreeSet::new();
        listing.entities.retain(|integration| once.insert(integration.id.clone()));
        let mut found = Vec::with_capacity(listing.entities.len());
        for integration in std::mem::take(&mut listing.entities) {
            let integration = match &integration.config {
                Some(_) => Some(integration),
                None => self.with_config(integration).await?.filter(|found| {
                    found
                        .config
                        .as_ref()
                        .is_some_and(|config| config.is_asked_for(suffix, found.name() == name))
                }),
            };
            found.extend(integration);
        }
        Ok(Listing { entities: found, ..listing })
    }

    /// The integration with this id and its configuration, `None` where there is none (404).
    ///
    /// # Errors
    /// Any.
    pub async fn get(&self, id: &str) -> Result<Option<Integration>, GenesysError> {
        let Some(mut url) = object(&self.collection, id) else { return Ok(None) };
        url.query_pairs_mut().append_pair("expand", "config.current");
        let request = self.request(Operation::Read, &INTEGRATION, &url);
        let response = self.client.call(&request, url, None).await?;
        if response.is_not_found() {
            return Ok(None);
        }
        let integration = self.received(&response, &request, Some(id))?;
        if integration.config.is_some() { Ok(Some(integration)) } else { self.with_config(integration).await }
    }

    /// Creates an integration that has no configuration yet, whether or not there is one of this name.
    ///
    /// # Errors
    /// After one that [may have created] it, the integration has to be looked up by its name.
    ///
    /// [may have created]: GenesysError::may_have_created
    pub async fn create(&self, name: &str) -> Result<Integration, GenesysError> {
        let request = self.request(Operation::Create, &INTEGRATION, &self.collection);
        let sent = json!({"name": name, "integrationType": {"id": TYPE}});
        let response = self.send(&request, self.collection.clone(), &sent).await?;
        self.received(&response, &request, None)
    }

    /// Gives the integration with this id the desired configuration, whatever version it has. What the configuration
    /// has besides stays. `None` where there is no such integration (404).
    ///
    /// # Errors
    /// [`GenesysError::Conflict`] and [`GenesysError::InvalidRequest`] where the server refuses the configuration itself.
    pub async fn configure(
        &self,
        id: &str,
        desired: &DesiredIntegration,
    ) -> Result<Option<()>, GenesysError> {
        let Some(url) = self.config_url(id) else { return Ok(None) };
        let request = self.request(Operation::Update, &CONFIG, &url);
        let mut refused_version = None;
        let mut attempts_left = MAX_VERSIONS;
        loop {
            let Some(mut config) = self.read_config(id).await? else { return Ok(None) };
            let version = config.get("version").cloned();
            desired.write_to(&mut config);
            attempts_left -= 1;
            match self.send(&request, url.clone(), &config).await {
                Ok(response) if response.is_not_found() => return Ok(None),
                Ok(_) => return Ok(Some(())),
                // The same version is refused for another reason than its age.
                Err(error)
                    if error.is_version_mismatch()
                        && attempts_left > 0
                        && refused_version.as_ref() != Some(&version) =>
                {
                    refused_version = Some(version);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the integration with this id enabled or disabled. `None` where there is none (404). What has become of it, its
    /// reported state tells a while later.
    ///
    /// # Errors
    /// Any.
    pub async fn set_enabled(&self, id: &str, enabled: bool) -> Result<Option<()>, GenesysError> {
        let Some(url) = object(&self.collection, id) else { return Ok(None) };
        let request = self.request(Operation::SetState, &INTEGRATION, &url);
        let response = self.send(&request, url, &json!({"intendedState": intended_state(enabled)})).await?;
        Ok((!response.is_not_found()).then_some(()))
    }

    /// Deletes the integration with this id, and returns once the server has none (404). That there is none before is what
    /// was wanted.
    ///
    /// # Errors
    /// [`GenesysError::UnexpectedAnswer`] where it is still there half a minute later; deleting it again is safe.
    pub async fn delete(&self, id: &str) -> Result<(), GenesysError> {
        let Some(url) = object(&self.collection, id) else { return Ok(()) };
        let deletion = self.request(Operation::Delete, &INTEGRATION, &url);
        if self.client.call(&deletion, url.clone(), None).await?.is_not_found() {
            return Ok(());
        }
        let request = self.request(Operation::Read, &INTEGRATION, &url);
        let deadline = Instant::now() + GONE_WITHIN;
        let mut wait = GONE_POLL.0;
        while !self.client.call(&request, url.clone(), None).await?.is_not_found() {
            if Instant::now() + wait > deadline {
                return Err(deletion.unexpected(format!(
                    "the integration is still there {} s after its deletion was accepted",
                    GONE_WITHIN.as_secs()
                )));
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(GONE_POLL.1);
        }
        Ok(())
    }

    /// What is wrong where deletions succeed and the list does not get shorter.
    #[must_use]
    pub fn still_listed(&self, name: &str) -> GenesysError {
        let request = self.request(Operation::Delete, &INTEGRATION, &self.collection);
        request.unexpected(format!(
            "the server says that the integration {name:?} is gone, and lists it all the same"
        ))
    }

    /// What is wrong where an integration was created, and the server shows none.
    #[must_use]
    pub fn not_shown(&self, id: &str) -> GenesysError {
        let request = self.request(Operation::Create, &INTEGRATION, &self.collection);
        request.unexpected(format!("the server has created the integration {id:?}, and does not show it"))
    }

    /// What is wrong where the server shows an integration, and has none to write to.
    #[must_use]
    pub fn not_writable(&self, id: &str) -> GenesysError {
        let request = self.request(Operation::Update, &CONFIG, &self.collection);
        request.unexpected(format!("the server shows the integration {id:?}, and answers 404 to its change"))
    }

    /// The full name of the event source with this suffix, which the event bus in AWS has to have as well.
    ///
    /// # Errors
    /// The organization's id is not known.
    pub async fn event_source_name(&self, suffix: &str) -> Result<String, GenesysError> {
        let organization = self.client.organization_id().await?;
        Ok(format!("aws.partner/genesys.com/cloud/{organization}/{suffix}"))
    }

    /// Those of the topics that Genesys Cloud does not send to Amazon EventBridge, by its own list.
    ///
    /// # Errors
    /// The list is not known.
    pub async fn unavailable_topics(&self, topics: &[String]) -> Result<Vec<UnavailableTopic>, GenesysError> {
        self.client.unavailable_topics(topics).await
    }

    /// A text of Genesys Cloud's about an integration, fit to be shown; `otherwise` where the [`crate::HostPolicy`] does not
    /// show what this server says.
    #[must_use]
    pub fn quote(&self, text: &str, otherwise: &str) -> String {
        self.client.quote(text).unwrap_or_else(|| otherwise.to_owned())
    }

    fn request(&self, operation: Operation, resource: &'static Resource, url: &Url) -> RequestInfo {
        RequestInfo::new(operation, resource, url)
    }

    fn config_url(&self, id: &str) -> Option<Url> {
        let mut url = object(&self.collection, id)?;
        url.path_segments_mut().ok()?.extend(["config", "current"]);
        Some(url)
    }

    /// The whole configuration, `None` where there is no such integration.
    async fn read_config(&self, id: &str) -> Result<Option<Map<String, Value>>, GenesysError> {
        let Some(url) = self.config_url(id) else { return Ok(None) };
        let request = self.request(Operation::Read, &CONFIG, &url);
        let response = self.client.call(&request, url, None).await?;
        if response.is_not_found() {
            return Ok(None);
        }
        if response.body().len() > MAX_CONFIG_BYTES {
            return Err(request.unexpected(format!("the answer has more than {MAX_CONFIG_BYTES} bytes")));
        }
        response.json(&request).map(Some)
    }

    async fn with_config(&self, integration: Integration) -> Result<Option<Integration>, GenesysError> {
        let Some(url) = self.config_url(&integration.id) else { return Ok(None) };
        let request = self.request(Operation::Read, &CONFIG, &url);
        let Some(config) = self.read_config(&integration.id).await? else { return Ok(None) };
        let config: IntegrationConfig =
            serde_json::from_value(Value::Object(config)).map_err(|_| malformed(&request))?;
        Ok(Some(Integration { config: Some(config), ..integration }))
    }

    async fn send(
        &self,
        request: &RequestInfo,
        url: Url,
        body: &impl Serialize,
    ) -> Result<Response, GenesysError> {
        let json = serde_json::to_vec(body).map_err(|error| GenesysError::InvalidAccess {
            problem: format!("cannot write the integration as JSON: {error}"),
        })?;
        self.client.call(request, url, Some(Payload { json: &json, secret: None })).await
    }

    fn received(
        &self,
        response: &Response,
        request: &RequestInfo,
        id: Option<&str>,
    ) -> Result<Integration, GenesysError> {
        let json = response.json::<&serde_json::value::RawValue>(request)?;
        let mut received: Received = serde_json::from_str(json.get()).map_err(|_| malformed(request))?;
        if let Some(id) = id {
            received.id.get_or_insert_with(|| id.to_owned());
        }
        received.into_integration(&self.client).ok_or_else(|| GenesysError::NoId { request: request.clone() })
    }
}

/// The error does not repeat what serde says of a wrong value, because that may hold the value.
fn malformed(request: &RequestInfo) -> GenesysError {
    request.unexpected("an integration in the answer has a field of the wrong type")
}

/// What Genesys Cloud calls the intended state.
fn intended_state(enabled: bool) -> &'static str {
    if enabled { "ENABLED" } else { "DISABLED" }
}

/// An integration as desired at Genesys Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredIntegration {
    /// All of it. Neither the order of the topics nor a repetition matters.
    pub spec: IntegrationSpec,
    /// What it is kept for, such as NAMESPACE/NAME. It stands in the notes of the configuration, so that an integration of
    /// the same event source that others keep is not taken for this one.
    pub owner: String,
}

impl DesiredIntegration {
    /// Has a configuration say what is desired, and leaves the rest of it: notes that others have written, too.
    fn write_to(&self, config: &mut Map<String, Value>) {
        let Self { spec, owner } = self;
        config.insert("name".to_owned(), json!(spec.name));
        let notes = config.get("notes").and_then(Value::as_str).unwrap_or_default();
        if notes.is_empty() || notes.starts_with(NOTES) {
            config.insert("notes".to_owned(), json!(notes_of(owner)));
        }
        write_properties(config, spec);
    }
}

fn notes_of(owner: &str) -> String {
    format!("{NOTES}{owner}: changes made here are reverted.")
}

fn write_properties(config: &mut Map<String, Value>, spec: &IntegrationSpec) {
    let properties = config.entry("properties").or_insert_with(|| json!({}));
    if !properties.is_object() {
        *properties = json!({});
    }
    let wanted = [
        ("eventSourceSuffix", json!(spec.event_source_suffix)),
        ("awsAccountId", json!(spec.aws_account_id)),
        ("awsAccountRegion", json!(spec.aws_region)),
        ("eventFilter", json!(as_set(&spec.topics))),
    ];
    for (name, value) in wanted {
        properties[name] = value;
    }
    for name in ["advanced", "credentials"] {
        let part = config.entry(name).or_insert_with(|| json!({}));
        if part.is_null() {
            *part = json!({});
        }
    }
}

fn as_set(topics: &[String]) -> BTreeSet<&str> {
    topics.iter().map(String::as_str).collect()
}

/// An integration as Genesys Cloud shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Integration {
    /// Given by Genesys Cloud at creation: 1 to 256 visible ASCII characters.
    pub id: String,
    /// The name beside the id; that of the configuration counts.
    name: String,
    /// `ENABLED`, `DISABLED` or `DELETED`; empty where the response leaves it out.
    pub intended_state: String,
    /// What has become of that; `None` where the response leaves it out.
    pub reported_state: Option<ReportedState>,
    /// Its configuration; `None` right after its creation.
    pub config: Option<IntegrationConfig>,
}

/// The state that an integration is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedState {
    /// `ACTIVE`, `ACTIVATING`, `INACTIVE`, `DEACTIVATING` or `ERROR`.
    pub code: String,
    /// Why, in Genesys Cloud's words, fit to be shown.
    pub detail: Option<String>,
}

/// The configuration of an integration, as far as it matters here. A property that it does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntegrationConfig {
    #[serde(default, deserialize_with = "text")]
    name: String,
    #[serde(default, deserialize_with = "notes")]
    notes: String,
    #[serde(default, deserialize_with = "or_default")]
    properties: Properties,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    #[serde(default, deserialize_with = "text")]
    event_source_suffix: String,
    #[serde(default, deserialize_with = "text")]
    aws_account_id: String,
    #[serde(default, deserialize_with = "text")]
    aws_account_region: String,
    #[serde(default, deserialize_with = "bounded_event_types")]
    event_filter: Option<BTreeSet<String>>,
}

/// A text, or nothing.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// The beginning of a text.
fn notes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let mut notes = text(deserializer)?;
    let end = (0..=MAX_NOTES_BYTES).rev().find(|end| notes.is_char_boundary(*end));
    notes.truncate(end.unwrap_or_default());
    notes.shrink_to_fit();
    Ok(notes)
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl IntegrationConfig {
    /// Whether it is of this event source, or of none yet and of the name that is looked for.
    fn is_asked_for(&self, suffix: &str, has_name: bool) -> bool {
        let own = &self.properties.event_source_suffix;
        own == suffix || (own.is_empty() && has_name)
    }
}

impl Integration {
    /// As it is once all that is desired is written; what has become of its state is not known.
    #[must_use]
    pub fn written(id: &str, desired: &DesiredIntegration) -> Self {
        let DesiredIntegration { spec, owner } = desired;
        let properties = Properties {
            event_source_suffix: spec.event_source_suffix.clone(),
            aws_account_id: spec.aws_account_id.clone(),
            aws_account_region: spec.aws_region.clone(),
            event_filter: Some(spec.topics.iter().cloned().collect()),
        };
        Self {
            id: id.to_owned(),
            name: spec.name.clone(),
            intended_state: intended_state(spec.enabled).to_owned(),
            reported_state: None,
            config: Some(IntegrationConfig { name: spec.name.clone(), notes: notes_of(owner), properties }),
        }
    }

    /// Whether its notes say that it is kept for this owner, or it has no event source yet and so has no owner.
    #[must_use]
    pub fn is_kept_for(&self, owner: &str) -> bool {
        let notes = self.config.as_ref().map_or("", |config| &config.notes);
        notes == notes_of(owner) || self.event_source_suffix().is_empty()
    }

    /// Its name; empty where the response leaves it out.
    #[must_use]
    pub fn name(&self) -> &str {
        let configured = self.config.as_ref().map(|config| config.name.as_str());
        configured.filter(|name| !name.is_empty()).unwrap_or(&self.name)
    }

    /// The suffix of its event source; empty before it is configured.
    #[must_use]
    pub fn event_source_suffix(&self) -> &str {
        self.properties().map_or("", |properties| &properties.event_source_suffix)
    }

    /// The AWS account and region of its event source; `None` before it is configured.
    #[must_use]
    pub fn aws_account_and_region(&self) -> Option<(&str, &str)> {
        let Properties { aws_account_id, aws_account_region, .. } = self.properties()?;
        let is_configured = !(aws_account_id.is_empty() && aws_account_region.is_empty());
        is_configured.then_some((aws_account_id, aws_account_region))
    }

    fn properties(&self) -> Option<&Properties> {
        self.config.as_ref().map(|config| &config.properties)
    }

    /// The drift, in a fixed order; empty where there is none.
    #[must_use]
    pub fn differences(&self, desired: &IntegrationSpec) -> Vec<IntegrationDifference> {
        let none = Properties::default();
        let properties = self.properties().unwrap_or(&none);
        let topics = properties.event_filter.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>();
        let has_other_state =
            !self.intended_state.is_empty() && self.intended_state != intended_state(desired.enabled);
        let differs = [
            (IntegrationDifference::Name, !self.name().is_empty() && self.name() != desired.name),
            (
                IntegrationDifference::EventSourceSuffix,
                properties.event_source_suffix != desired.event_source_suffix,
            ),
            (IntegrationDifference::AwsAccountId, properties.aws_account_id != desired.aws_account_id),
            (IntegrationDifference::AwsAccountRegion, properties.aws_account_region != desired.aws_region),
            (IntegrationDifference::EventFilter, topics != as_set(&desired.topics)),
            (IntegrationDifference::IntendedState, has_other_state),
        ];
        differs.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect()
    }
}

/// One thing in which an integration is not as desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntegrationDifference {
    /// It has another name.
    Name,
    /// Its event source has another name.
    EventSourceSuffix,
    /// It sends to another AWS account.
    AwsAccountId,
    /// It sends to another AWS region.
    AwsAccountRegion,
    /// It sends other topics.
    EventFilter,
    /// It is disabled instead of enabled, or the other way round.
    IntendedState,
}

impl IntegrationDifference {
    /// Whether it is a part of the configuration.
    #[must_use]
    pub fn is_of_configuration(self) -> bool {
        self != Self::IntendedState
    }
}

impl fmt::Display for IntegrationDifference {
    /// The field's name at Genesys Cloud.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Name => "name",
            Self::EventSourceSuffix => "eventSourceSuffix",
            Self::AwsAccountId => "awsAccountId",
            Self::AwsAccountRegion => "awsAccountRegion",
            Self::EventFilter => "eventFilter",
            Self::IntendedState => "intendedState",
        })
    }
}

/// An integration as a response brings it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    id: Option<String>,
    name: Option<String>,
    integration_type: Option<ReceivedType>,
    intended_state: Option<String>,
    reported_state: Option<ReceivedState>,
    config: Option<ReceivedConfig>,
}

#[derive(Deserialize)]
struct ReceivedType {
    id: Option<String>,
}

#[derive(Deserialize)]
struct ReceivedState {
    code: Option<String>,
    detail: Option<ReceivedDetail>,
}

/// `MessageInfo` of Genesys's own clients.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceivedDetail {
    message: Option<String>,
    message_with_params: Option<String>,
    localizable_message_code: Option<String>,
}

#[derive(Deserialize)]
struct ReceivedConfig {
    current: Option<ReceivedCurrent>,
}

/// The list may give the configuration's address alone.
#[derive(Deserialize)]
struct ReceivedCurrent {
    properties: Option<Properties>,
    name: Option<String>,
    #[serde(default, deserialize_with = "notes")]
    notes: String,
}

/// What a state is cut to. Those that Genesys Cloud has are shorter.
const MAX_STATE_BYTES: usize = 32;

impl Received {
    fn is_of_another_type(&self) -> bool {
        let type_ = self.integration_type.as_ref().and_then(|type_| type_.id.as_deref());
        type_.is_some_and(|type_| type_ != TYPE)
    }

    /// `None` where there is no id to go by.
    fn into_integration(self, client: &Client) -> Option<Integration> {
        let current = self.config.and_then(|config| config.current);
        let config = current.and_then(|current| {
            let properties = current.properties?;
            let name = current.name.unwrap_or_default();
            Some(IntegrationConfig { name, notes: current.notes, properties })
        });
        let is_state =
            |code: &String| code.len() <= MAX_STATE_BYTES && code.bytes().all(|byte| byte.is_ascii_graphic());
        let reported_state = self.reported_state.and_then(|state| {
            let detail = state.detail.and_then(|detail| {
                let texts = [detail.message_with_params, detail.message, detail.localizable_message_code];
                texts.into_iter().flatten().find(|text| !text.is_empty())
            });
            let detail = detail.and_then(|detail| client.quote(&detail));
            Some(ReportedState { code: state.code.filter(is_state)?, detail })
        });
        Some(Integration {
            id: self.id.filter(|id| is_id(id))?,
            name: self.name.unwrap_or_default(),
            intended_state: self.intended_state.filter(is_state).unwrap_or_default(),
            reported_state,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use presenceroute_core::genesys_api::TokenRequest;
    use secrecy::SecretString;

    use super::*;
    use crate::client::{Access, Genesys};

    fn desired() -> DesiredIntegration {
        DesiredIntegration { spec: spec(), owner: "presence/contact-centre".to_owned() }
    }

    fn spec() -> IntegrationSpec {
        IntegrationSpec {
            name: "presence-contact-centre".to_owned(),
            event_source_suffix: "presence-contact-centre".to_owned(),
            aws_account_id: "123456789012".to_owned(),
            aws_region: "eu-west-1".to_owned(),
            topics: ["v2.users.{id}.presence", "v2.users.{id}.activity"].map(str::to_owned).into(),
            enabled: true,
        }
    }

    fn client() -> Client {
        let access = Access {
            api_url: "http://api".to_owned(),
            login_url: None,
            token_path: "/oauth/token".to_owned(),
            event_bridges_path: "/bridges".to_owned(),
            token_request: TokenRequest::Form,
            client_id: "id".to_owned(),
            client_secret: SecretString::from("client-secret"),
            ca_pem: None,
        };
        Genesys::new().client(access).unwrap()
    }

    fn received(answer: Value) -> Option<Integration> {
        serde_json::from_value::<Received>(answer).unwrap().into_integration(&client())
    }

    fn as_desired() -> Value {
        json!({
            "id": "1", "name": "presence-contact-centre",
            "integrationType": {"id": "amazon-eventbridge-source"},
            "intendedState": "ENABLED",
            "reportedState": {"code": "ACTIVE", "lastUpdated": "2026-11-30T20:00:00Z"},
            "config": {"current": {
                "name": "presence-contact-centre", "version": 3, "notes": "",
                "properties": {
                    "eventSourceSuffix": "presence-contact-centre", "awsAccountId": "123456789012",
                    "awsAccountRegion": "eu-west-1",
                    "eventFilter": ["v2.users.{id}.presence", "v2.users.{id}.activity"],
                },
                "advanced": {}, "credentials": {},
            }},
        })
    }

    fn with(pointer: &str, value: Value) -> Integration {
        let mut answer = as_desired();
        *answer.pointer_mut(pointer).unwrap() = value;
        received(answer).unwrap()
    }

    #[test]
    fn an_integration_as_desired_does_not_differ() {
        assert_eq!(received(as_desired()).unwrap().differences(&spec()), []);
        assert_eq!(Integration::written("1", &desired()).differences(&spec()), []);
    }

    #[test]
    fn each_drift_of_an_integration_is_named() {
        const PROPERTIES: &str = "/config/current/properties";
        for (pointer, value, difference) in [
            ("/config/current/name", json!("x"), "name"),
            (&format!("{PROPERTIES}/eventSourceSuffix"), json!("x"), "eventSourceSuffix"),
            (&format!("{PROPERTIES}/awsAccountId"), json!("210987654321"), "awsAccountId"),
            (&format!("{PROPERTIES}/awsAccountRegion"), json!("us-east-1"), "awsAccountRegion"),
            (&format!("{PROPERTIES}/eventFilter"), json!(["v2.users.{id}.presence"]), "eventFilter"),
            (&format!("{PROPERTIES}/eventFilter"), json!(null), "eventFilter"),
            ("/intendedState", json!("DISABLED"), "intendedState"),
        ] {
            let differences = with(pointer, value).differences(&spec());
            let names: Vec<_> = differences.iter().map(ToString::to_string).collect();
            assert_eq!(names, [difference]);
        }
    }

    #[test]
    fn an_integration_without_properties_has_all_to_be_written() {
        let new = received(json!({"id": "1", "name": "presence-contact-centre"})).unwrap();
        assert!(new.config.is_none() && new.aws_account_and_region().is_none());
        let differences = new.differences(&spec());
        assert_eq!(differences.len(), 4, "{differences:?}");
        assert!(differences.into_iter().all(IntegrationDifference::is_of_configuration));
    }

    #[test]
    fn a_state_carries_its_reason_in_the_servers_words() {
        let state =
            |answer: Value| received(json!({"id": "1", "reportedState": answer})).unwrap().reported_state;
        let error = state(json!({"code": "ERROR", "detail": {
            "message": "account {account} is\nunknown", "messageWithParams": "account 1 is\nunknown to client-secret",
        }}));
        assert_eq!(
            error,
            Some(ReportedState {
                code: "ERROR".to_owned(),
                detail: Some("account 1 is unknown to [redacted]".to_owned()),
            })
        );
        let coded = state(json!({"code": "ERROR", "detail": {"localizableMessageCode": "x.y"}}));
        assert_eq!(coded.unwrap().detail.as_deref(), Some("x.y"));
        for none in [json!(null), json!({}), json!({"code": "x".repeat(33)}), json!({"code": "a b"})] {
            assert_eq!(state(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn a_configuration_keeps_what_others_have_written() {
        let Value::Object(mut config) = json!({
            "id": "c", "version": 7, "name": "old", "notes": "ask the network team",
            "properties": {"eventSourceSuffix": "old", "isEnhanced": true},
            "advanced": {"a": 1}, "credentials": null,
        }) else {
            panic!()
        };
        desired().write_to(&mut config);
        assert_eq!(
            Value::Object(config),
            json!({
                "id": "c", "version": 7, "name": "presence-contact-centre", "notes": "ask the network team",
                "properties": {
                    "eventSourceSuffix": "presence-contact-centre", "awsAccountId": "123456789012",
                    "awsAccountRegion": "eu-west-1", "isEnhanced": true,
                    "eventFilter": ["v2.users.{id}.activity", "v2.users.{id}.presence"],
                },
                "advanced": {"a": 1}, "credentials": {},
            })
        );
        let mut new = Map::new();
        desired().write_to(&mut new);
        assert_eq!(
            new["notes"],
            "Kept by PresenceRoute presence/contact-centre: changes made here are reverted."
        );
    }

    #[test]
    fn an_integration_is_kept_for_the_owner_that_its_notes_name() {
        assert!(Integration::written("1", &desired()).is_kept_for("presence/contact-centre"));
        assert!(!Integration::written("1", &desired()).is_kept_for("presence/contact"));
        assert!(!received(as_desired()).unwrap().is_kept_for("presence/contact-centre"), "made by hand");
        let new = received(json!({"id": "1", "name": "presence-contact-centre"})).unwrap();
        assert!(new.is_kept_for("presence/contact-centre"), "it has no configuration");
        let long = with("/config/current/notes", json!("é".repeat(1 << 16)));
        assert!(long.config.unwrap().notes.len() <= MAX_NOTES_BYTES);
    }

    #[test]
    fn an_integration_is_found_by_its_suffix_or_its_name() {
        let config = |suffix: &str| {
            let properties = Properties { event_source_suffix: suffix.to_owned(), ..Properties::default() };
            IntegrationConfig { properties, ..IntegrationConfig::default() }
        };
        assert!(config("ours").is_asked_for("ours", false), "by another name");
        assert!(config("").is_asked_for("ours", true), "not configured yet");
        assert!(!config("").is_asked_for("ours", false));
        assert!(!config("theirs").is_asked_for("ours", true), "of another event source");
    }
}
