//! Presence events as Genesys sends them. Everything but the timestamp is derived from the seed, so that a
//! run can be repeated with the same ids.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How many people a generated contact centre has.
const USERS: u64 = 250;

const PRESENCES: [&str; 8] = ["AVAILABLE", "BUSY", "AWAY", "BREAK", "MEAL", "MEETING", "TRAINING", "OFFLINE"];
const STATUSES: [&str; 6] =
    ["ON_QUEUE", "IDLE", "INTERACTING", "COMMUNICATING", "NOT_RESPONDING", "OFF_QUEUE"];

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Distinct for each event of a run.
    pub id: Uuid,
    /// For example `presence:state:changed`.
    pub event_type: String,
    /// When it happened, in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The system that sends it.
    pub source: String,
    /// `userId`, `organizationId`, `presence`, `status`, what the type adds, and what the plan sets.
    pub attributes: Map<String, Value>,
}

/// Generates the events of one run.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    source: String,
    attributes: Map<String, Value>,
}

impl Generator {
    /// Events derived from `seed`, all from `source`; `attributes` replace or join the generated ones.
    #[must_use]
    pub fn new(seed: u64, source: impl Into<String>, attributes: Map<String, Value>) -> Self {
        Self { seed, source: source.into(), attributes }
    }

    /// The event of that index. The same index gives the same event, but for `timestamp`.
    #[must_use]
    pub fn event(&self, index: u64, event_type: &str, timestamp: i64) -> Event {
        let dice = self.roll("event", index);
        let pick = |byte: usize, choices: &[&'static str]| choices[usize::from(dice[byte]) % choices.len()];
        let user = u64::from(u16::from_be_bytes([dice[16], dice[17]])) % USERS;

        let mut attributes = Map::new();
        let mut set = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
        set("userId", json!(random_uuid(&self.roll("user", user))));
        set("organizationId", json!(random_uuid(&self.roll("organization", 0))));
        set("presence", json!(pick(18, &PRESENCES)));
        set("status", json!(pick(19, &STATUSES)));
        if event_type.contains(":state:") {
            set("previousPresence", json!(pick(20, &PRESENCES)));
        }
        if event_type.contains(":status:") {
            set("previousStatus", json!(pick(21, &STATUSES)));
        }
        attributes.extend(self.attributes.clone());

        Event {
            id: random_uuid(&dice),
            event_type: event_type.to_owned(),
            timestamp,
            source: self.source.clone(),
            attributes,
        }
    }

    fn roll(&self, what: &str, index: u64) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.seed.to_be_bytes())
            .chain_update(what)
            .chain_update(index.to_be_bytes())
            .finalize()
            .into()
    }
}

fn random_uuid(dice: &[u8; 32]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&dice[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn generator(seed: u64) -> Generator {
        Generator::new(seed, "genesys-cloud", Map::new())
    }

    #[test]
    fn a_seed_gives_the_same_events_again() {
        let once = generator(7).event(3, "presence:state:changed", 1);
        assert_eq!(once, generator(7).event(3, "presence:state:changed", 1));
        assert_ne!(once.id, generator(8).event(3, "presence:state:changed", 1).id);
    }

    #[test]
    fn every_event_of_a_run_has_its_own_id() {
        let ids: HashSet<_> =
            (0..5_000).map(|i| generator(1).event(i, "presence:state:changed", 0).id).collect();
        assert_eq!(ids.len(), 5_000);
    }

    #[test]
    fn an_event_has_the_fields_of_the_contract() {
        let event = generator(1).event(0, "presence:state:changed", 1_700_000_000_000);
        let json = serde_json::to_value(&event).unwrap();
        assert!(json["id"].is_string());
        assert_eq!(json["eventType"], "presence:state:changed");
        assert_eq!(json["timestamp"], 1_700_000_000_000_i64);
        assert_eq!(json["source"], "genesys-cloud");
        assert!(json["attributes"]["userId"].is_string());
        assert!(PRESENCES.contains(&json["attributes"]["presence"].as_str().unwrap()));
    }

    #[test]
    fn set_attributes_replace_generated_ones() {
        let set = Map::from_iter([("presence".to_owned(), json!("MEAL"))]);
        let event = Generator::new(1, "x", set).event(0, "presence:state:changed", 0);
        assert_eq!(event.attributes["presence"], "MEAL");
        assert!(event.attributes.contains_key("userId"));
    }
}
