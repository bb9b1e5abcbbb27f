//! The integrations of the type `amazon-eventbridge-source`: what Genesys Cloud keeps of each, and the state that it
//! reports. A change of the intended state and a deletion take effect after a delay, as at Genesys Cloud.

pub(crate) mod api;
mod configuration;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Simulator;
use crate::moment::Moment;
use crate::problem::Problem;
use configuration::Draft;

pub use configuration::EventBridgeProperties;

/// The type's id, the only one that the simulator has.
pub const AMAZON_EVENT_BRIDGE_SOURCE: &str = "amazon-eventbridge-source";

/// One integration as it is now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Integration {
    /// Given by the server at creation.
    pub id: Uuid,
    /// Chosen by the client.
    pub name: String,
    /// Whether the client wants it enabled.
    pub enabled: bool,
    /// What the integration reports of itself.
    pub state: IntegrationState,
    /// Why it is in the state `ERROR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// 1 at creation, one more with each change of the configuration.
    pub config_version: u64,
    /// Where its events go; `None` before it is configured.
    pub properties: Option<EventBridgeProperties>,
    /// The full name of its event source at AWS; `None` before it is configured.
    pub event_source: Option<String>,
}

/// What an integration reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum IntegrationState {
    /// It sends events.
    Active,
    /// It was enabled a moment ago.
    Activating,
    /// It is disabled.
    Inactive,
    /// It was disabled a moment ago.
    Deactivating,
    /// It is enabled and cannot work.
    Error,
}

/// How long changes take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delays {
    pub(crate) activation: Duration,
    pub(crate) deletion: Duration,
}

/// One integration as it was set.
#[derive(Clone, Debug)]
struct Stored {
    id: Uuid,
    name: String,
    notes: String,
    enabled: bool,
    /// When `enabled` changed last; `None` before the first time.
    switched: Option<(Instant, Moment)>,
    version: u64,
    properties: Map<String, Value>,
    advanced: Map<String, Value>,
    deleted: Option<Instant>,
}

impl Stored {
    fn state(
        &self,
        now: Instant,
        delays: Delays,
        failure: Option<&str>,
    ) -> (IntegrationState, Option<String>) {
        let Some((switched, _)) = self.switched else { return (IntegrationState::Inactive, None) };
        let is_settled = now.duration_since(switched) >= delays.activation;
        match (self.enabled, is_settled) {
            (true, false) => (IntegrationState::Activating, None),
            (false, false) => (IntegrationState::Deactivating, None),
            (false, true) => (IntegrationState::Inactive, None),
            (true, true) => match failure.map(str::to_owned).or_else(|| self.incomplete()) {
                Some(reason) => (IntegrationState::Error, Some(reason)),
                None => (IntegrationState::Active, None),
            },
        }
    }

    /// What keeps it from working.
    fn incomplete(&self) -> Option<String> {
        EventBridgeProperties::read(&self.properties).err()
    }

    fn is_gone(&self, now: Instant, delays: Delays) -> bool {
        self.deleted.is_some_and(|deleted| now.duration_since(deleted) >= delays.deletion)
    }
}

/// All integrations, in the order of their creation.
#[derive(Default)]
pub(crate) struct Integrations {
    by_creation: BTreeMap<u64, Stored>,
    created: u64,
    /// Why no integration can work.
    failure: Option<String>,
}

impl Integrations {
    pub(crate) fn clear(&mut self) {
        self.by_creation.clear();
        self.failure = None;
    }

    /// Those that are not gone.
    fn all(&self, now: Instant, delays: Delays) -> impl Iterator<Item = &Stored> {
        self.by_creation.values().filter(move |stored| !stored.is_gone(now, delays))
    }

