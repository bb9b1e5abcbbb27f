//! What a routing table makes of an event, route by route, by the relay's own router.

use presenceroute_core::event::Event;
use presenceroute_core::routing::{Decision, Key, RecordKey, RejectStatus, Route, Router, Verdict};
use serde::Serialize;

use crate::style::{FAINT, STRONG, UNSURE, paint};
use crate::tree::verdict;

/// Where an event goes, and why.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    id: String,
    event_type: String,
    /// The table's.
    revision: String,
    /// Every route, in the table's order.
    routes: Vec<ExplainedRoute>,
    outcome: Outcome,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedRoute {
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    topic: String,
    matches: bool,
    /// In a few words.
    reason: String,
    /// Of the record, when there will be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// What the relay does with it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
enum Outcome {
    Publish { topics: Vec<String> },
    DeadLetter { topic: String, key: String },
    Drop,
    Reject { status: u16 },
}

/// Has the router look at an event.
pub(crate) fn explain(router: &Router, event: &Event<'_>) -> Explanation {
    let outcome = match router.route(event).decision {
        Decision::Publish(targets) => {
            Outcome::Publish { topics: targets.iter().map(|target| target.topic.to_string()).collect() }
        }
        Decision::DeadLetter(target) => {
            Outcome::DeadLetter { topic: target.topic.to_string(), key: target.key.into_owned() }
        }
        Decision::Drop => Outcome::Drop,
        Decision::Reject(status) => Outcome::Reject { status: status.into() },
    };
    Explanation {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        revision: router.table().revision().to_owned(),
        routes: router.explain(event).into_iter().map(|(route, verdict)| explained(route, verdict)).collect(),
        outcome,
    }
}

fn explained(route: &Route, verdict: Verdict<'_>) -> ExplainedRoute {
    let (matches, reason, key) = match verdict {
        Verdict::OtherEventType => (false, "it is for other event types".to_owned(), None),
        Verdict::ConditionFalse => (false, "its condition is false".to_owned(), None),
        Verdict::ConditionFailed(cause) => {
            (false, format!("its condition has no answer, which counts as false: {cause}"), None)
        }
        Verdict::TopicTaken => (true, "a route before it leads to the same topic".to_owned(), None),
        Verdict::Publish(Key { value, is_substitute }) => {
            let asked = String::from(route.key.clone());
            let reason = match (is_substitute, route.when.is_some()) {
                (true, _) => format!("it matches; the event has no {asked}, so the key is its id"),
                (false, true) => "its condition is true".to_owned(),
                (false, false) => "it matches".to_owned(),
            };
            (true, reason, Some(value.into_owned()))
        }
    };
    ExplainedRoute {
        event_type: route.event_type.to_string(),
        when: route.when.as_ref().map(|when| when.source().to_owned()),
        topic: route.topic.to_string(),
        matches,
        reason,
        key,
    }
}

/// For a person.
pub(crate) fn render(explanation: &Explanation) -> String {
    let Explanation { id, event_type, revision, routes, outcome } = explanation;
    let mut out = format!("event {}, {event_type}, by routes {revision}\n", paint(STRONG, id));
    for (index, route) in routes.iter().enumerate() {
        let (style, mark) = verdict(route.matches);
        let when = route.when.as_ref().map_or_else(String::new, |when| format!("  when {when}"));
        let key = route.key.as_ref().map_or_else(String::new, |key| format!(", key {key:?}"));
        out.push_str(&format!(
            "{} {:>3}  {} → {}{when}\n        {}\n",
            paint(style, mark),
            index + 1,
            route.event_type,
            route.topic,
            paint(FAINT, &format!("{}{key}", route.reason))
        ));
    }
    let outcome = match outcome {
        Outcome::Publish { topics } => format!("published to {}", paint(STRONG, &topics.join(", "))),
        Outcome::DeadLetter { topic, key } => {
            format!(
                "no route matches: published to the dead-letter topic {} under {key:?}",
                paint(STRONG, topic)
            )
        }
        Outcome::Drop => paint(UNSURE, "no route matches: answered 200, counted and dropped"),
        Outcome::Reject { status } => paint(UNSURE, &format!("no route matches: answered {status}")),
    };
    out.push_str(&format!("→ {outcome}\n"));
    out
}

/// The table itself, for a person.
pub(crate) fn render_table(router: &Router) -> String {
    use presenceroute_core::routing::Unmatched;
    let table = router.table();
    let mut out = format!("routes {}\n", paint(STRONG, table.revision()));
    for (index, route) in table.routes().iter().enumerate() {
        let when = route.when.as_ref().map_or_else(String::new, |when| format!("  when {}", when.source()));
        let key = match &route.key {
            RecordKey::Id => String::new(),
            key => format!("  key {}", String::from(key.clone())),
        };
        out.push_str(&format!("{:>5}  {} → {}{key}{when}\n", index + 1, route.event_type, route.topic));
    }
    let rest = match table.unmatched() {
        Unmatched::Reject { status: RejectStatus::NotFound } => "answered 404".to_owned(),
        Unmatched::Reject { status: RejectStatus::BadRequest } => "answered 400".to_owned(),
        Unmatched::Drop {} => "answered 200, counted and dropped".to_owned(),
        Unmatched::DeadLetter { topic } => format!("→ {topic}"),
    };
    out.push_str(&format!(" else  {rest}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use presenceroute_core::routing::RoutingTable;

    const TABLE: &str = r#"
version: 1
revision: abc
routes:
- {eventType: "presence:state:changed", topic: states}
- {eventType: "presence:*", topic: available, when: "attributes.presence == 'AVAILABLE'", key: attributes.userId}
- {eventType: "presence:*", topic: moods, when: "attributes.mood == 'good'"}
- {eventType: "presence:*", topic: states}
- {eventType: "routing:*", topic: routing}
unmatched: {action: DeadLetter, topic: rest}
"#;

    fn router() -> Router {
        Router::new(RoutingTable::parse(TABLE).unwrap())
    }

    fn told(body: &str) -> String {
        let event = Event::parse(body.as_bytes()).unwrap();
        strip_str(&render(&explain(&router(), &event))).to_string()
    }

    #[test]
    fn every_route_is_explained_and_the_outcome_is_the_routers() {
        let told = told(
            r#"{"id":"e-1","eventType":"presence:state:changed","attributes":{"presence":"AVAILABLE"}}"#,
        );
        let expected = r#"event e-1, presence:state:changed, by routes abc
✓   1  presence:state:changed → states
        it matches, key "e-1"
✓   2  presence:* → available  when attributes.presence == 'AVAILABLE'
        it matches; the event has no attributes.userId, so the key is its id, key "e-1"
✗   3  presence:* → moods  when attributes.mood == 'good'
        its condition has no answer, which counts as false: No such key: mood
✓   4  presence:* → states
        a route before it leads to the same topic
✗   5  routing:* → routing
        it is for other event types
→ published to states, available
"#;
        assert_eq!(told, expected);
    }

    #[test]
    fn what_no_route_matches_is_told_with_what_becomes_of_it() {
        let told = told(r#"{"id":"e-2","eventType":"other"}"#);
        assert!(told.ends_with("published to the dead-letter topic rest under \"e-2\"\n"), "{told}");
    }

    #[test]
    fn the_table_is_listed_with_what_becomes_of_the_rest() {
        let listed = strip_str(&render_table(&router())).to_string();
        assert!(listed.contains("    2  presence:* → available  key attributes.userId  when "), "{listed}");
        assert!(listed.ends_with(" else  → rest\n"), "{listed}");
    }

    #[test]
    fn the_answer_in_json_says_what_the_relay_does() {
        let event = Event::parse(br#"{"id":"1","eventType":"other"}"#).unwrap();
        let answer = serde_json::to_value(explain(&router(), &event)).unwrap();
        assert_eq!(answer["outcome"]["action"], "deadLetter");
        assert_eq!(answer["routes"][4]["matches"], false);
    }
}
