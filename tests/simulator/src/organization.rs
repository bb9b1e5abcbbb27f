//! The organisation that a token belongs to.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::Simulator;
use crate::token::Caller;

/// `GET /api/v2/organizations/me`.
pub(crate) async fn me(_: Caller, State(simulator): State<Simulator>) -> Json<Value> {
    Json(json!({
        "id": simulator.inner.config.organization_id,
        "name": "Simulated contact centre",
        "defaultLanguage": "en-us",
        "domain": "simulated-contact-centre",
        "state": "active",
        "version": 1,
        "selfUri": "/api/v2/organizations/me",
    }))
}
