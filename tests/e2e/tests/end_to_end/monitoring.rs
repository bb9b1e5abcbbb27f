//! A real Prometheus finds the relays and the operator by the chart's monitors, and has every metric, label and value
//! that an alert, a panel of the dashboard or a runbook names. Every command of a runbook runs.

use std::collections::BTreeSet;

use presenceroute_core::relay_status::RelayStatus;
use presenceroute_e2e::kubectl::{self, text};
use presenceroute_e2e::prometheus::{Prometheus, Series};
use presenceroute_e2e::promql::{self, Selector};
use presenceroute_e2e::route::Route;
use presenceroute_e2e::simulator::ensure_all_accepted;
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, Outcome, command, ensure, ensure_same, harness, markdown, tree};
use serde_json::{Value, json};

use crate::manifests::{self, EVENT_TYPES};
use crate::stage::{RELEASE, Stage};

const MONITORS: [&str; 2] = ["templates/relay-podmonitor.yaml", "templates/operator-servicemonitor.yaml"];

const PRESENCE: &str = "v2.users.{id}.presence";

/// Alerts that the route below gives cause for, which wait for their time.
const EXPECTED: [&str; 4] = [
    "PresenceRouteCertificateExpiring",
    "PresenceRouteConditionsFailing",
    "PresenceRouteTopicMissing",
    "PresenceRouteUnrouted",
];

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "monitored");
    let encrypted = Route::new(&stage.namespace, "monitored-tls");
    let queued = Route::new(&stage.namespace, "monitored-queue");
    let queue_name = format!("{}-monitored", stage.namespace);
    steps.prove("a route with a missing topic is registered and says so", || {
        let topic = stage.topic("monitored");
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "monitored-webhook", json!({"secret": "monitored"})))?;
        kubectl::apply(&manifests::secret(stage, "monitored-ca", json!({"ca.crt": certificate()?.1})))?;
        kubectl::apply(&troubled_route(stage, &route, &topic).to_string())?;
        let (key, certificate) = certificate()?;
        let pair = json!({"tls.key": key, "tls.crt": certificate});
        kubectl::apply(&manifests::secret(stage, "monitored-tls", pair))?;
        kubectl::apply(&encrypted_route(stage, &encrypted, &topic).to_string())?;
        encrypted.becomes_ready(60)?;
        until("it is registered", seconds(60), || {
            stage.simulator.registration(&route.registration_name()).map(drop)
        })
    })?;
    let url = steps.prove("a route with a queue is Ready", || {
        harness::run("sqs", &["up"])?;
        let url = harness::run("sqs", &["queue", "create", &queue_name])?.trim().to_owned();
        let key = json!({"accessKeyId": "monitored", "secretAccessKey": "not-for-production"});
        kubectl::apply(&manifests::secret(stage, "monitored-queue-key", key))?;
        kubectl::apply(&queued_route(stage, &queued, &stage.topic("monitored"), &url).to_string())?;
        queued.becomes_ready(60)?;
        Ok(url)
    })?;
    let prometheus = steps.prove("Prometheus scrapes what the chart's monitors select", || {
        let mut values = stage.values();
        values
            .extend(["metrics.podMonitor.enabled=true".into(), "metrics.serviceMonitor.enabled=true".into()]);
        let prometheus = Prometheus::start(&RELEASE.render(&values, &MONITORS)?, &tree::path(ALERTS))?;
        until("every target is up", seconds(30), || {
            let targets = prometheus.targets()?;
            // Two relays of this route, two operators; more where others' routes are in the cluster.
            ensure(targets.len() >= 4, || format!("{} targets", targets.len()))?;
            let down: Vec<_> = targets.iter().filter(|target| target["health"] != "up").collect();
            ensure(down.is_empty(), || format!("{down:#?}"))
        })?;
        Ok(prometheus)
    })?;
    steps.prove("events are published, repeated, refused and not routed", || {
        traffic(stage, &route.registration_name())?;
        traffic_of_queue(stage, &queued, &url)
    })?;
    let queries = steps.prove("the queries of alerts, dashboard and runbooks can be read", || {
        let queries = queries()?;
        measured(&format!("{} queries", queries.len()));
        Ok(queries)
    })?;
    let checks: [(&str, Check<'_>); 3] = [
        ("every metric, label and value that is named exists", &|| {
            queries.iter().try_for_each(|query| named_things_exist(&prometheus, query))
        }),
        ("every panel of the dashboard shows something", &|| {
            queries.iter().filter(|query| query.whence == DASHBOARD).try_for_each(|query| {
                let series = prometheus.query(&query.text)?;
                ensure(!series.is_empty() && series.iter().all(Series::is_number), || {
                    format!("nothing, or no number, comes of {}: {series:?}", query.text)
                })
            })
        }),
        ("every rule is evaluated, and the expected alerts are active", &|| {
            alerts_see_it(&prometheus, &route)
        }),
    ];
    for (sentence, check) in checks {
        // Each stands for itself. What was just provoked is scraped within a second, and rated within two.
        let _ = steps.prove(sentence, || until("it is so", seconds(15), check));
    }
    steps.prove("every command of the runbooks runs, on this route", || {
        let count = run_the_runbooks(&route)?;
        measured(&format!("{count} blocks of commands"));
        Ok(())
    })?;
    steps.prove("a deleted route is gone from the metrics", || {
        route.delete()?;
        encrypted.delete()?;
        queued.delete()?;
        harness::run("sqs", &["queue", "delete", &queue_name])?;
        until("it is gone", seconds(15), || {
            let of_route =
                format!(r#"presenceroute_operator_route_condition{{presenceroute="{}"}}"#, route.name);
            ensure_same("series", &prometheus.query(&of_route)?.len(), &0)
        })
    })
}

type Check<'c> = &'c dyn Fn() -> Outcome;

/// The one route is sound, the second asks for an attribute that no event has, the topic of the third is missing.
fn troubled_route(stage: &Stage, route: &Route, topic: &str) -> Value {
    let mut manifest = manifests::small_route(stage, route, "monitored-webhook", topic);
    manifest["spec"]["genesys"]["api"] = json!({"caSecretRef": {"name": "monitored-ca"}});
    manifest["spec"]["source"]["webhook"]["retryPolicy"] = json!({"maxRetries": 0});
    manifest["spec"]["routes"] = json!([
        {"eventType": EVENT_TYPES[0], "topic": topic},
        {"eventType": EVENT_TYPES[1], "when": "attributes.nowhere == 'x'", "topic": topic},
        {"eventType": EVENT_TYPES[2], "topic": stage.topic("nowhere")},
    ]);
    manifest
}

/// Its relay speaks TLS, and has metrics of its certificate.
fn encrypted_route(stage: &Stage, route: &Route, topic: &str) -> Value {
    let mut manifest = manifests::small_route(stage, route, "monitored-webhook", topic);
    let url = format!("https://{}-relay.{}:8080/eventbridge/presence", route.name, route.namespace);
    manifest["spec"]["endpoint"]["url"] = json!(url);
    manifest["spec"]["relay"] =
        json!({"replicas": 1, "tls": {"certificateSecretRef": {"name": "monitored-tls"}}});
    manifest
}

/// Its relay receives from a queue, and has metrics of it.
fn queued_route(stage: &Stage, route: &Route, topic: &str, queue_url: &str) -> Value {
    let mut manifest = manifests::small_route(stage, route, "unused", topic);
    let server = queue_url.split('/').take(3).collect::<Vec<_>>().join("/");
    manifest["spec"]["source"] = json!({"amazonEventBridge": {
        "topics": [PRESENCE], "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
        "sqs": {
            "queueUrl": queue_url, "endpointUrl": server, "region": "eu-west-1",
            "credentialsSecretRef": {"name": "monitored-queue-key"},
        },
    }});
    manifest["spec"]["routes"] = json!([{"eventType": PRESENCE, "topic": topic}]);
    drop(manifest["spec"].as_object_mut().map(|spec| spec.remove("endpoint")));
    manifest
}

/// A key, and a certificate that is soon over.
fn certificate() -> Outcome<(String, String)> {
    let arguments = "req -x509 -newkey ed25519 -nodes -keyout /dev/stdout -days 10 -subj /CN=e2e";
    let both = command::run("openssl", &arguments.split(' ').collect::<Vec<_>>(), None)?;
    let begins = both.find("-----BEGIN CERTIFICATE").ok_or_else(|| Failure("openssl made none".into()))?;
    let (key, certificate) = both.split_at(begins);
    Ok((key.to_owned(), certificate.to_owned()))
}

fn traffic(stage: &Stage, registration: &str) -> Outcome {
    let send = |plan: Value| stage.simulator.deliver(registration, plan)?.finished(seconds(30));
    ensure_all_accepted(&send(json!({"count": 50, "ratePerSecond": 25, "eventTypes": [EVENT_TYPES[0]]}))?)?;
    let event = json!({"id": "twice", "eventType": EVENT_TYPES[0], "timestamp": 0, "source": "e2e", "attributes": {}});
    for _ in 0..2 {
        ensure_all_accepted(&send(json!({"events": [event]}))?)?;
    }
    send(json!({"count": 5, "eventTypes": [EVENT_TYPES[0]], "signWith": {"secret": "another"}}))?;
    send(json!({"count": 5, "eventTypes": [EVENT_TYPES[1]]}))?;
    send(json!({"count": 5, "eventTypes": ["presence:of-no-route:changed"]}))?;
    send(json!({"count": 5, "eventTypes": [EVENT_TYPES[2]]})).map(drop)
}

fn traffic_of_queue(stage: &Stage, route: &Route, url: &str) -> Outcome {
    stage.simulator.set_event_bus_rules(&json!([{"name": "queue", "target": {"sqs": {"queueUrl": url}}}]))?;
    let integration = stage.simulator.integration(&format!("{}-{}", route.namespace, route.name))?;
    let plan = json!({"count": 40, "ratePerSecond": 20, "eventSource": integration.event_source});
    stage.simulator.change_presence(&plan)?.finished(seconds(30))?;
    until("the relays have deleted all", seconds(30), || {
        let deleted = |relay: &RelayStatus| relay.queue.as_ref().map_or(0, |queue| queue.deleted);
        ensure_same("messages", &route.relays()?.iter().map(deleted).sum(), &40)
    })
}

// ----------------------------------------------------------------------------------------------------- what is named

const ALERTS: &str = "charts/presenceroute/files/alerts/presenceroute.yaml";
const DASHBOARD: &str = "charts/presenceroute/files/dashboards/presenceroute.json";
const RUNBOOKS: &str = "docs/runbooks";
/// Where the reasons of conditions are written: a healthy run has few of them.
const REASONS: [&str; 3] =
    ["operator/src/status/conditions.rs", "operator/src/registration/failure.rs", "genesys/src/error.rs"];

/// A query, and the labels that the text beside it shows.
struct Query {
    whence: &'static str,
    text: String,
    shown: BTreeSet<String>,
}

fn queries() -> Outcome<Vec<Query>> {
    let mut queries = queries_of_alerts()?;
    queries.extend(queries_of_the_dashboard()?);
    queries.extend(queries_of_runbooks()?);
    Ok(queries)
}

fn queries_of_alerts() -> Outcome<Vec<Query>> {
    let rules: Value = serde_saphyr::from_str(&tree::read(ALERTS)?)
        .map_err(|error| Failure(format!("{ALERTS}: {error}")))?;
    let groups = rules["groups"].as_array().into_iter().flatten();
    let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
    Ok(rules
        .map(|rule| Query {
            whence: ALERTS,
            text: text(rule, "/expr").to_owned(),
            shown: between(&rule["annotations"].to_string(), "$labels.", |c| !c.is_ascii_lowercase()),
        })
        .collect())
}

fn queries_of_the_dashboard() -> Outcome<Vec<Query>> {
    let dashboard: Value = serde_json::from_str(&tree::read(DASHBOARD)?)
        .map_err(|error| Failure(format!("{DASHBOARD}: {error}")))?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    Ok(targets
        .map(|target| Query {
            whence: DASHBOARD,
            text: text(target, "/expr")
                .replace("$__rate_interval", "1m")
                .replace("$namespace", ".*")
                .replace("$presenceroute", ".*"),
            shown: between(text(target, "/legendFormat"), "{{", |c| c == '}'),
        })
        .collect())
}

fn queries_of_runbooks() -> Outcome<Vec<Query>> {
    let mut queries = Vec::new();
    for page in runbooks()? {
        let lines = blocks(&page, "promql").join("");
        queries.extend(lines.lines().map(|line| Query {
            whence: RUNBOOKS,
            text: line.to_owned(),
            shown: BTreeSet::new(),
        }));
    }
    Ok(queries)
}

/// What follows each `mark`, up to a character that ends it.
fn between(text: &str, mark: &str, ends: impl Fn(char) -> bool + Copy) -> BTreeSet<String> {
    text.split(mark).skip(1).filter_map(|rest| rest.split(ends).next()).map(str::to_owned).collect()
}

/// The text of every page but the list of them.
fn runbooks() -> Outcome<Vec<String>> {
    let pages = tree::files(RUNBOOKS, ".md")?;
    pages.iter().filter(|page| !page.ends_with("/README.md")).map(|page| tree::read(page)).collect()
}

/// The fenced blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let of_language = markdown::blocks(page).into_iter().filter(|block| block.language == language);
    of_language.map(|block| block.text).collect()
}

