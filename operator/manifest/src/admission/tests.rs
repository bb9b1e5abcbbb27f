use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn right() -> Value {
    json!({
        "apiVersion": "presenceroute.io/v1alpha1",
        "kind": "PresenceRoute",
        "metadata": {"name": "contact-centre"},
        "spec": {
            "genesys": {"region": "mypurecloud.ie", "credentialsSecretRef": {"name": "oauth"}},
            "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
            "endpoint": {"url": "https://presence.example.com/events"},
            "routes": [{"eventType": "presence:state:changed", "topic": "states"}],
            "kafka": {"bootstrapServers": ["kafka:9092"]},
        },
    })
}

/// Everything that is refused when `value` stands at the pointer `place`.
fn refused(place: &str, value: Value) -> Vec<String> {
    let mut object = right();
    let (parent, name) = place.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        fields => fields[name] = value,
    }
    let violations = admit(&object).err().unwrap_or_default();
    violations.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_right_is_admitted_with_its_defaults() {
    let route = admit_route(&right()).unwrap();
    assert_eq!(route.spec.relay.replicas, 2);
    assert_eq!(route.spec.source.webhook.unwrap().signature_header, "X-Genesys-Event-Signature");
}

#[test]
fn a_null_is_absent_or_the_default() {
    for place in
        ["/spec/genesys/apiUrl", "/spec/relay", "/spec/suspend", "/spec/kafka/tls", "/spec/kafka/properties"]
    {
        assert_eq!(refused(place, Value::Null), [""; 0], "{place}");
    }
    assert_eq!(refused("/spec/endpoint/url", Value::Null), ["spec.endpoint.url: Required value"]);
}

#[test]
fn an_unknown_field_is_named_at_every_depth() {
    assert_eq!(refused("/spec/kafka/propertys", json!({})), ["spec.kafka.propertys: unknown field"]);
    assert_eq!(refused("/metadata/label", json!({})), ["metadata.label: unknown field"]);
    assert_eq!(refused("/extra", json!(1)), ["extra: unknown field"]);
    let route = json!({"eventType": "a", "topic": "b", "filter": "c"});
    assert_eq!(refused("/spec/routes/0", route), ["spec.routes[0].filter: unknown field"]);
    assert_eq!(refused("/spec/kafka/properties", json!({"compression.type": "zstd"})), [""; 0]);
}

#[test]
fn a_moved_field_is_refused_with_its_new_place() {
    for (place, value, now) in [
        ("/spec/endpoint/signingSecretRef", json!({"name": "webhook"}), "signingSecretRef"),
        ("/spec/genesys/api", json!({"eventBridgesPath": "/bridges"}), "eventBridgesPath"),
        ("/spec/genesys/api", json!({"signatureHeader": "X-Signature"}), "signatureHeader"),
        ("/spec/genesys/endpointName", json!("contact-centre"), "name"),
        ("/spec/genesys/eventTypes", json!(["presence:state:changed"]), "eventTypes"),
        ("/spec/genesys/retryPolicy", json!({"maxRetries": 3}), "retryPolicy"),
    ] {
        let before = match value.as_object().and_then(|fields| fields.keys().next()) {
            Some(field) if place.ends_with("/api") => format!("{place}/{field}"),
            _ => place.to_owned(),
        };
        let before = before.trim_start_matches('/').replace('/', ".");
        let violation = format!("{before}: unknown field; it is spec.source.webhook.{now} now");
        assert_eq!(refused(place, value), [violation]);
    }
}

#[test]
fn a_route_has_exactly_one_source_and_a_webhook_has_an_endpoint() {
    assert_eq!(
        refused("/spec/source", json!({})),
        ["spec.source: exactly one source must be set: webhook or amazonEventBridge"]
    );
    assert_eq!(refused("/spec/source", Value::Null), ["spec.source: Required value"]);
    assert_eq!(
        refused("/spec/endpoint", Value::Null),
        ["spec: spec.source.webhook needs spec.endpoint: its url is what Genesys Cloud calls"]
    );
}

