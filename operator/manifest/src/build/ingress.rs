//! The Ingress, when `spec.endpoint.ingress` asks for one: exactly the host and path of the endpoint.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, ServiceBackendPort,
};

use super::{metadata, relay_name, service};
use crate::validate::{Exposure, Model};

pub(super) fn build(model: &Model) -> Option<Ingress> {
    let Exposure::Ingress(wanted) = &model.endpoint.exposure else { return None };
    let host = model.endpoint.url.host_str().map(str::to_owned);
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: relay_name(&model.name),
            port: Some(ServiceBackendPort {
                number: Some(service::port(model)),
                ..ServiceBackendPort::default()
            }),
        }),
        ..IngressBackend::default()
    };
    let mut ingress = Ingress {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(IngressSpec {
            ingress_class_name: wanted.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: host.clone(),
                http: Some(HTTPIngressRuleValue {
                    paths: vec![HTTPIngressPath {
                        path: Some(model.endpoint.url.path().to_owned()),
                        path_type: "Exact".into(),
                        backend,
                    }],
                }),
            }]),
            tls: wanted.tls_secret_name.as_ref().map(|secret| {
                vec![IngressTLS { hosts: host.map(|host| vec![host]), secret_name: Some(secret.clone()) }]
            }),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    };
    if !wanted.annotations.is_empty() {
        ingress.metadata.annotations = Some(wanted.annotations.clone());
    }
    Some(ingress)
}
