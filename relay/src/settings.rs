//! The relay's settings, from flags, variables and `relay.yaml`, as one checked [`Settings`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use presenceroute_core::kafka_properties::refused_property;
use presenceroute_core::relay_config::{
    CertificateFiles, KafkaConfig, KafkaSaslConfig, Limits, RelayConfig, SaslMechanism, SourceConfig,
    SqsConfig, default_path,
};
use presenceroute_core::relay_environment;
use presenceroute_core::routing::{RoutingError, RoutingTable};
use presenceroute_runtime::log::LogFormat;
use secrecy::SecretString;

use crate::observe::spans::Spans;
use crate::source::secrets::{SecretKind, Secrets, SecretsError};

/// The variable with the signing secret, for a relay that runs alone. It is not a flag: the arguments of a process
/// are there for everyone to read.
pub const SECRET_VARIABLE: &str = relay_environment::WEBHOOK_SECRET;

/// The default table: Genesys Cloud's presence events, each type to a topic of its own.
const DEFAULT_ROUTES: &str = "{
    presence:state:changed: gen-presence-state,
    presence:status:changed: gen-presence-status,
    presence:location:changed: gen-presence-location,
}";

/// The same of notifications, which Genesys Cloud sends to Amazon EventBridge.
const DEFAULT_NOTIFICATION_ROUTES: &str = "{
    'v2.users.{id}.presence': gen-presence-state,
    'v2.users.{id}.routingStatus': gen-presence-status,
}";

/// Receives signed Genesys Cloud events, verifies and routes them, and publishes them to Kafka.
///
/// Alone, GENESYS_WEBHOOK_SECRET and KAFKA_BROKERS are enough.
#[derive(Debug, Parser)]
#[command(name = "presenceroute-relay", version)]
pub struct Arguments {
    /// Where events are received.
    #[arg(long, env = "PRESENCEROUTE_LISTEN", default_value = "[::]:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where /livez, /readyz, /metrics and /status are served.
    #[arg(long, env = "PRESENCEROUTE_ADMIN_LISTEN", default_value = "[::]:9090", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// The path that events are posted to [default: /eventbridge/presence, or relay.yaml's].
    #[arg(long, env = "PRESENCEROUTE_PATH", value_name = "PATH")]
    pub path: Option<String>,
    /// The routing table, re-read when it changes.
    #[arg(long, env = "PRESENCEROUTE_ROUTING_FILE", value_name = "FILE", conflicts_with = "routes")]
    pub routing_file: Option<PathBuf>,
    /// The routing table itself, as YAML or JSON: whole, or {EVENT_TYPE: TOPIC, ...}.
    #[arg(long, env = "PRESENCEROUTE_ROUTES", value_name = "TABLE")]
    pub routes: Option<String>,
    /// The directory with the signing secrets, or API keys, one file each, re-read when they change.
    #[arg(long, env = "PRESENCEROUTE_SECRET_DIR", value_name = "DIRECTORY")]
    pub secret_dir: Option<PathBuf>,
    /// The names of the organisation's presence definitions by their ids, in YAML, re-read when they change. The file need
    /// not exist.
    #[arg(long, env = relay_environment::PRESENCE_DEFINITIONS_FILE, value_name = "FILE")]
    pub presence_definitions_file: Option<PathBuf>,
    /// relay.yaml: Kafka, its security, and limits.
    #[arg(long, env = "PRESENCEROUTE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kafka brokers to find the cluster by, where no relay.yaml names them.
    #[arg(long, env = relay_environment::KAFKA_BROKERS, value_name = "HOST:PORT", value_delimiter = ',')]
    pub kafka_brokers: Vec<String>,
    /// The largest body of a request, in bytes [default: 1048576, or relay.yaml's].
    #[arg(long, env = "PRESENCEROUTE_MAX_BODY_BYTES", value_name = "BYTES")]
    pub max_body_bytes: Option<usize>,
    /// How long a connection may be without a request, in milliseconds; longer than a proxy in front keeps one
    /// [default: 620000, or relay.yaml's].
    #[arg(long, env = "PRESENCEROUTE_IDLE_TIMEOUT_MS", value_name = "MILLISECONDS")]
    pub idle_timeout_ms: Option<u64>,
    /// The certificate, with its chain, that events are received with by TLS, re-read when it changes. Without it,
    /// plain HTTP.
    #[arg(
        long,
        env = "PRESENCEROUTE_TLS_CERTIFICATE_FILE",
        value_name = "FILE",
        requires = "tls_private_key_file"
    )]
    pub tls_certificate_file: Option<PathBuf>,
    /// The private key of that certificate, unencrypted.
    #[arg(
        long,
        env = "PRESENCEROUTE_TLS_PRIVATE_KEY_FILE",
        value_name = "FILE",
        requires = "tls_certificate_file"
    )]
    pub tls_private_key_file: Option<PathBuf>,
    /// error, warn, info, debug or trace; or a filter of them, such as info,librdkafka=debug.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// A file with the log's level, which is followed when it changes; while there is none, --log-level holds.
    #[arg(long, env = "PRESENCEROUTE_LOG_LEVEL_FILE", value_name = "FILE")]
    pub log_level_file: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, env = "PRESENCEROUTE_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What to do instead of serving events.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What a relay can do besides serving events, with the same Kafka and the same table.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Send the events of a dead-letter topic again, each by the present routing table.
    Replay(ReplayArguments),
}

