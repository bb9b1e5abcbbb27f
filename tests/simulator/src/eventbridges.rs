//! The registrations: created, listed in pages, read, replaced and deleted. No response contains a
//! registration's secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use reqwest::Url;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::Simulator;
use crate::config::{CreatedStatus, DuplicateNames};
use crate::moment::Moment;
use crate::problem::Problem;
use crate::signature;
use crate::token::Caller;

const DEFAULT_PAGE_SIZE: u32 = 25;
const MOST_RETRIES: u64 = 10;
const BIGGEST_MULTIPLIER: f64 = 10.0;

/// One registration, as the API returns it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Given by the server at creation.
    pub id: Uuid,
    /// Chosen by the client; need not be unique unless the organisation says so.
    pub name: String,
    /// Always `WEBHOOK`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether events are delivered.
    pub enabled: bool,
    /// Where events are posted: http or https, as the client wrote it.
    pub url: String,
    /// The exact event types subscribed to; not empty.
    pub event_types: Vec<String>,
    /// How a failed delivery is retried.
    pub retry_policy: RetryPolicy,
    /// 1 at creation, one more with each replacement.
    pub version: u64,
    /// When it was created.
    pub created_date: Moment,
    /// When it was created or last replaced.
    pub modified_date: Moment,
    #[serde(skip)]
    pub(crate) endpoint: Url,
    #[serde(skip)]
    pub(crate) secret: SecretString,
}

impl Registration {
    /// The first 8 hex digits of the signing secret's SHA-256.
    #[must_use]
    pub fn secret_fingerprint(&self) -> String {
        signature::fingerprint(&self.secret)
    }

    pub(crate) fn wants(&self, event_type: &str) -> bool {
        self.enabled && self.event_types.iter().any(|wanted| wanted == event_type)
    }
}

/// How often and how long apart a delivery is retried.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Retries after the first attempt, 0 to 10.
    pub max_retries: u32,
    /// How many times longer each wait is than the one before, 1 to 10; kept as it was written, so that 2
    /// is not returned as 2.0.
    pub backoff_multiplier: Number,
}

/// What a client sends to create or replace a registration.
#[derive(Debug)]
struct Draft {
    name: String,
    enabled: bool,
    url: String,
    endpoint: Url,
    event_types: Vec<String>,
    retry_policy: RetryPolicy,
    secret: Option<SecretString>,
}

impl Draft {
    fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Self, Problem> {
        let body = body.map_err(|error| Problem::of_status(error.status(), error.body_text()))?;
        let is_json = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/json"));
        if !is_json {
            return Err(Problem::unsupported_media_type("send application/json"));
        }
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(Problem::bad_request("the body must be a JSON object"));
        };
        Self::check(&fields)
    }

    fn check(fields: &Map<String, Value>) -> Result<Self, Problem> {
        let name = text(fields, "name")?.to_owned();
        if text(fields, "type")? != "WEBHOOK" {
            return Err(Problem::bad_request("the field \"type\" must be \"WEBHOOK\""));
        }
        let enabled = required(fields, "enabled")?
            .as_bool()
            .ok_or_else(|| Problem::bad_request("the field \"enabled\" must be true or false"))?;
        let url = text(fields, "url")?.to_owned();
        let endpoint = Url::parse(&url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Problem::bad_request("the field \"url\" must be an absolute http or https URL"))?;
        let secret = match fields.get("secret") {
            None | Some(Value::Null) => None,
            Some(_) => Some(SecretString::from(text(fields, "secret")?)),
        };
        Ok(Self {
            name,
            enabled,
            url,
            endpoint,
            event_types: event_types(required(fields, "eventTypes")?)?,
            retry_policy: retry_policy(required(fields, "retryPolicy")?)?,
            secret,
        })
    }

    fn into_registration(
        self,
        id: Uuid,
        secret: SecretString,
        before: Option<&Registration>,
    ) -> Registration {
        let now = Moment::now();
        Registration {
            id,
            name: self.name,
            kind: "WEBHOOK",
            enabled: self.enabled,
            url: self.url,
            event_types: self.event_types,
            retry_policy: self.retry_policy,
            version: before.map_or(1, |before| before.version + 1),
            created_date: before.map_or(now, |before| before.created_date),
            modified_date: now,
            endpoint: self.endpoint,
            secret,
        }
    }
}

fn required<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Problem> {
    fields.get(name).filter(|value| !value.is_null()).ok_or_else(|| Problem::missing(name))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Problem> {
    required(fields, name)?
        .as_str()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Problem::bad_request(format!("the field {name:?} must be a string that is not empty")))
}

fn event_types(value: &Value) -> Result<Vec<String>, Problem> {
    let wrong =
        || Problem::bad_request("the field \"eventTypes\" must be a list, not empty, of exact event types");
    let types = value.as_array().filter(|types| !types.is_empty()).ok_or_else(wrong)?;
    types
        .iter()
        .map(|kind| kind.as_str().filter(|kind| !kind.is_empty() && !kind.contains('*')))
        .map(|kind| kind.map(str::to_owned).ok_or_else(wrong))
        .collect()
}

