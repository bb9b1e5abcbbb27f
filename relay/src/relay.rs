//! One running relay: its parts put together, started and ended in the right order. What the parts do is their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use presenceroute_core::relay_config::{Limits, SourceConfig, SqsConfig};
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_runtime::follow::{self, Reloaded};
use presenceroute_runtime::listen::listen;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::http::handler::Handler;
use crate::http::server::{Closing, RequestBody, serve};
use crate::http::tls::Handshakes;
use crate::http::{certificate, limits};
use crate::kafka::{self, Publisher, PublisherError};
use crate::observe::metrics::Metrics;
use crate::observe::queue::Queue;
use crate::observe::request_log::RequestLog;
use crate::observe::spans::Spans;
use crate::pipeline::{Pipeline, table};
use crate::settings::{RoutingSource, SecretSource, Settings, SettingsError, check, no_secret};
use crate::source::PushSource;
use crate::source::api_destination::{self, ApiDestination};
use crate::source::presence_definitions::{self, PresenceDefinitions};
use crate::source::secrets::{self, SecretKind, Secrets};
#[cfg(feature = "amazon-sqs")]
use crate::source::sqs::{Sqs, SqsError};
use crate::source::webhook::Webhook;
use presenceroute_core::routing::Router;

/// The most connections of the admin port at once: the kubelet, Prometheus, the operator, and a few people.
const MAX_ADMIN_CONNECTIONS: usize = 128;

/// A relay. Several may run in one process.
pub struct Relay;

/// A relay that answers. Dropping it leaves it running; [`RunningRelay::shutdown`] ends it.
pub struct RunningRelay {
    address: Option<SocketAddr>,
    tls_address: Option<SocketAddr>,
    admin_address: SocketAddr,
    pipeline: Arc<Pipeline>,
    admin: Arc<Admin>,
    publisher: Arc<Publisher>,
    spans: Option<Arc<Spans>>,
    drain: Duration,
    /// One for each port that events are posted to.
    events: Vec<Listening>,
    /// What receives events, where the source is pulled.
    pulled: Option<Pulled>,
    observed: Listening,
    /// Ends the tasks that follow files and the cluster.
    stop: CancellationToken,
}

