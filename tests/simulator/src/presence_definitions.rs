//! The organisation's presence definitions: those of the system, two of its own, and one that is deactivated.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use crate::Simulator;
use crate::permissions::VIEW_PRESENCE_DEFINITIONS;
use crate::problem::Problem;
use crate::token::Caller;

/// What a person sees of an agent's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceDefinition {
    /// What events name it by.
    pub id: Uuid,
    /// The organisation's own name for it.
    pub name: &'static str,
    /// The presence of the system that it belongs to, as events write it, such as `ON_QUEUE`.
    pub system_presence: &'static str,
    /// Whether every organisation has it.
    pub of_the_system: bool,
    /// Whether it can no longer be chosen. Events of the past may name it.
    pub deactivated: bool,
}

impl PresenceDefinition {
    const fn system(id: Uuid, name: &'static str, system_presence: &'static str) -> Self {
        Self { id, name, system_presence, of_the_system: true, deactivated: false }
    }

    const fn own(id: Uuid, name: &'static str, system_presence: &'static str) -> Self {
        Self { id, name, system_presence, of_the_system: false, deactivated: false }
    }
}

/// All of them, the deactivated one last.
pub const PRESENCE_DEFINITIONS: [PresenceDefinition; 13] = [
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000001"), "Available", "AVAILABLE"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000002"), "Away", "AWAY"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000003"), "Break", "BREAK"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000004"), "Busy", "BUSY"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000005"), "Idle", "IDLE"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000006"), "Meal", "MEAL"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000007"), "Meeting", "MEETING"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000008"), "Offline", "OFFLINE"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-000000000009"), "On Queue", "ON_QUEUE"),
    PresenceDefinition::system(uuid!("10000000-0000-4000-8000-00000000000a"), "Training", "TRAINING"),
    PresenceDefinition::own(uuid!("20000000-0000-4000-8000-000000000001"), "Coaching", "TRAINING"),
    PresenceDefinition::own(uuid!("20000000-0000-4000-8000-000000000002"), "Rückruf", "BUSY"),
    PresenceDefinition {
        deactivated: true,
        ..PresenceDefinition::own(uuid!("20000000-0000-4000-8000-000000000003"), "Fax", "BUSY")
    },
];

/// Which definitions a listing asks for.
#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    /// `true`: the deactivated ones.
    #[serde(default)]
    deactivated: bool,
}

/// `GET /api/v2/presence/definitions`, which has no pages.
pub(crate) async fn list(
    _: Caller,
    State(simulator): State<Simulator>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(VIEW_PRESENCE_DEFINITIONS)?;
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let entities: Vec<_> = PRESENCE_DEFINITIONS
        .iter()
        .filter(|definition| definition.deactivated == query.deactivated)
        .map(|definition| {
            json!({
                "id": definition.id,
                "name": definition.name,
                "type": if definition.of_the_system { "System" } else { "User" },
                "languageLabels": {"en_US": definition.name},
                // Here as people read it; events write it in capitals.
                "systemPresence": as_words(definition.system_presence),
                "divisionId": "*",
                "deactivated": definition.deactivated,
                "selfUri": format!("/api/v2/presence/definitions/{}", definition.id),
            })
        })
        .collect();
    Ok(Json(json!({ "total": entities.len(), "entities": entities })))
}

/// `ON_QUEUE` as `On Queue`.
fn as_words(system_presence: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{first}{}", rest.to_lowercase())
    };
    system_presence.split('_').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_definition_has_an_id_of_its_own() {
        let ids: HashSet<_> = PRESENCE_DEFINITIONS.iter().map(|definition| definition.id).collect();
        assert_eq!(ids.len(), PRESENCE_DEFINITIONS.len());
    }

    #[test]
    fn a_presence_is_listed_as_people_read_it() {
        assert_eq!((as_words("ON_QUEUE"), as_words("MEAL")), ("On Queue".to_owned(), "Meal".to_owned()));
    }
}
