//! Relay pods that no node takes: their objects are real, and what they report is what they would have mounted.
//!
//! Each has an address of the loopback network, where `/status` answers from the route's ConfigMap and Secret as they
//! are at that moment, as a kubelet would have synced them. A frozen pod keeps answering with what it last had. A request
//! that arrives while the pods are silent is answered afterwards, with the state of before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::IntoFuture;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::{Json, Router, routing::get};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use presenceroute_core::relay_config::RelayConfig;
use presenceroute_core::relay_status::{KafkaReport, QueueReport, RelayStatus, RoutingReport, SecretsReport};
use presenceroute_manifest::build::{ADMIN_PORT, ROUTE_LABEL};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What no node has.
pub(crate) const NOWHERE: &str = "presenceroute.io/nowhere";

/// The second half of the next pod's address.
static NEXT_ADDRESS: AtomicU16 = AtomicU16::new(1);

/// Where pods that start from now on answer.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Instead of an address of the loopback network, to which the API server makes no connection.
    address: Option<Ipv4Addr>,
    /// Their port takes no connection, as one that a policy closes, until it is open.
    is_closed: bool,
}

/// Plays all relay pods of a namespace.
pub(crate) struct PlayedRelays {
    frozen: Arc<Mutex<HashSet<String>>>,
    silent: watch::Sender<bool>,
    kafka_error: watch::Sender<Option<String>>,
    queue_error: watch::Sender<Option<String>>,
    senders_know: watch::Sender<bool>,
    place: watch::Sender<Place>,
    task: JoinHandle<()>,
}

impl PlayedRelays {
    pub(crate) fn start(client: Client, namespace: &str) -> Self {
        let frozen = Arc::<Mutex<HashSet<String>>>::default();
        let (silent, is_silent) = watch::channel(false);
        let (kafka_error, kafka) = watch::channel(None);
        let (queue_error, queue) = watch::channel(None);
        let (senders_know, senders) = watch::channel(false);
        let (place, places) = watch::channel(Place::default());
        let relay = Relay {
            client,
            namespace: namespace.to_owned(),
            pod: String::new(),
            route: String::new(),
            frozen: Arc::clone(&frozen),
            silent: is_silent,
            kafka,
            queue,
            senders,
            place: places,
            kafka_error: Arc::default(),
            last: Arc::default(),
        };
        let task = tokio::spawn(play_all(relay));
        Self { frozen, silent, kafka_error, queue_error, senders_know, place, task }
    }

    /// Whether requests wait for their answer.
    pub(crate) fn fall_silent(&self, yes: bool) {
        self.silent.send_replace(yes);
    }

    /// Pods that start from now on report this of Kafka, and none of them is ready, until it is `None`.
    pub(crate) fn cannot_reach_kafka(&self, error: Option<&str>) {
        self.kafka_error.send_replace(error.map(str::to_owned));
    }

    /// Pods that start from now on report this of their queue, and none of them is ready, until it is `None`.
    pub(crate) fn cannot_read_queue(&self, error: Option<&str>) {
        self.queue_error.send_replace(error.map(str::to_owned));
    }

    /// Whether senders prove themselves with every active secret, the newest too.
    pub(crate) fn senders_use_every_secret(&self, yes: bool) {
        self.senders_know.send_replace(yes);
    }

    /// The port of pods that start from now on takes no connection until it is open. They are ready all the same: the
    /// kubelet reaches them.
    pub(crate) fn close_port(&self, yes: bool) {
        self.place.send_modify(|place| place.is_closed = yes);
    }

    /// The one pod that starts from now on answers at this address.
    pub(crate) fn answer_at(&self, address: Ipv4Addr) {
        self.place.send_modify(|place| place.address = Some(address));
    }

    /// The pod syncs nothing until it thaws.
    pub(crate) fn freeze(&self, pod: &str) {
        self.frozen.lock().unwrap().insert(pod.to_owned());
    }

    pub(crate) fn thaw(&self, pod: &str) {
        self.frozen.lock().unwrap().remove(pod);
    }
}

impl Drop for PlayedRelays {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each pod is played as this one, under its own name.
async fn play_all(template: Relay) {
    let pods: Api<Pod> = Api::namespaced(template.client.clone(), &template.namespace);
    let mut events = watcher(pods, watcher::Config::default().labels(ROUTE_LABEL))
        .default_backoff()
        .applied_objects()
        .boxed();
    let (mut known, mut servers) = (HashMap::new(), JoinSet::new());
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        if pod.metadata.deletion_timestamp.is_some()
            || known.contains_key(&pod.name_any())
            || !is_played(&pod)
        {
            continue;
        }
        let [high, low] = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = template.place.borrow().address.unwrap_or(Ipv4Addr::new(127, 77, high, low));
        known.insert(pod.name_any(), address);
        let relay = Relay {
            pod: pod.name_any(),
            route: pod.labels()[ROUTE_LABEL].clone(),
            kafka_error: Arc::default(),
            last: Arc::default(),
            ..template.clone()
        };
        servers.spawn(relay.serve(address));
    }
}

