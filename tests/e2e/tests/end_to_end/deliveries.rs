//! Whether what Genesys sent is what Kafka has.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use presenceroute_e2e::kafka::Record;
use presenceroute_e2e::simulator::Delivery;
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same};
use serde_json::Value;

use crate::stage::Stage;

/// What a record's key is to be.
#[derive(Clone, Copy)]
pub(crate) enum Key {
    /// The event's id.
    Id,
    /// Its attribute `userId`.
    UserId,
}

/// The records of each event in one topic.
pub(crate) fn by_event(stage: &Stage, topic: &str) -> Outcome<BTreeMap<String, Vec<Record>>> {
    let mut events: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in stage.kafka.records(topic)? {
        let id =
            record.header("ce_id").ok_or_else(|| Failure(format!("a record of {topic} has no ce_id")))?;
        events.entry(id.to_owned()).or_default().push(record);
    }
    Ok(events)
}

/// Fails unless each of these events is in the topic exactly once, as it was sent.
pub(crate) fn ensure_exactly_once<'d>(
    stage: &Stage,
    topic: &str,
    deliveries: impl Iterator<Item = &'d Delivery>,
    key: Key,
) -> Outcome {
    let found = by_event(stage, topic)?;
    for delivery in deliveries {
        let records = found.get(&delivery.id).map(Vec::as_slice).unwrap_or_default();
        let [record] = records else {
            return Err(Failure(format!("event {} is {} times in {topic}", delivery.id, records.len())));
        };
        ensure_as_sent(record, delivery, key)
            .map_err(|failure| Failure(format!("event {} in {topic}: {failure}", delivery.id)))?;
    }
    Ok(())
}

/// Fails unless each of these events is in the topic, and no other one is.
pub(crate) fn ensure_none_lost<'d>(
    stage: &Stage,
    topic: &str,
    deliveries: impl Iterator<Item = &'d Delivery>,
) -> Outcome<usize> {
    let found = by_event(stage, topic)?;
    let sent: BTreeSet<_> = deliveries.map(|delivery| delivery.id.clone()).collect();
    let kept: BTreeSet<_> = found.keys().cloned().collect();
    ensure_same(&format!("the events in {topic}"), &kept, &sent)?;
    Ok(found.values().map(|records| records.len() - 1).sum())
}

fn ensure_as_sent(record: &Record, delivery: &Delivery, key: Key) -> Outcome {
    ensure_same("the SHA-256 of the value", &record.value_sha256(), &delivery.body_sha256)?;
    let event: Value = serde_json::from_slice(&record.value).map_err(|error| Failure(error.to_string()))?;
    let wanted = match key {
        Key::Id => &event["id"],
        Key::UserId => &event["attributes"]["userId"],
    };
    ensure_same("the key", &record.key.as_deref(), &wanted.as_str())?;
    let timestamp = event["timestamp"].as_i64().and_then(|time| Timestamp::from_millisecond(time).ok());
    let time = timestamp.map(|time| format!("{time:.3}"));
    let headers = [
        ("ce_specversion", Some("1.0")),
        ("ce_id", Some(delivery.id.as_str())),
        ("ce_type", Some(delivery.event_type.as_str())),
        ("ce_source", event["source"].as_str()),
        ("ce_time", time.as_deref()),
        ("content-type", Some("application/json")),
    ];
    for (name, value) in headers {
        ensure(value.is_some() && record.header(name) == value, || {
            format!("the header {name}: expected {value:?}, found {:?}", record.header(name))
        })?;
    }
    Ok(())
}
