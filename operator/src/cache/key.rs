//! The name and the version of an object, as every cache uses them.

use kube::ResourceExt;

/// The name of an object in the cluster, where its kind is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// The name of a PresenceRoute. The objects that belong to a route are in its namespace.
pub type RouteKey = ObjectKey;

impl ObjectKey {
    /// The key of this object.
    pub fn of(object: &impl ResourceExt) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

/// The object's resourceVersion, which etcd counts upwards.
pub fn version(object: &impl ResourceExt) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}
