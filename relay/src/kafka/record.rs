//! An event as a Kafka record: the CloudEvents binding in binary mode, so that consumers read what an event is
//! from the record's headers and find the body unchanged in its value.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;

use super::librdkafka::Headers;
use crate::observe::trace_context::Trace;
use presenceroute_core::event::Event;

/// `ce_source` of an event that names none; CloudEvents requires one.
const DEFAULT_SOURCE: &str = "genesys-cloud";

/// An event on its way to Kafka, or what came instead of one.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// The event, unless the body is none.
    pub event: Option<&'a Event<'a>>,
    /// The bytes as they were signed.
    pub body: &'a Bytes,
    /// The trace context that goes into its headers.
    pub trace: Trace<'a>,
    /// Set where the topic is one for what no route takes.
    pub dead_letter: Option<&'a DeadLetter<'a>>,
}

/// Why a record is in a topic for what no route takes.
#[derive(Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The problem's name.
    pub reason: &'a str,
    /// The problem in words.
    pub detail: Option<&'a str>,
    /// The content encoding of the body, where it has one.
    pub content_encoding: Option<&'a str>,
    /// The revision of the table that decided so.
    pub revision: &'a str,
}

/// Where Kafka has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The topic's partition, from 0.
    pub partition: i32,
    /// The record's offset in the partition.
    pub offset: i64,
}

impl Record<'_> {
    /// The event's id, or nothing where the body is no event.
    pub(super) fn id(&self) -> &str {
        self.event.map_or("", |event| event.id.as_ref())
    }

    /// The record's headers; `None` when there is no memory for them. A body that is no event has none of CloudEvents.
    pub(super) fn headers(&self) -> Option<Headers> {
        let event = self.event;
        let time = event.and_then(|event| rfc3339(event.timestamp?));
        let source =
            event.map(|event| event.source.as_deref().map_or(Cow::Borrowed(DEFAULT_SOURCE), uri_reference));
        let dead_letter = self.dead_letter;
        let headers = [
            ("ce_specversion", event.map(|_| "1.0")),
            ("ce_id", event.map(|event| event.id.as_ref())),
            ("ce_source", source.as_deref()),
            ("ce_type", event.map(|event| event.event_type.as_ref())),
            ("ce_time", time.as_deref()),
            ("content-type", event.map(|_| "application/json")),
            ("content-encoding", dead_letter.and_then(|dead_letter| dead_letter.content_encoding)),
            ("traceparent", self.trace.parent),
            ("tracestate", self.trace.state),
            ("presenceroute_reason", dead_letter.map(|dead_letter| dead_letter.reason)),
            ("presenceroute_detail", dead_letter.and_then(|dead_letter| dead_letter.detail)),
            ("presenceroute_routing_revision", dead_letter.map(|dead_letter| dead_letter.revision)),
        ];
        Headers::new(headers.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC; nothing for a time outside the years that it can write.
fn rfc3339(milliseconds: i64) -> Option<String> {
    let timestamp = Timestamp::from_millisecond(milliseconds).ok()?;
    (timestamp.as_second() >= Timestamp::UNIX_EPOCH.as_second() - 62_167_219_200)
        .then(|| format!("{timestamp:.3}"))
}

/// `source` as CloudEvents wants it, a URI reference: bytes that none can have are percent-encoded.
fn uri_reference(source: &str) -> Cow<'_, str> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    if source.bytes().all(is_legal) {
        return Cow::Borrowed(source);
    }
    let encoded = source.bytes().fold(String::with_capacity(source.len() + 8), |mut text, byte| {
        if is_legal(byte) {
            text.push(char::from(byte));
        } else {
            text.extend([
                '%',
                char::from(DIGITS[usize::from(byte >> 4)]),
                char::from(DIGITS[usize::from(byte & 15)]),
            ]);
        }
        text
    });
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(body: &str, dead_letter: Option<&DeadLetter<'_>>) -> Vec<String> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let event = Event::parse(&body).ok();
        let record = Record { event: event.as_ref(), body: &body, trace: Trace::default(), dead_letter };
        let headers = record.headers().unwrap().to_vec();
        headers.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn a_record_has_the_headers_of_cloudevents() {
        let body =
            r#"{"id":"e-1","eventType":"presence:state:changed","timestamp":1700000000123,"source":"org/1"}"#;
        assert_eq!(
            headers(body, None),
            [
                "ce_specversion=1.0",
                "ce_id=e-1",
                "ce_source=org/1",
                "ce_type=presence:state:changed",
                "ce_time=2023-11-14T22:13:20.123Z",
                "content-type=application/json",
            ]
        );
    }

    #[test]
    fn required_headers_are_there_when_the_event_lacks_them() {
        let dead_letter =
            DeadLetter { reason: "unrouted", detail: None, content_encoding: None, revision: "r1" };
        let headers = headers(r#"{"id":"1","eventType":"t"}"#, Some(&dead_letter));
        assert!(headers.contains(&"ce_source=genesys-cloud".to_owned()), "{headers:?}");
        assert!(headers.contains(&"presenceroute_reason=unrouted".to_owned()), "{headers:?}");
        assert!(headers.contains(&"presenceroute_routing_revision=r1".to_owned()), "{headers:?}");
        assert!(!headers.iter().any(|header| header.starts_with("ce_time")), "{headers:?}");
    }

    #[test]
    fn a_body_that_is_no_event_has_its_reason_and_nothing_of_cloudevents() {
        let dead_letter = DeadLetter {
            reason: "encoding-unsupported",
            detail: Some("why"),
            content_encoding: Some("gzip"),
            revision: "r1",
        };
        assert_eq!(
            headers("not json", Some(&dead_letter)),
            [
                "content-encoding=gzip",
                "presenceroute_reason=encoding-unsupported",
                "presenceroute_detail=why",
                "presenceroute_routing_revision=r1",
            ]
        );
    }

    #[test]
    fn a_source_that_is_no_uri_reference_is_encoded() {
        assert_eq!(uri_reference("urn:genesys:org-1"), "urn:genesys:org-1");
        assert_eq!(uri_reference("a b\né"), "a%20b%0A%C3%A9");
    }

    #[test]
    fn a_time_outside_the_calendar_is_left_out() {
        assert_eq!(rfc3339(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(rfc3339(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(rfc3339(i64::MAX), None);
        assert_eq!(rfc3339(-99_999_999_999_999), None);
    }
}
