//! The JSON protocol: an action in a header, its parameters as a JSON object, an answer or an error of the service's shape.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Service;
use super::actions;

const MEDIA_TYPE: &str = "application/x-amz-json-1.0";

/// An error of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SqsError {
    status: u16,
    code: String,
    message: String,
}

impl SqsError {
    /// The caller's fault: 400.
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { status: 400, code: code.to_owned(), message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    /// One that a fault asks for.
    pub(super) fn requested(status: u16, code: String, message: String) -> Self {
        Self { status, code, message }
    }

    /// The entry of a batch that failed.
    pub(super) fn entry(&self, id: &str) -> Value {
        json!({"Id": id, "Code": self.code, "Message": self.message, "SenderFault": self.status < 500})
    }
}

impl IntoResponse for SqsError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let fault = if status.is_server_error() { "Receiver" } else { "Sender" };
        let body = json!({"__type": format!("com.amazonaws.sqs#{}", self.code), "message": self.message})
            .to_string();
        let mut response = answer(status, body);
        // Clients of the older protocol read the code here.
        if let Ok(value) = HeaderValue::from_str(&format!("{};{fault}", older_code(&self.code))) {
            response.headers_mut().insert("x-amzn-query-error", value);
        }
        response
    }
}

/// The code of an error in the older protocol, where it differs.
fn older_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "TooManyEntriesInBatchRequest"
        | "EmptyBatchRequest"
        | "BatchEntryIdsNotDistinct"
        | "BatchRequestTooLong"
        | "MessageNotInflight" => format!("AWS.SimpleQueueService.{code}"),
        code => code.to_owned(),
    }
}

fn answer(status: StatusCode, body: String) -> Response {
    let id = Uuid::new_v4().to_string();
    let headers = [(CONTENT_TYPE.as_str(), MEDIA_TYPE.to_owned()), ("x-amzn-requestid", id)];
    (status, headers, body).into_response()
}

/// `POST` of an action.
pub(super) async fn call(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, SqsError> {
    let action = headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok()?.strip_prefix("AmazonSQS."))
        .ok_or_else(|| {
            SqsError::new(
                "MissingAction",
                "name the action in the header X-Amz-Target: this server speaks the JSON protocol only",
            )
        })?;
    let body = body.map_err(|error| SqsError::new("RequestTooLarge", error.body_text()))?;
    let parameters = serde_json::from_slice(&body)
        .map_err(|error| SqsError::new("SerializationException", error.to_string()))?;
    let failed_entry = service.faults.lock().take(action)?;
    // A queue has the host by which the client knows this server.
    let origin = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .map_or_else(|| service.origin.clone(), |host| format!("http://{host}"));
    let result = actions::perform(&service, &origin, action, &parameters, failed_entry).await?;
    Ok(answer(StatusCode::OK, result.to_string()))
}
