//! `check-ready`: asks a running operator whether it is ready, until it is. The chart's test runs it in a pod, since the
//! image has neither a shell nor curl.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use tokio::time::{Instant, sleep};

use crate::text::shortened;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait between two requests.
const INTERVAL: Duration = Duration::from_millis(500);
/// The bytes of an answer that are shown.
const MAX_SHOWN: usize = 500;

/// Which operator to ask, and for how long.
#[derive(Debug, clap::Args)]
pub struct ReadinessCheckArguments {
    /// The operator's readiness endpoint, such as http://presenceroute-operator.presenceroute-system:8080/readyz.
    #[arg(long)]
    url: Url,
    /// For how many seconds to wait until it is ready.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
    timeout_seconds: u64,
}

/// Why the operator does not pass for ready.
#[derive(Debug, thiserror::Error)]
pub enum ReadinessCheckError {
    /// No request can be made.
    #[error("the HTTP client cannot start: {0}")]
    Client(#[from] reqwest::Error),
    /// It was not ready in time.
    #[error(
        "{url} is not ready after {seconds} s: {last}; see the operator's pods with kubectl describe, and their logs"
    )]
    NotReady {
        /// What was asked.
        url: Url,
        /// For how long.
        seconds: u64,
        /// The last answer, or why there was none.
        last: String,
    },
}

/// Waits until the operator is ready, and says so.
///
/// # Errors
/// It was not ready within the time, with its last answer.
pub async fn run(arguments: &ReadinessCheckArguments) -> Result<String, ReadinessCheckError> {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    // A proxy of the environment is for the world outside of the cluster.
    let client = Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build()?;
    let ReadinessCheckArguments { url, timeout_seconds } = arguments;
    let deadline = Instant::now() + Duration::from_secs(*timeout_seconds);
    loop {
        let last = match ask(&client, url).await {
            Ok(()) => return Ok(format!("{url} is ready")),
            Err(last) => last,
        };
        if Instant::now() + INTERVAL > deadline {
            return Err(ReadinessCheckError::NotReady { url: url.clone(), seconds: *timeout_seconds, last });
        }
        sleep(INTERVAL).await;
    }
}

/// One request: `Err` is the answer of an operator that is not ready, or why there was none.
async fn ask(client: &Client, url: &Url) -> Result<(), String> {
    let mut response = client.get(url.clone()).send().await.map_err(|error| causes(&error))?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let body = response.chunk().await.ok().flatten().unwrap_or_default();
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    Err(format!("{status}: {}", shortened(body, MAX_SHOWN)))
}

/// An error with what caused it, because reqwest's own text only says which request failed.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    shortened(text, MAX_SHOWN)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::admin::{self, Readiness};
    use crate::metrics::Metrics;

    async fn operator() -> (Readiness, ReadinessCheckArguments) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap()).parse().unwrap();
        let readiness = Readiness::default();
        tokio::spawn(admin::serve(listener, Metrics::new(), readiness.clone(), std::future::pending()));
        (readiness, ReadinessCheckArguments { url, timeout_seconds: 30 })
    }

    #[tokio::test]
    async fn an_operator_that_becomes_ready_passes() {
        let (readiness, arguments) = operator().await;
        readiness.waits_for("the CRD");
        let check = tokio::spawn(async move { run(&arguments).await });
        tokio::task::yield_now().await;
        readiness.has("the CRD");
        assert!(check.await.unwrap().unwrap().ends_with("/readyz is ready"));
    }

    #[tokio::test]
    async fn an_operator_that_is_not_ready_is_named_with_its_answer() {
        let (readiness, arguments) = operator().await;
        readiness.waits_for("the CRD");
        let error = run(&ReadinessCheckArguments { timeout_seconds: 0, ..arguments }).await.unwrap_err();
        assert!(error.to_string().contains("503 Service Unavailable: waiting for the CRD;"), "{error}");
    }

    #[tokio::test]
    async fn an_address_where_nothing_listens_is_named_with_its_cause() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = format!("http://{closed}/readyz").parse().unwrap();
        let error = run(&ReadinessCheckArguments { url, timeout_seconds: 0 }).await.unwrap_err();
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }
}
