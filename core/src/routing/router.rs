//! Which topics an event goes to, found at a cost that does not grow with the number of exact routes.
//!
//! The table says what is meant; a [`Router`] is the same table laid out for lookup. The routes that can match an
//! event type that the table names are listed ahead of time, wildcards included; for any other type there is one
//! lookup for each distinct length of a wildcard's prefix.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::{
    ContentMode, EventTypePattern, RecordKey, RejectStatus, Route, RoutingTable, TopicName, Unmatched,
};
use crate::condition::Variables;
use crate::event::{CORRELATION_ID, Event};
use crate::json;

/// A routing table, laid out for lookup.
#[derive(Debug)]
pub struct Router {
    table: RoutingTable,
    /// For every event type that the table names: the routes that can match it, in the table's order.
    exact: HashMap<String, Vec<usize>, foldhash::quality::RandomState>,
    /// For every prefix: the wildcard routes of exactly this prefix.
    prefixes: HashMap<String, Vec<usize>, foldhash::quality::RandomState>,
    /// The distinct lengths of the prefixes.
    prefix_lengths: Vec<usize>,
}

/// Where one event goes.
#[derive(Debug, PartialEq)]
pub struct Routed<'a> {
    /// What becomes of it.
    pub decision: Decision<'a>,
    /// Whether a route names its type. Where nothing is published, no condition of such a route holds.
    pub is_named: bool,
    /// How many conditions had no answer for this event, and so did not match.
    pub failed_conditions: u64,
}

/// What becomes of one event.
#[derive(Debug, PartialEq)]
pub enum Decision<'a> {
    /// It is published to each of these topics, of which none comes twice and at least one is there.
    Publish(Vec<Target<'a>>),
    /// Routes name its type, and the condition of none holds: it is answered as if it had been published.
    Filtered,
    /// It is unmatched: it is refused.
    Reject(RejectStatus),
    /// It is unmatched: it is answered as if it had been published.
    Drop,
    /// It is unmatched: it is published to a topic of its own.
    DeadLetter(Target<'a>),
}

/// A topic, and the record's key there.
#[derive(Clone, Debug, PartialEq)]
pub struct Target<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The record's key.
    pub key: Cow<'a, str>,
    /// How the record carries the event.
    pub content_mode: ContentMode,
}

/// What one route makes of one event.
#[derive(Debug, PartialEq)]
pub enum Verdict<'a> {
    /// It is for other event types.
    OtherEventType,
    /// Its condition is false.
    ConditionFalse,
    /// Its condition has no answer for this event, which counts as false. The words may hold parts of the event.
    ConditionFailed(String),
    /// It matches, and a route before it leads to the same topic already.
    TopicTaken,
    /// It matches, and the topic gets the event.
    Publish(Key<'a>),
}

/// A record's key, and whether it is what the route asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Key<'a> {
    /// The key.
    pub value: Cow<'a, str>,
    /// The event lacks what the route asks for, or it is no scalar: this is the event's id instead.
    pub is_substitute: bool,
}

impl Router {
    /// Lays out a table.
    pub fn new(table: RoutingTable) -> Self {
        let mut exact: HashMap<String, Vec<usize>, _> = HashMap::default();
        let mut prefixes: HashMap<String, Vec<usize>, _> = HashMap::default();
        for (index, route) in table.routes().iter().enumerate() {
            match &route.event_type {
                EventTypePattern::Exact(event_type) => {
                    exact.entry(event_type.clone()).or_default().push(index)
                }
                EventTypePattern::Prefix(prefix) => prefixes.entry(prefix.clone()).or_default().push(index),
            }
        }
        let mut prefix_lengths: Vec<usize> = prefixes.keys().map(String::len).collect();
        prefix_lengths.sort_unstable();
        prefix_lengths.dedup();
        let mut router = Self { table, exact: HashMap::default(), prefixes, prefix_lengths };
        for (event_type, routes) in &mut exact {
            routes.extend(router.wildcards(event_type));
            routes.sort_unstable();
        }
        router.exact = exact;
        router
    }

