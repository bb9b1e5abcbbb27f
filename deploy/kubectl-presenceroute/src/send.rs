//! `send`: test events, signed as Genesys Cloud signs its own.
//!
//! They are posted to the route's public URL, as Genesys Cloud's are, so that the whole path is tested: DNS, TLS, the
//! Ingress. Where the URL cannot be reached from here, nothing is sent another way unless `--port-forward` asks for the
//! way through the API server. The secret is read from the cluster and kept in memory alone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use crate::format::Format;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{CONTENT_TYPE, HeaderName};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_core::receipt::{PREFERENCE, Receipt, ReceiptRecord};
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::SigningPhase;
use presenceroute_manifest::build::EVENTS_PORT;
use presenceroute_manifest::dereference::{SecretProblem, push_credential};
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use crate::cluster::{Cluster, ClusterError, is_ready};
use crate::route_name::RouteName;
use crate::style::{self, FAINT, Progress, paint, verdict};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What to send, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArguments {
    #[command(flatten)]
    route: RouteName,
    /// The events' type, such as presence:state:changed.
    #[arg(long, value_name = "TYPE", required_unless_present = "data")]
    event_type: Option<String>,
    /// The number of events, sent one after the other, each with an id of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// An attribute, as text. A dot leads into an object: user.id=7.
    #[arg(long = "attribute", value_name = "PATH=VALUE")]
    attributes: Vec<Attribute>,
    /// The events' source.
    #[arg(long)]
    source: Option<String>,
    /// A file with the event as a JSON object; - is standard input. A missing id, timestamp or source is added.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Send to a relay pod through the API server instead of to the public URL.
    #[arg(long)]
    port_forward: bool,
    /// The CA, in PEM, that signed the certificate of the public URL or the relays. Default: those that this machine trusts.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The seconds to wait for a response.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// The output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// `PATH=VALUE`.
#[derive(Clone, Debug, PartialEq)]
struct Attribute {
    path: Vec<String>,
    value: String,
}

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("write it as PATH=VALUE")?;
        let path: Vec<_> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err("a name in the path is empty".into());
        }
        Ok(Self { path, value: value.to_owned() })
    }
}

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the responses cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{file} cannot be read: {cause}")]
    File { file: String, cause: io::Error },
    #[error("{file} is not a JSON object: {cause}")]
    Data { file: String, cause: String },
    #[error("--attribute {0}: the event has a value there that is no object")]
    Attribute(String),
    #[error("the route's signing secret cannot be read: {0}")]
    ReadSecret(kube::Error),
    #[error(transparent)]
    Secret(#[from] SecretProblem),
    #[error("the route's signing secret cannot be used as a key")]
    Key,
    #[error("the route's source is no webhook, so that no event can be posted to it")]
    NoWebhook,
    #[error("the route's endpoint cannot be used: {0}")]
    Endpoint(String),
    #[error("the certificates in {file} cannot be used: {cause}")]
    Certificates { file: String, cause: reqwest::Error },
    #[error("no HTTP client: {0}")]
    Client(reqwest::Error),
    #[error("no relay pod of the route is ready; see kubectl presenceroute status {0}")]
    NoPod(String),
    #[error(
        "{url} cannot be reached from here: {cause}; --port-forward goes through the API server to a relay pod"
    )]
    Unreachable { url: Url, cause: String },
    #[error("pod {pod} does not respond through the API server: {cause}")]
    Forward { pod: String, cause: String },
    #[error("no response within {0} s; raise --timeout, or see the route's status")]
    Timeout(u64),
    #[error("event {id} got no response: {cause}; later events were not sent")]
    Unanswered { id: String, cause: Box<SendError> },
}

/// The outcome of one event.
#[derive(Debug, PartialEq, Serialize)]
struct Sent {
    id: String,
    status: u16,
    /// Where Kafka has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<ReceiptRecord>,
    /// No condition of its routes holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_filtered: bool,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    milliseconds: u128,
}

