//! An event as a Kafka record, by the Kafka protocol binding of CloudEvents. In binary mode consumers read what an event
//! is from the record's headers, and find the body unchanged in its value. In structured mode the value is a CloudEvent in
//! JSON, which has both.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::librdkafka::Headers;
use crate::observe::trace_context::Trace;
use presenceroute_core::event::Event;
use presenceroute_core::routing::ContentMode;

/// `ce_source` of an event that names none; CloudEvents requires one.
const DEFAULT_SOURCE: &str = "genesys-cloud";

/// The version of CloudEvents.
const SPEC_VERSION: &str = "1.0";

/// The media type of a body.
const JSON: &str = "application/json";

/// What may precede a text, and has no place inside of one (RFC 8259, section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

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

    /// Marks what describes a failure and no state, for consumers that keep the newest state.
    fn error(&self) -> Option<&'static str> {
        self.event.is_some_and(Event::is_error).then_some("true")
    }

    /// The record's value and headers; `None` when there is no memory for them.
    pub(super) fn content(&self, mode: ContentMode) -> Option<(Bytes, Headers)> {
        match (mode, self.event) {
            (ContentMode::Structured, Some(event)) => {
                Some((self.cloud_event(event)?, self.structured_headers()?))
            }
            // A body that is no event can only be passed on as it is.
            _ => Some((self.body.clone(), self.headers()?)),
        }
    }

    /// The bytes that the record's value has at most.
    pub(super) fn largest_value(&self, mode: ContentMode) -> usize {
        match mode {
            ContentMode::Binary => self.body.len(),
            // What surrounds the body is of a fixed size, or is names: quotes in them are escaped, and the source may be
            // percent-encoded.
            ContentMode::Structured => {
                let names = self.event.map_or(0, |event| {
                    let source = event.source.as_ref().map_or(0, |source| source.len());
                    // Those of a notification are no part of its body.
                    3 * source
                        + 2 * (event.id.len() + event.event_type.len() + event.subject().map_or(0, str::len))
                });
                2 * self.body.len() + names + (1 << 10)
            }
        }
    }

    /// The event in the JSON format of CloudEvents. The body goes into it as it is.
    fn cloud_event(&self, event: &Event<'_>) -> Option<Bytes> {
        #[derive(Serialize)]
        struct Attributes<'a> {
            specversion: &'static str,
            id: &'a str,
            source: &'a str,
            r#type: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            subject: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            time: Option<String>,
            datacontenttype: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            traceparent: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tracestate: Option<&'a str>,
        }
        let attributes = Attributes {
            specversion: SPEC_VERSION,
            id: &event.id,
            source: &source_of(event),
            r#type: &event.event_type,
            subject: event.subject(),
            time: event.timestamp.and_then(rfc3339),
            datacontenttype: JSON,
            traceparent: self.trace.parent,
            tracestate: self.trace.state,
        };
        let body = self.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(self.body);
        let mut value = Vec::with_capacity(body.len() + 512);
        serde_json::to_writer(&mut value, &attributes).ok()?;
        // The object is open again for one more member.
        value.pop();
        value.extend_from_slice(br#","data":"#);
        value.extend_from_slice(body);
        value.push(b'}');
        Some(value.into())
    }

    /// The headers of a record whose value says what the event is.
    fn structured_headers(&self) -> Option<Headers> {
        let headers = [
            ("content-type", Some("application/cloudevents+json; charset=UTF-8")),
            ("traceparent", self.trace.parent),
            ("tracestate", self.trace.state),
            ("presencename", self.event.and_then(Event::presence_name)),
            ("error", self.error()),
        ];
        Headers::new(headers.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }

    /// The headers in binary mode; `None` when there is no memory for them. A body that is no event has none of CloudEvents.
    fn headers(&self) -> Option<Headers> {
        let event = self.event;
        let time = event.and_then(|event| rfc3339(event.timestamp?));
        let source = event.map(source_of);
        let dead_letter = self.dead_letter;
        let headers = [
            ("ce_specversion", event.map(|_| SPEC_VERSION)),
            ("ce_id", event.map(|event| event.id.as_ref())),
            ("ce_source", source.as_deref()),
            ("ce_type", event.map(|event| event.event_type.as_ref())),
            ("ce_subject", event.and_then(Event::subject)),
            ("ce_time", time.as_deref()),
            ("content-type", event.map(|_| JSON)),
            ("content-encoding", dead_letter.and_then(|dead_letter| dead_letter.content_encoding)),
            ("traceparent", self.trace.parent),
            ("tracestate", self.trace.state),
            ("presencename", event.and_then(Event::presence_name)),
            ("error", self.error()),
            ("presenceroute_reason", dead_letter.map(|dead_letter| dead_letter.reason)),
            ("presenceroute_detail", dead_letter.and_then(|dead_letter| dead_letter.detail)),
            ("presenceroute_routing_revision", dead_letter.map(|dead_letter| dead_letter.revision)),
        ];
        Headers::new(headers.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

fn source_of<'e>(event: &'e Event<'_>) -> Cow<'e, str> {
    event.source.as_deref().map_or(Cow::Borrowed(DEFAULT_SOURCE), uri_reference)
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

    const ENVELOPE: &str = r#"{"id":"e-1","detail-type":"v2.users.{id}.routingStatus","source":"aws.partner/genesys.com/cloud/o/s","detail":{"topicName":"v2.users.u-1.routingStatus","eventBody":{"id":"u-1","errorInfo":{"errorCode":"x"}},"timestamp":"2026-03-19T22:04:48.128Z"}}"#;

    #[test]
    fn a_notification_has_its_subject_and_is_marked_as_an_error() {
        let envelope = Bytes::from_static(ENVELOPE.as_bytes());
        let (event, detail) = presenceroute_core::event::envelope::decode(&envelope).unwrap();
        let record =
            Record { event: Some(&event), body: &detail, trace: Trace::default(), dead_letter: None };
        let headers = record.headers().unwrap().to_vec();
        let headers: Vec<_> = headers.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            headers,
            [
                "ce_specversion=1.0",
                "ce_id=e-1",
                "ce_source=aws.partner/genesys.com/cloud/o/s",
                "ce_type=v2.users.{id}.routingStatus",
                "ce_subject=u-1",
                "ce_time=2026-03-19T22:04:48.128Z",
                "content-type=application/json",
                "error=true",
            ]
        );
        let (value, headers) = record.content(ContentMode::Structured).unwrap();
        assert!(value.len() <= record.largest_value(ContentMode::Structured));
        let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(value["subject"], "u-1");
        assert_eq!(value["data"], serde_json::from_slice::<serde_json::Value>(&detail).unwrap());
        assert!(headers.to_vec().contains(&("error".to_owned(), "true".to_owned())));
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

    fn cloud_event(body: &str, trace: Trace<'_>) -> (serde_json::Value, String, Vec<(String, String)>) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let event = Event::parse(&body).unwrap();
        let record = Record { event: Some(&event), body: &body, trace, dead_letter: None };
        let (value, headers) = record.content(ContentMode::Structured).unwrap();
        assert!(value.len() <= record.largest_value(ContentMode::Structured));
        let text = String::from_utf8(value.to_vec()).unwrap();
        (serde_json::from_str(&text).unwrap(), text, headers.to_vec())
    }

    #[test]
    fn a_structured_record_is_a_cloudevent_with_the_event_as_data() {
        let body = r#"{"id":"e-1","eventType":"t","timestamp":1700000000123,"source":"a b","attributes":{"n":1.50}}"#;
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace { parent: Some(parent), state: None };
        let (value, text, headers) = cloud_event(body, trace);
        let data: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "e-1", "source": "a%20b", "type": "t", "time": "2023-11-14T22:13:20.123Z",
            "datacontenttype": "application/json", "traceparent": parent, "data": data,
        });
        assert_eq!(value, expected);
        // Not read and written again: 1.50 is still 1.50.
        assert!(text.ends_with(&format!(r#","data":{body}}}"#)), "{text}");
        let expected =
            [("content-type", "application/cloudevents+json; charset=UTF-8"), ("traceparent", parent)];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_structured_record_is_json_however_the_event_is_written() {
        let mark = "\u{feff}{\"id\":\"1\",\"eventType\":\"t\"}";
        let spaced = " \n{\"id\": \"\\u00e8\\\"é\", \"eventType\":\"t\"} \r\n";
        for (body, id) in [(mark, "1"), (spaced, "è\"é")] {
            let (value, ..) = cloud_event(body, Trace::default());
            assert_eq!((value["id"].as_str(), value["data"]["id"].as_str()), (Some(id), Some(id)));
            assert!(value.get("time").is_none() && value["source"] == DEFAULT_SOURCE);
        }
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
