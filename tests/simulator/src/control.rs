//! The control API: a user or a test steers the simulator and reads what happened. The control API has no
//! authentication, and can have a listener of its own. No answer contains a secret.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::delivery::{Delivery, DeliveryPlan, EventRecord, Outcome, PlanError};
use crate::event_bus::{BusRule, PresencePlan, RuleError};
use crate::eventbridges::Registration;
use crate::faults::{ActiveRule, FaultRule};
use crate::integrations::Integration;
use crate::problem::Problem;
use crate::requests::{RequestCounts, RequestRecord};

/// A plan may list many whole events.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// The longest `waitSeconds` of a request about a run.
const LONGEST_WAIT_SECONDS: u64 = 60;

const NDJSON: &str = "application/x-ndjson";

pub(crate) fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/livez", get("ok"))
        .route("/control/health", get(health))
        .route("/control/registrations", get(registrations))
        .route("/control/integrations", get(integrations))
        .route("/control/integrations/failure", put(fail_integrations).delete(mend_integrations))
        .route("/control/permissions", get(permissions).put(withhold_permissions))
        .route("/control/event-bus/rules", get(bus_rules).put(set_bus_rules).delete(clear_bus_rules))
        .route("/control/presence-changes", post(change_presence))
        .route("/control/requests", get(requests))
        .route("/control/faults", get(faults).put(set_faults).delete(clear_faults))
        .route("/control/tokens/expire", post(expire_tokens))
        .route("/control/reset", post(reset))
        .route("/control/deliveries", get(deliveries).post(deliver))
        .route("/control/deliveries/{id}", get(delivery).delete(stop_delivery))
        .route("/control/deliveries/{id}/events", get(events))
        .route("/control/{*rest}", any(unknown))
        .method_not_allowed_fallback(async || {
            Problem::method_not_allowed("the control API has no such method here", None)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(simulator)
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Invalid(_) => Self::bad_request(error.to_string()),
            PlanError::NoRegistration | PlanError::NoRule => Self::conflict(error.to_string()),
        }
    }
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Reads a body as JSON whatever its content type is, so that plain `curl -d` works.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let body = body.map_err(|error| Problem::of_status(error.status(), error.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::bad_request(error.body_text()))
}

fn find(simulator: &Simulator, id: &str) -> Result<Delivery, Problem> {
    Uuid::parse_str(id)
        .ok()
        .and_then(|id| simulator.delivery(id))
        .ok_or_else(|| Problem::not_found(format!("there is no delivery {id:?}")))
}

async fn unknown() -> Problem {
    Problem::not_found("the control API has no such path")
}

