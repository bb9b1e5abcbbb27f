//! Which librdkafka properties a manifest can set.
//!
//! Only those that are listed: a newer librdkafka may have others that undo a promise, and a misspelt one would keep
//! every new relay pod from starting. Names are those of librdkafka's CONFIGURATION.md.

/// The properties that can be set.
pub const SETTABLE: [&str; 34] = [
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "enable.metrics.push",
    "log.connection.close",
    "message.copy.max.bytes",
    "message.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "statistics.interval.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// Why a manifest cannot set this property; `None` when it can.
pub fn refused_property(name: &str) -> Option<&'static str> {
    let reason = match name {
        settable if SETTABLE.contains(&settable) => return None,
        "acks" | "request.required.acks" => {
            "an answer of 200 promises that all in-sync replicas have the event"
        }
        "enable.idempotence"
        | "max.in.flight"
        | "max.in.flight.requests.per.connection"
        | "retries"
        | "message.send.max.retries"
        | "enable.gapless.guarantee"
        | "queuing.strategy"
        | "transactional.id" => {
            "no duplicates and the order of a key's events rest on the idempotent producer"
        }
        "message.timeout.ms" | "delivery.timeout.ms" | "request.timeout.ms" => {
            "the relay answers within its own publish deadline"
        }
        "partitioner" => "records are partitioned as Java clients do it, so that topics co-partition",
        "bootstrap.servers" | "metadata.broker.list" => "spec.kafka.bootstrapServers sets it",
        "linger.ms" | "queue.buffering.max.ms" => "the relay decides when waiting for a batch pays",
        "queue.buffering.max.messages"
        | "queue.buffering.max.kbytes"
        | "queue.buffering.backpressure.threshold" => "the relay bounds what is in flight itself",
        "allow.auto.create.topics" => "a misspelt topic must show, not appear",
        "topic.metadata.propagation.max.ms" => "a missing topic is an answer, not something to wait for",
        "delivery.report.only.error" => "an answer of 200 waits for the report of each event",
        "enable.ssl.certificate.verification" => {
            "the brokers' certificates are always verified; spec.kafka.tls names their CA"
        }
        "enabled_events" | "debug" | "log_level" | "plugin.library.paths" => {
            "the relay observes its producer itself"
        }
        other if other.starts_with("ssl") => "spec.kafka.tls sets it",
        other if other.contains("sasl") || other == "security.protocol" => {
            "spec.kafka.tls and spec.kafka.sasl set it"
        }
        _ => "it is none of the librdkafka properties that docs/securing-kafka.md lists; check its spelling",
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_promises_rest_on_is_refused_with_the_reason() {
        for (name, reason) in [
            ("acks", "in-sync"),
            ("queuing.strategy", "order"),
            ("delivery.report.only.error", "report"),
            ("enable.ssl.certificate.verification", "verified"),
            ("ssl.ca.location", "spec.kafka.tls"),
            ("sasl.password", "spec.kafka.sasl"),
            ("enable.sasl.oauthbearer.unsecure.jwt", "spec.kafka.sasl"),
        ] {
            let refused = refused_property(name).unwrap_or_default();
            assert!(refused.contains(reason), "{name}: {refused}");
        }
    }

    #[test]
    fn what_nobody_has_looked_at_is_refused() {
        for name in ["compresion.type", "test.mock.num.brokers", "Acks", ""] {
            assert!(refused_property(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_can_be_set_is_what_the_page_lists() {
        let page = include_str!("../../docs/securing-kafka.md");
        let listed =
            page.lines().find_map(|line| line.strip_prefix("These can be set: ")).unwrap_or_default();
        let listed: Vec<_> = listed.split('`').skip(1).step_by(2).collect();
        assert_eq!(listed, SETTABLE);
    }

    #[test]
    fn what_changes_no_promise_can_be_set() {
        for name in ["compression.type", "statistics.interval.ms", "client.id", "message.max.bytes"] {
            assert_eq!(refused_property(name), None, "{name}");
        }
    }
}
