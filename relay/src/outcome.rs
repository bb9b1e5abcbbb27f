//! What becomes of an event: delivered in one of several ways, or a [`Problem`] with its cause and remedy.
//!
//! A problem's detail never holds a part of the body or a secret, and shows what a sender chose escaped and shortened.
//! How a problem is answered over HTTP is `http::problem`'s part.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::time::Duration;

use http::StatusCode;

/// The name of an event that no condition of its routes holds for, in answers, metrics, log and spans.
pub const FILTERED: &str = "filtered";

/// How an event was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Every topic of its routes acknowledged it.
    Published,
    /// Routes name its type, and the condition of none holds.
    Filtered,
    /// It is unmatched, and the table drops it.
    Dropped,
    /// It is unmatched, and the dead-letter topic acknowledged it.
    DeadLettered,
    /// It is invalid, and the topic for that acknowledged it.
    InvalidDeadLettered,
}

impl Delivered {
    pub const ALL: [Self; 5] =
        [Self::Published, Self::Filtered, Self::Dropped, Self::DeadLettered, Self::InvalidDeadLettered];
}

/// How a request or a message ended, for metrics, log and spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered(Delivered),
    Rejected(ProblemKind),
}

impl Outcome {
    /// The HTTP status that it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Delivered(_) => StatusCode::OK,
            Self::Rejected(kind) => kind.status(),
        }
    }

    /// Its name in metrics, log and spans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered(Delivered::Published) => "processed",
            Self::Delivered(Delivered::Filtered) => FILTERED,
            Self::Delivered(Delivered::Dropped) => "dropped",
            Self::Delivered(Delivered::DeadLettered) => "dead-lettered",
            Self::Delivered(Delivered::InvalidDeadLettered) => "invalid-dead-lettered",
            Self::Rejected(kind) => kind.name(),
        }
    }
}

impl From<&Result<Delivered, Problem>> for Outcome {
    fn from(result: &Result<Delivered, Problem>) -> Self {
        match result {
            Ok(delivered) => Self::Delivered(*delivered),
            Err(problem) => Self::Rejected(problem.kind),
        }
    }
}

/// The kinds of problem, in the order in which a request meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// Another path than the one that is served.
    UnknownPath,
    /// Another method than POST.
    MethodNotAllowed,
    /// A body over the limit.
    BodyTooLarge,
    SignatureMissing,
    /// A request without an API key.
    ApiKeyMissing,
    /// An API key that is not active.
    ApiKeyMismatch,
    /// A body in a `Content-Encoding` other than identity.
    EncodingUnsupported,
    /// A body slower than its deadline.
    BodyTimeout,
    /// The same, from a sender that does not send an event again after a 408.
    BodyTimeoutRetry,
    /// A body that ended before it was whole.
    BodyIncomplete,
    /// A signature under no active secret.
    SignatureMismatch,
    /// A body that is no event.
    EventInvalid,
    /// An event whose timestamp is older than the limit.
    EventTooOld,
    /// An unmatched event, rejected for good.
    Unrouted,
    /// An unmatched event, rejected with 400.
    UnroutedRetry,
    /// Kafka rejects the event until a person acts.
    KafkaRefused,
    /// Kafka did not acknowledge the event in time.
    KafkaUnavailable,
    /// Kafka did not acknowledge the event in time, because the relay exceeds a quota.
    KafkaThrottled,
    /// More events in flight than the relay holds.
    Overloaded,
    /// No table, no secret or no API key has been loaded yet.
    NotConfigured,
    /// The relay is on its way out.
    ShuttingDown,
}

impl ProblemKind {
    pub const ALL: [Self; 21] = [
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::SignatureMissing,
        Self::ApiKeyMissing,
        Self::ApiKeyMismatch,
        Self::EncodingUnsupported,
        Self::BodyTimeout,
        Self::BodyTimeoutRetry,
        Self::BodyIncomplete,
        Self::SignatureMismatch,
        Self::EventInvalid,
        Self::EventTooOld,
        Self::Unrouted,
        Self::UnroutedRetry,
        Self::KafkaRefused,
        Self::KafkaUnavailable,
        Self::KafkaThrottled,
        Self::Overloaded,
        Self::NotConfigured,
        Self::ShuttingDown,
    ];

    /// The HTTP status of the problem, also where a source without HTTP met it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnknownPath | Self::Unrouted => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SignatureMissing
            | Self::BodyIncomplete
            | Self::EventInvalid
            | Self::EventTooOld
            | Self::UnroutedRetry => StatusCode::BAD_REQUEST,
            Self::EncodingUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::SignatureMismatch => StatusCode::FORBIDDEN,
            Self::ApiKeyMissing | Self::ApiKeyMismatch => StatusCode::UNAUTHORIZED,
            Self::BodyTimeoutRetry
            | Self::KafkaRefused
            | Self::KafkaUnavailable
            | Self::KafkaThrottled
            | Self::Overloaded
            | Self::NotConfigured
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The last part of its `type`, and its name in metrics, log and spans.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown-path",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTooLarge => "body-too-large",
            Self::SignatureMissing => "signature-missing",
            Self::ApiKeyMissing => "api-key-missing",
            Self::ApiKeyMismatch => "api-key-mismatch",
            Self::EncodingUnsupported => "encoding-unsupported",
            Self::BodyTimeout | Self::BodyTimeoutRetry => "body-timeout",
            Self::BodyIncomplete => "body-incomplete",
            Self::SignatureMismatch => "signature-mismatch",
            Self::EventInvalid => "event-invalid",
            Self::EventTooOld => "event-too-old",
            Self::Unrouted | Self::UnroutedRetry => "unrouted",
            Self::KafkaRefused => "kafka-refused",
            Self::KafkaUnavailable => "kafka-unavailable",
            Self::KafkaThrottled => "kafka-throttled",
            Self::Overloaded => "overloaded",
            Self::NotConfigured => "not-configured",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// Whether the same event may succeed soon without any change.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::BodyTimeoutRetry
                | Self::KafkaUnavailable
                | Self::KafkaThrottled
                | Self::Overloaded
                | Self::NotConfigured
                | Self::ShuttingDown
        )
    }
}

/// Why an event was not delivered.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: ProblemKind,
    /// What happened this time, and what to do about it.
    pub detail: Cow<'static, str>,
    /// The event's id, for the log, when the event was verified.
    pub event_id: Option<String>,
    /// After how many seconds a retry of a transient problem helps, where that is known. A number, because every
    /// request's future has room for a problem.
    pub retry_after: Option<NonZeroU16>,
}

impl Problem {
    /// A problem with its cause and remedy.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), event_id: None, retry_after: None }
    }

    /// The problem, of which it is known after how long a retry helps.
    pub fn until(self, wait: Option<Duration>) -> Self {
        let seconds = wait.map(|wait| u16::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u16::MAX));
        Self { retry_after: seconds.and_then(NonZeroU16::new), ..self }
    }

    /// The problem of this event, which was verified.
    pub fn about(self, event_id: &str) -> Self {
        Self { event_id: Some(event_id.to_owned()), ..self }
    }
}

/// Text that a sender chose, fit to be shown: quoted, escaped, and at most 64 characters of it.
pub fn escaped(text: &str) -> String {
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
    fn text_of_a_sender_is_escaped_and_shortened() {
        assert_eq!(escaped("a\r\nb\"\u{1b}[2J"), r#""a\r\nb\"\u{1b}[2J""#);
        assert_eq!(escaped(&"é".repeat(100)), format!("\"{}\"...", "é".repeat(64)));
    }
}