#[test]
fn each_kind_of_constraint_is_enforced_and_names_its_field() {
    for (place, value, violation) in [
        ("/spec/routes", json!([]), "spec.routes: must have at least 1 items"),
        ("/spec/relay", json!({"replicas": -1}), "spec.relay.replicas: must be greater than or equal to 0"),
        ("/spec/relay", json!({"replicas": 1001}), "spec.relay.replicas: must be less than or equal to 1000"),
        ("/spec/relay", json!({"replicas": "2"}), "spec.relay.replicas: must be of type integer, not string"),
        ("/spec/relay", json!({"replicas": 1.5}), "spec.relay.replicas: must be of type integer, not number"),
        (
            "/spec/deletionPolicy",
            json!("Keep"),
            "spec.deletionPolicy: Unsupported value; use \"Deregister\", \"Retain\"",
        ),
        (
            "/spec/kafka/bootstrapServers",
            json!(["a:1", "b:1", "a:1"]),
            "spec.kafka.bootstrapServers[2]: Duplicate value",
        ),
        ("/spec/routes/0", json!({"eventType": "a"}), "spec.routes[0].topic: Required value"),
        (
            "/spec/source/webhook/name",
            json!("x".repeat(257)),
            "spec.source.webhook.name: Too long: must have at most 256 characters",
        ),
        ("/spec/source/webhook/name", json!(""), "spec.source.webhook.name: must have at least 1 characters"),
        (
            "/apiVersion",
            json!("presenceroute.io/v1"),
            "apiVersion: must be presenceroute.io/v1alpha1, or there is no PresenceRoute in it",
        ),
    ] {
        assert_eq!(refused(place, value), [violation]);
    }
}

#[test]
fn each_rule_of_the_crd_is_evaluated() {
    for (place, value, violation) in [
        (
            "/spec/genesys/apiUrl",
            json!("http://genesys"),
            "spec.genesys: exactly one of region and apiUrl must be set",
        ),
        (
            "/spec/routes/0/eventType",
            json!("presence:*"),
            "spec: a route with a wildcard needs spec.source.webhook.eventTypes: Genesys Cloud subscribes to exact event types only",
        ),
        (
            "/spec/routes/0/key",
            json!("user"),
            "spec.routes[0].key: must be id, source, subject or attributes.PATH",
        ),
        (
            "/spec/unmatched",
            json!({"action": "Reject", "status": 418}),
            "spec.unmatched.status: must be 404 or 400",
        ),
        (
            "/spec/relay",
            json!({"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}),
            "spec.relay.autoscaling: minReplicas must not be above maxReplicas",
        ),
        (
            "/metadata/name",
            json!("contact.centre"),
            ": metadata.name must have at most 56 characters and no dot: the relay's Service is called NAME-relay",
        ),
        (
            "/metadata/name",
            json!("24x7-desk"),
            ": metadata.name must begin with a letter: the relay's Service is called NAME-relay",
        ),
        (
            "/spec/source/webhook/signingSecretRef",
            json!({"name": "web hook"}),
            "spec.source.webhook.signingSecretRef: name must be the name of a Secret: lower case letters, digits, hyphens and \
             dots, with a letter or digit at both ends of each part",
        ),
        (
            "/spec/relay",
            json!({"autoscaling": {"maxReplicas": 4}, "resources": {"requests": {"memory": "64Mi"}}}),
            "spec.relay: autoscaling needs resources.requests.cpu: the target is a percentage of it",
        ),
        (
            "/spec/relay",
            json!({"extraEnv": [{"name": "PRESENCEROUTE_LISTEN"}]}),
            "spec.relay.extraEnv[0].name: must not be one of the relay's own variables; use the field of the spec",
        ),
        (
            "/spec/relay",
            json!({"extraEnv": [{"name": "2A"}]}),
            "spec.relay.extraEnv[0].name: must begin with a letter or an underscore, and have letters, digits, \
             underscores, dots and hyphens only",
        ),
        (
            "/spec/relay",
            json!({"extraEnv": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "c"}}}]}),
            "spec.relay.extraEnv[0]: value and valueFrom cannot both be set",
        ),
        (
            "/spec/relay",
            json!({"extraEnv": [{"name": "A", "valueFrom": {}}]}),
            "spec.relay.extraEnv[0].valueFrom: exactly one of secretKeyRef, configMapKeyRef and fieldRef must be set",
        ),
        (
            "/spec/relay",
            json!({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}),
            "spec.relay.podDisruptionBudget: exactly one of minAvailable and maxUnavailable must be set",
        ),
        (
            "/spec/relay",
            json!({"podDisruptionBudget": {"minAvailable": "101%"}}),
            "spec.relay.podDisruptionBudget.minAvailable: must be a number from 0 to 9999 or a percentage from 0% to 100%",
        ),
        (
            "/spec/relay",
            json!({"podDisruptionBudget": {"maxUnavailable": -1}}),
            "spec.relay.podDisruptionBudget.maxUnavailable: must be a number from 0 to 9999 or a percentage from 0% to 100%",
        ),
        (
            "/spec/relay",
            json!({"priorityClassName": "Voice"}),
            "spec.relay.priorityClassName: must be the name of a PriorityClass: lower case letters, digits, hyphens and dots",
        ),
    ] {
        assert_eq!(refused(place, value), [violation]);
    }
}

#[test]
fn rules_are_skipped_on_an_object_of_the_wrong_form() {
    let violations = refused("/spec/genesys", json!({"region": 1}));
    assert_eq!(
        violations,
        [
            "spec.genesys.credentialsSecretRef: Required value",
            "spec.genesys.region: must be of type string, not integer"
        ]
    );
}

