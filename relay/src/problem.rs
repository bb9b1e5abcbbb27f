//! What the relay answers when it does not answer 200: `application/problem+json` (RFC 9457).
//!
//! Each [`Kind`] has one status, one stable `type` and one name in the metrics. The detail names the cause and the
//! remedy; it never holds a part of the body or a secret, and what a sender chose is shown escaped and shortened.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// How long a sender waits before it tries again, in seconds.
const RETRY_AFTER_SECONDS: u16 = 1;

/// The kinds of refusal, in the order in which a request meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Another path than the one that is served.
    UnknownPath,
    /// Another method than POST.
    MethodNotAllowed,
    /// A body over the limit.
    BodyTooLarge,
    /// No signature.
    SignatureMissing,
    /// A body slower than its deadline.
    BodyTimeout,
    /// A body that ended before it was whole.
    BodyIncomplete,
    /// A signature under no active secret.
    SignatureMismatch,
    /// A body that is no event.
    EventInvalid,
    /// An event that no route matches, refused for good.
    Unrouted,
    /// An event that no route matches, where a retry is wanted.
    UnroutedRetry,
    /// Kafka refuses the event for as long as someone does not act.
    KafkaRefused,
    /// Kafka did not acknowledge the event in time.
    KafkaUnavailable,
    /// More events in flight than the relay holds.
    Overloaded,
    /// No table or no secret has been loaded yet.
    NotConfigured,
    /// The relay is on its way out.
    ShuttingDown,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::SignatureMissing,
        Self::BodyTimeout,
        Self::BodyIncomplete,
        Self::SignatureMismatch,
        Self::EventInvalid,
        Self::Unrouted,
        Self::UnroutedRetry,
        Self::KafkaRefused,
        Self::KafkaUnavailable,
        Self::Overloaded,
        Self::NotConfigured,
        Self::ShuttingDown,
    ];

    /// The status that it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnknownPath | Self::Unrouted => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SignatureMissing | Self::BodyIncomplete | Self::EventInvalid | Self::UnroutedRetry => {
                StatusCode::BAD_REQUEST
            }
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::SignatureMismatch => StatusCode::FORBIDDEN,
            Self::KafkaRefused
            | Self::KafkaUnavailable
            | Self::Overloaded
            | Self::NotConfigured
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The last part of its `type`, and its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown-path",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTooLarge => "body-too-large",
            Self::SignatureMissing => "signature-missing",
            Self::BodyTimeout => "body-timeout",
            Self::BodyIncomplete => "body-incomplete",
            Self::SignatureMismatch => "signature-mismatch",
            Self::EventInvalid => "event-invalid",
            Self::Unrouted | Self::UnroutedRetry => "unrouted",
            Self::KafkaRefused => "kafka-refused",
            Self::KafkaUnavailable => "kafka-unavailable",
            Self::Overloaded => "overloaded",
            Self::NotConfigured => "not-configured",
            Self::ShuttingDown => "shutting-down",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::UnknownPath => "This path is not served",
            Self::MethodNotAllowed => "Only POST is allowed",
            Self::BodyTooLarge => "The body is too large",
            Self::SignatureMissing => "The request is not signed",
            Self::BodyTimeout => "The body took too long",
            Self::BodyIncomplete => "The body is not whole",
            Self::SignatureMismatch => "The signature does not match",
            Self::EventInvalid => "The body is not an event",
            Self::Unrouted | Self::UnroutedRetry => "No route matches the event",
            Self::KafkaRefused => "Kafka refuses the event",
            Self::KafkaUnavailable => "Kafka did not acknowledge the event in time",
            Self::Overloaded => "Too many events are in flight",
            Self::NotConfigured => "The relay is not configured yet",
            Self::ShuttingDown => "The relay is shutting down",
        }
    }

    /// Whether the request's body need not have been read to its end.
    pub(crate) fn may_leave_the_body(self) -> bool {
        matches!(
            self,
            Self::UnknownPath
                | Self::MethodNotAllowed
                | Self::BodyTooLarge
                | Self::SignatureMissing
                | Self::BodyTimeout
                | Self::BodyIncomplete
                | Self::Overloaded
        )
    }

    /// Whether the same request may succeed soon without anyone's doing.
    fn asks_for_retry(self) -> bool {
        matches!(self, Self::KafkaUnavailable | Self::Overloaded | Self::NotConfigured | Self::ShuttingDown)
    }
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// What happened this time, and what to do about it.
    pub detail: Cow<'static, str>,
    /// The event's id, for the log, when the event was verified before it was refused.
    pub event_id: Option<String>,
}

impl Problem {
    /// A refusal with its cause and remedy.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), event_id: None }
    }

    /// The refusal of this event, which was verified.
    pub fn about(self, event_id: &str) -> Self {
        Self { event_id: Some(event_id.to_owned()), ..self }
    }

    /// The refusal as an HTTP answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
        }
        let status = self.kind.status();
        let body = Body {
            r#type: format!("urn:presenceroute:problem:{}", self.kind.name()),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: &self.detail,
        };
        // Strings and a number always serialise; an empty body would still carry the status.
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(json)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Kind::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if self.kind.asks_for_retry() {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if self.kind == Kind::KafkaUnavailable {
            // A sender that keeps its connection keeps to this relay, ready or not; another one may reach Kafka.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Text that a sender chose, fit to be shown: quoted, escaped, and at most 64 characters of it.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_chose_is_shown_escaped_and_shortened() {
        assert_eq!(shown("a\r\nb\"\u{1b}[2J"), r#""a\r\nb\"\u{1b}[2J""#);
        assert_eq!(shown(&"é".repeat(100)), format!("\"{}\"...", "é".repeat(64)));
    }

    #[test]
    fn a_sender_is_told_when_to_try_again_only_where_that_helps() {
        let retry_after =
            |kind| Problem::new(kind, "").into_response().headers().get(RETRY_AFTER).map(HeaderValue::len);
        assert_eq!(retry_after(Kind::KafkaUnavailable), Some(1));
        assert_eq!(retry_after(Kind::SignatureMismatch), None);
    }
}
