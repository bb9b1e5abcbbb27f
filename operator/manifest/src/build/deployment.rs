//! The Deployment of the relay pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction,
    LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use presenceroute_crds::spec::PodSecurity;
use sha2::{Digest, Sha256};

use super::{
    ADMIN_PORT, CONFIG_HASH_ANNOTATION, EVENTS_PORT, RelayImage, TLS_EVENTS_PORT, config_maps, environment,
    labels, metadata, relay_name, selector, service, service_account,
};
use crate::rotation::secret_name;
use crate::validate::{Model, paths};

/// The user of the distroless images called nonroot.
const NONROOT: i64 = 65532;

/// How long a pod may take to leave: it answers on while proxies learn of it, finishes what is in flight (each within
/// the publish timeout), flushes.
const TERMINATION_GRACE_SECONDS: i64 = 30;

pub(super) fn build(model: &Model, relay_config: &ConfigMap, image: &RelayImage) -> Deployment {
    Deployment {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(DeploymentSpec {
            // The autoscaler owns the number where there is one.
            replicas: model.relay.autoscaling.is_none().then_some(model.relay.replicas),
            selector: selector(model),
            revision_history_limit: Some(3),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(model, relay_config)),
                spec: Some(pod_spec(model, image)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod_metadata(model: &Model, relay_config: &ConfigMap) -> ObjectMeta {
    // What the spec adds comes first, so that it cannot replace what selects the pods.
    let mut pod_labels = model.relay.pod_labels.clone();
    pod_labels.extend(labels(model));
    let mut annotations = model.relay.pod_annotations.clone();
    annotations.insert(
        CONFIG_HASH_ANNOTATION.into(),
        config_hash(service_account::annotations(model), relay_config),
    );
    ObjectMeta { labels: Some(pod_labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

/// A cloud identity that the ServiceAccount's annotations name is given to a pod at its start.
pub(super) fn config_hash(identity: Option<&BTreeMap<String, String>>, relay_config: &ConfigMap) -> String {
    let mut hash = Sha256::new();
    for (key, content) in relay_config.data.iter().flatten().chain(identity.into_iter().flatten()) {
        hash.update(key);
        hash.update(content);
    }
    let mut digest = hex::encode(hash.finalize());
    digest.truncate(12);
    digest
}

fn pod_spec(model: &Model, image: &RelayImage) -> PodSpec {
    let relay = &model.relay;
    PodSpec {
        service_account_name: Some(relay_name(&model.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        priority_class_name: relay.priority_class_name.clone(),
        security_context: Some(pod_security_context(model)),
        image_pull_secrets: (!relay.image_pull_secrets.is_empty()).then(|| {
            relay
                .image_pull_secrets
                .iter()
                .map(|secret| LocalObjectReference { name: secret.name.clone() })
                .collect()
        }),
        node_selector: Some(node_selector(model)),
        tolerations: (!relay.tolerations.is_empty()).then(|| relay.tolerations.clone()),
        affinity: relay.affinity.clone(),
        topology_spread_constraints: Some(
            relay.topology_spread_constraints.clone().unwrap_or_else(|| vec![spread_over_nodes(model)]),
        ),
        containers: vec![container(model, image)],
        volumes: Some(volumes(model)),
        ..PodSpec::default()
    }
}

/// The user and the groups; those of the spec may be left to the platform. The rest is no matter of choice.
fn security(model: &Model) -> PodSecurity {
    model.relay.security_context.clone().unwrap_or_else(|| PodSecurity {
        run_as_user: Some(NONROOT),
        run_as_group: Some(NONROOT),
        fs_group: Some(NONROOT),
        ..PodSecurity::default()
    })
}

fn pod_security_context(model: &Model) -> PodSecurityContext {
    let PodSecurity { run_as_user, run_as_group, fs_group, supplemental_groups, se_linux_options } =
        security(model);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user,
        run_as_group,
        fs_group,
        supplemental_groups: (!supplemental_groups.is_empty()).then_some(supplemental_groups),
        se_linux_options,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// The mode of mounted Secrets. Their owner is root: the pod's user reads them by its group, or, where the group is left
/// to the platform, as anybody in the container.
fn secret_mode(model: &Model) -> i32 {
    if security(model).fs_group.is_some() { 0o440 } else { 0o444 }
}

/// The relay's image is for Linux; the spec may say otherwise for an image of its own.
fn node_selector(model: &Model) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    labels.extend(model.relay.node_selector.clone());
    labels
}

fn spread_over_nodes(model: &Model) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(selector(model)),
        ..TopologySpreadConstraint::default()
    }
}

fn container(model: &Model, image: &RelayImage) -> Container {
    Container {
        name: "relay".into(),
        image: Some(model.relay.image.clone().unwrap_or_else(|| image.reference.clone())),
        image_pull_policy: Some(image.pull_policy.clone()),
        env: Some(environment::variables(model)),
        ports: Some(ports(model)),
        resources: Some(model.relay.resources()),
        // The last line of a relay that ends is in the pod's status, and from there in the route's.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(3),
            ..probe("/livez")
        }),
        // No startup probe: with one, the kubelet looks at a pod whose container runs only at that probe's next second, and
        // without one at once, when the relay has long been up.
        readiness_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(3),
            ..probe("/readyz")
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(volume_mounts(model)),
        ..Container::default()
    }
}

/// While one protocol replaces the other, each has its port.
fn ports(model: &Model) -> Vec<ContainerPort> {
    let mut ports = match (&model.endpoint, model.speaks_both()) {
        (None, _) => Vec::new(),
        (Some(_), true) => vec![port(service::HTTP, EVENTS_PORT), port(service::HTTPS, TLS_EVENTS_PORT)],
        (Some(_), false) => vec![port(service::port_name(model), EVENTS_PORT)],
    };
    ports.push(port("admin", ADMIN_PORT));
    ports
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("admin".into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// Whole directories, never a `subPath`, whose content would stay as it was at the pod's start.
fn volume_mounts(model: &Model) -> Vec<VolumeMount> {
    let own = [("relay", paths::CONFIG_DIR), ("routing", paths::ROUTING_DIR)];
    let own =
        own.into_iter().chain(model.push_credential.is_some().then_some(("signing", paths::SIGNING_DIR)));
    let named = model.mounts.iter().map(|mount| (mount.volume, mount.directory));
    own.chain(named)
        .map(|(name, directory)| VolumeMount {
            name: name.into(),
            mount_path: directory.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        })
        .collect()
}

fn volumes(model: &Model) -> Vec<Volume> {
    let config_map = |volume: &str, name: String| Volume {
        name: volume.into(),
        config_map: Some(ConfigMapVolumeSource { name, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let mode = secret_mode(model);
    let secret = |volume: &str, name: String| Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(mode),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    [config_map("relay", relay_name(&model.name)), config_map("routing", config_maps::routing_name(model))]
        .into_iter()
        .chain(model.push_credential.is_some().then(|| secret("signing", secret_name(&model.name))))
        .chain(model.mounts.iter().map(|mount| secret(mount.volume, mount.secret.clone())))
        .collect()
}
