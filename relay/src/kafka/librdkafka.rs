//! librdkafka's producer, generic over the client's context and what belongs to a record. Nothing here knows an event.
//!
//! Its Rust crate offers a producer as well. This one has what that lacks: an event queue that wakes a task instead of a
//! polling thread; topics by handle, so that producing a record costs the same with one topic and with a thousand; one
//! metadata request for all topics in use; and what brokers say of quotas.

// Calls into C. Each block states why it is sound.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::bindings as c;
use rdkafka::bindings::rd_kafka_vtype_t as vtype;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaType};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How long the reports of what was purged may take when a client ends.
const LAST_REPORTS: Duration = Duration::from_millis(500);

/// What the library calls back, on the threads that serve the client's events.
pub(super) trait Context: ClientContext + 'static {
    /// What is attached to a record until its delivery report.
    type Attached: Send;

    /// The delivery report of one record: its partition and offset, or why it is not in its topic.
    fn delivery(&self, result: Result<(i32, i64), RDKafkaErrorCode>, attached: Self::Attached);

    /// A broker delays the answers to this client for so long, because the client exceeds a quota. Zero: no longer.
    fn throttled(&self, broker: &str, id: i32, delay: Duration);
}

/// A client of the library, shared by all its users.
pub(super) type Client<C> = Arc<Shared<C>>;

/// Ends a client after its last use. That takes up to seconds: records are given up, connections closed and threads
/// joined. The last user may serve requests, so it happens on another thread.
pub(super) struct Shared<C: Context>(ManuallyDrop<Native<C>>);

/// One client of the library, and the queue of its events.
pub(super) struct Native<C: Context> {
    client: rdkafka::client::Client<C>,
    queue: NonNull<c::rd_kafka_queue_t>,
}

// SAFETY: librdkafka's queues may be used and released from any thread.
unsafe impl<C: Context> Send for Native<C> {}
// SAFETY: as above.
unsafe impl<C: Context> Sync for Native<C> {}

/// Makes a client with this configuration.
pub(super) fn create<C: Context>(config: &ClientConfig, context: C) -> Result<Client<C>, KafkaError> {
    let native = config.create_native_config()?;
    let events = c::RD_KAFKA_EVENT_DR
        | c::RD_KAFKA_EVENT_STATS
        | c::RD_KAFKA_EVENT_ERROR
        | c::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH;
    // SAFETY: the configuration is alive, and belongs to the client once that is made. The context that `on_throttle`
    // is called with is the client's, of type `C`.
    unsafe {
        c::rd_kafka_conf_set_events(native.ptr(), events);
        c::rd_kafka_conf_set_throttle_cb(native.ptr(), Some(on_throttle::<C>));
    }
    let client = rdkafka::client::Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
    // SAFETY: the client is alive; the reference that this takes is released in `drop`.
    let queue = NonNull::new(unsafe { c::rd_kafka_queue_get_main(client.native_ptr()) })
        .ok_or_else(|| KafkaError::ClientCreation("it has no event queue".into()))?;
    Ok(Arc::new(Shared(ManuallyDrop::new(Native { client, queue }))))
}

unsafe extern "C" fn on_throttle<C: Context>(
    _: *mut c::rd_kafka_t,
    broker: *const c_char,
    id: i32,
    milliseconds: c_int,
    context: *mut c_void,
) {
    // SAFETY: `create` registers this for clients whose context is a `C`, which the client owns. The name ends with NUL.
    let (context, broker) = unsafe { (&*context.cast::<C>(), CStr::from_ptr(broker)) };
    let delay = Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    context.throttled(&broker.to_string_lossy(), id, delay);
}

impl<C: Context> Deref for Shared<C> {
    type Target = Native<C>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<C: Context> Drop for Shared<C> {
    fn drop(&mut self) {
        // SAFETY: it is taken this once, and nothing comes after a drop.
        let client = unsafe { ManuallyDrop::take(&mut self.0) };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(client))),
            // This thread serves no requests.
            Err(_) => drop(client),
        }
    }
}

