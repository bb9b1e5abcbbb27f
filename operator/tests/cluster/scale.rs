//! A thousand routes: how long they take, and what they cost. A measurement, run by itself:
//! `cargo test --release -p presenceroute-operator --test cluster -- --ignored --nocapture a_thousand_routes`.
//!
//! The routes are registered at Genesys Cloud already, as those of an organisation are that has used PresenceRoute for a
//! while, and have no relay pods. One more, with a pod, shows how fast an edit is live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use presenceroute_crds::PresenceRoute;
use serde_json::{Value, json};

use crate::process::Replica;
use crate::stage::{Stage, until};

/// How many requests the test itself has under way while it makes the routes.
const AT_A_TIME: usize = 16;
/// How many edits are timed.
const EDITS: usize = 20;
const A_MINUTE: Duration = Duration::from_secs(60);

fn routes_wanted() -> usize {
    std::env::var("ROUTES").ok().and_then(|number| number.parse().ok()).unwrap_or(1000)
}

/// What a process has used.
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss: u64,
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The program's name, in parentheses, may hold blanks. Times are in ticks of 10 ms.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kilobytes = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self { cpu: Duration::from_millis(ticks * 10), rss: kilobytes("VmRSS"), peak: kilobytes("VmHWM") }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = |kilobytes: u64| kilobytes as f64 / 1024.0;
        write!(
            formatter,
            "{:.0} MiB resident, {:.0} MiB at most, {:.1} s of CPU",
            megabytes(self.rss),
            megabytes(self.peak),
            self.cpu.as_secs_f64()
        )
    }
}

/// The operator's requests to the API server so far, by verb.
async fn requests(replica: &Replica) -> BTreeMap<String, i64> {
    let (_, text) = replica.get("/metrics").await.unwrap();
    let mut requests = BTreeMap::new();
    for line in text.lines() {
        let Some(labels) = line.strip_prefix("presenceroute_operator_api_requests_total{") else { continue };
        let verb = labels.split("verb=\"").nth(1).unwrap().split('"').next().unwrap();
        let count: i64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        *requests.entry(verb.to_owned()).or_default() += count;
    }
    requests
}

