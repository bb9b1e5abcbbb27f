//! The finalizer that keeps a PresenceRoute until its registration is gone. It is added before the first call that could
//! register; a route that never got so far can be deleted without any call.

use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use presenceroute_crds::PresenceRoute;
use serde_json::json;

use crate::apply::FIELD_MANAGER;

/// Its name.
pub const FINALIZER: &str = "presenceroute.io/registration";

/// Whether an object has it.
pub fn has_finalizer(object: &impl ResourceExt) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Adds it, unless it is there.
///
/// # Errors
/// The API server's.
pub async fn add_finalizer(client: &Client, route: &PresenceRoute) -> Result<(), kube::Error> {
    if has_finalizer(route) {
        return Ok(());
    }
    set_finalizers(client, route, &[FINALIZER]).await.map(drop)
}

/// Removes it, so that the API server deletes the object.
///
/// # Errors
/// The API server's; that the object is gone already is none.
pub async fn remove_finalizer(client: &Client, route: &PresenceRoute) -> Result<(), kube::Error> {
    match set_finalizers(client, route, &[]).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        left => remove_foreign_entry(client, left?).await,
    }
}

/// Removes an entry that another field manager has written, as a restore from a backup does: server-side apply leaves
/// it.
async fn remove_foreign_entry(
    client: &Client,
    left: PartialObjectMeta<PresenceRoute>,
) -> Result<(), kube::Error> {
    let (ours, others): (Vec<_>, Vec<_>) =
        left.finalizers().iter().partition(|finalizer| *finalizer == FINALIZER);
    if ours.is_empty() {
        return Ok(());
    }
    let api: Api<PresenceRoute> = Api::namespaced(client.clone(), &left.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"resourceVersion": left.resource_version(), "finalizers": others}});
    api.patch_metadata(&left.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Server-side apply owns only this entry of the list. The uid keeps it from creating a new object of the same name.
async fn set_finalizers(
    client: &Client,
    route: &PresenceRoute,
    ours: &[&str],
) -> Result<PartialObjectMeta<PresenceRoute>, kube::Error> {
    let api: Api<PresenceRoute> = Api::namespaced(client.clone(), &route.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": PresenceRoute::api_version(&()),
        "kind": PresenceRoute::kind(&()),
        "metadata": {"uid": route.uid(), "finalizers": ours},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_metadata(&route.name_any(), &parameters, &Patch::Apply(patch)).await
}
