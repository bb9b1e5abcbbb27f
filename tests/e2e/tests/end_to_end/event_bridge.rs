//! Presence by Amazon EventBridge, from a queue and by an API destination: 500 agents change, and each change is in its
//! topic, through edits, rotated keys, killed relays and a Kafka that hangs for a minute.

use std::collections::BTreeMap;
use std::thread::sleep;

use presenceroute_e2e::kafka::Record;
use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::simulator::{Delivery, Run};
use presenceroute_e2e::steps::{Steps, Stopped, measured, say};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same, harness};
use serde_json::{Value, json};

use crate::deliveries::by_event;
use crate::manifests;
use crate::outage::{Paused, can_be_paused};
use crate::stage::Stage;

/// How many agents change.
const AGENTS: u64 = 500;
/// Changes a second.
const RATE: u64 = 100;
/// How long Kafka hangs.
const OUTAGE_SECONDS: u64 = 60;

const PRESENCE: &str = "v2.users.{id}.presence";
const ROUTING_STATUS: &str = "v2.users.{id}.routingStatus";

/// A route, its integration and its topics: one of each event type, and one that an edit adds.
struct Scene<'s> {
    stage: &'s Stage,
    route: Route,
    suffix: String,
    presence: String,
    routing_status: String,
    available: String,
    manifest: Value,
}

impl<'s> Scene<'s> {
    fn new(stage: &'s Stage, name: &str, source: Value, endpoint: Option<Value>) -> Self {
        let route = Route::new(&stage.namespace, name);
        let suffix = format!("{}-{name}", stage.namespace);
        let topic = |of: &str| stage.topic(&format!("{name}-{of}"));
        let (presence, routing_status, available) =
            (topic("presence"), topic("routing-status"), topic("available"));
        let mut manifest = manifests::small_route(stage, &route, "unused", &presence);
        let mut event_bridge = json!({
            "topics": [PRESENCE, ROUTING_STATUS], "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
        });
        if let (Some(fields), Some(source)) = (event_bridge.as_object_mut(), source.as_object()) {
            fields.extend(source.clone());
        }
        manifest["spec"]["source"] = json!({"amazonEventBridge": event_bridge});
        manifest["spec"]["routes"] = json!([
            {"eventType": PRESENCE, "topic": presence},
            {"eventType": ROUTING_STATUS, "topic": routing_status},
        ]);
        match endpoint {
            Some(endpoint) => manifest["spec"]["endpoint"] = endpoint,
            None => drop(manifest["spec"].as_object_mut().map(|spec| spec.remove("endpoint"))),
        }
        Self { stage, route, suffix, presence, routing_status, available, manifest }
    }

    fn event_source(&self) -> Outcome<String> {
        let integration = self.stage.simulator.integration(&self.suffix)?;
        integration.event_source.ok_or_else(|| Failure("the integration has no event source".into()))
    }

    /// The route is Ready with an active integration, whose event source its status names.
    fn becomes_ready(&self) -> Outcome {
        self.stage.kafka.create_topics(&[&self.presence, &self.routing_status, &self.available])?;
        kubectl::apply(&self.manifest.to_string())?;
        self.route.becomes_ready(60)?;
        let integration = self.stage.simulator.integration(&self.suffix)?;
        ensure_same("the integration's state", &integration.state.to_lowercase(), &"active".to_owned())?;
        let status = kubectl::get(&self.route.namespace, &self.route.object())?["status"].to_string();
        let name = self.event_source()?;
        ensure(status.contains(&name), || format!("the status does not name {name}: {status}"))
    }