/// Which records [`Native::purge`] gives up.
#[derive(Clone, Copy)]
pub(super) enum Purge {
    /// Those that no broker was sent.
    Queued,
    /// All of them.
    All,
}

impl<C: Context> Native<C> {
    /// What the crate offers for every client.
    pub(super) fn client(&self) -> &rdkafka::client::Client<C> {
        &self.client
    }

    /// Gives up records; their delivery reports say so.
    pub(super) fn purge(&self, which: Purge) {
        let flags = match which {
            Purge::Queued => c::RD_KAFKA_PURGE_F_QUEUE,
            Purge::All => c::RD_KAFKA_PURGE_F_QUEUE | c::RD_KAFKA_PURGE_F_INFLIGHT,
        };
        // SAFETY: the client is alive. It is refused only for other flags and for consumers.
        unsafe { c::rd_kafka_purge(self.client.native_ptr(), flags) };
    }

    /// Serves events until every record has its delivery report, or the time is over.
    pub(super) fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        /// An event that another thread serves is noticed after this time.
        const LONGEST_WAIT: Duration = Duration::from_millis(100);
        let until = Instant::now() + timeout;
        loop {
            // SAFETY: the client is alive.
            let code = RDKafkaErrorCode::from(unsafe { c::rd_kafka_flush(self.client.native_ptr(), 0) });
            let left = until.saturating_duration_since(Instant::now());
            match code {
                RDKafkaErrorCode::NoError => return Ok(()),
                RDKafkaErrorCode::OperationTimedOut if !left.is_zero() => {
                    self.serve_one(left.min(LONGEST_WAIT).max(Duration::from_millis(1)));
                }
                code => return Err(KafkaError::Flush(code)),
            }
        }
    }

    /// Serves one event that is there or comes within `timeout`. All delivery reports of one request are one event.
    fn serve_one(&self, timeout: Duration) {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive until `drop`.
        let event = unsafe { c::rd_kafka_queue_poll(self.queue.as_ptr(), timeout) };
        let Some(event) = NonNull::new(event).map(Event) else { return };
        let context = self.client.context();
        match event.kind() {
            c::RD_KAFKA_EVENT_DR => event.deliveries(context.as_ref()),
            c::RD_KAFKA_EVENT_STATS => context.stats_raw(event.statistics()),
            c::RD_KAFKA_EVENT_ERROR => {
                let (code, reason) = event.error();
                context.error(KafkaError::Global(code), &reason);
            }
            c::RD_KAFKA_EVENT_LOG => {
                if let Some((level, facility, message)) = event.log() {
                    context.log(level, &facility, &message);
                }
            }
            // Tokens are renewed without being asked for.
            _ => {}
        }
    }
}

