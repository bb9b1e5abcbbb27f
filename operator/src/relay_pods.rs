//! The relay pods of a route at one moment: which are ready, what each reports, and what that means for the route.
//!
//! A pod's report is what the pod says of itself, within the bounds that [`client`] keeps. Which pods are asked is
//! decided by the [pod cache](crate::cache::pods).

pub mod client;
mod report;

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_manifest::build::ADMIN_PORT;
use serde_json::json;

use crate::cache::obstacle::Obstacle;
use crate::cache::pods::SYNC_ANNOTATION;

pub use client::RelayStatusClient;

/// How many lagging pods are named, so that a condition holds their reasons (at most 32 KiB).
const MAX_LAGGING: usize = 20;
/// How many versions are shown: a rollout has two at a time.
const MAX_VERSIONS: usize = 8;
/// The reason of pods that are not ready because of Kafka.
const KAFKA_UNREACHABLE: &str = "KafkaUnreachable";
/// The reason of pods that are not ready because of the queue that they receive from.
const QUEUE_UNREADABLE: &str = "QueueUnreadable";

/// How relay pods are asked for their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RelayStatusAccess {
    /// At their addresses.
    #[default]
    Direct,
    /// Through the API server, which takes the right to `get` `pods/proxy`.
    ApiServer,
}

impl RelayStatusAccess {
    /// What to do where pods cannot be reached.
    fn remedy(self) -> &'static str {
        match self {
            Self::Direct => {
                "let the operator's pods connect to it (NetworkPolicies, the service mesh), or have the API server asked \
                 with the chart's operator.relayStatus=ApiServer"
            }
            Self::ApiServer => {
                "let the API server connect to it (NetworkPolicies, firewalls of the nodes, the service mesh)"
            }
        }
    }
}

/// Why there is no report of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReport {
    /// The kubelet has not started it yet.
    #[error("it has no address yet")]
    NoAddress,
    /// It is one of very many.
    #[error("the operator asks at most {} pods of a route", client::MAX_PODS)]
    TooManyPods,
    /// There is no connection to it.
    #[error("its /status on port {ADMIN_PORT} cannot be reached")]
    Unreachable,
    /// It took the connection and did not answer.
    #[error("its /status does not answer within a second")]
    Late,
    /// The operator lacks the right to ask through the API server.
    #[error(
        "the operator may not get pods/proxy; install the chart with operator.relayStatus=ApiServer, which grants it"
    )]
    Forbidden,
    /// The answer is an error.
    #[error("its /status answers {0}")]
    Status(u16),
    /// The answer is longer than a relay's.
    #[error("its /status answers more than {} KiB", client::MAX_ANSWER_BYTES / 1024)]
    TooLong,
    /// The answer is no report.
    #[error("its /status does not answer as a relay does")]
    NotAStatus,
}

/// The relay pods of one route at one moment.
pub struct RelayPods {
    /// The pods that are not being deleted, sorted by name.
    pub pods: Vec<RelayPod>,
    /// How they were asked.
    pub access: RelayStatusAccess,
}

/// One relay pod.
pub struct RelayPod {
    /// The pod's name.
    pub name: String,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// What it reports, or why there is no report.
    pub report: Result<RelayStatus, NoReport>,
    /// Why it is not ready, where its status says so.
    pub obstacle: Option<Obstacle>,
    synced: Option<Box<str>>,
}

/// The revisions that a relay should serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRevisions {
    /// Of the routing table.
    pub routing: String,
    /// Of the signing secrets or API keys, where the source is pushed to.
    pub signing: Option<String>,
    /// The level of the log. A relay that has another one is no less live.
    pub log_level: &'static str,
}

impl RelayPods {
    /// The number of ready pods that serve what is desired.
    pub fn live(&self, desired: &DesiredRevisions) -> usize {
        self.ready().filter(|pod| pod.not_live_reason(desired).is_none()).count()
    }

    /// The ready pods.
    pub fn ready(&self) -> impl Iterator<Item = &RelayPod> {
        self.pods.iter().filter(|pod| pod.ready)
    }

    /// Whether every ready pod serves what is desired, and there is one.
    pub fn all_live(&self, desired: &DesiredRevisions) -> bool {
        let ready = self.ready().count();
        ready > 0 && self.live(desired) == ready
    }

    /// Each ready pod that does not serve what is desired, and why; of very many the first, and the number of the rest.
    pub fn lagging(&self, desired: &DesiredRevisions) -> Vec<String> {
        let mut lagging = self.ready().filter_map(|pod| Some((&pod.name, pod.not_live_reason(desired)?)));
        let named = lagging.by_ref().take(MAX_LAGGING).map(|(name, reason)| format!("pod {name} {reason}"));
        let mut named: Vec<_> = named.collect();
        match lagging.count() {
            0 => {}
            rest => named.push(format!("{rest} more pods")),
        }
        named
    }

