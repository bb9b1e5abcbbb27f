//! The operator as a process: two replicas, SIGTERM, a CRD that is installed late, a restart of the API server.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};
use presenceroute_operator::leader::LEASE_NAME;
use serde_json::json;

use crate::api_server::HarnessApiServer;
use crate::stage::{DEFINITION, Stage, definition, kubectl, until};

/// One replica of the operator.
pub(crate) struct Replica {
    child: Child,
    pod: String,
    address: SocketAddr,
}

impl Replica {
    /// A replica for the stage's namespace.
    pub(crate) fn start(stage: &Stage, pod: &str) -> Self {
        Self::start_for(stage, &stage.namespace, pod)
    }

    /// A replica with its Lease in the stage's namespace and no routes there: two operators that both lead would revert
    /// each other's writes.
    fn start_without_routes(stage: &Stage, pod: &str) -> Self {
        Self::start_for(stage, &format!("{}-empty", stage.namespace), pod)
    }

    fn start_for(stage: &Stage, routes_in: &str, pod: &str) -> Self {
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = std::env::temp_dir().join(format!("{}-{pod}.log", stage.namespace));
        let child = Command::new(env!("CARGO_BIN_EXE_presenceroute-operator"))
            .args(["run", "--listen", &address.to_string(), "--watch-namespaces", routes_in])
            .args(["--pod-name", pod, "--pod-namespace", &stage.namespace])
            .args(["--policy-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy.yaml")])
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        println!("{pod} is pid {}, its log is {}", child.id(), log.display());
        Self { child, pod: pod.into(), address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it answers on its health port.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), reqwest::Error> {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let Ok((_, text)) = self.get("/metrics").await else { return 0.0 };
        let name = format!("presenceroute_operator_{name}");
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name.as_str())).then(|| value.parse::<f64>().ok()).flatten()
        });
        values.sum()
    }

    pub(crate) async fn leads(&self, patience: Duration) -> Duration {
        let began = Instant::now();
        until(&format!("{} leads", self.pod), patience, async || {
            if self.metric("leader").await == 1.0 { Ok(()) } else { Err("not yet") }
        })
        .await;
        began.elapsed()
    }

    async fn is_ready(&self) {
        until(&format!("{} is ready", self.pod), Duration::from_secs(10), async || {
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits for a second in which it finishes no reconcile.
    async fn is_quiet(&self) {
        until(&format!("{} is quiet", self.pod), Duration::from_secs(60), async || {
            let before = self.metric("reconciles_total").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.metric("reconciles_total").await;
            if now == before { Ok(()) } else { Err("it still reconciles") }
        })
        .await;
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As Kubernetes asks; gives whether it ended well.
    pub(crate) async fn terminate(mut self) -> bool {
        self.signal("-TERM");
        self.ended(Duration::from_secs(20)).await
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended, and gives whether it ended well.
    async fn ended(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "{} still runs after {patience:?}", self.pod);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_put_back(stage: &Stage, name: &str, patience: Duration) -> Duration {
    let before = stage.get("ConfigMap", name).await.unwrap().uid();
    stage.delete("ConfigMap", name).await;
    let began = Instant::now();
    until(&format!("{name} is there again"), patience, async || {
        let now = stage.get("ConfigMap", name).await.and_then(|object| object.uid());
        if now.is_some() && now != before { Ok(()) } else { Err("not yet") }
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn a_standby_takes_over_and_at_once_after_a_clean_stop() {
    let stage = Stage::new().await;
    stage.apply(stage.route("handed-over")).await;
    let mut first = Replica::start(&stage, "first");
    first.leads(Duration::from_secs(20)).await;
    let second = Replica::start(&stage, "second");
    stage.is_ready("handed-over").await;
    second.is_ready().await;
    assert_eq!(second.metric("reconciles_total").await, 0.0, "a standby does nothing");
    assert_eq!(second.metric("leader").await, 0.0);

    first.kill();
    let took = second.leads(Duration::from_secs(20)).await;
    println!("taken over from one that was killed after {took:?}");
    is_put_back(&stage, "handed-over-routing", Duration::from_secs(10)).await;

    let third = Replica::start(&stage, "third");
    third.is_ready().await;
    let began = Instant::now();
    assert!(second.terminate().await);
    third.leads(Duration::from_secs(5)).await;
    println!("handed over after SIGTERM within {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    is_put_back(&stage, "handed-over-routing", Duration::from_secs(10)).await;

    stage.delete("PresenceRoute", "handed-over").await;
    stage.is_empty().await;
    assert!(third.terminate().await);
    stage.leave().await;
}

#[tokio::test]
async fn a_leader_frozen_for_longer_than_its_lease_writes_nothing() {
    const ROUTES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    let stage = Stage::new().await;
    for route in ROUTES {
        stage.apply(stage.route(route)).await;
    }
    let mut first = Replica::start(&stage, "frozen");
    first.leads(Duration::from_secs(20)).await;
    for route in ROUTES {
        stage.is_ready(route).await;
    }
    let second = Replica::start(&stage, "heir");
    second.is_ready().await;

    // The process is frozen in the middle of reconciles: each has asked a relay, and would patch the pod next.
    stage.relays.fall_silent(true);
    edit(&stage, &ROUTES, "first-edit").await;
    first.signal("-STOP");
    stage.relays.fall_silent(false);
    let took = second.leads(Duration::from_secs(20)).await;
    println!("taken over from one that was frozen after {took:?}");
    edit(&stage, &ROUTES, "second-edit").await;
    for route in ROUTES {
        stage.is_ready(route).await;
    }
    second.is_quiet().await;

    let (before, asked) = (versions(&stage).await, stage.simulator.request_counts().total);
    first.signal("-CONT");
    assert!(
        !first.ended(Duration::from_secs(10)).await,
        "it exits with a failure, so that it is started again"
    );
    let written: Vec<_> =
        versions(&stage).await.into_iter().filter(|version| !before.contains(version)).collect();
    assert!(written.is_empty(), "it has written {written:?}");
    assert_eq!(stage.simulator.request_counts().total, asked, "Genesys Cloud was called");
    for route in ROUTES {
        stage.delete("PresenceRoute", route).await;
    }
    stage.is_empty().await;
    assert!(second.terminate().await);
    stage.leave().await;
}

/// Has these routes carry their events to another topic, and waits until their tables name it.
async fn edit(stage: &Stage, routes: &[&str], topic: &str) {
    let edit = json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": topic}]}});
    let edits = routes.iter().map(|route| stage.patch("PresenceRoute", route, edit.clone()));
    futures::future::join_all(edits).await;
    until("every edit is applied", Duration::from_secs(10), async || {
        let tables = stage.list("ConfigMap").await;
        let edited = tables.iter().filter(|table| table.data.to_string().contains(topic)).count();
        if edited == routes.len() { Ok(()) } else { Err(edited) }
    })
    .await;
}

/// The versions of all objects that an operator writes but its Lease.
async fn versions(stage: &Stage) -> Vec<(String, Option<String>)> {
    let kinds = ["PresenceRoute", "Secret", "ConfigMap", "Service", "Deployment", "Pod"];
    let objects = futures::future::join_all(kinds.map(|kind| stage.list(kind))).await;
    let mut versions: Vec<_> = std::iter::zip(kinds, objects)
        .flat_map(|(kind, objects)| {
            objects
                .into_iter()
                .map(move |object| (format!("{kind} {}", object.name_any()), object.resource_version()))
        })
        .collect();
    versions.sort();
    versions
}

#[tokio::test]
async fn sigterm_during_a_start_ends_it_within_two_seconds() {
    const LIMIT: Duration = Duration::from_secs(2);
    let stage = Stage::new().await;
    for route in ["one", "two"] {
        stage.apply(stage.route(route)).await;
    }
    // From before the election until some time after the first reconciles.
    for moment in 0..12 {
        let replica = Replica::start(&stage, &format!("stopped-{moment}"));
        until("the process runs", Duration::from_secs(10), async || replica.get("/livez").await).await;
        tokio::time::sleep(moment * Duration::from_millis(100)).await;
        let began = Instant::now();
        assert!(replica.terminate().await, "moment {moment}: it exits with a failure");
        println!("moment {moment}: ended within {:?}", began.elapsed());
        assert!(began.elapsed() < LIMIT, "moment {moment}: {:?}", began.elapsed());
        let lease = stage.get("Lease", LEASE_NAME).await;
        let holder = lease.and_then(|lease| lease.data["spec"]["holderIdentity"].as_str().map(str::to_owned));
        assert_eq!(holder, None, "moment {moment}");
    }
    let replica = Replica::start(&stage, "last");
    for route in ["one", "two"] {
        stage.is_ready(route).await;
        stage.delete("PresenceRoute", route).await;
    }
    stage.is_empty().await;
    assert!(replica.terminate().await);
    stage.leave().await;
}

#[tokio::test]
async fn a_replica_that_loses_its_lease_exits() {
    let stage = Stage::new().await;
    let mut replica = Replica::start(&stage, "robbed");
    replica.leads(Duration::from_secs(20)).await;
    stage.patch("Lease", LEASE_NAME, json!({"spec": {"holderIdentity": "another"}})).await;
    assert!(
        !replica.ended(Duration::from_secs(15)).await,
        "it exits with a failure, so that it is started again"
    );
    assert!(replica.get("/readyz").await.is_err());
    stage.leave().await;
}

/// Alone, because all tests share the CRD.
#[tokio::test]
async fn the_operator_waits_for_a_crd_that_is_installed_late() {
    let stage = Stage::alone().await;
    kubectl(&["delete", "crd", DEFINITION, "--timeout=30s"]);
    let replica = Replica::start(&stage, "early");
    until("/readyz names what is missing", Duration::from_secs(10), async || {
        match replica.get("/readyz").await {
            Ok((503, text)) if text.contains("the definition of PresenceRoutes") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(replica.get("/livez").await.unwrap().0, 200);

    let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    definitions.create(&Default::default(), &definition()).await.unwrap();
    replica.is_ready().await;
    until("the API server takes routes", Duration::from_secs(10), async || {
        stage.objects("PresenceRoute").list(&Default::default()).await.map(drop)
    })
    .await;
    stage.apply(stage.route("patient")).await;
    stage.is_ready("patient").await;
    stage.delete("PresenceRoute", "patient").await;
    stage.is_empty().await;
    assert!(replica.terminate().await);
    stage.leave().await;
}

/// Alone, because the test stops the API server.
#[tokio::test]
async fn the_operator_survives_a_restart_of_the_api_server() {
    let Some(api_server) = HarnessApiServer::find() else {
        println!("left out: only the harness's API server may be restarted");
        return;
    };
    let stage = Stage::alone().await;
    stage.apply(stage.route("survivor")).await;
    let operator = stage.operator().await;
    let replica = Replica::start_without_routes(&stage, "survivor");
    replica.leads(Duration::from_secs(20)).await;
    stage.is_ready("survivor").await;

    // The version that the watches ask for next is compacted: 410, and all is listed anew.
    let calls = operator.calls.count();
    operator.calls.begin_watches_in_the_past(true);
    api_server.stop();
    tokio::time::sleep(Duration::from_secs(2)).await;
    api_server.start();
    let lists = || {
        let calls = operator.calls.since(calls).into_iter();
        calls
            .filter(|call| !call.is_watch() && call.status == 200 && call.uri.path().ends_with("/configmaps"))
            .count()
    };
    until("ConfigMaps were listed anew, twice", Duration::from_secs(60), async || {
        if lists() >= 2 { Ok(()) } else { Err(lists()) }
    })
    .await;
    operator.calls.begin_watches_in_the_past(false);

    // Watches that failed several times begin again after half a minute at most.
    let first = is_put_back(&stage, "survivor-routing", Duration::from_secs(60)).await;
    let again = is_put_back(&stage, "survivor-routing", Duration::from_secs(60)).await;
    println!("put back {first:?} after the restart, and {again:?} after that");
    assert_eq!(replica.metric("leader").await, 1.0, "the leader outlived it");
    assert_eq!(replica.get("/readyz").await.unwrap().0, 200);
    stage.is_ready("survivor").await;
    assert!(replica.terminate().await);
    stage.end(operator).await;
}
