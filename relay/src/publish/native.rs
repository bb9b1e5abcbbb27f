//! The few calls of librdkafka that its Rust crate does not offer.
//!
//! They give: an event queue that wakes a task instead of a polling thread; topics by handle, so that handing a
//! record over costs the same with one topic and with a thousand; and one question for all topics in use.

// Calls into C. Each block says why it is sound.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rdkafka::bindings as c;
use rdkafka::bindings::rd_kafka_vtype_t as vtype;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use secrecy::ExposeSecret;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::oauth::Token;
use super::producer::{Context, Sent};

/// A client of the library, shared by all that uses it.
pub(super) type Client = Arc<Shared>;

/// What ends a client when nobody uses it any more. That takes up to seconds, since records are given up, connections
/// closed and threads waited for. Whoever lets go of it last may serve requests, so it is done on another thread.
pub(super) struct Shared(ManuallyDrop<BaseProducer<Context>>);

/// Has a client be shared.
pub(super) fn share(client: BaseProducer<Context>) -> Client {
    Arc::new(Shared(ManuallyDrop::new(client)))
}

impl Deref for Shared {
    type Target = BaseProducer<Context>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is taken this once, and nothing comes after a drop.
        let client = unsafe { ManuallyDrop::take(&mut self.0) };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(client))),
            // Nobody is served on this thread.
            Err(_) => drop(client),
        }
    }
}

/// A topic of one producer, looked up once.
pub(super) struct Topic {
    handle: NonNull<c::rd_kafka_topic_t>,
    /// Counts what it acknowledged.
    pub(super) published: Counter,
    name: String,
    /// The handle is part of the client, so the client lives as long.
    client: Client,
}

// SAFETY: librdkafka's topic handles may be used and released from any thread.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