pub(crate) async fn run(arguments: &SendArguments, cluster: &Cluster) -> Result<ExitCode, SendError> {
    let template = template(arguments)?;
    let name = &arguments.route.name;
    let route = cluster.route(name).await?;
    let webhook = route.spec.source.webhook.as_ref().ok_or(SendError::NoWebhook)?;
    let reference = &webhook.signing_secret_ref;
    let credential = push_credential(cluster, &reference.name, &reference.key).await;
    let secret = credential.map_err(SendError::ReadSecret)?.value.map_err(SendError::from)?;
    let header = HeaderName::try_from(&webhook.signature_header)
        .map_err(|error| SendError::Endpoint(error.to_string()))?;
    let ca_file = arguments.ca_file.as_deref();
    let way = if arguments.port_forward {
        Way::forwarded(cluster, &route, ca_file).await?
    } else {
        Way::public(&route, ca_file)?
    };
    let progress = Progress::new();
    let mut sent = Vec::new();
    let mut unanswered = None;
    for number in 1..=arguments.count {
        if arguments.count > 1 {
            progress.show(&format!("sending {number} of {}", arguments.count));
        }
        let (id, body) = event(&template, arguments.count == 1, Timestamp::now());
        let signature = sign(&secret, &body)?;
        let began = Instant::now();
        let answered = timeout(Duration::from_secs(arguments.timeout), way.post(&header, &signature, body));
        match answered.await.unwrap_or(Err(SendError::Timeout(arguments.timeout))) {
            Ok((status, answer)) => sent.push(outcome(id, status, &answer, began.elapsed())),
            // The earlier events are in Kafka, and are reported.
            Err(error) if !sent.is_empty() => {
                unanswered = Some(SendError::Unanswered { id, cause: Box::new(error) });
                break;
            }
            Err(error) => return Err(error),
        }
    }
    drop(progress);
    let phase = route.status.and_then(|status| status.signing).map(|signing| signing.phase);
    match arguments.output {
        Format::Text => style::print(&render(&sent, phase)),
        Format::Json => style::print(&(serde_json::to_string_pretty(&json!({"sent": sent}))? + "\n")),
    }
    if let Some(error) = unanswered {
        return Err(error);
    }
    Ok(if sent.iter().all(|sent| sent.status == 200) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The event without its own id and time.
fn template(arguments: &SendArguments) -> Result<Map<String, Value>, SendError> {
    let mut event = match &arguments.data {
        Some(file) => data(file)?,
        None => Map::new(),
    };
    if let Some(event_type) = &arguments.event_type {
        event.insert("eventType".into(), json!(event_type));
    }
    match &arguments.source {
        Some(source) => event.insert("source".into(), json!(source)),
        None => event
            .get("source")
            .cloned()
            .or_else(|| event.insert("source".into(), json!("kubectl-presenceroute"))),
    };
    for attribute in &arguments.attributes {
        let mut object = &mut event;
        let Some((last, before)) = attribute.path.split_last() else { continue };
        for name in [&"attributes".to_owned()].into_iter().chain(before) {
            let inside = object.entry(name.clone()).or_insert_with(|| json!({}));
            object = inside.as_object_mut().ok_or_else(|| SendError::Attribute(attribute.path.join(".")))?;
        }
        object.insert(last.clone(), json!(attribute.value));
    }
    Ok(event)
}

fn data(file: &Path) -> Result<Map<String, Value>, SendError> {
    let name = || file.display().to_string();
    let text =
        if file.as_os_str() == "-" { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|cause| SendError::File { file: name(), cause })?;
    serde_json::from_str(&text).map_err(|cause| SendError::Data { file: name(), cause: cause.to_string() })
}

/// An event of the template with a time, and an id unless it may keep the one that it has.
fn event(template: &Map<String, Value>, keeps_id: bool, now: Timestamp) -> (String, Bytes) {
    let mut event = template.clone();
    let id = match event.get("id").and_then(Value::as_str) {
        Some(id) if keeps_id => id.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    };
    event.insert("id".into(), json!(id));
    event.entry("timestamp").or_insert_with(|| json!(now.as_millisecond()));
    (id, Value::Object(event).to_string().into())
}

/// The lowercase-hex HMAC-SHA256 of a body.
fn sign(secret: &SecretString, body: &[u8]) -> Result<String, SendError> {
    let mac =
        Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).map_err(|_| SendError::Key)?;
    Ok(hex::encode(mac.chain_update(body).finalize().into_bytes()))
}

fn outcome(id: String, status: u16, answer: &[u8], took: Duration) -> Sent {
    let milliseconds = took.as_millis();
    if status == 200 {
        // A relay that gives no receipts says only that the event was processed.
        let receipt = serde_json::from_slice::<Receipt>(answer).ok();
        let is_filtered = receipt.as_ref().is_some_and(|receipt| receipt.status == "filtered");
        let records = receipt.map(|receipt| receipt.records).unwrap_or_default();
        return Sent { id, status, records, is_filtered, problem: None, milliseconds };
    }
    let reported: BTreeMap<String, Value> = serde_json::from_slice(answer).unwrap_or_default();
    let text = |name: &str| reported.get(name).and_then(Value::as_str);
    let problem = match (text("title"), text("detail")) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        // Not a relay's answer: something on the way to it.
        (None, None) => String::from_utf8_lossy(answer).chars().take(200).collect(),
    };
    Sent { id, status, records: Vec::new(), is_filtered: false, problem: Some(problem), milliseconds }
}