    /// The table that this was made from.
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// Where `event` goes. A topic that several routes lead to gets the event once, with the first one's key.
    pub fn route<'a>(&'a self, event: &'a Event<'_>) -> Routed<'a> {
        let mut conditions = Conditions::new(event);
        let mut targets: Vec<Target<'a>> = Vec::new();
        let mut consider = |index: usize| {
            let route = &self.table.routes()[index];
            if targets.iter().all(|target| target.topic != &route.topic) && conditions.hold(route) {
                let key = record_key(&route.key, event).value;
                targets.push(Target { topic: &route.topic, key, content_mode: route.content_mode });
            }
        };
        let is_named = match self.exact.get(event.event_type.as_ref()) {
            Some(routes) => {
                routes.iter().copied().for_each(&mut consider);
                true
            }
            None => {
                let mut routes: Vec<usize> = self.wildcards(&event.event_type).collect();
                routes.sort_unstable();
                routes.iter().copied().for_each(&mut consider);
                !routes.is_empty()
            }
        };
        let decision = match self.table.unmatched() {
            _ if !targets.is_empty() => Decision::Publish(targets),
            unmatched if is_named && !unmatched.includes_filtered() => Decision::Filtered,
            Unmatched::Reject { status, .. } => Decision::Reject(*status),
            Unmatched::Drop { .. } => Decision::Drop,
            Unmatched::DeadLetter { topic, .. } => {
                let key = record_key(&RecordKey::Id, event).value;
                Decision::DeadLetter(Target { topic, key, content_mode: ContentMode::Binary })
            }
        };
        Routed { decision, is_named, failed_conditions: conditions.failed }
    }

    /// What each route makes of `event`, in the table's order. The topics that are published to are those that
    /// [`Self::route`] finds.
    pub fn explain<'a>(&'a self, event: &'a Event<'_>) -> Vec<(&'a Route, Verdict<'a>)> {
        let mut conditions = Conditions::new(event);
        let mut topics: Vec<&TopicName> = Vec::new();
        let verdict = |route: &'a Route| {
            if !route.event_type.matches(&event.event_type) {
                return (route, Verdict::OtherEventType);
            }
            if !conditions.hold(route) {
                return (
                    route,
                    conditions.failure(route).map_or(Verdict::ConditionFalse, Verdict::ConditionFailed),
                );
            }
            if topics.contains(&&route.topic) {
                return (route, Verdict::TopicTaken);
            }
            topics.push(&route.topic);
            (route, Verdict::Publish(record_key(&route.key, event)))
        };
        self.table.routes().iter().map(verdict).collect()
    }

    /// The wildcard routes whose prefix `event_type` begins with.
    fn wildcards(&self, event_type: &str) -> impl Iterator<Item = usize> {
        self.prefix_lengths
            .iter()
            .filter_map(|&length| self.prefixes.get(event_type.get(..length)?))
            .flatten()
            .copied()
    }
}

/// The `when` conditions on one event. What they see of it is made once, and only when a route asks.
struct Conditions<'a> {
    event: &'a Event<'a>,
    variables: Option<Option<Variables>>,
    failed: u64,
}

impl<'a> Conditions<'a> {
    fn new(event: &'a Event<'_>) -> Self {
        Self { event, variables: None, failed: 0 }
    }

    /// Whether the route's condition, if it has one, is true. One that has no answer for this event is not.
    fn hold(&mut self, route: &Route) -> bool {
        let Some(when) = &route.when else { return true };
        let variables = self.variables.get_or_insert_with(|| variables(self.event));
        match variables.as_ref().map(|variables| when.matches(variables)) {
            Some(Ok(answer)) => answer,
            Some(Err(_)) | None => {
                self.failed += 1;
                false
            }
        }
    }

    /// Why a condition that does not hold has no answer for this event; `None` when it is false.
    fn failure(&self, route: &Route) -> Option<String> {
        match (&route.when, &self.variables) {
            (Some(when), Some(Some(variables))) => when.failure(variables),
            (Some(_), _) => Some("the attributes are nested too deep to be looked at".into()),
            (None, _) => None,
        }
    }
}