struct Listening {
    closing: Closing,
    served: JoinHandle<()>,
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are not valid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No producer can be made.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// The queue cannot be received from at all.
    #[cfg(feature = "amazon-sqs")]
    #[error(transparent)]
    Queue(#[from] SqsError),
    /// An address that is taken or not this machine's.
    #[error("{address} cannot be listened on: {cause}")]
    Listen { address: SocketAddr, cause: std::io::Error },
}

impl Relay {
    /// Starts a relay in the current tokio runtime. It listens when this returns; whether it is ready is on
    /// `/readyz`, since Kafka may take a while.
    pub async fn start(settings: Settings) -> Result<RunningRelay, StartError> {
        let Settings { listen, admin_listen, mut config, routing, secrets, presence_definitions, spans } =
            settings;
        let spans = spans.map(Arc::new);
        check(&config)?;
        if let SourceConfig::ApiDestination(_) = config.source {
            config.limits = api_destination::within_deadline(config.limits);
        }
        let metrics = Arc::new(Metrics::new());
        metrics.in_flight_limits.set(&config.limits);
        let (publisher, supervisor) =
            kafka::start(config.kafka.clone(), config.limits.clone(), Arc::clone(&metrics)).await?;
        let is_pushed = config.source.kind().exposes_endpoint;
        let listener = is_pushed.then(|| bind(listen)).transpose()?;
        let tls_port = config.tls_port.filter(|_| is_pushed);
        let tls_listener = tls_port.map(|port| bind(SocketAddr::new(listen.ip(), port))).transpose()?;
        let admin_listener = bind(admin_listen)?;

        let stop = CancellationToken::new();
        let routing = match routing {
            RoutingSource::Fixed(table) => follow::fixed(Router::new(table)),
            RoutingSource::File(path) => table::follow(path, config.source.default_key(), stop.clone()).await,
        };
        let certificate = match config.tls.clone() {
            Some(files) => Some(certificate::follow(files, stop.clone()).await),
            None => None,
        };
        tokio::spawn(supervisor.run(routing.clone(), stop.clone()));

        let log = Arc::new(RequestLog::new(config.route.clone()));
        tokio::spawn(Arc::clone(&log).summarise(stop.clone()));
        let pipeline = Pipeline::new(
            routing.clone(),
            Arc::clone(&publisher),
            Arc::clone(&metrics),
            Arc::clone(&log),
            spans.clone(),
        );
        let pipeline = Arc::new(if is_pushed { pipeline } else { pipeline.without_rejection() });
        let (address, admin_address) =
            (listener.as_ref().map(|listener| listener.local), admin_listener.local);
        let tls_address = tls_listener.as_ref().map(|listener| listener.local);
        let tls = certificate
            .clone()
            .map(|certificate| Handshakes::new(certificate, metrics.tls_handshake_failures.clone()));
        let ports = EventPorts {
            paths: [&config.path].into_iter().chain(&config.former_paths).cloned().collect(),
            listeners: match (listener, tls_listener) {
                (Some(listener), Some(tls_listener)) => vec![(listener, None), (tls_listener, tls)],
                (Some(listener), None) => vec![(listener, tls)],
                (None, _) => Vec::new(),
            },
            max_connections: limits::max_connections(&config.limits, config.tls.is_some()),
            limits: config.limits.clone(),
            pipeline: Arc::clone(&pipeline),
            log,
            metrics: Arc::clone(&metrics),
        };
        let max_connections = ports.max_connections_each();
        let authenticated = metrics.authenticated.clone();
        let (events, secrets, pulled) = match &config.source {
            SourceConfig::Webhook => {
                let header = HeaderName::try_from(config.signature_header.as_str())
                    .map_err(|_| SettingsError::SignatureHeader(config.signature_header.clone()))?;
                let secrets = follow_secrets(SecretKind::SigningSecret, secrets, &stop).await?;
                let webhook = Webhook::new(header, secrets.clone(), authenticated);
                (ports.serve(webhook), Some((SecretKind::SigningSecret, secrets)), None)
            }
            SourceConfig::ApiDestination(destination) => {
                let header = HeaderName::try_from(destination.header.as_str())
                    .map_err(|_| SettingsError::ApiKeyHeader(destination.header.clone()))?;
                let keys = follow_secrets(SecretKind::ApiKey, secrets, &stop).await?;
                let definitions = follow_presence_definitions(presence_definitions, &stop).await;
                let destination = ApiDestination::new(header, keys.clone(), definitions, authenticated);
                (ports.serve(destination), Some((SecretKind::ApiKey, keys)), None)
            }
            SourceConfig::Sqs(sqs) => {
                let definitions = follow_presence_definitions(presence_definitions, &stop).await;
                let pulled =
                    Pulled::start(sqs, config.limits.clone(), definitions, &pipeline, &metrics, &stop)
                        .await?;
                (Vec::new(), None, Some(pulled))
            }
        };
        let queue = pulled.as_ref().map(|pulled| Arc::clone(&pulled.queue));
        let admin =
            Arc::new(Admin::new(routing, secrets, certificate, queue, Arc::clone(&publisher), metrics));
        let idle_timeout = Duration::from_millis(config.limits.idle_timeout_ms);
        let observed = {
            let admin = Arc::clone(&admin);
            let (gauge, most) = (Gauge::default(), MAX_ADMIN_CONNECTIONS);
            admin_listener.serve(None, gauge, most, idle_timeout, move |request| {
                std::future::ready(admin.answer(&request))
            })
        };
        match (address, &config.source) {
            (Some(address), _) => tracing::info!(
                %address, ?tls_address, %admin_address, path = config.path, route = config.route,
                max_connections, "listening"
            ),
            (None, SourceConfig::Sqs(sqs)) => tracing::info!(
                queue = sqs.queue_url, region = sqs.region, %admin_address, route = config.route,
                "receiving from the queue"
            ),
            (None, _) => {}
        }
        let drain = Duration::from_millis(config.limits.drain_ms);
        Ok(RunningRelay {
            address,
            tls_address,
            admin_address,
            pipeline,
            admin,
            publisher,
            spans,
            drain,
            events,
            pulled,
            observed,
            stop,
        })
    }
}

impl RunningRelay {
    /// Where events are received; the unspecified address with port 0 where the source is pulled.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Where events are received with TLS, when that is a port of its own.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Where the relay is observed.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What `/status` shows.
    pub fn status(&self) -> RelayStatus {
        self.admin.status()
    }