fn render(sent: &[Sent], phase: Option<SigningPhase>) -> String {
    let mut out = String::new();
    for Sent { id, status, records, is_filtered, problem, milliseconds } in sent {
        let (style, mark) = verdict(*status == 200);
        let place = |record: &ReceiptRecord| match (record.partition, record.offset) {
            (Some(partition), Some(offset)) => {
                format!("{} partition {partition} offset {offset}", record.topic)
            }
            _ => format!("{} (acknowledged before)", record.topic),
        };
        let outcome = match (problem, records.as_slice()) {
            (Some(problem), _) => problem.clone(),
            (None, []) if *is_filtered => "filtered: no condition of its routes is true".to_owned(),
            (None, []) => "processed; the relay gave no receipt".to_owned(),
            (None, records) => records.iter().map(place).collect::<Vec<_>>().join(", "),
        };
        let took = paint(FAINT, &format!("{milliseconds} ms"));
        out.push_str(&format!("{} {id}  {outcome}  {took}\n", paint(style, &format!("{mark} {status}"))));
    }
    let rotating = phase.filter(|phase| *phase != SigningPhase::Stable);
    if let (Some(phase), true) = (rotating, sent.iter().any(|sent| sent.status == 403)) {
        out.push_str(&format!(
            "the signing secret is being rotated ({phase:?}); try again once the route's status shows Stable\n"
        ));
    }
    if let [_, _, ..] = sent {
        let accepted = sent.iter().filter(|sent| sent.status == 200).count();
        out.push_str(&format!("{accepted} of {} accepted\n", sent.len()));
    }
    out
}

/// A way to a relay.
struct Way {
    client: reqwest::Client,
    url: Url,
    /// The pod, when the way leads through the API server.
    pod: Option<String>,
}

impl Way {
    /// By the public URL, as Genesys Cloud posts.
    fn public(route: &PresenceRoute, ca_file: Option<&Path>) -> Result<Self, SendError> {
        let client = client(ca_file)?.build().map_err(SendError::Client)?;
        Ok(Self { client, url: endpoint(route)?, pod: None })
    }

    /// To a pod that is ready, by a port of this machine that the API server forwards. Where the relays speak TLS,
    /// their certificate is still to be the one of the public URL's host.
    async fn forwarded(
        cluster: &Cluster,
        route: &PresenceRoute,
        ca_file: Option<&Path>,
    ) -> Result<Self, SendError> {
        let pods = cluster.relay_pods(&route.name_any()).await?;
        let pod = pods.iter().find(|pod| is_ready(pod)).map(ResourceExt::name_any);
        let pod = pod.ok_or_else(|| SendError::NoPod(route.name_any()))?;
        let address = cluster.forward(&pod, u16::try_from(EVENTS_PORT).unwrap_or_default()).await?;
        let scheme = if route.spec.relay.tls.is_some() { "https" } else { "http" };
        let public = endpoint(route)?;
        // A name is kept for TLS; an address would be gone to.
        let host = match public.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            _ => address.ip().to_string(),
        };
        let url = format!("{scheme}://{host}:{}{}", address.port(), public.path());
        let url = Url::parse(&url).map_err(|error| SendError::Endpoint(error.to_string()))?;
        let client =
            client(ca_file)?.no_proxy().resolve(&host, address).build().map_err(SendError::Client)?;
        Ok(Self { client, url, pod: Some(pod) })
    }

    /// Posts a signed event; the status of the answer and its body.
    async fn post(
        &self,
        header: &HeaderName,
        signature: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), SendError> {
        let failed = |error: reqwest::Error| match &self.pod {
            Some(pod) => SendError::Forward { pod: pod.clone(), cause: root_cause(&error) },
            None => SendError::Unreachable { url: self.url.clone(), cause: root_cause(&error) },
        };
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(PREFER, PREFERENCE)
            .header(header, signature)
            .body(body);
        let answer = request.send().await.map_err(failed)?;
        Ok((answer.status().as_u16(), answer.bytes().await.map_err(failed)?))
    }
}

fn endpoint(route: &PresenceRoute) -> Result<Url, SendError> {
    let url = route.spec.endpoint_url().ok_or(SendError::NoWebhook)?;
    Url::parse(url).map_err(|error| SendError::Endpoint(error.to_string()))
}

