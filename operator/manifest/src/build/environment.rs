//! The environment variables of the relay's container: the relay's own, those of tracing, and those of the spec.

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, EnvVar, EnvVarSource, ObjectFieldSelector, SecretKeySelector,
};
use presenceroute_core::relay_environment;
use presenceroute_crds::spec::{EnvironmentVariable, Tracing, ValueSource};

use super::config_maps;
use crate::validate::{Model, paths};

/// Every variable, each name once: [`validate`](crate::validate) has refused what contradicts.
pub(super) fn variables(model: &Model) -> Vec<EnvVar> {
    let own = [
        ("PRESENCEROUTE_CONFIG", format!("{}/{}", paths::CONFIG_DIR, config_maps::RELAY_KEY)),
        ("PRESENCEROUTE_ROUTING_FILE", format!("{}/{}", paths::ROUTING_DIR, config_maps::ROUTING_KEY)),
        ("PRESENCEROUTE_LOG_LEVEL_FILE", format!("{}/{}", paths::ROUTING_DIR, config_maps::LOG_LEVEL_KEY)),
        ("PRESENCEROUTE_LOG_FORMAT", "json".to_owned()),
    ];
    let secrets = ("PRESENCEROUTE_SECRET_DIR", paths::SIGNING_DIR.to_owned());
    let definitions = format!("{}/{}", paths::ROUTING_DIR, config_maps::PRESENCE_DEFINITIONS_KEY);
    let definitions = (relay_environment::PRESENCE_DEFINITIONS_FILE, definitions);
    let own = own
        .into_iter()
        .chain(model.push_credential.is_some().then_some(secrets))
        .chain(model.integration().is_some().then_some(definitions));
    let resource = format!("k8s.namespace.name={},presenceroute.route={}", model.namespace, model.name);
    let tracing = model.relay.tracing.iter().flat_map(|tracing| {
        let Tracing { endpoint, sample_percentage } = tracing;
        let ratio = (f64::from(*sample_percentage) / 100.0).to_string();
        let values = [endpoint.clone(), "parentbased_traceidratio".to_owned(), ratio, resource.clone()];
        relay_environment::TRACING.into_iter().zip(values)
    });
    let named = own.chain(tracing);
    let named =
        named.map(|(name, value)| EnvVar { name: name.into(), value: Some(value), ..EnvVar::default() });
    named.chain(model.relay.extra_env.iter().map(variable)).collect()
}

fn variable(variable: &EnvironmentVariable) -> EnvVar {
    EnvVar {
        name: variable.name.clone(),
        value: variable.value.clone(),
        value_from: variable.value_from.as_ref().map(source),
    }
}

fn source(source: &ValueSource) -> EnvVarSource {
    EnvVarSource {
        secret_key_ref: source.secret_key_ref.as_ref().map(|secret| SecretKeySelector {
            name: secret.name.clone(),
            key: secret.key.clone(),
            optional: secret.optional.then_some(true),
        }),
        config_map_key_ref: source.config_map_key_ref.as_ref().map(|config_map| ConfigMapKeySelector {
            name: config_map.name.clone(),
            key: config_map.key.clone(),
            optional: config_map.optional.then_some(true),
        }),
        field_ref: source
            .field_ref
            .as_ref()
            .map(|field| ObjectFieldSelector { field_path: field.field_path.clone(), api_version: None }),
        ..EnvVarSource::default()
    }
}
