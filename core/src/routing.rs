//! The routing table: the file `routing.yaml` that the operator writes and the relay serves.
//!
//! A [`RoutingTable`] that exists is valid: names are legal, conditions are compiled. It says which topics an event
//! goes to; a [`Router`] finds them fast. Both are pure, so that what explains a table to a person decides as the relay
//! does. What only writes a table has one whose conditions are [checked](CheckedCondition), and keeps nothing compiled.

mod router;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::condition::{Budget, CheckedCondition, Condition, ConditionError};

pub use router::{Decision, Key, Routed, Router, Target, Verdict};

/// The format that this version reads and writes.
pub const VERSION: u32 = 1;

/// Which events go to which topics, and what becomes of the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoutingTable<When = Condition> {
    version: u32,
    revision: String,
    routes: Vec<Route<When>>,
    unmatched: Unmatched,
}

/// A table to be written, and not to be served.
pub type CheckedTable = RoutingTable<CheckedCondition>;

/// One rule of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route<When = Condition> {
    /// The events that it is for.
    pub event_type: EventTypePattern,
    /// A further condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// Where they go.
    pub topic: TopicName,
    /// The key of their records.
    pub key: RecordKey,
    /// How their records carry them.
    #[serde(skip_serializing_if = "ContentMode::is_binary")]
    pub content_mode: ContentMode,
}

/// How a record carries an event, by the Kafka protocol binding of CloudEvents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ContentMode {
    /// The value is the event's bytes; what CloudEvents says of it is in the headers.
    #[default]
    Binary,
    /// The value is a CloudEvent in JSON, with the event as its data.
    Structured,
}

impl ContentMode {
    /// Whether it is the default.
    pub fn is_binary(&self) -> bool {
        *self == Self::Binary
    }
}

/// What becomes of an event whose type no route names; with `include_filtered` also of one whose type a route names and
/// for which no condition holds. Without it, such an event is answered 200 and counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Unmatched {
    /// It is answered with an error.
    Reject {
        /// Which one.
        #[serde(default)]
        status: RejectStatus,
        /// Whether it is for filtered events, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        include_filtered: bool,
        /// Where what was authenticated and is no event goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invalid: Option<InvalidEvents>,
    },
    /// It is answered 200 and counted.
    Drop {
        /// Whether it is for filtered events, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        include_filtered: bool,
        /// Where what was authenticated and is no event goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invalid: Option<InvalidEvents>,
    },
    /// It is published to a topic of its own.
    DeadLetter {
        /// Where.
        topic: TopicName,
        /// Whether it is for filtered events, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        include_filtered: bool,
        /// Where what was authenticated and is no event goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invalid: Option<InvalidEvents>,
    },
}

impl Unmatched {
    /// Whether it also decides about events for which no condition holds.
    pub fn includes_filtered(&self) -> bool {
        match self {
            Self::Reject { include_filtered, .. }
            | Self::Drop { include_filtered, .. }
            | Self::DeadLetter { include_filtered, .. } => *include_filtered,
        }
    }

    /// Where what was authenticated and is no event goes; `None` where it is rejected.
    pub fn invalid(&self) -> Option<&InvalidEvents> {
        match self {
            Self::Reject { invalid, .. } | Self::Drop { invalid, .. } | Self::DeadLetter { invalid, .. } => {
                invalid.as_ref()
            }
        }
    }
}

impl Default for Unmatched {
    fn default() -> Self {
        Self::Reject { status: RejectStatus::default(), include_filtered: false, invalid: None }
    }
}

/// What becomes of that which was authenticated and is no event: it is published as it came, so that nothing that was
/// signed is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvalidEvents {
    /// Where.
    pub topic: TopicName,
}

/// The HTTP status that refuses an unmatched event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum RejectStatus {
    /// 404.
    #[default]
    NotFound,
    /// 400.
    BadRequest,
}

impl TryFrom<u16> for RejectStatus {
    type Error = RoutingError;

    fn try_from(status: u16) -> Result<Self, Self::Error> {
        match status {
            404 => Ok(Self::NotFound),
            400 => Ok(Self::BadRequest),
            other => Err(RoutingError::RejectStatus(other)),
        }
    }
}

