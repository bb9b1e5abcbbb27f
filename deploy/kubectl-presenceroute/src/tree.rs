//! A snapshot as a tree, to be read from top to bottom: whether the route is ready, and where it is not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use presenceroute_crds::status::SigningPhase;

use crate::snapshot::{RelayPod, Response, Snapshot, Topic};
use crate::style::{BAD, FAINT, GOOD, STRONG, UNSURE, paint};

/// A line, and the lines below it.
struct Branch {
    line: String,
    twigs: Vec<Branch>,
}

impl Branch {
    fn leaf(line: String) -> Self {
        Self { line, twigs: Vec::new() }
    }

    fn draw(&self, margin: &str, out: &mut String) {
        let last = self.twigs.len().saturating_sub(1);
        for (index, twig) in self.twigs.iter().enumerate() {
            let (joint, below) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            out.push_str(&format!("{margin}{}{}\n", paint(FAINT, joint), twig.line));
            twig.draw(&format!("{margin}{}", paint(FAINT, below)), out);
        }
    }
}

/// The tree as it is at `now`.
pub(crate) fn render(snapshot: &Snapshot, now: Timestamp) -> String {
    let trunk = Branch {
        line: headline(snapshot),
        twigs: snapshot
            .endpoint
            .iter()
            .map(|url| Branch::leaf(labelled("endpoint", url)))
            .chain([
                conditions(snapshot),
                Branch::leaf(labelled("registration", &registration(snapshot, now))),
                Branch::leaf(labelled("signing", &signing(snapshot, now))),
                pods(snapshot),
                topics(snapshot),
                responses(&snapshot.responses),
            ])
            .collect(),
    };
    let mut out = format!("{}\n", trunk.line);
    trunk.draw("", &mut out);
    out
}

fn labelled(label: &str, text: &str) -> String {
    format!("{label:<13} {text}")
}

fn headline(snapshot: &Snapshot) -> String {
    let name = paint(STRONG, &format!("PresenceRoute {}/{}", snapshot.namespace, snapshot.name));
    let ready = snapshot.status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let state = match ready {
        _ if snapshot.deleting => paint(UNSURE, "being deleted"),
        None => paint(UNSURE, "not yet reconciled"),
        Some(ready) if ready.status == "True" => paint(GOOD, "Ready"),
        Some(ready) => paint(BAD, &format!("not ready: {}", ready.reason)),
    };
    let suspended = if snapshot.suspended { paint(UNSURE, "  suspended") } else { String::new() };
    format!("{name}  {state}{suspended}")
}

fn conditions(snapshot: &Snapshot) -> Branch {
    let of_newest = |condition: &Condition| {
        condition.observed_generation.is_none() || condition.observed_generation == snapshot.generation
    };
    // Stalled, which is for programs, repeats another.
    let shown = snapshot.status.conditions.iter().filter(|condition| condition.type_ != "Stalled");
    let twigs = shown.map(|condition| {
        let (style, mark) = match condition.status.as_str() {
            "True" => (GOOD, "✓"),
            "False" => (BAD, "✗"),
            _ => (UNSURE, "?"),
        };
        let old = if of_newest(condition) { "" } else { " (of an older spec)" };
        let reason = if condition.status == "True" { "" } else { &format!("{}: ", condition.reason) };
        Branch::leaf(format!(
            "{} {:<16} {reason}{}{}",
            paint(style, mark),
            condition.type_,
            condition.message,
            paint(UNSURE, old)
        ))
    });
    Branch { line: "conditions".into(), twigs: twigs.collect() }
}

fn registration(snapshot: &Snapshot, now: Timestamp) -> String {
    match snapshot.status.registration() {
        None => paint(UNSURE, "not registered"),
        Some(registration) => {
            let types = registration.spec.event_types.len();
            let verified = match &registration.last_verified_time {
                Some(time) => format!(", confirmed {} ago, unchanged since", age(time, now)),
                None => String::new(),
            };
            let id = registration.id.as_deref().unwrap_or("requested, not confirmed yet");
            let disabled =
                if registration.spec.enabled { String::new() } else { paint(UNSURE, ", disabled") };
            format!("{id}{disabled}, {}{verified}", many(types, "event type"))
        }
    }
}

