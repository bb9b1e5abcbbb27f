//! One running relay: its parts put together, started and ended in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use presenceroute_core::relay_config::CertificateFiles;
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_runtime::listen::listen;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::publish::{Publisher, PublisherError};
use crate::reload::{Loaded, follow_certificate, follow_routing, follow_secrets};
use crate::routing::Router;
use crate::server::{Closing, serve};
use crate::settings::{RoutingSource, SecretSource, Settings, SettingsError, check};
use crate::spans::Spans;
use crate::tls::{Certificate, Handshakes};
use crate::{descriptors, memory};

/// The most connections of the admin port at once: the kubelet, Prometheus, the operator, and a few people.
const MOST_OBSERVERS: usize = 128;

/// A relay. Several may run in one process.
pub struct Relay;

/// A relay that answers. Dropping it leaves it running; [`RunningRelay::shutdown`] ends it.
pub struct RunningRelay {
    address: SocketAddr,
    admin_address: SocketAddr,
    intake: Arc<Intake>,
    admin: Arc<Admin>,
    publisher: Arc<Publisher>,
    spans: Option<Arc<Spans>>,
    drain: Duration,
    events: Listening,
    observed: Listening,
    /// Ends what follows files and the cluster.
    stop: CancellationToken,
}

struct Listening {
    closing: Closing,
    served: JoinHandle<()>,
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it was told is not usable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No producer can be made.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// An address that is taken or not this machine's.
    #[error("{address} cannot be listened on: {cause}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
}

impl Relay {
    /// Starts a relay in the current tokio runtime. It listens when this returns; whether it is ready is on
    /// `/readyz`, since Kafka may take a while.
    pub async fn start(settings: Settings) -> Result<RunningRelay, StartError> {
        let Settings { listen, admin_listen, config, routing, secrets, spans } = settings;
        let spans = spans.map(Arc::new);
        check(&config)?;
        let signature_header = HeaderName::try_from(config.signature_header.as_str())
            .map_err(|_| SettingsError::SignatureHeader(config.signature_header.clone()))?;
        let metrics = Arc::new(Metrics::new());
        metrics.in_flight_limits.set(&config.limits);
        let (publisher, supervisor) =
            Publisher::new(config.kafka.clone(), config.limits.clone(), Arc::clone(&metrics)).await?;
        let listener = bind(listen)?;
        let admin_listener = bind(admin_listen)?;

        let stop = CancellationToken::new();
        let routing = follow_table(routing, &stop).await;
        let secrets = follow_signing(secrets, &stop).await;
        let certificate = match config.tls.clone() {
            Some(files) => Some(follow_pair(files, &stop).await),
            None => None,
        };
        tokio::spawn(supervisor.run(routing.clone(), stop.clone()));

        let intake = Arc::new(Intake::new(
            &config,
            signature_header,
            routing.clone(),
            secrets.clone(),
            Arc::clone(&publisher),
            Arc::clone(&metrics),
            spans.clone(),
        ));
        tokio::spawn(intake.outcomes().sum_up(stop.clone()));
        let tls = certificate
            .clone()
            .map(|certificate| Handshakes::new(certificate, metrics.tls_handshake_failures.clone()));
        let (published, counted) = (Arc::clone(&publisher), Arc::clone(&metrics));
        let admin = Arc::new(Admin::new(routing, secrets, certificate, published, counted));
        let (address, admin_address) = (listener.local, admin_listener.local);
        let fitting = memory::most_connections(&config.limits, config.tls.is_some()).unwrap_or(usize::MAX);
        let most_connections = descriptors::most_connections().min(fitting);
        let events = {
            let intake = Arc::clone(&intake);
            listener.serve(tls, metrics.connections.clone(), most_connections, move |request| {
                Arc::clone(&intake).answer(request)
            })
        };
        let observed = {
            let admin = Arc::clone(&admin);
            admin_listener.serve(None, Default::default(), MOST_OBSERVERS, move |request| {
                std::future::ready(admin.answer(&request))
            })
        };
        tracing::info!(
            %address, %admin_address, path = config.path, route = config.route, most_connections, "listening"
        );
        let drain = Duration::from_millis(config.limits.drain_ms);
        Ok(RunningRelay {
            address,
            admin_address,
            intake,
            admin,
            publisher,
            spans,
            drain,
            events,
            observed,
            stop,
        })
    }
}

impl RunningRelay {
    /// Where events are received.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the relay is observed.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What `/status` says.
    pub fn status(&self) -> RelayStatus {
        self.admin.status()
    }

    /// Ends the relay without losing an event: it is not ready at once, goes on answering for `limits.drainMs`,
    /// then takes nothing new, finishes what it has, and waits for Kafka to acknowledge the rest.
    pub async fn shutdown(self) {
        tracing::info!(drain_ms = self.drain.as_millis() as u64, "shutting down");
        self.admin.drain();
        self.events.closing.drain.cancel();
        tokio::time::sleep(self.drain).await;
        // What is on its way to the relay still comes in: a body that is half here, too.
        self.events.end().await;
        self.intake.close();
        self.publisher.flush().await;
        if let Some(spans) = self.spans {
            // It fails only when sending them panicked, and there is nothing to be done for them.
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
        // It fails only when serving panicked, and then there is nothing left to wait for.
        let _ = self.served.await;
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
    fn serve<H, F>(self, tls: Option<Handshakes>, connections: Gauge, most: usize, handle: H) -> Listening
    where
        H: Fn(http::Request<hyper::body::Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = http::Response<http_body_util::Full<bytes::Bytes>>> + Send + 'static,
    {
        let closing = Closing::default();
        let served = tokio::spawn(serve(self.listener, tls, closing.clone(), connections, most, handle));
        Listening { closing, served }
    }
}

/// The table, read once when this returns.
async fn follow_table(source: RoutingSource, stop: &CancellationToken) -> watch::Receiver<Loaded<Router>> {
    match source {
        RoutingSource::Fixed(table) => watch::Sender::new(Loaded::fixed(Router::new(table))).subscribe(),
        RoutingSource::File(path) => {
            let into = watch::Sender::new(Loaded::nothing("it has not been read yet"));
            let mut table = into.subscribe();
            tokio::spawn(follow_routing(path, into, stop.clone()));
            let _ = table.changed().await;
            table
        }
    }
}

/// The secrets, read once when this returns.
async fn follow_signing(
    source: SecretSource,
    stop: &CancellationToken,
) -> watch::Receiver<Loaded<crate::secrets::Secrets>> {
    match source {
        SecretSource::Fixed(secrets) => watch::Sender::new(Loaded::fixed(secrets)).subscribe(),
        SecretSource::Directory(directory) => {
            let into = watch::Sender::new(Loaded::nothing("they have not been read yet"));
            let mut secrets = into.subscribe();
            tokio::spawn(follow_secrets(directory, into, stop.clone()));
            let _ = secrets.changed().await;
            secrets
        }
    }
}

/// The certificate, read once when this returns.
async fn follow_pair(
    files: CertificateFiles,
    stop: &CancellationToken,
) -> watch::Receiver<Loaded<Certificate>> {
    let into = watch::Sender::new(Loaded::nothing("it has not been read yet"));
    let mut certificate = into.subscribe();
    tokio::spawn(follow_certificate(files, into, stop.clone()));
    let _ = certificate.changed().await;
    certificate
}
