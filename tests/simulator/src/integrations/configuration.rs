//! An integration's configuration: read from a client, and checked as the type's schema says.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::problem::Problem;

pub(super) const SUFFIX: &str = "eventSourceSuffix";
const ACCOUNT: &str = "awsAccountId";
const REGION: &str = "awsAccountRegion";
const FILTER: &str = "eventFilter";

/// The longest suffix of an event source's name.
const LONGEST_SUFFIX: usize = 64;

/// Where an integration's events go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventBridgeProperties {
    /// The last part of the event source's name, unique in the organisation.
    pub event_source_suffix: String,
    /// The AWS account of the event bus: 12 digits.
    pub aws_account_id: String,
    /// The AWS region of the event bus.
    pub aws_account_region: String,
    /// The topics that are sent; not empty.
    pub event_filter: Vec<String>,
}

impl EventBridgeProperties {
    /// Reads the properties, or says which is missing or wrong.
    pub(super) fn read(properties: &Map<String, Value>) -> Result<Self, String> {
        let text = |name: &str, is_right: fn(&str) -> bool, rule: &str| {
            properties
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| is_right(text))
                .map(str::to_owned)
                .ok_or_else(|| format!("the property {name:?} must be {rule}"))
        };
        let is_suffix = |text: &str| {
            (1..=LONGEST_SUFFIX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_region = |text: &str| !text.is_empty();
        let event_source_suffix =
            text(SUFFIX, is_suffix, "1 to 64 letters, digits, dots, hyphens or underscores")?;
        let aws_account_id = text(ACCOUNT, is_account, "an AWS account's 12 digits")?;
        let aws_account_region = text(REGION, is_region, "an AWS region")?;
        let event_filter = properties
            .get(FILTER)
            .and_then(Value::as_array)
            .filter(|topics| !topics.is_empty())
            .and_then(|topics| {
                topics.iter().map(|topic| topic.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            })
            .ok_or_else(|| format!("the property {FILTER:?} must be a list, not empty, of topics"))?;
        Ok(Self { event_source_suffix, aws_account_id, aws_account_region, event_filter })
    }
}

/// The schema of the properties, as `GET …/configschemas/properties` returns it.
pub(super) fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "Amazon EventBridge Source",
        "type": "object",
        "required": [SUFFIX, ACCOUNT, REGION, FILTER],
        "properties": {
            SUFFIX: {"type": "string", "maxLength": LONGEST_SUFFIX, "pattern": "^[A-Za-z0-9._-]+$"},
            ACCOUNT: {"type": "string", "pattern": "^[0-9]{12}$"},
            REGION: {"type": "string"},
            FILTER: {"type": "array", "minItems": 1, "items": {"type": "string"}},
        },
        "additionalProperties": false,
    })
}

/// What a client sends to replace a configuration.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) version: u64,
    pub(super) properties: Map<String, Value>,
    pub(super) advanced: Map<String, Value>,
}

impl Draft {
    pub(super) fn check(fields: &Map<String, Value>) -> Result<Self, Problem> {
        let name = fields
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| Problem::missing("name"))?;
        let version =
            fields.get("version").and_then(Value::as_u64).ok_or_else(|| Problem::missing("version"))?;
        let object = |field: &str| match fields.get(field) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(object)) => Ok(object.clone()),
            Some(_) => Err(Problem::bad_request(format!("the field {field:?} must be an object"))),
        };
        let properties = object("properties")?;
        EventBridgeProperties::read(&properties).map_err(Problem::bad_request)?;
        if let Some(unknown) =
            properties.keys().find(|name| ![SUFFIX, ACCOUNT, REGION, FILTER].contains(&name.as_str()))
        {
            return Err(Problem::bad_request(format!("there is no property {unknown:?}")));
        }
        Ok(Self {
            name: name.to_owned(),
            notes: fields.get("notes").and_then(Value::as_str).unwrap_or_default().to_owned(),
            version,
            properties,
            advanced: object("advanced")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties() -> Value {
        json!({
            SUFFIX: "presence-contact-centre",
            ACCOUNT: "123456789012",
            REGION: "eu-west-1",
            FILTER: ["v2.users.{id}.presence"],
        })
    }

    fn check(properties: Value) -> Result<Draft, Problem> {
        let body = json!({"name": "a", "version": 1, "properties": properties});
        Draft::check(body.as_object().unwrap())
    }

    #[test]
    fn every_property_of_the_schema_is_required() {
        assert!(check(properties()).is_ok());
        for name in [SUFFIX, ACCOUNT, REGION, FILTER] {
            let mut properties = properties();
            properties.as_object_mut().unwrap().remove(name);
            let problem = format!("{:?}", check(properties).unwrap_err());
            assert!(problem.contains(name), "{problem}");
        }
    }

    #[test]
    fn a_property_that_the_schema_forbids_is_named() {
        let too_long = "a".repeat(65);
        for (name, wrong) in [
            (SUFFIX, json!("")),
            (SUFFIX, json!("a/b")),
            (SUFFIX, json!(too_long)),
            (ACCOUNT, json!("12345678901")),
            (ACCOUNT, json!(123_456_789_012_u64)),
            (FILTER, json!([])),
            (FILTER, json!([1])),
            ("another", json!("x")),
        ] {
            let mut properties = properties();
            properties[name] = wrong.clone();
            let problem = format!("{:?}", check(properties).unwrap_err());
            assert!(problem.contains(name), "{wrong}: {problem}");
        }
    }
}