/// Send the events of a dead-letter topic again, each by the present routing table.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReplayArguments {
    /// The topic with the dead letters.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Only events for which this CEL expression is true, such as 'attributes.presence == "AVAILABLE"'. It knows the
    /// variables of a route's `when`. Each expression has a progress of its own.
    #[arg(long = "where", value_name = "CEL")]
    pub condition: Option<String>,
    /// Say where the events would go; publish nothing, and store no progress.
    #[arg(long)]
    pub dry_run: bool,
    /// Begin with the oldest record, also of what was sent again before.
    #[arg(long)]
    pub from_beginning: bool,
}

/// Everything that a relay needs to start.
pub struct Settings {
    /// Where events are received; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the relay is observed; port 0 takes a free one.
    pub admin_listen: SocketAddr,
    /// The path, the signature's header, Kafka and the limits.
    pub config: RelayConfig,
    /// Where the routing table comes from.
    pub routing: RoutingSource,
    /// Where the signing secrets or API keys come from.
    pub secrets: SecretSource,
    /// The file with the names of presence definitions, where notifications are to have them.
    pub presence_definitions: Option<PathBuf>,
    /// Spans for OpenTelemetry, where they are wanted.
    pub spans: Option<Spans>,
}

/// Where the routing table comes from.
pub enum RoutingSource {
    /// A file that may change.
    File(PathBuf),
    /// This one, for as long as the relay runs.
    Fixed(RoutingTable),
}

/// Where the signing secrets or API keys come from.
pub enum SecretSource {
    /// The source has no senders.
    None,
    /// A directory that may change.
    Directory(PathBuf),
    /// These, for as long as the relay runs.
    Fixed(Secrets),
}