impl From<RejectStatus> for u16 {
    fn from(status: RejectStatus) -> Self {
        match status {
            RejectStatus::NotFound => 404,
            RejectStatus::BadRequest => 400,
        }
    }
}

/// Why something is not a routing table.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RoutingError {
    /// Neither the table's format nor the short form.
    #[error("the routing table is not valid: {0}")]
    Format(String),
    /// A table of another time.
    #[error("the routing table has version {0}; this relay reads version {VERSION}: run matching versions")]
    Version(u32),
    /// No routes, which would refuse every event.
    #[error("the routing table has no routes; add at least one")]
    Empty,
    /// An event type that cannot match what it seems to.
    #[error("event type {0:?} is not legal: 1 to 256 characters without spaces, and a * only at the end")]
    EventType(String),
    /// A name that Kafka would refuse.
    #[error(
        "topic {0:?} is not legal: 1 to 249 letters, digits, dots, underscores and hyphens, and not . or .."
    )]
    Topic(String),
    /// A key that no event has.
    #[error("key {0:?} is unknown; use id, source, subject or attributes.PATH")]
    Key(String),
    /// A status that the contract does not know.
    #[error("unmatched.status {0} is not legal; use 404 or 400")]
    RejectStatus(u16),
    /// A condition that does not compile.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// The same in a table that was read.
    #[error("routes[{index}].when: {cause}")]
    When {
        /// The route's position, from 0.
        index: usize,
        /// Why.
        cause: ConditionError,
    },
}

impl<When: Serialize> RoutingTable<When> {
    /// Makes a table; its revision is a hash of its content.
    pub fn new(routes: Vec<Route<When>>, unmatched: Unmatched) -> Result<Self, RoutingError> {
        if routes.is_empty() {
            return Err(RoutingError::Empty);
        }
        let revision = content_hash(&(&routes, &unmatched))?;
        Ok(Self { version: VERSION, revision, routes, unmatched })
    }

    /// The table as the text of `routing.yaml`.
    pub fn to_yaml(&self) -> Result<String, RoutingError> {
        serde_saphyr::to_string(self).map_err(|cause| RoutingError::Format(cause.to_string()))
    }

    /// What identifies the table's content: 12 hexadecimal digits when this project made it.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The rules, in the order of the manifest. There is at least one.
    pub fn routes(&self) -> &[Route<When>] {
        &self.routes
    }

    /// What becomes of an event that no rule matches.
    pub fn unmatched(&self) -> &Unmatched {
        &self.unmatched
    }

    /// Every topic that the table can publish to, sorted, each once.
    pub fn topics(&self) -> Vec<&TopicName> {
        let dead_letter = match &self.unmatched {
            Unmatched::DeadLetter { topic, .. } => Some(topic),
            Unmatched::Reject { .. } | Unmatched::Drop { .. } => None,
        };
        let invalid = self.unmatched.invalid().map(|invalid| &invalid.topic);
        let routed = self.routes.iter().map(|route| &route.topic);
        let mut topics: Vec<_> = routed.chain(dead_letter).chain(invalid).collect();
        topics.sort();
        topics.dedup();
        topics
    }
}

impl RoutingTable {
    /// Reads a table in YAML or JSON: the whole form, or the short one, `{EVENT_TYPE: TOPIC, ...}`.
    ///
    /// The revision is the one in the text, so that its author can recognise it, else the content's hash. A route without a
    /// key has the event's id.
    pub fn parse(text: &str) -> Result<Self, RoutingError> {
        Self::parse_with(text, &RecordKey::Id)
    }

    /// The same, with the key of a route that names none.
    ///
    /// # Errors
    /// The text is no table, or not a valid one.
    pub fn parse_with(text: &str, default_key: &RecordKey) -> Result<Self, RoutingError> {
        match from_yaml::<Form>(text)? {
            Form::Short(entries) => {
                let routes = entries.into_iter().map(|(event_type, topic)| Route {
                    event_type,
                    when: None,
                    topic,
                    key: default_key.clone(),
                    content_mode: ContentMode::default(),
                });
                Self::new(routes.collect(), Unmatched::default())
            }
            Form::Whole { version, .. } if version != VERSION => Err(RoutingError::Version(version)),
            Form::Whole { revision, routes, unmatched, .. } => {
                let table = Self::new(compile(routes, default_key)?, unmatched)?;
                Ok(Self { revision: revision.unwrap_or(table.revision), ..table })
            }
        }
    }
}

