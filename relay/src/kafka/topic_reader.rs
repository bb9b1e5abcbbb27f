//! Reads a topic from where a consumer group has left off to where the topic ends now.
//!
//! Partitions are assigned, not subscribed: one process reads them all, and the group only keeps the offsets. What the
//! records mean is left to the caller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use presenceroute_core::relay_config::KafkaConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use secrecy::ExposeSecret;
use tokio::runtime::Handle;

use super::credentials::{Credentials, CredentialsError};
use super::tokens::TokenSource;

/// How long a broker may take to answer a question, and to send anything at all while records are missing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How soon a question is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// How long one look for the next record takes, after which a stop is noticed.
const POLL: Duration = Duration::from_millis(100);

/// The longest reason that is shown, in characters.
const LONGEST_REASON: usize = 300;

/// Properties of producers, which a consumer would only complain about.
const OF_PRODUCERS: [&str; 5] =
    ["batch.num.messages", "batch.size", "compression.codec", "compression.level", "compression.type"];

/// A topic, and how far it is to be read.
pub struct TopicReader {
    consumer: BaseConsumer<Context>,
    topic: String,
    /// The offset after the last record of each partition that is to be read.
    ends: BTreeMap<i32, i64>,
    records: i64,
}

/// A record as it was read.
#[derive(Debug)]
pub struct TopicRecord {
    pub partition: i32,
    pub offset: i64,
    /// Empty for a record without a value.
    pub value: Bytes,
    /// The headers with text, of each name the first.
    pub headers: BTreeMap<String, String>,
}

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TopicReaderError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("the Kafka client cannot be made: {0}; check relay.yaml's kafka section")]
    Client(KafkaError),
    #[error(
        "topic {topic:?} does not exist, or Kafka does not let the relay's user describe it; check its name"
    )]
    Missing { topic: String },
    #[error(
        "topic {topic:?} cannot be read: {cause}; the relay's user needs Read on the topic and on the group {group:?}"
    )]
    Read { topic: String, group: String, cause: String },
    #[error(
        "the progress of group {group:?} cannot be stored: {cause}; the relay's user needs Read on the group"
    )]
    Commit { group: String, cause: KafkaError },
    /// The library's consumer passes on a token alone.
    #[error("a topic cannot be read with kafka.sasl.oauth.extensions; authenticate a replay in another way")]
    SaslExtensions,
    #[error("Kafka sent nothing of topic {topic:?} for {} s; run the command again", SILENCE_TIMEOUT.as_secs())]
    Silence { topic: String },
}

/// Gets tokens where the consumer authenticates by them.
struct Context {
    tokens: Option<TokenSource>,
    runtime: Handle,
    group: String,
    /// The newest error of the client, in the library's words.
    error: Mutex<Option<(Option<RDKafkaErrorCode>, String)>>,
}

impl Context {
    /// Why brokers refuse the client, so that waiting helps nothing.
    fn rejection(&self) -> Option<RDKafkaErrorCode> {
        use RDKafkaErrorCode::{
            Authentication, GroupAuthorizationFailed, SaslAuthenticationFailed, TopicAuthorizationFailed,
        };
        let code = self.error.lock().as_ref().and_then(|(code, _)| *code)?;
        [Authentication, GroupAuthorizationFailed, SaslAuthenticationFailed, TopicAuthorizationFailed]
            .contains(&code)
            .then_some(code)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = reason.chars().take(LONGEST_REASON).collect();
        *self.error.lock() = Some((error.rdkafka_error_code(), reason));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let source = self.tokens.as_ref().ok_or("the consumer authenticates without tokens")?;
        let token = self.runtime.block_on(source.single_token())?;
        Ok(OAuthToken {
            token: token.value.expose_secret().to_owned(),
            principal_name: token.principal,
            lifetime_ms: token.expires,
        })
    }
}

impl ConsumerContext for Context {}