/// Why the settings are not valid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `relay.yaml` cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Read { path: PathBuf, cause: std::io::Error },
    /// `relay.yaml` is not valid.
    #[error("{path} is not a relay configuration: {cause}")]
    Config { path: PathBuf, cause: String },
    #[error("no Kafka broker is known; set KAFKA_BROKERS=HOST:PORT, or kafka.bootstrapServers in relay.yaml")]
    NoBroker,
    /// A property that is not for a manifest to set.
    #[error("kafka.properties.{name} cannot be set: {reason}")]
    RefusedProperty {
        name: String,
        /// What rests on it.
        reason: &'static str,
    },
    /// TLS or SASL towards Kafka, in a relay that is built without them.
    #[error(
        "{0} needs a relay that is built with the Cargo feature kafka-tls, and this one is not; build it with that feature, or remove {0}"
    )]
    WithoutKafkaTls(&'static str),
    /// A compression, in a relay that is built without it.
    #[error(
        "kafka.properties.{0}: {1} needs a relay that is built with the Cargo feature kafka-compression, and this one is not; build it with that feature, or use lz4, snappy or none"
    )]
    WithoutCompression(String, String),
    /// OAUTHBEARER without a token endpoint, or the other way round.
    #[error("kafka.sasl.oauth must be set when mechanism is OAUTHBEARER, and only then")]
    Oauth,
    /// AWS_MSK_IAM without a region, or the other way round.
    #[error("kafka.sasl.awsMskIam must be set when mechanism is AWS_MSK_IAM, and only then")]
    AwsMskIam,
    /// A user without a password, or the other way round, or neither.
    #[error(
        "kafka.sasl.usernameFile and kafka.sasl.passwordFile must be set; with AWS_MSK_IAM they can both be left out"
    )]
    SaslAccount,
    /// A path that no request has.
    #[error("the path {0:?} is not legal; begin it with / and leave out ? and #")]
    Path(String),
    /// A port for TLS, and no certificate.
    #[error("tlsPort needs a certificate; set tls too, or remove tlsPort")]
    TlsPort,
    /// A limit that lets nothing through.
    #[error("limits.{0} must be above 0")]
    Limit(&'static str),
    /// Bodies that hardly ever fit into the memory for events.
    #[error(
        "limits.maxBodyBytes ({0}) must be at most a quarter of limits.maxInFlightBytes ({1}); lower the one or raise the other"
    )]
    BodyLimit(usize, usize),
    /// Events would be given up while their senders still wait.
    #[error("limits.deliveryTimeoutMs must not be below limits.publishTimeoutMs")]
    DeliveryTimeout,
    /// A header name that HTTP does not know.
    #[error("signatureHeader {0:?} is not an HTTP field name")]
    SignatureHeader(String),
    /// The inline table is not valid.
    #[error("--routes: {0}")]
    Routing(#[from] RoutingError),
    /// The same of an API key's.
    #[error("source.apiDestination.header {0:?} is not an HTTP field name")]
    ApiKeyHeader(String),
    /// An Amazon SQS queue, in a relay that is built without it.
    #[error(
        "source.sqs needs a relay that is built with the Cargo feature amazon-sqs, and this one is not; build it with that feature"
    )]
    WithoutSqs,
    /// A queue or a server that no call can be posted to.
    #[error("source.sqs.{0} {1:?} is no URL that begins with https:// or http://")]
    SqsUrl(&'static str, String),
    /// A region that AWS does not have.
    #[error("source.sqs.region {0:?} is no AWS region, such as eu-west-1")]
    SqsRegion(String),
    /// No directory with API keys.
    #[error("no API key is known; set --secret-dir to a directory with one file for each")]
    NoApiKey,
    /// Neither a directory nor the variable.
    #[error(
        "no signing secret is known; set {SECRET_VARIABLE}, or --secret-dir to a directory with one file a secret"
    )]
    NoSecret,
    /// The secret of the variable is not usable.
    #[error(transparent)]
    Secret(#[from] SecretsError),
    /// Several of these at once.
    #[error("{} settings are missing or not valid:{}", .0.len(), .0.iter().map(|error| format!("\n- {error}")).collect::<String>())]
    Several(Vec<SettingsError>),
}

impl Settings {
    /// Checks what the arguments say, together with the secret of [`SECRET_VARIABLE`] where it is set. What is missing is
    /// named at once, so that a person need not find it out one start at a time.
    pub fn resolve(arguments: Arguments, secret: Option<SecretString>) -> Result<Self, SettingsError> {
        let (config, mut errors) = match relay_config(&arguments) {
            Ok(config) => {
                let problems = problems(&config);
                (Some(config), problems)
            }
            Err(error) => (None, vec![error]),
        };
        let source = config.as_ref().map_or(SourceConfig::Webhook, |config| config.source.clone());
        let routing = routing_source(arguments.routing_file, arguments.routes, &source);
        let secrets = secret_source(&source, arguments.secret_dir, secret);
        match (config, routing, secrets) {
            (Some(config), Ok(routing), Ok(secrets)) if errors.is_empty() => Ok(Self {
                listen: arguments.listen,
                admin_listen: arguments.admin_listen,
                config,
                routing,
                secrets,
                presence_definitions: arguments.presence_definitions_file,
                spans: None,
            }),
            (_, routing, secrets) => {
                errors.extend([routing.err(), secrets.err()].into_iter().flatten());
                Err(together(errors))
            }
        }
    }
}