impl<C: Context> Drop for Native<C> {
    fn drop(&mut self) {
        self.purge(Purge::All);
        if let Err(error) = self.flush(LAST_REPORTS) {
            tracing::warn!(%error, "a Kafka client ends before the reports of all its records");
        }
        // SAFETY: the reference to the queue is released once, before its client.
        unsafe { c::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// An event of a client's queue.
struct Event(NonNull<c::rd_kafka_event_t>);

impl Event {
    fn kind(&self) -> c_int {
        // SAFETY: the event is alive until `drop`, here and below.
        unsafe { c::rd_kafka_event_type(self.0.as_ptr()) }
    }

    /// Reports each record of a delivery report.
    fn deliveries<C: Context>(&self, context: &C) {
        loop {
            // SAFETY: it is a delivery report of a client whose records are all produced by `produce`, with a `Produced`
            // of the context's type. The library gives each back once, here.
            let (result, produced) = unsafe {
                let message = c::rd_kafka_event_message_next(self.0.as_ptr());
                let Some(message) = message.as_ref() else { return };
                let result = match RDKafkaErrorCode::from(message.err) {
                    RDKafkaErrorCode::NoError => Ok((message.partition, message.offset)),
                    code => Err(code),
                };
                (result, Box::from_raw(message._private.cast::<Produced<C::Attached>>()))
            };
            context.delivery(result, produced.attached);
        }
    }

    fn statistics(&self) -> &[u8] {
        // SAFETY: it holds statistics, a text that ends with NUL and lives as long as the event.
        unsafe { CStr::from_ptr(c::rd_kafka_event_stats(self.0.as_ptr())) }.to_bytes()
    }

    fn error(&self) -> (RDKafkaErrorCode, Cow<'_, str>) {
        // SAFETY: it holds an error; the text ends with NUL and lives as long as the event.
        unsafe {
            let reason = CStr::from_ptr(c::rd_kafka_event_error_string(self.0.as_ptr()));
            (c::rd_kafka_event_error(self.0.as_ptr()).into(), reason.to_string_lossy())
        }
    }

    fn log(&self) -> Option<(RDKafkaLogLevel, Cow<'_, str>, Cow<'_, str>)> {
        let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the three are out-parameters, valid when the call succeeds; both texts end with NUL and live as long as
        // the event.
        let (facility, message) = unsafe {
            if c::rd_kafka_event_log(self.0.as_ptr(), &mut facility, &mut message, &mut level) != 0 {
                return None;
            }
            (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(message).to_string_lossy())
        };
        // Those of syslog(3).
        let level = match level {
            0 => RDKafkaLogLevel::Emerg,
            1 => RDKafkaLogLevel::Alert,
            2 => RDKafkaLogLevel::Critical,
            3 => RDKafkaLogLevel::Error,
            4 => RDKafkaLogLevel::Warning,
            5 => RDKafkaLogLevel::Notice,
            6 => RDKafkaLogLevel::Info,
            _ => RDKafkaLogLevel::Debug,
        };
        Some((level, facility, message))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event came from the queue, and is destroyed once.
        unsafe { c::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// A topic of one producer, looked up once.
pub(super) struct Topic<C: Context> {
    handle: NonNull<c::rd_kafka_topic_t>,
    name: String,
    /// The handle is part of the client, so the client lives as long.
    client: Client<C>,
}

// SAFETY: librdkafka's topic handles may be used and released from any thread.
unsafe impl<C: Context> Send for Topic<C> {}
// SAFETY: as above.
unsafe impl<C: Context> Sync for Topic<C> {}

impl<C: Context> Topic<C> {
    pub(super) fn new(client: &Client<C>, name: &str) -> Option<Self> {
        let c_name = CString::new(name).ok()?;
        // SAFETY: the client is alive, the name ends with NUL, and a null configuration means the client's.
        let handle =
            unsafe { c::rd_kafka_topic_new(client.client().native_ptr(), c_name.as_ptr(), ptr::null_mut()) };
        let handle = NonNull::new(handle)?;
        Some(Self { handle, name: name.to_owned(), client: Arc::clone(client) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl<C: Context> Drop for Topic<C> {
    fn drop(&mut self) {
        // SAFETY: the handle came from `rd_kafka_topic_new` and is released once, before its client.
        unsafe { c::rd_kafka_topic_destroy(self.handle.as_ptr()) }
    }
}

/// The headers of a record.
pub(super) struct Headers(NonNull<c::rd_kafka_headers_t>);

// SAFETY: headers are plain memory that only their owner touches.
unsafe impl Send for Headers {}

impl Headers {
    pub(super) fn new<'h>(headers: impl IntoIterator<Item = (&'static str, &'h str)>) -> Option<Self> {
        const USUAL: usize = 8;
        // SAFETY: it takes a number and returns memory, or null when there is none.
        let list = Self(NonNull::new(unsafe { c::rd_kafka_headers_new(USUAL) })?);
        for (name, value) in headers {
            let (name_length, value_length) = (signed(name.len())?, signed(value.len())?);
            // SAFETY: both texts are copied, and no more of them is read than the lengths say.
            unsafe {
                c::rd_kafka_header_add(
                    list.0.as_ptr(),
                    name.as_ptr().cast::<c_char>(),
                    name_length,
                    value.as_ptr().cast::<c_void>(),
                    value_length,
                );
            }
        }
        Some(list)
    }

    #[cfg(test)]
    pub(super) fn to_vec(&self) -> Vec<(String, String)> {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        let mut all = Vec::new();
        // SAFETY: the three are out-parameters that are valid when the call succeeds, until the headers go.
        unsafe {
            while c::rd_kafka_header_get_all(self.0.as_ptr(), all.len(), &mut name, &mut value, &mut size)
                == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                let value = std::slice::from_raw_parts(value.cast::<u8>(), size);
                all.push((
                    CStr::from_ptr(name).to_str().unwrap().to_owned(),
                    String::from_utf8(value.to_vec()).unwrap(),
                ));
            }
        }
        all
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: a `Headers` owns its memory; `produce` forgets it when the library has taken it over.
        unsafe { c::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

/// A record that the library has, until its delivery report: its value, which the library does not copy, and what its
/// sender attached.
struct Produced<P> {
    value: Bytes,
    attached: P,
}

/// Produces one record. The library copies the key, takes over the headers, and gives `attached` back with the delivery
/// report. Where it rejects the record at once, the error holds `attached`.
pub(super) fn produce<C: Context>(
    topic: &Topic<C>,
    key: &[u8],
    headers: Headers,
    value: Bytes,
    attached: C::Attached,
) -> Result<(), (RDKafkaErrorCode, C::Attached)> {
    /// Any partition: the partitioner chooses it by the key.
    const UNASSIGNED: i32 = -1;
    let memory = |bytes: &[u8]| c::rd_kafka_vu_s__bindgen_ty_1 {
        mem: c::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: bytes.as_ptr().cast_mut().cast::<c_void>(),
            size: bytes.len(),
        },
    };
    let produced = Box::new(Produced { value, attached });
    let value = memory(&produced.value);
    let produced = Box::into_raw(produced);
    type Value = c::rd_kafka_vu_s__bindgen_ty_1;
    let argument = |vtype, u| c::rd_kafka_vu_t { vtype, u };
    let arguments = [
        argument(vtype::RD_KAFKA_VTYPE_RKT, Value { rkt: topic.handle.as_ptr() }),
        argument(vtype::RD_KAFKA_VTYPE_PARTITION, Value { i32_: UNASSIGNED }),
        // Neither copied nor freed by the library.
        argument(vtype::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: 0 }),
        argument(vtype::RD_KAFKA_VTYPE_KEY, memory(key)),
        argument(vtype::RD_KAFKA_VTYPE_VALUE, value),
        argument(vtype::RD_KAFKA_VTYPE_HEADERS, Value { headers: headers.0.as_ptr() }),
        argument(vtype::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: produced.cast::<c_void>() }),
    ];
    // SAFETY: every argument has the type that its tag says. The library reads the key during the call only, and the
    // value until it gives `produced`, which holds it, back. The client's context takes that type back, as `C` says. The
    // client is alive because the topic holds it.
    let error = unsafe {
        c::rd_kafka_produceva(topic.client.client().native_ptr(), arguments.as_ptr(), arguments.len())
    };
    if error.is_null() {
        std::mem::forget(headers);
        return Ok(());
    }
    // SAFETY: the error is valid until it is destroyed, here. It means that the library took nothing, so `produced` is
    // what `into_raw` returned, and has no other owner.
    unsafe {
        let code = RDKafkaErrorCode::from(c::rd_kafka_error_code(error));
        c::rd_kafka_error_destroy(error);
        Err((code, Box::from_raw(produced).attached))
    }
}

/// A client's event queue, which wakes a task when it stops being empty. The library's own thread does the waking.
pub(super) struct EventQueue<C: Context> {
    client: Client<C>,
    notify: Arc<Notify>,
}

impl<C: Context> EventQueue<C> {
    pub(super) fn new(client: &Client<C>) -> Self {
        unsafe extern "C" fn on_event(_: *mut c::rd_kafka_t, notify: *mut c_void) {
            // SAFETY: `notify` is the `Notify` that the `EventQueue` holds until after it has ended the callbacks.
            unsafe { &*notify.cast::<Notify>() }.notify_one();
        }
        let notify = Arc::new(Notify::new());
        let opaque = Arc::as_ptr(&notify).cast_mut().cast::<c_void>();
        // SAFETY: `on_event` is safe to call from any thread, and what `opaque` points to outlives the callbacks.
        unsafe { c::rd_kafka_queue_cb_event_enable(client.queue.as_ptr(), Some(on_event), opaque) }
        notify.notify_one();
        Self { client: Arc::clone(client), notify }
    }

    /// Waits until the queue is no longer empty.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Whether there are events to serve.
    pub(super) fn has_events(&self) -> bool {
        // SAFETY: the queue is alive as long as the client.
        unsafe { c::rd_kafka_queue_length(self.client.queue.as_ptr()) > 0 }
    }

    /// Serves one event. All delivery reports of one request are one event.
    pub(super) fn serve_one(&self) {
        self.client.serve_one(Duration::ZERO);
    }

    /// Why the client can send no more, for instance after an idempotent producer's sequence was lost.
    pub(super) fn failed(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the client is alive; with no buffer, only the code is asked for.
        let code = unsafe { c::rd_kafka_fatal_error(self.client.client().native_ptr(), ptr::null_mut(), 0) };
        (code != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }
}

impl<C: Context> Drop for EventQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the library changes the callback under the queue's lock, so none runs after this.
        unsafe { c::rd_kafka_queue_cb_event_enable(self.client.queue.as_ptr(), None, ptr::null_mut()) }
    }
}

/// The state of a topic, as a broker reports it.
#[derive(Clone, Debug)]
pub(super) struct TopicState {
    pub(super) name: String,
    /// Why it cannot be used.
    pub(super) error: Option<RDKafkaErrorCode>,
    /// The partition with the fewest replicas in sync: how many they are, and of how many.
    pub(super) least_in_sync: (usize, usize),
    /// How many partitions have no leader.
    pub(super) without_leader: usize,
}

impl TopicState {
    /// A topic that the broker did not report.
    pub(super) fn missing(name: &str) -> Self {
        let error = Some(RDKafkaErrorCode::UnknownTopicOrPartition);
        Self { name: name.to_owned(), error, least_in_sync: (0, 0), without_leader: 0 }
    }

    /// # Safety
    /// `topic` must be valid: part of metadata that has not been destroyed.
    unsafe fn read(topic: &c::rd_kafka_metadata_topic) -> Self {
        // SAFETY: the caller's promise. The name ends with NUL, and there are as many partitions as it says.
        let (name, partitions) = unsafe {
            let count = usize::try_from(topic.partition_cnt).unwrap_or_default();
            let partitions = match count {
                0 => &[],
                _ => std::slice::from_raw_parts(topic.partitions, count),
            };
            (CStr::from_ptr(topic.topic).to_string_lossy().into_owned(), partitions)
        };
        let error = match topic.err {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR if partitions.is_empty() => {
                Some(RDKafkaErrorCode::UnknownTopicOrPartition)
            }
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            error => Some(error.into()),
        };
        let number = |count: c_int| usize::try_from(count).unwrap_or_default();
        let least_in_sync = partitions
            .iter()
            .map(|partition| (number(partition.isr_cnt), number(partition.replica_cnt)))
            .min_by_key(|(in_sync, _)| *in_sync)
            .unwrap_or_default();
        let without_leader = partitions.iter().filter(|partition| partition.leader < 0).count();
        Self { name, error, least_in_sync, without_leader }
    }
}

/// The topics that `client` has handles of, by name: one request to one broker.
pub(super) fn topics_in_use<C: Context>(
    client: &Native<C>,
    timeout: Duration,
) -> Result<HashMap<String, TopicState>, RDKafkaErrorCode> {
    let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let mut metadata: *const c::rd_kafka_metadata = ptr::null();
    // SAFETY: the client is alive, and `metadata` is an out-parameter.
    let error = unsafe {
        c::rd_kafka_metadata(client.client().native_ptr(), 0, ptr::null_mut(), &mut metadata, timeout)
    };
    if error != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || metadata.is_null() {
        return Err(error.into());
    }
    // SAFETY: the call succeeded, so `metadata` has as many topics as it says, with names that end with NUL. All
    // that is kept is copied before it is destroyed.
    unsafe {
        let count = usize::try_from((*metadata).topic_cnt).unwrap_or_default();
        let topics = match count {
            0 => &[],
            _ => std::slice::from_raw_parts((*metadata).topics, count),
        };
        let states = topics.iter().map(|topic| TopicState::read(topic));
        let found = states.map(|state| (state.name.clone(), state)).collect();
        c::rd_kafka_metadata_destroy(metadata);
        Ok(found)
    }
}

/// Sets the SASL OAUTHBEARER token that connections are opened with from now on, and the extensions that go with it;
/// `expires` is in milliseconds since 1970. The error is the library's text.
pub(super) fn set_token<C: Context>(
    client: &Native<C>,
    principal: &str,
    token: &str,
    expires: i64,
    extensions: &BTreeMap<String, String>,
) -> Result<(), String> {
    const LONGEST_ERROR: usize = 512;
    let no_text = |_| "it holds a NUL".to_owned();
    let value = CString::new(token).map_err(no_text)?;
    let principal = CString::new(principal).map_err(no_text)?;
    let extensions = extensions.iter().flat_map(|(name, value)| [name, value]);
    let extensions: Vec<_> =
        extensions.map(|text| CString::new(text.as_str())).collect::<Result<_, _>>().map_err(no_text)?;
    let mut extensions_read: Vec<_> = extensions.iter().map(|text| text.as_ptr()).collect();
    let mut error = [0 as c_char; LONGEST_ERROR];
    // SAFETY: the client is alive; all texts end with NUL and are copied; the extensions are as many texts as their
    // number says, and only read; the library writes no more than the buffer's length, with a NUL at its end.
    let code = unsafe {
        c::rd_kafka_oauthbearer_set_token(
            client.client().native_ptr(),
            value.as_ptr(),
            expires,
            principal.as_ptr(),
            extensions_read.as_mut_ptr(),
            extensions_read.len(),
            error.as_mut_ptr(),
            error.len(),
        )
    };
    if code == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: the buffer was all NUL before, and so ends with one.
    Err(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned())
}

/// Tells the client why it has no token; it reports that as an error of the cluster.
pub(super) fn set_token_failure<C: Context>(client: &Native<C>, reason: &str) {
    let Ok(reason) = CString::new(reason.replace('\0', " ")) else { return };
    // SAFETY: the client is alive; the text ends with NUL and is copied. A client that does not use OAUTHBEARER
    // refuses the call.
    unsafe { c::rd_kafka_oauthbearer_set_token_failure(client.client().native_ptr(), reason.as_ptr()) };
}

/// Makes the client fail for good, as an unrecoverable error of the cluster would.
#[cfg(test)]
pub(super) fn fail_for_good<C: Context>(client: &Native<C>) {
    // SAFETY: the client is alive and the text ends with NUL.
    unsafe {
        c::rd_kafka_test_fatal_error(
            client.client().native_ptr(),
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            c"a test".as_ptr(),
        );
    }
}

fn signed(length: usize) -> Option<isize> {
    isize::try_from(length).ok()
}
