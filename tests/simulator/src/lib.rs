//! A simulator of the part of Genesys Cloud that PresenceRoute uses: OAuth tokens, event-bridge registrations and the
//! signed delivery of events with its documented retries; integrations with Amazon EventBridge, and an event bus that
//! delivers presence changes to queues and API destinations with Amazon EventBridge's retries. The simulator validates
//! requests, injects faults on request, and records each request and each delivery. [`sqs`] stands in for Amazon SQS.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use genesys_simulator::{Config, DeliveryPlan, Simulator};
//!
//! let simulator = Simulator::new(Config { listen: "127.0.0.1:0".parse()?, ..Config::default() })?;
//! let running = simulator.start().await?;
//! // ... something registers at http://{running.address()} ...
//! let delivery = simulator.deliver(DeliveryPlan { count: Some(100), ..DeliveryPlan::default() })?;
//! let summary = delivery.finished().await;
//! running.stop().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod control;
mod delivery;
mod event;
mod event_bus;
mod eventbridges;
mod faults;
mod integrations;
mod moment;
pub mod notification;
mod organization;
mod permissions;
mod presence_definitions;
mod problem;
mod rate_limit;
mod requests;
mod server;
mod signature;
pub mod sqs;
mod token;
mod topics;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use http::HeaderName;
use parking_lot::Mutex;
use reqwest::Client;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{Config, CreatedStatus, DuplicateNames, OauthClient};
pub use delivery::{
    Attempt, Delivery, DeliveryPlan, DeliverySummary, EnvelopeRecord, EventRecord, LatencySummary, Outcome,
    PlanError, REMEMBERED_BODY_BYTES, REMEMBERED_EVENTS, REMEMBERED_RUNS, RunState, SignWith,
};
pub use event::{Event, Generator};
pub use event_bus::{
    ApiDestinationTarget, BusRule, PresencePlan, RuleError, SqsCredentials, SqsTarget, Target,
    TargetRetryPolicy,
};
pub use eventbridges::{Registration, RetryPolicy};
pub use faults::{ActiveRule, Delay, Effect, Fault, FaultRule, Match, Side};
pub use integrations::{AMAZON_EVENT_BRIDGE_SOURCE, EventBridgeProperties, Integration, IntegrationState};
pub use moment::Moment;
pub use presence_definitions::{PRESENCE_DEFINITIONS, PresenceDefinition};
pub use requests::{REMEMBERED_REQUESTS, RequestCounts, RequestRecord};
pub use server::Running;
pub use signature::{fingerprint, sign};

use problem::Problem;
use rate_limit::RateLimit;
use requests::RequestLog;
use token::Tokens;

