//! The relay pods as they are: which are ready, and what each reports of itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use presenceroute_core::relay_status::RelayStatus;
use serde_json::json;

use presenceroute_manifest::build::{ADMIN_PORT, RELAY_COMPONENT, ROUTE_LABEL};

/// Carries the revisions that a pod should have. Its value matters to nobody: a pod that changes is synced by its
/// kubelet at once, and with it the ConfigMaps and Secrets that it mounts.
const SYNC_ANNOTATION: &str = "presenceroute.io/synced";

/// How long one pod may take to answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The relay pods of one route at one moment.
pub struct Relays {
    /// Those that are not on their way out, sorted by name.
    pub pods: Vec<Relay>,
}

/// One relay pod.
pub struct Relay {
    /// The pod's name.
    pub name: String,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// What it said, or why nothing was heard.
    pub report: Result<RelayStatus, String>,
    synced: Option<String>,
}

/// The revisions that a relay is to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of the routing table.
    pub routing: String,
    /// Of the signing secrets.
    pub signing: String,
    /// The level of their log. A relay that has another one is no less live.
    pub log_level: &'static str,
}

/// Reads what relay pods report.
#[derive(Clone)]
pub struct RelayReader {
    pods: Store<Pod>,
    http: reqwest::Client,
    /// For questions whose answer does not matter.
    anyone: reqwest::Client,
}

impl RelayReader {
    /// Takes the cache of relay pods that a watch fills.
    pub fn new(pods: Store<Pod>) -> Result<Self, reqwest::Error> {
        // Pods are asked directly: a proxy of the environment is for the world outside.
        let direct = || reqwest::Client::builder().timeout(STATUS_TIMEOUT).no_proxy();
        let anyone = direct().danger_accept_invalid_certs(true).build()?;
        Ok(Self { pods, http: direct().build()?, anyone })
    }

    /// Asks every pod of the route that is not on its way out.
    pub async fn read(&self, namespace: &str, route: &str) -> Relays {
        let mut pods = self.pods.state_filter(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.labels().get(ROUTE_LABEL).is_some_and(|owner| owner == route)
                && pod.labels().get(RELAY_COMPONENT.0).is_some_and(|component| component == RELAY_COMPONENT.1)
                && pod.metadata.deletion_timestamp.is_none()
        });
        pods.sort_by_key(|pod| pod.name_any());
        let relays = pods.iter().map(async |pod| Relay {
            name: pod.name_any(),
            ready: is_ready(pod),
            report: self.report(pod).await,
            synced: pod.annotations().get(SYNC_ANNOTATION).cloned(),
        });
        Relays { pods: join_all(relays).await }
    }

    /// Whether something answers behind a Service. What it answers to this empty question does not matter, nor does
    /// whose certificate it has: it is asked by its address, which is in none.
    pub async fn answers(&self, cluster_ip: IpAddr, scheme: &str, port: i32) -> bool {
        self.anyone.get(url_at(scheme, cluster_ip, port, "/")).send().await.is_ok()
    }

    async fn report(&self, pod: &Pod) -> Result<RelayStatus, String> {
        let address: IpAddr = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|address| address.parse().ok())
            .ok_or("it has no address yet")?;
        let url = url_at("http", address, ADMIN_PORT, "/status");
        let unheard = |error: reqwest::Error| {
            if error.is_timeout() {
                "its /status does not answer within a second".to_owned()
            } else {
                "its /status cannot be reached".to_owned()
            }
        };
        let answer = self.http.get(url).send().await.map_err(unheard)?;
        answer.json().await.map_err(unheard)
    }
}

impl Relays {
    /// The ready pods that serve what is wanted.
    pub fn live(&self, wanted: &Wanted) -> usize {
        self.ready().filter(|relay| relay.lag(wanted).is_none()).count()
    }

    /// The ready pods.
    pub fn ready(&self) -> impl Iterator<Item = &Relay> {
        self.pods.iter().filter(|relay| relay.ready)
    }

    /// Whether every ready pod serves what is wanted, and there is one.
    pub fn all_live(&self, wanted: &Wanted) -> bool {
        let ready = self.ready().count();
        ready > 0 && self.live(wanted) == ready
    }

    /// Each ready pod that does not serve what is wanted, and why.
    pub fn lagging(&self, wanted: &Wanted) -> Vec<String> {
        self.ready()
            .filter_map(|relay| relay.lag(wanted).map(|reason| format!("pod {} {reason}", relay.name)))
            .collect()
    }

