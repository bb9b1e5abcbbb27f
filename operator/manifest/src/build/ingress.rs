//! The Ingress, when `spec.endpoint.ingress` asks for one: exactly the host and path of the endpoint, and of former ones
//! that Genesys Cloud may still call.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, ServiceBackendPort,
};
use presenceroute_crds::status::EndpointExposure;
use url::Url;

use super::{exposed, metadata, relay_name, service};
use crate::validate::{Exposure, Model};

pub(super) fn build(model: &Model) -> Option<Ingress> {
    let Exposure::Ingress(wanted) = &model.endpoint.as_ref()?.exposure else { return None };
    let exposed = exposed(model, EndpointExposure::Ingress);
    let mut tls: Vec<IngressTLS> = Vec::new();
    for (url, secret) in &exposed {
        let entry = IngressTLS {
            hosts: url.host_str().map(|host| vec![host.to_owned()]),
            secret_name: secret.map(str::to_owned),
        };
        if secret.is_some() && !tls.contains(&entry) {
            tls.push(entry);
        }
    }
    let mut ingress = Ingress {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(IngressSpec {
            ingress_class_name: wanted.class_name.clone(),
            rules: Some(exposed.iter().map(|(url, _)| rule(model, url)).collect()),
            tls: (!tls.is_empty()).then_some(tls),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    };
    if !wanted.annotations.is_empty() {
        ingress.metadata.annotations = Some(wanted.annotations.clone());
    }
    Some(ingress)
}

/// A former endpoint's path, too, is served on the newest port: the sender's protocol ends at the Ingress controller.
fn rule(model: &Model, url: &Url) -> IngressRule {
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
    IngressRule {
        host: url.host_str().map(str::to_owned),
        http: Some(HTTPIngressRuleValue {
            paths: vec![HTTPIngressPath {
                path: Some(url.path().to_owned()),
                path_type: "Exact".into(),
                backend,
            }],
        }),
    }
}
