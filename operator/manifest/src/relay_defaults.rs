//! An installation's defaults for `spec.relay`: one YAML file with fields of that name, which a route overrides.
//!
//! They are applied to a route before anything else is made of it, so that validation and building know no difference
//! between what the route says and what the installation says. Reading the file is left to the caller.

use std::collections::BTreeMap;

use presenceroute_core::relay_environment::TRACING;
use presenceroute_crds::spec::{EnvironmentVariable, Limits, Relay, ServiceAccount, Tracing};
use serde_json::{Value, json};

use crate::admission::admit_route;
use crate::field::FieldPath;
use crate::validate::relay_problems;

/// The longest file in bytes.
const MAX_BYTES: usize = 256 << 10;

/// What no default may be, and why.
const REFUSED: [(&str, &str); 4] = [
    ("replicas", BELONGS_TO_ROUTE),
    ("autoscaling", BELONGS_TO_ROUTE),
    ("tls", BELONGS_TO_ROUTE),
    ("image", "is set by --relay-image (relay.image of the chart)"),
];
const BELONGS_TO_ROUTE: &str = "belongs to each PresenceRoute; set it there";

/// Defaults for the relay pods of every route. Without a file there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelayDefaults(Relay);

/// Why a file holds no defaults.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RelayDefaultsError {
    /// Too long to be meant.
    #[error("it has more than {MAX_BYTES} bytes; shorten it")]
    TooLong,
    /// Not YAML, or no map.
    #[error("it is no map of fields of spec.relay: {0}")]
    Yaml(String),
    /// Fields that are unknown, wrong, or no matter of a default.
    #[error("{}", .0.join("; "))]
    Fields(Vec<String>),
}

impl RelayDefaults {
    /// Reads and checks the text of a file, as strictly as a route's `spec.relay`.
    ///
    /// # Errors
    /// Everything that is wrong in it, with the fields.
    pub fn parse(yaml: &str) -> Result<Self, RelayDefaultsError> {
        if yaml.len() > MAX_BYTES {
            return Err(RelayDefaultsError::TooLong);
        }
        let unreadable = |cause: String| RelayDefaultsError::Yaml(cause);
        let fields: Option<BTreeMap<String, Value>> =
            serde_saphyr::from_str(yaml).map_err(|cause| unreadable(cause.to_string()))?;
        let fields = fields.unwrap_or_default();
        let refused = REFUSED.iter().filter(|(name, _)| fields.contains_key(*name));
        let refused: Vec<_> = refused.map(|(name, cause)| format!("{name} {cause}")).collect();
        if !refused.is_empty() {
            return Err(RelayDefaultsError::Fields(refused));
        }
        let route = admit_route(&route_with(&json!(fields))).map_err(|violations| {
            let named = violations.iter().map(|violation| below_relay(&violation.field, &violation.cause));
            RelayDefaultsError::Fields(named.collect())
        })?;
        let problems = relay_problems(&route.spec.relay);
        if problems.is_empty() {
            Ok(Self(route.spec.relay))
        } else {
            let named = problems.iter().map(|problem| below_relay(&problem.field(), &problem.cause()));
            Err(RelayDefaultsError::Fields(named.collect()))
        }
    }

    /// The annotations that pods get.
    #[must_use]
    pub fn pod_annotations(&self) -> &BTreeMap<String, String> {
        &self.0.pod_annotations
    }

    /// The annotations that their ServiceAccount gets.
    #[must_use]
    pub fn service_account_annotations(&self) -> Option<&BTreeMap<String, String>> {
        self.0.service_account.as_ref().map(|account| &account.annotations)
    }

    /// Gives `relay` what it does not set itself: maps and limits are merged key by key and `extraEnv` name by name, a list
    /// without items is absent, and everything else is taken as a whole or not at all.
    pub fn apply_to(&self, relay: &mut Relay) {
        // Every field by name, so that a new one is decided on here.
        let Relay {
            replicas: _,
            autoscaling: _,
            resources,
            node_selector,
            tolerations,
            affinity,
            topology_spread_constraints,
            priority_class_name,
            service_account,
            security_context,
            extra_env,
            pod_disruption_budget,
            pod_labels,
            pod_annotations,
            image_pull_secrets,
            image: _,
            log_level,
            tracing,
            tls: _,
            network_policy,
            limits,
        } = &self.0;
        fill(&mut relay.resources, resources);
        fill_map(&mut relay.node_selector, node_selector);
        fill_list(&mut relay.tolerations, tolerations);
        fill(&mut relay.affinity, affinity);
        fill(&mut relay.topology_spread_constraints, topology_spread_constraints);
        fill(&mut relay.priority_class_name, priority_class_name);
        if let Some(ServiceAccount { annotations }) = service_account {
            fill_map(&mut relay.service_account.get_or_insert_default().annotations, annotations);
        }
        fill(&mut relay.security_context, security_context);
        fill(&mut relay.pod_disruption_budget, pod_disruption_budget);
        fill_map(&mut relay.pod_labels, pod_labels);
        fill_map(&mut relay.pod_annotations, pod_annotations);
        fill_list(&mut relay.image_pull_secrets, image_pull_secrets);
        fill(&mut relay.log_level, log_level);
        fill(&mut relay.network_policy, network_policy);
        fill_limits(&mut relay.limits, limits);
        fill_tracing(relay, tracing.as_ref());
        fill_environment(relay, extra_env);
    }
}