    /// One that is not gone and, to be changed, not about to go.
    fn find(&mut self, id: &str, now: Instant, delays: Delays) -> Result<&mut Stored, Problem> {
        self.by_creation.retain(|_, stored| !stored.is_gone(now, delays));
        Uuid::parse_str(id)
            .ok()
            .and_then(|id| self.by_creation.values_mut().find(|stored| stored.id == id))
            .ok_or_else(|| Problem::not_found(format!("there is no integration {id:?}")))
    }

    fn create(&mut self, name: String) -> &Stored {
        self.created += 1;
        let stored = Stored {
            id: Uuid::new_v4(),
            name,
            notes: String::new(),
            enabled: false,
            switched: None,
            version: 1,
            properties: Map::new(),
            advanced: Map::new(),
            deleted: None,
        };
        self.by_creation.entry(self.created).or_insert(stored)
    }

    /// Replaces the configuration of the version that the draft names.
    fn configure(&mut self, id: &str, draft: Draft, now: Instant, delays: Delays) -> Result<Stored, Problem> {
        let own = self.find(id, now, delays)?.id;
        let suffix = draft.properties.get(configuration::SUFFIX).and_then(Value::as_str);
        let is_taken = suffix.is_some()
            && self.all(now, delays).any(|other| {
                other.id != own
                    && other.properties.get(configuration::SUFFIX).and_then(Value::as_str) == suffix
            });
        let stored = self.find(id, now, delays)?;
        if draft.version != stored.version {
            return Err(Problem::conflict(format!(
                "the version {} of the configuration does not match the current version {}",
                draft.version, stored.version
            )));
        }
        if is_taken {
            return Err(Problem::bad_request(format!(
                "the property {:?} is that of another integration; it must be unique in the organization",
                configuration::SUFFIX
            )));
        }
        stored.version += 1;
        stored.name = draft.name;
        stored.notes = draft.notes;
        stored.properties = draft.properties;
        stored.advanced = draft.advanced;
        Ok(stored.clone())
    }

    fn switch(&mut self, id: &str, enabled: bool, now: Instant, delays: Delays) -> Result<Stored, Problem> {
        let stored = self.find(id, now, delays)?;
        if stored.enabled != enabled {
            stored.enabled = enabled;
            stored.switched = Some((now, Moment::now()));
        }
        Ok(stored.clone())
    }

    fn delete(&mut self, id: &str, now: Instant, delays: Delays) -> Result<Stored, Problem> {
        let stored = self.find(id, now, delays)?;
        stored.deleted.get_or_insert(now);
        stored.enabled = false;
        Ok(stored.clone())
    }
}

impl Simulator {
    /// All integrations that are not gone, in the order of their creation.
    #[must_use]
    pub fn integrations(&self) -> Vec<Integration> {
        let (now, delays) = (Instant::now(), self.delays());
        let integrations = self.inner.integrations.lock();
        let failure = integrations.failure.as_deref();
        integrations
            .all(now, delays)
            .map(|stored| {
                let (state, reason) = stored.state(now, delays, failure);
                let properties = EventBridgeProperties::read(&stored.properties).ok();
                Integration {
                    id: stored.id,
                    name: stored.name.clone(),
                    enabled: stored.enabled,
                    state,
                    reason,
                    config_version: stored.version,
                    event_source: properties
                        .as_ref()
                        .map(|properties| self.event_source(&properties.event_source_suffix)),
                    properties,
                }
            })
            .collect()
    }

    /// Every enabled integration reports the state `ERROR` with this reason, and sends nothing; `None` ends that.
    pub fn fail_integrations(&self, reason: Option<String>) {
        self.inner.integrations.lock().failure = reason;
    }

    /// The full name at AWS of the event source with that suffix.
    fn event_source(&self, suffix: &str) -> String {
        format!("aws.partner/genesys.com/cloud/{}/{suffix}", self.inner.config.organization_id)
    }