fn difference(later: &BTreeMap<String, i64>, earlier: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let grown =
        later.iter().map(|(verb, count)| (verb.clone(), count - earlier.get(verb).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of seven minutes"]
async fn a_thousand_routes() {
    let stage = Stage::alone().await;
    let number = routes_wanted();
    let reader = watch(&stage);

    // One route alone.
    let mut alone = stage.route("edited");
    alone["spec"]["endpoint"]["url"] = json!("https://edited.example.com/eventbridge/presence");
    stage.apply(alone).await;
    let replica = Replica::start(&stage, "alone");
    stage.is_ready("edited").await;
    println!("one route: an edit is live after {}", edits(&stage).await);
    println!("one route: {}", Usage::of(replica.pid()));
    assert!(replica.terminate().await);

    let began = Instant::now();
    let token = token(&stage).await;
    let made = futures::stream::iter(0..number)
        .map(|index| make_registered(&stage, &token, index))
        .buffer_unordered(AT_A_TIME)
        .count()
        .await;
    println!("{made} routes were made in {:.0} s", began.elapsed().as_secs_f64());
    until("the watch has them all", A_MINUTE, async || {
        if reader.state().len() > number { Ok(()) } else { Err(reader.state().len()) }
    })
    .await;

    // From nothing: every object is created, every registration verified.
    let calls = stage.simulator.request_counts().total;
    let began = Instant::now();
    let replica = Replica::start(&stage, "cold");
    let built = all(&reader, "every child is made", |route| condition(route, "SecretsResolved")).await;
    println!("from nothing: every child is made after {:.1} s", (built - began).as_secs_f64());
    println!("from nothing: {}", Usage::of(replica.pid()));
    let settled = all(&reader, "all are registered", |route| condition(route, "Registered")).await;
    let dictated = Duration::from_secs(61) * u32::try_from((number - 1) / 300).unwrap();
    println!(
        "from nothing: settled after {:.1} s, of which the budget of 300 calls a minute dictates {:.0} s",
        (settled - began).as_secs_f64(),
        dictated.as_secs_f64()
    );
    println!("from nothing: {}", Usage::of(replica.pid()));
    println!("from nothing: requests to the API server {:?}", requests(&replica).await);
    println!("from nothing: {} calls to Genesys Cloud", stage.simulator.request_counts().total - calls);
    assert!(settled - began < dictated + A_MINUTE);

    assert!(Usage::of(replica.pid()).peak < 100 * 1024);

    // The same operator again.
    assert!(replica.terminate().await);
    let calls = stage.simulator.request_counts().total;
    let began = Instant::now();
    let replica = Replica::start(&stage, "again");
    until("every route was reconciled", A_MINUTE, async || {
        let reconciles = replica.metric("reconciles_total").await;
        if reconciles > number as f64 { Ok(()) } else { Err(reconciles) }
    })
    .await;
    println!("restart: every route is verified after {:.1} s", began.elapsed().as_secs_f64());
    println!("restart: {}", Usage::of(replica.pid()));
    println!("restart: requests to the API server {:?}", requests(&replica).await);
    println!("restart: {} calls to Genesys Cloud until then", stage.simulator.request_counts().total - calls);

    // From now on all is as it will be: the looks at Genesys Cloud are spread over five minutes.
    replica_is_quiet(&replica).await;
    let (cpu, asked, looks) = idle_minute(&stage, &replica).await;
    let usage = Usage::of(replica.pid());
    println!("idle: {usage}");
    println!("among {number}: an edit is live after {}", edits(&stage).await);
    assert!(cpu < A_MINUTE / 100, "{cpu:?}");
    assert!(asked.keys().all(|verb| ["watch", "update"].contains(&verb.as_str())), "{asked:?}");
    assert!(looks <= number as u64 / 4, "{looks} calls to Genesys Cloud in a minute");
    assert!(usage.rss < 100 * 1024, "{usage}");
    assert!(replica.terminate().await);

    // Nobody deregisters a thousand routes at 300 calls a minute for a test.
    let no_finalizers = json!({"metadata": {"finalizers": null}});
    let routes: Vec<_> = reader.state().iter().map(|route| route.name_any()).collect();
    futures::stream::iter(routes)
        .for_each_concurrent(AT_A_TIME, async |name| {
            stage.patch("PresenceRoute", &name, no_finalizers.clone()).await;
            stage.delete("PresenceRoute", &name).await;
        })
        .await;
    stage.leave().await;
}

/// The routes as the API server has them.
fn watch(stage: &Stage) -> reflector::Store<PresenceRoute> {
    let (reader, writer) = reflector::store();
    let events = watcher(stage.routes(), watcher::Config::default()).default_backoff().reflect(writer);
    tokio::spawn(async move { events.try_for_each(async |_| Ok(())).await });
    reader
}

fn condition(route: &PresenceRoute, type_: &str) -> bool {
    let conditions = route.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// When all routes were first seen to be so.
async fn all(
    reader: &reflector::Store<PresenceRoute>,
    what: &str,
    is_so: impl Fn(&PresenceRoute) -> bool,
) -> Instant {
    until(what, Duration::from_secs(900), async || {
        tokio::time::sleep(Duration::from_millis(80)).await;
        let lacking = reader.state().iter().filter(|route| !is_so(route)).count();
        if lacking == 0 { Ok(()) } else { Err(lacking) }
    })
    .await;
    Instant::now()
}

/// Waits until what the start has brought with it is over.
async fn replica_is_quiet(replica: &Replica) {
    until("the start is over", A_MINUTE, async || {
        let before = requests(replica).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = difference(&requests(replica).await, &before);
        if asked.keys().all(|verb| verb == "update") { Ok(()) } else { Err(asked) }
    })
    .await;
}

/// What a minute costs in which nothing happens: of CPU, of requests to the API server, of calls to Genesys Cloud.
async fn idle_minute(stage: &Stage, replica: &Replica) -> (Duration, BTreeMap<String, i64>, u64) {
    // The CPU last and first, because a scrape costs as much as many reconciles.
    let (requests_before, reconciles) = (requests(replica).await, replica.metric("reconciles_total").await);
    let (calls, cpu) = (stage.simulator.request_counts().total, Usage::of(replica.pid()).cpu);
    tokio::time::sleep(A_MINUTE).await;
    let cpu = Usage::of(replica.pid()).cpu - cpu;
    let calls = stage.simulator.request_counts().total - calls;
    let asked = difference(&requests(replica).await, &requests_before);
    let reconciles = replica.metric("reconciles_total").await - reconciles;
    println!(
        "idle: {:.2} % of a core, {reconciles} reconciles, requests to the API server {asked:?}, {calls} calls to \
         Genesys Cloud",
        cpu.as_secs_f64() / A_MINUTE.as_secs_f64() * 100.0
    );
    (cpu, asked, calls)
}

/// How long edits of one route take until they are live: from before the request until RoutingLive is seen.
async fn edits(stage: &Stage) -> String {
    let mut took = Vec::new();
    for _ in 0..EDITS {
        let topic = format!("topic-{}", uuid::Uuid::new_v4().simple());
        let patch = json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": topic}]}});
        let began = Instant::now();
        let generation = stage.patch("PresenceRoute", "edited", patch).await.metadata.generation;
        until("the edit is live", Duration::from_secs(20), async || {
            let status = stage.routes().get("edited").await.unwrap().status.unwrap_or_default();
            let is_live = status.conditions.iter().any(|condition| {
                condition.type_ == "RoutingLive"
                    && condition.status == "True"
                    && condition.observed_generation == generation
            });
            if is_live { Ok(()) } else { Err(status) }
        })
        .await;
        took.push(began.elapsed().as_millis());
    }
    took.sort_unstable();
    format!("{} ms (median of {EDITS}), {} ms at most", took[EDITS / 2], took[EDITS - 1])
}

pub(crate) async fn token(stage: &Stage) -> String {
    let client = json!({"grant_type": "client_credentials", "client_id": "client", "client_secret": "hush"});
    let url = format!("{}/api/v2/oauth/token", stage.genesys_url());
    let answer: Value =
        reqwest::Client::new().post(url).json(&client).send().await.unwrap().json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// A route with a Secret of its own, without pods, and its registration, with all that the operator left on record.
async fn make_registered(stage: &Stage, token: &str, index: usize) {
    let name = format!("route-{index:04}");
    let url = format!("https://presence.example.com/{name}");
    let registration = json!({
        "name": format!("{}/{name}", stage.namespace), "type": "WEBHOOK", "enabled": true, "url": url,
        "secret": "sign-me-by-hmac-sha256", "eventTypes": ["presence:state:changed"],
        "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
    });
    let collection = format!("{}/api/v2/analytics/events/eventbridges", stage.genesys_url());
    let created = reqwest::Client::new().post(collection).bearer_auth(token).json(&registration).send();
    let created: Value = created.await.unwrap().json().await.unwrap();

    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let webhook = format!("{name}-webhook");
    for secret in [
        json!({"metadata": {"name": webhook}, "stringData": {"secret": "sign-me-by-hmac-sha256"}}),
        json!({
            "metadata": {
                "name": format!("{name}-signing"),
                "labels": {
                    "presenceroute.io/route": name,
                    "app.kubernetes.io/managed-by": "presenceroute-operator",
                },
                "annotations": {"presenceroute.io/registered-secret": "0a1b2c3d"},
            },
            "stringData": {"0a1b2c3d": "sign-me-by-hmac-sha256", "revision": "0a1b2c3d"},
        }),
    ] {
        let secret = serde_json::from_value(secret).unwrap();
        secrets.create(&Default::default(), &secret).await.unwrap();
    }

    let mut route = stage.route(&name);
    route["spec"]["endpoint"] = json!({"url": url});
    route["spec"]["source"]["webhook"]["signingSecretRef"] = json!({"name": webhook});
    route["spec"]["relay"] = json!({"replicas": 0});
    stage.apply(route).await;
    let status = json!({"status": {"source": {"type": "Webhook", "registration": {
        "id": created["id"], "name": format!("{}/{name}", stage.namespace),
        "access": {
            "apiUrl": stage.genesys_url(), "tokenPath": "/api/v2/oauth/token",
            "eventBridgesPath": "/api/v2/analytics/events/eventbridges", "tokenRequest": "Json",
            "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"},
        },
        "url": url, "enabled": true, "eventTypes": ["presence:state:changed"],
        "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
    }}}});
    stage.routes().patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}
