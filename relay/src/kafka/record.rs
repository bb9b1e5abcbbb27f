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

/// An event on its way to Kafka.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub event: &'a Event<'a>,
    /// Its bytes as they were signed.
    pub body: &'a Bytes,
    /// The trace context that goes into its headers.
    pub trace: Trace<'a>,
    /// Set for the dead-letter topic: the revision of the table that has no route for the event.
    pub unrouted_by: Option<&'a str>,
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
    /// The record's headers; `None` when there is no memory for them.
    pub(super) fn headers(&self) -> Option<Headers> {
        let event = self.event;
        let time = event.timestamp.and_then(rfc3339);
        let source = event.source.as_deref().map_or(Cow::Borrowed(DEFAULT_SOURCE), uri_reference);
        let headers = [
            ("ce_specversion", Some("1.0")),
            ("ce_id", Some(event.id.as_ref())),
            ("ce_source", Some(source.as_ref())),
            ("ce_type", Some(event.event_type.as_ref())),
            ("ce_time", time.as_deref()),
            ("content-type", Some("application/json")),
            ("traceparent", self.trace.parent),
            ("tracestate", self.trace.state),
            ("presenceroute_reason", self.unrouted_by.map(|_| "unrouted")),
            ("presenceroute_routing_revision", self.unrouted_by),
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

    fn headers(body: &str, unrouted_by: Option<&str>) -> Vec<String> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let event = Event::parse(&body).unwrap();
        let record = Record { event: &event, body: &body, trace: Trace::default(), unrouted_by };
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
        let headers = headers(r#"{"id":"1","eventType":"t"}"#, Some("r1"));
        assert!(headers.contains(&"ce_source=genesys-cloud".to_owned()), "{headers:?}");
        assert!(headers.contains(&"presenceroute_reason=unrouted".to_owned()), "{headers:?}");
        assert!(headers.contains(&"presenceroute_routing_revision=r1".to_owned()), "{headers:?}");
        assert!(!headers.iter().any(|header| header.starts_with("ce_time")), "{headers:?}");
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