/// What the phase means: before the first registration there is no old secret.
fn signing(snapshot: &Snapshot, now: Timestamp) -> String {
    let Some(signing) = &snapshot.status.signing else { return paint(UNSURE, "no signing secret yet") };
    let is_first = snapshot.status.registration().is_none_or(|registration| registration.id.is_none());
    let (style, text) = match signing.phase {
        SigningPhase::Stable => (GOOD, "Stable".to_owned()),
        SigningPhase::Distributing => {
            let what = if is_first { "the secret" } else { "the new secret beside the old one" };
            (UNSURE, format!("Distributing: waiting for every relay to accept {what}"))
        }
        SigningPhase::Registering => {
            let what = if is_first {
                "waiting to register"
            } else {
                "updating the registration with the new secret"
            };
            (UNSURE, format!("Registering: {what}"))
        }
        SigningPhase::Retiring => {
            let until = signing.retire_time.as_ref().map_or_else(String::new, |time| {
                format!(" for another {}", span((time.0.as_second() - now.as_second()).max(0)))
            });
            (UNSURE, format!("Retiring: the old secret is accepted{until}"))
        }
    };
    format!("{}  {}", paint(style, &text), paint(FAINT, &format!("revision {}", signing.revision)))
}

fn pods(snapshot: &Snapshot) -> Branch {
    let routing = snapshot.status.routing.as_ref();
    let wanted = routing.map(|routing| routing.revision.as_str());
    let ready = snapshot.pods.iter().filter(|pod| pod.ready).count();
    let table = match routing {
        Some(routing) => format!(
            ", newest routes {} ({})",
            routing.revision,
            many(usize::try_from(routing.routes).unwrap_or_default(), "route")
        ),
        None => String::new(),
    };
    let count = format!("{ready} of {} ready", snapshot.pods.len());
    let style = if ready > 0 && ready == snapshot.pods.len() { GOOD } else { BAD };
    Branch {
        line: labelled("pods", &format!("{}{table}", paint(style, &count))),
        twigs: snapshot.pods.iter().map(|pod| Branch::leaf(relay_pod(pod, wanted))).collect(),
    }
}

fn relay_pod(pod: &RelayPod, wanted: Option<&str>) -> String {
    let (style, state) = if pod.ready { (GOOD, "ready") } else { (BAD, "not ready") };
    let mut parts = vec![pod.name.clone(), paint(style, state)];
    if pod.phase != "Running" {
        parts.push(paint(UNSURE, &pod.phase));
    }
    if pod.restarts > 0 {
        parts.push(paint(UNSURE, &many(usize::try_from(pod.restarts).unwrap_or_default(), "restart")));
    }
    if let Some(problem) = &pod.problem {
        parts.push(paint(BAD, problem));
    }
    if let Some(report) = &pod.report {
        let serves = format!("serves {}", report.routing.revision);
        parts.push(match wanted {
            Some(wanted) if wanted != report.routing.revision => {
                paint(BAD, &format!("{serves}, not the newest"))
            }
            _ => serves,
        });
        parts.push(many(report.secrets.active, "secret"));
        parts.push(format!("{} in flight", report.in_flight));
        parts.push(paint(FAINT, &report.version));
        if report.draining {
            parts.push(paint(UNSURE, "draining"));
        }
        if !report.kafka.reachable {
            let cause = report.kafka.error.as_deref().unwrap_or("no broker is reachable");
            parts.push(paint(BAD, &format!("Kafka: {cause}")));
        }
        if let Some(cause) = &report.kafka.throttled {
            parts.push(paint(UNSURE, &format!("Kafka throttles: {cause}")));
        }
        let errors = [&report.routing.error, &report.secrets.error];
        parts.extend(errors.into_iter().flatten().map(|error| paint(BAD, error)));
    }
    parts.join("  ")
}