fn variables(event: &Event<'_>) -> Option<Variables> {
    // Deeper than serde_json follows, the attributes cannot be looked at, and no condition on them holds.
    let mut attributes: serde_json::Value = match event.attributes {
        Some(raw) => serde_json::from_str(raw.get())
            .or_else(|_| serde_json::from_str(&json::with_whole_characters(raw.get())))
            .ok()?,
        None => serde_json::Value::Object(serde_json::Map::new()),
    };
    if let (Some(correlation_id), Some(fields)) = (event.correlation_id(), attributes.as_object_mut()) {
        fields.entry(CORRELATION_ID).or_insert_with(|| correlation_id.into());
    }
    let source = event.source.as_deref().unwrap_or_default();
    let subject = event.subject().unwrap_or_default();
    let timestamp = event.timestamp.unwrap_or_default();
    Some(Variables::new(&event.id, &event.event_type, timestamp, source, subject, &attributes))
}

/// The record's key. An event that lacks what the key is made of gets its id, so that it has one all the same.
fn record_key<'a>(key: &RecordKey, event: &'a Event<'_>) -> Key<'a> {
    let found = match key {
        RecordKey::Id => Some(Cow::Borrowed(event.id.as_ref())),
        RecordKey::Source => event.source.as_deref().map(Cow::Borrowed),
        RecordKey::Subject => event.subject().map(Cow::Borrowed),
        RecordKey::Attribute(path) => attribute(event, path),
    };
    match found {
        Some(value) => Key { value, is_substitute: false },
        None => Key { value: Cow::Borrowed(&event.id), is_substitute: true },
    }
}

/// The string, number or boolean at `path`. An empty string is as good as none.
fn attribute<'a>(event: &'a Event<'_>, path: &[String]) -> Option<Cow<'a, str>> {
    let (first, rest) = path.split_first()?;
    match event.attributes.and_then(|attributes| member(attributes, first)) {
        Some(value) => scalar(rest.iter().try_fold(value, |object, name| member(object, name))?),
        None if rest.is_empty() && first == CORRELATION_ID => event.correlation_id().map(Cow::Borrowed),
        None => None,
    }
}

fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let [value] = json::members(object, [name]);
    value
}

