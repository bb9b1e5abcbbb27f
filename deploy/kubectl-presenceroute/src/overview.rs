//! All routes of a namespace, or of the cluster, one a line: whether each is ready, and why not.
//!
//! What the operator reports alone: no relay is asked, however many routes there are.

use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use serde::Serialize;

use crate::style::{BAD, GOOD, STRONG, UNSURE, paint};

/// The longest message in a line, in characters.
const MAX_MESSAGE: usize = 200;

/// One route.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    namespace: String,
    name: String,
    /// The status of the condition Ready, or nothing before the first reconcile.
    ready: Option<String>,
    reason: Option<String>,
    routes: Option<i32>,
    pods: Option<String>,
    message: Option<String>,
}

impl From<&PresenceRoute> for Line {
    fn from(route: &PresenceRoute) -> Self {
        let status = route.status.clone().unwrap_or_default();
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let (ready, reason, message) = match ready {
            Some(ready) => (Some(ready.status), Some(ready.reason), Some(ready.message)),
            None => (None, None, None),
        };
        Self {
            namespace: route.namespace().unwrap_or_default(),
            name: route.name_any(),
            ready,
            reason,
            routes: status.routing.map(|routing| routing.routes),
            pods: status.relay.and_then(|relay| relay.pods),
            message,
        }
    }
}

/// The routes, sorted by namespace and name.
pub(crate) fn lines(routes: &[PresenceRoute]) -> Vec<Line> {
    let mut lines: Vec<_> = routes.iter().map(Line::from).collect();
    lines.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    lines
}

/// The lines as a table, with the namespaces where there may be several. Of a route that is ready the message says nothing
/// new.
pub(crate) fn render(lines: &[Line], with_namespaces: bool) -> String {
    let mut rows =
        vec![["NAMESPACE", "NAME", "READY", "REASON", "ROUTES", "PODS", "MESSAGE"].map(str::to_owned)];
    rows.extend(lines.iter().map(row));
    let columns = if with_namespaces { 0..7 } else { 1..7 };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    // What follows the last column is the end of the line.
    let widths: Vec<_> = (0..6).map(width).chain([0]).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = columns.clone().map(|column| {
            let padded = format!("{:<width$}", row[column], width = widths[column]);
            match (number, column) {
                (0, _) => paint(STRONG, &padded),
                (_, 2) => paint(style(&row[2], &row[3]), &padded),
                _ => padded,
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn style(ready: &str, reason: &str) -> anstyle::Style {
    match (ready, reason) {
        ("True", "Ready") => GOOD,
        ("True", _) | ("", _) => UNSURE,
        _ => BAD,
    }
}

fn row(line: &Line) -> [String; 7] {
    let text = |text: &Option<String>| shown(text.as_deref().unwrap_or_default());
    let is_plainly_ready = line.ready.as_deref() == Some("True") && line.reason.as_deref() == Some("Ready");
    [
        line.namespace.clone(),
        line.name.clone(),
        text(&line.ready),
        line.ready.as_ref().map_or_else(|| "not yet reconciled".to_owned(), |_| text(&line.reason)),
        line.routes.map(|routes| routes.to_string()).unwrap_or_default(),
        text(&line.pods),
        if is_plainly_ready { String::new() } else { text(&line.message) },
    ]
}

/// On one line, without what a terminal obeys instead of showing.
fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_MESSAGE).map(|char| if char.is_control() { ' ' } else { char }).collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use serde_json::{Value, json};

    use super::*;

    fn route(namespace: &str, name: &str, status: &Value) -> PresenceRoute {
        let manifest = json!({
            "apiVersion": "presenceroute.io/v1alpha1", "kind": "PresenceRoute",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "genesys": {"region": "mypurecloud.ie", "credentialsSecretRef": {"name": "oauth"}},
                "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
                "endpoint": {"url": "https://presence.example.com/e"},
                "routes": [{"eventType": "a", "topic": "b"}],
                "kafka": {"bootstrapServers": ["kafka:9092"]},
            },
            "status": status,
        });
        serde_json::from_value(manifest).unwrap()
    }

    fn status(ready: &str, reason: &str, message: &str) -> Value {
        json!({
            "conditions": [{
                "type": "Ready", "status": ready, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "routing": {"revision": "r", "routes": 3, "liveReplicas": 2},
            "relay": {"replicas": 2, "readyReplicas": 2, "pods": "2/2", "selector": ""},
        })
    }

    #[test]
    fn every_route_has_a_line_and_what_is_wrong_is_said() {
        let routes = [
            route(
                "sales",
                "desk",
                &status("False", "KafkaUnreachable", "0 of 2 relay pods are ready: \u{1b}[31mno\n"),
            ),
            route("presence", "contact-centre", &status("True", "Ready", "the relays serve revision r")),
            route("presence", "new", &json!({})),
            route("sales", "home", &status("True", "Unverified", "cannot be verified now")),
        ];
        let expected = "\
NAMESPACE  NAME            READY  REASON              ROUTES  PODS  MESSAGE
presence   contact-centre  True   Ready               3       2/2
presence   new                    not yet reconciled
sales      desk            False  KafkaUnreachable    3       2/2   0 of 2 relay pods are ready:  [31mno
sales      home            True   Unverified          3       2/2   cannot be verified now
";
        let lines = lines(&routes);
        assert_eq!(strip_str(&render(&lines, true)).to_string(), expected);
        assert!(!strip_str(&render(&lines, false)).to_string().contains("presence"));
        assert!(!render(&lines, true).contains("\u{1b}[31mno"));
        let json = serde_json::to_value(&lines).unwrap();
        assert_eq!((&json[2]["name"], &json[2]["reason"]), (&json!("desk"), &json!("KafkaUnreachable")));
    }

    #[test]
    fn a_long_message_is_cut() {
        let long = route("a", "b", &status("False", "Invalid", &"x".repeat(100_000)));
        assert!(render(&lines(&[long]), true).len() < 1000);
    }
}
