//! Fault injection: answers that a client has to survive. The first rule that matches, and is not used up,
//! decides; the control API has no faults.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Simulator;
use crate::problem::Problem;
use crate::server::CutConnection;

/// Which requests a fault affects, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which requests; the default is all.
    #[serde(rename = "match", default)]
    pub calls: Match,
    /// The fault.
    #[serde(rename = "do")]
    pub fault: Fault,
}

/// Which requests a rule matches; a field that is left out matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The method, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The beginning of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The first matching request that is affected, counted from 1 (the default) since the rule was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// How many requests are affected; the default is one where `nth` is given, otherwise all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

/// A delay, an effect, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Fault {
    /// A wait before the effect.
    pub delay: Option<Delay>,
    /// What happens instead of the ordinary answer; `None` with a delay leaves the answer as it is.
    pub effect: Option<Effect>,
}

/// A wait of so long, before or after the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub time: Duration,
    /// With `After`, the work is done by the time that a client gives up.
    pub side: Side,
}

/// Before or after the server does the work of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The work is not done.
    #[default]
    Before,
    /// The work is done; only the answer is lost or late.
    After,
}

/// What a fault does to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Sends this answer and does not do the work.
    Answer {
        /// The status.
        status: StatusCode,
        /// The body; without one, an error of the usual shape.
        body: Option<Value>,
        /// The `Retry-After` header, in seconds.
        retry_after: Option<u64>,
    },
    /// Closes the connection without an answer.
    CutConnection(Side),
    /// Does the work and answers 200 with a body that is not JSON.
    Garbage,
    /// Does the work and answers 200 without any `id`.
    NoId,
    /// Answers 405 to all methods but POST, as a server that supports only creation.
    PostOnly,
}

/// A fault in the control API's JSON: one flat object.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_at: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_connection: Option<Side>,
    #[serde(skip_serializing_if = "is_false")]
    #[serde(default)]
    garbage: bool,
    #[serde(skip_serializing_if = "is_false")]
    #[serde(default)]
    no_id: bool,
    #[serde(skip_serializing_if = "is_false")]
    #[serde(default, alias = "readOnly")]
    post_only: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl TryFrom<Written> for Fault {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let answer = match written.status {
            Some(status) => Some(Effect::Answer {
                status: StatusCode::from_u16(status)
                    .ok()
                    .filter(|status| status.as_u16() >= 200)
                    .ok_or_else(|| format!("\"status\" must be 200 to 999, not {status}"))?,
                body: written.body,
                retry_after: written.retry_after,
            }),
            None if written.body.is_some() || written.retry_after.is_some() => {
                return Err("\"body\" and \"retryAfter\" go with a \"status\"".to_owned());
            }
            None => None,
        };
        let mut effects = [
            answer,
            written.cut_connection.map(Effect::CutConnection),
            written.garbage.then_some(Effect::Garbage),
            written.no_id.then_some(Effect::NoId),
            written.post_only.then_some(Effect::PostOnly),
        ]
        .into_iter()
        .flatten();
        let effect = effects.next();
        if effects.next().is_some() {
            return Err("a rule does one of: status, cutConnection, garbage, noId, postOnly".to_owned());
        }
        let delay = written.delay_ms.map(|milliseconds| Delay {
            time: Duration::from_millis(milliseconds),
            side: written.delay_at.unwrap_or_default(),
        });
        if delay.is_none() && effect.is_none() {
            return Err(
                "a rule does at least one of: delayMs, status, cutConnection, garbage, noId, postOnly"
                    .to_owned(),
            );
        }
        Ok(Self { delay, effect })
    }
}

impl From<Fault> for Written {
    fn from(fault: Fault) -> Self {
        let mut written = Self::default();
        if let Some(delay) = fault.delay {
            written.delay_ms = Some(u64::try_from(delay.time.as_millis()).unwrap_or(u64::MAX));
            written.delay_at = Some(delay.side);
        }
        match fault.effect {
            None => {}
            Some(Effect::Answer { status, body, retry_after }) => {
                written.status = Some(status.as_u16());
                written.body = body;
                written.retry_after = retry_after;
            }
            Some(Effect::CutConnection(side)) => written.cut_connection = Some(side),
            Some(Effect::Garbage) => written.garbage = true,
            Some(Effect::NoId) => written.no_id = true,
            Some(Effect::PostOnly) => written.post_only = true,
        }
        written
    }
}

impl FaultRule {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let spared = self.fault.effect == Some(Effect::PostOnly) && method == Method::POST;
        !spared
            && self.calls.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()))
            && self.calls.path.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
    }
}

/// A rule and its counts.
#[derive(Clone, Debug, Serialize)]
pub struct ActiveRule {
    /// The rule as it was set.
    #[serde(flatten)]
    pub rule: FaultRule,
    /// Requests that matched, including those that an earlier rule decided and those before `nth`.
    pub seen: u64,
    /// Requests that the rule decided.
    pub applied: u64,
}

/// The rules in force, in order.
#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<ActiveRule>,
}

impl Faults {
    pub(crate) fn set(&mut self, rules: Vec<FaultRule>) {
        self.rules = rules.into_iter().map(|rule| ActiveRule { rule, seen: 0, applied: 0 }).collect();
    }

    pub(crate) fn rules(&self) -> Vec<ActiveRule> {
        self.rules.clone()
    }