fn retry_policy(value: &Value) -> Result<RetryPolicy, Problem> {
    let fields = value
        .as_object()
        .ok_or_else(|| Problem::bad_request("the field \"retryPolicy\" must be an object"))?;
    let field = |name: &str| fields.get(name).ok_or_else(|| Problem::missing(&format!("retryPolicy.{name}")));
    let max_retries = field("maxRetries")?
        .as_u64()
        .filter(|retries| *retries <= MOST_RETRIES)
        .and_then(|retries| u32::try_from(retries).ok())
        .ok_or_else(|| Problem::bad_request("the field \"retryPolicy.maxRetries\" must be 0 to 10"))?;
    let backoff_multiplier = match field("backoffMultiplier")? {
        Value::Number(number)
            if number.as_f64().is_some_and(|number| (1.0..=BIGGEST_MULTIPLIER).contains(&number)) =>
        {
            number.clone()
        }
        _ => {
            return Err(Problem::bad_request("the field \"retryPolicy.backoffMultiplier\" must be 1 to 10"));
        }
    };
    Ok(RetryPolicy { max_retries, backoff_multiplier })
}

/// All registrations, in the order of their creation.
#[derive(Default)]
pub(crate) struct Registrations {
    by_creation: BTreeMap<u64, Arc<Registration>>,
    created: u64,
}

impl Registrations {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.by_creation.values()
    }

    pub(crate) fn clear(&mut self) {
        self.by_creation.clear();
    }

    fn find(&self, id: &str) -> Result<(u64, &Arc<Registration>), Problem> {
        Uuid::parse_str(id)
            .ok()
            .and_then(|id| self.by_creation.iter().find(|(_, registration)| registration.id == id))
            .map(|(order, registration)| (*order, registration))
            .ok_or_else(|| Problem::not_found(format!("there is no registration {id:?}")))
    }

    fn refuse_duplicate(&self, rule: DuplicateNames, name: &str, own: Option<Uuid>) -> Result<(), Problem> {
        let taken = self.all().any(|other| other.name == name && Some(other.id) != own);
        if rule == DuplicateNames::Refuse && taken {
            return Err(Problem::conflict(format!("a registration is already called {name:?}")));
        }
        Ok(())
    }

    fn create(&mut self, draft: Draft, rule: DuplicateNames) -> Result<Arc<Registration>, Problem> {
        let secret = draft.secret.clone().ok_or_else(|| Problem::missing("secret"))?;
        self.refuse_duplicate(rule, &draft.name, None)?;
        let registration = Arc::new(draft.into_registration(Uuid::new_v4(), secret, None));
        self.created += 1;
        self.by_creation.insert(self.created, Arc::clone(&registration));
        Ok(registration)
    }

    fn replace(
        &mut self,
        id: &str,
        draft: Draft,
        rule: DuplicateNames,
    ) -> Result<Arc<Registration>, Problem> {
        let (order, before) = self.find(id)?;
        self.refuse_duplicate(rule, &draft.name, Some(before.id))?;
        let secret = draft.secret.clone().unwrap_or_else(|| before.secret.clone());
        let after = Arc::new(draft.into_registration(before.id, secret, Some(before)));
        self.by_creation.insert(order, Arc::clone(&after));
        Ok(after)
    }

    fn delete(&mut self, id: &str) -> Result<(), Problem> {
        let (order, _) = self.find(id)?;
        self.by_creation.remove(&order);
        Ok(())
    }
}

/// What a listing asks for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageQuery {
    name: Option<String>,
    page_number: Option<u32>,
    page_size: Option<u32>,
}

/// One page of registrations.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    entities: Vec<Arc<Registration>>,
    page_number: u32,
    page_size: u32,
    total: usize,
    page_count: usize,
}

fn page(registrations: &Registrations, query: &PageQuery, cap: u32) -> Result<Page, Problem> {
    let page_number = query.page_number.unwrap_or(1);
    let asked = query.page_size.unwrap_or(DEFAULT_PAGE_SIZE);
    if page_number == 0 || asked == 0 {
        return Err(Problem::bad_request("\"pageNumber\" and \"pageSize\" count from 1"));
    }
    let page_size = asked.min(cap.max(1));
    let matching: Vec<_> = registrations
        .all()
        .filter(|registration| query.name.as_ref().is_none_or(|name| *name == registration.name))
        .collect();
    let before = (page_number as usize - 1).saturating_mul(page_size as usize);
    Ok(Page {
        total: matching.len(),
        page_count: matching.len().div_ceil(page_size as usize),
        entities: matching.into_iter().skip(before).take(page_size as usize).cloned().collect(),
        page_number,
        page_size,
    })
}

/// `GET` the collection.
pub(crate) async fn list(
    _: Caller,
    State(simulator): State<Simulator>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let cap = simulator.inner.config.page_size_cap;
    Ok(Json(page(&simulator.inner.registrations.lock(), &query, cap)?).into_response())
}

/// `POST` to the collection.
pub(crate) async fn create(
    _: Caller,
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let draft = Draft::read(&headers, body)?;
    let config = &simulator.inner.config;
    let registration = simulator.inner.registrations.lock().create(draft, config.duplicate_names)?;
    let status = match config.created_status {
        CreatedStatus::Ok => StatusCode::OK,
        CreatedStatus::Created => StatusCode::CREATED,
    };
    Ok((status, Json(registration)).into_response())
}

/// `GET` one.
pub(crate) async fn read(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let registrations = simulator.inner.registrations.lock();
    let (_, registration) = registrations.find(&id)?;
    Ok(Json(registration).into_response())
}

/// `PUT` one: the whole object, of which only the secret may be left out and is then kept.
pub(crate) async fn replace(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let draft = Draft::read(&headers, body)?;
    let rule = simulator.inner.config.duplicate_names;
    let registration = simulator.inner.registrations.lock().replace(&id, draft, rule)?;
    Ok(Json(registration).into_response())
}

/// `DELETE` one.
pub(crate) async fn delete(
    _: Caller,
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    simulator.inner.registrations.lock().delete(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
