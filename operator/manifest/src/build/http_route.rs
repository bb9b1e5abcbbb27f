//! The Gateway API's HTTPRoute, when `spec.endpoint.gateway` asks for one.
//!
//! Made as data: the Gateway API is not part of Kubernetes' own, and these few fields do not need its types.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use super::{metadata, relay_name, service};
use crate::validate::{Exposure, Model};

/// HTTPRoute in the version that has been stable since Gateway API 1.0.
pub fn api_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"))
}

pub(super) fn build(model: &Model) -> Result<Option<DynamicObject>, serde_json::Error> {
    let Exposure::Gateway(wanted) = &model.endpoint.exposure else { return Ok(None) };
    let spec = json!({
        "parentRefs": wanted.parent_refs,
        "hostnames": [model.endpoint.url.host_str()],
        "rules": [{
            "matches": [{"path": {"type": "Exact", "value": model.endpoint.url.path()}}],
            "backendRefs": [{"name": relay_name(&model.name), "port": service::port(model)}],
        }],
    });
    let mut route = DynamicObject::new(&relay_name(&model.name), &api_resource()).data(json!({"spec": spec}));
    route.metadata = metadata(model, relay_name(&model.name));
    Ok(Some(route))
}
