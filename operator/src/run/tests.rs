//! SIGTERM at every moment of a start, on an API server that answers up to that moment.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::service_fn;

use super::*;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/presenceroute-operator";
const CRD_GROUP: &str = "/apis/presenceroute.io/v1alpha1";
const ROUTES: &str = "/apis/presenceroute.io/v1alpha1/presenceroutes";
const ROUTE: &str = include_str!("../../../deploy/examples/dead-letter.yaml");

/// What a stop must not take longer than.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunArguments,
}

/// An API server with one PresenceRoute and one Lease.
struct ApiServer {
    /// The request that is never answered: its verb, with `watch` and `list` for GET, and its path.
    hanging: (&'static str, &'static str),
    /// How long afterwards it is carried out all the same, if it writes.
    carried_out_after: Duration,
    arrived: Notify,
    lease: Mutex<Option<Value>>,
    version: AtomicU64,
}

impl ApiServer {
    fn hanging_on(verb: &'static str, path: &'static str) -> Arc<Self> {
        Arc::new(Self {
            hanging: (verb, path),
            carried_out_after: LIMIT / 4,
            arrived: Notify::new(),
            lease: Mutex::default(),
            version: AtomicU64::new(1),
        })
    }

    fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let answer = move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        };
        Client::new(service_fn(answer), "default")
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        let verb = match parts.method {
            Method::GET if query.contains("watch=true") => "watch",
            Method::GET if query.contains("limit=") => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            _ => "other",
        };
        if (verb, path) == self.hanging {
            self.arrived.notify_one();
            let late = Arc::clone(&self);
            tokio::spawn(async move {
                sleep(late.carried_out_after).await;
                late.write_lease(verb, body);
            });
            return pending().await;
        }
        let (code, answer) = match (verb, path) {
            ("watch", _) => pending().await,
            ("get", CRD_GROUP) => (200, groups("PresenceRoute")),
            ("get", LEASE) => match self.lease.lock().clone() {
                Some(lease) => (200, lease),
                None => failure(404),
            },
            ("create" | "update", LEASES | LEASE) => self.write_lease(verb, body),
            ("list", ROUTES) => (200, list(&[route()])),
            ("list", _) => (200, list(&[])),
            ("get", _) => failure(404),
            _ => failure(500),
        };
        let answer = Body::from(serde_json::to_vec(&answer).unwrap());
        Response::builder().status(code).body(answer).unwrap()
    }

    fn write_lease(&self, verb: &str, mut lease: Value) -> (u16, Value) {
        let mut stored = self.lease.lock();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match (verb, &*stored) {
            ("create", None) => {}
            ("update", Some(stored)) if version(stored) == version(&lease) => {}
            _ => return failure(409),
        }
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        *stored = Some(lease.clone());
        (200, lease)
    }

    fn holder(&self) -> Option<String> {
        Some(self.lease.lock().as_ref()?["spec"]["holderIdentity"].as_str()?.to_owned())
    }
}

fn route() -> Value {
    let mut route: Value = serde_saphyr::from_str(ROUTE).unwrap();
    let metadata = json!({"uid": "1", "resourceVersion": "1", "generation": 1});
    route["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    route
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
}

fn groups(kind: &str) -> Value {
    let resource =
        json!({"name": kind, "singularName": kind, "namespaced": true, "kind": kind, "verbs": ["list"]});
    json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]})
}

fn failure(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code,
    });
    (code, status)
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_ends_the_start_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.yaml");
    for (text, cause) in [
        (None, "cannot be read: No such file"),
        (Some("genesysHost: [api.mypurecloud.ie]"), "unknown field `genesysHost`"),
        (Some("genesysHosts: [https://api.mypurecloud.ie]"), "\"https://api.mypurecloud.ie\" is no host"),
    ] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let arguments = ["presenceroute-operator", "--policy-file", file.to_str().unwrap()];
        let error = run(Command::parse_from(arguments).run).await.unwrap_err().to_string();
        assert!(error.starts_with("the policy file ") && error.contains(cause), "{error}");
    }
}

