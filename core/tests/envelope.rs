//! Whatever the order, spelling and surroundings of its fields, an envelope of Amazon EventBridge is read as the event that
//! it is, and its value is the bytes of its `detail`. The notifications are of the shapes that Genesys Cloud sends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the seed is for people")]

use bytes::Bytes;
use fastrand::Rng;
use jiff::Timestamp;
use presenceroute_core::event::{Event, EventError, envelope};

/// What an envelope is to be read as.
#[derive(Debug, PartialEq)]
struct Expected {
    id: String,
    event_type: String,
    timestamp: i64,
    source: Option<String>,
    subject: Option<String>,
    correlation_id: Option<String>,
    is_error: bool,
    attributes: Option<String>,
    value: String,
}

impl Expected {
    fn of(event: &Event<'_>, value: &Bytes) -> Self {
        Self {
            id: event.id.to_string(),
            event_type: event.event_type.to_string(),
            timestamp: event.timestamp.unwrap(),
            source: event.source.as_deref().map(str::to_owned),
            subject: event.subject().map(str::to_owned),
            correlation_id: event.correlation_id().map(str::to_owned),
            is_error: event.is_error(),
            attributes: event.attributes.map(|attributes| attributes.get().to_owned()),
            value: String::from_utf8(value.to_vec()).unwrap(),
        }
    }
}

/// Writes JSON in one of its many spellings.
struct Writer(Rng);

impl Writer {
    fn chance(&mut self, one_in: u32) -> bool {
        self.0.u32(..one_in) == 0
    }

