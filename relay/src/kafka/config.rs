//! The configuration of a producer: idempotent, acknowledged by all in-sync replicas, latency before batching.

use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

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
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "1000"),
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
    // The sender of a request that takes longer has been answered 503: it is time for another connection.
    config.set("socket.timeout.ms", limits.publish_timeout_ms.max(10).to_string());
    // The body, in structured mode what CloudEvents says of it, the key and the headers. The last three come from the body.
    config.set("message.max.bytes", (limits.max_body_bytes * 3 + (64 << 10)).to_string());
    for (name, value) in &kafka.properties {
        config.set(name, value);
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
    use presenceroute_core::kafka_properties::SETTABLE;
    use rdkafka::error::KafkaError;
    use rdkafka::types::RDKafkaConfRes;

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
