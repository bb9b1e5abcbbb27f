//! The command `replay`: sends dead letters again, each by the table that is mounted now.
//!
//! A dead-letter topic is a source that is pulled: read, decode, deliver, and only then store the offset. An event that
//! still matches no route goes where the table sends those; what cannot be delivered stays ahead of the stored offset.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use presenceroute_core::event::envelope::{self, RecordContext};
use presenceroute_core::event::{Event, EventError};
use presenceroute_core::receipt::Receipt;
use presenceroute_core::routing::{Decision, RecordKey, Router, RoutingError, RoutingTable};
use presenceroute_runtime::follow;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::kafka::{self, PublisherError, TopicReader, TopicReaderError, TopicRecord};
use crate::observe::metrics::Metrics;
use crate::observe::request_log::RequestLog;
use crate::observe::trace_context::TraceHeaders;
use crate::outcome::{Delivered, Problem, ProblemKind};
use crate::pipeline::{Incoming, Pipeline};
use crate::settings::{ReplayArguments, RoutingSource, Settings};

/// How many events are on their way to Kafka at once; they begin in the order of their partition.
const IN_FLIGHT: usize = 32;
/// How many records are read ahead of them.
const READ_AHEAD: usize = 16;
/// How often the offsets are stored and the progress is printed.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// For how long one event is tried again that Kafka does not acknowledge, and how soon.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
/// The content type of a record whose value is a whole CloudEvent.
const STRUCTURED: &str = "application/cloudevents+json";

/// Why a replay ended before the topic did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{path} cannot be read: {cause}")]
    Table { path: String, cause: std::io::Error },
    #[error("the routing table is not valid: {0}")]
    Routing(RoutingError),
    #[error("--where: {0}")]
    Condition(RoutingError),
    #[error(
        "topic {0:?} is a target of the routes, so that its events would be published twice; name a dead-letter topic"
    )]
    RouteTarget(String),
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    #[error(transparent)]
    Reader(#[from] TopicReaderError),
    #[error("stopped at partition {partition}, offset {offset} of {topic:?}: {}; everything before is stored, so run the command again", .problem.detail)]
    Undelivered { topic: String, partition: i32, offset: i64, problem: Problem },
    #[error("a task of the replay panicked: {0}")]
    Task(#[from] JoinError),
}

/// What became of the records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that were read.
    pub read: u64,
    /// Events that were acknowledged by every topic of their routes, or would be published.
    pub published: u64,
    /// The same by topic: an event may go to several.
    pub topics: BTreeMap<String, u64>,
    /// Events whose type a route names and for which no `when` is true.
    pub filtered: u64,
    /// Events that match no route, and are in a dead-letter topic again.
    pub dead_lettered: u64,
    /// Events that match no route, and that the table drops.
    pub dropped: u64,
    /// Events that match no route, and that the table rejects: they are left where they are.
    pub unrouted: u64,
    /// Events that the condition left out.
    pub left_out: u64,
    /// Records that are no event.
    pub unreadable: u64,
}

/// What became of one record.
enum Fate {
    Delivered(Delivered, Vec<String>),
    Unrouted,
    LeftOut,
    Unreadable,
}

/// Replays to the present end of the topic, or until `stop`. What was delivered is printed now and then by `print`.
///
/// # Errors
/// The topic cannot be read to its end, or an event cannot be delivered. The progress up to there is stored.
pub async fn run(
    settings: Settings,
    arguments: &ReplayArguments,
    stop: CancellationToken,
    mut print: impl FnMut(&str),
) -> Result<Summary, ReplayError> {
    let Settings { config, routing, .. } = settings;
    let table = table(routing, &config.source.default_key())?;
    let selection = arguments.condition.as_deref().map(selection).transpose()?;
    if table.routes().iter().any(|route| route.topic.as_str() == arguments.topic) {
        return Err(ReplayError::RouteTarget(arguments.topic.clone()));
    }
    let group = group(config.route.as_deref(), arguments.condition.as_deref());
    let replay = if arguments.dry_run {
        Replay { selection, destination: Destination::Nowhere(Box::new(Router::new(table))) }
    } else {
        let metrics = Arc::new(Metrics::new());
        let (publisher, supervisor) =
            kafka::start(config.kafka.clone(), config.limits.clone(), Arc::clone(&metrics)).await?;
        let routing = follow::fixed(Router::new(table));
        tokio::spawn(supervisor.run(routing.clone(), stop.child_token()));
        let log = Arc::new(RequestLog::new(config.route.clone()));
        let pipeline = Pipeline::new(routing, Arc::clone(&publisher), metrics, log, None);
        Replay { selection, destination: Destination::Kafka(Box::new(pipeline)) }
    };
    let (topic, from_beginning, runtime) =
        (arguments.topic.clone(), arguments.from_beginning, Handle::current());
    let (of_group, of_kafka) = (group.clone(), config.kafka.clone());
    let opened = move || TopicReader::open(&of_kafka, &topic, &of_group, from_beginning, runtime);
    let reader = Arc::new(tokio::task::spawn_blocking(opened).await??);
    let (topic, ahead) = (&arguments.topic, reader.records_ahead());
    let effect =
        if arguments.dry_run { "; dry run: nothing is published, no progress is stored" } else { "" };
    print(&format!("{topic}: at most {ahead} records to read; progress of group {group}{effect}"));
    let summary = replay.run(&reader, arguments, stop, &mut print).await?;
    print(&summary.to_string());
    Ok(summary)
}

