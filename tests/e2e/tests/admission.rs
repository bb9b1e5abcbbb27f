//! `presenceroute-operator validate` gives the answers that the cluster gives: each manifest goes through both, and
//! the verdict and the fields that are named must be the same.
//!
//! Most of the manifests are made from the definition itself: one that uses every part of it is changed at every
//! place in every way that the schema speaks of. They go to the API server as kubectl would send them; the others, and
//! what only the text of a manifest can show, through `kubectl apply` itself. Nothing is kept (a dry run), and the
//! definition is this test's own, so that no other is disturbed. The one answer that is not the same, on purpose: a
//! key that comes twice is refused offline, where kubectl takes the last one without a word.
//!
//! `cargo test -p presenceroute-e2e --test admission`, with a cluster that `KUBECONFIG` names.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::{Client, CustomResourceExt};
use presenceroute_crds::PresenceRoute;
use presenceroute_e2e::wait::until;
use presenceroute_e2e::{Failure, command, kubectl};
use presenceroute_manifest::admission::admit;
use presenceroute_manifest::document::Manifest;
use serde_json::{Map, Value, json};

/// The group of this test's own definition.
const GROUP: &str = "admission-test.presenceroute.io";

/// Requests at a time.
const AT_A_TIME: usize = 16;

/// A manifest that uses every part of the definition that rules or limits speak of.
const FULL: &str = r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata:
  name: full
  labels: {team: presence}
  annotations: {example.com/owner: someone}
