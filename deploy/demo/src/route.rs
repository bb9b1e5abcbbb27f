//! The PresenceRoute of the demo: what the operator and a kubelet do for it in a cluster, done here.

use std::net::SocketAddr;
use std::path::Path;

use genesys_simulator::{ApiDestinationTarget, BusRule, SqsTarget, Target, TargetRetryPolicy};
use k8s_openapi::api::core::v1::ConfigMap;
use presenceroute_core::relay_config::{AwsCredentialFiles, RelayConfig, SourceConfig};
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_crds::spec::BootstrapServer;
use presenceroute_genesys::Genesys;
use presenceroute_manifest::admission::admit_route;
use presenceroute_manifest::build::{Installation, RelayImage, RouteObjects, build, config_maps};
use presenceroute_manifest::dereference::dereference;
use presenceroute_manifest::document::Manifest;
use presenceroute_manifest::field::FieldPath;
use presenceroute_manifest::rotation::CredentialRotation;
use presenceroute_manifest::validate::{Model, validate};
use presenceroute_relay::{Relay, RoutingSource, RunningRelay, SecretSource, Settings};
use tempfile::TempDir;

use crate::Failure;
use crate::broker::Broker;
use crate::registration::{deregister, register};

/// What stands here in the place of what only exists in a cluster.
struct Stage {
    genesys: SocketAddr,
    queue_url: String,
    relay: SocketAddr,
}

/// A registered route with its running relay.
pub(crate) struct Demo {
    model: Model,
    genesys: Genesys,
    id: String,
    signing: CredentialRotation,
    stage: Stage,
    files: TempDir,
    relay: RunningRelay,
}

impl Demo {
    /// Validates, builds, starts the relay, registers: the order of the operator.
    pub(crate) async fn start(
        text: &str,
        broker: &Broker,
        genesys: SocketAddr,
        queue_url: String,
    ) -> Result<Self, Failure> {
        let stage = Stage { genesys, queue_url, relay: free_address()? };
        let model = model(text, broker, &stage).await?;
        let signing = advance(CredentialRotation::default(), &model)?;
        let files = TempDir::new()?;
        let config = mount(&objects(&model, &signing)?, files.path())?;
        create_topics(&model, broker)?;
        let secrets = match &model.push_credential {
            Some(_) => SecretSource::Directory(files.path().join(SIGNING)),
            None => SecretSource::None,
        };
        let relay = Relay::start(Settings {
            listen: stage.relay,
            admin_listen: ([127, 0, 0, 1], 0).into(),
            config,
            routing: RoutingSource::File(files.path().join(config_maps::ROUTING_KEY)),
            secrets,
            presence_definitions: None,
            spans: None,
        })
        .await?;
        let genesys = Genesys::new();
        let id = register(&genesys, &model, None).await?;
        Ok(Self { model, genesys, id, signing, stage, files, relay })
    }

    /// Applies an edited manifest; gives what is new.
    pub(crate) async fn edit(&mut self, text: &str, broker: &Broker) -> Result<String, Failure> {
        let model = model(text, broker, &self.stage).await?;
        if model.config != self.model.config || model.name != self.model.name {
            return Err("its name, endpoint or Kafka has changed, for which a cluster would roll the pods; start the demo again".into());
        }
        let signing = advance(self.signing.clone(), &model)?;
        create_topics(&model, broker)?;
        mount(&objects(&model, &signing)?, self.files.path())?;
        self.id = register(&self.genesys, &model, Some(&self.id)).await?;
        let change = if model.table.revision() == self.model.table.revision() {
            "manifest applied, routes unchanged".to_owned()
        } else {
            format!(
                "manifest applied: {} routes, revision {}",
                model.table.routes().len(),
                model.table.revision()
            )
        };
        (self.model, self.signing) = (model, signing);
        Ok(change)
    }

    /// Deregisters, then stops the relay: the order of the operator.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        deregister(&self.genesys, &self.model, &self.id).await?;
        self.relay.shutdown().await;
        Ok(())
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.model.namespace, self.model.name)
    }

    /// Where the relay gets its events.
    pub(crate) fn receives_at(&self) -> String {
        match &self.model.config.source {
            SourceConfig::Sqs(queue) => format!("receives from the queue {}", queue.queue_url),
            SourceConfig::Webhook | SourceConfig::ApiDestination(_) => self.endpoint(),
        }
    }

    fn endpoint(&self) -> String {
        self.model.endpoint.as_ref().map_or_else(String::new, |endpoint| endpoint.url.to_string())
    }

    /// The rule by which Amazon EventBridge delivers to the relay; `None` where Genesys Cloud itself does.
    pub(crate) fn event_bus_rule(&self) -> Result<Option<BusRule>, Failure> {
        let target = match &self.model.config.source {
            SourceConfig::Webhook => return Ok(None),
            SourceConfig::Sqs(queue) => Target::Sqs(SqsTarget {
                queue_url: queue.queue_url.clone(),
                endpoint_url: None,
                region: None,
                credentials: None,
            }),
            SourceConfig::ApiDestination(destination) => {
                let credential = self.model.push_credential.as_ref().ok_or("it has no API key")?;
                Target::ApiDestination(ApiDestinationTarget {
                    header: destination.header.clone(),
                    api_key: Some(credential.value.clone()?),
                    ..ApiDestinationTarget::new(self.endpoint())
                })
            }
        };
        Ok(Some(BusRule {
            name: "relay".to_owned(),
            event_source: None,
            detail_types: None,
            target,
            retry_policy: TargetRetryPolicy::default(),
        }))
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.relay.admin_address()
    }

    pub(crate) fn status(&self) -> RelayStatus {
        self.relay.status()
    }

    pub(crate) fn first_topic(&self) -> &str {
        self.model.table.routes().first().map_or("", |route| route.topic.as_str())
    }
}

