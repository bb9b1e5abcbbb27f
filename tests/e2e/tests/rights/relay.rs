//! A relay that is played: a pod that runs nowhere, and whose address answers `/status` as this test wants it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use presenceroute_e2e::{Failure, Outcome, kubectl};
use serde_json::{Value, json};

use crate::scene::NAMESPACE;

/// An address that nothing else listens at.
const ADDRESS: &str = "127.77.254.3";

/// What selects its pod.
const POD: &str = "--selector=pod-template-hash=played";

/// The relay. It answers until the test ends.
pub(crate) struct Relay {
    status: Arc<Mutex<Value>>,
}

impl Relay {
    /// Starts one that is ready, and has neither the routing table nor the secrets that it should.
    pub(crate) fn start() -> Outcome<Self> {
        let listener = TcpListener::bind((ADDRESS, 9090))
            .map_err(|error| Failure(format!("cannot listen at {ADDRESS}: {error}")))?;
        let status = Arc::new(Mutex::new(report("old", "old")));
        let answered = Arc::clone(&status);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let status = answered.lock().to_string();
                // A client that goes asks again.
                let _ = answer(connection, &status);
            }
        });
        let relay = Self { status };
        Self::make_pod()?;
        Ok(relay)
    }

    /// Reports these revisions of the routing table and of the secrets from now on.
    pub(crate) fn reports(&self, routing: &str, secrets: &str) {
        *self.status.lock() = report(routing, secrets);
    }

    /// The pod belongs to a ReplicaSet that is named as those of the route's Deployment are: no other pod is asked.
    fn make_pod() -> Outcome {
        let replica_set = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": "route-relay-played", "namespace": NAMESPACE},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"pod-template-hash": "played"}},
                "template": {
                    "metadata": {"labels": {
                        "presenceroute.io/route": "route",
                        "app.kubernetes.io/component": "relay",
                        "pod-template-hash": "played",
                    }},
                    "spec": {
                        "nodeSelector": {"presenceroute.io/nowhere": "true"},
                        "containers": [{"name": "none", "image": "none"}],
                    },
                },
            },
        });
        kubectl::apply(&replica_set.to_string())?;
        kubectl::run(&["-n", NAMESPACE, "wait", "--timeout=30s", "--for=create", "pod", POD])?;
        let status = json!({"status": {
            "phase": "Running",
            "podIP": ADDRESS,
            "podIPs": [{"ip": ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let name = Self::pod()?;
        let arguments = ["-n", NAMESPACE, "patch", &name, "--subresource=status", "--type=merge", "-p"];
        kubectl::run(&[&arguments[..], &[&status.to_string()]].concat()).map(drop)
    }

    /// The pod, as `pod/NAME`.
    pub(crate) fn pod() -> Outcome<String> {
        let name = kubectl::run(&["-n", NAMESPACE, "get", "pods", POD, "-o", "name"])?;
        Ok(name.trim().to_owned())
    }
}

fn report(routing: &str, secrets: &str) -> Value {
    json!({
        "version": "played",
        "routing": {"revision": routing, "routes": 1},
        "secrets": {"revision": secrets, "active": 1},
        "kafka": {"reachable": true},
        "inFlight": 0,
        "draining": false,
    })
}

/// Reads a request's head, and answers it whatever it asks for.
fn answer(mut connection: TcpStream, body: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let head = BufReader::new(connection.try_clone()?).lines();
    head.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    write!(
        connection,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