fn table(source: RoutingSource, default_key: &RecordKey) -> Result<RoutingTable, ReplayError> {
    match source {
        RoutingSource::Fixed(table) => Ok(table),
        RoutingSource::File(path) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|cause| ReplayError::Table { path: path.display().to_string(), cause })?;
            RoutingTable::parse_with(&text, default_key).map_err(ReplayError::Routing)
        }
    }
}

/// The condition as a table of one route, so that it means what a route's `when` means, within the same bounds.
fn selection(condition: &str) -> Result<Router, ReplayError> {
    let table = json!({
        "version": 1,
        "routes": [{"eventType": "*", "when": condition, "topic": "selected"}],
        "unmatched": {"action": "Drop"},
    });
    RoutingTable::parse(&table.to_string()).map(Router::new).map_err(ReplayError::Condition)
}

/// The consumer group that keeps the progress of a route's replays; each condition has its own.
fn group(route: Option<&str>, condition: Option<&str>) -> String {
    let mut group = "presenceroute-replay".to_owned();
    if let Some(route) = route {
        group.push('.');
        group.push_str(&route.replace('/', "."));
    }
    if let Some(condition) = condition {
        let mut hash = hex(&Sha256::digest(condition));
        hash.truncate(8);
        group.push('.');
        group.push_str(&hash);
    }
    group
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where events go, and which.
struct Replay {
    selection: Option<Router>,
    destination: Destination,
}

enum Destination {
    Kafka(Box<Pipeline>),
    /// With `--dry-run`.
    Nowhere(Box<Router>),
}

impl Replay {
    async fn run(
        &self,
        reader: &Arc<TopicReader>,
        arguments: &ReplayArguments,
        stop: CancellationToken,
        print: &mut impl FnMut(&str),
    ) -> Result<Summary, ReplayError> {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let reading = {
            let (reader, stop) = (Arc::clone(reader), stop.clone());
            tokio::task::spawn_blocking(move || {
                reader.read(|record| !stop.is_cancelled() && sender.blocking_send(record).is_ok())
            })
        };
        let records = stream::unfold(receiver, async |mut receiver| {
            let record = receiver.recv().await?;
            Some((record, receiver))
        });
        let fates = records.map(|record| self.deliver(record)).buffered(IN_FLIGHT);
        let mut fates = std::pin::pin!(fates);
        let mut summary = Summary::default();
        let mut progress = Progress { reader, next: BTreeMap::new(), is_stored: !arguments.dry_run };
        let mut reported = Instant::now();
        // In the order of the records, so that everything before a stored offset is done with.
        while let Some((partition, offset, fate)) = fates.next().await {
            match fate {
                Ok(fate) => summary.count(fate),
                Err(problem) => {
                    progress.store().await?;
                    let topic = arguments.topic.clone();
                    return Err(ReplayError::Undelivered { topic, partition, offset, problem });
                }
            }
            progress.next.insert(partition, offset + 1);
            if reported.elapsed() >= REPORT_EVERY {
                progress.store().await?;
                print(&summary.to_string());
                reported = Instant::now();
            }
        }
        progress.store().await?;
        reading.await??;
        Ok(summary)
    }

    async fn deliver(&self, record: TopicRecord) -> (i32, i64, Result<Fate, Problem>) {
        let (partition, offset) = (record.partition, record.offset);
        (partition, offset, self.fate(record).await)
    }

    async fn fate(&self, record: TopicRecord) -> Result<Fate, Problem> {
        let trace = TraceHeaders::of_record(&record.headers);
        let Some(kept) = Kept::of(record) else { return Ok(Fate::Unreadable) };
        let Ok(event) = kept.event() else { return Ok(Fate::Unreadable) };
        if let Some(selection) = &self.selection
            && !matches!(selection.route(&event).decision, Decision::Publish(_))
        {
            return Ok(Fate::LeftOut);
        }
        let pipeline = match &self.destination {
            Destination::Nowhere(router) => return Ok(planned(&router.route(&event).decision)),
            Destination::Kafka(pipeline) => pipeline,
        };
        let began = Instant::now();
        loop {
            let incoming = Incoming {
                event: &event,
                value: &kept.value,
                trace: trace.as_trace(),
                received: Instant::now(),
                span_start: None,
            };
            let mut receipt = Receipt::default();
            match pipeline.deliver(&incoming, Some(&mut receipt)).await {
                Ok(delivered) => {
                    let topics = receipt.records.into_iter().map(|record| record.topic).collect();
                    return Ok(Fate::Delivered(delivered, topics));
                }
                Err(problem) => match problem.kind {
                    ProblemKind::Unrouted | ProblemKind::UnroutedRetry => return Ok(Fate::Unrouted),
                    kind if kind.is_transient() && began.elapsed() < PATIENCE => {
                        tokio::time::sleep(RETRY).await
                    }
                    _ => return Err(problem),
                },
            }
        }
    }
}

/// What would become of an event.
fn planned(decision: &Decision<'_>) -> Fate {
    let name = |topic: &str| topic.to_owned();
    match decision {
        Decision::Publish(targets) => {
            let topics = targets.iter().map(|target| name(target.topic.as_str())).collect();
            Fate::Delivered(Delivered::Published, topics)
        }
        Decision::DeadLetter(target) => {
            Fate::Delivered(Delivered::DeadLettered, vec![name(target.topic.as_str())])
        }
        Decision::Filtered => Fate::Delivered(Delivered::Filtered, Vec::new()),
        Decision::Drop => Fate::Delivered(Delivered::Dropped, Vec::new()),
        Decision::Reject(_) => Fate::Unrouted,
    }
}

/// What a record keeps of an event.
struct Kept {
    /// The value of its records: the record's value, or the data of the CloudEvent that it is.
    value: Bytes,
    /// What CloudEvents says of it, by the names of its attributes.
    attributes: BTreeMap<String, String>,
    /// What the organisation calls the presence.
    presence_name: Option<String>,
}

impl Kept {
    fn of(record: TopicRecord) -> Option<Self> {
        #[derive(Deserialize)]
        struct CloudEvent<'a> {
            #[serde(borrow)]
            data: &'a RawValue,
            #[serde(default)]
            id: Option<String>,
            #[serde(default)]
            r#type: Option<String>,
            #[serde(default)]
            source: Option<String>,
            #[serde(default)]
            time: Option<String>,
        }
        let presence_name = record.headers.get("presencename").cloned();
        let content_type = record.headers.get("content-type");
        if !content_type.is_some_and(|content_type| content_type.starts_with(STRUCTURED)) {
            let named = |(name, value): (String, String)| Some((name.strip_prefix("ce_")?.to_owned(), value));
            let attributes = record.headers.into_iter().filter_map(named).collect();
            return Some(Self { value: record.value, attributes, presence_name });
        }
        let event: CloudEvent<'_> = serde_json::from_slice(&record.value).ok()?;
        let value = Bytes::copy_from_slice(event.data.get().as_bytes());
        let given =
            [("id", event.id), ("type", event.r#type), ("source", event.source), ("time", event.time)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Some(Self { value, attributes: given.collect(), presence_name })
    }

    /// The event. That of an envelope of Amazon EventBridge has its id and its type beside the value.
    fn event(&self) -> Result<Event<'_>, EventError> {
        let attribute = |name: &str| self.attributes.get(name).map(String::as_str);
        match (Event::parse(&self.value), attribute("id"), attribute("type")) {
            (Err(EventError::Missing(_)), Some(id), Some(event_type)) => {
                let (source, time) = (attribute("source"), attribute("time"));
                let presence_name = self.presence_name.as_deref();
                let context = RecordContext { id, event_type, source, time, presence_name };
                envelope::of_record(context, &self.value)
            }
            (event, ..) => event,
        }
    }
}

/// The offsets that are done with.
struct Progress<'r> {
    reader: &'r Arc<TopicReader>,
    next: BTreeMap<i32, i64>,
    is_stored: bool,
}

