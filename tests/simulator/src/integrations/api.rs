//! The integrations over HTTP, as Genesys Cloud's SDK calls them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::configuration::{self, Draft};
use super::{AMAZON_EVENT_BRIDGE_SOURCE, Delays, IntegrationState, Stored};
use crate::Simulator;
use crate::permissions::{ADD_INTEGRATIONS, DELETE_INTEGRATIONS, EDIT_INTEGRATIONS, VIEW_INTEGRATIONS};
use crate::problem::Problem;
use crate::token::Caller;

/// The collection.
pub(crate) const PATH: &str = "/api/v2/integrations";

const DEFAULT_PAGE_SIZE: usize = 25;
const DEFAULT_NAME: &str = "Amazon EventBridge Source";

/// What a listing asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    page_number: Option<usize>,
    page_size: Option<usize>,
    #[serde(default)]
    expand: String,
    integration_type: Option<String>,
    reported_state: Option<String>,
    /// Separated by commas.
    ids: Option<String>,
}

/// An integration at one moment, to be shown.
struct Shown<'a> {
    stored: &'a Stored,
    state: IntegrationState,
    reason: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(stored: &'a Stored, now: Instant, delays: Delays, failure: Option<&str>) -> Self {
        let (state, reason) = stored.state(now, delays, failure);
        Self { stored, state, reason }
    }

    fn to_json(&self, with_config: bool) -> Value {
        let stored = self.stored;
        let mut reported = json!({ "code": self.state });
        if let Some((_, since)) = stored.switched {
            reported["lastUpdated"] = json!(since);
        }
        if let Some(reason) = &self.reason {
            reported["detail"] = json!({"localizableMessageCode": "integration.error", "message": reason});
        }
        let mut integration = json!({
            "id": stored.id,
            "name": stored.name,
            "integrationType": {
                "id": AMAZON_EVENT_BRIDGE_SOURCE,
                "name": DEFAULT_NAME,
                "selfUri": format!("{PATH}/types/{AMAZON_EVENT_BRIDGE_SOURCE}"),
            },
            "notes": stored.notes,
            "intendedState": if stored.enabled { "ENABLED" } else { "DISABLED" },
            "reportedState": reported,
            "attributes": {},
            "selfUri": format!("{PATH}/{}", stored.id),
        });
        if with_config {
            integration["config"] = json!({ "current": config(stored) });
        }
        integration
    }
}

fn config(stored: &Stored) -> Value {
    json!({
        "id": stored.id,
        "name": stored.name,
        "version": stored.version,
        "properties": stored.properties,
        "advanced": stored.advanced,
        "notes": stored.notes,
        "credentials": {},
        "selfUri": format!("{PATH}/{}/config/current", stored.id),
    })
}

fn object(body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Problem> {
    let body = body.map_err(|error| Problem::of_status(error.status(), error.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body must be a JSON object: {error}")))
}

fn wants_config(expand: &str) -> bool {
    expand.split(',').any(|field| field.trim() == "config.current")
}

/// `GET` the collection.
pub(crate) async fn list(
    _: Caller,
    State(simulator): State<Simulator>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(VIEW_INTEGRATIONS)?;
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (number, asked) = (query.page_number.unwrap_or(1), query.page_size.unwrap_or(DEFAULT_PAGE_SIZE));
    if number == 0 || asked == 0 {
        return Err(Problem::bad_request("\"pageNumber\" and \"pageSize\" count from 1"));
    }
    let size = asked.min(simulator.inner.config.page_size_cap.max(1) as usize);
    let (now, delays) = (Instant::now(), simulator.delays());
    let integrations = simulator.inner.integrations.lock();
    let is_of_type =
        query.integration_type.as_deref().is_none_or(|wanted| wanted == AMAZON_EVENT_BRIDGE_SOURCE);
    let is_named = |shown: &Shown<'_>| {
        let id = shown.stored.id.to_string();
        query.ids.as_deref().is_none_or(|ids| ids.split(',').any(|wanted| wanted.trim() == id))
    };
    let is_in_state = |shown: &Shown<'_>| {
        query.reported_state.as_deref().is_none_or(|wanted| json!(shown.state) == json!(wanted))
    };
    let matching: Vec<_> = integrations
        .all(now, delays)
        .map(|stored| Shown::new(stored, now, delays, integrations.failure.as_deref()))
        .filter(|shown| is_of_type && is_named(shown) && is_in_state(shown))
        .collect();
    let pages = matching.len().div_ceil(size);
    let with_config = wants_config(&query.expand);
    let entities: Vec<_> = matching
        .iter()
        .skip((number - 1).saturating_mul(size))
        .take(size)
        .map(|shown| shown.to_json(with_config))
        .collect();
    let uri = |page: usize| format!("{PATH}?pageSize={size}&pageNumber={page}");
    let mut page = json!({
        "entities": entities,
        "pageSize": size,
        "pageNumber": number,
        "total": matching.len(),
        "pageCount": pages,
        "firstUri": uri(1),
        "selfUri": uri(number),
        "lastUri": uri(pages.max(1)),
    });
    if number < pages {
        page["nextUri"] = json!(uri(number + 1));
    }
    Ok(Json(page))
}

/// `POST` to the collection.
pub(crate) async fn create(
    _: Caller,
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(ADD_INTEGRATIONS)?;
    let fields = object(body)?;
    let kind = fields.get("integrationType").and_then(|kind| kind.get("id")).and_then(Value::as_str);
    if kind.ok_or_else(|| Problem::missing("integrationType.id"))? != AMAZON_EVENT_BRIDGE_SOURCE {
        return Err(Problem::bad_request(format!(
            "the only integration type here is {AMAZON_EVENT_BRIDGE_SOURCE:?}"
        )));
    }
    let name = fields.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let mut integrations = simulator.inner.integrations.lock();
    let stored = integrations.create(name.unwrap_or(DEFAULT_NAME).to_owned());
    Ok(Json(Shown::new(stored, Instant::now(), simulator.delays(), None).to_json(false)))
}

/// What a read of one asks for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ReadQuery {
    #[serde(default)]
    expand: String,
}

