//! The API server refuses a manifest that cannot be right, and its message names the field and the reason.

use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::{Failure, ensure};
use serde_json::{Value, json};

use crate::manifests;
use crate::stage::Stage;

/// What is wrong, where it is written and what there, and what the message must contain.
type Wrong = (&'static str, &'static str, fn() -> Value, [&'static str; 2]);

const WRONG: [Wrong; 20] = [
    (
        "a region beside an apiUrl",
        "/spec/genesys/region",
        || json!("mypurecloud.ie"),
        ["spec.genesys", "exactly one of region and apiUrl must be set"],
    ),
    (
        "an apiUrl with a user in it",
        "/spec/genesys/apiUrl",
        || json!("http://me@genesys"),
        ["spec.genesys.apiUrl", "http or https URL without user"],
    ),
    (
        "an endpoint that is no URL",
        "/spec/endpoint/url",
        || json!("presence.example.com/events"),
        ["spec.endpoint.url", "must be an http or https URL"],
    ),
    (
        "an endpoint with a query",
        "/spec/endpoint/url",
        || json!("https://presence.example.com/events?a=b"),
        ["spec.endpoint.url", "without user, query or fragment"],
    ),
    (
        "two exposures",
        "/spec/endpoint",
        || {
            json!({
                "url": "https://presence.example.com/events",
                "ingress": {},
                "gateway": {"parentRefs": [{"name": "public"}]},
            })
        },
        ["spec.endpoint", "ingress and gateway cannot both be set"],
    ),
    ("no source", "/spec/source", || json!({}), ["spec.source", "exactly one source must be set"]),
    (
        "a webhook without an endpoint",
        "/spec/endpoint",
        || Value::Null,
        ["spec", "spec.source.webhook needs spec.endpoint"],
    ),
    ("no route", "/spec/routes", || json!([]), ["spec.routes", "at least 1 items"]),
    (
        "an illegal topic",
        "/spec/routes/0/topic",
        || json!("gen presence"),
        ["spec.routes[0].topic", "must be a legal Kafka topic name"],
    ),
    (
        "a wildcard without event types",
        "/spec/routes/0/eventType",
        || json!("presence:*"),
        ["spec", "a route with a wildcard needs spec.source.webhook.eventTypes"],
    ),
    (
        "a wildcard in the middle",
        "/spec/routes/0/eventType",
        || json!("presence:*:changed"),
        ["spec.routes[0].eventType", "a * can only be its last character"],
    ),
    (
        "a key that is no field",
        "/spec/routes/0/key",
        || json!("user"),
        ["spec.routes[0].key", "must be id, source, subject or attributes.PATH"],
    ),
    (
        "dead letters without a topic",
        "/spec/unmatched",
        || json!({"action": "DeadLetter"}),
        ["spec.unmatched", "topic must be set when action is DeadLetter"],
    ),
    (
        "a status that Genesys would not understand",
        "/spec/unmatched",
        || json!({"action": "Reject", "status": 418}),
        ["spec.unmatched.status", "must be 404 or 400"],
    ),
    (
        "an action that does not exist",
        "/spec/unmatched",
        || json!({"action": "Forget"}),
        ["spec.unmatched.action", "Unsupported value: \"Forget\""],
    ),
    (
        "a broker with a scheme",
        "/spec/kafka/bootstrapServers/0",
        || json!("kafka://broker:9092"),
        ["spec.kafka.bootstrapServers", "must be HOST:PORT, without a scheme"],
    ),
    (
        "OAUTHBEARER without a token endpoint",
        "/spec/kafka/sasl",
        || json!({"mechanism": "OAUTHBEARER", "credentialsSecretRef": {"name": "kafka-user"}}),
        ["spec.kafka.sasl", "oauth must be set when mechanism is OAUTHBEARER"],
    ),
    (
        "a negative number of replicas",
        "/spec/relay",
        || json!({"replicas": -1}),
        ["spec.relay.replicas", "greater than or equal to 0"],
    ),
    (
        "more replicas at least than at most",
        "/spec/relay",
        || json!({"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}),
        ["spec.relay.autoscaling", "minReplicas must not be above maxReplicas"],
    ),
    (
        "a name with a dot",
        "/metadata/name",
        || json!("contact.centre"),
        ["metadata.name must have at most 56 characters and no dot", "NAME-relay"],
    ),
];

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let right = manifests::small_route(stage, &Route::new(&stage.namespace, "right"), "webhook", "topic");
    steps
        .prove("the manifest that these differ from is accepted", || kubectl::try_out(&right.to_string()))?;
    for (what, place, value, words) in WRONG {
        // Each stands for itself: the others are tried also where one is accepted.
        let _ = steps.prove(&format!("refused: {what}"), || {
            let mut wrong = right.clone();
            set(&mut wrong, place, value());
            let Err(Failure(message)) = kubectl::try_out(&wrong.to_string()) else {
                return Err(Failure("it was accepted".into()));
            };
            ensure(words.iter().all(|word| message.contains(word)), || {
                format!("wanted a message with {words:?}, got: {message}")
            })
        });
    }
    let _ = steps.prove("refused: a misspelt field", || {
        let mut wrong = right.clone();
        set(&mut wrong, "/spec/kafka/propertys", json!({}));
        let Err(Failure(message)) = kubectl::try_out(&wrong.to_string()) else {
            return Err(Failure("it was accepted".into()));
        };
        ensure(message.contains("spec.kafka.propertys"), || message)
    });
    Ok(())
}

/// Puts a value where the pointer says, new or instead of what is there.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(name.to_owned(), value);
        }
        Some(Value::Array(items)) => {
            if let Some(item) = name.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                *item = value;
            }
        }
        _ => {}
    }
}