impl TopicReader {
    /// Connects, and finds out what is to be read: from the group's offsets, or from the beginning, to the present end.
    /// It blocks, on a thread of the runtime for that.
    pub fn open(
        kafka: &KafkaConfig,
        topic: &str,
        group: &str,
        from_beginning: bool,
        runtime: Handle,
    ) -> Result<Self, TopicReaderError> {
        let credentials = Credentials::read(kafka)?;
        let tokens = credentials.tokens().cloned();
        if tokens.as_ref().is_some_and(TokenSource::has_extensions) {
            return Err(TopicReaderError::SaslExtensions);
        }
        let has_tokens = tokens.is_some();
        let context = Context { tokens, runtime, group: group.to_owned(), error: Mutex::default() };
        let consumer: BaseConsumer<Context> = configuration(kafka, &credentials, group)
            .create_with_context(context)
            .map_err(TopicReaderError::Client)?;
        let mut reader = Self { consumer, topic: topic.to_owned(), ends: BTreeMap::new(), records: 0 };
        if has_tokens {
            // The first token is asked for by an event of the client's own queue.
            reader.consumer.poll(POLL);
        }
        let assignment = reader.assignment(from_beginning)?;
        reader.consumer.assign(&assignment).map_err(|cause| reader.read_error(cause))?;
        Ok(reader)
    }

    /// How many records lie ahead, at most: some may have been deleted or be no records but markers of transactions.
    pub fn records_ahead(&self) -> i64 {
        self.records
    }

    fn assignment(&mut self, from_beginning: bool) -> Result<TopicPartitionList, TopicReaderError> {
        let partitions = self.partitions()?;
        let mut named = TopicPartitionList::new();
        for partition in &partitions {
            named.add_partition(&self.topic, *partition);
        }
        let failed = |cause| self.read_error(cause);
        let committed = self
            .persist(|| self.consumer.committed_offsets(named.clone(), ANSWER_TIMEOUT))
            .map_err(failed)?;
        let mut assignment = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        let mut records = 0;
        for partition in partitions {
            let watermarks = || self.consumer.fetch_watermarks(&self.topic, partition, ANSWER_TIMEOUT);
            let (first, end) = self.persist(watermarks).map_err(failed)?;
            let left_off = committed.find_partition(&self.topic, partition).map(|found| found.offset());
            let start = match left_off {
                Some(Offset::Offset(offset)) if !from_beginning => offset.max(first),
                _ => first,
            };
            if start < end {
                assignment
                    .add_partition_offset(&self.topic, partition, Offset::Offset(start))
                    .map_err(failed)?;
                ends.insert(partition, end);
                records += end - start;
            }
        }
        (self.ends, self.records) = (ends, records);
        Ok(assignment)
    }

    /// Asks again, while nothing is assigned: the client's events are served meanwhile, so that it gets its tokens and
    /// tells why it has no connection.
    fn persist<T>(&self, ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
        let context = self.consumer.context();
        let ask = || match ask() {
            Err(cause) if is_passing(&cause) => {
                drop(self.consumer.poll(RETRY));
                Err(context.rejection().map_or(cause, KafkaError::Global))
            }
            answer => answer,
        };
        persist(ask, || {})
    }

