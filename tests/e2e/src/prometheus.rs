//! A Prometheus of this run's own. It scrapes what the chart's monitors select, under the labels that the Prometheus
//! operator would give it, and through `kubectl proxy`: that works from wherever `kubectl` works.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::kubectl::{self, text};
use crate::wait::{seconds, until};
use crate::{Failure, Outcome, command};

/// A running Prometheus. It ends, and its data go, when this is dropped.
pub struct Prometheus {
    server: Child,
    proxy: Child,
    directory: PathBuf,
    url: String,
}

/// One series of an answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Series {
    /// Its labels, `__name__` among them.
    pub metric: BTreeMap<String, String>,
    /// When, in seconds since 1970, and the value as text.
    value: (f64, String),
}

impl Series {
    /// Whether its value is a number; a rate of nothing divided by nothing is none.
    pub fn is_number(&self) -> bool {
        self.value.1 != "NaN"
    }
}

impl Prometheus {
    /// Starts one with these rules for what these monitors (PodMonitor, ServiceMonitor) select.
    pub fn start(monitors: &[Value], rules: &Path) -> Outcome<Self> {
        let directory = command::own_directory().join("prometheus");
        fs::create_dir_all(&directory).map_err(io(&directory))?;
        let (proxy, proxy_address) = kubectl_proxy()?;
        let scrape_configs: Vec<Value> =
            monitors.iter().map(|monitor| scrape_config(monitor, &proxy_address)).collect::<Outcome<_>>()?;
        let configuration = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": scrape_configs,
        });
        let file = directory.join("prometheus.yaml");
        fs::write(&file, configuration.to_string()).map_err(io(&file))?;
        let address = free_address()?;
        let log = directory.join("log");
        let server = command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).map_err(io(&log))?)
            .spawn()
            .map_err(|error| {
                Failure(format!("cannot run prometheus: {error}; on Debian: apt-get install prometheus"))
            })?;
        let prometheus = Self { server, proxy, directory, url: format!("http://{address}") };
        until("Prometheus is ready", seconds(20), || {
            prometheus.get("/-/ready").map_err(|failure| {
                let log = fs::read_to_string(&log).unwrap_or_default();
                Failure(format!("{failure}\n{}", log.lines().last().unwrap_or_default()))
            })
        })?;
        Ok(prometheus)
    }

    /// The series that a query gives now.
    pub fn query(&self, query: &str) -> Outcome<Vec<Series>> {
        let url = format!("{}/api/v1/query", self.url);
        let argument = format!("query={query}");
        // Not --fail: the answer to a query that is wrong says why.
        let answer = command::run("curl", &["-sS", "--get", "--data-urlencode", &argument, &url], None)?;
        let answer: Value = read(&answer)?;
        if answer["status"] != "success" {
            return Err(Failure(format!("{query}: {}", text(&answer, "/error"))));
        }
        serde_json::from_value(answer["data"]["result"].clone()).map_err(|error| Failure(error.to_string()))
    }

    /// Every rule, with its health and its alerts.
    pub fn rules(&self) -> Outcome<Vec<Value>> {
        let answer: Value = read(&self.get("/api/v1/rules")?)?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    /// Every target, with its health and its labels.
    pub fn targets(&self) -> Outcome<Vec<Value>> {
        let answer: Value = read(&self.get("/api/v1/targets")?)?;
        Ok(answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default())
    }

    fn get(&self, path: &str) -> Outcome<String> {
        command::run("curl", &["-sS", "--fail", &format!("{}{path}", self.url)], None)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.proxy] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn kubectl_proxy() -> Outcome<(Child, String)> {
    let mut proxy = command::new("kubectl")
        .args(["proxy", "--port=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Failure(format!("cannot run kubectl: {error}")))?;
    let mut line = String::new();
    if let Some(output) = proxy.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(|error| Failure(error.to_string()))?;
    }
    // "Starting to serve on 127.0.0.1:34567"
    match line.trim().rsplit_once(' ') {
        Some((_, address)) => Ok((proxy, address.to_owned())),
        None => {
            let _ = proxy.kill();
            Err(Failure(format!("kubectl proxy does not say where it listens: {line:?}")))
        }
    }
}

fn free_address() -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.to_string()).map_err(|error| Failure(error.to_string()))
}

