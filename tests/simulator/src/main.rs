//! The simulator as a program: reads the arguments and calls the library.

mod event_bus_arguments;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use event_bus_arguments::{EventBusArguments, QueueArguments};
use genesys_simulator::sqs::SqsServer;
use genesys_simulator::{Config, CreatedStatus, DuplicateNames, OauthClient, Simulator};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

/// Simulates Genesys Cloud and the ways of its events: webhooks, an event bus with queues, faults on request.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where the API listens, and the control API too unless it has its own address
    #[arg(long, env = "GENESYS_SIMULATOR_LISTEN", default_value = "0.0.0.0:8090")]
    listen: SocketAddr,
    /// Where the control API listens, if not beside the API
    #[arg(long, env = "GENESYS_SIMULATOR_CONTROL_LISTEN")]
    control_listen: Option<SocketAddr>,
    /// The one OAuth client that is accepted; without it, any id and secret that are not empty
    #[arg(long, env = "GENESYS_SIMULATOR_CLIENT_ID", requires = "client_secret")]
    client_id: Option<String>,
    /// Its secret; prefer the variable, since other users of the machine can see arguments
    #[arg(long, env = "GENESYS_SIMULATOR_CLIENT_SECRET", requires = "client_id", hide_env_values = true)]
    client_secret: Option<SecretString>,
    /// How long a token is valid, in seconds
    #[arg(long, env = "GENESYS_SIMULATOR_TOKEN_LIFETIME", default_value_t = 86_400)]
    token_lifetime: u64,
    /// Requests a minute for each client; 0 is no limit
    #[arg(long, env = "GENESYS_SIMULATOR_RATE_LIMIT", default_value_t = 300)]
    rate_limit: u32,
    /// The largest page of registrations, whatever pageSize is requested
    #[arg(long, env = "GENESYS_SIMULATOR_PAGE_SIZE_CAP", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    page_size_cap: u32,
    /// Whether a second registration with the same name is created, or refused with 409
    #[arg(long, env = "GENESYS_SIMULATOR_DUPLICATE_NAMES", value_enum, default_value_t = Duplicates::Allow)]
    duplicate_names: Duplicates,
    /// The status of a successful creation
    #[arg(long, env = "GENESYS_SIMULATOR_CREATED_STATUS", default_value_t = 201,
          value_parser = clap::value_parser!(u16).range(200..=201))]
    created_status: u16,
    /// Path of the token endpoint
    #[arg(long, env = "GENESYS_SIMULATOR_TOKEN_PATH", default_value = "/api/v2/oauth/token")]
    token_path: String,
    /// Path of the registrations' collection
    #[arg(
        long,
        env = "GENESYS_SIMULATOR_EVENT_BRIDGES_PATH",
        default_value = "/api/v2/analytics/events/eventbridges"
    )]
    event_bridges_path: String,
    /// The header that carries a delivery's signature
    #[arg(long, env = "GENESYS_SIMULATOR_SIGNATURE_HEADER", default_value = "X-Genesys-Event-Signature")]
    signature_header: String,
    /// The wait before a delivery's first retry, in milliseconds
    #[arg(long, env = "GENESYS_SIMULATOR_RETRY_BASE_DELAY_MS", default_value_t = 1_000)]
    retry_base_delay_ms: u64,
    /// How long a delivery waits for the endpoint's answer, in milliseconds
    #[arg(long, env = "GENESYS_SIMULATOR_DELIVERY_TIMEOUT_MS", default_value_t = 5_000)]
    delivery_timeout_ms: u64,
    /// A PEM file with further certificate authorities that are trusted for https endpoints
    #[arg(long, env = "GENESYS_SIMULATOR_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The organization's id, a part of the names of its event sources
    #[arg(long, env = "GENESYS_SIMULATOR_ORGANIZATION_ID",
          default_value_t = Config::default().organization_id)]
    organization_id: Uuid,
    /// How long an integration takes to become active or inactive, in milliseconds
    #[arg(long, env = "GENESYS_SIMULATOR_ACTIVATION_DELAY_MS", default_value_t = 0)]
    activation_delay_ms: u64,
    /// How long a deleted integration is still there, in milliseconds
    #[arg(long, env = "GENESYS_SIMULATOR_DELETION_DELAY_MS", default_value_t = 0)]
    deletion_delay_ms: u64,
    #[command(flatten)]
    event_bus: EventBusArguments,
    #[command(flatten)]
    queues: QueueArguments,
    /// The log filter, such as info, or debug for a line per event
    #[arg(long, env = "GENESYS_SIMULATOR_LOG", default_value = "info")]
    log: EnvFilter,
    /// Log as JSON, one object a line
    #[arg(long, env = "GENESYS_SIMULATOR_LOG_JSON", action = ArgAction::SetTrue)]
    log_json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Duplicates {
    Allow,
    Refuse,
}

impl Arguments {
    fn into_parts(self) -> (Config, EventBusArguments, QueueArguments) {
        let config = Config {
            listen: self.listen,
            control_listen: self.control_listen,
            client: self.client_id.zip(self.client_secret).map(|(id, secret)| OauthClient { id, secret }),
            token_path: self.token_path,
            event_bridges_path: self.event_bridges_path,
            token_lifetime: Duration::from_secs(self.token_lifetime),
            rate_limit_per_minute: self.rate_limit,
            page_size_cap: self.page_size_cap,
            duplicate_names: match self.duplicate_names {
                Duplicates::Allow => DuplicateNames::Allow,
                Duplicates::Refuse => DuplicateNames::Refuse,
            },
            created_status: if self.created_status == 200 {
                CreatedStatus::Ok
            } else {
                CreatedStatus::Created
            },
            signature_header: self.signature_header,
            retry_base_delay: Duration::from_millis(self.retry_base_delay_ms),
            delivery_timeout: Duration::from_millis(self.delivery_timeout_ms),
            ca_file: self.ca_file,
            organization_id: self.organization_id,
            activation_delay: Duration::from_millis(self.activation_delay_ms),
            deletion_delay: Duration::from_millis(self.deletion_delay_ms),
        };
        (config, self.event_bus, self.queues)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = tracing_subscriber::fmt()
        .with_env_filter(arguments.log.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (config, event_bus, queues) = arguments.into_parts();
    let queues = match queues.listen() {
        Some(listen) => Some(SqsServer::start(listen, queues.settings()).await?),
        None => None,
    };
    let simulator = Simulator::new(config)?;
    let running = simulator.start().await?;
    simulator.set_event_bus_rules(event_bus.rules())?;
    if let Some(plan) = event_bus.plan() {
        simulator.change_presence(plan)?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    tracing::info!("stopping");
    running.stop().await;
    if let Some(queues) = queues {
        queues.stop().await;
    }
    Ok(())
}
