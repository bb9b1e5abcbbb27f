//! The broker: topics, and what is in them.

use std::collections::BTreeMap;
use std::env;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use sha2::{Digest, Sha256};

use crate::wait::{seconds, until};
use crate::{Failure, Outcome, ensure, harness};

const PARTITIONS: i32 = 3;
const PATIENCE: Duration = seconds(20);

/// A Kafka cluster.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Where it is found from here.
    pub brokers: String,
    /// Where pods find it.
    pub brokers_from_pods: String,
}

/// A record as it lies in its topic.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Where it is in the partition.
    pub offset: i64,
    /// Its key.
    pub key: Option<String>,
    /// Its value's bytes.
    pub value: Vec<u8>,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
}

impl Record {
    /// The SHA-256 of the value.
    pub fn value_sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.value))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

fn kafka(what: impl Into<String>) -> impl FnOnce(KafkaError) -> Failure {
    let what = what.into();
    move |error| Failure(format!("{what}: {error}"))
}

impl Kafka {
    /// The one that `KAFKA_BROKERS` names.
    pub fn of_environment() -> Outcome<Self> {
        let brokers = env::var("KAFKA_BROKERS").map_err(|_| {
            Failure(format!("KAFKA_BROKERS names no broker; to get one: {}", harness::how_to_get("kafka")))
        })?;
        let brokers_from_pods = env::var("KAFKA_BROKERS_FROM_PODS").unwrap_or_else(|_| brokers.clone());
        Ok(Self { brokers, brokers_from_pods })
    }

    fn client<C: FromClientConfig>(&self) -> Outcome<C> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            // Nothing is committed; librdkafka wants the name all the same.
            .set("group.id", "presenceroute-e2e")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20")
            .create()
            .map_err(kafka(format!("no client for {}", self.brokers)))
    }

    /// Makes these topics, and waits until the broker shows them.
    pub fn create_topics(&self, names: &[&str]) -> Outcome {
        let admin: AdminClient<DefaultClientContext> = self.client()?;
        let topics: Vec<_> =
            names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1))).collect();
        let results =
            block_on(admin.create_topics(&topics, &AdminOptions::new().operation_timeout(Some(PATIENCE))))
                .map_err(kafka("topics cannot be made"))?;
        for result in results {
            result.map_err(|(name, code)| Failure(format!("topic {name} cannot be made: {code}")))?;
        }
        names
            .iter()
            .try_for_each(|name| until("the broker shows it", PATIENCE, || self.partitions(name)).map(drop))
    }

    /// Deletes all topics whose names begin so.
    pub fn delete_topics_of(&self, prefix: &str) -> Outcome {
        let admin: AdminClient<DefaultClientContext> = self.client()?;
        let metadata =
            admin.inner().fetch_metadata(None, PATIENCE).map_err(kafka("the broker does not answer"))?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        self.delete_topics(&names.filter(|name| name.starts_with(prefix)).collect::<Vec<_>>())
    }

    /// Deletes these topics, those of them that exist.
    pub fn delete_topics(&self, names: &[&str]) -> Outcome {
        if names.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> = self.client()?;
        let results = block_on(admin.delete_topics(names, &AdminOptions::new()))
            .map_err(kafka("topics cannot be deleted"))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((name, code)) => return Err(Failure(format!("topic {name} cannot be deleted: {code}"))),
            }
        }
        Ok(())
    }

    fn partitions(&self, topic: &str) -> Outcome<i32> {
        let consumer: BaseConsumer = self.client()?;
        let metadata = consumer
            .fetch_metadata(Some(topic), PATIENCE)
            .map_err(kafka(format!("topic {topic} cannot be looked up")))?;
        let partitions =
            metadata.topics().iter().filter(|found| found.error().is_none()).map(|found| found.partitions());
        let count = partitions.map(<[_]>::len).sum::<usize>();
        ensure(count > 0, || format!("topic {topic} does not exist"))?;
        i32::try_from(count).map_err(|error| Failure(error.to_string()))
    }

    fn consumer(&self, topic: &str) -> Outcome<BaseConsumer> {
        let consumer: BaseConsumer = self.client()?;
        let mut positions = TopicPartitionList::new();
        for partition in 0..self.partitions(topic)? {
            positions
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(kafka(format!("topic {topic} cannot be read")))?;
        }
        consumer.assign(&positions).map_err(kafka(format!("topic {topic} cannot be read")))?;
        Ok(consumer)
    }

    /// Everything that is in a topic now.
    pub fn records(&self, topic: &str) -> Outcome<Vec<Record>> {
        let failed = || kafka(format!("topic {topic} cannot be read"));
        let consumer = self.consumer(topic)?;
        let mut ends = BTreeMap::new();
        for partition in 0..self.partitions(topic)? {
            let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE).map_err(failed())?;
            if high > low {
                ends.insert(partition, high);
            }
        }
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !ends.is_empty() {
            ensure(Instant::now() < deadline, || {
                format!("topic {topic} was not read to its end; left: {ends:?}")
            })?;
            let Some(message) = consumer.poll(seconds(1)) else { continue };
            let message = message.map_err(failed())?;
            let end = ends.get(&message.partition()).copied().unwrap_or_default();
            if message.offset() < end {
                records.push(record(&message)?);
            }
            if message.offset() + 1 >= end {
                ends.remove(&message.partition());
            }
        }
        Ok(records)
    }

    /// Waits, from now on and beside everything else, for the first record of a topic, and tells when it came.
    pub fn first_record(&self, topic: &str, patience: Duration) -> Outcome<JoinHandle<Outcome<Instant>>> {
        let consumer = self.consumer(topic)?;
        let topic = topic.to_owned();
        Ok(thread::spawn(move || match consumer.poll(patience) {
            Some(Ok(_)) => Ok(Instant::now()),
            Some(Err(error)) => Err(kafka(format!("topic {topic} cannot be read"))(error)),
            None => {
                Err(Failure(format!("no record came into topic {topic} within {} s", patience.as_secs())))
            }
        }))
    }
}

fn record(message: &impl Message) -> Outcome<Record> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .map_err(|error| Failure(format!("a key or header is not text: {error}")))
    };
    let mut headers = BTreeMap::new();
    for header in message.headers().iter().flat_map(|headers| headers.iter()) {
        headers.insert(header.key.to_owned(), text(header.value.unwrap_or_default())?);
    }
    Ok(Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(text).transpose()?,
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
    })
}
