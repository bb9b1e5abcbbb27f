//! A verified body as an event.
//!
//! Only what routing and the record's headers need is decoded, and strings without escapes are borrowed from the
//! body. The attributes stay text until a route asks for one of them.

pub mod envelope;

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::json;

/// What some systems write before UTF-8, and JSON does not know (RFC 8259, section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The longest `eventType`, and the longest `id` that is taken as it is, in bytes.
pub const LONGEST_NAME: usize = 256;

/// The attribute that a notification has besides the fields of its body.
pub const CORRELATION_ID: &str = "correlationId";

/// One event, as Genesys Cloud describes it.
#[derive(Debug)]
pub struct Event<'a> {
    /// What tells it apart; not empty, without control characters, at most [`LONGEST_NAME`] bytes. An id that is not so is
    /// replaced by `sha256:` and the SHA-256 of its text in hexadecimal: no event is lost for how its sender names it.
    pub id: Cow<'a, str>,
    /// What it is; not empty, without control characters.
    pub event_type: Cow<'a, str>,
    /// When it happened, in milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// What it comes from.
    pub source: Option<Cow<'a, str>>,
    /// Its attributes: the text of a JSON object.
    pub attributes: Option<&'a RawValue>,
    /// What is said of it beside that, where it is a notification; `None` of a webhook's event. Boxed, because every
    /// request keeps room for an event.
    pub notification: Option<Box<Notification<'a>>>,
}

/// What a notification of Genesys Cloud says of an event, beside its attributes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notification<'a> {
    /// What it is about: the id in its topic, which most often is a user's. It has the form of an event's id.
    pub subject: Option<Cow<'a, str>>,
    /// Tells the request that caused it. It is the attribute [`CORRELATION_ID`] unless the body has one of that name.
    pub correlation_id: Option<Cow<'a, str>>,
    /// It carries `errorInfo`: something failed, and it describes no state.
    pub is_error: bool,
    /// What the organisation calls the presence that it describes, where that is known. Nothing in the notification says so.
    pub presence_name: Option<String>,
}

/// Why a body is not an event. It names the field, never its content.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EventError {
    /// Not UTF-8, which JSON is.
    #[error("the body is not UTF-8 text; send JSON")]
    NotText,
    /// Not a JSON object, or a field of the wrong type.
    #[error("the body is not a JSON object with the fields of an event: {0}")]
    Format(String),
    /// A field that must be there is not.
    #[error("the event has no {0}; send it as a string that is not empty")]
    Missing(&'static str),
    /// The same of an envelope of Amazon EventBridge. The target of a rule gets it whole unless the rule changes it.
    #[error(
        "the body is no envelope of Amazon EventBridge: it has no {0}; let the rule pass the matched event, without an \
         input path or transformer"
    )]
    MissingInEnvelope(&'static str),
    /// A type that is too long or cannot be shown, and so is none that a route can name.
    #[error("the event's eventType has control characters or more than {LONGEST_NAME} bytes")]
    EventType,
}

impl<'a> Event<'a> {
    /// Reads the event in `body`. Fields that are not known are left alone; `null` means absent.
    pub fn parse(body: &'a [u8]) -> Result<Self, EventError> {
        let text = object_text(body)?;
        let fields: Fields<'a> =
            serde_json::from_str(text).map_err(|error| EventError::Format(error.to_string()))?;
        Ok(Self {
            id: name_or_hash(present("id", fields.id)?),
            event_type: event_type(present("eventType", fields.event_type)?)?,
            timestamp: fields.timestamp,
            source: fields.source.filter(|source| !source.is_empty()),
            attributes: fields.attributes,
            notification: None,
        })
    }

    /// What the event is about, where that is known.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.notification.as_ref()?.subject.as_deref()
    }

    /// The value of the attribute [`CORRELATION_ID`], unless the attributes have one of that name.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.notification.as_ref()?.correlation_id.as_deref()
    }

    /// What the organisation calls the presence that the event describes, where that is known.
    #[must_use]
    pub fn presence_name(&self) -> Option<&str> {
        self.notification.as_ref()?.presence_name.as_deref()
    }

    /// Whether the event describes a failure and no state.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.notification.as_ref().is_some_and(|notification| notification.is_error)
    }
}

