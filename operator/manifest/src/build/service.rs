//! The Service in front of the relay pods.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use presenceroute_crds::spec::ServiceType;

use super::{EVENTS_PORT, metadata, relay_name, selector_labels};
use crate::validate::Model;

/// Where HTTPS is expected.
const HTTPS_PORT: i32 = 443;

/// What both the Service and the pods call the port that events are posted to.
pub fn port_name(model: &Model) -> &'static str {
    if model.config.tls.is_some() { "https" } else { "http" }
}

/// Where the Service listens: where the pods do, or where HTTPS is expected.
pub fn port(model: &Model) -> i32 {
    if model.config.tls.is_some() { HTTPS_PORT } else { EVENTS_PORT }
}

/// Builds it. Metrics and status stay on the pods.
pub(super) fn build(model: &Model) -> Service {
    let mut service = Service {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(ServiceSpec {
            type_: Some(
                match model.endpoint.service.type_ {
                    ServiceType::ClusterIP => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .into(),
            ),
            selector: Some(selector_labels(&model.name)),
            ports: Some(vec![ServicePort {
                name: Some(port_name(model).into()),
                port: port(model),
                target_port: Some(IntOrString::String(port_name(model).into())),
                app_protocol: Some(port_name(model).into()),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    if !model.endpoint.service.annotations.is_empty() {
        service.metadata.annotations = Some(model.endpoint.service.annotations.clone());
    }
    service
}
