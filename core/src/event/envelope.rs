//! An envelope of Amazon EventBridge as an event. Its `detail` is a notification of Genesys Cloud, and becomes the value of
//! the event's record as it is.
//!
//! Nothing is copied: texts without escapes and the detail are parts of the body. What AWS writes is read strictly, because
//! without it there is no event. What Genesys Cloud writes is read generously: no notification is lost for its form.
//!
//! Sources of the form: <https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>; the models of
//! notifications in <https://github.com/MyPureCloud/platform-client-sdk-go>.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{Event, EventError, Notification, event_type, milliseconds, name_or_hash, object_text};
use crate::json::{self, members, members_by, unique_members};

/// Reads the event in an envelope. The bytes are those of its `detail`, a part of `body`.
///
/// # Errors
/// The body is no object of JSON, or has no `id`, `detail-type` or `detail`, or one of the wrong type.
pub fn decode(body: &Bytes) -> Result<(Event<'_>, Bytes), EventError> {
    let names = ["id", "detail-type", "source", "time", "detail"];
    let [id, detail_type, source, time, detail] =
        unique_members(object_text(body)?, names).map_err(|error| EventError::Format(error.to_string()))?;
    let id = text("id", id)?.ok_or(EventError::MissingInEnvelope("id"))?;
    let detail_type =
        text("detail-type", detail_type)?.ok_or(EventError::MissingInEnvelope("detail-type"))?;
    let detail = present(detail).ok_or(EventError::MissingInEnvelope("detail"))?;
    if !is_object(detail) {
        return Err(EventError::Format("`detail` must be an object".into()));
    }
    let context =
        Context { id, detail_type, source: text("source", source)?, time: time.and_then(milliseconds) };
    Ok((notification(context, detail)?, body.slice_ref(detail.get().as_bytes())))
}

/// What a record says of an event whose value is the `detail` of an envelope.
#[derive(Clone, Copy, Debug)]
pub struct RecordContext<'a> {
    /// The event's id, `ce_id`.
    pub id: &'a str,
    /// Its type, `ce_type`.
    pub event_type: &'a str,
    /// What it comes from, `ce_source`.
    pub source: Option<&'a str>,
    /// Its time in RFC 3339, `ce_time`.
    pub time: Option<&'a str>,
    /// What the organisation calls its presence, `presencename`.
    pub presence_name: Option<&'a str>,
}

/// Reads the event in a record that was made of an envelope.
///
/// # Errors
/// The value is no object of JSON, or the id is empty, or the type is not one that a route can name.
pub fn of_record<'a>(context: RecordContext<'a>, value: &'a [u8]) -> Result<Event<'a>, EventError> {
    let RecordContext { id, event_type, source, time, presence_name } = context;
    if id.is_empty() {
        return Err(EventError::Missing("id"));
    }
    let detail = serde_json::from_str(object_text(value)?);
    let detail = detail.map_err(|error: serde_json::Error| EventError::Format(error.to_string()))?;
    let time = time.and_then(|time| Some(time.parse::<Timestamp>().ok()?.as_millisecond()));
    let (detail_type, source) = (Cow::Borrowed(event_type), source.map(Cow::Borrowed));
    let mut event = notification(Context { id: Cow::Borrowed(id), detail_type, source, time }, detail)?;
    if let Some(notification) = &mut event.notification {
        notification.presence_name = presence_name.map(str::to_owned);
    }
    Ok(event)
}

/// What is said of an event outside of its `detail`.
struct Context<'a> {
    id: Cow<'a, str>,
    detail_type: Cow<'a, str>,
    source: Option<Cow<'a, str>>,
    /// In milliseconds since 1970. An envelope's is in whole seconds, and that of its sending.
    time: Option<i64>,
}