    fn changes(&self, mut plan: Value) -> Outcome<Run<'s>> {
        plan["agents"] = json!(AGENTS);
        plan["eventSource"] = json!(self.event_source()?);
        self.stage.simulator.change_presence(&plan)
    }

    /// Fails unless each of these changes is in the topic of its type, with the bytes of its detail, its user as key and
    /// the change's own headers. Gives how many records are repetitions.
    fn ensure_published(&self, deliveries: &[Delivery]) -> Outcome<usize> {
        let mut found = BTreeMap::new();
        for topic in [&self.presence, &self.routing_status] {
            found.insert(topic.clone(), by_event(self.stage, topic)?);
        }
        for delivery in deliveries {
            let topic = if delivery.event_type == PRESENCE { &self.presence } else { &self.routing_status };
            let records = found[topic].get(&delivery.id).map(Vec::as_slice).unwrap_or_default();
            ensure(!records.is_empty(), || format!("event {} is not in {topic}: {delivery:?}", delivery.id))?;
            for record in records {
                ensure_as_changed(record, delivery)
                    .map_err(|failure| Failure(format!("event {} in {topic}: {failure}", delivery.id)))?;
            }
        }
        let records: usize = found.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        let events: usize = found.values().map(BTreeMap::len).sum();
        Ok(records - events)
    }

    /// Routes are edited, every relay pod is deleted, and Kafka hangs, while `rotate` changes what is proved by.
    fn under_load(&self, rotate: impl FnOnce() -> Outcome) -> Outcome<Vec<Delivery>> {
        let run = self.changes(json!({"ratePerSecond": RATE}))?;
        run.flows(RATE)?;
        let mut edited = self.manifest.clone();
        if let Some(routes) = edited["spec"]["routes"].as_array_mut() {
            let when = "attributes.presenceDefinition.systemPresence == 'AVAILABLE'";
            routes.push(json!({"eventType": PRESENCE, "topic": self.available, "when": when}));
        }
        kubectl::apply(&edited.to_string())?;
        self.route.becomes_ready(60)?;
        until("the added route has records", seconds(60), || {
            ensure(!self.stage.kafka.records(&self.available)?.is_empty(), || "none yet".into())
        })?;
        rotate()?;
        run.flows(RATE)?;
        for pod in self.route.pods()? {
            kubectl::run(&["-n", &self.route.namespace, "delete", "pod", &pod.name, "--wait=false"])?;
        }
        run.flows(5 * RATE)?;
        self.route.becomes_ready(90)?;
        if can_be_paused(&self.stage.kafka) {
            let paused = Paused::now()?;
            // The outage itself is what is tried.
            sleep(seconds(OUTAGE_SECONDS));
            drop(paused);
        } else {
            say("      without the outage: these brokers cannot be paused from here");
        }
        self.route.becomes_ready(120)?;
        run.flows(5 * RATE)?;
        run.ends_by_itself(seconds(120))
    }

    fn is_deleted(&self) -> Outcome {
        self.route.delete()?;
        ensure_same("integrations", &self.stage.simulator.integrations(&self.suffix)?, &Vec::new())
    }
}

fn ensure_as_changed(record: &Record, delivery: &Delivery) -> Outcome {
    ensure_same("the SHA-256 of the value", &Some(record.value_sha256()), &delivery.detail_sha256)?;
    ensure_same("the key", &record.key, &delivery.user_id)?;
    ensure_same("ce_subject", &record.header("ce_subject"), &delivery.user_id.as_deref())?;
    ensure_same("ce_type", &record.header("ce_type"), &Some(delivery.event_type.as_str()))?;
    let detail: Value = serde_json::from_slice(&record.value).map_err(|error| Failure(error.to_string()))?;
    let is_error = !detail["eventBody"]["errorInfo"].is_null();
    ensure_same("the header error", &record.header("error"), &is_error.then_some("true"))?;
    ensure(record.header("ce_time").is_some(), || "it has no ce_time".into())
}

