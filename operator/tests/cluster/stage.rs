//! Where one test happens: a namespace that takes only restricted pods, an organisation of its own in the simulator,
//! relays, and the definition of PresenceRoutes.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

use genesys_simulator::{Running, Simulator};
use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, Config, CustomResourceExt, ResourceExt};
use presenceroute_crds::PresenceRoute;
use presenceroute_runtime::tls_provider::install_crypto_provider;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

use crate::operator::Operator;
use crate::relays::{NOWHERE, PlayedRelays};

/// The label of all that these tests make and that is not in a namespace.
pub(crate) const MADE_BY: (&str, &str) = ("presenceroute.io/made-by", "cluster-test");
/// The name under which these tests write.
pub(crate) const TESTER: &str = "cluster-test";
pub(crate) const DEFINITION: &str = "presenceroutes.presenceroute.io";

/// Held for reading by all tests, and for writing by those that disturb the others: they change the definition, or
/// stop the API server.
static DISTURBANCE: RwLock<()> = RwLock::const_new(());

/// How many tests are under way. The first makes the definition, and the last takes it away.
static UNDER_WAY: tokio::sync::Mutex<u32> = tokio::sync::Mutex::const_new(0);

/// The right to be alone, or not to be disturbed.
pub(crate) enum Company {
    Others(#[allow(dead_code, reason = "it is held")] RwLockReadGuard<'static, ()>),
    Nobody(#[allow(dead_code, reason = "it is held")] RwLockWriteGuard<'static, ()>),
}

/// Where one test happens.
pub(crate) struct Stage {
    pub(crate) namespace: String,
    /// The test's own client.
    pub(crate) client: Client,
    pub(crate) simulator: Simulator,
    pub(crate) relays: PlayedRelays,
    genesys: Option<Running>,
    place: Place,
    _company: Company,
}

impl Stage {
    /// Beside others.
    pub(crate) async fn new() -> Self {
        Self::in_company(Company::Others(DISTURBANCE.read().await)).await
    }

    /// Without any other test.
    pub(crate) async fn alone() -> Self {
        Self::in_company(Company::Nobody(DISTURBANCE.write().await)).await
    }

    async fn in_company(company: Company) -> Self {
        install_crypto_provider();
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        let place = Place::take(&client).await;
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = genesys_simulator::Config { listen, rate_limit_per_minute: 0, ..Default::default() };
        let simulator = Simulator::new(config).unwrap();
        let genesys = simulator.start().await.unwrap();
        let namespace = place.namespace.clone();
        let relays = PlayedRelays::start(client.clone(), &namespace);
        let stage =
            Self { namespace, client, simulator, relays, genesys: Some(genesys), place, _company: company };
        stage.apply(secret("oauth", json!({"clientId": "client", "clientSecret": "hush"}))).await;
        stage.apply(secret("webhook", json!({"secret": "sign-me-by-hmac-sha256"}))).await;
        stage
    }

    /// The operator for this namespace, with all rights.
    pub(crate) async fn operator(&self) -> Operator {
        Operator::start(Config::infer().await.unwrap(), Some(&self.namespace))
    }

    /// A legal route with one relay pod that no node takes.
    pub(crate) fn route(&self, name: &str) -> Value {
        json!({
            "apiVersion": "presenceroute.io/v1alpha1",
            "kind": "PresenceRoute",
            "metadata": {"name": name},
            "spec": {
                "genesys": {"apiUrl": self.genesys_url(), "credentialsSecretRef": {"name": "oauth"}},
                "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
                "endpoint": {
                    "url": format!("https://{name}.{}.example.com/eventbridge/presence", self.namespace),
                },
                "routes": [{"eventType": "presence:state:changed", "topic": "state"}],
                "kafka": {"bootstrapServers": ["kafka:9092"]},
                "relay": {"replicas": 1, "nodeSelector": {NOWHERE: "true"}},
            },
        })
    }

    pub(crate) fn genesys_url(&self) -> String {
        let genesys = self.genesys.as_ref().expect("Genesys is up");
        format!("http://{}", genesys.address())
    }

    /// Genesys Cloud is gone from the network.
    pub(crate) async fn stop_genesys(&mut self) {
        if let Some(genesys) = self.genesys.take() {
            genesys.stop().await;
        }
    }

    /// As `kubectl apply` does.
    pub(crate) async fn apply(&self, mut object: Value) -> DynamicObject {
        object["metadata"]["namespace"] = json!(self.namespace);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let kind = &object.types.as_ref().unwrap().kind;
        let parameters = PatchParams::apply(TESTER).force();
        let api = self.objects(kind);
        api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await.unwrap()
    }

    /// As `kubectl patch --type merge` does.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) -> DynamicObject {
        let parameters = PatchParams { field_manager: Some(TESTER.into()), ..PatchParams::default() };
        self.objects(kind).patch(name, &parameters, &Patch::Merge(patch)).await.unwrap()
    }

    /// Writes the status of an object as its controller does.
    pub(crate) async fn report(&self, kind: &str, name: &str, status: Value) {
        let parameters = PatchParams { field_manager: Some("a-controller".into()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"status": status}));
        self.objects(kind).patch_status(name, &parameters, &patch).await.unwrap();
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<DynamicObject> {
        self.objects(kind).get_opt(name).await.unwrap()
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        self.objects(kind).delete(name, &Default::default()).await.unwrap();
    }

    pub(crate) async fn list(&self, kind: &str) -> Vec<DynamicObject> {
        self.objects(kind).list(&ListParams::default()).await.unwrap().items
    }

    /// The objects of one kind in this namespace.
    pub(crate) fn objects(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    pub(crate) fn routes(&self) -> Api<PresenceRoute> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until a condition of the newest spec reads so, and gives its message.
    pub(crate) async fn condition(&self, route: &str, type_: &str, status: &str, reason: &str) -> String {
        let what = format!("{type_} of {route} is {status} {reason}");
        until(&what, Duration::from_secs(30), async || {
            let route = self.routes().get(route).await.map_err(|error| error.to_string())?;
            let generation = route.metadata.generation;
            let conditions = route.status.unwrap_or_default().conditions;
            let found = conditions
                .iter()
                .find(|condition| condition.type_ == type_ && condition.observed_generation == generation);
            match found {
                Some(found) if found.status == status && found.reason == reason => Ok(found.message.clone()),
                _ => Err(format!("{conditions:#?}")),
            }
        })
        .await
    }

    /// The revision of the routing table as it was built last.
    pub(crate) async fn revision(&self, route: &str) -> String {
        let generation = self.get("PresenceRoute", route).await.unwrap().metadata.generation;
        until("the newest spec was seen", Duration::from_secs(20), async || {
            let status = self.routes().get(route).await.unwrap().status.unwrap_or_default();
            let routing = status.routing.as_ref().filter(|_| status.observed_generation == generation);
            routing.map(|routing| routing.revision.clone()).ok_or(status.clone())
        })
        .await
    }

    pub(crate) async fn is_ready(&self, route: &str) {
        self.condition(route, "Ready", "True", "Ready").await;
    }

    /// The events of one route, oldest first.
    pub(crate) async fn events(&self, route: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mine = ListParams::default()
            .fields(&format!("involvedObject.kind=PresenceRoute,involvedObject.name={route}"));
        let mut events = api.list(&mine).await.unwrap().items;
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        events
    }

    /// Deletes the routes while the operator still runs, and ends it.
    pub(crate) async fn end(self, operator: Operator) {
        for route in self.list("PresenceRoute").await {
            self.delete("PresenceRoute", &route.name_any()).await;
        }
        self.is_empty().await;
        operator.stop().await;
        self.leave().await;
    }

    /// Waits until no route is left.
    pub(crate) async fn is_empty(&self) {
        until("the routes are gone", Duration::from_secs(30), async || {
            let left = self.list("PresenceRoute").await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        })
        .await;
    }

    /// Takes away what the stage has made.
    pub(crate) async fn leave(mut self) {
        self.stop_genesys().await;
        self.place.leave(&self.client).await;
    }
}

/// A namespace, and a share in the definition. Where a test fails, it is taken away all the same.
struct Place {
    namespace: String,
    is_left: bool,
}

impl Place {
    async fn take(client: &Client) -> Self {
        let mut under_way = UNDER_WAY.lock().await;
        if *under_way == 0 {
            sweep();
            define(client).await;
        }
        *under_way += 1;
        let namespace = format!("presenceroute-cluster-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let object: Namespace = serde_json::from_value(json!({
            "metadata": {"name": namespace, "labels": {
                MADE_BY.0: MADE_BY.1,
                "pod-security.kubernetes.io/enforce": "restricted",
            }},
        }))
        .unwrap();
        Api::<Namespace>::all(client.clone()).create(&Default::default(), &object).await.unwrap();
        Self { namespace, is_left: false }
    }