/// A route with nothing of its own but these fields of `spec.relay`.
fn route_with(relay: &Value) -> Value {
    json!({
        "apiVersion": "presenceroute.io/v1alpha1",
        "kind": "PresenceRoute",
        "metadata": {"name": "defaults"},
        "spec": {
            "genesys": {"region": "mypurecloud.com", "credentialsSecretRef": {"name": "oauth"}},
            "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
            "endpoint": {"url": "https://presence.example.com/"},
            "routes": [{"eventType": "presence:state:changed", "topic": "states"}],
            "kafka": {"bootstrapServers": ["kafka:9092"]},
            "relay": relay,
        },
    })
}

/// A problem by the field's name in the file.
fn below_relay(field: &FieldPath, cause: &str) -> String {
    let relay = FieldPath::parse("spec.relay");
    match field.below(&relay).map(|field| field.to_string()) {
        Some(field) if !field.is_empty() => format!("{field}: {cause}"),
        _ => cause.to_owned(),
    }
}

fn fill<T: Clone>(field: &mut Option<T>, default: &Option<T>) {
    if field.is_none() {
        field.clone_from(default);
    }
}

fn fill_list<T: Clone>(field: &mut Vec<T>, default: &[T]) {
    if field.is_empty() {
        field.extend_from_slice(default);
    }
}

fn fill_limits(limits: &mut Limits, default: &Limits) {
    let Limits { max_body_bytes, idle_timeout_ms, dedupe_max_ids, dedupe_window_ms } = default;
    fill(&mut limits.max_body_bytes, max_body_bytes);
    fill(&mut limits.idle_timeout_ms, idle_timeout_ms);
    fill(&mut limits.dedupe_max_ids, dedupe_max_ids);
    fill(&mut limits.dedupe_window_ms, dedupe_window_ms);
}