/// One simulated organisation. Clones are the same organisation.
#[derive(Clone)]
pub struct Simulator {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) signature_header: HeaderName,
    pub(crate) client: Client,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) rate_limit: Mutex<RateLimit>,
    pub(crate) registrations: Mutex<eventbridges::Registrations>,
    pub(crate) integrations: Mutex<integrations::Integrations>,
    pub(crate) withheld_permissions: Mutex<BTreeSet<String>>,
    pub(crate) event_bus: Mutex<event_bus::EventBus>,
    pub(crate) faults: Mutex<faults::Faults>,
    pub(crate) requests: Mutex<RequestLog>,
    pub(crate) ledger: Mutex<delivery::Ledger>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// Why a simulator could not be made or started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The file of certificate authorities cannot be used.
    #[error("cannot use the CA file {}: {cause}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The HTTP client for deliveries cannot be made.
    #[error("cannot set up the client for deliveries: {0}")]
    Client(#[source] reqwest::Error),
    /// The signature header's name is no header name.
    #[error("{0:?} cannot be the name of the signature header")]
    SignatureHeader(String),
    /// The path cannot be one of the API, or belongs to something else.
    #[error("{0:?} cannot be a path of the API: begin with /, leave out {{}}, /control and the other's path")]
    Path(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
}

impl Simulator {
    /// An organisation with no registrations.
    ///
    /// # Errors
    /// Every [`StartError`] but `Listen`.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let signature_header = config
            .signature_header
            .parse()
            .map_err(|_| StartError::SignatureHeader(config.signature_header.clone()))?;
        check_path(&config.token_path, &config.event_bridges_path)?;
        check_path(&config.event_bridges_path, &config.token_path)?;
        check_path(&config.event_bridges_path, token::LOGIN_PATH)?;
        let client = delivery::client(&config)?;
        let event_bus = event_bus::EventBus::new(&config, client.clone())?;
        let rate_limit = RateLimit::new(config.rate_limit_per_minute);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                signature_header,
                client,
                tokens: Mutex::default(),
                rate_limit: Mutex::new(rate_limit),
                registrations: Mutex::default(),
                integrations: Mutex::default(),
                withheld_permissions: Mutex::default(),
                event_bus: Mutex::new(event_bus),
                faults: Mutex::default(),
                requests: Mutex::default(),
                ledger: Mutex::default(),
            }),
        })
    }

    /// The API and the control API as one service, to be served by a server of the caller's. A fault that cuts
    /// the connection needs [`Simulator::start`]; here it is a 502.
    pub fn router(&self) -> Router {
        self.api().merge(control::router(self.clone()))
    }

    fn api(&self) -> Router {
        let config = &self.inner.config;
        let collection = config.event_bridges_path.trim_end_matches('/');
        let mut tokens = Router::new().route(&config.token_path, post(token::issue));
        if config.token_path != token::LOGIN_PATH {
            tokens = tokens.route(token::LOGIN_PATH, post(token::issue_at_login));
        }
        tokens
            .merge(self.published_api())
            .route(collection, get(eventbridges::list).post(eventbridges::create))
            .route(
                &format!("{collection}/{{id}}"),
                get(eventbridges::read).put(eventbridges::replace).delete(eventbridges::delete),
            )
            .method_not_allowed_fallback(async || {
                Problem::method_not_allowed("there is no such method here", None)
            })
            .fallback(async || Problem::not_found("there is no such path"))
            .layer(from_fn_with_state(self.clone(), faults::inject))
            .layer(from_fn_with_state(self.clone(), requests::record))
            .with_state(self.clone())
    }

    /// What Genesys Cloud publishes, as its SDK calls it.
    fn published_api(&self) -> Router<Self> {
        let one = format!("{}/{{id}}", integrations::api::PATH);
        Router::new()
            .route(integrations::api::PATH, get(integrations::api::list).post(integrations::api::create))
            .route(
                &one,
                get(integrations::api::read)
                    .patch(integrations::api::switch)
                    .delete(integrations::api::delete),
            )
            .route(
                &format!("{one}/config/current"),
                get(integrations::api::read_config).put(integrations::api::replace_config),
            )
            .route(
                &format!("{}/types/{{type}}/configschemas/properties", integrations::api::PATH),
                get(integrations::api::schema),
            )
            .route("/api/v2/organizations/me", get(organization::me))
            .route("/api/v2/notifications/availabletopics", get(topics::list))
            .route("/api/v2/presence/definitions", get(presence_definitions::list))
    }

    /// Listens where the configuration says, and serves until [`Running::stop`].
    ///
    /// # Errors
    /// [`StartError::Listen`] where an address is taken or not this machine's.
    pub async fn start(&self) -> Result<Running, StartError> {
        let config = &self.inner.config;
        let stop = CancellationToken::new();
        let (listener, address) = bind(config.listen).await?;
        tracing::info!(%address, "the Genesys API listens");
        let (control_address, servers) = match config.control_listen {
            None => (address, vec![tokio::spawn(server::serve(listener, self.router(), stop.clone()))]),
            Some(control_listen) => {
                let (control_listener, control_address) = bind(control_listen).await?;
                tracing::info!(address = %control_address, "the control API listens");
                let api = self.api().route("/livez", get("ok"));
                let control = control::router(self.clone());
                let servers = vec![
                    tokio::spawn(server::serve(listener, api, stop.clone())),
                    tokio::spawn(server::serve(control_listener, control, stop.clone())),
                ];
                (control_address, servers)
            }
        };
        Ok(Running { simulator: self.clone(), address, control_address, stop, servers })
    }

    /// All registrations, in the order of their creation.
    #[must_use]
    pub fn registrations(&self) -> Vec<Arc<Registration>> {
        self.inner.registrations.lock().all().cloned().collect()
    }

    /// Counts of the requests to the API.
    #[must_use]
    pub fn request_counts(&self) -> RequestCounts {
        self.inner.requests.lock().counts()
    }

    /// The kept requests to the API after that sequence number, oldest first; 0 for all.
    #[must_use]
    pub fn requests(&self, since: u64) -> Vec<RequestRecord> {
        self.inner.requests.lock().since(since)
    }

    /// Replaces the fault rules; an empty list ends all faults.
    pub fn set_faults(&self, rules: Vec<FaultRule>) {
        self.inner.faults.lock().set(rules);
    }

    /// The fault rules with their counts since they were set.
    #[must_use]
    pub fn faults(&self) -> Vec<ActiveRule> {
        self.inner.faults.lock().rules()
    }

    /// Invalidates every token issued so far, and returns how many there were.
    pub fn expire_tokens(&self) -> usize {
        self.inner.tokens.lock().expire(std::time::Instant::now())
    }

    /// Stops every delivery and clears registrations, integrations, rules, permissions, tokens, budgets, faults, logs and
    /// runs.
    pub fn reset(&self) {
        delivery::stop_all(self);
        self.inner.ledger.lock().clear();
        self.inner.registrations.lock().clear();
        self.inner.integrations.lock().clear();
        self.inner.event_bus.lock().clear();
        self.inner.withheld_permissions.lock().clear();
        *self.inner.tokens.lock() = Tokens::default();
        self.inner.rate_limit.lock().reset();
        self.inner.faults.lock().set(Vec::new());
        *self.inner.requests.lock() = RequestLog::default();
    }
}

/// The beginnings of the paths that Genesys Cloud publishes.
const PUBLISHED: [&str; 4] =
    [integrations::api::PATH, "/api/v2/organizations/", "/api/v2/notifications/", "/api/v2/presence/"];

fn check_path(path: &str, other: &str) -> Result<(), StartError> {
    let trimmed = path.trim_end_matches('/');
    let is_free = !trimmed.is_empty()
        && trimmed != "/livez"
        && !trimmed.starts_with("/control")
        && !PUBLISHED.iter().any(|published| trimmed.starts_with(published));
    let is_plain = path.starts_with('/') && !path.contains(['{', '}', '*', '?', '#', ' ']);
    // The token path must be neither the collection nor one of the registrations in it.
    let is_apart = !trimmed
        .strip_prefix(other.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_free && is_plain && is_apart { Ok(()) } else { Err(StartError::Path(path.to_owned())) }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |cause| StartError::Listen { address, cause };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    Ok((listener, taken))
}
