//! A [`Problem`] as an HTTP response: `application/problem+json` (RFC 9457), with a stable `type` for each kind.

use std::num::NonZeroU16;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::outcome::{Problem, ProblemKind};

/// How long a sender waits before it tries again where nothing better is known, and at most, in seconds.
const RETRY_AFTER_SECONDS: u16 = 1;
const LONGEST_RETRY_AFTER_SECONDS: u16 = 60;

/// The problem as an HTTP response. `retry_refused_after`: after how many seconds the sender is to try again where Kafka
/// rejects the event until a person acts, if it is to be told.
pub(super) fn response(problem: &Problem, retry_refused_after: Option<NonZeroU16>) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Body<'a> {
        r#type: String,
        title: &'a str,
        status: u16,
        detail: &'a str,
    }
    let kind = problem.kind;
    let status = kind.status();
    let body = Body {
        r#type: format!("urn:presenceroute:problem:{}", kind.name()),
        title: title(kind),
        status: status.as_u16(),
        detail: &problem.detail,
    };
    // Strings and a number always serialise; an empty body would still carry the status.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(json)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if kind == ProblemKind::MethodNotAllowed {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    if kind == ProblemKind::EncodingUnsupported {
        // RFC 9110, section 12.5.3: what a request may have instead.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, section 15.5.2, wants a challenge. No registered scheme has the key in a header of its own.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("ApiKey"));
    }
    let retry_after = match kind {
        ProblemKind::KafkaRefused => retry_refused_after.map(NonZeroU16::get),
        _ => kind.is_transient().then(|| retry_after_seconds(problem)),
    };
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if kind == ProblemKind::KafkaUnavailable {
        // A kept connection stays with this relay, ready or not; another relay may reach Kafka.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The wait that the problem names, in seconds.
fn retry_after_seconds(problem: &Problem) -> u16 {
    problem.retry_after.map_or(RETRY_AFTER_SECONDS, |named| named.get().min(LONGEST_RETRY_AFTER_SECONDS))
}

fn title(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::UnknownPath => "This path is not served",
        ProblemKind::MethodNotAllowed => "Only POST is allowed",
        ProblemKind::BodyTooLarge => "The body is too large",
        ProblemKind::SignatureMissing => "The request is not signed",
        ProblemKind::ApiKeyMissing => "The request has no API key",
        ProblemKind::ApiKeyMismatch => "The API key is not active",
        ProblemKind::EncodingUnsupported => "The body has a content encoding",
        ProblemKind::BodyTimeout | ProblemKind::BodyTimeoutRetry => "The body took too long",
        ProblemKind::BodyIncomplete => "The body is not whole",
        ProblemKind::SignatureMismatch => "The signature does not match",
        ProblemKind::EventInvalid => "The body is not an event",
        ProblemKind::EventTooOld => "The event is too old",
        ProblemKind::Unrouted | ProblemKind::UnroutedRetry => "No route matches the event",
        ProblemKind::KafkaRefused => "Kafka refuses the event",
        ProblemKind::KafkaUnavailable => "Kafka did not acknowledge the event in time",
        ProblemKind::KafkaThrottled => "Kafka throttles the relay",
        ProblemKind::Overloaded => "Too many events are in flight",
        ProblemKind::NotConfigured => "The relay is not configured yet",
        ProblemKind::ShuttingDown => "The relay is shutting down",
    }
}

/// Whether a request may be answered so before its body was read to the end.
pub(super) fn may_leave_body(kind: ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::UnknownPath
            | ProblemKind::MethodNotAllowed
            | ProblemKind::BodyTooLarge
            | ProblemKind::SignatureMissing
            | ProblemKind::ApiKeyMissing
            | ProblemKind::ApiKeyMismatch
            | ProblemKind::EncodingUnsupported
            | ProblemKind::BodyTimeout
            | ProblemKind::BodyTimeoutRetry
            | ProblemKind::BodyIncomplete
            | ProblemKind::Overloaded
            | ProblemKind::NotConfigured
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::PushSource;
    use crate::source::api_destination::ApiDestination;

    #[test]
    fn retry_after_is_sent_only_where_a_retry_helps() {
        let retry_after =
            |kind| response(&Problem::new(kind, ""), None).headers().get(RETRY_AFTER).map(HeaderValue::len);
        assert_eq!(retry_after(ProblemKind::KafkaUnavailable), Some(1));
        assert_eq!(retry_after(ProblemKind::SignatureMismatch), None);
    }

    #[test]
    fn every_503_to_an_api_destination_has_a_positive_retry_after() {
        for kind in ProblemKind::ALL {
            let response = response(&Problem::new(kind, ""), ApiDestination::RETRY_REFUSED_AFTER);
            let retry_after = response.headers().get(RETRY_AFTER);
            let seconds = retry_after.map(|value| value.to_str().unwrap().parse::<u32>().unwrap());
            assert_eq!(seconds.is_some_and(|seconds| seconds > 0), kind.status() == 503, "{kind:?}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), kind.status() == 401, "{kind:?}");
        }
    }

    #[test]
    fn retry_after_is_the_wait_in_whole_seconds_up_to_a_minute() {
        let retry_after = |wait| {
            let problem = Problem::new(ProblemKind::KafkaThrottled, "").until(wait);
            response(&problem, None).headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()
        };
        let after = |milliseconds| retry_after(Some(std::time::Duration::from_millis(milliseconds)));
        assert_eq!([after(0), after(1_000), after(1_001), after(u64::MAX)], [1, 1, 2, 60]);
        assert_eq!(retry_after(None), 1);
    }
}