impl Progress<'_> {
    async fn store(&self) -> Result<(), ReplayError> {
        if self.is_stored {
            let (reader, next) = (Arc::clone(self.reader), self.next.clone());
            tokio::task::spawn_blocking(move || reader.commit(&next)).await??;
        }
        Ok(())
    }
}

impl Summary {
    fn count(&mut self, fate: Fate) {
        self.read += 1;
        let counter = match &fate {
            Fate::Delivered(Delivered::Published, _) => &mut self.published,
            Fate::Delivered(Delivered::Filtered, _) => &mut self.filtered,
            Fate::Delivered(Delivered::DeadLettered, _) => &mut self.dead_lettered,
            Fate::Delivered(Delivered::Dropped, _) => &mut self.dropped,
            Fate::Unrouted => &mut self.unrouted,
            Fate::LeftOut => &mut self.left_out,
            // A source alone delivers what is no event.
            Fate::Delivered(Delivered::InvalidDeadLettered, _) | Fate::Unreadable => &mut self.unreadable,
        };
        *counter += 1;
        if let Fate::Delivered(_, topics) = fate {
            for topic in topics {
                *self.topics.entry(topic).or_default() += 1;
            }
        }
    }
}

/// One line for a person: every count that is not zero.
impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} read, {} published", self.read, self.published)?;
        for (count, what) in [
            (self.filtered, "filtered"),
            (self.dead_lettered, "dead-lettered again"),
            (self.dropped, "dropped"),
            (self.unrouted, "unrouted, left in the topic"),
            (self.left_out, "left out by --where"),
            (self.unreadable, "that are no event, left in the topic"),
        ] {
            if count > 0 {
                write!(formatter, ", {count} {what}")?;
            }
        }
        for (topic, count) in &self.topics {
            write!(formatter, "; {topic}: {count}")?;
        }
        Ok(())
    }
}