fn notification<'a>(context: Context<'a>, detail: &'a RawValue) -> Result<Event<'a>, EventError> {
    let Context { id, detail_type, source, time } = context;
    let [topic, event_body, metadata, sent] =
        members(detail, ["topicName", "eventBody", "metadata", "timestamp"]);
    let event_body = event_body.filter(|body| is_object(body));
    let (changed, is_error) = event_body.map_or((None, false), described);
    let notification = Notification {
        subject: topic.and_then(json::text).and_then(|topic| subject(&detail_type, topic)),
        correlation_id: metadata.and_then(correlation_id),
        is_error,
        presence_name: None,
    };
    Ok(Event {
        id: name_or_hash(id),
        event_type: event_type(detail_type)?,
        timestamp: changed.or_else(|| milliseconds(sent?)).or(time),
        source,
        attributes: event_body,
        notification: Some(Box::new(notification)),
    })
}

/// The id of the presence definition that a notification names: that of a presence, or of the presence in an activity.
#[must_use]
pub fn presence_definition<'e>(event: &'e Event<'_>) -> Option<Cow<'e, str>> {
    let [definition, presence] = members(event.attributes?, ["presenceDefinition", "presence"]);
    let nested = || {
        let [definition] = members(presence?, ["presenceDefinition"]);
        definition
    };
    let [id] = members(definition.or_else(nested)?, ["id"]);
    json::text(id?)
}

/// The newest time at which what the body describes has changed, and whether it describes a failure instead.
///
/// A presence has `modifiedDate`, a routing status `routingStatus.startTime`, and an activity one for each of its parts.
fn described(body: &RawValue) -> (Option<i64>, bool) {
    let names = [
        "modifiedDate",
        "startTime",
        "dateActiveQueuesChanged",
        "routingStatus",
        "presence",
        "outOfOffice",
        "errorInfo",
    ];
    let [modified, started, queues_changed, routing_status, presence, out_of_office, error] =
        members(body, names);
    let inner = |object: Option<&'_ RawValue>, name| {
        let [time] = members(object?, [name]);
        milliseconds(time?)
    };
    let times = [
        modified.and_then(milliseconds),
        started.and_then(milliseconds),
        queues_changed.and_then(milliseconds),
        inner(routing_status, "startTime"),
        inner(presence, "modifiedDate"),
        inner(out_of_office, "modifiedDate"),
    ];
    (times.into_iter().flatten().max(), present(error).is_some())
}

/// What `topic` has in the place of the first name in braces of `detail_type`: a user's id in `v2.users.{id}.presence`.
fn subject<'a>(detail_type: &str, topic: Cow<'a, str>) -> Option<Cow<'a, str>> {
    let start = detail_type.find('{')?;
    if detail_type.get(..start)? != topic.get(..start)? {
        return None;
    }
    let length = topic[start..].find('.').unwrap_or(topic.len() - start);
    let range = start..start + length;
    // Where the topic has a name in braces, too, it is about no one in particular.
    if range.is_empty() || topic[range.clone()].starts_with('{') {
        return None;
    }
    Some(name_or_hash(match topic {
        Cow::Borrowed(topic) => Cow::Borrowed(&topic[range]),
        Cow::Owned(topic) => Cow::Owned(topic[range].to_owned()),
    }))
}

/// Genesys Cloud writes it `CorrelationId`.
fn correlation_id(metadata: &RawValue) -> Option<Cow<'_, str>> {
    let [id] = members_by(metadata, ["correlationid"], str::eq_ignore_ascii_case);
    json::text(id?).filter(|id| !id.is_empty())
}

