//! The Kafka library's own statistics as metrics: what waits in it, and how each broker answers.
//!
//! The library sends its statistics as one JSON text every `statistics.interval.ms`, off the path of an event. The newest
//! text is kept, and encoded when the metrics are read. The field names are those of librdkafka's STATISTICS.md.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::Deserialize;

/// The newest statistics of a relay's producers.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    /// The generation of their producer.
    generation: u64,
    report: Report,
}

#[derive(Debug, Default, Deserialize)]
struct Report {
    msg_cnt: u64,
    msg_size: u64,
    brokers: BTreeMap<String, Broker>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    /// Below 0 for an address that the library was given to begin with, which is no broker yet.
    nodeid: i32,
    state: String,
    outbuf_cnt: u64,
    waitresp_cnt: u64,
    txerrs: u64,
    rxerrs: u64,
    req_timeouts: u64,
    txretries: u64,
    disconnects: u64,
    rtt: Window,
    throttle: Window,
}

/// A window of one interval.
#[derive(Debug, Deserialize)]
struct Window {
    avg: u64,
    p99: u64,
    max: u64,
    cnt: u64,
}

impl Statistics {
    /// Updates the statistics from one producer. Those of a producer that has been replaced are ignored.
    pub(super) fn update(&self, generation: u64, json: &[u8]) -> Result<(), serde_json::Error> {
        let report = serde_json::from_slice(json)?;
        let mut newest = self.newest.lock();
        if generation >= newest.generation {
            *newest = Newest { generation, report };
        }
        Ok(())
    }
}

impl Report {
    /// The brokers by name; before any is known, the addresses to find them by.
    fn brokers(&self) -> impl Iterator<Item = (&str, &Broker)> {
        let are_known = self.brokers.values().any(|broker| broker.nodeid >= 0);
        self.brokers
            .iter()
            .filter(move |(_, broker)| broker.nodeid >= 0 || !are_known)
            // The name without the protocol, which is no part of a broker's identity.
            .map(|(name, broker)| (name.rsplit_once("://").map_or(name.as_str(), |(_, name)| name), broker))
    }
}

impl Collector for Statistics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let newest = self.newest.lock();
        let report = &newest.report;
        let of = |name| ("broker", name);
        let mut total = |name, help, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        total(
            "kafka_queue_messages",
            "Records that the Kafka library holds until they are acknowledged.",
            report.msg_cnt,
        )?;
        total(
            "kafka_queue_bytes",
            "Bytes of the records that the Kafka library holds until they are acknowledged.",
            report.msg_size,
        )?;
        gauge(
            &mut encoder,
            "kafka_broker_state",
            "1 for the state of the connection to each broker; INIT is one that nothing has needed yet.",
            report.brokers().map(|(name, broker)| ([of(name), ("state", broker.state.as_str())], 1.0)),
        )?;
        gauge(
            &mut encoder,
            "kafka_broker_pending_requests",
            "Requests that wait to be sent to a broker or to be answered by it.",
            report
                .brokers()
                .map(|(name, broker)| ([of(name)], (broker.outbuf_cnt + broker.waitresp_cnt) as f64)),
        )?;
        gauge(
            &mut encoder,
            "kafka_broker_round_trip_average_seconds",
            "From a request to a broker to its answer, on average over the last interval of the statistics.",
            windows(report, |broker| &broker.rtt).map(|(name, rtt)| ([of(name)], rtt.avg as f64 / 1e6)),
        )?;
        gauge(
            &mut encoder,
            "kafka_broker_round_trip_p99_seconds",
            "From a request to a broker to its answer, for 99 of 100 over the last interval of the statistics.",
            windows(report, |broker| &broker.rtt).map(|(name, rtt)| ([of(name)], rtt.p99 as f64 / 1e6)),
        )?;
        gauge(
            &mut encoder,
            "kafka_broker_throttle_max_seconds",
            "The longest that a broker made the relay wait for its quota over the last interval of the statistics.",
            windows(report, |broker| &broker.throttle)
                .map(|(name, wait)| ([of(name)], wait.max as f64 / 1e3)),
        )?;
        counter(
            &mut encoder,
            "kafka_broker_request_failures",
            "Requests to a broker that could not be sent, answers that could not be read, and timeouts.",
            report.brokers().flat_map(|(name, broker)| {
                [("transmit", broker.txerrs), ("receive", broker.rxerrs), ("timeout", broker.req_timeouts)]
                    .map(|(kind, count)| ([of(name), ("kind", kind)], count))
            }),
        )?;
        counter(
            &mut encoder,
            "kafka_broker_request_retries",
            "Requests that were sent to a broker again.",
            report.brokers().map(|(name, broker)| ([of(name)], broker.txretries)),
        )?;
        counter(
            &mut encoder,
            "kafka_broker_disconnects",
            "Connections to a broker that ended, by either side.",
            report.brokers().map(|(name, broker)| ([of(name)], broker.disconnects)),
        )
    }
}