    async fn leave(&mut self, client: &Client) {
        self.is_left = true;
        match Api::<Namespace>::all(client.clone()).delete(&self.namespace, &Default::default()).await {
            Ok(_) => {}
            // The test itself may have deleted it.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => panic!("{error}"),
        }
        let mut under_way = UNDER_WAY.lock().await;
        *under_way -= 1;
        if *under_way == 0 {
            sweep();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        // The lock is free but for the moments in which another test begins or ends.
        if let Ok(mut under_way) = UNDER_WAY.try_lock() {
            *under_way -= 1;
            if *under_way == 0 {
                sweep();
            }
        }
    }
}

/// Serialises what two threads must not do at once: looking for what is left, and taking it away.
static SWEEPING: Mutex<()> = Mutex::new(());

/// Takes away whatever carries our label: the definition, and with it the routes of tests that failed.
fn sweep() {
    let _alone = SWEEPING.lock();
    let selector = format!("{}={}", MADE_BY.0, MADE_BY.1);
    let definition = kubectl(&["get", "crd", "-l", &selector, "-o", "name"]);
    if definition.contains(DEFINITION) {
        let left = kubectl(&[
            "get",
            "presenceroutes",
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}",
        ]);
        for (namespace, name) in left.lines().filter_map(|line| line.split_once(' ')) {
            let patch = r#"{"metadata": {"finalizers": null}}"#;
            kubectl(&["-n", namespace, "patch", "presenceroute", name, "--type=merge", "-p", patch]);
        }
        let secrets = kubectl(&[
            "get",
            "secrets",
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}",
        ]);
        let secrets = secrets.lines().filter_map(|line| line.split_once(' '));
        for (namespace, name) in secrets.filter(|(_, name)| name.ends_with("-deregistration")) {
            let patch = r#"{"metadata": {"finalizers": null}}"#;
            kubectl(&["-n", namespace, "patch", "secret", name, "--type=merge", "-p", patch]);
        }
    }
    let kinds = "crd,clusterrole,clusterrolebinding";
    kubectl(&["delete", kinds, "-l", &selector, "--ignore-not-found", "--timeout=30s"]);
    kubectl(&["delete", "namespace", "-l", &selector, "--ignore-not-found", "--wait=false"]);
}