    /// Counts the request with every rule that it matches; the first that is due decides.
    fn decide(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let mut decision = None;
        for active in self.rules.iter_mut().filter(|active| active.rule.matches(method, path)) {
            active.seen += 1;
            let Match { nth, times, .. } = active.rule.calls;
            let times = times.unwrap_or(if nth.is_some() { 1 } else { u64::MAX });
            if decision.is_none() && active.seen >= nth.unwrap_or(1) && active.applied < times {
                active.applied += 1;
                decision = Some(active.rule.fault.clone());
            }
        }
        decision
    }
}

/// Marks an answer that a fault decided, for the request log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faulty;

/// Passes a request to the API, or applies the fault of the rule that decides it.
pub(crate) async fn inject(State(simulator): State<Simulator>, request: Request, next: Next) -> Response {
    let decision = simulator.inner.faults.lock().decide(request.method(), request.uri().path());
    let Some(Fault { delay, effect }) = decision else {
        return next.run(request).await;
    };
    let wait = async |side: Side| {
        if let Some(delay) = delay.filter(|delay| delay.side == side) {
            tokio::time::sleep(delay.time).await;
        }
    };
    wait(Side::Before).await;
    let mut response = match effect {
        None => next.run(request).await,
        Some(Effect::Answer { status, body, retry_after }) => answer(status, body, retry_after),
        Some(Effect::CutConnection(Side::Before)) => cut(),
        Some(Effect::CutConnection(Side::After)) => {
            next.run(request).await;
            cut()
        }
        Some(Effect::Garbage) => {
            next.run(request).await;
            ([(CONTENT_TYPE, "application/json")], "{\"id\": \"<!DOCTYPE html>").into_response()
        }
        Some(Effect::NoId) => without_id(next.run(request).await).await,
        Some(Effect::PostOnly) => {
            Problem::method_not_allowed("only POST is served here", Some("POST")).into_response()
        }
    };
    wait(Side::After).await;
    response.extensions_mut().insert(Faulty);
    response
}

fn answer(status: StatusCode, body: Option<Value>, retry_after: Option<u64>) -> Response {
    let mut response = match body {
        Some(body) => (status, Json(body)).into_response(),
        None => Problem::of_status(status, "a fault that was asked for").into_response(),
    };
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn cut() -> Response {
    let mut response = StatusCode::BAD_GATEWAY.into_response();
    response.extensions_mut().insert(CutConnection);
    response
}

async fn without_id(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(mut fields)) if parts.status.is_success() => {
            fields.remove("id");
            if let Some(Value::Array(entities)) = fields.get_mut("entities") {
                entities.iter_mut().filter_map(Value::as_object_mut).for_each(|entity| {
                    entity.remove("id");
                });
            }
            parts.status = StatusCode::OK;
            Response::from_parts(parts, Body::from(Value::Object(fields).to_string()))
        }
        _ => Response::from_parts(parts, Body::from(body)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(rules: Value) -> Faults {
        let mut faults = Faults::default();
        faults.set(serde_json::from_value(rules).unwrap());
        faults
    }

    fn statuses(faults: &mut Faults, calls: usize) -> Vec<Option<u16>> {
        (0..calls)
            .map(|_| match faults.decide(&Method::POST, "/a/b")?.effect? {
                Effect::Answer { status, .. } => Some(status.as_u16()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_rule_without_a_number_affects_every_call() {
        let mut faults = rules(json!([{"do": {"status": 503}}]));
        assert_eq!(statuses(&mut faults, 3), [Some(503); 3]);
    }

    #[test]
    fn nth_alone_affects_that_call_only() {
        let mut faults = rules(json!([{"match": {"nth": 2}, "do": {"status": 503}}]));
        assert_eq!(statuses(&mut faults, 3), [None, Some(503), None]);
    }

    #[test]
    fn rules_follow_one_another() {
        let mut faults = rules(json!([
            {"match": {"times": 1}, "do": {"status": 500}},
            {"match": {"nth": 2, "times": 2}, "do": {"status": 429, "retryAfter": 1}},
        ]));
        assert_eq!(statuses(&mut faults, 4), [Some(500), Some(429), Some(429), None]);
    }

    #[test]
    fn method_and_path_choose_the_calls() {
        let mut faults = rules(json!([{"match": {"method": "get", "path": "/a"}, "do": {"garbage": true}}]));
        assert!(faults.decide(&Method::POST, "/a/b").is_none());
        assert!(faults.decide(&Method::GET, "/b").is_none());
        assert!(faults.decide(&Method::GET, "/a/b").is_some());
    }

    #[test]
    fn post_only_spares_post() {
        let mut faults = rules(json!([{"do": {"readOnly": true}}]));
        assert!(faults.decide(&Method::POST, "/").is_none());
        assert!(faults.decide(&Method::PUT, "/").is_some());
    }

    #[test]
    fn a_rule_that_does_nothing_or_two_things_is_refused() {
        for fault in
            [json!({}), json!({"status": 500, "garbage": true}), json!({"retryAfter": 1}), json!({"x": 1})]
        {
            assert!(serde_json::from_value::<Fault>(fault.clone()).is_err(), "{fault}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        let rule =
            json!({"match": {"nth": 1}, "do": {"delayMs": 5, "delayAt": "after", "cutConnection": "after"}});
        let read: FaultRule = serde_json::from_value(rule.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), rule);
    }
}
