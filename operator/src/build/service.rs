//! The Service in front of the relay pods.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use presenceroute_crds::presence_route::ServiceType;

use super::{EVENTS_PORT, metadata, relay_name, selector_labels};
use crate::validate::Model;

/// Builds it. It listens where the pods do; metrics and status stay on the pods.
pub fn build(model: &Model) -> Service {
    let mut service = Service {
        metadata: metadata(model, relay_name(model)),
        spec: Some(ServiceSpec {
            type_: Some(
                match model.service.type_ {
                    ServiceType::ClusterIP => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .into(),
            ),
            selector: Some(selector_labels(&model.name)),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: EVENTS_PORT,
                target_port: Some(IntOrString::String("http".into())),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    if !model.service.annotations.is_empty() {
        service.metadata.annotations = Some(model.service.annotations.clone());
    }
    service
}
