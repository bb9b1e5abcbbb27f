//! The Job that runs a replay: the relay's image, configuration and credentials, as the route's Deployment has them.
//!
//! Pure. It carries no label by which the route's Service, budget or operator would take its pod for a relay.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use presenceroute_crds::PresenceRoute;
use presenceroute_manifest::build::{RELAY_COMPONENT, ROUTE_LABEL};

use super::ReplayArguments;

/// The component of a replay's pod; that of relays is selected by Services and budgets.
const COMPONENT: &str = "replay";
/// The longest time of a replay, in seconds. The next one goes on where it ended.
const DEADLINE_SECONDS: i64 = 6 * 3600;
/// How many seconds a finished Job is kept if the plugin could not delete it.
const KEPT_SECONDS: i32 = 3600;
/// What the relay's log is set by in its Deployment.
const LOG_VARIABLES: [&str; 3] =
    ["PRESENCEROUTE_LOG_LEVEL", "PRESENCEROUTE_LOG_LEVEL_FILE", "PRESENCEROUTE_LOG_FORMAT"];

/// The name of a route's Job. There is one at a time, so that no two replays publish the same.
pub(super) fn name(route: &str) -> String {
    format!("{route}-replay")
}

/// The Job, or `None` where the Deployment has no relay.
pub(super) fn job(
    route: &PresenceRoute,
    deployment: &Deployment,
    arguments: &ReplayArguments,
) -> Option<Job> {
    let mut pod = deployment.spec.as_ref()?.template.spec.clone()?;
    let relay = pod.containers.iter().find(|container| container.name == RELAY_COMPONENT.1)?.clone();
    pod.containers = vec![container(relay, arguments)];
    let route_name = route.name_any();
    let labels = BTreeMap::from([
        (ROUTE_LABEL.to_owned(), route_name.clone()),
        (RELAY_COMPONENT.0.to_owned(), COMPONENT.to_owned()),
        ("app.kubernetes.io/name".to_owned(), "presenceroute-replay".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "kubectl-presenceroute".to_owned()),
    ]);
    Some(Job {
        metadata: ObjectMeta {
            name: Some(name(&route_name)),
            labels: Some(labels.clone()),
            // It goes with the route.
            owner_references: Some(vec![OwnerReference {
                api_version: PresenceRoute::api_version(&()).into_owned(),
                kind: PresenceRoute::kind(&()).into_owned(),
                name: route_name,
                uid: route.uid()?,
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // What failed needs a person first.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    restart_policy: Some("Never".into()),
                    // They are about the relays of a route, among which this pod is none.
                    affinity: None,
                    topology_spread_constraints: None,
                    ..pod
                }),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    })
}

/// The relay's container, with its files and variables, and without what serves.
fn container(relay: Container, arguments: &ReplayArguments) -> Container {
    let mut variables = relay.env.unwrap_or_default();
    variables.retain(|variable| !LOG_VARIABLES.contains(&variable.name.as_str()));
    variables.extend(
        [("PRESENCEROUTE_LOG_LEVEL", "warn"), ("PRESENCEROUTE_LOG_FORMAT", "text")].map(|(name, value)| {
            EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() }
        }),
    );
    Container {
        name: COMPONENT.into(),
        args: Some(command_line(arguments)),
        env: Some(variables),
        ports: None,
        liveness_probe: None,
        readiness_probe: None,
        startup_probe: None,
        ..relay
    }
}

/// Each value in one word with its flag, so that one which begins with a hyphen is a value all the same.
fn command_line(arguments: &ReplayArguments) -> Vec<String> {
    let ReplayArguments { route: _, topic, condition, dry_run, from_beginning } = arguments;
    let mut words = vec!["replay".to_owned(), format!("--topic={topic}")];
    words.extend(condition.iter().map(|condition| format!("--where={condition}")));
    words.extend(dry_run.then(|| "--dry-run".to_owned()));
    words.extend(from_beginning.then(|| "--from-beginning".to_owned()));
    // Kubernetes expands $(NAME) in arguments; $$ is one dollar sign.
    words.into_iter().map(|word| word.replace("$(", "$$(")).collect()
}

#[cfg(test)]
mod tests {
    use presenceroute_manifest::build::selector_labels;
    use serde_json::json;

    use super::*;
    use crate::route_name::RouteName;

    fn route() -> PresenceRoute {
        let manifest = include_str!("../../../examples/dead-letter.yaml");
        let document = manifest.split("---\n").find(|part| part.contains("kind: PresenceRoute")).unwrap();
        let mut route: PresenceRoute = serde_saphyr::from_str(document).unwrap();
        route.metadata.name = Some("desk".into());
        route.metadata.uid = Some("uid-1".into());
        route
    }

    fn arguments() -> ReplayArguments {
        ReplayArguments {
            route: RouteName { name: "desk".into() },
            topic: "dead".into(),
            condition: Some("id == '-$(HOME)'".into()),
            dry_run: true,
            from_beginning: false,
        }
    }

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "desk-relay"},
            "spec": {
                "selector": {"matchLabels": selector_labels("desk")},
                "template": {
                    "metadata": {"labels": selector_labels("desk"), "annotations": {"a": "b"}},
                    "spec": {
                        "serviceAccountName": "desk-relay",
                        "automountServiceAccountToken": false,
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532},
                        "topologySpreadConstraints": [
                            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
                        ],
                        "containers": [
                            {"name": "mesh", "image": "mesh:1"},
                            {
                                "name": "relay", "image": "relay:1",
                                "env": [
                                    {"name": "PRESENCEROUTE_CONFIG", "value": "/etc/relay.yaml"},
                                    {"name": "PRESENCEROUTE_LOG_LEVEL_FILE", "value": "/etc/log-level"},
                                    {"name": "PRESENCEROUTE_LOG_FORMAT", "value": "json"},
                                ],
                                "ports": [{"containerPort": 8080}],
                                "livenessProbe": {"httpGet": {"port": 9090}},
                                "readinessProbe": {"httpGet": {"port": 9090}},
                                "securityContext": {"readOnlyRootFilesystem": true},
                                "volumeMounts": [{"name": "kafka-sasl", "mountPath": "/etc/kafka"}],
                            },
                        ],
                        "volumes": [{"name": "kafka-sasl", "secret": {"secretName": "user"}}],
                    },
                },
            },
        }))
        .unwrap()
    }

    #[test]
    fn it_runs_as_the_relay_and_serves_nothing() {
        let job = job(&route(), &deployment(), &arguments()).unwrap();
        let template = job.spec.unwrap().template;
        let pod = serde_json::to_value(template.spec.unwrap()).unwrap();
        assert_eq!(pod["restartPolicy"], "Never");
        assert_eq!(pod["serviceAccountName"], "desk-relay");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"], json!({"runAsNonRoot": true, "runAsUser": 65532}));
        assert_eq!(pod["topologySpreadConstraints"], json!(null));
        assert_eq!(
            pod["containers"],
            json!([{
                "name": "replay", "image": "relay:1",
                "args": ["replay", "--topic=dead", "--where=id == '-$$(HOME)'", "--dry-run"],
                "env": [
                    {"name": "PRESENCEROUTE_CONFIG", "value": "/etc/relay.yaml"},
                    {"name": "PRESENCEROUTE_LOG_LEVEL", "value": "warn"},
                    {"name": "PRESENCEROUTE_LOG_FORMAT", "value": "text"},
                ],
                "securityContext": {"readOnlyRootFilesystem": true},
                "volumeMounts": [{"name": "kafka-sasl", "mountPath": "/etc/kafka"}],
            }])
        );
    }

    #[test]
    fn nothing_takes_its_pod_for_a_relay() {
        let job = job(&route(), &deployment(), &arguments()).unwrap();
        let labels = job.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert!(
            selector_labels("desk").iter().any(|(key, value)| labels.get(key) != Some(value)),
            "{labels:?}"
        );
        assert_ne!(labels[RELAY_COMPONENT.0], RELAY_COMPONENT.1);
    }

    #[test]
    fn it_is_one_at_a_time_and_goes_with_the_route() {
        let job = job(&route(), &deployment(), &arguments()).unwrap();
        assert_eq!(job.metadata.name.as_deref(), Some("desk-replay"));
        let owner = &job.metadata.owner_references.unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()),
            ("PresenceRoute", "desk", "uid-1")
        );
        let spec = job.spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.ttl_seconds_after_finished), (Some(0), Some(KEPT_SECONDS)));
    }

    #[test]
    fn a_deployment_without_a_relay_makes_none() {
        let mut other = deployment();
        other.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers.pop();
        assert!(job(&route(), &other, &arguments()).is_none());
    }
}
