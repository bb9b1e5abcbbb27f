//! The ConfigMaps: `NAME-routing`, which relays reload, and `NAME-relay`, which they read at their start.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{BuildError, metadata, relay_name};
use crate::validate::Model;

/// The key of the routing table.
pub const ROUTING_KEY: &str = "routing.yaml";
/// The key of the level of the relays' log.
pub const LOG_LEVEL_KEY: &str = "log-level";
/// The key of the names of presence definitions, where the organisation's are known.
pub const PRESENCE_DEFINITIONS_KEY: &str = "presence-definitions.yaml";
/// The key of the relay's configuration.
pub const RELAY_KEY: &str = "relay.yaml";

/// The name of the routing table's ConfigMap.
pub fn routing_name(model: &Model) -> String {
    format!("{}-routing", model.name)
}

/// Builds the ConfigMap of what relays take up while they run: the routing table and the level of their log.
pub fn routing(model: &Model) -> Result<ConfigMap, BuildError> {
    let level = model.relay.log_level().as_str().to_owned();
    let data = [(ROUTING_KEY, model.table.to_yaml()?), (LOG_LEVEL_KEY, level)];
    Ok(config_map(model, routing_name(model), data))
}

/// Builds the ConfigMap of the relay's configuration.
pub fn relay_config(model: &Model) -> Result<ConfigMap, BuildError> {
    Ok(config_map(model, relay_name(&model.name), [(RELAY_KEY, serde_saphyr::to_string(&model.config)?)]))
}

fn config_map<const N: usize>(model: &Model, name: String, data: [(&str, String); N]) -> ConfigMap {
    ConfigMap {
        metadata: metadata(model, name),
        data: Some(data.map(|(key, content)| (key.to_owned(), content)).into()),
        ..ConfigMap::default()
    }
}
