//! The ConfigMaps: `NAME-routing`, which relays reload, and `NAME-relay`, which they read at their start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{BuildError, metadata, relay_name};
use crate::validate::Model;

/// The key of the routing table.
pub const ROUTING_KEY: &str = "routing.yaml";
/// The key of the relay's configuration.
pub const RELAY_KEY: &str = "relay.yaml";

/// The name of the routing table's ConfigMap.
pub fn routing_name(model: &Model) -> String {
    format!("{}-routing", model.name)
}

/// Builds the routing table's ConfigMap.
pub fn routing(model: &Model) -> Result<ConfigMap, BuildError> {
    Ok(config_map(model, routing_name(model), ROUTING_KEY, model.table.to_yaml()?))
}

/// Builds the ConfigMap of the relay's configuration.
pub fn relay_config(model: &Model) -> Result<ConfigMap, BuildError> {
    Ok(config_map(model, relay_name(model), RELAY_KEY, serde_saphyr::to_string(&model.config)?))
}

fn config_map(model: &Model, name: String, key: &str, content: String) -> ConfigMap {
    ConfigMap {
        metadata: metadata(model, name),
        data: Some(BTreeMap::from([(key.to_owned(), content)])),
        ..ConfigMap::default()
    }
}
