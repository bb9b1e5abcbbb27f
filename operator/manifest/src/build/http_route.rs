//! The Gateway API's HTTPRoute, when `spec.endpoint.gateway` asks for one.
//!
//! Made as data: the Gateway API is not part of Kubernetes' own, and these few fields do not need its types.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use presenceroute_crds::status::EndpointExposure;
use serde_json::json;

use super::{exposed, metadata, relay_name, service};
use crate::validate::{Exposure, Model};

/// What the Gateway API calls it.
pub(super) const KIND: &str = "HTTPRoute";

/// HTTPRoute in the version that has been stable since Gateway API 1.0.
pub fn api_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", KIND))
}

pub(super) fn build(model: &Model) -> Result<Option<DynamicObject>, serde_json::Error> {
    let Some(Exposure::Gateway(wanted)) = model.endpoint.as_ref().map(|endpoint| &endpoint.exposure) else {
        return Ok(None);
    };
    let exposed = exposed(model, EndpointExposure::Gateway);
    let (mut hosts, mut paths) = (Vec::new(), Vec::new());
    for (url, _) in &exposed {
        let (host, path) = (url.host_str().unwrap_or_default(), url.path());
        hosts.extend((!hosts.contains(&host)).then_some(host));
        paths.extend((!paths.contains(&path)).then_some(path));
    }
    let matches: Vec<_> =
        paths.into_iter().map(|path| json!({"path": {"type": "Exact", "value": path}})).collect();
    let spec = json!({
        "parentRefs": wanted.parent_refs,
        "hostnames": hosts,
        "rules": [{
            "matches": matches,
            "backendRefs": [{"name": relay_name(&model.name), "port": service::port(model)}],
        }],
    });
    let mut route = DynamicObject::new(&relay_name(&model.name), &api_resource()).data(json!({"spec": spec}));
    route.metadata = metadata(model, relay_name(&model.name));
    Ok(Some(route))
}
