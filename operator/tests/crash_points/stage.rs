//! Where it happens: a namespace in a real cluster, two simulated organisations on this machine, and the operator as a
//! process between them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use genesys_simulator::{Config, Delivery, DeliverySummary, Registration, Running, Simulator, fingerprint};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, CustomResourceExt, ResourceExt};
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::SigningPhase;
use presenceroute_manifest::kept_clients::CLIENTS_FINALIZER;
use presenceroute_operator::leader::LEASE_NAME;
use presenceroute_runtime::tls_provider::install_crypto_provider;
use serde_json::{Value, json};

use crate::Outcome;
use crate::proxy;
use crate::steps::Steps;

/// Between two looks at something that is waited for.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// How long a route may take whose pods have to start.
pub(crate) const RECOVERY_OF_PODS: Duration = Duration::from_secs(120);

const LABEL: (&str, &str) = ("presenceroute.io/made-by", "crash-points");
const MANAGER: &str = "crash-points";
const TOPIC: &str = "presenceroute-crash-points";
const OAUTH_SECRET: &str = "oauth";
const EVENT_TYPES: [&str; 2] = ["presence:state:changed", "presence:status:changed"];
/// How long an old signing secret is accepted, in seconds: longer than a delivery takes.
const GRACE_SECONDS: &str = "2";
/// How long a create request may take effect, in seconds: longer than it takes to start an operator and delay the
/// request.
const CREATE_TIMEOUT_SECONDS: &str = "10";

/// A route as a person wants it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) with_second_event_type: bool,
    pub(crate) organisation: usize,
    pub(crate) is_deleted: bool,
    url: String,
}

impl Asked {
    fn event_types(&self) -> &[&'static str] {
        if self.with_second_event_type { &EVENT_TYPES } else { &EVENT_TYPES[..1] }
    }
}

pub(crate) struct Stage {
    client: Client,
    namespace: String,
    made_definition: bool,
    brokers_from_pods: String,
    organisations: Vec<Organisation>,
    pub(crate) steps: Arc<Steps>,
    directory: tempfile::TempDir,
    log: PathBuf,
    made: AtomicUsize,
}

struct Organisation {
    simulator: Simulator,
    running: Running,
    /// Where the operator finds it.
    url: String,
}