/// A pod that a node may take is the kubelet's.
fn is_played(pod: &Pod) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    selector.is_some_and(|selector| selector.contains_key(NOWHERE))
}

#[derive(Clone)]
struct Relay {
    client: Client,
    namespace: String,
    pod: String,
    route: String,
    frozen: Arc<Mutex<HashSet<String>>>,
    silent: watch::Receiver<bool>,
    kafka: watch::Receiver<Option<String>>,
    queue: watch::Receiver<Option<String>>,
    senders: watch::Receiver<bool>,
    place: watch::Receiver<Place>,
    kafka_error: Arc<Mutex<Option<String>>>,
    last: Arc<Mutex<RelayStatus>>,
}

impl Relay {
    async fn serve(mut self, address: Ipv4Addr) {
        if self.place.borrow().is_closed {
            self.show(address, "True").await;
            if self.place.wait_for(|place| !place.is_closed).await.is_err() {
                return;
            }
        }
        let port = u16::try_from(ADMIN_PORT).unwrap();
        let listener = TcpListener::bind(SocketAddr::from((address, port))).await.unwrap();
        let error = self.kafka.borrow().clone();
        *self.kafka_error.lock().unwrap() = error;
        let up = self.clone().come_up(address);
        let answer = async |State(mut relay): State<Relay>| {
            if *relay.silent.borrow() {
                let before = relay.last.lock().unwrap().clone();
                let _ = relay.silent.wait_for(|silent| !silent).await;
                return Json(before);
            }
            Json(relay.report().await)
        };
        let router = Router::new().route("/status", get(answer)).with_state(self);
        let (served, ()) = tokio::join!(axum::serve(listener, router).into_future(), up);
        served.unwrap();
    }

    /// As a relay that starts: it is ready once it has loaded what it serves, reaches Kafka, and can read its queue.
    async fn come_up(mut self, address: Ipv4Addr) {
        self.report().await;
        if self.kafka_error.lock().unwrap().is_some() {
            self.show(address, "False").await;
            if self.kafka.wait_for(Option::is_none).await.is_err() {
                return;
            }
            *self.kafka_error.lock().unwrap() = None;
        }
        if self.queue.borrow().is_some() {
            self.show(address, "False").await;
            if self.queue.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
        self.show(address, "True").await;
    }

    async fn show(&self, address: Ipv4Addr, ready: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        // It may be gone already.
        let _ = pods.patch_status(&self.pod, &PatchParams::default(), &Patch::Strategic(status)).await;
    }

    async fn report(&self) -> RelayStatus {
        if !self.frozen.lock().unwrap().contains(&self.pod)
            && let Some(newest) = self.newest().await
        {
            *self.last.lock().unwrap() = newest;
        }
        let kafka_error = self.kafka_error.lock().unwrap().clone();
        let kafka = KafkaReport { reachable: kafka_error.is_none(), error: kafka_error, throttled: None };
        let queue = self.queue.borrow().clone();
        let queue = queue.map(|error| QueueReport { error: Some(error), ..QueueReport::default() });
        RelayStatus { kafka, queue, ..self.last.lock().unwrap().clone() }
    }

    async fn newest(&self) -> Option<RelayStatus> {
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let table = config_maps.get(&format!("{}-routing", self.route)).await.ok()?;
        let table: Value = serde_saphyr::from_str(table.data?.get("routing.yaml")?).ok()?;
        let config = config_maps.get(&format!("{}-relay", self.route)).await.ok()?;
        let config: RelayConfig = serde_saphyr::from_str(config.data?.get("relay.yaml")?).ok()?;
        let secrets = if config.source.kind().exposes_endpoint {
            let signing = secrets.get(&format!("{}-signing", self.route)).await.ok()?.data?;
            let revision = String::from_utf8(signing.get("revision")?.0.clone()).ok()?;
            let names = signing.keys().filter(|name| *name != "revision");
            let used = if *self.senders.borrow() {
                names.map(|name| (name.clone(), 1)).collect()
            } else {
                BTreeMap::new()
            };
            SecretsReport {
                revision: Some(revision),
                active: signing.len() - 1,
                used,
                ..SecretsReport::default()
            }
        } else {
            SecretsReport::default()
        };
        Some(RelayStatus {
            version: "played".into(),
            routing: RoutingReport {
                revision: table["revision"].as_str()?.to_owned(),
                routes: table["routes"].as_array()?.len(),
                ..RoutingReport::default()
            },
            secrets,
            ..RelayStatus::default()
        })
    }
}