/// What the steps of both ways share, before what they rotate and remove.
fn story(scene: &Scene<'_>, steps: &mut Steps<'_>, rotate: impl FnOnce() -> Outcome) -> Result<(), Stopped> {
    let mut all = steps.prove("each change of 500 agents is in its topic", || {
        let deliveries =
            scene.changes(json!({"count": 3 * AGENTS, "ratePerSecond": 3 * RATE}))?.finished(seconds(60))?;
        until("every change is in its topic", seconds(30), || scene.ensure_published(&deliveries))
            .map(|repeated| measured(&format!("{} changes, {repeated} repetitions", deliveries.len())))?;
        Ok(deliveries)
    })?;
    let under_load = steps.prove("edits, a rotation, dead pods and an outage lose none", || {
        let deliveries = scene.under_load(rotate)?;
        let lost = deliveries.iter().filter(|delivery| delivery.outcome != "delivered").count();
        ensure_same("changes that were not delivered", &lost, &0)?;
        Ok(deliveries)
    })?;
    all.extend(under_load);
    steps.prove("every change is in its topic all the same", || {
        let repeated = until("every change is in its topic", seconds(120), || scene.ensure_published(&all))?;
        measured(&format!("{} changes, {repeated} repetitions", all.len()));
        Ok(())
    })?;
    steps.prove("suspended, the integration is disabled", || {
        kubectl::patch(&scene.route.namespace, &scene.route.object(), &json!({"spec": {"suspend": true}}))?;
        until("it is disabled", seconds(60), || {
            let integration = scene.stage.simulator.integration(&scene.suffix)?;
            ensure(!integration.enabled, || format!("{integration:?}"))
        })
    })?;
    steps.prove("the route is deleted, and its integration with it", || scene.is_deleted())
}

pub(crate) fn queue(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let access_key = |id: &str| {
        let content = json!({"accessKeyId": id, "secretAccessKey": "not-for-production"});
        kubectl::apply(&manifests::secret(stage, "queue-access-key", content))
    };
    let queue_name = format!("{}-queue", stage.namespace);
    let url = steps.prove("there is a queue", || {
        Ok(harness::run("sqs", &["queue", "create", &queue_name, "50"])?.trim().to_owned())
    })?;
    let origin = url.split('/').take(3).collect::<Vec<_>>().join("/");
    let sqs = json!({
        "queueUrl": url, "endpointUrl": origin, "region": "eu-west-1",
        "credentialsSecretRef": {"name": "queue-access-key"},
    });
    let scene = Scene::new(stage, "queue", json!({"sqs": sqs}), None);
    steps.prove("a route with a queue is Ready, without a Service", || {
        access_key("first")?;
        stage
            .simulator
            .set_event_bus_rules(&json!([{"name": "queue", "target": {"sqs": {"queueUrl": url}}}]))?;
        scene.becomes_ready()?;
        let children = scene.route.children()?;
        ensure(!children.iter().any(|child| child.starts_with("service/")), || format!("{children:?}"))
    })?;
    story(&scene, steps, || access_key("second"))?;
    steps.prove("nothing is left in the queue's dead-letter queue", || {
        let left = harness::run("sqs", &["queue", "length", &format!("{queue_name}-dead")])?;
        ensure_same("dead letters", &left.trim(), &"0")?;
        harness::run("sqs", &["queue", "delete", &queue_name])?;
        harness::run("sqs", &["queue", "delete", &format!("{queue_name}-dead")]).map(drop)
    })
}

pub(crate) fn api_destination(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let host = format!("pushed-relay.{}", stage.namespace);
    let url = format!("http://{host}:8080/eventbridge/presence");
    let api_key =
        |key: &str| kubectl::apply(&manifests::secret(stage, "pushed-api-key", json!({"apiKey": key})));
    let rule = |key: &str| {
        stage.simulator.set_event_bus_rules(&json!([{
            "name": "push", "target": {"apiDestination": {"url": url, "apiKey": key}},
        }]))
    };
    let (first, second) = ("the-first-api-key-of-this-run", "the-second-api-key-of-this-run");
    let source = json!({"apiDestination": {"apiKeySecretRef": {"name": "pushed-api-key"}}});
    let scene = Scene::new(stage, "pushed", source, Some(json!({"url": url})));
    steps.prove("a route with an API destination is Ready", || {
        api_key(first)?;
        rule(first)?;
        scene.becomes_ready()
    })?;
    story(&scene, steps, || {
        api_key(second)?;
        until("the status asks for the new key in AWS", seconds(60), || {
            let status = kubectl::get(&scene.route.namespace, &scene.route.object())?["status"].to_string();
            ensure(status.contains("API key") && status.contains("connection"), || status)
        })?;
        rule(second)
    })
}