impl Stage {
    pub(crate) async fn prepare() -> Outcome<Self> {
        install_crypto_provider();
        let client =
            Client::try_default().await.map_err(|error| format!("KUBECONFIG names no cluster: {error}"))?;
        let brokers_from_pods = std::env::var("KAFKA_BROKERS_FROM_PODS")
            .or_else(|_| std::env::var("KAFKA_BROKERS"))
            .map_err(|_| "KAFKA_BROKERS names no broker: tests/harness/kafka up, then eval its env")?;
        sweep(&client).await?;
        let made_definition = define(&client).await?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let namespace = format!("presenceroute-crash-points-{since}");
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {LABEL.0: LABEL.1}}});
        apply::<Namespace>(&Api::all(client.clone()), &namespace, &object).await?;
        topic()?;

        let steps = Arc::new(Steps::default());
        let mut organisations = Vec::new();
        for name in ["A", "B"] {
            // Pages of one: a second registration would be on another page.
            let listen = "127.0.0.1:0".parse()?;
            let config = Config { listen, page_size_cap: 1, rate_limit_per_minute: 0, ..Config::default() };
            let simulator = Simulator::new(config)?;
            let running = simulator.start().await?;
            let proxy = proxy::before_genesys(name, running.address(), Arc::clone(&steps)).await?;
            organisations.push(Organisation { simulator, running, url: format!("http://{proxy}") });
        }
        let directory = tempfile::tempdir()?;
        let api_server = proxy::before_api_server(client.clone(), Arc::clone(&steps)).await?;
        fs::write(directory.path().join("kubeconfig"), kubeconfig(&format!("http://{api_server}")))?;
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash-points-operator.log");
        File::create(&log)?;
        let made = AtomicUsize::new(0);
        let stage = Self {
            client,
            namespace,
            made_definition,
            brokers_from_pods,
            organisations,
            steps,
            directory,
            log,
            made,
        };
        stage.rotate_oauth_client("the-first-client").await?;
        stage.start_operator().await?;
        Ok(stage)
    }

    /// Starts the program, as the next one after any that there was.
    pub(crate) async fn start_operator(&self) -> Outcome {
        // Its own Lease would have to run out first, which takes its time and proves nothing here.
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        match leases.delete(LEASE_NAME, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let image = format!("presenceroute/relay:{}", env!("CARGO_PKG_VERSION"));
        let operator = Command::new(env!("CARGO_BIN_EXE_presenceroute-operator"))
            .args(["run", "--relay-image", &image, "--relay-image-pull-policy", "IfNotPresent"])
            .args(["--watch-namespaces", &self.namespace, "--pod-namespace", &self.namespace])
            .args(["--secret-grace-seconds", GRACE_SECONDS, "--listen", "127.0.0.1:0"])
            .args(["--create-timeout-seconds", CREATE_TIMEOUT_SECONDS])
            .args(["--policy-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy.yaml")])
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.steps.watch(operator);
        Ok(())
    }

    /// A name that no route has had yet.
    pub(crate) fn new_route(&self, flow: &str) -> Asked {
        let name = format!("{flow}-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.route(&name)
    }

    fn route(&self, name: &str) -> Asked {
        Asked {
            url: format!("http://{name}-relay.{}:8080/eventbridge/presence", self.namespace),
            name: name.to_owned(),
            secret: format!("the-secret-of-{name}"),
            with_second_event_type: false,
            organisation: 0,
            is_deleted: false,
        }
    }

    /// A route that the simulators reach, although they are outside of the cluster.
    pub(crate) async fn reachable_route(&self, name: &str) -> Outcome<Asked> {
        let mut asked = self.route(name);
        self.apply_secret(&asked).await?;
        self.apply_route(&asked).await?;
        self.becomes(&asked, RECOVERY_OF_PODS).await?;
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = services.get(&format!("{name}-relay")).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).ok_or("the Service has no address")?;
        asked.url = format!("http://{address}:8080/eventbridge/presence");
        self.apply_route(&asked).await?;
        self.becomes(&asked, RECOVERY_OF_PODS).await?;
        Ok(asked)
    }

    pub(crate) async fn apply_secret(&self, asked: &Asked) -> Outcome {
        self.secret(&format!("{}-webhook", asked.name), json!({"secret": asked.secret})).await
    }

    pub(crate) async fn rotate_oauth_client(&self, id: &str) -> Outcome {
        self.secret(OAUTH_SECRET, json!({"clientId": id, "clientSecret": "not-for-production"})).await
    }

    async fn secret(&self, name: &str, content: Value) -> Outcome {
        let object =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content});
        apply::<Secret>(&self.api(), name, &object).await
    }

    /// Has the operator look at the route, although nothing of it is new.
    pub(crate) async fn wake(&self, asked: &Asked) -> Outcome {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"presenceroute.io/woken": now}}}));
        let name = format!("{}-webhook", asked.name);
        self.api::<Secret>().patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub(crate) async fn apply_route(&self, asked: &Asked) -> Outcome {
        let routes: Vec<_> =
            asked.event_types().iter().map(|kind| json!({"eventType": kind, "topic": TOPIC})).collect();
        let object = json!({
            "apiVersion": "presenceroute.io/v1alpha1",
            "kind": "PresenceRoute",
            "metadata": {"name": asked.name},
            "spec": {
                "genesys": {
                    "apiUrl": self.organisations[asked.organisation].url,
                    "credentialsSecretRef": {"name": OAUTH_SECRET},
                },
                "source": {"webhook": {
                    "signingSecretRef": {"name": format!("{}-webhook", asked.name)},
                    // An event that is refused once is lost.
                    "retryPolicy": {"maxRetries": 0},
                }},
                "endpoint": {"url": asked.url},
                "routes": routes,
                "kafka": {"bootstrapServers": self.brokers_from_pods.split(',').collect::<Vec<_>>()},
                "relay": {"replicas": 1},
            },
        });
        apply::<PresenceRoute>(&self.api(), &asked.name, &object).await
    }

    pub(crate) async fn delete_route(&self, asked: &Asked) -> Outcome {
        self.api::<PresenceRoute>().delete(&asked.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until the cluster and both organisations are as asked.
    pub(crate) async fn becomes(&self, asked: &Asked, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        loop {
            match self.is_as(asked).await {
                Ok(()) => return Ok(()),
                Err(failure) if Instant::now() > deadline => {
                    return Err(format!("{} s later: {failure}", patience.as_secs()).into());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Ensures that something is not as asked any more.
    pub(crate) async fn becomes_otherwise(&self, asked: &Asked) -> Outcome {
        let is_as_asked = self.is_as(asked).await.is_ok();
        ensure(!is_as_asked, || "what came late changed nothing".to_owned())
    }

    /// Whether the cluster and both organisations are as asked: one registration, at the right place, with the right
    /// content and the right secret, known by its id; the route Ready; or nothing of all this.
    pub(crate) async fn is_as(&self, asked: &Asked) -> Outcome {
        let object = self.api::<PresenceRoute>().get_opt(&asked.name).await?;
        let Some(route) = object.filter(|_| !asked.is_deleted) else {
            return self.nothing_is_left_of(asked).await;
        };
        let status = route.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let is_ready = ready.is_some_and(|ready| {
            (ready.status.as_str(), ready.reason.as_str()) == ("True", "Ready")
                && ready.observed_generation == route.metadata.generation
        });
        ensure(is_ready, || format!("it is not Ready: {:?}", status.conditions))?;
        let phase = status.signing.map(|signing| signing.phase);
        ensure(phase == Some(SigningPhase::Stable), || format!("its rotation is at {phase:?}"))?;
        let source = status.source.unwrap_or_default();
        ensure(source.former_registrations.is_empty(), || {
            format!("left: {:?}", source.former_registrations)
        })?;
        ensure(self.registrations(asked, 1 - asked.organisation).is_empty(), || {
            "a registration is left in the other organisation".to_owned()
        })?;
        let there = self.registration(asked)?;
        let known = source.registration.and_then(|registration| registration.id);
        ensure(known == Some(there.id.to_string()), || {
            format!("the status knows {known:?}, there is {there:?}")
        })?;
        let is_right = there.enabled
            && there.url == asked.url
            && there.event_types == asked.event_types()
            && there.retry_policy.max_retries == 0
            && there.secret_fingerprint() == fingerprint(&asked.secret.as_str().into());
        ensure(is_right, || format!("it is not as asked: {there:?}"))
    }

    async fn nothing_is_left_of(&self, asked: &Asked) -> Outcome {
        ensure(asked.is_deleted, || "the route does not exist".to_owned())?;
        let object = self.api::<PresenceRoute>().get_opt(&asked.name).await?;
        ensure(object.is_none(), || format!("it is still there: {object:?}"))?;
        let left: Vec<_> = (0..2).flat_map(|organisation| self.registrations(asked, organisation)).collect();
        ensure(left.is_empty(), || format!("left at Genesys: {left:?}"))
    }

    fn registrations(&self, asked: &Asked, organisation: usize) -> Vec<Arc<Registration>> {
        let name = format!("{}/{}", self.namespace, asked.name);
        let all = self.organisations[organisation].simulator.registrations();
        all.into_iter().filter(|registration| registration.name == name).collect()
    }

    /// The one registration of the route.
    pub(crate) fn registration(&self, asked: &Asked) -> Outcome<Arc<Registration>> {
        match self.registrations(asked, asked.organisation).as_slice() {
            [one] => Ok(Arc::clone(one)),
            other => Err(format!("{} registrations: {other:?}", other.len()).into()),
        }
    }

    /// Waits until the operator has nothing to do.
    pub(crate) async fn quiet(&self) -> Outcome {
        let deadline = Instant::now() + RECOVERY_OF_PODS;
        while !self.steps.are_quiet() {
            ensure(Instant::now() < deadline, || "the operator never rests".to_owned())?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub(crate) fn expire_tokens(&self) {
        for organisation in &self.organisations {
            organisation.simulator.expire_tokens();
        }
    }

    /// Waits until an OAuth client has called for the route's sake.
    pub(crate) async fn called_by(&self, asked: &Asked, client: &str, patience: Duration) -> Outcome {
        let simulator = &self.organisations[asked.organisation].simulator;
        let deadline = Instant::now() + patience;
        let called = || {
            simulator.requests(0).iter().any(|request| {
                request.client.as_deref() == Some(client) && request.path.contains("eventbridges")
            })
        };
        while !called() {
            ensure(Instant::now() < deadline, || format!("the OAuth client {client:?} was not used"))?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Changes the secret in the organisation itself, as a person would.
    pub(crate) async fn change_secret_at_genesys(&self, asked: &Asked, secret: &str) -> Outcome {
        let api = format!("http://{}/api/v2", self.organisations[asked.organisation].running.address());
        let http = reqwest::Client::builder().no_proxy().build()?;
        let token: Value = http
            .post(format!("{api}/oauth/token"))
            .json(&json!({"grant_type": "client_credentials", "client_id": "another", "client_secret": "client"}))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let there = self.registration(asked)?;
        let mut changed = serde_json::to_value(&*there)?;
        changed["secret"] = json!(secret);
        http.put(format!("{api}/analytics/events/eventbridges/{}", there.id))
            .bearer_auth(token["access_token"].as_str().unwrap_or_default())
            .json(&changed)
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    /// Delivers events to the route's registration.
    pub(crate) async fn deliver(&self, asked: &Asked, mut plan: Value) -> Outcome<Load> {
        plan["registration"] = json!(format!("{}/{}", self.namespace, asked.name));
        let plan = serde_json::from_value(plan)?;
        Ok(Load(self.organisations[asked.organisation].simulator.deliver(plan)?))
    }

    /// Whether the route has an event with this reason.
    pub(crate) async fn has_event(&self, name: &str, reason: &str) -> Outcome {
        let events = self.api::<Event>().list(&ListParams::default()).await?;
        let is_reported = events.items.iter().any(|event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref()) == Some(name)
        });
        ensure(is_reported, || format!("there is no event {reason}"))
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The end of the operator's log.
    pub(crate) fn show(&self) {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        println!("--- the end of {}", self.log.display());
        for line in &lines[lines.len().saturating_sub(40)..] {
            println!("{line}");
        }
    }

    /// Takes away what was made.
    pub(crate) async fn clear(self) -> Outcome {
        self.steps.kill();
        sweep(&self.client).await?;
        if self.made_definition {
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            definitions.delete(PresenceRoute::crd_name(), &DeleteParams::default()).await?;
        }
        for organisation in self.organisations {
            organisation.running.stop().await;
        }
        Ok(())
    }
}

/// Events on their way to a route.
pub(crate) struct Load(Delivery);

impl Load {
    pub(crate) async fn finished(self) -> Summary {
        Summary::of(&self.0.finished().await)
    }

    /// Makes no more, and waits for those on their way.
    pub(crate) async fn end(self) -> Summary {
        self.0.stop();
        self.finished().await
    }
}

/// What became of them.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) statuses: BTreeMap<String, u64>,
}

impl Summary {
    fn of(summary: &DeliverySummary) -> Self {
        let value = serde_json::to_value(summary).unwrap_or_default();
        let statuses = value["statuses"].as_object().into_iter().flatten();
        Self {
            events: value["events"].as_u64().unwrap_or_default(),
            statuses: statuses
                .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default()))
                .collect(),
        }
    }

    pub(crate) fn ensure_all_accepted(&self) -> Outcome {
        let accepted = self.statuses.get("200").copied().unwrap_or_default();
        ensure(self.events > 0 && accepted == self.events && self.statuses.len() == 1, || {
            format!("not every event was accepted at the first try: {self:?}")
        })
    }
}

fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> Outcome
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
    Ok(())
}

fn kubeconfig(server: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "users": [{"name": "nobody", "user": {}}],
    })
    .to_string()
}

/// Creates the CRD of PresenceRoutes. Returns whether there was none before.
async fn define(client: &Client) -> Outcome<bool> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = PresenceRoute::crd_name();
    let before = definitions.get_opt(name).await?;
    if let Some(release) =
        before.as_ref().and_then(|found| found.annotations().get("meta.helm.sh/release-name"))
    {
        return Err(format!(
            "PresenceRoute is installed in this cluster already, as release {release}; name another cluster by KUBECONFIG"
        )
        .into());
    }
    apply(&definitions, name, &serde_json::to_value(PresenceRoute::crd())?).await?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let routes: Api<PresenceRoute> = Api::all(client.clone());
    while let Err(error) = routes.list(&ListParams::default().limit(1)).await {
        ensure(Instant::now() < deadline, || format!("the definition does not take effect: {error}"))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(before.is_none())
}

/// Takes away the namespaces that this or an earlier run made.
async fn sweep(client: &Client) -> Outcome {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    for namespace in namespaces.list(&ours).await? {
        let name = namespace.name_any();
        let routes: Api<PresenceRoute> = Api::namespaced(client.clone(), &name);
        // The operator that would let them go is dead.
        for route in routes.list(&ListParams::default()).await.into_iter().flatten() {
            let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            routes.patch_metadata(&route.name_any(), &PatchParams::default(), &patch).await?;
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &name);
        for secret in secrets.list(&ListParams::default()).await? {
            if secret.finalizers().iter().any(|finalizer| finalizer == CLIENTS_FINALIZER) {
                let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                secrets.patch_metadata(&secret.name_any(), &PatchParams::default(), &patch).await?;
            }
        }
        if namespace.metadata.deletion_timestamp.is_none() {
            namespaces.delete(&name, &DeleteParams::default()).await?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while !namespaces.list(&ours).await?.items.is_empty() {
        ensure(Instant::now() < deadline, || "the namespaces of an earlier run do not go away".to_owned())?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Creates the topic at the broker of KAFKA_BROKERS.
fn topic() -> Outcome {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/kafka");
    let output = Command::new(harness).args(["topic", "create", TOPIC, "1"]).output()?;
    ensure(output.status.success(), || {
        format!("topic {TOPIC} cannot be made: {}", String::from_utf8_lossy(&output.stderr).trim())
    })
}