spec:
  genesys:
    apiUrl: https://genesys.example.com/base
    credentialsSecretRef: {name: oauth, clientIdKey: id, clientSecretKey: secret}
    api:
      tokenPath: /token
      tokenRequest: Form
      caSecretRef: {name: ca, key: ca.crt}
  source:
    webhook:
      signingSecretRef: {name: webhook, key: secret}
      name: presence/full
      eventTypes: ["presence:state:changed", "presence:status:changed"]
      retryPolicy: {maxRetries: 3, backoffMultiplier: 2}
      signatureHeader: X-Signature
      maxEventAgeSeconds: 3600
      eventBridgesPath: /bridges
  endpoint:
    url: https://presence.example.com/eventbridge/presence
    service: {type: NodePort, annotations: {a: b}}
    ingress: {className: nginx, annotations: {a: b}, tlsSecretName: tls}
  routes:
  - {eventType: "presence:state:changed", topic: states}
  - {eventType: "presence:*", topic: all, when: "attributes.presence == 'AVAILABLE'", key: attributes.user.id, contentMode: Structured}
  unmatched: {action: DeadLetter, topic: rest, invalid: {topic: bad}}
  kafka:
    bootstrapServers: ["kafka-0:9092", "[2001:db8::1]:9092"]
    tls:
      caSecretRef: {name: cluster-ca}
      clientCertificateSecretRef: {name: user, certificateKey: user.crt, privateKeyKey: user.key}
    sasl:
      mechanism: SCRAM-SHA-512
      credentialsSecretRef: {name: user, usernameKey: username, passwordKey: password}
    properties: {compression.type: zstd}
  relay:
    replicas: 3
    autoscaling: {minReplicas: 2, maxReplicas: 5, targetCPUUtilizationPercentage: 70}
    resources: {requests: {cpu: 1, memory: 64Mi}, limits: {memory: 128Mi}}
    nodeSelector: {disk: ssd}
    tolerations: [{key: dedicated, operator: Exists, tolerationSeconds: 30}]
    topologySpreadConstraints:
    - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {a: b}}}
    priorityClassName: voice-critical
    serviceAccount: {annotations: {a: b}}
    securityContext:
      runAsUser: 1000
      runAsGroup: 0
      fsGroup: 1000
      supplementalGroups: [1]
      seLinuxOptions: {level: s0}
    extraEnv:
    - {name: PLAIN, value: b}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: collector, key: token, optional: true}}}
    - {name: CONFIG, valueFrom: {configMapKeyRef: {name: site, key: zone, optional: false}}}
    - {name: FIELD, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    podDisruptionBudget: {maxUnavailable: 25%}
    podLabels: {a: b}
    podAnnotations: {a: b}
    imagePullSecrets: [{name: registry}]
    image: example.com/relay:1
    logLevel: debug
    networkPolicy:
      ingressFrom: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
      additionalEgress: [{to: [{ipBlock: {cidr: 10.2.0.0/16}}], ports: [{protocol: TCP, port: 9094, endPort: 9097}]}]
    limits: {maxBodyBytes: 2097152, idleTimeoutMs: 90000, dedupeMaxIds: 1200000, dedupeWindowMs: 600000}
  suspend: true
  deletionPolicy: Retain
"#;

/// A manifest, and what is done to it.
struct Case {
    what: String,
    yaml: String,
}

/// `None` when it is accepted, else the fields that are named.
type Verdict = Option<BTreeSet<String>>;

#[tokio::test]
async fn validate_gives_the_answers_of_the_cluster() {
    let _definition = Definition::install().unwrap_or_else(|failure| panic!("{failure}"));
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let client = Client::try_default().await.unwrap();
    let made = made_from_the_definition();
    let mut answers: Vec<_> = stream::iter(&made)
        .map(async |case| (case, api_server(&client, &case.yaml).await))
        .buffered(AT_A_TIME)
        .collect()
        .await;
    let written = handmade();
    answers.extend(written.iter().map(|case| (case, kubectl_apply(&case.yaml))));
    let cases = answers.len();
    let differences: Vec<_> =
        answers.into_iter().filter_map(|(case, answer)| difference(case, answer)).collect();
    assert!(
        differences.is_empty(),
        "{} of {cases} manifests are judged differently:\n{}",
        differences.len(),
        differences.join("\n")
    );
    println!("{cases} manifests, judged alike");
}

fn difference(case: &Case, answer: Result<(Verdict, String), Failure>) -> Option<String> {
    let here = offline(&case.yaml);
    let (there, message) = match answer {
        Ok(told) => told,
        Err(failure) => return Some(format!("{}: {failure}", case.what)),
    };
    let same = match (&here, &there) {
        (None, None) => true,
        // The API server tells of unknown fields before it looks at anything else.
        (Some(here), Some(there)) if message.contains("strict decoding error") => there.is_subset(here),
        (here, there) => here == there,
    };
    (!same).then(|| format!("{}:\n  offline {here:?}\n  cluster {there:?}: {message}", case.what))
}

fn offline(yaml: &str) -> Verdict {
    let manifest = match Manifest::parse(yaml) {
        Ok(manifest) => manifest,
        Err(error) => return Some([format!("(yaml) {error}")].into()),
    };
    let violations = admit(manifest.routes[0].value()).err()?;
    Some(violations.iter().map(|violation| plain(&violation.field.to_string())).collect())
}

/// What `kubectl apply` says, and the fields that it names.
fn kubectl_apply(yaml: &str) -> Result<(Verdict, String), Failure> {
    let arguments = ["apply", "--dry-run=server", "-f", "-"];
    match command::run("kubectl", &arguments, Some(&of_our_group(yaml))) {
        Ok(_) => Ok((None, String::new())),
        Err(Failure(message)) => match named_fields(&message) {
            fields if fields.is_empty() => Err(Failure(format!("no field is named in: {message}"))),
            fields => Ok((Some(fields), message)),
        },
    }
}

/// What the API server says to the request that `kubectl apply` makes of a new object.
async fn api_server(client: &Client, json: &str) -> Result<(Verdict, String), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure(error.to_string());
    let uri = format!(
        "/apis/{GROUP}/v1alpha1/namespaces/default/presenceroutes?dryRun=All&fieldValidation=Strict&fieldManager=test"
    );
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(of_our_group(json).into_bytes())
        .map_err(|error| failed(&error))?;
    let status = match client.request::<Value>(request).await {
        Ok(_) => return Ok((None, String::new())),
        Err(kube::Error::Api(status)) => status,
        Err(error) => return Err(failed(&error)),
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: BTreeSet<String> = causes
        .filter(|cause| !cause.message.contains("some validation rules were not checked"))
        .filter(|cause| !cause.field.starts_with('.'))
        .map(|cause| field(&cause.field))
        .collect();
    let fields = if fields.is_empty() { named_fields(&status.message) } else { fields };
    if fields.is_empty() { Err(failed(&status)) } else { Ok((Some(fields), status.message.clone())) }
}

fn of_our_group(manifest: &str) -> String {
    manifest.replace("presenceroute.io/v1", &format!("{GROUP}/v1"))
}

/// The fields that a refusal of the API server, or of kubectl, names.
fn named_fields(message: &str) -> BTreeSet<String> {
    const KINDS: [&str; 10] = [
        ": Invalid value: ",
        ": Required value",
        ": Unsupported value: ",
        ": Duplicate value: ",
        ": Too long: ",
        ": Too many: ",
        ": Forbidden: ",
        ": Not found: ",
        ": Internal error: ",
        ": Invalid value",
    ];
    if message.contains("no matches for kind") {
        return [String::from("apiVersion")].into();
    }
    if message.contains("resource name may not be empty") || message.contains("cannot use generate name") {
        return [String::from("metadata.name")].into();
    }
    if message.contains("json: cannot unmarshal") || message.contains("unable to decode") {
        return [String::from("metadata")].into();
    }
    if message.contains("strict decoding error") {
        let quoted = message.split("unknown field \"").skip(1);
        return quoted.filter_map(|rest| Some(plain(rest.split_once('"')?.0))).collect();
    }
    let Some((_, listed)) = message.split_once("is invalid: ") else { return BTreeSet::new() };
    listed
        .lines()
        .map(|line| line.trim_start_matches("* "))
        .filter(|line| !line.contains("some validation rules were not checked"))
        // The scale subresource says again what has been said of the field that it stands for.
        .filter(|line| !line.starts_with('.'))
        .filter_map(|line| KINDS.iter().find_map(|kind| Some(line.split_once(kind)?.0)))
        .map(field)
        .collect()
}

/// A field as it is named here. Rules on the object itself have none.
fn field(named: &str) -> String {
    if named == "<nil>" { String::new() } else { plain(named) }
}

/// A path with a dot before each name; the API server writes a map's keys in more than one way.
fn plain(field: &str) -> String {
    let mut out = String::new();
    for part in field.split_inclusive(']') {
        match part.strip_suffix(']').and_then(|part| part.rsplit_once('[')) {
            Some((before, key)) if key.parse::<usize>().is_err() => out.push_str(&format!("{before}.{key}")),
            _ => out.push_str(part),
        }
    }
    out
}

/// The full manifest, broken at every place in every way.
fn made_from_the_definition() -> Vec<Case> {
    let full = full();
    let schema = PresenceRoute::crd().spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
    let mut changes = Vec::new();
    change_everything(&schema, &full, "", &mut changes);
    changes.iter().map(|change| changed(&full, change)).collect()
}

/// What the schema does not lead to by itself: rules over several fields, metadata, and what only text can show.
fn handmade() -> Vec<Case> {
    let full = full();
    let written = TEXTS.iter().map(|(what, from, to)| {
        let yaml = FULL.replace(from, to);
        assert_ne!(yaml, FULL, "{what}");
        Case { what: (*what).to_owned(), yaml }
    });
    let whole = Case { what: "the full manifest".into(), yaml: FULL.into() };
    [whole].into_iter().chain(changes().iter().map(|change| changed(&full, change))).chain(written).collect()
}

fn full() -> Value {
    Manifest::parse(FULL).unwrap().routes[0].value().clone()
}

fn changed(full: &Value, (place, value): &Change) -> Case {
    let mut object = full.clone();
    set(&mut object, place, value.clone());
    let shown = value.as_ref().map_or("nothing".into(), ToString::to_string);
    Case {
        what: format!("{place} = {}", shown.chars().take(80).collect::<String>()),
        yaml: object.to_string(),
    }
}

/// What only the text of a manifest can show.
const TEXTS: [(&str, &str, &str); 9] = [
    ("a topic that is a boolean of YAML 1.1", "topic: states", "topic: no"),
    ("a topic that is a number", "topic: states", "topic: 12"),
    ("a quoted topic that looks like a boolean", "topic: states", "topic: \"no\""),
    ("an octal number of replicas", "replicas: 3", "replicas: 0o17"),
    ("a whole number written as a fraction", "replicas: 3", "replicas: 3.0"),
    ("a number with an exponent", "replicas: 3", "replicas: 1e2"),
    ("a boolean of YAML 1.1", "suspend: true", "suspend: on"),
    ("an anchor", "podLabels: {a: b}", "podLabels: &labels {a: b}"),
    ("an empty value", "suspend: true", "suspend:"),
];

/// A place, and what stands there instead; `None` is nothing.
type Change = (String, Option<Value>);

fn changes() -> Vec<Change> {
    let changes = [
        ("/spec/genesys/region", json!("mypurecloud.ie")),
        ("/spec/genesys/apiUrl", json!("http://me@genesys")),
        ("/spec/genesys/apiUrl", json!("ftp://genesys")),
        ("/spec/source/webhook/eventTypes", json!(["presence:*"])),
        ("/spec/source/webhook/eventBridgesPath", json!("bridges")),
        ("/spec/genesys/endpointName", json!("presence/full")),
        ("/spec/endpoint/url", json!("presence.example.com/events")),
        ("/spec/endpoint/url", json!("https://presence.example.com/events?a=b")),
        ("/spec/endpoint/url", json!("https://presence.example.com")),
        ("/spec/endpoint/gateway", json!({"parentRefs": [{"name": "public"}]})),
        ("/spec/endpoint/gateway", json!({"parentRefs": []})),
        ("/spec/routes/0/topic", json!("..")),
        ("/spec/routes/0/topic", json!("gen presence")),
        ("/spec/routes/0/eventType", json!("presence:*:changed")),
        ("/spec/routes/1/key", json!("attributes.")),
        ("/spec/routes/1/key", json!("attributes.user-id")),
        ("/spec/unmatched", json!({"action": "DeadLetter"})),
        ("/spec/unmatched", json!({"action": "Drop", "topic": "rest"})),
        ("/spec/unmatched", json!({"action": "Reject", "status": 400})),
        ("/spec/unmatched", json!({"action": "Reject", "status": 418})),
        ("/spec/unmatched", json!({"action": "Drop", "status": 404})),
        ("/spec/unmatched", json!({})),
        ("/spec/unmatched", json!({"topic": "rest"})),
        ("/spec/unmatched", json!({"invalid": {"topic": "bad"}})),
        ("/spec/unmatched/invalid", json!({})),
        ("/spec/unmatched/invalid/topic", json!("..")),
        ("/spec/kafka/bootstrapServers", json!(["kafka://broker:9092"])),
        ("/spec/kafka/bootstrapServers", json!(["a:1", "b:1", "a:1"])),
        ("/spec/kafka/properties", json!({"a": null})),
        ("/spec/relay/autoscaling", json!({"minReplicas": 5, "maxReplicas": 2})),
        ("/spec/relay/autoscaling", json!({"maxReplicas": 1})),
        ("/spec/relay/resources", json!({})),
        ("/spec/relay/resources", json!({"requests": {"memory": "64Mi"}})),
        ("/spec/relay/resources", json!({"limits": {"cpu": 1}})),
        ("/spec/relay/extraEnv", json!([{"name": "KAFKA_BROKERS"}])),
        ("/spec/relay/extraEnv", json!([{"name": "A"}, {"name": "A"}])),
        ("/spec/relay/extraEnv/0/name", json!("2A")),
        ("/spec/relay/extraEnv/0/valueFrom", json!({"fieldRef": {"fieldPath": "a"}})),
        ("/spec/relay/extraEnv/1/valueFrom", json!({})),
        ("/spec/relay/extraEnv/1/valueFrom/secretKeyRef/name", json!("a b")),
        ("/spec/relay/podDisruptionBudget", json!({})),
        ("/spec/relay/podDisruptionBudget/minAvailable", json!(1)),
        ("/spec/relay/podDisruptionBudget/maxUnavailable", json!(1)),
        ("/spec/relay/podDisruptionBudget/maxUnavailable", json!(-1)),
        ("/spec/relay/podDisruptionBudget/maxUnavailable", json!("101%")),
        ("/spec/relay/podDisruptionBudget/maxUnavailable", json!("half")),
        ("/spec/relay/priorityClassName", json!("Not A Name")),
        ("/spec/relay/securityContext", json!({})),
        ("/metadata/name", json!("24x7-desk")),
        ("/spec/source/webhook/signingSecretRef", json!({"name": "web hook"})),
        ("/spec/genesys/credentialsSecretRef", json!({"name": "a..b"})),
        ("/spec/relay/resources/limits/cpu", json!(0.5)),
        ("/spec/relay/resources/limits/cpu", json!("many")),
        ("/metadata", json!({"name": "a"})),
        ("/metadata", json!({"generateName": "a-"})),
        ("/metadata", json!({})),
        ("/metadata/name", json!("contact.centre")),
        ("/metadata/name", json!("Upper")),
        ("/metadata/name", json!("a".repeat(57))),
        ("/metadata/name", json!("a".repeat(56))),
        ("/metadata/namespace", json!("default")),
        ("/metadata/labels", json!({"a b": "c"})),
        ("/metadata/labels", json!({"a": "c d"})),
        ("/metadata/labels", json!({"a": 1})),
        ("/metadata/labels", json!({"example.com/a": ""})),
        ("/metadata/annotations", json!({"/x": ""})),
        ("/metadata/annotations", json!({"Example.com/A": "b"})),
        ("/metadata/label", json!({})),
        ("/status", json!({"routing": 1})),
        ("/status", json!({"reddiness": 1})),
        ("/apiVersion", json!("presenceroute.io/v1")),
    ];
    let set = changes.map(|(place, value)| (place.to_owned(), Some(value)));
    let gone = ["/spec/genesys/apiUrl", "/spec/source/webhook/eventTypes", "/spec/unmatched/topic", "/spec"];
    set.into_iter().chain(gone.map(|place| (place.to_owned(), None))).collect()
}

/// Every way in which the schema could be broken at every place of `value`, and some in which it could not.
fn change_everything(schema: &JSONSchemaProps, value: &Value, place: &str, changes: &mut Vec<Change>) {
    let mut change = |value: Value| changes.push((place.to_owned(), Some(value)));
    if !place.is_empty() {
        change(Value::Null);
        for other in [json!(7), json!(1.5), json!("*"), json!([]), json!({})] {
            change(other);
        }
    }
    if let Some(most) = schema.max_length {
        change(json!("a".repeat(usize::try_from(most).unwrap())));
        change(json!("a".repeat(usize::try_from(most).unwrap() + 1)));
        // Characters are counted, not bytes.
        change(json!("é".repeat(usize::try_from(most).unwrap())));
    }
    for limit in [schema.minimum, schema.maximum].into_iter().flatten() {
        #[allow(clippy::cast_possible_truncation)]
        let limit = limit as i64;
        [limit - 1, limit, limit + 1].into_iter().for_each(|value| change(json!(value)));
    }
    if schema.type_.as_deref() == Some("integer") {
        change(json!(1_i64 << 31));
    }
    match value {
        Value::Object(fields) => {
            let known = |name: &str| {
                let named = schema.properties.as_ref().and_then(|properties| properties.get(name));
                named.or(match &schema.additional_properties {
                    Some(JSONSchemaPropsOrBool::Schema(any)) => Some(any),
                    _ => None,
                })
            };
            changes.push((format!("{place}/zzz"), Some(json!("unknown"))));
            for (name, value) in fields {
                if let Some(known) = known(name) {
                    let below = format!("{place}/{}", name.replace('/', "~1"));
                    changes.push((below.clone(), None));
                    change_everything(known, value, &below, changes);
                }
            }
        }
        Value::Array(items) => {
            if let Some(first) = items.first() {
                changes.push((place.to_owned(), Some(json!([first, first]))));
            }
            if let Some(most) = schema.max_items {
                let too_many = usize::try_from(most).unwrap() + 1;
                let numbered = (0..too_many).map(|index| match items.first() {
                    Some(Value::String(_)) => json!(format!("kafka-{index}:9092")),
                    other => other.cloned().unwrap_or_default(),
                });
                changes.push((place.to_owned(), Some(numbered.collect())));
            }
            if let Some(JSONSchemaPropsOrArray::Schema(known)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    change_everything(known, item, &format!("{place}/{index}"), changes);
                }
            }
        }
        _ => {}
    }
}