    /// What to do when no ready pod can be reached; `None` when one can. A rollout has such pods for a moment.
    pub fn unreachable(&self) -> Option<&'static str> {
        let is_unreachable = |pod: &RelayPod| matches!(pod.report, Err(NoReport::Unreachable));
        let are_unreachable = self.ready().next().is_some() && self.ready().all(is_unreachable);
        are_unreachable.then(|| self.access.remedy())
    }

    /// Whether every pod that can be asked, or is ready, accepts this set of signing secrets or API keys, and there is one.
    /// Without senders there is none to accept.
    pub fn all_accept(&self, signing_revision: Option<&str>) -> bool {
        let Some(signing_revision) = signing_revision else { return true };
        let accepts = |pod: &RelayPod| {
            pod.report
                .as_ref()
                .is_ok_and(|report| report.secrets.revision.as_deref() == Some(signing_revision))
        };
        self.pods.iter().any(accepts) && self.pods.iter().filter(|pod| !pod.is_starting()).all(accepts)
    }

    /// Whether a pod has accepted a sender by the secret or key of this name.
    pub fn have_accepted(&self, name: &str) -> bool {
        self.reports().any(|report| report.secrets.used.get(name).is_some_and(|used| *used > 0))
    }

    /// Whether there are pods that cannot be asked yet. Such a pod may have mounted its files before they were what they
    /// are now, and become ready with them.
    pub fn are_starting(&self) -> bool {
        self.pods.iter().any(RelayPod::is_starting)
    }

    /// The topics that at least one pod misses, sorted.
    pub fn missing_topics(&self) -> Vec<String> {
        self.topics(|report| &report.missing_topics)
    }

    /// The topics that at least one pod may not write to, sorted.
    pub fn forbidden_topics(&self) -> Vec<String> {
        self.topics(|report| &report.forbidden_topics)
    }

    fn topics(&self, of: impl Fn(&RelayStatus) -> &Vec<String>) -> Vec<String> {
        let topics: BTreeSet<_> = self.reports().flat_map(|report| of(report).iter().cloned()).collect();
        topics.into_iter().take(report::MAX_TOPICS).collect()
    }

    /// What keeps pods from being ready: of the first that says so, what it reports of Kafka or of its queue, or else what
    /// Kubernetes says of a pod.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let waiting = || self.pods.iter().filter(|pod| !pod.ready);
        let reports = || waiting().filter_map(|pod| pod.report.as_ref().ok());
        let of_kafka = reports().find_map(|report| report.kafka.error.as_deref());
        let of_kafka = of_kafka.map(|error| Obstacle { reason: KAFKA_UNREACHABLE, message: error.into() });
        let of_queue = || {
            let error = reports().find_map(|report| report.queue.as_ref()?.error.as_deref())?;
            Some(Obstacle { reason: QUEUE_UNREADABLE, message: error.into() })
        };
        of_kafka.or_else(of_queue).or_else(|| waiting().find_map(|pod| pod.obstacle.clone()))
    }

    /// The versions that the pods report, joined by a comma.
    pub fn version(&self) -> Option<String> {
        let versions: BTreeSet<_> = self.reports().map(|report| report.version.as_str()).collect();
        let versions: Vec<_> = versions.into_iter().take(MAX_VERSIONS).collect();
        (!versions.is_empty()).then(|| versions.join(","))
    }

    fn reports(&self) -> impl Iterator<Item = &RelayStatus> {
        self.pods.iter().filter_map(|pod| pod.report.as_ref().ok())
    }

    /// Has the kubelets sync the files of every pod that lags or logs at another level, once for each revision.
    pub async fn sync_files(
        &self,
        client: &Client,
        namespace: &str,
        desired: &DesiredRevisions,
    ) -> Result<(), kube::Error> {
        let signing = desired.signing.as_deref().unwrap_or_default();
        let mark = format!("{}/{signing}/{}", desired.routing, desired.log_level);
        let lagging = self.pods.iter().filter(|pod| {
            pod.synced.as_deref() != Some(mark.as_str())
                && pod.report.is_ok()
                && (pod.not_live_reason(desired).is_some() || pod.logs_at_another_level(desired))
        });
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SYNC_ANNOTATION: mark}}}));
        for result in
            join_all(lagging.map(async |pod| {
                api.patch_metadata(&pod.name, &PatchParams::default(), &patch).await.map(drop)
            }))
            .await
        {
            match result {
                // A pod that was deleted meanwhile does not lag.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other?,
            }
        }
        Ok(())
    }
}

impl RelayPod {
    fn is_starting(&self) -> bool {
        !self.ready && self.report.is_err()
    }

    /// What this pod still lacks.
    fn not_live_reason(&self, desired: &DesiredRevisions) -> Option<String> {
        let report = match &self.report {
            Ok(report) => report,
            Err(cause) => return Some(format!("cannot be asked: {cause}")),
        };
        if report.routing.revision != desired.routing {
            let cause =
                report.routing.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            return Some(format!("serves revision {:?} of the routes{cause}", report.routing.revision));
        }
        if desired.signing.is_some() && report.secrets.revision != desired.signing {
            let cause =
                report.secrets.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            return Some(format!("does not accept the newest signing secrets yet{cause}"));
        }
        None
    }

    fn logs_at_another_level(&self, desired: &DesiredRevisions) -> bool {
        self.report
            .as_ref()
            .is_ok_and(|report| report.log_level.as_deref().is_some_and(|level| level != desired.log_level))
    }
}
