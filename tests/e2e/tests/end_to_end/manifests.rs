//! The manifests that a person would write.

use presenceroute_e2e::route::Route;
use presenceroute_e2e::{Outcome, ensure, example, tree};
use serde_json::{Value, json};

use crate::stage::Stage;

/// The three event types of the tutorial.
pub(crate) const EVENT_TYPES: [&str; 3] =
    ["presence:state:changed", "presence:status:changed", "presence:location:changed"];

/// An example of this tree, at home in this run's namespace, with its topics and its broker.
pub(crate) fn example(stage: &Stage, file: &str) -> Outcome<String> {
    let namespace = &stage.namespace;
    let here = example::in_namespace(&tree::read(&format!("deploy/examples/{file}"))?, namespace)
        // As deploy/images names them.
        .replace("ghcr.io/presenceroute/", "presenceroute/")
        .replace(".presence:", &format!(".{namespace}:"))
        .replace(".genesys-simulator:", &format!(".{namespace}:"))
        .replace("topic: gen-presence-", &format!("topic: {}", stage.topic("gen-presence-")))
        .replace("kafka-bootstrap.kafka:9092", &stage.kafka.brokers_from_pods.replace(',', ", "));
    ensure(here.contains(namespace), || format!("{file} is for another namespace than it was"))?;
    Ok(here)
}

/// A Secret.
pub(crate) fn secret(stage: &Stage, name: &str, content: Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": stage.namespace},
        "stringData": content,
    })
    .to_string()
}

/// A route of one event type to one topic, with the OAuth client of the quickstart and a signing secret of that name.
pub(crate) fn small_route(stage: &Stage, route: &Route, signing_secret: &str, topic: &str) -> Value {
    json!({
        "apiVersion": "presenceroute.io/v1alpha1",
        "kind": "PresenceRoute",
        "metadata": {"name": route.name, "namespace": route.namespace},
        "spec": {
            "genesys": {
                "apiUrl": format!("http://genesys-simulator.{}:8090", stage.namespace),
                "credentialsSecretRef": {"name": OAUTH_CLIENT},
            },
            "source": {"webhook": {"signingSecretRef": {"name": signing_secret}}},
            "endpoint": {
                "url": format!("http://{}-relay.{}:8080/eventbridge/presence", route.name, route.namespace),
            },
            "routes": [{"eventType": EVENT_TYPES[0], "topic": topic}],
            "kafka": {"bootstrapServers": stage.kafka.brokers_from_pods.split(',').collect::<Vec<_>>()},
        },
    })
}

const OAUTH_CLIENT: &str = "oauth-client";

/// The Secret of the OAuth client that [`small_route`] names.
pub(crate) fn oauth_client(stage: &Stage) -> String {
    secret(stage, OAUTH_CLIENT, json!({"clientId": "e2e", "clientSecret": "not-for-production"}))
}