impl Topic {
    pub(super) fn new(client: &Client, name: &str, published: Counter) -> Option<Self> {
        let c_name = CString::new(name).ok()?;
        // SAFETY: the client is alive, the name ends with NUL, and a null configuration means the client's.
        let handle =
            unsafe { c::rd_kafka_topic_new(client.client().native_ptr(), c_name.as_ptr(), ptr::null_mut()) };
        let handle = NonNull::new(handle)?;
        Some(Self { handle, published, name: name.to_owned(), client: Arc::clone(client) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Topic {
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

/// Hands one record over, whose value is `sent.body`. The library copies the key, and takes the headers and `sent`,
/// which comes back with the delivery report, or at once where it refuses.
pub(super) fn produce(
    topic: &Topic,
    key: &[u8],
    headers: Headers,
    sent: Box<Sent>,
) -> Result<(), (RDKafkaErrorCode, Box<Sent>)> {
    /// Any partition: the partitioner chooses it by the key.
    const UNASSIGNED: i32 = -1;
    let memory = |bytes: &[u8]| c::rd_kafka_vu_s__bindgen_ty_1 {
        mem: c::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: bytes.as_ptr().cast_mut().cast::<c_void>(),
            size: bytes.len(),
        },
    };
    let value = memory(&sent.body);
    let sent = Box::into_raw(sent);
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
        argument(vtype::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: sent.cast::<c_void>() }),
    ];
    // SAFETY: every argument has the type that its tag says. The library reads the key during the call only, and the
    // value until it gives `sent`, which holds it, back. The client is alive because the topic holds it.
    let error = unsafe {
        c::rd_kafka_produceva(topic.client.client().native_ptr(), arguments.as_ptr(), arguments.len())
    };
    if error.is_null() {
        std::mem::forget(headers);
        return Ok(());
    }
    // SAFETY: the error is valid until it is destroyed, here. It means that the library took nothing, so `sent` is
    // what `into_raw` gave out, and nobody else's.
    unsafe {
        let code = RDKafkaErrorCode::from(c::rd_kafka_error_code(error));
        c::rd_kafka_error_destroy(error);
        Err((code, Box::from_raw(sent)))
    }
}

/// Rings a bell whenever a client's event queue stops being empty. The library's own thread does the ringing.
pub(super) struct Wakeups {
    queue: NonNull<c::rd_kafka_queue_t>,
    client: Client,
    bell: Arc<Notify>,
}

// SAFETY: librdkafka's queues may be used and released from any thread.
unsafe impl Send for Wakeups {}
// SAFETY: as above.
unsafe impl Sync for Wakeups {}

impl Wakeups {
    pub(super) fn new(client: &Client) -> Option<Self> {
        unsafe extern "C" fn ring(_: *mut c::rd_kafka_t, bell: *mut c_void) {
            // SAFETY: `bell` is the `Notify` that `Wakeups` holds until after it has ended the callbacks.
            unsafe { &*bell.cast::<Notify>() }.notify_one();
        }
        // SAFETY: the client is alive; the reference that this takes is released in `drop`.
        let queue = NonNull::new(unsafe { c::rd_kafka_queue_get_main(client.client().native_ptr()) })?;
        let bell = Arc::new(Notify::new());
        let opaque = Arc::as_ptr(&bell).cast_mut().cast::<c_void>();
        // SAFETY: `ring` is safe to call from any thread, and what `opaque` points to outlives the callbacks.
        unsafe { c::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(ring), opaque) }
        bell.notify_one();
        Some(Self { queue, client: Arc::clone(client), bell })
    }

    /// Waits for the next ring.
    pub(super) async fn next(&self) {
        self.bell.notified().await;
    }

    /// Whether there are events to serve.
    pub(super) fn has_events(&self) -> bool {
        // SAFETY: the queue is alive until `drop`.
        unsafe { c::rd_kafka_queue_length(self.queue.as_ptr()) > 0 }
    }

    /// Serves one event. The reports of one request are one.
    pub(super) fn serve_one(&self) {
        // With no time to wait for another, it ends after the first.
        self.client.poll(Duration::ZERO);
    }

    /// Why the client can send no more, for instance after an idempotent producer's sequence was lost.
    pub(super) fn failed(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the client is alive; with no buffer, only the code is asked for.
        let code = unsafe { c::rd_kafka_fatal_error(self.client.client().native_ptr(), ptr::null_mut(), 0) };
        (code != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        // SAFETY: the library changes the callback under the queue's lock, so none runs after this; the reference
        // to the queue is released once, before its client.
        unsafe {
            c::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// How a topic stands, as a broker sees it.
#[derive(Clone, Debug)]
pub(super) struct TopicState {
    pub(super) name: String,
    /// Why it cannot be used.
    pub(super) error: Option<RDKafkaErrorCode>,
    /// The partition with the fewest replicas in sync: how many they are, and of how many.
    pub(super) least_in_sync: (usize, usize),
    /// How many partitions nobody leads.
    pub(super) without_leader: usize,
}

impl TopicState {
    /// One that the cluster says nothing of.
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

/// The topics that `client` has handles of, by name: one question to one broker.
pub(super) fn topics_in_use(
    client: &BaseProducer<Context>,
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

/// Hands a SASL OAUTHBEARER token over: connections are opened with it from now on. The error is the library's, in
/// words.
pub(super) fn set_token(
    client: &BaseProducer<Context>,
    principal: &str,
    token: &Token,
) -> Result<(), String> {
    const LONGEST_ERROR: usize = 512;
    let no_text = |_| "it holds a NUL".to_owned();
    let value = CString::new(token.value.expose_secret()).map_err(no_text)?;
    let principal = CString::new(principal).map_err(no_text)?;
    let mut error = [0 as c_char; LONGEST_ERROR];
    // SAFETY: the client is alive; both texts end with NUL and are copied; there are no extensions; the library writes
    // no more than the buffer's length, with a NUL at its end.
    let code = unsafe {
        c::rd_kafka_oauthbearer_set_token(
            client.client().native_ptr(),
            value.as_ptr(),
            token.expires,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
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

/// Tells the client why it gets no token; it reports that as an error of the cluster.
pub(super) fn report_no_token(client: &BaseProducer<Context>, why: &str) {
    let Ok(why) = CString::new(why.replace('\0', " ")) else { return };
    // SAFETY: the client is alive; the text ends with NUL and is copied. A client that does not use OAUTHBEARER
    // refuses the call.
    unsafe { c::rd_kafka_oauthbearer_set_token_failure(client.client().native_ptr(), why.as_ptr()) };
}

/// Makes the client fail for good, as an unrecoverable error of the cluster would.
#[cfg(test)]
pub(super) fn fail_for_good(client: &BaseProducer<Context>) {
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