#[test]
fn metadata_is_checked_as_that_of_any_object() {
    for (metadata, field) in [
        (json!({}), "metadata.name"),
        (json!({"generateName": "a-"}), "metadata.name"),
        (json!({"name": "Upper"}), "metadata.name"),
        (json!({"name": "a", "namespace": "a.b"}), "metadata.namespace"),
        (json!({"name": "a", "labels": {"a b": "c"}}), "metadata.labels"),
        (json!({"name": "a", "labels": {"a": "c d"}}), "metadata.labels"),
        (json!({"name": "a", "annotations": {"/x": ""}}), "metadata.annotations"),
        (json!({"name": "a", "labels": {"a": 1}}), "metadata"),
    ] {
        let violations = refused("/metadata", metadata.clone());
        assert!(
            violations.len() == 1 && violations[0].starts_with(&format!("{field}:")),
            "{metadata}: {violations:?}"
        );
    }
    assert_eq!(refused("/metadata/annotations", json!({"Example.com/A": "b"})), [""; 0]);
}

#[test]
fn sasl_extensions_are_bounded_and_named_as_rfc_7628_says() {
    let refused = |extensions: Value| {
        let oauth = json!({"tokenEndpointUrl": "https://id.example.com/token", "extensions": extensions});
        let sasl = json!({"mechanism": "OAUTHBEARER", "credentialsSecretRef": {"name": "a"}, "oauth": oauth});
        refused("/spec/kafka/sasl", sasl)
    };
    assert_eq!(refused(json!({"logicalCluster": "lkc-1", "identityPoolId": "pool 1"})), [""; 0]);
    let many: serde_json::Map<_, _> =
        (b'a'..=b'q').map(|name| (char::from(name).to_string(), json!("x"))).collect();
    for (wrong, cause) in [
        (json!({"auth": "x"}), "must have 1 to 64 letters, and not be auth"),
        (json!({"logical-cluster": "x"}), "must have 1 to 64 letters"),
        (json!({"a": "x\u{1}y"}), "printable ASCII"),
        (json!({"a": "é"}), "printable ASCII"),
        (json!({"a": ""}), "at least 1 char"),
        (json!({"a": "x".repeat(257)}), "at most 256 characters"),
        (Value::Object(many), "at most 16 items"),
    ] {
        let found = refused(wrong.clone());
        assert!(found.iter().any(|found| found.contains(cause)), "{wrong}: {found:?}");
    }
}

#[test]
fn the_status_is_only_checked_for_unknown_fields() {
    assert_eq!(refused("/status", json!({"routing": 1})), [""; 0]);
    assert_eq!(refused("/status", json!({"reddiness": 1})), ["status.reddiness: unknown field"]);
}

#[test]
fn pods_of_every_kind_that_people_run_are_admitted() {
    for relay in [
        json!({"securityContext": {}}),
        json!({"securityContext": {"runAsUser": 1000, "supplementalGroups": [1, 2], "seLinuxOptions": {"level": "s0"}}}),
        json!({"podDisruptionBudget": {"maxUnavailable": "25%"}}),
        json!({"podDisruptionBudget": {"minAvailable": 0}}),
        json!({"priorityClassName": "system-cluster-critical"}),
        json!({"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}}}),
        json!({"extraEnv": [{"name": "_a.B-2"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
        json!({"autoscaling": {"maxReplicas": 3}}),
    ] {
        assert_eq!(refused("/spec/relay", relay.clone()), [""; 0], "{relay}");
    }
}

/// What `check` and `rules::check` enforce, and what has nothing to enforce.
const KEYWORDS: [&str; 22] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

#[test]
fn the_crd_uses_no_keyword_that_is_not_enforced_here() {
    fn walk(schema: &Value, used: &mut BTreeSet<String>) {
        used.extend(schema.as_object().unwrap().keys().cloned());
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let keys: Vec<_> = rule.as_object().unwrap().keys().collect();
            assert!(keys.iter().all(|key| ["message", "rule"].contains(&key.as_str())), "{rule}");
            let source = rule["rule"].as_str().unwrap();
            assert!(cel::Program::compile(source).is_ok() && !source.contains("oldSelf"), "{source}");
        }
        let inside = [&schema["items"], &schema["additionalProperties"]];
        let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
        fields.chain(inside).filter(|schema| schema.is_object()).for_each(|schema| walk(schema, used));
    }
    let mut spec = schema().unwrap();
    // Nobody writes a status by hand.
    spec.properties.as_mut().unwrap().remove("status");
    let mut used = BTreeSet::new();
    walk(&serde_json::to_value(spec).unwrap(), &mut used);
    let unenforced: Vec<_> = used.iter().filter(|keyword| !KEYWORDS.contains(&keyword.as_str())).collect();
    assert!(unenforced.is_empty(), "{unenforced:?}");
}