/// A text that is not empty, or nothing where there is none.
fn text<'a>(name: &'static str, value: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, EventError> {
    let Some(value) = present(value) else { return Ok(None) };
    match json::text(value) {
        Some(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        None => Err(EventError::Format(format!("`{name}` must be a string"))),
    }
}

fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "97b9e5a4-8d9c-4a2e-9d1d-6a8c1e0f7b21";

    /// An envelope as Amazon EventBridge writes it, around this `eventBody`.
    fn envelope(topic: &str, event_body: &str) -> Bytes {
        let name = topic.replace("{id}", USER);
        Bytes::from(format!(
            r#"{{"version":"0","id":"6a7e8feb-b491-4cf7-a9f1-bf3703467718","detail-type":"{topic}","source":"aws.partner/genesys.com/cloud/0c1f3b52-5d7e-4f53-9a53-6d0c7f3a1e22/presence","account":"123456789012","time":"2026-03-19T22:04:48Z","region":"eu-west-1","resources":[],"detail":{{"topicName":"{name}","version":"2","eventBody":{event_body},"metadata":{{"CorrelationId":"c0ffee00-0000-4000-8000-000000000001"}},"timestamp":"2026-03-19T22:04:48.128Z"}}}}"#
        ))
    }

    fn milliseconds_of(text: &str) -> Option<i64> {
        Some(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn decoded(body: &Bytes) -> (Event<'_>, Bytes) {
        decode(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
    }

    const PRESENCE: &str = r#"{"source":"PURECLOUD","presenceDefinition":{"id":"6a3af858-942f-489d-9700-5f9bcdcdae9b","systemPresence":"AVAILABLE"},"primary":true,"message":"","modifiedDate":"2026-03-19T22:04:47.904Z"}"#;

    #[test]
    fn a_presence_is_read_without_copying_its_text() {
        let body = envelope("v2.users.{id}.presence", PRESENCE);
        let (event, value) = decoded(&body);
        assert!(matches!(event.id, Cow::Borrowed("6a7e8feb-b491-4cf7-a9f1-bf3703467718")));
        assert!(matches!(event.event_type, Cow::Borrowed("v2.users.{id}.presence")));
        let source = "aws.partner/genesys.com/cloud/0c1f3b52-5d7e-4f53-9a53-6d0c7f3a1e22/presence";
        assert!(matches!(&event.source, Some(Cow::Borrowed(text)) if *text == source));
        assert_eq!(event.timestamp, milliseconds_of("2026-03-19T22:04:47.904Z"));
        assert_eq!(event.attributes.unwrap().get(), PRESENCE);
        let notification = event.notification.as_ref().unwrap();
        assert!(matches!(notification.subject, Some(Cow::Borrowed(USER))));
        assert!(matches!(
            notification.correlation_id,
            Some(Cow::Borrowed("c0ffee00-0000-4000-8000-000000000001"))
        ));
        assert!(!event.is_error());
        assert!(value.starts_with(br#"{"topicName":"v2.users.97b9"#) && value.ends_with(br#"48.128Z"}"#));
        // A part of the body, and no copy of it.
        assert!(body.as_ptr_range().contains(&value.as_ptr()));
    }

    #[test]
    fn the_time_is_the_newest_that_the_body_has() {
        let time = |topic: &str, event_body: &str| {
            let body = envelope(topic, event_body);
            decoded(&body).0.timestamp
        };
        let status = r#"{"id":"u","routingStatus":{"status":"IDLE","startTime":"2026-03-19T22:04:40.5Z"}}"#;
        assert_eq!(time("v2.users.{id}.routingStatus", status), milliseconds_of("2026-03-19T22:04:40.500Z"));
        let activity = r#"{"id":"u","routingStatus":{"status":"IDLE","startTime":"2026-03-19T22:04:40Z"},
            "presence":{"presenceDefinition":{"id":"d","systemPresence":"AWAY"},"presenceMessage":"x",
            "modifiedDate":"2026-03-19T22:04:41Z"},"outOfOffice":{"active":false,"modifiedDate":"2026-03-01T00:00:00Z"},
            "activeQueueIds":[],"dateActiveQueuesChanged":"2026-03-18T22:04:41Z"}"#;
        assert_eq!(time("v2.users.{id}.activity", activity), milliseconds_of("2026-03-19T22:04:41Z"));
        assert_eq!(time("t", r#"{"startTime":1700000000123}"#), Some(1_700_000_000_123));
    }

    #[test]
    fn without_a_time_of_change_it_is_when_it_was_sent() {
        for event_body in ["{}", "null", "[]", r#"{"modifiedDate":null,"startTime":"soon","presence":7}"#] {
            let body = envelope("v2.users.{id}.outofoffice", event_body);
            assert_eq!(
                decoded(&body).0.timestamp,
                milliseconds_of("2026-03-19T22:04:48.128Z"),
                "{event_body}"
            );
        }
        let body =
            Bytes::from_static(br#"{"id":"1","detail-type":"t","time":"2026-03-19T22:04:48Z","detail":{}}"#);
        assert_eq!(decoded(&body).0.timestamp, milliseconds_of("2026-03-19T22:04:48Z"));
        let body = Bytes::from_static(br#"{"id":"1","detail-type":"t","detail":{}}"#);
        assert_eq!(decoded(&body).0.timestamp, None);
    }

    #[test]
    fn an_error_info_makes_it_no_state() {
        let with = |error: &str| {
            let status = r#"{"id":"u","routingStatus":{"status":"IDLE"},"errorInfo":"#;
            let body = envelope("v2.users.{id}.routingStatus", &format!("{status}{error}}}"));
            decoded(&body).0.is_error()
        };
        assert!(with(r#"{"errorCode":"x","status":500}"#) && with("{}"));
        assert!(!with("null"));
    }

    #[test]
    fn the_subject_is_what_the_topic_has_in_the_place_of_the_braces() {
        for (detail_type, topic, expected) in [
            ("v2.users.{id}.presence", "v2.users.u-1.presence", Some("u-1")),
            ("v2.conversations.{id}", "v2.conversations.c-1", Some("c-1")),
            ("v2.users.{userId}.conversations.{id}", "v2.users.u-1.conversations.c-1", Some("u-1")),
            ("v2.users.{id}.presence", "v2.users.{id}.presence", None),
            ("v2.users.{id}.presence", "v2.users..presence", None),
            ("v2.users.{id}.presence", "v2.groups.g-1.presence", None),
            ("v2.users.{id}.presence", "v2.users", None),
            ("v2.users.{id}.presence", "é", None),
            ("v2.system.socket_closing", "v2.system.socket_closing", None),
        ] {
            assert_eq!(subject(detail_type, topic.into()).as_deref(), expected, "{topic}");
        }
        let long = format!("v2.users.{}.presence", "u".repeat(300));
        let hash = subject("v2.users.{id}.presence", long.into()).unwrap();
        assert!(hash.starts_with("sha256:") && hash.len() == 71, "{hash}");
    }

    #[test]
    fn a_correlation_id_is_found_in_any_case() {
        for metadata in
            [r#"{"CorrelationId":"c"}"#, r#"{"x":1,"correlationid":"c"}"#, r#"{"CORRELATIONID":"c"}"#]
        {
            let raw: &RawValue = serde_json::from_str(metadata).unwrap();
            assert_eq!(correlation_id(raw).as_deref(), Some("c"), "{metadata}");
        }
        for metadata in ["{}", r#"{"CorrelationId":""}"#, r#"{"CorrelationId":7}"#, "[]", "null"] {
            let raw: &RawValue = serde_json::from_str(metadata).unwrap();
            assert_eq!(correlation_id(raw), None, "{metadata}");
        }
    }

    #[test]
    fn a_detail_of_any_form_loses_no_event() {
        for detail in [
            "{}",
            r#"{"topicName":7,"eventBody":"x","metadata":[],"timestamp":{}}"#,
            r#"{"topicName":null,"eventBody":null,"metadata":null,"timestamp":null}"#,
            r#"{"topic\ud83dName":"x","eventBody":{"\ude00":"\ud83d"}}"#,
            r#"{"eventBody":1,"eventBody":{"a":1}}"#,
        ] {
            let body = Bytes::from(format!(r#"{{"id":"1","detail-type":"t","detail":{detail}}}"#));
            let (event, value) = decoded(&body);
            assert_eq!((event.id.as_ref(), value.as_ref()), ("1", detail.as_bytes()));
            assert_eq!(event.subject(), None);
        }
    }

    #[test]
    fn the_presence_definition_is_that_of_a_presence_or_an_activity() {
        let of = |event_body: &str| {
            let body = envelope("v2.users.{id}.presence", event_body);
            presence_definition(&decoded(&body).0).map(Cow::into_owned)
        };
        assert_eq!(of(PRESENCE).as_deref(), Some("6a3af858-942f-489d-9700-5f9bcdcdae9b"));
        assert_eq!(of(r#"{"presence":{"presenceDefinition":{"id":"d"}}}"#).as_deref(), Some("d"));
        for without in
            ["{}", r#"{"presenceDefinition":{}}"#, r#"{"presenceDefinition":7,"presence":7}"#, "null"]
        {
            assert_eq!(of(without), None, "{without}");
        }
    }

    #[test]
    fn a_record_of_an_envelope_is_the_same_event() {
        let body = envelope("v2.users.{id}.presence", PRESENCE);
        let (event, value) = decoded(&body);
        let context = RecordContext {
            id: &event.id,
            event_type: &event.event_type,
            source: event.source.as_deref(),
            time: Some("2020-01-01T00:00:00Z"),
            presence_name: None,
        };
        let again = of_record(context, &value).unwrap();
        assert_eq!(format!("{again:?}"), format!("{event:?}"));
        let named = of_record(RecordContext { presence_name: Some("Lunch"), ..context }, &value).unwrap();
        assert_eq!(named.presence_name(), Some("Lunch"));
        let without_time = of_record(context, b"{}").unwrap();
        assert_eq!(without_time.timestamp, milliseconds_of("2020-01-01T00:00:00Z"));
        assert_eq!(
            of_record(RecordContext { id: "", ..context }, &value).unwrap_err(),
            EventError::Missing("id")
        );
        assert!(of_record(context, b"[]").is_err() && of_record(context, b"{").is_err());
    }

    #[test]
    fn what_is_no_envelope_is_refused_by_the_field() {
        let refusal =
            |body: &'static str| decode(&Bytes::from_static(body.as_bytes())).unwrap_err().to_string();
        for (body, named) in [
            (r#"{"detail-type":"t","detail":{}}"#, "no id;"),
            (r#"{"id":"1","detail-type":"","detail":{}}"#, "no detail-type;"),
            (r#"{"id":"1","detail-type":"t"}"#, "no detail;"),
            (r#"{"id":"1","detail-type":"t","detail":null}"#, "no detail;"),
            (r#"{"id":"1","detail-type":"t","detail":"{}"}"#, "`detail` must be an object"),
            (r#"{"id":1,"detail-type":"t","detail":{}}"#, "`id` must be a string"),
            (r#"{"id":"1","detail-type":"t","source":[],"detail":{}}"#, "`source` must be a string"),
            (r#"{"id":"1","id":"2","detail-type":"t","detail":{}}"#, "`id` comes twice"),
            (r#"{"id":"1","detail-type":"t","detail":{}}x"#, "trailing"),
            (r#"{"id":"1","detail-type":"t","detail":{"#, "EOF"),
            (r#"{"id":"1","eventType":"t"}"#, "without an input path or transformer"),
            ("[]", "does not begin with {"),
        ] {
            assert!(refusal(body).contains(named), "{body}: {}", refusal(body));
        }
        let secret = refusal(r#"{"id":"1","detail-type":"t","detail":"secret"}"#);
        assert!(!secret.contains("secret"), "{secret}");
    }
}
