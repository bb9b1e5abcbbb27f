//! The configuration of a producer: idempotent, acknowledged by all in-sync replicas, latency before batching.

use presenceroute_core::kafka_properties::{RECONNECT_BACKOFF, RECONNECT_BACKOFF_MAX, number};
use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// The first and the longest wait before a broker is connected to again, unless a manifest says otherwise.
const FIRST_RECONNECT_BACKOFF_MS: i64 = 100;
const LONGEST_RECONNECT_BACKOFF_MS: i64 = 1_000;

/// The configuration without credentials. What the relay's guarantees depend on is set last, so that no property of a
/// manifest replaces it.
pub(super) fn configuration(kafka: &KafkaConfig, limits: &Limits) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in [
        ("client.id", "presenceroute-relay"),
        ("socket.keepalive.enable", "true"),
        ("socket.nagle.disable", "true"),
        ("socket.connection.setup.timeout.ms", "3000"),
        ("retry.backoff.ms", "200"),
        ("retry.backoff.max.ms", "1000"),
        // A missing topic is an answer, not something to wait for.
        ("topic.metadata.propagation.max.ms", "0"),
        // Far below the limit of most topics, so that a full batch is not rejected where each of its records fits.
        ("batch.size", "262144"),
        // The relay has metrics of its own. Those pushed to brokers cost memory, and up to a second at shutdown.
        ("enable.metrics.push", "false"),
        // One text of a few KiB and one for each partition: too seldom to be noticed, often enough for a scrape.
        ("statistics.interval.ms", "10000"),
    ] {
        config.set(name, value);
    }
    config.set(RECONNECT_BACKOFF, FIRST_RECONNECT_BACKOFF_MS.to_string());
    config.set(RECONNECT_BACKOFF_MAX, LONGEST_RECONNECT_BACKOFF_MS.to_string());
    // The sender of a request that takes longer has been answered 503: it is time for another connection.
    config.set("socket.timeout.ms", limits.publish_timeout_ms.max(10).to_string());
    // The body, in structured mode what CloudEvents says of it, the key and the headers. The last three come from the body.
    config.set("message.max.bytes", (limits.max_body_bytes * 3 + (64 << 10)).to_string());
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    // A manifest that sets one of the two waits means the other to fit.
    let milliseconds = |name: &str| kafka.properties.get(name).and_then(|value| number(value));
    match (milliseconds(RECONNECT_BACKOFF), milliseconds(RECONNECT_BACKOFF_MAX)) {
        (Some(first), None) => {
            config.set(RECONNECT_BACKOFF_MAX, first.max(LONGEST_RECONNECT_BACKOFF_MS).to_string());
        }
        (None, Some(longest)) => {
            config.set(RECONNECT_BACKOFF, longest.min(FIRST_RECONNECT_BACKOFF_MS).to_string());
        }
        _ => {}
    }
    for (name, value) in [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("allow.auto.create.topics", "false"),
        ("linger.ms", "0"),
        // The in-flight table bounds what is in flight.
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
    ] {
        config.set(name, value);
    }
    config.set("bootstrap.servers", kafka.bootstrap_servers.join(","));
    config.set("message.timeout.ms", limits.delivery_timeout_ms.to_string());
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_core::kafka_properties::{Kind, SETTABLE, contradiction};
    use rdkafka::error::KafkaError;
    use rdkafka::producer::BaseProducer;
    use rdkafka::types::RDKafkaConfRes;
    use std::collections::BTreeMap;

    #[test]
    fn the_library_knows_every_property_that_can_be_set() {
        let is_known = |name: &str| {
            let refused = ClientConfig::new().set(name, "").create_native_config().err();
            !matches!(refused, Some(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)))
        };
        assert!(!is_known("compresion.type"));
        for (name, _) in &SETTABLE {
            assert!(is_known(name), "{name}");
        }
    }

    /// The least and the largest value of a property.
    fn extremes(kind: &Kind) -> Vec<String> {
        match kind {
            Kind::Number(range) => vec![range.start().to_string(), range.end().to_string()],
            Kind::Boolean => vec!["true".into(), "false".into()],
            Kind::OneOf(values) => values.iter().map(|value| (*value).to_owned()).collect(),
            Kind::Text => vec!["text".into()],
        }
    }

    /// Whether the library makes a producer of the configuration with these properties.
    fn is_accepted(properties: BTreeMap<String, String>) -> Result<(), String> {
        let bootstrap_servers = vec!["127.0.0.1:1".to_owned()];
        let kafka = KafkaConfig { bootstrap_servers, properties, ..KafkaConfig::default() };
        let producer = configuration(&kafka, &Limits::default()).create::<BaseProducer>();
        producer.map(drop).map_err(|error| error.to_string())
    }

    /// The library itself decides. What it refuses would keep every new relay pod from starting.
    #[test]
    fn the_library_accepts_every_value_that_passes_and_every_pair() {
        let values: Vec<_> = SETTABLE
            .iter()
            .flat_map(|(name, kind)| extremes(kind).into_iter().map(move |value| (*name, value)))
            .collect();
        for (index, (name, value)) in values.iter().enumerate() {
            for (other, its) in
                values[index..].iter().filter(|(other, _)| other == name || is_interval(other, name))
            {
                let pair =
                    BTreeMap::from([((*other).to_owned(), its.clone()), ((*name).to_owned(), value.clone())]);
                if contradiction(&pair).is_some() {
                    assert!(is_accepted(pair.clone()).is_err(), "{pair:?}");
                } else {
                    assert_eq!(is_accepted(pair.clone()), Ok(()), "{pair:?}");
                }
            }
        }
    }

    /// Whether both are sizes or times, which the library may compare with each other.
    fn is_interval(one: &str, other: &str) -> bool {
        let unit = |name: &str| [".ms", ".bytes", ".size"].into_iter().find(|unit| name.ends_with(unit));
        let unit = |name: &str| unit(name).map(|unit| unit == ".ms");
        unit(one).is_some() && unit(one) == unit(other)
    }

    #[test]
    fn required_properties_override_a_manifests() {
        let promised = [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("partitioner", "murmur2_random"),
            ("allow.auto.create.topics", "false"),
            ("linger.ms", "0"),
            ("message.timeout.ms", "120000"),
            ("bootstrap.servers", "one:1,two:2"),
        ];
        let bootstrap_servers = vec!["one:1".to_owned(), "two:2".to_owned()];
        let others = promised.map(|(name, _)| (name.to_owned(), "1".to_owned()));
        let mut kafka =
            KafkaConfig { bootstrap_servers, properties: others.into(), ..KafkaConfig::default() };
        kafka.properties.insert("compression.type".into(), "zstd".into());
        let config = configuration(&kafka, &Limits::default());
        for (name, value) in promised.into_iter().chain([("compression.type", "zstd")]) {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
    }
}