    fn delays(&self) -> Delays {
        let config = &self.inner.config;
        Delays { activation: config.activation_delay, deletion: config.deletion_delay }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DELAYS: Delays = Delays { activation: Duration::from_secs(20), deletion: Duration::from_secs(5) };

    fn draft(version: u64, suffix: &str) -> Draft {
        let properties = json!({
            "eventSourceSuffix": suffix,
            "awsAccountId": "123456789012",
            "awsAccountRegion": "eu-west-1",
            "eventFilter": ["v2.users.{id}.presence"],
        });
        let body = json!({"name": suffix, "version": version, "properties": properties});
        Draft::check(body.as_object().unwrap()).unwrap()
    }

    fn configured(integrations: &mut Integrations, suffix: &str) -> String {
        let id = integrations.create(suffix.to_owned()).id.to_string();
        integrations.configure(&id, draft(1, suffix), Instant::now(), DELAYS).unwrap();
        id
    }

    #[test]
    fn enabling_and_disabling_pass_through_a_state_between() {
        let mut integrations = Integrations::default();
        let id = configured(&mut integrations, "a");
        let start = Instant::now();
        let state = |stored: &Stored, seconds: u64| {
            stored.state(start + Duration::from_secs(seconds), DELAYS, None).0
        };
        let enabled = integrations.switch(&id, true, start, DELAYS).unwrap();
        assert_eq!(state(&enabled, 19), IntegrationState::Activating);
        assert_eq!(state(&enabled, 20), IntegrationState::Active);
        let later = start + Duration::from_secs(60);
        let disabled = integrations.switch(&id, false, later, DELAYS).unwrap();
        assert_eq!(state(&disabled, 79), IntegrationState::Deactivating);
        assert_eq!(state(&disabled, 80), IntegrationState::Inactive);
    }

    #[test]
    fn enabling_twice_does_not_begin_again() {
        let mut integrations = Integrations::default();
        let id = configured(&mut integrations, "a");
        let start = Instant::now();
        integrations.switch(&id, true, start, DELAYS).unwrap();
        let later = start + Duration::from_secs(20);
        let again = integrations.switch(&id, true, later, DELAYS).unwrap();
        assert_eq!(again.state(later, DELAYS, None).0, IntegrationState::Active);
    }

    #[test]
    fn what_is_not_configured_or_fails_reports_an_error() {
        let mut integrations = Integrations::default();
        let id = integrations.create("a".to_owned()).id.to_string();
        let start = Instant::now();
        let enabled = integrations.switch(&id, true, start, DELAYS).unwrap();
        let settled = start + DELAYS.activation;
        let (state, reason) = enabled.state(settled, DELAYS, None);
        assert_eq!(state, IntegrationState::Error);
        assert!(reason.unwrap().contains("eventSourceSuffix"));

        let id = configured(&mut integrations, "b");
        let enabled = integrations.switch(&id, true, start, DELAYS).unwrap();
        let failed = enabled.state(settled, DELAYS, Some("no such AWS account"));
        assert_eq!(failed, (IntegrationState::Error, Some("no such AWS account".to_owned())));
    }

    #[test]
    fn a_deleted_one_stays_until_the_deletion_takes_effect() {
        let mut integrations = Integrations::default();
        let id = configured(&mut integrations, "a");
        let start = Instant::now();
        integrations.delete(&id, start, DELAYS).unwrap();
        let just_before = start + Duration::from_millis(4_999);
        assert!(integrations.find(&id, just_before, DELAYS).is_ok());
        assert!(integrations.find(&id, start + DELAYS.deletion, DELAYS).is_err());
    }

    #[test]
    fn a_suffix_belongs_to_one_integration() {
        let mut integrations = Integrations::default();
        let first = configured(&mut integrations, "a");
        let second = integrations.create("b".to_owned()).id.to_string();
        let now = Instant::now();
        assert!(integrations.configure(&second, draft(1, "a"), now, DELAYS).is_err());
        assert!(integrations.configure(&first, draft(2, "a"), now, DELAYS).is_ok());
    }
}