fn client(ca_file: Option<&Path>) -> Result<ClientBuilder, SendError> {
    // A redirect would be another receiver than the one that the route names.
    let builder = reqwest::Client::builder().redirect(Policy::none());
    let Some(file) = ca_file else { return Ok(builder) };
    let name = || file.display().to_string();
    let pem = std::fs::read(file).map_err(|cause| SendError::File { file: name(), cause })?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|cause| SendError::Certificates { file: name(), cause })?;
    Ok(builder.tls_certs_only(certificates))
}

/// What lies at the bottom of an error: the library above it says only that sending failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        send: SendArguments,
    }

    fn template_of(arguments: &[&str]) -> Result<Value, SendError> {
        let line = Line::parse_from(["send", "route"].iter().chain(arguments));
        template(&line.send).map(Value::Object)
    }

    #[test]
    fn an_event_is_made_of_what_the_command_line_says() {
        let arguments =
            ["--event-type", "t", "--attribute", "presence=AVAILABLE", "--attribute", "user.id=7=8"];
        assert_eq!(
            template_of(&arguments).unwrap(),
            json!({
                "eventType": "t",
                "source": "kubectl-presenceroute",
                "attributes": {"presence": "AVAILABLE", "user": {"id": "7=8"}},
            })
        );
        let clash = template_of(&["--event-type", "t", "--attribute", "a=1", "--attribute", "a.b=2"]);
        assert!(clash.unwrap_err().to_string().contains("a.b"));
        assert!(Line::try_parse_from(["send", "route"]).is_err());
        assert!(Line::try_parse_from(["send", "route", "--event-type", "t", "--attribute", "a"]).is_err());
    }

    #[test]
    fn each_event_has_an_id_and_a_time_and_one_alone_keeps_its_own() {
        let template = json!({"id": "mine", "eventType": "t"}).as_object().unwrap().clone();
        let now = Timestamp::from_millisecond(5).unwrap();
        let (id, body) = event(&template, true, now);
        assert_eq!(
            (id.as_str(), serde_json::from_slice::<Value>(&body).unwrap()["timestamp"].as_i64()),
            ("mine", Some(5))
        );
        let (one, other) = (event(&template, false, now).0, event(&template, false, now).0);
        assert!(one != other && one != "mine");
    }

    #[test]
    fn the_signature_is_the_lowercase_hex_hmac_sha256_of_the_body() {
        // RFC 4231, test case 2.
        let signature = sign(&"Jefe".into(), b"what do ya want for nothing?").unwrap();
        assert_eq!(signature, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    fn shown(status: u16, answer: &str, phase: Option<SigningPhase>) -> String {
        let sent = [outcome("e-1".into(), status, answer.as_bytes(), Duration::from_millis(3))];
        strip_str(&render(&sent, phase)).to_string()
    }

    #[test]
    fn a_receipt_is_shown_with_topic_partition_and_offset() {
        assert_eq!(
            shown(
                200,
                r#"{"status":"processed","records":[{"topic":"a","partition":2,"offset":40},{"topic":"b"}]}"#,
                None
            ),
            "✓ 200 e-1  a partition 2 offset 40, b (acknowledged before)  3 ms\n"
        );
        assert!(shown(200, r#"{"status":"processed"}"#, None).contains("the relay gave no receipt"));
        let filtered = shown(200, r#"{"status":"filtered","records":[]}"#, None);
        assert_eq!(filtered, "✓ 200 e-1  filtered: no condition of its routes is true  3 ms\n");
    }

    #[test]
    fn a_rejection_is_shown_with_the_relays_words() {
        let answer = r#"{"title":"Signature mismatch","detail":"check the secret","status":403}"#;
        let text = shown(403, answer, Some(SigningPhase::Distributing));
        assert!(text.starts_with("✗ 403 e-1  Signature mismatch: check the secret"), "{text}");
        assert!(text.contains("being rotated (Distributing)"), "{text}");
        assert!(shown(502, "<html>Bad Gateway</html>", None).contains("Bad Gateway"));
    }

    #[tokio::test]
    async fn an_unreachable_public_url_suggests_port_forward() {
        presenceroute_runtime::tls_provider::install_crypto_provider();
        let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let url = Url::parse(&format!("http://{closed}/events")).unwrap();
        let way = Way { client: client(None).unwrap().no_proxy().build().unwrap(), url, pod: None };
        let error = way.post(&PREFER, "", Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached from here") && error.contains("--port-forward"), "{error}");
    }
}
