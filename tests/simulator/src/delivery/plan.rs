//! A delivery plan: as a user writes it, and validated.

use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::pace::Pace;
use crate::eventbridges::Registration;

const DEFAULT_SOURCE: &str = "genesys-cloud";

/// Which events to deliver, to which registrations, and how fast. Every field is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeliveryPlan {
    /// How many events; without it, until the run is stopped or `max_seconds` are over.
    pub count: Option<u64>,
    /// How many events a second, above 0 and up to 100000; by default as many as `concurrency` allows.
    pub rate_per_second: Option<f64>,
    /// How many deliveries may be on the wire at once, 1 to 1024; 32 by default. One that waits for its retry
    /// is not on the wire.
    pub concurrency: Option<usize>,
    /// The event types, taken in turn; by default those that the enabled registrations subscribe to.
    pub event_types: Option<Vec<String>>,
    /// The id or the name of the only registration to deliver to. With `event_types` or `events` it receives them
    /// even where it does not subscribe to the type.
    pub registration: Option<String>,
    /// Attributes that replace or join the generated ones.
    pub attributes: Option<Map<String, Value>>,
    /// The events' `source`; `genesys-cloud` by default.
    pub source: Option<String>,
    /// The seed of ids and attributes; by default a new one for each run, so that no id repeats.
    pub seed: Option<u64>,
    /// What the deliveries are signed with.
    pub sign_with: SignWith,
    /// Whole events to send byte for byte, once each and in order, instead of generated ones.
    pub events: Option<Vec<Box<RawValue>>>,
    /// No event is generated later than this many seconds after the start; 3600 where there is no `count`.
    pub max_seconds: Option<u64>,
}

/// What a run's deliveries are signed with.
#[derive(Clone, Debug, Default)]
pub enum SignWith {
    /// The registration's secret.
    #[default]
    Registration,
    /// This secret instead of the registration's.
    Secret(SecretString),
    /// Nothing: there is no signature header.
    Nothing,
}

impl<'de> Deserialize<'de> for SignWith {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Secret { secret: String },
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Word(word)) if word == "registration" => Ok(Self::Registration),
            Ok(Written::Word(word)) if word == "nothing" => Ok(Self::Nothing),
            Ok(Written::Secret { secret }) if !secret.is_empty() => Ok(Self::Secret(secret.into())),
            _ => Err(D::Error::custom(
                "\"signWith\" must be \"registration\", \"nothing\" or {\"secret\": \"...\"}",
            )),
        }
    }
}

/// Why a plan was not started.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// The plan contradicts itself, or a value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// There is no enabled registration to deliver to.
    #[error("no enabled registration is there to deliver to; create one, or name another")]
    NoRegistration,
    /// The event bus has no rule.
    #[error("the event bus has no rule to deliver by; set its rules first")]
    NoRule,
}

/// A valid plan.
#[derive(Debug)]
pub(super) struct CheckedPlan {
    pub(super) pace: Pace,
    pub(super) content: Content,
    pub(super) registration: Option<String>,
    pub(super) attributes: Map<String, Value>,
    pub(super) source: String,
    pub(super) seed: u64,
    pub(super) sign_with: SignWith,
}

/// The events of a plan.
#[derive(Debug)]
pub(super) enum Content {
    /// Generated, of these types or of those that are subscribed to.
    Generated(Option<Vec<String>>),
    /// Listed in the plan.
    Listed(Vec<Box<RawValue>>),
}

impl DeliveryPlan {
    pub(super) fn check(self) -> Result<CheckedPlan, PlanError> {
        let invalid = |message: &str| Err(PlanError::Invalid(message.to_owned()));
        if self.event_types.as_ref().is_some_and(Vec::is_empty) {
            return invalid("\"eventTypes\" must not be empty; leave it out for those that are wanted");
        }
        let (count, content) = match self.events {
            None => (self.count, Content::Generated(self.event_types)),
            Some(events) if events.is_empty() => return invalid("\"events\" must not be empty"),
            Some(_)
                if self.count.is_some()
                    || self.event_types.is_some()
                    || self.attributes.is_some()
                    || self.source.is_some() =>
            {
                return invalid(
                    "\"events\" are sent as they are: leave out \"count\", \"eventTypes\", \"attributes\" and \"source\"",
                );
            }
            Some(events) => (Some(events.len() as u64), Content::Listed(events)),
        };
        let pace = Pace::check(count, self.rate_per_second, self.concurrency, self.max_seconds)?;
        Ok(CheckedPlan {
            pace,
            content,
            registration: self.registration,
            attributes: self.attributes.unwrap_or_default(),
            source: self.source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned()),
            seed: self.seed.unwrap_or_else(random_seed),
            sign_with: self.sign_with,
        })
    }
}

/// 32 bits, so that no JSON reader rounds the number.
pub(crate) fn random_seed() -> u64 {
    Uuid::new_v4().as_u64_pair().0 >> 32
}

impl CheckedPlan {
    /// Whether an event of that type is sent to that candidate.
    pub(super) fn reaches(&self, candidate: &Registration, event_type: Option<&str>) -> bool {
        let insisted = self.registration.is_some() && !matches!(self.content, Content::Generated(None));
        insisted || event_type.is_some_and(|kind| candidate.wants(kind))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(plan: Value) -> Result<CheckedPlan, PlanError> {
        serde_json::from_str::<DeliveryPlan>(&plan.to_string()).unwrap().check()
    }

    #[test]
    fn an_endless_run_ends_after_an_hour() {
        assert_eq!(check(json!({})).unwrap().pace.longest, Some(std::time::Duration::from_secs(3_600)));
        assert_eq!(check(json!({"count": 1})).unwrap().pace.longest, None);
    }

    #[test]
    fn a_plan_that_contradicts_itself_is_refused() {
        for plan in [
            json!({"count": 0}),
            json!({"ratePerSecond": 0}),
            json!({"concurrency": 0}),
            json!({"eventTypes": []}),
            json!({"events": []}),
            json!({"events": [{}], "count": 1}),
        ] {
            assert!(matches!(check(plan.clone()), Err(PlanError::Invalid(_))), "{plan}");
        }
    }

    #[test]
    fn a_misspelt_field_is_not_ignored() {
        assert!(serde_json::from_str::<DeliveryPlan>(r#"{"cuont": 1}"#).is_err());
    }

    #[test]
    fn a_plan_does_not_print_its_secret() {
        let plan: DeliveryPlan = serde_json::from_str(r#"{"signWith": {"secret": "s3cret"}}"#).unwrap();
        assert!(!format!("{plan:?}").contains("s3cret"));
    }
}