// ------------------------------------------------------------------------------------------------------ what is there

fn named_things_exist(prometheus: &Prometheus, query: &Query) -> Outcome {
    let wanted: BTreeSet<String> = promql::grouping(&query.text).union(&query.shown).cloned().collect();
    let shaping = promql::selectors(&promql::without_absent(&query.text));
    let there = || -> Outcome {
        for selector in promql::selectors(&query.text) {
            let series = prometheus.query(&selector.metric)?;
            ensure(!series.is_empty(), || format!("there is no {}", selector.metric))?;
            for label in wanted.iter().filter(|_| shaping.contains(&selector)) {
                ensure_label(&selector, &series, label)?;
            }
            for (label, values) in &selector.matchers {
                ensure_label(&selector, &series, label)?;
                values.iter().try_for_each(|value| ensure_value(&selector, &series, label, value))?;
            }
        }
        prometheus.query(&query.text).map(drop)
    };
    there().map_err(|failure| Failure(format!("{failure}; named in {}: {}", query.whence, query.text)))
}

fn ensure_label(selector: &Selector, series: &[Series], label: &str) -> Outcome {
    ensure(series.iter().any(|one| one.metric.contains_key(label)), || {
        format!("{} has no label {label}", selector.metric)
    })
}

fn ensure_value(selector: &Selector, series: &[Series], label: &str, value: &str) -> Outcome {
    if series.iter().any(|one| one.metric.get(label).is_some_and(|found| found == value)) {
        return Ok(());
    }
    let is_reason = selector.metric.ends_with("_route_condition") && label == "reason";
    let quoted = format!("\"{value}\"");
    ensure(
        is_reason && REASONS.iter().any(|source| tree::read(source).is_ok_and(|text| text.contains(&quoted))),
        || format!("{} has no {label}={quoted}", selector.metric),
    )
}

