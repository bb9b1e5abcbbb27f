//! The notification topics of the organisation, those of a user: what may be subscribed to, by which transport, with
//! which permissions. The permissions and transports are the simulator's own choice: what a real organisation answers
//! is read from it at run time.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Simulator;
use crate::problem::Problem;
use crate::token::Caller;

struct Topic {
    id: &'static str,
    description: &'static str,
    permission: &'static str,
    transports: &'static [&'static str],
    preview: bool,
}

const ALL: &[&str] = &["All"];

const TOPICS: [Topic; 6] = [
    Topic {
        id: "v2.users.{id}.presence",
        description: "A change of a user's presence",
        permission: "directory:user:view",
        transports: ALL,
        preview: false,
    },
    Topic {
        id: "v2.users.{id}.routingStatus",
        description: "A change of a user's routing status",
        permission: "routing:queue:view",
        transports: ALL,
        preview: false,
    },
    Topic {
        id: "v2.users.{id}.activity",
        description: "A change of a user's presence, routing status, queues or absence",
        permission: "directory:user:view",
        transports: &["Websocket", "EventBridge"],
        preview: false,
    },
    Topic {
        id: "v2.users.{id}.outofoffice",
        description: "A change of a user's absence",
        permission: "directory:user:view",
        transports: ALL,
        preview: false,
    },
    Topic {
        id: "v2.users.{id}.station",
        description: "A change of a user's station",
        permission: "directory:user:view",
        transports: &["Websocket"],
        preview: false,
    },
    Topic {
        id: "v2.users.{id}.integrationpresence",
        description: "A change of a user's presence in another product",
        permission: "directory:user:view",
        transports: &["Websocket", "EventBridge"],
        preview: true,
    },
];

/// What a listing shows of each topic.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    /// Fields besides the id, separated by commas.
    #[serde(default)]
    expand: String,
    #[serde(default)]
    include_preview: bool,
}

/// `GET /api/v2/notifications/availabletopics`.
pub(crate) async fn list(
    _: Caller,
    State(_): State<Simulator>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let expand: Vec<&str> = query.expand.split(',').map(str::trim).collect();
    let entities: Vec<_> = TOPICS
        .iter()
        .filter(|topic| query.include_preview || !topic.preview)
        .map(|topic| entity(topic, &expand))
        .collect();
    Ok(Json(json!({ "entities": entities })))
}

fn entity(topic: &Topic, expand: &[&str]) -> Value {
    let Value::Object(whole) = json!({
        "description": topic.description,
        "enforced": true,
        "schema": {"type": "object"},
        "visibility": if topic.preview { "Preview" } else { "Public" },
        "transports": topic.transports,
        "publicApiTemplateUriPaths": ["/api/v2/users/{id}"],
        "requiresPermissions": [topic.permission],
        "permissionDetails": [{
            "type": "requiresPermissions",
            "permissions": [topic.permission],
            "allowsCurrentUser": true,
            "enforced": true,
        }],
    }) else {
        return Value::Null;
    };
    let mut shown: Map<_, _> =
        whole.into_iter().filter(|(field, _)| expand.contains(&field.as_str())).collect();
    shown.insert("id".to_owned(), json!(topic.id));
    Value::Object(shown)
}