fn fill_map(field: &mut BTreeMap<String, String>, default: &BTreeMap<String, String>) {
    for (key, value) in default {
        field.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// The variables of tracing are set by one of the two: a route that sets one itself has not asked for the default's
/// collector.
fn fill_tracing(relay: &mut Relay, default: Option<&Tracing>) {
    let is_set = relay.extra_env.iter().any(|variable| TRACING.contains(&variable.name.as_str()));
    if !is_set && relay.tracing.is_none() {
        relay.tracing = default.cloned();
    }
}

/// After those of the route, whose places in its list stay what they are. A variable that the route's `tracing` sets is
/// overridden by it.
fn fill_environment(relay: &mut Relay, default: &[EnvironmentVariable]) {
    let by_tracing: &[_] = if relay.tracing.is_some() { &TRACING } else { &[] };
    let is_overridden = |name: &str, own: &[EnvironmentVariable]| {
        by_tracing.contains(&name) || own.iter().any(|variable| variable.name == name)
    };
    for variable in default {
        if !is_overridden(&variable.name, &relay.extra_env) {
            relay.extra_env.push(variable.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(yaml: &str) -> Relay {
        serde_saphyr::from_str(yaml).unwrap()
    }

    /// A route's relay with an installation's defaults, as JSON.
    fn applied(defaults: &str, route: &str) -> Value {
        let mut relay = relay(route);
        RelayDefaults::parse(defaults).unwrap().apply_to(&mut relay);
        serde_json::to_value(relay).unwrap()
    }

    fn refusal(defaults: &str) -> String {
        RelayDefaults::parse(defaults).err().unwrap().to_string()
    }

    #[test]
    fn a_file_without_fields_changes_nothing() {
        for empty in ["", "{}", "# nothing\n", "null"] {
            assert_eq!(RelayDefaults::parse(empty), Ok(RelayDefaults::default()), "{empty:?}");
            assert_eq!(applied(empty, "{logLevel: debug}"), json!({"replicas": 2, "logLevel": "debug"}));
        }
    }

    #[test]
    fn a_route_without_a_field_has_the_installations() {
        let defaults = "
            resources: {limits: {memory: 1Gi}}
            nodeSelector: {pool: voice}
            tolerations: [{key: voice, operator: Exists}]
            affinity: {nodeAffinity: {}}
            topologySpreadConstraints: []
            priorityClassName: voice-critical
            serviceAccount: {annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/relay'}}
            securityContext: {}
            extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}]
            podDisruptionBudget: {maxUnavailable: 25%}
            podLabels: {team: voice}
            podAnnotations: {example.com/scrape: 'true'}
            imagePullSecrets: [{name: registry}]
            logLevel: warn
            tracing: {endpoint: 'http://collector:4318'}
            networkPolicy: {}";
        let fields: BTreeMap<String, Value> = serde_saphyr::from_str(defaults).unwrap();
        let mut expected = json!(fields);
        expected["replicas"] = json!(2);
        expected["tracing"]["samplePercentage"] = json!(100);
        assert_eq!(applied(defaults, "{}"), expected);
    }

    #[test]
    fn maps_are_merged_key_by_key_and_the_route_wins() {
        for field in ["nodeSelector", "podLabels", "podAnnotations"] {
            let merged =
                applied(&format!("{field}: {{a: '1', b: '1'}}"), &format!("{field}: {{b: '2', c: '2'}}"));
            assert_eq!(merged[field], json!({"a": "1", "b": "2", "c": "2"}), "{field}");
        }
        let merged = applied(
            "serviceAccount: {annotations: {a: '1', b: '1'}}",
            "serviceAccount: {annotations: {b: '2'}}",
        );
        assert_eq!(merged["serviceAccount"]["annotations"], json!({"a": "1", "b": "2"}));
    }

    #[test]
    fn variables_are_merged_by_name_after_those_of_the_route() {
        let merged = applied(
            "extraEnv: [{name: A, value: '1'}, {name: B, value: '1'}]",
            "extraEnv: [{name: C, value: '2'}, {name: B, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
        );
        let expected = json!([
            {"name": "C", "value": "2"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "A", "value": "1"},
        ]);
        assert_eq!(merged["extraEnv"], expected);
    }

    #[test]
    fn everything_else_is_the_routes_as_a_whole() {
        for (field, default, own) in [
            ("resources", "{requests: {cpu: 1}, limits: {memory: 1Gi}}", "{limits: {memory: 2Gi}}"),
            ("tolerations", "[{key: a}, {key: b}]", "[{key: c}]"),
            ("imagePullSecrets", "[{name: a}]", "[{name: b}]"),
            ("securityContext", "{runAsUser: 1000, fsGroup: 1000}", "{}"),
            ("podDisruptionBudget", "{maxUnavailable: 1}", "{minAvailable: 1}"),
            (
                "topologySpreadConstraints",
                "[{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]",
                "[]",
            ),
            ("networkPolicy", "{metricsFrom: [{podSelector: {}}]}", "{ingressFrom: [{podSelector: {}}]}"),
            ("logLevel", "error", "debug"),
            ("priorityClassName", "a", "b"),
        ] {
            let of = |value: &str| serde_saphyr::from_str::<Value>(value).unwrap();
            assert_eq!(
                applied(&format!("{field}: {default}"), &format!("{field}: {own}"))[field],
                of(own),
                "{field}"
            );
        }
    }

    #[test]
    fn tracing_and_its_variables_come_from_one_side() {
        let collector = "tracing: {endpoint: 'http://collector:4318'}";
        let variable =
            "extraEnv: [{name: OTEL_EXPORTER_OTLP_ENDPOINT, value: 'http://other:4318'}, {name: A}]";
        let merged = applied(variable, collector);
        assert_eq!(merged["extraEnv"], json!([{"name": "A"}]));
        let merged = applied(collector, variable);
        assert_eq!((&merged["tracing"], merged["extraEnv"].as_array().unwrap().len()), (&Value::Null, 2));
        assert!(refusal(&format!("{collector}\n{variable}")).contains("is set by spec.relay.tracing"));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_by_its_field() {
        for (wrong, named) in [
            ("replicas: 3", "replicas belongs to each PresenceRoute; set it there"),
            ("autoscaling: {maxReplicas: 3}", "autoscaling belongs to each PresenceRoute; set it there"),
            ("image: relay:2", "image is set by --relay-image (relay.image of the chart)"),
            ("podLabel: {a: b}", "podLabel: unknown field"),
            ("logLevel: verbose", "logLevel: Unsupported value; use "),
            ("priorityClassName: Not A Name", "priorityClassName: must be the name of a PriorityClass"),
            (
                "securityContext: {runAsUser: 0}",
                "securityContext.runAsUser: must be greater than or equal to 1",
            ),
            (
                "podDisruptionBudget: {}",
                "podDisruptionBudget: exactly one of minAvailable and maxUnavailable",
            ),
            (
                "podDisruptionBudget: {maxUnavailable: half}",
                "podDisruptionBudget.maxUnavailable: must be a number",
            ),
            (
                "extraEnv: [{name: KAFKA_BROKERS}]",
                "extraEnv[0].name: must not be one of the relay's own variables",
            ),
            ("extraEnv: [{name: A}, {name: A}]", "extraEnv[1]: Duplicate value"),
            ("podLabels: {'a b': c}", "podLabels: \"a b\" cannot be a label's key"),
            ("serviceAccount: {annotations: {'/x': ''}}", "serviceAccount.annotations: \"/x\" cannot be"),
            ("[]", "it is no map of fields of spec.relay"),
            ("a: b: c", "it is no map of fields of spec.relay"),
        ] {
            let refusal = refusal(wrong);
            assert!(refusal.contains(named), "{wrong}: {refusal}");
        }
        assert_eq!(RelayDefaults::parse(&" ".repeat(MAX_BYTES + 1)), Err(RelayDefaultsError::TooLong));
    }
}