/// The text of a body that begins as an object of JSON does, without a byte order mark.
fn object_text(body: &[u8]) -> Result<&str, EventError> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let text = str::from_utf8(body).map_err(|_| EventError::NotText)?;
    // Of anything else than an object, serde_json's error would hold the content.
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err(EventError::Format("it does not begin with {".into()));
    }
    Ok(text)
}

fn name_or_hash(text: Cow<'_, str>) -> Cow<'_, str> {
    if is_name(&text) {
        return text;
    }
    Cow::Owned(format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes()))))
}

fn event_type(event_type: Cow<'_, str>) -> Result<Cow<'_, str>, EventError> {
    if is_name(&event_type) { Ok(event_type) } else { Err(EventError::EventType) }
}

fn present<'a>(field: &'static str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, EventError> {
    value.filter(|value| !value.is_empty()).ok_or(EventError::Missing(field))
}

/// Whether CloudEvents knows such a text, and a record's key and headers have room for it.
fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

#[derive(Default)]
struct Fields<'a> {
    id: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    timestamp: Option<i64>,
    source: Option<Cow<'a, str>>,
    attributes: Option<&'a RawValue>,
}

/// Written out because a derived `Option<Cow<str>>` would copy, and to name the field in an error. A field that
/// comes twice is an error: two readers could each take another one.
impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor).map(|fields: Fields<'de>| fields)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
        let mut fields = Fields::default();
        let mut seen = [false; 5];
        while let Some(key) = map.next_key::<Key>()? {
            if let Key::Known(index, name) = key
                && std::mem::replace(&mut seen[index], true)
            {
                return Err(M::Error::custom(format_args!("`{name}` comes twice")));
            }
            match key {
                Key::Known(0, name) => fields.id = text(map.next_value()?, name)?,
                Key::Known(1, name) => fields.event_type = text(map.next_value()?, name)?,
                Key::Known(2, name) => {
                    let raw: &RawValue = map.next_value()?;
                    fields.timestamp = match raw.get() {
                        "null" => None,
                        _ => Some(milliseconds(raw).ok_or_else(|| {
                            M::Error::custom(format_args!(
                                "`{name}` must be a whole number of milliseconds, or a time of ISO 8601"
                            ))
                        })?),
                    };
                }
                Key::Known(3, name) => fields.source = text(map.next_value()?, name)?,
                Key::Known(_, name) => {
                    let raw: &RawValue = map.next_value()?;
                    fields.attributes = match raw.get() {
                        "null" => None,
                        object if object.starts_with('{') => Some(raw),
                        _ => return Err(M::Error::custom(format_args!("`{name}` must be an object"))),
                    };
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// A JSON string, or nothing for `null`.
fn text<'de, E: serde::de::Error>(raw: &'de RawValue, field: &str) -> Result<Option<Cow<'de, str>>, E> {
    if raw.get() == "null" {
        return Ok(None);
    }
    json::text(raw).map(Some).ok_or_else(|| E::custom(format_args!("`{field}` must be a string")))
}

/// A time in milliseconds since 1970: a number of them, or a text of ISO 8601, which is in UTC where it names no offset.
fn milliseconds(raw: &RawValue) -> Option<i64> {
    if !raw.get().starts_with('"') {
        return json::whole_number(raw.get());
    }
    let text = json::text(raw)?;
    let time = text.parse::<Timestamp>();
    let time = time.or_else(|_| TimeZone::UTC.to_timestamp(text.parse::<DateTime>()?));
    time.ok().map(Timestamp::as_millisecond)
}

enum Key {
    Known(usize, &'static str),
    Other,
}

impl Key {
    fn of(name: &str) -> Self {
        match name {
            "id" => Self::Known(0, "id"),
            "eventType" => Self::Known(1, "eventType"),
            "timestamp" => Self::Known(2, "timestamp"),
            "source" => Self::Known(3, "source"),
            "attributes" => Self::Known(4, "attributes"),
            _ => Self::Other,
        }
    }
}

/// By its text and not as a `str`, in which a name with half a surrogate pair would be an error.
impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(json::text(raw).map_or(Self::Other, |name| Self::of(&name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        Event::parse(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn reads_an_event_without_copying_its_text() {
        let event = Event::parse(
            br#"{"id":"e-1","eventType":"presence:state:changed","timestamp":1700000000000,
                "source":"genesys","attributes":{"a":[1]},"more":{"deep":[true]}}"#,
        )
        .unwrap();
        assert!(matches!(event.id, Cow::Borrowed("e-1")));
        assert!(matches!(event.event_type, Cow::Borrowed("presence:state:changed")));
        assert_eq!(event.timestamp, Some(1_700_000_000_000));
        assert!(matches!(event.source, Some(Cow::Borrowed("genesys"))));
        assert_eq!(event.attributes.unwrap().get(), r#"{"a":[1]}"#);
    }

    #[test]
    fn reads_escapes() {
        let event = Event::parse(br#"{"id":"\u00e9\/\"","eventType":"t"}"#).unwrap();
        assert_eq!(event.id, "é/\"");
    }

    #[test]
    fn what_is_optional_can_be_absent_or_null() {
        for body in
            [r#"{"id":"1","eventType":"t"}"#, r#"{"id":"1","eventType":"t","source":null,"attributes":null}"#]
        {
            let event = Event::parse(body.as_bytes()).unwrap();
            assert!(event.source.is_none() && event.attributes.is_none() && event.timestamp.is_none());
        }
    }

    fn timestamp(json: &str) -> Option<i64> {
        let body = format!(r#"{{"id":"1","eventType":"t","timestamp":{json}}}"#);
        Event::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}")).timestamp
    }

    #[test]
    fn a_timestamp_is_a_whole_number_in_any_spelling() {
        for json in ["1700000000000", "1.7e12", "1700000000000.0", "17E+11"] {
            assert_eq!(timestamp(json), Some(1_700_000_000_000), "{json}");
        }
        assert_eq!(timestamp("null"), None);
    }

    #[test]
    fn a_timestamp_may_be_a_text_of_iso_8601() {
        for (text, milliseconds) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
            ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
            ("2023-11-14T23:13:20.000+0100", 1_700_000_000_000),
            ("2023-11-14t22:13:20z", 1_700_000_000_000),
            ("2023-11-14 22:13:20Z", 1_700_000_000_000),
            ("20231114T221320Z", 1_700_000_000_000),
            ("2023-11-14T22:13:20", 1_700_000_000_000),
            (r"2023-11-14T22:13:20\u005a", 1_700_000_000_000),
            ("1969-12-31T23:59:59.999Z", -1),
        ] {
            assert_eq!(timestamp(&format!("\"{text}\"")), Some(milliseconds), "{text}");
        }
    }

    #[test]
    fn every_time_is_read_back_from_its_text() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let milliseconds = random.i64(-62_135_596_800_000..253_402_207_200_000);
            let time = Timestamp::from_millisecond(milliseconds).unwrap();
            let offset = jiff::tz::Offset::from_seconds(random.i32(-56..=56) * 900).unwrap();
            for text in [format!("\"{time}\""), format!("\"{}\"", time.display_with_offset(offset))] {
                assert_eq!(timestamp(&text), Some(milliseconds), "{text}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let event = Event::parse("\u{feff}{\"id\":\"1\",\"eventType\":\"t\"}".as_bytes()).unwrap();
        assert_eq!(event.id, "1");
        let twice = "\u{feff}\u{feff}{\"id\":\"1\",\"eventType\":\"t\"}";
        assert!(refusal(twice).contains("does not begin with {"));
    }

    #[test]
    fn half_a_surrogate_pair_anywhere_loses_no_event() {
        let event = Event::parse(
            br#"{"id":"a\ud83d","event\u0054ype":"t","x\ude00":"\ud83d","source":"\ude00s",
                "attributes":{"a\ud83d":"\ud83d"}}"#,
        )
        .unwrap();
        assert_eq!((event.id.as_ref(), event.event_type.as_ref()), ("a\u{fffd}", "t"));
        assert_eq!(event.source.unwrap(), "\u{fffd}s");
        assert_eq!(event.attributes.unwrap().get(), r#"{"a\ud83d":"\ud83d"}"#);
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        for (field, value) in [
            ("id", "1"),
            ("eventType", "[]"),
            ("timestamp", "\"now\""),
            ("timestamp", "\"\""),
            ("timestamp", "true"),
            ("timestamp", "{}"),
            ("timestamp", "1.5"),
            ("timestamp", "9223372036854775808"),
            ("source", "{}"),
            ("attributes", "[]"),
        ] {
            let refusal = refusal(&format!(r#"{{"{field}":{value}}}"#));
            assert!(refusal.contains(&format!("`{field}` must be")), "{refusal}");
        }
    }

    #[test]
    fn a_missing_or_empty_name_is_refused() {
        assert!(refusal(r#"{"eventType":"t"}"#).contains("no id"));
        assert!(refusal(r#"{"id":"","eventType":"t"}"#).contains("no id"));
        assert!(refusal(r#"{"id":"1","eventType":null}"#).contains("no eventType"));
    }

    #[test]
    fn an_id_that_is_too_long_or_unshowable_is_replaced_by_its_hash() {
        let id = |json: &str| {
            let body = format!(r#"{{"id":"{json}","eventType":"t"}}"#);
            Event::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}")).id.into_owned()
        };
        let (longest, longer) = ("x".repeat(256), "x".repeat(257));
        assert_eq!(id(&longest), longest);
        assert_eq!(id(&longer), format!("sha256:{}", hex::encode(Sha256::digest(&longer))));
        // The text counts, not its spelling.
        assert_eq!(id(&longer.replace('x', r"\u0078")), id(&longer));
        assert_eq!(id(r"a\nb"), format!("sha256:{}", hex::encode(Sha256::digest("a\nb"))));
        let ids = [id(&longer), id(&"x".repeat(300)), id(&format!("{longer}y")), id(r"a\nb"), id(r"a\tb")];
        let distinct = ids.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| is_name(id)), "{ids:?}");
        let largest = "é".repeat(500_000);
        assert_eq!(id(&largest).len(), 71);
    }

    #[test]
    fn an_event_type_that_cannot_be_shown_is_refused() {
        assert!(refusal(r#"{"id":"1","eventType":"a\nb"}"#).contains("control characters"));
        let long = "x".repeat(257);
        assert!(refusal(&format!(r#"{{"id":"1","eventType":"{long}"}}"#)).contains("256 bytes"));
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for body in ["", "[]", "null", "1", "{", "{}x", r#"{"id":"1","id":"2","eventType":"t"}"#] {
            assert!(refusal(body).contains("not a JSON object"), "{body}");
        }
        assert_eq!(Event::parse(b"{\"id\":\"\xff\"}").unwrap_err(), EventError::NotText);
        assert_eq!(Event::parse(b"{\"x\":\"\xff\"}").unwrap_err(), EventError::NotText);
    }

    #[test]
    fn an_error_never_holds_the_content() {
        for body in [
            r#"{"id":"1","eventType":"t","timestamp":"secret"}"#,
            r#"{"id":"1","eventType":"t","attributes":"secret"}"#,
            r#"{"id":"1","eventType":"t","secret"}"#,
            r#"{"id":"1","eventType":"t","secret":1,"id":"2"}"#,
            r#"{"id":"1","eventType":"secret\n"}"#,
            r#""secret""#,
            "secret",
        ] {
            let refusal = refusal(body);
            assert!(!refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!(
            r#"{{"id":"1","eventType":"t","attributes":{{"a":{}1{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(Event::parse(deep.as_bytes()).is_ok());
    }
}