/// Creates the CRD where it is missing. A CRD that is being deleted is waited for.
async fn define(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let live =
        until("no definition is on its way out", Duration::from_secs(60), async || {
            match definitions.get_opt(DEFINITION).await.map_err(|error| error.to_string())? {
                Some(leaving) if leaving.metadata.deletion_timestamp.is_some() => {
                    Err(format!("{:?}", leaving.status))
                }
                live => Ok(live),
            }
        })
        .await;
    if live.is_none() {
        definitions.create(&Default::default(), &definition()).await.unwrap();
    }
    is_established(client, DEFINITION).await;
}

/// The definition as it is shipped, marked as ours.
pub(crate) fn definition() -> CustomResourceDefinition {
    ours(PresenceRoute::crd())
}

/// The definition, marked as ours.
pub(crate) fn ours(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    definition.labels_mut().insert(MADE_BY.0.into(), MADE_BY.1.into());
    definition
}

pub(crate) async fn is_established(client: &Client, name: &str) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    until("the definition is established", Duration::from_secs(20), async || {
        let definition = definitions.get(name).await.map_err(|error| error.to_string())?;
        let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
        let is_established = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
        if is_established { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
}

/// A Secret.
pub(crate) fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// Where the API server has the objects of a kind.
fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "PresenceRoute" => ("presenceroute.io", "v1alpha1"),
        "Deployment" => ("apps", "v1"),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2"),
        "Ingress" | "NetworkPolicy" => ("networking.k8s.io", "v1"),
        "PodDisruptionBudget" => ("policy", "v1"),
        "HTTPRoute" => ("gateway.networking.k8s.io", "v1"),
        "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        "Lease" => ("coordination.k8s.io", "v1"),
        _ => ("", "v1"),
    };
    ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(group, version, kind))
}

/// Calls `ask` every 20 ms until it succeeds. The panic at the end of the time has the last failure.
pub(crate) async fn until<T, E: Debug>(
    what: &str,
    patience: Duration,
    ask: impl AsyncFn() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() >= deadline => {
                panic!("waited {patience:?} until {what}; at the end: {reason:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What `kubectl` prints, on either output.
pub(crate) fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(arguments).output().expect("kubectl is on PATH");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}