/// The directory of the signing secrets.
const SIGNING: &str = "signing";

/// The manifest's one PresenceRoute, with what only exists here in the place of what only exists in a cluster.
async fn model(text: &str, broker: &Broker, stage: &Stage) -> Result<Model, Failure> {
    let manifest = Manifest::parse(text)?;
    let [document] = manifest.routes.as_slice() else {
        return Err(
            format!("it has {} PresenceRoutes; the demo runs exactly one", manifest.routes.len()).into()
        );
    };
    let placed = |field: &FieldPath, cause: String| format!("{}: {field}: {cause}", document.place(field));
    let mut route = admit_route(document.value()).map_err(|violations| {
        listed(violations.into_iter().map(|violation| placed(&violation.field, violation.cause)))
    })?;
    let references = dereference(&route.spec, &manifest).await?;
    // What the manifest says of these three is judged before it is replaced.
    let asked = validate(&route, dereference(&route.spec, &manifest).await?).map_err(|problems| {
        listed(problems.iter().map(|problem| placed(&problem.field(), problem.cause())))
    })?;
    route.spec.genesys.region = None;
    route.spec.genesys.api_url = Some(format!("http://{}", stage.genesys));
    route.spec.genesys.login_url = None;
    route.spec.genesys.api.ca_secret_ref = None;
    if let Some(endpoint) = &mut route.spec.endpoint {
        let path = asked.endpoint.as_ref().map_or("/", |endpoint| endpoint.url.path());
        endpoint.url = format!("http://{}{path}", stage.relay);
    }
    if let Some(queue) = route.spec.source.amazon_event_bridge.as_mut().and_then(|source| source.sqs.as_mut())
    {
        queue.queue_url = stage.queue_url.clone();
        queue.endpoint_url = Some(stage.queue_url.clone());
    }
    route.spec.kafka.bootstrap_servers = vec![BootstrapServer(broker.address())];
    (route.spec.kafka.tls, route.spec.kafka.sasl) = (None, None);
    Ok(validate(&route, references).map_err(|problems| listed(problems.iter().map(ToString::to_string)))?)
}

/// An address that was free a moment ago, so that the endpoint's URL is known before the relay listens.
fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn listed(problems: impl Iterator<Item = String>) -> String {
    problems.collect::<Vec<_>>().join("; ")
}

fn advance(signing: CredentialRotation, model: &Model) -> Result<CredentialRotation, Failure> {
    let Some(credential) = &model.push_credential else { return Ok(signing) };
    let secret = credential.value.as_ref().map_err(ToString::to_string)?;
    Ok(signing.advance(secret, k8s_openapi::jiff::Timestamp::now()))
}

fn objects(model: &Model, signing: &CredentialRotation) -> Result<RouteObjects, Failure> {
    let relay_image =
        RelayImage { reference: "presenceroute/relay".into(), pull_policy: "IfNotPresent".into() };
    Ok(build(model, signing, &Installation { relay_image, namespace: "presenceroute-system".into() })?)
}

/// Does a kubelet's part: the ConfigMaps and the Secret become files, each replaced whole.
fn mount(objects: &RouteObjects, directory: &Path) -> Result<RelayConfig, Failure> {
    let text = |map: &ConfigMap, key: &str| map.data.as_ref().and_then(|data| data.get(key)).cloned();
    let table = text(&objects.routing, config_maps::ROUTING_KEY).unwrap_or_default();
    replace(&directory.join(config_maps::ROUTING_KEY), table.as_bytes())?;
    let signing = directory.join(SIGNING);
    std::fs::create_dir_all(&signing)?;
    let secrets = objects.signing_secret.iter().filter_map(|secret| secret.data.as_ref());
    for (name, content) in secrets.flatten() {
        replace(&signing.join(name), &content.0)?;
    }
    let config = text(&objects.relay_config, config_maps::RELAY_KEY).unwrap_or_default();
    let mut config: RelayConfig = serde_saphyr::from_str(&config)?;
    // One relay without a load balancer in front: no endpoint has to drain before it stops.
    config.limits.drain_ms = 0;
    // There is no certificate for it.
    config.tls = None;
    if let SourceConfig::Sqs(queue) = &mut config.source {
        // The queue takes any key, and there is no role to ask for.
        let access_key_id_file = directory.join("access-key-id");
        let secret_access_key_file = directory.join("secret-access-key");
        replace(&access_key_id_file, b"demo")?;
        replace(&secret_access_key_file, b"demo")?;
        queue.credentials =
            Some(AwsCredentialFiles { access_key_id_file, secret_access_key_file, session_token_file: None });
    }
    Ok(config)
}

/// A reader sees the old file or the new one, never half of one.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    // The relay reads no hidden file as a secret.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&aside, content)?;
    std::fs::rename(&aside, path)
}

fn create_topics(model: &Model, broker: &Broker) -> Result<(), Failure> {
    for topic in model.table.topics() {
        broker.create_topic(topic.as_str())?;
    }
    Ok(())
}