fn topics(snapshot: &Snapshot) -> Branch {
    let width = snapshot.topics.iter().map(|topic| topic.name.chars().count()).max().unwrap_or_default();
    let twigs = snapshot.topics.iter().map(|topic| {
        let Topic { name, published, per_second, missing, forbidden } = topic;
        let trouble = match (missing, forbidden) {
            (true, _) => paint(BAD, "  does not exist in Kafka"),
            (false, true) => paint(BAD, "  relays are not authorized to write"),
            (false, false) => String::new(),
        };
        Branch::leaf(format!("{name:<width$}  {}{trouble}", counted(*published, *per_second)))
    });
    let measured = match snapshot.measured_seconds {
        Some(seconds) => format!(", measured over {seconds:.1} s"),
        None => String::new(),
    };
    let line = labelled("topics", &paint(FAINT, &format!("counted since the pods started{measured}")));
    Branch { line, twigs: twigs.collect() }
}

fn responses(responses: &[Response]) -> Branch {
    let style = |code: &str| if code == "200" { GOOD } else { BAD };
    let twigs = responses.iter().map(|response| {
        let Response { code, reason, count, per_second } = response;
        let code = paint(style(code), code);
        Branch::leaf(format!("{code} {reason:<20}  {}", counted(*count, *per_second)))
    });
    let line = if responses.is_empty() { labelled("responses", "none yet") } else { "responses".into() };
    Branch { line, twigs: twigs.collect() }
}

fn counted(total: f64, per_second: Option<f64>) -> String {
    let faint = |text: &str| paint(FAINT, text);
    match per_second {
        Some(rate) => format!("{:>9}  {}", format!("{rate:.1}/s"), faint(&format!("{total:.0} total"))),
        None => format!("{total:.0} total"),
    }
}