/// What the Prometheus operator makes of a monitor: its targets, their labels, and its own relabelings.
fn scrape_config(monitor: &Value, proxy: &str) -> Outcome<Value> {
    let (endpoint, pods) = match text(monitor, "/kind") {
        "PodMonitor" => (&monitor["spec"]["podMetricsEndpoints"][0], selected(monitor, "pods")?),
        _ => {
            let mut pods = Vec::new();
            for service in selected(monitor, "services")? {
                let labels = selector(&json!({"matchLabels": service["spec"]["selector"]}));
                pods.extend(kubectl::list(text(&service, "/metadata/namespace"), "pods", &labels)?);
            }
            (&monitor["spec"]["endpoints"][0], pods)
        }
    };
    let path = text(endpoint, "/path");
    let targets: Vec<Value> = pods
        .iter()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .map(|pod| target(pod, text(endpoint, "/port"), path, proxy))
        .collect::<Outcome<_>>()?;
    let relabelings = endpoint["relabelings"].as_array().cloned().unwrap_or_default();
    Ok(json!({
        "job_name": format!("{}/{}", text(monitor, "/metadata/namespace"), text(monitor, "/metadata/name")),
        "honor_labels": endpoint["honorLabels"].as_bool().unwrap_or(false),
        "static_configs": targets,
        "relabel_configs": relabelings.iter().map(snake_case).collect::<Vec<_>>(),
    }))
}

fn selected(monitor: &Value, kind: &str) -> Outcome<Vec<Value>> {
    let labels = selector(&monitor["spec"]["selector"]);
    let namespaces = &monitor["spec"]["namespaceSelector"];
    if namespaces["any"] == true {
        return kubectl::list_everywhere(kind, &labels);
    }
    let own = vec![monitor["metadata"]["namespace"].clone()];
    let names = namespaces["matchNames"].as_array().unwrap_or(&own);
    let found = names.iter().map(|name| kubectl::list(name.as_str().unwrap_or_default(), kind, &labels));
    Ok(found.collect::<Outcome<Vec<_>>>()?.concat())
}

/// A label selector as `kubectl -l` takes it.
fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let existing = expressions.map(|expression| text(expression, "/key").to_owned());
    equal.chain(existing).collect::<Vec<_>>().join(",")
}

fn target(pod: &Value, port: &str, path: &str, proxy: &str) -> Outcome<Value> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let ports = pod["spec"]["containers"].as_array().into_iter().flatten();
    let number = ports
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .find(|candidate| candidate["name"] == port)
        .and_then(|found| found["containerPort"].as_u64())
        .ok_or_else(|| Failure(format!("pod {name} has no port {port}, which the monitor names")))?;
    let mut labels = Map::new();
    labels.insert(
        "__metrics_path__".into(),
        json!(format!("/api/v1/namespaces/{namespace}/pods/{name}:{number}/proxy{path}")),
    );
    labels.insert("instance".into(), json!(name));
    labels.insert("namespace".into(), json!(namespace));
    labels.insert("pod".into(), json!(name));
    for (label, value) in kubectl::labels(pod) {
        let label: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        labels.insert(format!("__meta_kubernetes_pod_label_{label}"), json!(value));
    }
    Ok(json!({"targets": [proxy], "labels": labels}))
}

/// `sourceLabels` is `source_labels` to Prometheus itself.
fn snake_case(relabeling: &Value) -> Value {
    let fields = relabeling.as_object().into_iter().flatten();
    let snake = |name: &String| {
        name.chars().fold(String::new(), |mut snake, c| {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
            snake
        })
    };
    fields.map(|(name, value)| (snake(name), value.clone())).collect::<Map<_, _>>().into()
}

fn read(json: &str) -> Outcome<Value> {
    serde_json::from_str(json).map_err(|error| Failure(format!("Prometheus's answer: {error}: {json}")))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure(format!("{path}: {error}"))
}
