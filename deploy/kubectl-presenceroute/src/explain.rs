//! Where an event would go, route by route, by the relay's own router.

use presenceroute_core::event::Event;
use presenceroute_core::routing::{Decision, Key, RecordKey, RejectStatus, Route, Router, Verdict};
use serde::Serialize;

use crate::style::{FAINT, STRONG, UNSURE, paint, verdict};

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
    /// Whether a route is for events of its type.
    is_named: bool,
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
    Filtered,
    Drop,
    Reject { status: u16 },
}

/// Routes an event, with the reason of each route.
pub(crate) fn explain(router: &Router, event: &Event<'_>) -> Explanation {
    let routed = router.route(event);
    let outcome = match routed.decision {
        Decision::Publish(targets) => {
            Outcome::Publish { topics: targets.iter().map(|target| target.topic.to_string()).collect() }
        }
        Decision::DeadLetter(target) => {
            Outcome::DeadLetter { topic: target.topic.to_string(), key: target.key.into_owned() }
        }
        Decision::Filtered => Outcome::Filtered,
        Decision::Drop => Outcome::Drop,
        Decision::Reject(status) => Outcome::Reject { status: status.into() },
    };
    Explanation {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        revision: router.table().revision().to_owned(),
        routes: router.explain(event).into_iter().map(|(route, verdict)| explained(route, verdict)).collect(),
        is_named: routed.is_named,
        outcome,
    }
}

fn explained(route: &Route, verdict: Verdict<'_>) -> ExplainedRoute {
    let (matches, reason, key) = match verdict {
        Verdict::OtherEventType => (false, "the event type does not match".to_owned(), None),
        Verdict::ConditionFalse => (false, "the condition is false".to_owned(), None),
        Verdict::ConditionFailed(cause) => {
            (false, format!("the condition cannot be evaluated and counts as false: {cause}"), None)
        }
        Verdict::TopicTaken => (true, "an earlier route publishes to the same topic".to_owned(), None),
        Verdict::Publish(Key { value, is_substitute }) => {
            let asked = String::from(route.key.clone());
            let reason = match (is_substitute, route.when.is_some()) {
                (true, _) => format!("matches; the event has no {asked}, so its id is the key"),
                (false, true) => "the condition is true".to_owned(),
                (false, false) => "matches".to_owned(),
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
    let Explanation { id, event_type, revision, routes, is_named, outcome } = explanation;
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
    let why = if *is_named { "no condition is true" } else { "no route names the event type" };
    let outcome = match outcome {
        Outcome::Publish { topics } => format!("published to {}", paint(STRONG, &topics.join(", "))),
        Outcome::DeadLetter { topic, key } => {
            format!("{why}: published to the dead-letter topic {} under {key:?}", paint(STRONG, topic))
        }
        Outcome::Filtered => paint(UNSURE, &format!("{why}: acknowledged with 200 and counted as filtered")),
        Outcome::Drop => paint(UNSURE, &format!("{why}: acknowledged with 200, counted and dropped")),
        Outcome::Reject { status } => paint(UNSURE, &format!("{why}: rejected with {status}")),
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
        Unmatched::Reject { status: RejectStatus::NotFound, .. } => "rejected with 404".to_owned(),
        Unmatched::Reject { status: RejectStatus::BadRequest, .. } => "rejected with 400".to_owned(),
        Unmatched::Drop { .. } => "acknowledged with 200, counted and dropped".to_owned(),
        Unmatched::DeadLetter { topic, .. } => format!("→ {topic}"),
    };
    let filtered = if table.unmatched().includes_filtered() { ", also if no condition is true" } else { "" };
    out.push_str(&format!(" else  {rest}{filtered}\n"));
    if let Some(invalid) = table.unmatched().invalid() {
        out.push_str(&format!(" invalid  → {}\n", invalid.topic));
    }
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

    fn explained_event(body: &str) -> String {
        let event = Event::parse(body.as_bytes()).unwrap();
        strip_str(&render(&explain(&router(), &event))).to_string()
    }

    #[test]
    fn every_route_is_explained_and_the_outcome_is_the_routers() {
        let text = explained_event(
            r#"{"id":"e-1","eventType":"presence:state:changed","attributes":{"presence":"AVAILABLE"}}"#,
        );
        let expected = r#"event e-1, presence:state:changed, by routes abc
✓   1  presence:state:changed → states
        matches, key "e-1"
✓   2  presence:* → available  when attributes.presence == 'AVAILABLE'
        matches; the event has no attributes.userId, so its id is the key, key "e-1"
✗   3  presence:* → moods  when attributes.mood == 'good'
        the condition cannot be evaluated and counts as false: No such key: mood
✓   4  presence:* → states
        an earlier route publishes to the same topic
✗   5  routing:* → routing
        the event type does not match
→ published to states, available
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn an_unmatched_event_is_explained_by_the_tables_rule() {
        let text = explained_event(r#"{"id":"e-2","eventType":"other"}"#);
        assert!(text.ends_with("published to the dead-letter topic rest under \"e-2\"\n"), "{text}");
    }

    #[test]
    fn a_filtered_event_is_explained_by_its_conditions() {
        let event = Event::parse(br#"{"id":"1","eventType":"a"}"#).unwrap();
        let explained = |more: &str| {
            let table = format!(
                "version: 1\nroutes: [{{eventType: a, topic: t, when: id == '0'}}]\nunmatched: {{action: Reject{more}}}\n"
            );
            let router = Router::new(RoutingTable::parse(&table).unwrap());
            strip_str(&render(&explain(&router, &event))).to_string()
        };
        let filtered = "→ no condition is true: acknowledged with 200 and counted as filtered\n";
        assert!(explained("").ends_with(filtered), "{}", explained(""));
        let rejected = explained(", includeFiltered: true");
        assert!(rejected.ends_with("→ no condition is true: rejected with 404\n"), "{rejected}");
    }

    #[test]
    fn the_table_is_listed_with_its_rule_for_the_rest() {
        let listed = strip_str(&render_table(&router())).to_string();
        assert!(listed.contains("    2  presence:* → available  key attributes.userId  when "), "{listed}");
        assert!(listed.ends_with(" else  → rest\n"), "{listed}");
        let table = TABLE.replace("topic: rest}", "topic: rest, invalid: {topic: bad}}");
        let router = Router::new(RoutingTable::parse(&table).unwrap());
        let listed = strip_str(&render_table(&router)).to_string();
        assert!(listed.ends_with(" else  → rest\n invalid  → bad\n"), "{listed}");
    }

    #[test]
    fn the_json_explanation_has_the_relays_action() {
        let event = Event::parse(br#"{"id":"1","eventType":"other"}"#).unwrap();
        let answer = serde_json::to_value(explain(&router(), &event)).unwrap();
        assert_eq!(answer["outcome"]["action"], "deadLetter");
        assert_eq!(answer["routes"][4]["matches"], false);
    }
}