    fn blank(&mut self) -> &'static str {
        if self.chance(6) { [" ", "\n", "\t", "\r\n  "][self.0.usize(..4)] } else { "" }
    }

    /// A string, some of its characters as escapes.
    fn string(&mut self, text: &str) -> String {
        let mut json = String::from("\"");
        for character in text.chars() {
            if matches!(character, '"' | '\\') || character.is_control() || self.chance(40) {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    json.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                json.push(character);
            }
        }
        json + "\""
    }

    /// Any value, nested up to `depth`.
    fn any(&mut self, depth: u32) -> String {
        match self.0.u32(..if depth == 0 { 5 } else { 7 }) {
            0 => "null".into(),
            1 => "true".into(),
            2 => format!("{}", self.0.i64(..)),
            3 => "-1.5e-7".into(),
            4 => {
                let text: String = (0..self.0.usize(..20)).map(|_| self.0.char(..)).collect();
                self.string(&text)
            }
            5 => {
                let items: Vec<_> = (0..self.0.usize(..4)).map(|_| self.any(depth - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => {
                let members =
                    (0..self.0.usize(..4)).map(|number| (format!("m{number}"), self.any(depth - 1)));
                let members = members.collect();
                self.object(members, false)
            }
        }
    }

    /// An object with these members in any order and with others. `may_repeat`: a name may come before with another value.
    fn object(&mut self, mut members: Vec<(String, String)>, may_repeat: bool) -> String {
        self.0.shuffle(&mut members);
        let mut written = Vec::new();
        for (name, value) in members {
            while self.chance(5) {
                let name = format!("other-{}", self.0.u8(..));
                written.push(self.member(&name, "[{}]"));
            }
            if may_repeat && self.chance(12) {
                let other = self.any(1);
                written.push(self.member(&name, &other));
            }
            written.push(self.member(&name, &value));
        }
        format!("{{{}{}}}", self.blank(), written.join(","))
    }

    fn member(&mut self, name: &str, value: &str) -> String {
        let name = self.string(name);
        format!("{}{name}{}:{}{value}{}", self.blank(), self.blank(), self.blank(), self.blank())
    }

    /// A time and its text, to the millisecond.
    fn time(&mut self) -> (i64, String) {
        let milliseconds = self.0.i64(1_700_000_000_000..1_900_000_000_000);
        let text = format!("{:.3}", Timestamp::from_millisecond(milliseconds).unwrap());
        (milliseconds, self.string(&text))
    }

    fn uuid(&mut self) -> String {
        let number = self.0.u128(..);
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            number as u32,
            (number >> 32) as u16,
            (number >> 48) as u16 & 0xfff,
            (number >> 64) as u16 & 0xfff,
            number >> 80
        )
    }

    /// The topic's last part, the members of an `eventBody`, the times in it, and whether it is an error.
    fn event_body(&mut self, user: &str) -> (&'static str, Vec<(String, String)>, Vec<i64>, bool) {
        let (mut members, mut times) = (Vec::new(), Vec::new());
        let user = self.string(user);
        let definition = |writer: &mut Self| {
            let (id, presence) =
                (writer.uuid(), ["AVAILABLE", "MEAL", "ON_QUEUE", "OFFLINE"][writer.0.usize(..4)]);
            let members = [("id", writer.string(&id)), ("systemPresence", writer.string(presence))];
            writer.object(members.map(|(name, value)| (name.into(), value)).into(), true)
        };
        let add = |members: &mut Vec<(String, String)>, name: &str, value: String| {
            members.push((name.into(), value))
        };
        match self.0.u32(..5) {
            0 => {
                let (time, text) = self.time();
                times.push(time);
                add(&mut members, "source", "\"PURECLOUD\"".into());
                let defined = definition(self);
                add(&mut members, "presenceDefinition", defined);
                add(&mut members, "primary", "true".into());
                let message = self.any(0);
                add(&mut members, "message", message);
                add(&mut members, "modifiedDate", text);
                if self.chance(2) {
                    let future = definition(self);
                    add(&mut members, "futurePresenceDefinition", future);
                }
                return ("presence", members, times, false);
            }
            1 => {
                let (time, text) = self.time();
                times.push(time);
                let status =
                    self.object(vec![("status".into(), "\"IDLE\"".into()), ("startTime".into(), text)], true);
                add(&mut members, "id", user);
                add(&mut members, "routingStatus", status);
                let is_error = self.chance(2);
                if is_error {
                    let code = self.any(1);
                    let error = self
                        .object(vec![("errorCode".into(), code), ("userParams".into(), "[]".into())], true);
                    add(&mut members, "errorInfo", error);
                } else if self.chance(2) {
                    add(&mut members, "errorInfo", "null".into());
                }
                return ("routingStatus", members, times, is_error);
            }
            2 => {
                let [
                    (status_time, status),
                    (presence_time, modified),
                    (office_time, office),
                    (queues_time, queues),
                ] = [self.time(), self.time(), self.time(), self.time()];
                times.extend([status_time, presence_time, office_time, queues_time]);
                let status = self
                    .object(vec![("status".into(), "\"IDLE\"".into()), ("startTime".into(), status)], true);
                let defined = definition(self);
                let message = self.any(0);
                let presence = self.object(
                    vec![
                        ("presenceDefinition".into(), defined),
                        ("presenceMessage".into(), message),
                        ("modifiedDate".into(), modified),
                    ],
                    true,
                );
                let office = self
                    .object(vec![("active".into(), "false".into()), ("modifiedDate".into(), office)], true);
                add(&mut members, "id", user);
                add(&mut members, "routingStatus", status);
                add(&mut members, "presence", presence);
                add(&mut members, "outOfOffice", office);
                add(&mut members, "activeQueueIds", "[\"q-1\",\"q-2\"]".into());
                add(&mut members, "dateActiveQueuesChanged", queues);
                return ("activity", members, times, false);
            }
            3 => {
                let (_, start) = self.time();
                let user = self.object(vec![("id".into(), user)], true);
                add(&mut members, "user", user);
                add(&mut members, "active", "true".into());
                add(&mut members, "startDate", start);
                return ("outofoffice", members, times, false);
            }
            _ => {}
        }
        let depth = self.0.u32(..60);
        let value = self.any(4);
        add(
            &mut members,
            "data",
            format!("{}{value}{}", "[".repeat(depth as usize), "]".repeat(depth as usize)),
        );
        let size = if self.chance(20) { 100_000 } else { self.0.usize(..500) };
        add(&mut members, "text", format!("\"{}\"", "x".repeat(size)));
        ("something.new", members, times, false)
    }

    /// An envelope and what it is to be read as.
    fn envelope(&mut self) -> (String, Expected) {
        let (id, user, organisation) = (self.uuid(), self.uuid(), self.uuid());
        let (suffix, members, times, is_error) = self.event_body(&user);
        let event_type = format!("v2.users.{{id}}.{suffix}");
        let attributes = self.object(members, true);
        let correlation_id = (!self.chance(6)).then(|| self.uuid());
        let has_topic = !self.chance(6);
        let sent = (!self.chance(6)).then(|| self.time());
        let second = self.0.i64(1_700_000_000..1_900_000_000);

        let mut detail =
            vec![("version".to_owned(), "\"2\"".to_owned()), ("eventBody".into(), attributes.clone())];
        if has_topic {
            let topic = self.string(&format!("v2.users.{user}.{suffix}"));
            detail.push(("topicName".into(), topic));
        }
        if let Some(correlation_id) = &correlation_id {
            let name = ["CorrelationId", "correlationId", "correlationid"][self.0.usize(..3)];
            let correlation_id = self.string(correlation_id);
            let metadata = self.object(vec![(name.into(), correlation_id)], true);
            detail.push(("metadata".into(), metadata));
        }
        if let Some((_, text)) = &sent {
            detail.push(("timestamp".into(), text.clone()));
        }
        let detail = self.object(detail, true);
        let source = format!("aws.partner/genesys.com/cloud/{organisation}/contact-centre");
        let time = Timestamp::from_second(second).unwrap().to_string();
        let members = [
            ("version", "\"0\"".to_owned()),
            ("id", self.string(&id)),
            ("detail-type", self.string(&event_type)),
            ("source", self.string(&source)),
            ("account", "\"123456789012\"".into()),
            ("time", self.string(&time)),
            ("region", "\"eu-west-1\"".into()),
            ("resources", "[]".into()),
            ("detail", detail.clone()),
        ];
        let body = self.object(members.map(|(name, value)| (name.to_owned(), value)).into(), false);
        let newest = times.into_iter().max();
        let expected = Expected {
            id,
            event_type,
            timestamp: newest.or(sent.map(|(time, _)| time)).unwrap_or(second * 1000),
            source: Some(source),
            subject: has_topic.then_some(user),
            correlation_id,
            is_error,
            attributes: Some(attributes),
            value: detail,
        };
        (body, expected)
    }
}

fn writer() -> Writer {
    let seed = std::env::var("ENVELOPE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("ENVELOPE_SEED={seed}");
    Writer(Rng::with_seed(seed))
}

#[test]
fn an_envelope_is_the_same_event_in_every_spelling() {
    let mut writer = writer();
    for round in 0..5_000 {
        let (body, expected) = writer.envelope();
        let bytes = Bytes::from(body.clone());
        let (event, value) =
            envelope::decode(&bytes).unwrap_or_else(|error| panic!("{round}: {error}: {body}"));
        assert_eq!(Expected::of(&event, &value), expected, "{round}: {body}");
    }
}

#[test]
fn a_field_of_the_envelope_that_comes_twice_is_an_error() {
    let mut writer = writer();
    for _ in 0..500 {
        let (body, _) = writer.envelope();
        let name = ["id", "detail-type", "source", "time", "detail"][writer.0.usize(..5)];
        let again = writer.member(name, "\"x\"");
        let body = Bytes::from(format!("{{{again},{}", &body[1..]));
        let error = envelope::decode(&body).unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}` comes twice")), "{error}");
    }
}

/// Every answer is an event that lies inside of its body, or an error that holds none of it.
#[test]
fn a_damaged_envelope_is_an_event_or_an_error() {
    let mut writer = writer();
    let (mut events, mut errors) = (0, 0);
    for _ in 0..5_000 {
        let mut bytes = writer.envelope().0.into_bytes();
        for _ in 0..writer.0.usize(1..4) {
            let at = writer.0.usize(..bytes.len());
            match writer.0.u32(..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = b"{}[]\",:\\n0\x00\xff"[writer.0.usize(..12)],
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"{}[]\",:\\"[writer.0.usize(..8)]),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        let body = Bytes::from(bytes);
        match envelope::decode(&body) {
            Ok((event, value)) => {
                events += 1;
                assert!(value.starts_with(b"{") && body.as_ptr_range().contains(&value.as_ptr()));
                assert!(!event.id.is_empty() && !event.event_type.is_empty());
            }
            Err(EventError::Format(cause)) => {
                errors += 1;
                assert!(cause.len() < 200, "{cause}");
            }
            Err(_) => errors += 1,
        }
    }
    println!("{events} events, {errors} errors");
    assert!(events > 0 && errors > 0);
}
