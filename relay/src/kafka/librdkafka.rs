//! The few calls of librdkafka that its Rust crate does not offer, generic over the client's context and what belongs
//! to a record. Nothing here knows an event.
//!
//! They give: an event queue that wakes a task instead of a polling thread; topics by handle, so that producing a record
//! costs the same with one topic and with a thousand; and one metadata request for all topics in use.

// Calls into C. Each block states why it is sound.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::bindings as c;
use rdkafka::bindings::rd_kafka_vtype_t as vtype;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A client of the library, shared by all its users.
pub(super) type Client<C> = Arc<Shared<C>>;

/// Ends a client after its last use. That takes up to seconds: records are given up, connections closed and threads
/// joined. The last user may serve requests, so it happens on another thread.
pub(super) struct Shared<C: ProducerContext + 'static>(ManuallyDrop<BaseProducer<C>>);

/// Makes a client shared.
pub(super) fn share<C: ProducerContext>(client: BaseProducer<C>) -> Client<C> {
    Arc::new(Shared(ManuallyDrop::new(client)))
}

impl<C: ProducerContext> Deref for Shared<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<C: ProducerContext + 'static> Drop for Shared<C> {
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

/// A topic of one producer, looked up once.
pub(super) struct Topic<C: ProducerContext + 'static> {
    handle: NonNull<c::rd_kafka_topic_t>,
    name: String,
    /// The handle is part of the client, so the client lives as long.
    client: Client<C>,
}

// SAFETY: librdkafka's topic handles may be used and released from any thread.
unsafe impl<C: ProducerContext> Send for Topic<C> {}
// SAFETY: as above.
unsafe impl<C: ProducerContext> Sync for Topic<C> {}

impl<C: ProducerContext> Topic<C> {
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

impl<C: ProducerContext + 'static> Drop for Topic<C> {
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
pub(super) struct Produced<P> {
    value: Bytes,
    /// What the sender attached.
    pub(super) attached: P,
}

/// Produces one record. The library copies the key, takes over the headers, and gives `attached` back with the delivery
/// report. Where it rejects the record at once, the error holds `attached`.
pub(super) fn produce<C, P>(
    topic: &Topic<C>,
    key: &[u8],
    headers: Headers,
    value: Bytes,
    attached: P,
) -> Result<(), (RDKafkaErrorCode, P)>
where
    C: ProducerContext<DeliveryOpaque = Box<Produced<P>>>,
{
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
pub(super) struct EventQueue<C: ProducerContext + 'static> {
    queue: NonNull<c::rd_kafka_queue_t>,
    client: Client<C>,
    notify: Arc<Notify>,
}

// SAFETY: librdkafka's queues may be used and released from any thread.
unsafe impl<C: ProducerContext> Send for EventQueue<C> {}
// SAFETY: as above.
unsafe impl<C: ProducerContext> Sync for EventQueue<C> {}

impl<C: ProducerContext> EventQueue<C> {
    pub(super) fn new(client: &Client<C>) -> Option<Self> {
        unsafe extern "C" fn on_event(_: *mut c::rd_kafka_t, notify: *mut c_void) {
            // SAFETY: `notify` is the `Notify` that the `EventQueue` holds until after it has ended the callbacks.
            unsafe { &*notify.cast::<Notify>() }.notify_one();
        }
        // SAFETY: the client is alive; the reference that this takes is released in `drop`.
        let queue = NonNull::new(unsafe { c::rd_kafka_queue_get_main(client.client().native_ptr()) })?;
        let notify = Arc::new(Notify::new());
        let opaque = Arc::as_ptr(&notify).cast_mut().cast::<c_void>();
        // SAFETY: `on_event` is safe to call from any thread, and what `opaque` points to outlives the callbacks.
        unsafe { c::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_event), opaque) }
        notify.notify_one();
        Some(Self { queue, client: Arc::clone(client), notify })
    }

    /// Waits until the queue is no longer empty.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Whether there are events to serve.
    pub(super) fn has_events(&self) -> bool {
        // SAFETY: the queue is alive until `drop`.
        unsafe { c::rd_kafka_queue_length(self.queue.as_ptr()) > 0 }
    }

    /// Serves one event. All delivery reports of one request are one event.
    pub(super) fn serve_one(&self) {
        // Without a timeout, it returns after the first.
        self.client.poll(Duration::ZERO);
    }

    /// Why the client can send no more, for instance after an idempotent producer's sequence was lost.
    pub(super) fn failed(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the client is alive; with no buffer, only the code is asked for.
        let code = unsafe { c::rd_kafka_fatal_error(self.client.client().native_ptr(), ptr::null_mut(), 0) };
        (code != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }
}

impl<C: ProducerContext + 'static> Drop for EventQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the library changes the callback under the queue's lock, so none runs after this; the reference
        // to the queue is released once, before its client.
        unsafe {
            c::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
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
pub(super) fn topics_in_use<C: ProducerContext>(
    client: &BaseProducer<C>,
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

/// Sets the SASL OAUTHBEARER token that connections are opened with from now on; `expires` is in milliseconds since 1970.
/// The error is the library's text.
pub(super) fn set_token<C: ProducerContext>(
    client: &BaseProducer<C>,
    principal: &str,
    token: &str,
    expires: i64,
) -> Result<(), String> {
    const LONGEST_ERROR: usize = 512;
    let no_text = |_| "it holds a NUL".to_owned();
    let value = CString::new(token).map_err(no_text)?;
    let principal = CString::new(principal).map_err(no_text)?;
    let mut error = [0 as c_char; LONGEST_ERROR];
    // SAFETY: the client is alive; both texts end with NUL and are copied; there are no extensions; the library writes
    // no more than the buffer's length, with a NUL at its end.
    let code = unsafe {
        c::rd_kafka_oauthbearer_set_token(
            client.client().native_ptr(),
            value.as_ptr(),
            expires,
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

/// Tells the client why it has no token; it reports that as an error of the cluster.
pub(super) fn set_token_failure<C: ProducerContext>(client: &BaseProducer<C>, reason: &str) {
    let Ok(reason) = CString::new(reason.replace('\0', " ")) else { return };
    // SAFETY: the client is alive; the text ends with NUL and is copied. A client that does not use OAUTHBEARER
    // refuses the call.
    unsafe { c::rd_kafka_oauthbearer_set_token_failure(client.client().native_ptr(), reason.as_ptr()) };
}

/// Makes the client fail for good, as an unrecoverable error of the cluster would.
#[cfg(test)]
pub(super) fn fail_for_good<C: ProducerContext>(client: &BaseProducer<C>) {
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
