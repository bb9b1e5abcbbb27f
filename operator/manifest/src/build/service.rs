//! The Service in front of the relay pods.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use presenceroute_crds::spec::{ServiceTemplate, ServiceType};

use super::{EVENTS_PORT, metadata, relay_name, selector_labels};
use crate::validate::Model;

/// What both the Service and the pods call the port for plain HTTP, and the one for TLS.
pub(super) const HTTP: &str = "http";
pub(super) const HTTPS: &str = "https";

/// Where HTTPS is expected.
const HTTPS_PORT: i32 = 443;

/// What both the Service and the pods call the port that events are posted to.
pub fn port_name(model: &Model) -> &'static str {
    if model.speaks_tls() { HTTPS } else { HTTP }
}

/// Where the Service listens: where the pods do, or where HTTPS is expected.
pub fn port(model: &Model) -> i32 {
    number_of(port_name(model))
}

fn number_of(name: &str) -> i32 {
    if name == HTTPS { HTTPS_PORT } else { EVENTS_PORT }
}

/// Builds it, where the source is called. Metrics and status stay on the pods.
pub(super) fn build(model: &Model) -> Option<Service> {
    let template = &model.endpoint.as_ref()?.service;
    let names = if model.speaks_both() { vec![HTTP, HTTPS] } else { vec![port_name(model)] };
    let mut service = Service {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(ServiceSpec {
            type_: Some(type_name(model, template).into()),
            selector: Some(selector_labels(&model.name)),
            ports: Some(names.into_iter().map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    if !template.annotations.is_empty() {
        service.metadata.annotations = Some(template.annotations.clone());
    }
    Some(service)
}

/// By name, which leads to the pods that have such a port, whatever its number.
fn service_port(name: &'static str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number_of(name),
        target_port: Some(IntOrString::String(name.into())),
        app_protocol: Some(name.into()),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

/// The type that reaches as far as the endpoint's own and every former one: each includes those before it.
fn type_name(model: &Model, template: &ServiceTemplate) -> &'static str {
    let former = model.served.former.iter().map(|former| former.endpoint.service_type);
    let types: Vec<_> = former.chain([template.type_]).collect();
    if types.contains(&ServiceType::LoadBalancer) {
        "LoadBalancer"
    } else if types.contains(&ServiceType::NodePort) {
        "NodePort"
    } else {
        "ClusterIP"
    }
}