    /// Ends the relay without losing an event: it is not ready at once, keeps answering for `limits.drainMs`,
    /// then accepts nothing new, finishes what it has, and waits for Kafka to acknowledge the rest.
    pub async fn shutdown(self) {
        tracing::info!(drain_ms = self.drain.as_millis() as u64, "shutting down");
        self.admin.drain();
        self.events.iter().for_each(|events| events.closing.drain.cancel());
        match self.pulled {
            // No proxy leads to it, so there is none to wait for; it drains itself.
            Some(pulled) => pulled.end().await,
            None => tokio::time::sleep(self.drain).await,
        }
        // What is on its way to the relay is still received, also a body that has arrived in part.
        futures::future::join_all(self.events.into_iter().map(Listening::end)).await;
        self.pipeline.close();
        self.publisher.flush().await;
        if let Some(spans) = self.spans {
            // It fails only when sending them panicked, and then they are lost.
            let _ = tokio::task::spawn_blocking(move || spans.shutdown()).await;
        }
        self.stop.cancel();
        self.observed.end().await;
        tracing::info!("ended");
    }
}

impl Listening {
    async fn end(self) {
        self.closing.stop.cancel();
        // It fails only when serving panicked, and then nothing is left to wait for.
        let _ = self.served.await;
    }
}

/// A source that is pulled, while it runs.
struct Pulled {
    queue: Arc<Queue>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Pulled {
    /// Begins to receive. Files with credentials are followed until `stop`.
    #[cfg(feature = "amazon-sqs")]
    async fn start(
        config: &SqsConfig,
        limits: Limits,
        definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
        pipeline: &Arc<Pipeline>,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let queue = metrics.add_queue();
        let (metrics, of_queue) = (Arc::clone(metrics), Arc::clone(&queue));
        let source = Sqs::new(config, limits, definitions, metrics, of_queue, stop.clone()).await?;
        let stop = CancellationToken::new();
        let run = tokio::spawn(source.run(Arc::clone(pipeline), stop.clone()));
        Ok(Self { queue, stop, run })
    }

    #[cfg(not(feature = "amazon-sqs"))]
    async fn start(
        _: &SqsConfig,
        _: Limits,
        _: watch::Receiver<Reloaded<PresenceDefinitions>>,
        _: &Arc<Pipeline>,
        _: &Arc<Metrics>,
        _: &CancellationToken,
    ) -> Result<Self, StartError> {
        Err(SettingsError::WithoutSqs.into())
    }

    async fn end(self) {
        self.stop.cancel();
        // It fails only when receiving panicked, and then nothing is left to wait for.
        let _ = self.run.await;
    }
}

/// What senders prove themselves with.
async fn follow_secrets(
    kind: SecretKind,
    secrets: SecretSource,
    stop: &CancellationToken,
) -> Result<watch::Receiver<Reloaded<Secrets>>, SettingsError> {
    match secrets {
        SecretSource::None => Err(no_secret(kind)),
        SecretSource::Fixed(secrets) => Ok(follow::fixed(secrets)),
        SecretSource::Directory(directory) => Ok(secrets::follow(kind, directory, stop.clone()).await),
    }
}

/// What the organisation calls its presences; nothing without a file.
async fn follow_presence_definitions(
    path: Option<PathBuf>,
    stop: &CancellationToken,
) -> watch::Receiver<Reloaded<PresenceDefinitions>> {
    match path {
        Some(path) => presence_definitions::follow(path, stop.clone()).await,
        None => follow::fixed(PresenceDefinitions::default()),
    }
}

/// The ports that events are posted to, before it is known from which source.
struct EventPorts {
    /// The first is the newest.
    paths: Vec<String>,
    /// Each with TLS or without.
    listeners: Vec<(Bound, Option<Handshakes>)>,
    /// Of all ports: they share what the process can hold.
    max_connections: usize,
    limits: Limits,
    pipeline: Arc<Pipeline>,
    log: Arc<RequestLog>,
    metrics: Arc<Metrics>,
}

impl EventPorts {
    fn max_connections_each(&self) -> usize {
        (self.max_connections / self.listeners.len().max(1)).max(1)
    }

    /// Serves the source on every port.
    fn serve<S: PushSource>(self, source: S) -> Vec<Listening> {
        let max_connections = self.max_connections_each();
        let idle_timeout = Duration::from_millis(self.limits.idle_timeout_ms);
        let gauge = self.metrics.connections.clone();
        let handler =
            Arc::new(Handler::new(self.paths, source, &self.limits, self.pipeline, self.log, self.metrics));
        let serve = |(listener, tls): (Bound, Option<Handshakes>)| {
            let (handler, gauge) = (Arc::clone(&handler), gauge.clone());
            listener.serve(tls, gauge, max_connections, idle_timeout, move |request| {
                Arc::clone(&handler).answer(request)
            })
        };
        self.listeners.into_iter().map(serve).collect()
    }
}

struct Bound {
    listener: TcpListener,
    local: SocketAddr,
}

fn bind(address: SocketAddr) -> Result<Bound, StartError> {
    let failed = |cause| StartError::Listen { address, cause };
    let listener = listen(address).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, local })
}

impl Bound {
    fn serve<H, F>(
        self,
        tls: Option<Handshakes>,
        connections: Gauge,
        most: usize,
        idle_timeout: Duration,
        handle: H,
    ) -> Listening
    where
        H: Fn(http::Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = http::Response<http_body_util::Full<bytes::Bytes>>> + Send + 'static,
    {
        let closing = Closing::default();
        let closings = closing.clone();
        let served =
            tokio::spawn(serve(self.listener, tls, closings, connections, most, idle_timeout, handle));
        Listening { closing, served }
    }
}