/// Starts the operator, stops it when the request arrives that hangs, and checks how it ends.
async fn stops_in_time(server: Arc<ApiServer>) {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let moment = format!("{:?}", server.hanging);
    let (stop, stopped) = watch::channel(false);
    let arguments = Command::parse_from(["presenceroute-operator"]).run;
    let work = lead(
        arguments,
        (Policy::default(), RelayDefaults::default()),
        server.client(),
        Metrics::new(),
        Readiness::default(),
        flagged(stopped).boxed().shared(),
    );
    let work = tokio::spawn(work);
    let arrival = timeout(Duration::from_secs(30), server.arrived.notified()).await;
    assert!(arrival.is_ok(), "{moment} does not come");
    let began = Instant::now();
    stop.send_replace(true);
    let ended = timeout(2 * LIMIT, work).await;
    assert!(ended.is_ok_and(|ended| ended.unwrap().is_ok()), "{moment}: it does not end");
    assert!(began.elapsed() < LIMIT, "{moment}: {:?}", began.elapsed());
    // What was in flight is carried out by now.
    sleep(server.carried_out_after).await;
    let holder = server.holder();
    assert!(holder.is_none_or(|holder| holder == "another"), "{moment}: the Lease is kept");
}

#[test]
fn the_defaults_for_relay_pods_are_a_checked_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        relay_defaults(Some(file.path())).map_err(|error| error.to_string())
    };
    assert_eq!(relay_defaults(None).unwrap(), RelayDefaults::default());
    assert_ne!(read("priorityClassName: voice").unwrap(), RelayDefaults::default());
    let refusal = read("extraEnv: [{name: KAFKA_BROKERS}]").unwrap_err();
    for part in
        [file.path().to_str().unwrap(), "extraEnv[0].name", "correct relay.defaults in the chart's values"]
    {
        assert!(refusal.contains(part), "{refusal}");
    }
    let refusal = relay_defaults(Some(Path::new("/does/not/exist"))).unwrap_err().to_string();
    assert!(refusal.contains("/does/not/exist") && refusal.contains("--relay-defaults-file"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_the_crd() {
    stops_in_time(ApiServer::hanging_on("get", CRD_GROUP)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_election() {
    stops_in_time(ApiServer::hanging_on("get", LEASE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_another_leader() {
    let server = ApiServer::hanging_on("watch", LEASES);
    let lease = json!({
        "metadata": {"name": LEASE_NAME, "resourceVersion": "1"},
        "spec": {"holderIdentity": "another", "leaseDurationSeconds": 15},
    });
    *server.lease.lock() = Some(lease);
    stops_in_time(Arc::clone(&server)).await;
    assert_eq!(server.holder().as_deref(), Some("another"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_taken_during_the_stop_is_given_back() {
    let server = ApiServer::hanging_on("create", LEASES);
    stops_in_time(Arc::clone(&server)).await;
    assert!(server.lease.lock().is_some(), "the request was carried out");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_discovery_of_the_gateway_api() {
    stops_in_time(ApiServer::hanging_on("get", "/apis/gateway.networking.k8s.io/v1")).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_every_listing() {
    let others = [
        "/api/v1/pods",
        "/api/v1/secrets",
        "/api/v1/serviceaccounts",
        "/api/v1/configmaps",
        "/api/v1/services",
        "/apis/policy/v1/poddisruptionbudgets",
        "/apis/apps/v1/deployments",
        "/apis/autoscaling/v2/horizontalpodautoscalers",
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/apis/networking.k8s.io/v1/ingresses",
    ];
    for path in [ROUTES].into_iter().chain(others) {
        stops_in_time(ApiServer::hanging_on("list", path)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_first_moment_of_serving_ends_it() {
    for path in [ROUTES, "/api/v1/secrets", "/apis/apps/v1/deployments"] {
        stops_in_time(ApiServer::hanging_on("watch", path)).await;
    }
}