/// The two forms of the file, told apart by the key `routes`, which is no event type that Genesys Cloud has.
enum Form {
    Short(BTreeMap<EventTypePattern, TopicName>),
    Whole { version: u32, revision: Option<String>, routes: Vec<Uncompiled>, unmatched: Unmatched },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u32,
    #[serde(default)]
    revision: Option<String>,
    routes: Vec<Uncompiled>,
    #[serde(default)]
    unmatched: Unmatched,
}

/// A [`Route`] as it is written. Its condition is compiled within the table's budget, which a deserializer does not know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Uncompiled {
    event_type: EventTypePattern,
    #[serde(default)]
    when: Option<String>,
    topic: TopicName,
    #[serde(default)]
    key: Option<RecordKey>,
    #[serde(default)]
    content_mode: ContentMode,
}

fn compile(routes: Vec<Uncompiled>, default_key: &RecordKey) -> Result<Vec<Route>, RoutingError> {
    let mut budget = Budget::default();
    let compiled = routes.into_iter().enumerate().map(|(index, route)| {
        let Uncompiled { event_type, when, topic, key, content_mode } = route;
        let when = when.map(|source| Condition::compile_within(&source, &mut budget)).transpose();
        let when = when.map_err(|cause| RoutingError::When { index, cause })?;
        let key = key.unwrap_or_else(|| default_key.clone());
        Ok(Route { event_type, when, topic, key, content_mode })
    });
    compiled.collect()
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(deserializer)?;
        if value.get("routes").is_some_and(serde_json::Value::is_array) || value.get("version").is_some() {
            let Whole { version, revision, routes, unmatched } =
                serde_json::from_value(value).map_err(D::Error::custom)?;
            Ok(Self::Whole { version, revision, routes, unmatched })
        } else {
            serde_json::from_value(value).map(Self::Short).map_err(D::Error::custom)
        }
    }
}

fn from_yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, RoutingError> {
    // YAML 1.1 takes `y`, `no` and `on` for booleans, and each of them is a legal topic.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|cause| RoutingError::Format(cause.to_string()))
}

fn content_hash(content: &impl Serialize) -> Result<String, RoutingError> {
    let canonical = serde_json::to_vec(content).map_err(|cause| RoutingError::Format(cause.to_string()))?;
    let mut digest = hex::encode(Sha256::digest(&canonical));
    digest.truncate(12);
    Ok(digest)
}

/// An event type, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EventTypePattern {
    /// Matches this event type.
    Exact(String),
    /// Matches every event type that begins with this; written with a `*` behind it.
    Prefix(String),
}

impl EventTypePattern {
    /// Whether an event of this type is meant.
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == event_type,
            Self::Prefix(prefix) => event_type.starts_with(prefix.as_str()),
        }
    }
}

impl TryFrom<String> for EventTypePattern {
    type Error = RoutingError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (body, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text.as_str(), false),
        };
        let legal = !text.is_empty()
            && text.chars().count() <= 256
            && !body.chars().any(|character| character == '*' || character.is_whitespace());
        match (legal, is_prefix) {
            (false, _) => Err(RoutingError::EventType(text)),
            (true, true) => Ok(Self::Prefix(body.into())),
            (true, false) => Ok(Self::Exact(text)),
        }
    }
}

impl From<EventTypePattern> for String {
    fn from(pattern: EventTypePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for EventTypePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => formatter.write_str(exact),
            Self::Prefix(prefix) => write!(formatter, "{prefix}*"),
        }
    }
}

/// A topic name that Kafka accepts (`org.apache.kafka.common.internals.Topic`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(String);

impl TopicName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = RoutingError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let legal = (1..=249).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if legal { Ok(Self(name)) } else { Err(RoutingError::Topic(name)) }
    }
}