fn together(mut errors: Vec<SettingsError>) -> SettingsError {
    if errors.len() == 1 { errors.remove(0) } else { SettingsError::Several(errors) }
}

/// The configuration of `relay.yaml`, or of the arguments alone, with what other arguments replace of it.
fn relay_config(arguments: &Arguments) -> Result<RelayConfig, SettingsError> {
    let mut config = match &arguments.config {
        Some(path) => read_config(path)?,
        None => RelayConfig {
            source: SourceConfig::default(),
            path: default_path(),
            former_paths: Vec::new(),
            signature_header: presenceroute_core::relay_config::signature_header(),
            kafka: KafkaConfig {
                bootstrap_servers: arguments.kafka_brokers.clone(),
                ..KafkaConfig::default()
            },
            limits: Limits::default(),
            tls: None,
            tls_port: None,
            route: None,
        },
    };
    if let Some(path) = &arguments.path {
        config.path.clone_from(path);
    }
    if let Some(max_body_bytes) = arguments.max_body_bytes {
        config.limits.max_body_bytes = max_body_bytes;
    }
    if let Some(idle_timeout_ms) = arguments.idle_timeout_ms {
        config.limits.idle_timeout_ms = idle_timeout_ms;
    }
    if let (Some(certificate_file), Some(private_key_file)) =
        (&arguments.tls_certificate_file, &arguments.tls_private_key_file)
    {
        let (certificate_file, private_key_file) = (certificate_file.clone(), private_key_file.clone());
        config.tls = Some(CertificateFiles { certificate_file, private_key_file });
    }
    Ok(config)
}

fn routing_source(
    file: Option<PathBuf>,
    table: Option<String>,
    source: &SourceConfig,
) -> Result<RoutingSource, SettingsError> {
    let default = if source.is_webhook() { DEFAULT_ROUTES } else { DEFAULT_NOTIFICATION_ROUTES };
    Ok(match (file, table) {
        (Some(path), _) => RoutingSource::File(path),
        (None, table) => {
            let text = table.as_deref().unwrap_or(default);
            RoutingSource::Fixed(RoutingTable::parse_with(text, &source.default_key())?)
        }
    })
}

fn secret_source(
    source: &SourceConfig,
    directory: Option<PathBuf>,
    secret: Option<SecretString>,
) -> Result<SecretSource, SettingsError> {
    match (SecretKind::of(source), directory, secret) {
        (None, ..) => Ok(SecretSource::None),
        (Some(_), Some(directory), _) => Ok(SecretSource::Directory(directory)),
        (Some(kind @ SecretKind::SigningSecret), None, Some(secret)) => {
            Ok(SecretSource::Fixed(Secrets::single(kind, SECRET_VARIABLE, &secret)?))
        }
        (Some(kind), None, _) => Err(no_secret(kind)),
    }
}

/// What is to be said where a source has senders and nothing to verify them with.
pub(crate) fn no_secret(kind: SecretKind) -> SettingsError {
    match kind {
        SecretKind::SigningSecret => SettingsError::NoSecret,
        SecretKind::ApiKey => SettingsError::NoApiKey,
    }
}

fn read_config(path: &Path) -> Result<RelayConfig, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| SettingsError::Read { path: path.to_owned(), cause })?;
    serde_saphyr::from_str(&text)
        .map_err(|cause| SettingsError::Config { path: path.to_owned(), cause: cause.to_string() })
}

/// Checks what types alone do not rule out.
pub(crate) fn check(config: &RelayConfig) -> Result<(), SettingsError> {
    let problems = problems(config);
    if problems.is_empty() { Ok(()) } else { Err(together(problems)) }
}