fn scalar(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get().as_bytes().first()? {
        b'"' => json::text(value).filter(|key| !key.is_empty()),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(yaml: &str) -> Router {
        Router::new(RoutingTable::parse(yaml).unwrap())
    }

    /// `TOPIC=KEY` of every target, or the name of what becomes of an unmatched event.
    fn targets(router: &Router, body: &str) -> Vec<String> {
        let event = Event::parse(body.as_bytes()).unwrap();
        match router.route(&event).decision {
            Decision::Publish(targets) => {
                targets.iter().map(|target| format!("{}={}", target.topic, target.key)).collect()
            }
            Decision::DeadLetter(target) => vec![format!("dead letter {}={}", target.topic, target.key)],
            other => vec![format!("{other:?}")],
        }
    }

    const TABLE: &str = r#"
version: 1
routes:
- {eventType: "a:b:c", topic: exact}
- {eventType: "a:*", topic: wide, key: source}
- {eventType: "a:b:*", topic: narrow, key: attributes.user.id}
- {eventType: "a:b:c", topic: wide, key: id}
- {eventType: "*", topic: available, when: "attributes.presence == 'AVAILABLE'"}
unmatched: {action: DeadLetter, topic: rest}
"#;

    #[test]
    fn every_matching_route_gets_the_event_once_a_topic() {
        let body = r#"{"id":"1","eventType":"a:b:c","source":"s","attributes":{"user":{"id":"u"},"presence":"AVAILABLE"}}"#;
        assert_eq!(targets(&router(TABLE), body), ["exact=1", "wide=s", "narrow=u", "available=1"]);
    }

    #[test]
    fn a_type_that_the_table_does_not_name_is_found_by_its_prefixes() {
        assert_eq!(targets(&router(TABLE), r#"{"id":"1","eventType":"a:b:d"}"#), ["wide=1", "narrow=1"]);
        assert_eq!(targets(&router(TABLE), r#"{"id":"1","eventType":"a:x"}"#), ["wide=1"]);
        assert_eq!(targets(&router(TABLE), r#"{"id":"1","eventType":"aé"}"#), ["Filtered"]);
    }

    #[test]
    fn the_table_decides_over_events_without_a_route() {
        let with = |unmatched: &str| {
            router(&format!("version: 1\nroutes: [{{eventType: a, topic: t}}]\nunmatched: {unmatched}\n"))
        };
        let other = r#"{"id":"1","eventType":"b"}"#;
        assert_eq!(targets(&with("{action: Reject}"), other), ["Reject(NotFound)"]);
        assert_eq!(targets(&with("{action: Reject, status: 400}"), other), ["Reject(BadRequest)"]);
        assert_eq!(targets(&with("{action: Drop}"), other), ["Drop"]);
        assert_eq!(targets(&with("{action: DeadLetter, topic: d}"), other), ["dead letter d=1"]);
    }

    #[test]
    fn an_event_whose_conditions_are_all_false_is_filtered() {
        let with = |unmatched: &str| {
            router(&format!(
                "version: 1\nroutes: [{{eventType: a, topic: t, when: id == '0'}}, {{eventType: 'b*', topic: t, when: \
                 id == '0'}}]\nunmatched: {unmatched}\n"
            ))
        };
        for named in [r#"{"id":"1","eventType":"a"}"#, r#"{"id":"1","eventType":"bc"}"#] {
            for action in ["action: Reject", "action: Drop", "action: DeadLetter, topic: d"] {
                assert_eq!(targets(&with(&format!("{{{action}}}")), named), ["Filtered"], "{action}");
            }
            let included =
                |action: &str| targets(&with(&format!("{{{action}, includeFiltered: true}}")), named);
            assert_eq!(included("action: Reject, status: 400"), ["Reject(BadRequest)"]);
            assert_eq!(included("action: Drop"), ["Drop"]);
            assert_eq!(included("action: DeadLetter, topic: d"), ["dead letter d=1"]);
        }
        assert_eq!(targets(&with("{action: Reject}"), r#"{"id":"1","eventType":"c"}"#), ["Reject(NotFound)"]);
    }

    #[test]
    fn a_condition_without_an_answer_does_not_match_and_is_counted() {
        let router = router(TABLE);
        let event = Event::parse(br#"{"id":"1","eventType":"x"}"#).unwrap();
        let routed = router.route(&event);
        assert_eq!(routed.failed_conditions, 1);
        assert_eq!(routed.decision, Decision::Filtered);
    }

    #[test]
    fn an_explanation_has_every_verdict_and_the_topics() {
        let router = router(TABLE);
        let verdicts = |body: &str| -> Vec<String> {
            let event = Event::parse(body.as_bytes()).unwrap();
            let explained = router.explain(&event);
            let published: Vec<_> = explained
                .iter()
                .filter_map(|(route, verdict)| match verdict {
                    Verdict::Publish(key) => Some(format!("{}={}", route.topic, key.value)),
                    _ => None,
                })
                .collect();
            if !published.is_empty() {
                assert_eq!(published, targets(&router, body));
            }
            explained.into_iter().map(|(_, verdict)| format!("{verdict:?}")).collect()
        };
        let publish = |key: &str, is_substitute: bool| {
            format!("{:?}", Verdict::Publish(Key { value: Cow::Borrowed(key), is_substitute }))
        };
        assert_eq!(
            verdicts(r#"{"id":"1","eventType":"a:b:c","source":"s","attributes":{"presence":"BUSY"}}"#),
            [
                publish("1", false),
                publish("s", false),
                publish("1", true),
                "TopicTaken".into(),
                "ConditionFalse".into()
            ]
        );
        let failed = &verdicts(r#"{"id":"1","eventType":"x"}"#)[4];
        assert!(failed.starts_with("ConditionFailed") && failed.contains("presence"), "{failed}");
        assert_eq!(verdicts(r#"{"id":"1","eventType":"x"}"#)[0], "OtherEventType");
    }

    #[test]
    fn half_a_surrogate_pair_blinds_neither_conditions_nor_keys() {
        let router = router(
            "version: 1\nroutes: [{eventType: t, topic: k, key: attributes.a.b, when: attributes.p == 'x'}]\n",
        );
        for (attributes, key) in [
            (r#"{"n":"\ud83d","p":"x","a":{"b":"u"}}"#, "k=u"),
            (r#"{"\ude00":{"\ud83d":1},"p":"x","a":{"\ud83d":0,"b":"u\ud83d"}}"#, "k=u\u{fffd}"),
            (r#"{"n":["\ud83d\\"],"\u0070":"x","\u0061":{"b":"\ud83d\ude00"}}"#, "k=😀"),
        ] {
            let body = format!(r#"{{"id":"1","eventType":"t","attributes":{attributes}}}"#);
            assert_eq!(targets(&router, &body), [key], "{attributes}");
        }
    }

    /// `TOPIC=KEY` of every target of a notification with this detail.
    fn targets_of_notification(table: &str, detail: &str) -> Vec<String> {
        let body = format!(r#"{{"id":"1","detail-type":"v2.users.{{id}}.presence","detail":{detail}}}"#);
        let body = bytes::Bytes::from(body);
        let (event, _) = crate::event::envelope::decode(&body).unwrap();
        let router = router(table);
        let Decision::Publish(targets) = router.route(&event).decision else { return Vec::new() };
        targets.iter().map(|target| format!("{}={}", target.topic, target.key)).collect()
    }

    #[test]
    fn a_notification_is_keyed_by_its_subject_or_else_its_id() {
        let table = "version: 1\nroutes: [{eventType: v2.users.*, topic: k, key: subject}, {eventType: '*', topic: w, when: subject == 'u-1'}]\n";
        let detail = r#"{"topicName":"v2.users.u-1.presence","eventBody":{}}"#;
        assert_eq!(targets_of_notification(table, detail), ["k=u-1", "w=1"]);
        assert_eq!(targets_of_notification(table, r#"{"eventBody":{}}"#), ["k=1"]);
        let router = router("version: 1\nroutes: [{eventType: t, topic: k, key: subject}]\n");
        assert_eq!(targets(&router, r#"{"id":"1","eventType":"t"}"#), ["k=1"]);
    }

    #[test]
    fn the_correlation_id_is_an_attribute_unless_the_body_has_one() {
        let table = "version: 1\nroutes: [{eventType: '*', topic: k, key: attributes.correlationId, when: has(attributes.correlationId) && attributes.correlationId != ''}]\n";
        let of = |event_body: &str| {
            let detail = format!(r#"{{"eventBody":{event_body},"metadata":{{"CorrelationId":"c"}}}}"#);
            targets_of_notification(table, &detail)
        };
        assert_eq!(of("{}"), ["k=c"]);
        assert_eq!(of("null"), ["k=c"]);
        assert_eq!(of(r#"{"correlationId":"own"}"#), ["k=own"]);
        // It has one, which is no key.
        assert_eq!(of(r#"{"correlationId":null}"#), ["k=1"]);
        assert_eq!(of(r#"{"correlationId":{"a":"x"}}"#), ["k=1"]);
    }

    #[test]
    fn a_key_is_any_scalar_and_the_id_where_there_is_none() {
        let router = router("version: 1\nroutes: [{eventType: t, topic: k, key: attributes.a.b}]\n");
        for (attributes, key) in [
            (r#"{"a":{"b":"x\ty"}}"#, "k=x\ty"),
            (r#"{"a":{"b":42}}"#, "k=42"),
            (r#"{"a":{"b":true}}"#, "k=true"),
            (r#"{"a":{"b":"é","c":[{}]},"b":1}"#, "k=é"),
            (r#"{"a":{"b":null}}"#, "k=1"),
            (r#"{"a":{"b":""}}"#, "k=1"),
            (r#"{"a":{"b":[1]}}"#, "k=1"),
            (r#"{"a":7}"#, "k=1"),
            (r"{}", "k=1"),
        ] {
            let body = format!(r#"{{"id":"1","eventType":"t","attributes":{attributes}}}"#);
            assert_eq!(targets(&router, &body), [key], "{attributes}");
        }
    }
}