/// Puts a value where the pointer says, or takes away what is there.
fn set(object: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/");
    match (object.pointer_mut(parent).unwrap(), value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(name, value)),
        (Value::Object(fields), None) => drop(fields.remove(&name)),
        (Value::Array(items), Some(value)) => items[name.parse::<usize>().unwrap()] = value,
        (Value::Array(items), None) => drop(items.remove(name.parse().unwrap())),
        (scalar, _) => panic!("{pointer} leads into {scalar}"),
    }
}

/// This test's own definition, as long as it is needed.
struct Definition;

impl Definition {
    fn install() -> Result<Self, Failure> {
        let mut definition: CustomResourceDefinition = PresenceRoute::crd();
        definition.metadata.name = Some(format!("presenceroutes.{GROUP}"));
        definition.spec.group = GROUP.into();
        definition.spec.names.categories = None;
        definition.spec.names.short_names = None;
        let manifest = serde_json::to_value(&definition).map_err(|error| Failure(error.to_string()))?;
        let manifest: Map<String, Value> = manifest.as_object().cloned().unwrap_or_default();
        let manifest = Value::Object(manifest).to_string();
        command::run("kubectl", &["apply", "--server-side", "-f", "-"], Some(&manifest))?;
        let definition = Self;
        let name = format!("crd/presenceroutes.{GROUP}");
        // kubectl refuses to wait for a condition of an object that has no status yet.
        until("the definition is established", Duration::from_secs(30), || {
            kubectl::run(&["wait", "--for=condition=Established", &name, "--timeout=1s"]).map(drop)
        })?;
        Ok(definition)
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        let _ = kubectl::run(&["delete", &format!("crd/presenceroutes.{GROUP}"), "--wait=false"]);
        command::clear();
    }
}
