//! An event as a Kafka record: the CloudEvents binding in binary mode, so that consumers read what an event is
//! from the record's headers and find the body unchanged in its value.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;

use super::native::Headers;
use crate::event::Event;

/// `ce_source` of an event that names none; CloudEvents requires one.
const DEFAULT_SOURCE: &str = "genesys-cloud";

/// An event on its way to Kafka.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// The event.
    pub event: &'a Event<'a>,
    /// Its bytes as they were signed.
    pub body: &'a Bytes,
    /// W3C trace context of the request, well-formed.
    pub trace: Trace<'a>,
    /// When it goes to the dead-letter topic: the revision of the table that has no route for it.
    pub unrouted_by: Option<&'a str>,
}

/// Where Kafka has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The topic's partition, from 0.
    pub partition: i32,
    /// The record's offset in the partition.
    pub offset: i64,
}

/// W3C trace context. `tracestate` comes only together with `traceparent`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace<'a> {
    /// The header `traceparent`.
    pub parent: Option<&'a str>,
    /// The header `tracestate`.
    pub state: Option<&'a str>,
}

/// The same, by itself: the request's head, which holds on to the memory that it was read into, can go.
#[derive(Clone, Debug, Default)]
pub struct TraceHeaders {
    parent: Option<Box<str>>,
    state: Option<Box<str>>,
}

impl TraceHeaders {
    /// Takes a request's trace context as [`Trace::from_headers`] does.
    pub fn of(headers: &http::HeaderMap) -> Self {
        let Trace { parent, state } = Trace::from_headers(headers);
        Self { parent: parent.map(Box::from), state: state.map(Box::from) }
    }

    /// What was taken.
    pub fn as_trace(&self) -> Trace<'_> {
        Trace { parent: self.parent.as_deref(), state: self.state.as_deref() }
    }
}

impl<'a> Trace<'a> {
    /// Takes the request's trace context where it is well-formed, as far as W3C asks a reader to check.
    pub fn from_headers(headers: &'a http::HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(parent) = text("traceparent").filter(|parent| is_traceparent(parent)) else {
            return Self::default();
        };
        Self { parent: Some(parent), state: text("tracestate").filter(|state| state.len() <= 512) }
    }

    /// The id of the whole trace, 32 hexadecimal digits.
    pub fn id(self) -> Option<&'a str> {
        self.parent?.split('-').nth(1)
    }
}

/// `VERSION-TRACE-PARENT-FLAGS` in lowercase hexadecimal, none of the ids zero.
fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    parts.len() == lengths.len()
        && parts.iter().map(|part| part.len()).eq(lengths)
        && parts.iter().all(is_hex)
        && parts[0] != "ff"
        && !is_zero(parts[1])
        && !is_zero(parts[2])
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
    fn a_record_says_what_it_is_as_cloudevents_does() {
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
    fn what_cloudevents_requires_is_there_even_when_the_event_lacks_it() {
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

    #[test]
    fn only_a_well_formed_trace_context_is_passed_on() {
        let trace = |parent: &str, state: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("traceparent", parent.parse().unwrap());
            headers.insert("tracestate", state.parse().unwrap());
            let trace = Trace::from_headers(&headers);
            (trace.parent.map(str::to_owned), trace.state.map(str::to_owned))
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace(good, "a=1"), (Some(good.into()), Some("a=1".into())));
        for bad in
            ["", "00-0-0-01", &good.to_uppercase(), &good.replace("b7ad6b7169203331", "0000000000000000")]
        {
            assert_eq!(trace(bad, "a=1"), (None, None), "{bad}");
        }
    }
}