    /// Whether every pod that can be asked, or is ready, accepts this set of signing secrets, and there is one.
    pub fn all_accept(&self, signing_revision: &str) -> bool {
        let accepts = |relay: &Relay| {
            relay
                .report
                .as_ref()
                .is_ok_and(|report| report.secrets.revision.as_deref() == Some(signing_revision))
        };
        self.pods.iter().any(accepts) && self.pods.iter().filter(|relay| !relay.is_starting()).all(accepts)
    }

    /// Whether there are pods that cannot be asked yet. Each may have got its files before they were what they are now,
    /// and become ready with them.
    pub fn are_starting(&self) -> bool {
        self.pods.iter().any(Relay::is_starting)
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
        let reports = self.pods.iter().filter_map(|relay| relay.report.as_ref().ok());
        reports.flat_map(|report| of(report).iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The failures to reach Kafka that pods report, each once, sorted.
    pub fn kafka_errors(&self) -> Vec<String> {
        let reports = self.pods.iter().filter_map(|relay| relay.report.as_ref().ok());
        reports.filter_map(|report| report.kafka.error.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The versions that the pods report, joined by a comma.
    pub fn version(&self) -> Option<String> {
        let reports = self.pods.iter().filter_map(|relay| relay.report.as_ref().ok());
        let versions: BTreeSet<_> = reports.map(|report| report.version.as_str()).collect();
        (!versions.is_empty()).then(|| versions.into_iter().collect::<Vec<_>>().join(","))
    }

    /// Has the kubelets sync the files of every pod that lags or logs at another level, once for each revision.
    pub async fn sync_files(
        &self,
        client: &Client,
        namespace: &str,
        wanted: &Wanted,
    ) -> Result<(), kube::Error> {
        let mark = format!("{}/{}/{}", wanted.routing, wanted.signing, wanted.log_level);
        let lagging = self.pods.iter().filter(|relay| {
            relay.synced.as_deref() != Some(mark.as_str())
                && relay.report.is_ok()
                && (relay.lag(wanted).is_some() || relay.logs_at_another_level(wanted))
        });
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SYNC_ANNOTATION: mark}}}));
        for result in join_all(lagging.map(async |relay| {
            api.patch_metadata(&relay.name, &PatchParams::default(), &patch).await.map(drop)
        }))
        .await
        {
            match result {
                // A pod that has gone meanwhile lags no more.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other?,
            }
        }
        Ok(())
    }
}

impl Relay {
    fn is_starting(&self) -> bool {
        !self.ready && self.report.is_err()
    }

    /// What this pod still lacks.
    fn lag(&self, wanted: &Wanted) -> Option<String> {
        let report = match &self.report {
            Ok(report) => report,
            Err(cause) => return Some(format!("cannot be asked: {cause}")),
        };
        if report.routing.revision != wanted.routing {
            let cause =
                report.routing.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            return Some(format!("serves revision {:?} of the routes{cause}", report.routing.revision));
        }
        if report.secrets.revision.as_deref() != Some(wanted.signing.as_str()) {
            let cause =
                report.secrets.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            return Some(format!("does not accept the newest signing secrets yet{cause}"));
        }
        None
    }

    fn logs_at_another_level(&self, wanted: &Wanted) -> bool {
        self.report
            .as_ref()
            .is_ok_and(|report| report.log_level.as_deref().is_some_and(|level| level != wanted.log_level))
    }
}

/// Takes out of a pod what is not read of it here: thousands of pods are kept.
pub fn trim(pod: &mut Pod) {
    pod.managed_fields_mut().clear();
    pod.annotations_mut().retain(|name, _| name == SYNC_ANNOTATION);
    pod.spec = None;
    if let Some(status) = &mut pod.status {
        *status = PodStatus {
            pod_ip: status.pod_ip.take(),
            conditions: status.conditions.take().map(|mut conditions| {
                conditions.retain(|condition| condition.type_ == "Ready");
                conditions
            }),
            ..PodStatus::default()
        };
    }
}

fn url_at(scheme: &str, address: IpAddr, port: i32, path: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{scheme}://{address}:{port}{path}"),
        IpAddr::V6(address) => format!("{scheme}://[{address}]:{port}{path}"),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
