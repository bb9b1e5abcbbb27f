//! A stand-in for Amazon SQS, for the quick start and for tests of one process: standard queues in memory, behind the
//! service's JSON protocol (`application/x-amz-json-1.0`).
//!
//! It has what a consumer and Amazon EventBridge use: sending and receiving in batches, long polls, visibility time-outs,
//! receive counts and dead-letter queues, with the service's bounds and error codes. Every request is accepted whatever its
//! signature; messages are kept until they are deleted; there are no FIFO queues and no message attributes.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use genesys_simulator::sqs::{QueueSettings, SqsServer};
//!
//! let queues = vec![QueueSettings::new("presence").with_dead_letter_queue("presence-dead-letters", 5)];
//! let server = SqsServer::start("127.0.0.1:0".parse()?, queues).await?;
//! let url = server.queue_url("presence");
//! // ... something receives from that queue ...
//! assert_eq!(server.counts("presence").map(|counts| counts.visible), Some(0));
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod actions;
mod faults;
mod protocol;
mod queue;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use faults::SqsFault;
pub use queue::QueueCounts;

use faults::Faults;
use queue::Queue;

/// The account that the queues' URLs and ARNs name.
pub const ACCOUNT: &str = "000000000000";

/// The region that the queues' ARNs name.
pub const REGION: &str = "us-east-1";

/// The bytes of a request: its messages may be written with escapes.
const LARGEST_REQUEST: usize = 8 * 1024 * 1024;

const DEFAULT_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);

/// A queue as it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    name: String,
    visibility_timeout: Duration,
    redrive: Option<Redrive>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Redrive {
    dead_letter_queue: String,
    max_receive_count: u32,
}

impl QueueSettings {
    /// A queue of that name with a visibility time-out of 30 seconds and no dead-letter queue.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), visibility_timeout: DEFAULT_VISIBILITY_TIMEOUT, redrive: None }
    }

    /// How long a received message is hidden unless the receive says otherwise.
    #[must_use]
    pub fn with_visibility_timeout(self, visibility_timeout: Duration) -> Self {
        Self { visibility_timeout, ..self }
    }

    /// A message that was received so often goes to the queue of that name instead of being received again. That queue
    /// is created where the settings do not name it.
    #[must_use]
    pub fn with_dead_letter_queue(self, name: impl Into<String>, max_receive_count: u32) -> Self {
        Self { redrive: Some(Redrive { dead_letter_queue: name.into(), max_receive_count }), ..self }
    }
}

/// The queues by name.
struct Service {
    queues: BTreeMap<String, Arc<Queue>>,
    faults: Mutex<Faults>,
    /// The origin of the queues' URLs.
    origin: String,
}

impl Service {
    fn new(settings: Vec<QueueSettings>, origin: String) -> Self {
        let mut queues = BTreeMap::new();
        let dead_letter_queues: Vec<_> = settings
            .iter()
            .filter_map(|queue| queue.redrive.as_ref())
            .map(|redrive| QueueSettings::new(redrive.dead_letter_queue.clone()))
            .collect();
        for queue in dead_letter_queues.into_iter().chain(settings) {
            queues.insert(queue.name.clone(), Arc::new(Queue::new(queue)));
        }
        Self { queues, faults: Mutex::default(), origin }
    }

    /// The queue of a URL, whatever its host.
    fn by_url(&self, url: &str) -> Option<&Arc<Queue>> {
        self.queues.get(url.rsplit('/').next()?)
    }

    fn dead_letter_queue(&self, queue: &Queue) -> Option<&Arc<Queue>> {
        self.queues.get(queue.dead_letter_queue()?)
    }
}

fn queue_url(origin: &str, name: &str) -> String {
    format!("{origin}/{ACCOUNT}/{name}")
}

/// A server that listens. When it is dropped, it serves until the runtime ends.
#[derive(Debug)]
pub struct SqsServer {
    service: Arc<Service>,
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("queues", &self.queues.keys()).finish_non_exhaustive()
    }
}

impl SqsServer {
    /// Listens on that address, where port 0 picks a free one, and serves these queues.
    ///
    /// # Errors
    /// Where the address is taken or not this machine's.
    pub async fn start(listen: SocketAddr, queues: Vec<QueueSettings>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let service = Arc::new(Service::new(queues, format!("http://{address}")));
        let router = Router::new()
            .route("/livez", get("ok"))
            .fallback(post(protocol::call))
            .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
            .with_state(Arc::clone(&service));
        let stop = CancellationToken::new();
        let server = tokio::spawn(crate::server::serve(listener, router, stop.clone()));
        tracing::info!(%address, "the queues listen");
        Ok(Self { service, address, stop, server })
    }

    /// The address, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server's API, for clients that want one.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        self.service.origin.clone()
    }

    /// The URL of the queue of that name, whether or not it exists.
    #[must_use]
    pub fn queue_url(&self, name: &str) -> String {
        queue_url(&self.service.origin, name)
    }

    /// How many messages the queue has; `None` where there is no such queue.
    #[must_use]
    pub fn counts(&self, name: &str) -> Option<QueueCounts> {
        self.service.queues.get(name).map(|queue| queue.counts())
    }

    /// The bodies of the queue's messages, oldest first, whether or not they are hidden; `None` where there is no such
    /// queue.
    #[must_use]
    pub fn bodies(&self, name: &str) -> Option<Vec<String>> {
        self.service.queues.get(name).map(|queue| queue.bodies())
    }

    /// Puts messages into the queue, as many as there are bodies; false where there is no such queue or no room.
    #[must_use]
    pub fn send(&self, name: &str, bodies: impl IntoIterator<Item = String>) -> bool {
        let Some(queue) = self.service.queues.get(name) else { return false };
        bodies.into_iter().all(|body| queue.send(body, Duration::ZERO).is_ok())
    }

    /// The next calls of an action fail; see [`SqsFault`].
    pub fn fail(&self, fault: SqsFault) {
        self.service.faults.lock().add(fault);
    }

    /// Accepts no more connections and ends long polls; returns once the requests in progress are answered, or after 5
    /// seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        for queue in self.service.queues.values() {
            queue.close();
        }
        // A server task that panicked or was aborted is stopped, too.
        let _ = self.server.await;
    }
}