/// The windows in which something happened; an empty one has no average.
fn windows(report: &Report, of: impl Fn(&Broker) -> &Window) -> impl Iterator<Item = (&str, &Window)> {
    report.brokers().map(move |(name, broker)| (name, of(broker))).filter(|(_, window)| window.cnt > 0)
}

fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'static str, &'a str); N], f64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

fn counter<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'static str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::metrics::Metrics;

    fn metrics() -> (Metrics, Arc<Statistics>) {
        let (metrics, statistics) = (Metrics::new(), Arc::new(Statistics::default()));
        metrics.register(Box::new(Arc::clone(&statistics)));
        (metrics, statistics)
    }

    fn json(messages: u64, brokers: &str) -> Vec<u8> {
        format!(r#"{{"name":"x","msg_cnt":{messages},"msg_size":64,"brokers":{{{brokers}}},"topics":{{}}}}"#)
            .into_bytes()
    }

    fn broker(name: &str, id: i32, answers: u64) -> String {
        format!(
            r#""{name}":{{"nodeid":{id},"state":"UP","outbuf_cnt":1,"waitresp_cnt":2,"txerrs":3,"rxerrs":4,
            "req_timeouts":5,"txretries":6,"disconnects":7,"rtt":{{"avg":1500,"p99":2500,"max":9,"cnt":{answers}}},
            "throttle":{{"avg":0,"p99":0,"max":250,"cnt":1}}}}"#
        )
    }

    #[test]
    fn what_waits_and_how_brokers_answer_is_in_the_metrics() {
        let (metrics, statistics) = metrics();
        let brokers = [
            broker("k:9092/bootstrap", -1, 1),
            broker("sasl_ssl://k:9092/1", 1, 8),
            broker("l:9092/2", 2, 0),
        ];
        statistics.update(0, &json(3, &brokers.join(","))).unwrap();
        let text = metrics.encode().unwrap();
        for line in [
            "presenceroute_relay_kafka_queue_messages 3",
            "presenceroute_relay_kafka_queue_bytes 64",
            r#"presenceroute_relay_kafka_broker_state{broker="k:9092/1",state="UP"} 1"#,
            r#"presenceroute_relay_kafka_broker_pending_requests{broker="k:9092/1"} 3"#,
            r#"presenceroute_relay_kafka_broker_round_trip_average_seconds{broker="k:9092/1"} 0.0015"#,
            r#"presenceroute_relay_kafka_broker_round_trip_p99_seconds{broker="k:9092/1"} 0.0025"#,
            r#"presenceroute_relay_kafka_broker_throttle_max_seconds{broker="k:9092/1"} 0.25"#,
            r#"presenceroute_relay_kafka_broker_request_failures_total{broker="k:9092/1",kind="timeout"} 5"#,
            r#"presenceroute_relay_kafka_broker_request_retries_total{broker="k:9092/1"} 6"#,
            r#"presenceroute_relay_kafka_broker_disconnects_total{broker="l:9092/2"} 7"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(
            !text.contains("bootstrap") && !text.contains(r#"average_seconds{broker="l:9092/2"}"#),
            "{text}"
        );
    }

    /// Here, because these metrics are on the page beside those that the relay counts itself.
    #[test]
    fn the_page_of_metrics_is_what_the_relay_shows() {
        let (metrics, statistics) = metrics();
        statistics.update(0, &json(3, &broker("k:9092/1", 1, 8))).unwrap();
        metrics.show_every_series();
        presenceroute_runtime::testing::metrics_page::assert_current("relay", &metrics.encode().unwrap());
    }

    #[test]
    fn the_addresses_are_shown_while_no_broker_is_known() {
        let (metrics, statistics) = metrics();
        statistics.update(0, &json(0, &broker("k:9092/bootstrap", -1, 0))).unwrap();
        assert!(metrics.encode().unwrap().contains(r#"state{broker="k:9092/bootstrap",state="UP"} 1"#));
    }

    #[test]
    fn statistics_of_a_replaced_producer_are_ignored() {
        let (metrics, statistics) = metrics();
        statistics.update(1, &json(1, "")).unwrap();
        statistics.update(0, &json(7, "")).unwrap();
        assert!(metrics.encode().unwrap().contains("kafka_queue_messages 1"));
    }
}
