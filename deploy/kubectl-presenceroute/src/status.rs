//! `status`: gathers the snapshot of a route from the API server and from each of its relays. Without a name, all routes
//! are listed by what the operator reports of them.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use crate::format::Format;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_crds::{PresenceRoute, PresenceRouteSpec};
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, ClusterError, is_ready};
use crate::counters::Counters;
use crate::overview;
use crate::route_name::completer;
use crate::snapshot::{RelayPod, Response, Snapshot, Topic};
use crate::style::{self, Progress};
use crate::tree;

/// How long one relay may take to respond.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    /// The PresenceRoute. Default: all of the namespace, one a line.
    #[arg(value_name = "NAME", add = completer())]
    name: Option<String>,
    /// All routes of all namespaces, one a line.
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    /// The seconds over which rates are measured; 0 shows totals alone.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    rates: f64,
    /// The output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0 to 3600".into()),
    }
}

/// Why a status could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the status cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

pub(crate) async fn run(arguments: &StatusArguments, cluster: &Cluster) -> Result<ExitCode, StatusError> {
    let Some(name) = &arguments.name else {
        let routes = cluster.routes(arguments.all_namespaces).await?;
        let lines = overview::lines(&routes);
        match arguments.output {
            Format::Text if lines.is_empty() => style::print("no PresenceRoutes found\n"),
            Format::Text => style::print(&overview::render(&lines, arguments.all_namespaces)),
            Format::Json => style::print(&(serde_json::to_string_pretty(&lines)? + "\n")),
        }
        return Ok(ExitCode::SUCCESS);
    };
    let snapshot = gather(cluster, name, Duration::from_secs_f64(arguments.rates)).await?;
    match arguments.output {
        Format::Text => style::print(&tree::render(&snapshot, Timestamp::now())),
        Format::Json => style::print(&(serde_json::to_string_pretty(&snapshot)? + "\n")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn gather(cluster: &Cluster, name: &str, measure: Duration) -> Result<Snapshot, StatusError> {
    let progress = Progress::new();
    progress.show("reading from the API server and the relays");
    let route = cluster.route(name).await?;
    let pods = cluster.relay_pods(name).await?;
    let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
    let began = Instant::now();
    let (reports, first) = futures::join!(reports(cluster, &names), counters(cluster, &names));
    if measure.is_zero() {
        return Ok(snapshot(route, &pods, reports, &sum(first.into_iter().flatten()), None));
    }
    progress.show(&format!("measuring rates for {} s", measure.as_secs_f64()));
    tokio::time::sleep(measure).await;
    let second = counters(cluster, &names).await;
    let elapsed = began.elapsed().as_secs_f64();
    // A pod that responded only once has no rate.
    let both = second.iter().zip(&first).filter_map(|(now, then)| Some(now.as_ref()?.since(then.as_ref()?)));
    let measured = Some((sum(both), elapsed));
    let newest = second.into_iter().zip(first).filter_map(|(now, then)| now.or(then));
    Ok(snapshot(route, &pods, reports, &sum(newest), measured))
}

fn sum(counters: impl Iterator<Item = Counters>) -> Counters {
    let mut all = Counters::default();
    counters.for_each(|counters| all += counters);
    all
}

async fn reports(cluster: &Cluster, pods: &[String]) -> Vec<Result<RelayStatus, String>> {
    join_all(pods.iter().map(async |pod| {
        let page = timeout(PATIENCE, cluster.admin_page(pod, "/status")).await;
        let text = page.map_err(|_| format!("/status: no response within {} s", PATIENCE.as_secs()))?;
        let text = text.map_err(|error| format!("/status cannot be read: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("/status is not valid: {error}"))
    }))
    .await
}

/// The counters of each pod that responds.
async fn counters(cluster: &Cluster, pods: &[String]) -> Vec<Option<Counters>> {
    join_all(pods.iter().map(
        async |pod| match timeout(PATIENCE, cluster.admin_page(pod, "/metrics")).await {
            Ok(Ok(metrics)) => Some(Counters::parse(&metrics)),
            _ => None,
        },
    ))
    .await
}

fn snapshot(
    route: PresenceRoute,
    pods: &[Pod],
    reports: Vec<Result<RelayStatus, String>>,
    totals: &Counters,
    measured: Option<(Counters, f64)>,
) -> Snapshot {
    let rate = |counted: Option<&f64>, seconds: f64| counted.copied().unwrap_or_default() / seconds;
    let reported = |of: fn(&RelayStatus) -> &Vec<String>| -> BTreeSet<&String> {
        reports.iter().flatten().flat_map(of).collect()
    };
    let missing = reported(|report| &report.missing_topics);
    let forbidden = reported(|report| &report.forbidden_topics);
    let topics = topics(&route.spec, totals).into_iter().map(|name| Topic {
        published: totals.published.get(&name).copied().unwrap_or_default(),
        per_second: measured.as_ref().map(|(since, seconds)| rate(since.published.get(&name), *seconds)),
        missing: missing.contains(&name),
        forbidden: forbidden.contains(&name),
        name,
    });
    let topics = topics.collect();
    let responses = totals.answers.iter().map(|(answer, count)| Response {
        code: answer.0.clone(),
        reason: answer.1.clone(),
        count: *count,
        per_second: measured.as_ref().map(|(since, seconds)| rate(since.answers.get(answer), *seconds)),
    });
    let responses = responses.collect();
    Snapshot {
        namespace: route.namespace().unwrap_or_default(),
        name: route.name_any(),
        generation: route.metadata.generation,
        endpoint: route.spec.endpoint.map(|endpoint| endpoint.url),
        suspended: route.spec.suspend,
        deleting: route.metadata.deletion_timestamp.is_some(),
        status: route.status.unwrap_or_default(),
        pods: pods.iter().zip(reports).map(|(pod, report)| relay_pod(pod, report)).collect(),
        topics,
        responses,
        measured_seconds: measured.map(|(_, seconds)| seconds),
    }
}

/// The topics of the spec, in its order, then the topics that only had events.
fn topics(spec: &PresenceRouteSpec, totals: &Counters) -> Vec<String> {
    let invalid = spec.unmatched.invalid.as_ref().map(|invalid| &invalid.topic);
    let routed = spec.routes.iter().map(|route| &route.topic);
    let named = routed.chain(&spec.unmatched.topic).chain(invalid);
    let mut topics = Vec::new();
    for topic in named.chain(totals.published.keys()) {
        if !topics.contains(topic) {
            topics.push(topic.clone());
        }
    }
    topics
}

fn relay_pod(pod: &Pod, report: Result<RelayStatus, String>) -> RelayPod {
    let status = pod.status.clone().unwrap_or_default();
    let (report, problem) = match report {
        Ok(report) => (Some(report), None),
        Err(problem) => (None, Some(problem)),
    };
    RelayPod {
        name: pod.name_any(),
        ready: is_ready(pod),
        phase: status.phase.unwrap_or_else(|| "Unknown".into()),
        restarts: status.container_statuses.iter().flatten().map(|container| container.restart_count).sum(),
        report,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_topics_of_spec_and_events_with_rates() {
        let route = serde_saphyr::from_str(
            r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: one, namespace: presence}
spec:
  genesys: {region: mypurecloud.ie, credentialsSecretRef: {name: oauth}}
  source: {webhook: {signingSecretRef: {name: webhook}}}
  endpoint: {url: "https://presence.example.com/events"}
  routes: [{eventType: a, topic: z}, {eventType: b, topic: y}, {eventType: c, topic: z}]
  unmatched: {action: DeadLetter, topic: rest, invalid: {topic: bad}}
  kafka: {bootstrapServers: ["kafka:9092"]}
"#,
        )
        .unwrap();
        let counters = |z: f64| Counters {
            published: [("z".to_owned(), z), ("before".to_owned(), 1.0)].into(),
            answers: [(("200".to_owned(), "processed".to_owned()), z)].into(),
        };
        let report = RelayStatus { missing_topics: vec!["y".into()], ..RelayStatus::default() };
        let measured = Some((
            counters(6.0)
                .since(&Counters { published: [("before".to_owned(), 1.0)].into(), ..Counters::default() }),
            2.0,
        ));
        let snapshot = snapshot(route, &[Pod::default()], vec![Ok(report)], &counters(10.0), measured);
        let shown: Vec<_> = snapshot
            .topics
            .iter()
            .map(|topic| (topic.name.as_str(), topic.published, topic.per_second.unwrap(), topic.missing))
            .collect();
        assert_eq!(
            shown,
            [
                ("z", 10.0, 3.0, false),
                ("y", 0.0, 0.0, true),
                ("rest", 0.0, 0.0, false),
                ("bad", 0.0, 0.0, false),
                ("before", 1.0, 0.0, false)
            ]
        );
        assert_eq!((snapshot.responses[0].count, snapshot.responses[0].per_second), (10.0, Some(3.0)));
    }
}