fn alerts_see_it(prometheus: &Prometheus, route: &Route) -> Outcome {
    let rules = prometheus.rules()?;
    ensure_same("rules", &rules.len(), &queries_of_alerts()?.len())?;
    for rule in &rules {
        ensure(rule["health"] == "ok", || format!("{}: {}", text(rule, "/name"), text(rule, "/lastError")))?;
    }
    let of_route = |alert: &&Value| text(alert, "/labels/presenceroute") == route.name;
    let alerts = rules.iter().flat_map(|rule| rule["alerts"].as_array().into_iter().flatten());
    let active: BTreeSet<_> = alerts.filter(of_route).map(|alert| text(alert, "/labels/alertname")).collect();
    ensure(EXPECTED.iter().all(|alert| active.contains(alert)), || {
        format!("wanted {EXPECTED:?}, there are {active:?}")
    })
}

fn run_the_runbooks(route: &Route) -> Outcome<usize> {
    let mut count = 0;
    for page in runbooks()? {
        for block in blocks(&page, "sh") {
            let script = format!(
                "set -euo pipefail\nexport NAMESPACE={} ROUTE={} SYSTEM={}\n{block}",
                route.namespace, route.name, RELEASE.namespace
            );
            command::run("bash", &["-c", &script], None)?;
            count += 1;
        }
    }
    ensure(count >= 18, || format!("there are only {count} blocks of commands"))?;
    Ok(count)
}