fn many(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

fn age(time: &Time, now: Timestamp) -> String {
    span((now.as_second() - time.0.as_second()).max(0))
}

/// Seconds in the unit that fits.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use presenceroute_core::relay_status::RelayStatus;
    use presenceroute_crds::PresenceRouteStatus;
    use serde_json::json;

    fn status() -> PresenceRouteStatus {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 3,
            })
        };
        serde_json::from_value(json!({
            "conditions": [
                condition("Accepted", "True", "Accepted", "the spec is valid"),
                condition("RoutingLive", "False", "PodLags", "pod b lags"),
                condition("Ready", "False", "PodLags", "pod b lags"),
            ],
            "source": {"type": "Webhook", "registration": {
                "id": "r-1", "name": "presence/contact-centre",
                "access": {
                    "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/e",
                    "tokenRequest": "Json", "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"},
                },
                "url": "https://presence.example.com/events", "enabled": true, "eventTypes": ["a", "b"],
                "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
                "lastVerifiedTime": "2026-01-01T00:00:00Z",
            }},
            "routing": {"revision": "new", "routes": 3, "liveReplicas": 1},
            "signing": {"revision": "s1", "phase": "Retiring", "retireTime": "2026-01-01T00:05:00Z"},
        }))
        .unwrap()
    }

    fn pod(name: &str, revision: &str) -> RelayPod {
        let report: RelayStatus = serde_json::from_value(json!({
            "version": "0.1.0",
            "routing": {"revision": revision, "routes": 3},
            "secrets": {"revision": "s1", "active": 2},
            "kafka": {"reachable": true},
            "inFlight": 4, "draining": false,
        }))
        .unwrap();
        RelayPod {
            name: name.into(),
            ready: true,
            phase: "Running".into(),
            restarts: 0,
            report: Some(report),
            problem: None,
        }
    }

    fn snapshot() -> Snapshot {
        let topic = |name: &str, published, rate, missing| Topic {
            name: name.into(),
            published,
            per_second: Some(rate),
            missing,
            forbidden: false,
        };
        Snapshot {
            namespace: "presence".into(),
            name: "contact-centre".into(),
            generation: Some(3),
            endpoint: Some("https://presence.example.com/events".into()),
            suspended: false,
            deleting: false,
            status: status(),
            pods: vec![
                pod("a", "new"),
                pod("b", "old"),
                RelayPod {
                    name: "c".into(),
                    ready: false,
                    phase: "Pending".into(),
                    restarts: 2,
                    report: None,
                    problem: Some("/status cannot be read".into()),
                },
            ],
            topics: vec![topic("gen-presence-state", 1200.0, 12.5, false), topic("gen", 0.0, 0.0, true)],
            responses: vec![Response {
                code: "403".into(),
                reason: "signature-mismatch".into(),
                count: 3.0,
                per_second: Some(1.5),
            }],
            measured_seconds: Some(2.0),
        }
    }

    fn plain(snapshot: &Snapshot) -> String {
        strip_str(&render(snapshot, "2026-01-01T00:01:30Z".parse().unwrap())).to_string()
    }

    #[test]
    fn the_tree_shows_whether_the_route_is_ready_and_why_not() {
        let expected = "\
PresenceRoute presence/contact-centre  not ready: PodLags
├─ endpoint      https://presence.example.com/events
├─ conditions
│  ├─ ✓ Accepted         the spec is valid
│  ├─ ✗ RoutingLive      PodLags: pod b lags
│  └─ ✗ Ready            PodLags: pod b lags
├─ registration  r-1, 2 event types, confirmed 90 s ago, unchanged since
├─ signing       Retiring: the old secret is accepted for another 3 min  revision s1
├─ pods          2 of 3 ready, newest routes new (3 routes)
│  ├─ a  ready  serves new  2 secrets  4 in flight  0.1.0
│  ├─ b  ready  serves old, not the newest  2 secrets  4 in flight  0.1.0
│  └─ c  not ready  Pending  2 restarts  /status cannot be read
├─ topics        counted since the pods started, measured over 2.0 s
│  ├─ gen-presence-state     12.5/s  1200 total
│  └─ gen                     0.0/s  0 total  does not exist in Kafka
└─ responses
   └─ 403 signature-mismatch        1.5/s  3 total
";
        assert_eq!(plain(&snapshot()), expected);
    }

    #[test]
    fn a_pod_that_kafka_throttles_says_so() {
        let mut snapshot = snapshot();
        let report = snapshot.pods[0].report.as_mut().unwrap();
        report.kafka.throttled = Some("broker kafka:9092 delays the relay by 2.3 s".into());
        let tree = plain(&snapshot);
        let shown = "├─ a  ready  serves new  2 secrets  4 in flight  0.1.0  Kafka throttles: broker kafka:9092 delays";
        assert!(tree.contains(shown), "{tree}");
    }

    #[test]
    fn a_route_without_a_status_is_shown() {
        let snapshot = Snapshot {
            status: PresenceRouteStatus::default(),
            pods: Vec::new(),
            responses: Vec::new(),
            suspended: true,
            ..snapshot()
        };
        let tree = plain(&snapshot);
        assert!(tree.contains("not yet reconciled  suspended"), "{tree}");
        assert!(tree.contains("registration  not registered") && tree.contains("0 of 0 ready"), "{tree}");
    }

    #[test]
    fn signing_speaks_of_an_old_secret_only_when_there_is_one() {
        let mut registered = snapshot();
        let mut new = snapshot();
        new.status.source = None;
        for (phase, first, later) in [
            (SigningPhase::Distributing, "accept the secret  ", "accept the new secret beside the old one"),
            (SigningPhase::Registering, "Registering: waiting to register", "with the new secret"),
        ] {
            for (snapshot, expected) in [(&mut new, first), (&mut registered, later)] {
                snapshot.status.signing.as_mut().unwrap().phase = phase;
                let tree = plain(snapshot);
                assert!(tree.contains(expected), "{tree}");
            }
            assert!(!plain(&new).contains("old one"));
        }
    }

    #[test]
    fn a_condition_of_an_older_spec_is_marked() {
        let tree = plain(&Snapshot { generation: Some(4), ..snapshot() });
        assert!(tree.contains("the spec is valid (of an older spec)"), "{tree}");
    }

    #[test]
    fn colours_can_be_stripped() {
        assert!(render(&snapshot(), Timestamp::UNIX_EPOCH).contains('\x1b'));
        assert!(!plain(&snapshot()).contains('\x1b'));
    }
}