/// Everything that is missing or not valid, at once.
fn problems(config: &RelayConfig) -> Vec<SettingsError> {
    let mut problems = Vec::new();
    if config.kafka.bootstrap_servers.iter().all(|server| server.trim().is_empty()) {
        problems.push(SettingsError::NoBroker);
    }
    problems.extend(config.kafka.properties.keys().filter_map(|name| {
        refused_property(name).map(|reason| SettingsError::RefusedProperty { name: name.clone(), reason })
    }));
    problems.extend(missing_features(
        &config.kafka,
        cfg!(feature = "kafka-tls"),
        cfg!(feature = "kafka-compression"),
    ));
    let paths = [&config.path].into_iter().chain(&config.former_paths);
    let illegal = paths.filter(|path| !path.starts_with('/') || path.contains(['?', '#']));
    problems.extend(illegal.map(|path| SettingsError::Path(path.clone())));
    if config.tls_port.is_some() && config.tls.is_none() {
        problems.push(SettingsError::TlsPort);
    }
    if http::HeaderName::try_from(config.signature_header.as_str()).is_err() {
        problems.push(SettingsError::SignatureHeader(config.signature_header.clone()));
    }
    if let SourceConfig::ApiDestination(destination) = &config.source
        && http::HeaderName::try_from(destination.header.as_str()).is_err()
    {
        problems.push(SettingsError::ApiKeyHeader(destination.header.clone()));
    }
    if let SourceConfig::Sqs(sqs) = &config.source {
        problems.extend(check_sqs(sqs));
    }
    if let Some(sasl) = &config.kafka.sasl {
        problems.extend(check_sasl(sasl).err());
    }
    let limits = &config.limits;
    let never_zero = [
        ("maxBodyBytes", limits.max_body_bytes as u64),
        ("bodyTimeoutMs", limits.body_timeout_ms),
        ("publishTimeoutMs", limits.publish_timeout_ms),
        ("idleTimeoutMs", limits.idle_timeout_ms),
        ("maxInFlight", limits.max_in_flight as u64),
        ("maxInFlightBytes", limits.max_in_flight_bytes as u64),
        ("maxEventAgeMs", limits.max_event_age_ms.unwrap_or(u64::MAX)),
    ];
    let zeros = never_zero.into_iter().filter(|(_, value)| *value == 0);
    problems.extend(zeros.map(|(name, _)| SettingsError::Limit(name)));
    if limits.max_body_bytes > limits.max_in_flight_bytes / 4 {
        problems.push(SettingsError::BodyLimit(limits.max_body_bytes, limits.max_in_flight_bytes));
    }
    if limits.delivery_timeout_ms < limits.publish_timeout_ms {
        problems.push(SettingsError::DeliveryTimeout);
    }
    problems
}

fn check_sqs(sqs: &SqsConfig) -> Vec<SettingsError> {
    let mut problems = Vec::new();
    if !cfg!(feature = "amazon-sqs") {
        problems.push(SettingsError::WithoutSqs);
    }
    let urls = [("queueUrl", Some(&sqs.queue_url)), ("endpointUrl", sqs.endpoint_url.as_ref())];
    let is_url = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    let wrong = urls.into_iter().filter_map(|(field, url)| Some((field, url.filter(|url| !is_url(url))?)));
    problems.extend(wrong.map(|(field, url)| SettingsError::SqsUrl(field, url.clone())));
    // It is part of what is signed.
    let is_region = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if sqs.region.is_empty() || !sqs.region.bytes().all(is_region) {
        problems.push(SettingsError::SqsRegion(sqs.region.clone()));
    }
    problems
}

fn check_sasl(sasl: &KafkaSaslConfig) -> Result<(), SettingsError> {
    let is_iam = sasl.mechanism == SaslMechanism::AwsMskIam;
    let has_key = sasl.username_file.is_some() || sasl.username.is_some();
    match sasl.mechanism {
        _ if (sasl.mechanism == SaslMechanism::OauthBearer) != sasl.oauth.is_some() => {
            Err(SettingsError::Oauth)
        }
        _ if is_iam != sasl.aws_msk_iam.is_some() => Err(SettingsError::AwsMskIam),
        _ if has_key != sasl.password_file.is_some() || !(is_iam || has_key) => {
            Err(SettingsError::SaslAccount)
        }
        _ => Ok(()),
    }
}