async fn health(State(simulator): State<Simulator>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "registrations": simulator.registrations().len(),
        "integrations": simulator.integrations().len(),
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistrationView {
    #[serde(flatten)]
    registration: Arc<Registration>,
    secret_fingerprint: String,
}

async fn registrations(State(simulator): State<Simulator>) -> Json<Vec<RegistrationView>> {
    let view = |registration: Arc<Registration>| RegistrationView {
        secret_fingerprint: registration.secret_fingerprint(),
        registration,
    };
    Json(simulator.registrations().into_iter().map(view).collect())
}

async fn integrations(State(simulator): State<Simulator>) -> Json<Vec<Integration>> {
    Json(simulator.integrations())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    reason: String,
}

async fn fail_integrations(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let Failure { reason } = read(body)?;
    simulator.fail_integrations(Some(reason));
    Ok(StatusCode::NO_CONTENT)
}

async fn mend_integrations(State(simulator): State<Simulator>) -> StatusCode {
    simulator.fail_integrations(None);
    StatusCode::NO_CONTENT
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    withheld: BTreeSet<String>,
}

async fn permissions(State(simulator): State<Simulator>) -> Json<Permissions> {
    Json(Permissions { withheld: simulator.withheld_permissions() })
}

async fn withhold_permissions(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Permissions>, Problem> {
    let Permissions { withheld } = read(body)?;
    simulator.withhold_permissions(withheld);
    Ok(permissions(State(simulator)).await)
}

async fn bus_rules(State(simulator): State<Simulator>) -> Json<Vec<BusRule>> {
    Json(simulator.event_bus_rules())
}

async fn set_bus_rules(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Vec<BusRule>>, Problem> {
    simulator.set_event_bus_rules(read(body)?)?;
    Ok(bus_rules(State(simulator)).await)
}

async fn clear_bus_rules(State(simulator): State<Simulator>) -> Result<StatusCode, Problem> {
    simulator.set_event_bus_rules(Vec::new())?;
    Ok(StatusCode::NO_CONTENT)
}

async fn change_presence(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let plan: PresencePlan = read(body)?;
    let run = simulator.change_presence(plan)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": run.id() }))).into_response())
}

#[derive(Deserialize)]
struct RequestsQuery {
    #[serde(default)]
    since: u64,
}

#[derive(Serialize)]
struct RequestsView {
    counts: RequestCounts,
    requests: Vec<RequestRecord>,
}

async fn requests(
    State(simulator): State<Simulator>,
    asked: Result<Query<RequestsQuery>, QueryRejection>,
) -> Result<Json<RequestsView>, Problem> {
    let RequestsQuery { since } = query(asked)?;
    Ok(Json(RequestsView { counts: simulator.request_counts(), requests: simulator.requests(since) }))
}

async fn faults(State(simulator): State<Simulator>) -> Json<Vec<ActiveRule>> {
    Json(simulator.faults())
}

async fn set_faults(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Vec<ActiveRule>>, Problem> {
    let rules: Vec<FaultRule> = read(body)?;
    simulator.set_faults(rules);
    Ok(Json(simulator.faults()))
}

async fn clear_faults(State(simulator): State<Simulator>) -> StatusCode {
    simulator.set_faults(Vec::new());
    StatusCode::NO_CONTENT
}

async fn expire_tokens(State(simulator): State<Simulator>) -> Json<Value> {
    let expired = simulator.expire_tokens();
    Json(json!({ "expired": expired }))
}

async fn reset(State(simulator): State<Simulator>) -> StatusCode {
    simulator.reset();
    StatusCode::NO_CONTENT
}

async fn deliver(
    State(simulator): State<Simulator>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let plan: DeliveryPlan = read(body)?;
    let delivery = simulator.deliver(plan)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": delivery.id() }))).into_response())
}

async fn deliveries(State(simulator): State<Simulator>) -> impl IntoResponse {
    Json(simulator.deliveries().iter().map(Delivery::summary).collect::<Vec<_>>())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryQuery {
    #[serde(default)]
    wait_seconds: u64,
}

async fn delivery(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    asked: Result<Query<DeliveryQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let delivery = find(&simulator, &id)?;
    let longest = Duration::from_secs(query(asked)?.wait_seconds.min(LONGEST_WAIT_SECONDS));
    // Finished or not, the answer has the present state.
    let _ = tokio::time::timeout(longest, delivery.finished()).await;
    Ok(Json(delivery.summary()).into_response())
}

#[derive(Deserialize)]
struct StopQuery {
    /// Whether what was generated is delivered all the same, with every retry.
    #[serde(default)]
    finish: bool,
}

async fn stop_delivery(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    asked: Result<Query<StopQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let delivery = find(&simulator, &id)?;
    if query(asked)?.finish {
        delivery.finish();
    } else {
        delivery.stop();
    }
    Ok((StatusCode::ACCEPTED, Json(delivery.summary())).into_response())
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    bodies: bool,
    outcome: Option<Outcome>,
}

#[derive(Serialize)]
struct EventView<'a> {
    #[serde(flatten)]
    record: &'a EventRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

async fn events(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    asked: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let EventsQuery { bodies, outcome } = query(asked)?;
    let records = find(&simulator, &id)?.events();
    let views = records
        .iter()
        .filter(|record| outcome.is_none_or(|outcome| record.outcome == outcome))
        .map(|record| EventView { record, body: bodies.then(|| BASE64.encode(&record.body)) });
    let lines = headers.get(ACCEPT).is_some_and(|accepted| accepted.as_bytes() == NDJSON.as_bytes());
    if !lines {
        return Ok(Json(views.collect::<Vec<_>>()).into_response());
    }
    let mut text = Vec::new();
    for view in views {
        serde_json::to_writer(&mut text, &view)
            .map_err(|error| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        text.push(b'\n');
    }
    Ok(([(CONTENT_TYPE, NDJSON)], text).into_response())
}
