//! Which librdkafka properties a manifest can set.
//!
//! Only those that are listed: a newer librdkafka may have others that undo a promise, and a misspelt one would keep
//! every new relay pod from starting. A wrong value would do the same, so that it is checked, too. Names and ranges are
//! those of librdkafka's CONFIGURATION.md.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What the value of a property is.
pub enum Kind {
    /// A whole number in this range.
    Number(RangeInclusive<i64>),
    /// True or false.
    Boolean,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Any text.
    Text,
}

use Kind::{Boolean, Number, OneOf, Text};

/// The first wait before a broker is connected to again, in milliseconds.
pub const RECONNECT_BACKOFF: &str = "reconnect.backoff.ms";
/// The longest such wait. librdkafka makes no client where the first is longer.
pub const RECONNECT_BACKOFF_MAX: &str = "reconnect.backoff.max.ms";

/// The largest value of a number without a bound of its own.
const MAX: i64 = 2_147_483_647;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// The properties that can be set, and their values.
pub static SETTABLE: [(&str, Kind); 34] = [
    ("batch.num.messages", Number(1..=1_000_000)),
    ("batch.size", Number(1..=MAX)),
    ("broker.address.family", OneOf(&["any", "v4", "v6"])),
    ("broker.address.ttl", Number(0..=86_400_000)),
    ("client.dns.lookup", OneOf(&["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"])),
    ("client.id", Text),
    ("client.rack", Text),
    ("compression.codec", OneOf(&CODECS)),
    ("compression.level", Number(-1..=12)),
    ("compression.type", OneOf(&CODECS)),
    ("connections.max.idle.ms", Number(0..=MAX)),
    ("enable.metrics.push", Boolean),
    ("log.connection.close", Boolean),
    ("message.copy.max.bytes", Number(0..=1_000_000_000)),
    ("message.max.bytes", Number(1000..=1_000_000_000)),
    ("metadata.max.age.ms", Number(1..=86_400_000)),
    ("metadata.recovery.rebootstrap.trigger.ms", Number(0..=MAX)),
    ("metadata.recovery.strategy", OneOf(&["none", "rebootstrap"])),
    ("receive.message.max.bytes", Number(1000..=MAX)),
    (RECONNECT_BACKOFF_MAX, Number(0..=3_600_000)),
    (RECONNECT_BACKOFF, Number(0..=3_600_000)),
    ("retry.backoff.max.ms", Number(1..=300_000)),
    ("retry.backoff.ms", Number(1..=300_000)),
    ("socket.connection.setup.timeout.ms", Number(1000..=MAX)),
    ("socket.keepalive.enable", Boolean),
    ("socket.max.fails", Number(0..=1_000_000)),
    ("socket.nagle.disable", Boolean),
    ("socket.receive.buffer.bytes", Number(0..=100_000_000)),
    ("socket.send.buffer.bytes", Number(0..=100_000_000)),
    ("socket.timeout.ms", Number(10..=300_000)),
    ("statistics.interval.ms", Number(0..=86_400_000)),
    ("topic.metadata.refresh.fast.interval.ms", Number(1..=60_000)),
    ("topic.metadata.refresh.interval.ms", Number(-1..=3_600_000)),
    ("topic.metadata.refresh.sparse", Boolean),
];

/// Why a manifest cannot set this property; `None` when it can.
pub fn refused_property(name: &str) -> Option<&'static str> {
    let reason = match name {
        settable if kind(settable).is_some() => return None,
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

fn kind(name: &str) -> Option<&'static Kind> {
    SETTABLE.iter().find(|(settable, _)| *settable == name).map(|(_, kind)| kind)
}

/// What a property's value has to be, where this is no such value.
pub fn wrong_value(name: &str, value: &str) -> Option<String> {
    match kind(name)? {
        Number(range) if number(value).is_none_or(|number| !range.contains(&number)) => {
            Some(format!("a whole number from {} to {}", range.start(), range.end()))
        }
        Boolean
            if !["true", "t", "1", "false", "f", "0"]
                .iter()
                .any(|legal| legal.eq_ignore_ascii_case(value)) =>
        {
            Some("true or false".into())
        }
        OneOf(legal) if !legal.iter().any(|legal| legal.eq_ignore_ascii_case(value)) => {
            Some(format!("one of {}", legal.join(", ")))
        }
        Number(_) | Boolean | OneOf(_) | Text => None,
    }
}

/// A property whose value contradicts another one's, and what it has to be.
pub fn contradiction(properties: &BTreeMap<String, String>) -> Option<(&'static str, String)> {
    let given = |name: &str| number(properties.get(name)?);
    let (shortest, longest) = (given(RECONNECT_BACKOFF)?, given(RECONNECT_BACKOFF_MAX)?);
    (longest < shortest)
        .then(|| (RECONNECT_BACKOFF_MAX, format!("at least {shortest}, the value of {RECONNECT_BACKOFF}")))
}

/// A number as librdkafka reads it: decimal, or hexadecimal behind 0x.
pub fn number(value: &str) -> Option<i64> {
    match value.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
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
        assert_eq!(listed, SETTABLE.each_ref().map(|(name, _)| *name));
    }

    #[test]
    fn a_value_that_librdkafka_would_refuse_is_named() {
        for (name, value, expected) in [
            ("compression.level", "13", "a whole number from -1 to 12"),
            ("socket.timeout.ms", "1 min", "a whole number from 10 to 300000"),
            ("batch.size", "2147483648", "a whole number from 1 to 2147483647"),
            ("statistics.interval.ms", "", "a whole number from 0 to 86400000"),
            ("socket.keepalive.enable", "yes", "true or false"),
            ("compression.type", "brotli", "one of none, gzip, snappy, lz4, zstd"),
        ] {
            assert_eq!(wrong_value(name, value).as_deref(), Some(expected), "{name}={value}");
        }
        for (name, value) in [
            ("compression.level", "-1"),
            ("batch.size", "0x10000"),
            ("socket.keepalive.enable", "True"),
            ("compression.type", "ZSTD"),
            ("client.id", ""),
            ("acks", "refused by its name"),
        ] {
            assert_eq!(wrong_value(name, value), None, "{name}={value}");
        }
    }

    #[test]
    fn a_longest_wait_below_the_first_is_a_contradiction() {
        let of = |shortest: &str, longest: &str| {
            let given = [(RECONNECT_BACKOFF, shortest), (RECONNECT_BACKOFF_MAX, longest)];
            let given = given.into_iter().filter(|(_, value)| !value.is_empty());
            contradiction(&given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        let expected = "at least 2000, the value of reconnect.backoff.ms".to_owned();
        assert_eq!(of("2000", "1999"), Some((RECONNECT_BACKOFF_MAX, expected)));
        for (shortest, longest) in [("2000", "2000"), ("2000", ""), ("", "10"), ("", "")] {
            assert_eq!(of(shortest, longest), None, "{shortest} {longest}");
        }
    }

    #[test]
    fn what_changes_no_promise_can_be_set() {
        for name in ["compression.type", "statistics.interval.ms", "client.id", "message.max.bytes"] {
            assert_eq!(refused_property(name), None, "{name}");
        }
    }
}