/// What this build of the relay cannot do. The Kafka library would ignore part of it, or fail without a remedy.
fn missing_features(kafka: &KafkaConfig, has_tls: bool, has_compression: bool) -> Vec<SettingsError> {
    let mut missing = Vec::new();
    if !has_tls && kafka.tls.is_some() {
        missing.push(SettingsError::WithoutKafkaTls("kafka.tls"));
    }
    if !has_tls && kafka.sasl.is_some() {
        missing.push(SettingsError::WithoutKafkaTls("kafka.sasl"));
    }
    if !has_compression {
        let needing_it = kafka.properties.iter().filter(|(name, value)| {
            matches!(name.as_str(), "compression.type" | "compression.codec")
                && matches!(value.as_str(), "gzip" | "zstd")
        });
        missing.extend(
            needing_it.map(|(name, value)| SettingsError::WithoutCompression(name.clone(), value.clone())),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_core::routing::RecordKey;

    fn resolve(arguments: &[&str], secret: Option<&str>) -> Result<Settings, SettingsError> {
        let arguments = Arguments::try_parse_from([&["relay"], arguments].concat()).unwrap();
        Settings::resolve(arguments, secret.map(SecretString::from))
    }

    fn refusal(arguments: &[&str], secret: Option<&str>) -> String {
        resolve(arguments, secret).err().unwrap().to_string()
    }

    #[test]
    fn a_secret_and_the_brokers_are_enough() {
        let settings = resolve(&["--kafka-brokers", "a:9092,b:9092"], Some("s")).unwrap();
        assert_eq!(settings.config.kafka.bootstrap_servers, ["a:9092", "b:9092"]);
        assert_eq!(settings.config.path, "/eventbridge/presence");
        let RoutingSource::Fixed(table) = settings.routing else { panic!("a file") };
        let topics: Vec<_> = table.topics().into_iter().map(|topic| topic.as_str()).collect();
        assert_eq!(topics, ["gen-presence-location", "gen-presence-state", "gen-presence-status"]);
    }

    #[test]
    fn every_variable_of_the_relay_is_reserved() {
        use clap::CommandFactory;
        let command = Arguments::command();
        let variables: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_env()).collect();
        assert!(variables.len() > 10, "{variables:?}");
        for name in variables.iter().filter_map(|name| name.to_str()).chain([SECRET_VARIABLE]) {
            assert!(relay_environment::is_reserved(name), "{name}");
        }
        assert!(!relay_environment::is_reserved("HTTPS_PROXY"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        assert!(refusal(&[], Some("s")).contains("set KAFKA_BROKERS"));
        assert!(refusal(&["--kafka-brokers", "a:9092"], None).contains("set GENESYS_WEBHOOK_SECRET"));
        assert!(refusal(&["--kafka-brokers", "a:9092"], Some("\n")).contains("is empty"));
        assert!(
            refusal(&["--kafka-brokers", "a:9092", "--path", "x"], Some("s")).contains("begin it with /")
        );
        assert!(refusal(&["--kafka-brokers", "a:9092", "--routes", "{}"], Some("s")).contains("no routes"));
    }

    #[test]
    fn the_idle_timeout_outlasts_common_proxies_and_can_be_set() {
        let of = |more: &[&str]| {
            let arguments = [&["--kafka-brokers", "a:9092"], more].concat();
            resolve(&arguments, Some("s")).unwrap().config.limits.idle_timeout_ms
        };
        assert!(of(&[]) > 600_000);
        assert_eq!(of(&["--idle-timeout-ms", "90000"]), 90_000);
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let refusal = refusal(&["--routes", "{}", "--path", "x", "--idle-timeout-ms", "0"], None);
        assert!(refusal.starts_with("5 settings are missing or not valid:\n- no Kafka broker"), "{refusal}");
        for named in [
            "set KAFKA_BROKERS",
            "begin it with /",
            "limits.idleTimeoutMs must be above 0",
            "--routes: ",
            "set GENESYS_WEBHOOK_SECRET",
        ] {
            assert!(refusal.contains(named), "{refusal}");
        }
    }

    #[test]
    fn everything_missing_is_named_beside_an_unreadable_relay_yaml() {
        let refusal = refusal(&["--config", "/does/not/exist", "--routes", "{}"], None);
        assert!(refusal.starts_with("3 settings are missing or not valid:\n- /does/not/exist"), "{refusal}");
        assert!(refusal.contains("set GENESYS_WEBHOOK_SECRET"), "{refusal}");
    }

    #[test]
    fn the_body_limit_can_be_set_and_is_bounded() {
        let with =
            |bytes: &str| resolve(&["--kafka-brokers", "a:9092", "--max-body-bytes", bytes], Some("s"));
        assert_eq!(with("4194304").unwrap().config.limits.max_body_bytes, 4 << 20);
        for (bytes, error) in [
            ("0", "limits.maxBodyBytes must be above 0"),
            (
                "16777217",
                "limits.maxBodyBytes (16777217) must be at most a quarter of limits.maxInFlightBytes (67108864); lower \
                 the one or raise the other",
            ),
        ] {
            assert_eq!(with(bytes).err().unwrap().to_string(), error);
        }
    }

    #[test]
    fn relay_yaml_is_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |yaml: &str| {
            std::fs::write(file.path(), yaml).unwrap();
            resolve(&["--config", file.path().to_str().unwrap()], Some("s"))
        };
        assert_eq!(with("{path: /x, kafka: {bootstrapServers: [a:9092]}}").unwrap().config.path, "/x");
        let refused = with("kafka: {bootstrapServers: [a:9092], properties: {acks: '1'}}").err().unwrap();
        assert!(refused.to_string().contains("kafka.properties.acks"), "{refused}");
        let refused = with("{kafka: {bootstrapServers: [a:9092]}, limits: {maxInFlight: 0}}").err().unwrap();
        assert_eq!(refused.to_string(), "limits.maxInFlight must be above 0");
        let refused =
            with("{kafka: {bootstrapServers: [a:9092]}, limits: {idleTimeoutMs: 0}}").err().unwrap();
        assert_eq!(refused.to_string(), "limits.idleTimeoutMs must be above 0");
        assert!(with("kafka: {}").is_err());
        let refused = with("{formerPaths: [old], kafka: {bootstrapServers: [a:9092]}}").err().unwrap();
        assert!(refused.to_string().contains("the path \"old\" is not legal"), "{refused}");
        let refused = with("{tlsPort: 8443, kafka: {bootstrapServers: [a:9092]}}").err().unwrap();
        assert!(refused.to_string().contains("tlsPort needs a certificate"), "{refused}");
    }

    #[test]
    fn an_api_destination_needs_a_directory_of_keys_and_routes_notifications() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |source: &str, more: &[&str]| {
            let yaml = format!("{{source: {{{source}}}, kafka: {{bootstrapServers: [a:9092]}}}}");
            std::fs::write(file.path(), yaml).unwrap();
            resolve(&[&["--config", file.path().to_str().unwrap()], more].concat(), Some("s"))
        };
        let destination = "apiDestination: {}";
        let refused = with(destination, &[]).err().unwrap().to_string();
        assert_eq!(refused, "no API key is known; set --secret-dir to a directory with one file for each");
        let settings = with(destination, &["--secret-dir", "/keys"]).unwrap();
        let SourceConfig::ApiDestination(found) = &settings.config.source else { panic!("another source") };
        assert_eq!(found.header, "X-Api-Key");
        let RoutingSource::Fixed(table) = settings.routing else { panic!("a file") };
        let route = &table.routes()[0];
        assert_eq!(
            (route.event_type.to_string().as_str(), &route.key),
            ("v2.users.{id}.presence", &RecordKey::Subject)
        );
        let refused = with("apiDestination: {header: 'a b'}", &["--secret-dir", "/keys"]).err().unwrap();
        assert_eq!(refused.to_string(), "source.apiDestination.header \"a b\" is not an HTTP field name");
    }

    #[test]
    fn a_queue_needs_no_secret_and_a_url_that_can_be_called() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |sqs: &str| {
            let yaml = format!("{{source: {{sqs: {{{sqs}}}}}, kafka: {{bootstrapServers: [a:9092]}}}}");
            std::fs::write(file.path(), yaml).unwrap();
            resolve(&["--config", file.path().to_str().unwrap()], None)
        };
        let url = "queueUrl: 'https://sqs.eu-west-1.amazonaws.com/123456789012/presence'";
        let settings = with(&format!("{url}, region: eu-west-1")).unwrap();
        assert!(matches!(settings.secrets, SecretSource::None));
        for (wrong, named) in [
            ("queueUrl: presence, region: eu-west-1", "source.sqs.queueUrl \"presence\""),
            (&format!("{url}, region: Ireland"), "source.sqs.region \"Ireland\""),
            (&format!("{url}, region: eu-west-1, endpointUrl: 'localhost:9324'"), "source.sqs.endpointUrl"),
        ] {
            let error = with(wrong).err().unwrap().to_string();
            assert!(error.starts_with(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn each_sasl_mechanism_has_what_it_needs_and_no_more() {
        let account = "usernameFile: /u, passwordFile: /p";
        let oauth = "oauth: {tokenEndpointUrl: 'https://id.example.com/token'}";
        let iam = "awsMskIam: {region: eu-west-1}";
        let refused = |fields: &[&str]| {
            let sasl: KafkaSaslConfig =
                serde_saphyr::from_str(&format!("{{mechanism: {}}}", fields.join(", "))).unwrap();
            check_sasl(&sasl).err().map(|error| error.to_string())
        };
        for right in [
            ["PLAIN", account].as_slice(),
            &["OAUTHBEARER", account, oauth],
            &["AWS_MSK_IAM", iam],
            &["AWS_MSK_IAM", iam, account],
        ] {
            assert_eq!(refused(right), None, "{right:?}");
        }
        for (wrong, field) in [
            (["PLAIN"].as_slice(), "kafka.sasl.usernameFile"),
            (&["PLAIN", "usernameFile: /u"], "kafka.sasl.usernameFile"),
            (&["PLAIN", account, oauth], "kafka.sasl.oauth"),
            (&["OAUTHBEARER", account], "kafka.sasl.oauth"),
            (&["AWS_MSK_IAM", account], "kafka.sasl.awsMskIam"),
            (&["SCRAM-SHA-512", account, iam], "kafka.sasl.awsMskIam"),
            (&["AWS_MSK_IAM", iam, "passwordFile: /p"], "kafka.sasl.usernameFile"),
        ] {
            let error = refused(wrong).unwrap();
            assert!(error.starts_with(field), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn what_this_build_lacks_is_refused_with_the_features_name() {
        let refused = |yaml: &str, has_tls, has_compression| {
            let kafka: KafkaConfig = serde_saphyr::from_str(yaml).unwrap();
            let missing = missing_features(&kafka, has_tls, has_compression);
            missing.first().map(ToString::to_string)
        };
        let tls = "{bootstrapServers: [a:9093], tls: {}}";
        let sasl =
            "{bootstrapServers: [a:9092], sasl: {mechanism: PLAIN, usernameFile: /u, passwordFile: /p}}";
        for (yaml, field) in [(tls, "kafka.tls"), (sasl, "kafka.sasl")] {
            let error = refused(yaml, false, true).unwrap();
            assert!(error.starts_with(field) && error.contains("the Cargo feature kafka-tls"), "{error}");
            assert_eq!(refused(yaml, true, false), None);
        }
        let zstd = "{bootstrapServers: [a:9092], properties: {compression.type: zstd}}";
        assert!(refused(zstd, true, false).unwrap().contains("the Cargo feature kafka-compression"));
        assert_eq!(refused(zstd, true, true), None);
        assert_eq!(refused(&zstd.replace("zstd", "lz4"), true, false), None);
    }
}