impl From<TopicName> for String {
    fn from(topic: TopicName) -> Self {
        topic.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What becomes a record's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RecordKey {
    /// The event's id.
    #[default]
    Id,
    /// The event's source.
    Source,
    /// What the event is about: the user's id in a notification.
    Subject,
    /// A value inside the event's attributes, by the names that lead to it.
    Attribute(Vec<String>),
}

impl TryFrom<String> for RecordKey {
    type Error = RoutingError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "id" => return Ok(Self::Id),
            "source" => return Ok(Self::Source),
            "subject" => return Ok(Self::Subject),
            _ => {}
        }
        let legal = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        match text.strip_prefix("attributes.") {
            Some(path) if path.split('.').all(legal) => {
                Ok(Self::Attribute(path.split('.').map(str::to_owned).collect()))
            }
            _ => Err(RoutingError::Key(text)),
        }
    }
}

impl From<RecordKey> for String {
    fn from(key: RecordKey) -> Self {
        match key {
            RecordKey::Id => "id".into(),
            RecordKey::Source => "source".into(),
            RecordKey::Subject => "subject".into(),
            RecordKey::Attribute(path) => format!("attributes.{}", path.join(".")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
version: 1
revision: abc
routes:
- {eventType: "presence:state:changed", topic: gen-presence-state}
- {eventType: "presence:*", topic: gen-presence, key: attributes.user.id, when: "attributes.presence == 'AVAILABLE'"}
unmatched: {action: DeadLetter, topic: gen-presence-unmatched}
"#;

    #[test]
    fn reads_the_whole_form_and_keeps_its_revision() {
        let table = RoutingTable::parse(WHOLE).unwrap();
        assert_eq!(table.revision(), "abc");
        assert_eq!(table.routes()[1].event_type, EventTypePattern::Prefix("presence:".into()));
        assert_eq!(table.routes()[1].key, RecordKey::Attribute(vec!["user".into(), "id".into()]));
        let topics: Vec<_> = table.topics().into_iter().map(TopicName::as_str).collect();
        assert_eq!(topics, ["gen-presence", "gen-presence-state", "gen-presence-unmatched"]);
    }

    #[test]
    fn reads_the_short_form() {
        let table =
            RoutingTable::parse(r#"{"presence:state:changed": gen-presence-state, "b:*": rest}"#).unwrap();
        assert_eq!(table.routes().len(), 2);
        assert_eq!(table.unmatched(), &Unmatched::default());
        assert_eq!(table.revision().len(), 12);
    }

    #[test]
    fn a_route_without_a_key_has_the_default_one() {
        for text in [
            "{a: x}",
            "{version: 1, routes: [{eventType: a, topic: x}]}",
            "{version: 1, routes: [{eventType: a, topic: x, key: subject}]}",
        ] {
            let table = RoutingTable::parse_with(text, &RecordKey::Subject).unwrap();
            assert_eq!(table.routes()[0].key, RecordKey::Subject, "{text}");
            assert!(table.to_yaml().unwrap().contains("key: subject"), "{text}");
        }
        let named = "{version: 1, routes: [{eventType: a, topic: x, key: id}]}";
        assert_eq!(
            RoutingTable::parse_with(named, &RecordKey::Subject).unwrap().routes()[0].key,
            RecordKey::Id
        );
        assert_eq!(RoutingTable::parse("{a: x}").unwrap().routes()[0].key, RecordKey::Id);
    }

    #[test]
    fn survives_being_written_and_read() {
        let table = RoutingTable::parse(WHOLE).unwrap();
        assert_eq!(RoutingTable::parse(&table.to_yaml().unwrap()).unwrap(), table);
    }

    #[test]
    fn the_content_mode_is_written_only_where_it_is_not_binary() {
        let text = "{version: 1, routes: [{eventType: a, topic: x, contentMode: Structured}, {eventType: a, topic: y, contentMode: Binary}]}";
        let table = RoutingTable::parse(text).unwrap();
        let modes: Vec<_> = table.routes().iter().map(|route| route.content_mode).collect();
        assert_eq!(modes, [ContentMode::Structured, ContentMode::Binary]);
        // A relay that does not know the field reads a table without it.
        let yaml = table.to_yaml().unwrap();
        assert_eq!(yaml.matches("contentMode").count(), 1, "{yaml}");
        assert_eq!(RoutingTable::parse(&yaml).unwrap(), table);
    }

    #[test]
    fn names_that_yaml_reads_as_other_types_survive() {
        let route = |topic: &str| Route {
            event_type: EventTypePattern::Exact("on".into()),
            when: None,
            topic: TopicName::try_from(topic.to_owned()).unwrap(),
            key: RecordKey::Id,
            content_mode: ContentMode::Binary,
        };
        let routes = ["y", "no", "true", "null", "123", "1e3", "0x1f", "1.5", "-", "_"].map(route);
        let table =
            RoutingTable::new(routes.into(), Unmatched::Drop { include_filtered: true, invalid: None })
                .unwrap();
        assert_eq!(RoutingTable::parse(&table.to_yaml().unwrap()).unwrap(), table);
    }

    #[test]
    fn a_topic_for_invalid_events_goes_with_every_action() {
        let table = |unmatched: &str| {
            RoutingTable::parse(&format!(
                "version: 1\nroutes: [{{eventType: a, topic: t}}]\nunmatched: {unmatched}\n"
            ))
        };
        for action in ["action: Reject, status: 400", "action: Drop", "action: DeadLetter, topic: rest"] {
            let without = table(&format!("{{{action}}}")).unwrap();
            assert_eq!(without.unmatched().invalid(), None);
            assert!(!without.to_yaml().unwrap().contains("invalid"), "an older relay reads it");
            let with = table(&format!("{{{action}, invalid: {{topic: bad}}}}")).unwrap();
            assert_eq!(with.unmatched().invalid().unwrap().topic.as_str(), "bad");
            assert!(with.topics().iter().any(|topic| topic.as_str() == "bad"));
            assert_eq!(RoutingTable::parse(&with.to_yaml().unwrap()).unwrap(), with);
            assert_ne!(with.revision(), without.revision());
        }
        let error =
            |invalid: &str| table(&format!("{{action: Drop, invalid: {invalid}}}")).unwrap_err().to_string();
        assert!(error("{topic: 'no spaces'}").contains(r#"topic "no spaces" is not legal"#));
        assert!(error("{}").contains("topic") && error("{topic: a, key: id}").contains("key"));
    }

    #[test]
    fn the_revision_follows_the_content() {
        let of = |text: &str| RoutingTable::parse(text).unwrap().revision().to_owned();
        assert_eq!(of("{a: x, b: y}"), of("{b: y, a: x}"));
        assert_ne!(of("{a: x}"), of("{a: y}"));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |text: &str| RoutingTable::parse(text).unwrap_err().to_string();
        assert!(error("{a: 'no spaces'}").contains(r#"topic "no spaces" is not legal"#));
        assert!(error("{'a*b': x}").contains(r#"event type "a*b" is not legal"#));
        assert!(error("{version: 2, routes: [{eventType: a, topic: b}]}").contains("has version 2"));
        assert!(error("{version: 1, routes: []}").contains("has no routes"));
        assert!(error("{}").contains("has no routes"));
        assert!(
            error("{version: 1, routes: [{eventType: a, topic: b, key: body}]}")
                .contains(r#"key "body" is unknown"#)
        );
        assert!(
            error("{version: 1, routes: [{eventType: a, topic: b, when: 'x =='}]}")
                .contains("not a CEL expression")
        );
        assert!(error("{version: 1, routes: [{eventType: a, topics: b}]}").contains("topics"));
        let large = "{eventType: a, topic: b, when: \"id.matches(r'[\\\\pL\\\\pN]{20}')\"}";
        let table = format!("{{version: 1, routes: [{}]}}", vec![large; 20].join(", "));
        let error_of_large = error(&table);
        assert!(
            error_of_large
                .contains("].when: the patterns of the table's CEL expressions take more than 16 MiB"),
            "{error_of_large}"
        );
        assert!(
            error(
                "{version: 1, routes: [{eventType: a, topic: b}], unmatched: {action: Reject, status: 500}}"
            )
            .contains("unmatched.status 500")
        );
        assert!(error("a: [").contains("not valid"));
    }

    #[test]
    fn a_wildcard_matches_the_rest() {
        let pattern = |text: &str| EventTypePattern::try_from(text.to_owned()).unwrap();
        assert!(pattern("presence:*").matches("presence:state:changed"));
        assert!(!pattern("presence:*").matches("routing:state:changed"));
        assert!(pattern("*").matches("anything"));
        assert!(pattern("a").matches("a") && !pattern("a").matches("ab"));
    }
}