/// `GET` one.
pub(crate) async fn read(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(VIEW_INTEGRATIONS)?;
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (now, delays) = (Instant::now(), simulator.delays());
    let mut integrations = simulator.inner.integrations.lock();
    let failure = integrations.failure.clone();
    let stored = integrations.find(&id, now, delays)?;
    let shown = Shown::new(stored, now, delays, failure.as_deref());
    Ok(Json(shown.to_json(wants_config(&query.expand))))
}

/// `PATCH` one: its intended state.
pub(crate) async fn switch(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(EDIT_INTEGRATIONS)?;
    let fields = object(body)?;
    let enabled = match fields.get("intendedState").and_then(Value::as_str) {
        Some("ENABLED") => true,
        Some("DISABLED") => false,
        Some(_) => {
            return Err(Problem::bad_request("the field \"intendedState\" must be ENABLED or DISABLED"));
        }
        None => return Err(Problem::missing("intendedState")),
    };
    let (now, delays) = (Instant::now(), simulator.delays());
    let mut integrations = simulator.inner.integrations.lock();
    let stored = integrations.switch(&id, enabled, now, delays)?;
    let failure = integrations.failure.as_deref();
    Ok(Json(Shown::new(&stored, now, delays, failure).to_json(false)))
}

/// `DELETE` one. It is there until the deletion takes effect.
pub(crate) async fn delete(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(DELETE_INTEGRATIONS)?;
    let (now, delays) = (Instant::now(), simulator.delays());
    let stored = simulator.inner.integrations.lock().delete(&id, now, delays)?;
    Ok(Json(Shown::new(&stored, now, delays, None).to_json(false)))
}

/// `GET` the configuration of one.
pub(crate) async fn read_config(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(VIEW_INTEGRATIONS)?;
    let (now, delays) = (Instant::now(), simulator.delays());
    Ok(Json(config(simulator.inner.integrations.lock().find(&id, now, delays)?)))
}

/// `PUT` the configuration of one: the whole of it, with the version that it replaces.
pub(crate) async fn replace_config(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    simulator.require_permission(EDIT_INTEGRATIONS)?;
    let draft = Draft::check(&object(body)?)?;
    let (now, delays) = (Instant::now(), simulator.delays());
    let stored = simulator.inner.integrations.lock().configure(&id, draft, now, delays)?;
    Ok(Json(config(&stored)))
}

/// `GET …/types/{type}/configschemas/properties`.
pub(crate) async fn schema(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(kind): Path<String>,
) -> Result<Response, Problem> {
    simulator.require_permission(VIEW_INTEGRATIONS)?;
    if kind != AMAZON_EVENT_BRIDGE_SOURCE {
        return Err(Problem::not_found(format!("there is no integration type {kind:?}")));
    }
    Ok(Json(configuration::schema()).into_response())
}