    fn partitions(&self) -> Result<Vec<i32>, TopicReaderError> {
        let metadata = self.persist(|| self.consumer.fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT));
        let metadata = metadata.map_err(|cause| self.read_error(cause))?;
        let found =
            metadata.topics().iter().find(|found| found.name() == self.topic && found.error().is_none());
        let partitions: Vec<_> =
            found.into_iter().flat_map(|found| found.partitions()).map(|partition| partition.id()).collect();
        if partitions.is_empty() {
            return Err(TopicReaderError::Missing { topic: self.topic.clone() });
        }
        Ok(partitions)
    }

    /// Reads until the end, or until `take` says that it wants no more. It blocks.
    ///
    /// # Errors
    /// Kafka refuses, or is silent for too long.
    pub fn read(&self, mut take: impl FnMut(TopicRecord) -> bool) -> Result<(), TopicReaderError> {
        let mut ends = self.ends.clone();
        let mut heard = Instant::now();
        while !ends.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    // What was written since is for the next time.
                    let Some(end) = ends.get(&partition).copied() else { continue };
                    if offset + 1 >= end {
                        ends.remove(&partition);
                    }
                    if offset < end && !take(record(&message)) {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    ends.remove(&partition);
                }
                Some(Err(cause)) if !is_passing(&cause) => return Err(self.read_error(cause)),
                Some(Err(_)) | None => {
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Err(TopicReaderError::Silence { topic: self.topic.clone() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores the offset after the last record that is done with, of each partition. It blocks.
    pub fn commit(&self, next: &BTreeMap<i32, i64>) -> Result<(), TopicReaderError> {
        if next.is_empty() {
            return Ok(());
        }
        let failed = |cause| TopicReaderError::Commit { group: self.group().to_owned(), cause };
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            offsets.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
        }
        persist(|| self.consumer.commit(&offsets, CommitMode::Sync), || std::thread::sleep(RETRY))
            .map_err(failed)
    }

    fn group(&self) -> &str {
        &self.consumer.context().group
    }

    fn read_error(&self, cause: KafkaError) -> TopicReaderError {
        let reason = self.consumer.context().error.lock().as_ref().map(|(_, reason)| reason.clone());
        let cause = match reason {
            Some(reason) => format!("{cause} ({reason})"),
            None => cause.to_string(),
        };
        TopicReaderError::Read { topic: self.topic.clone(), group: self.group().to_owned(), cause }
    }
}

fn configuration(kafka: &KafkaConfig, credentials: &Credentials, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in kafka.properties.iter().filter(|(name, _)| !OF_PRODUCERS.contains(&name.as_str())) {
        config.set(name, value);
    }
    for (name, value) in [
        ("client.id", "presenceroute-replay"),
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "earliest"),
        ("allow.auto.create.topics", "false"),
        // What is read ahead is bounded, besides the records that are on their way.
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.message.max.bytes", "1048576"),
    ] {
        config.set(name, value);
    }
    config.set("bootstrap.servers", kafka.bootstrap_servers.join(","));
    for (name, value) in credentials.properties() {
        config.set(name, value);
    }
    config
}

/// Asks again while brokers are away or change their parts, for as long as their silence is borne.
fn persist<T>(ask: impl Fn() -> KafkaResult<T>, wait: impl Fn()) -> KafkaResult<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(cause) if is_passing(&cause) && begun.elapsed() < SILENCE_TIMEOUT => wait(),
            answer => return answer,
        }
    }
}

/// Whether the cluster, or the library's view of it, mends this by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, CoordinatorLoadInProgress, CoordinatorNotAvailable,
        DestroyBroker, LeaderNotAvailable, NotCoordinator, NotLeaderForPartition, OperationTimedOut,
        RequestTimedOut, Resolve, WaitingForCoordinator,
    };
    const PASSING: [RDKafkaErrorCode; 12] = [
        AllBrokersDown,
        DestroyBroker,
        BrokerTransportFailure,
        CoordinatorLoadInProgress,
        CoordinatorNotAvailable,
        LeaderNotAvailable,
        NotCoordinator,
        NotLeaderForPartition,
        OperationTimedOut,
        RequestTimedOut,
        Resolve,
        WaitingForCoordinator,
    ];
    let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    !is_fatal && error.rdkafka_error_code().is_some_and(|code| PASSING.contains(&code))
}

fn record(message: &BorrowedMessage<'_>) -> TopicRecord {
    let mut headers = BTreeMap::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if let Some(text) = header.value.and_then(|value| str::from_utf8(value).ok()) {
            headers.entry(header.key.to_owned()).or_insert_with(|| text.to_owned());
        }
    }
    TopicRecord {
        partition: message.partition(),
        offset: message.offset(),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        headers,
    }
}
