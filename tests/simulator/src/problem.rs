//! An error as the API returns it: `{message, code, status, contextId}`.
//! A message names the invalid field or object, and never repeats a value that can be a secret.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;
use uuid::Uuid;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after_seconds: Option<u64>,
    allow: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_seconds: None, allow: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad.request", message)
    }

    pub(crate) fn missing(field: &str) -> Self {
        Self::bad_request(format!("the field {field:?} is required"))
    }

    pub(crate) fn bad_credentials(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad.credentials", message)
    }

    pub(crate) fn missing_permission(permission: &str) -> Self {
        let message = format!(
            "Unable to perform the requested action. You are missing the following permission(s): {permission}"
        );
        Self::new(StatusCode::FORBIDDEN, "missing.permissions", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not.found", message)
    }

    pub(crate) fn method_not_allowed(message: impl Into<String>, allow: Option<&'static str>) -> Self {
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method.not.allowed", message) }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "general.conflict", message)
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported.media.type", message)
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too.many.requests", message)
        }
    }

    /// An error of which only the status is known, such as a fault's or that of an unreadable body.
    pub(crate) fn of_status(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST => "bad.request",
            StatusCode::UNAUTHORIZED => "bad.credentials",
            StatusCode::FORBIDDEN => "not.authorized",
            StatusCode::NOT_FOUND => "not.found",
            StatusCode::METHOD_NOT_ALLOWED => "method.not.allowed",
            StatusCode::REQUEST_TIMEOUT => "request.timeout",
            StatusCode::CONFLICT => "general.conflict",
            StatusCode::PAYLOAD_TOO_LARGE => "request.entity.too.large",
            StatusCode::TOO_MANY_REQUESTS => "too.many.requests",
            StatusCode::NOT_IMPLEMENTED => "not.implemented",
            StatusCode::SERVICE_UNAVAILABLE => "service.unavailable",
            StatusCode::GATEWAY_TIMEOUT => "gateway.timeout",
            status if status.is_server_error() => "internal.server.error",
            _ => "error",
        };
        Self::new(status, code, message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({
            "message": self.message,
            "code": self.code,
            "status": self.status.as_u16(),
            "contextId": Uuid::new_v4(),
        }));
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}
