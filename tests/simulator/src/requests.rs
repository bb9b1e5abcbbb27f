//! A log of the requests that the API received, so that a test can count them. Bounded: the oldest are dropped first.

use std::collections::{BTreeMap, VecDeque};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;

use crate::Simulator;
use crate::faults::Faulty;
use crate::moment::Moment;
use crate::server::CutConnection;
use crate::token::ClientId;

/// How many requests are kept one by one; the counts include all.
pub const REMEMBERED_REQUESTS: usize = 10_000;

/// One request to the API.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRecord {
    /// The number of the request since the start or the last reset, from 1.
    pub sequence: u64,
    /// When it arrived.
    pub at: Moment,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// Its query, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The status of the answer; `None` before the answer, and where the connection was cut or the client left.
    pub status: Option<u16>,
    /// The OAuth client that sent it, where that is known.
    pub client: Option<String>,
    /// Whether a fault rule decided the answer.
    pub fault: bool,
    /// Whether a fault rule cut the connection.
    pub cut: bool,
}

/// Counts of requests since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestCounts {
    /// All requests.
    pub total: u64,
    /// By method and path, such as `POST /api/v2/oauth/token`.
    pub by_route: BTreeMap<String, u64>,
    /// By the status of the answer; requests without an answer are left out.
    pub by_status: BTreeMap<u16, u64>,
}

#[derive(Default)]
pub(crate) struct RequestLog {
    records: VecDeque<RequestRecord>,
    counts: RequestCounts,
}

impl RequestLog {
    pub(crate) fn counts(&self) -> RequestCounts {
        self.counts.clone()
    }

    /// The kept requests after that sequence number, oldest first.
    pub(crate) fn since(&self, sequence: u64) -> Vec<RequestRecord> {
        self.records.iter().filter(|record| record.sequence > sequence).cloned().collect()
    }

    fn begin(&mut self, request: &Request, client: Option<ClientId>) -> u64 {
        let route = request.extensions().get::<MatchedPath>().map_or("(no such path)", MatchedPath::as_str);
        self.counts.total += 1;
        *self.counts.by_route.entry(format!("{} {route}", request.method())).or_default() += 1;
        if self.records.len() == REMEMBERED_REQUESTS {
            self.records.pop_front();
        }
        self.records.push_back(RequestRecord {
            sequence: self.counts.total,
            at: Moment::now(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().map(str::to_owned),
            status: None,
            client: client.map(|client| client.0),
            fault: false,
            cut: false,
        });
        self.counts.total
    }

    fn end(&mut self, sequence: u64, response: &Response) -> Option<&RequestRecord> {
        let cut = response.extensions().get::<CutConnection>().is_some();
        if !cut {
            *self.counts.by_status.entry(response.status().as_u16()).or_default() += 1;
        }
        // After a reset, the same number belongs to another request or to none yet.
        let record = self.records.iter_mut().rev().find(|record| record.sequence == sequence)?;
        record.cut = cut;
        record.status = (!cut).then(|| response.status().as_u16());
        record.fault = response.extensions().get::<Faulty>().is_some();
        if let Some(client) = response.extensions().get::<ClientId>() {
            record.client = Some(client.0.clone());
        }
        Some(record)
    }
}

/// Records a request when it arrives and when it is answered.
pub(crate) async fn record(State(simulator): State<Simulator>, request: Request, next: Next) -> Response {
    let client = simulator.inner.tokens.lock().client(request.headers());
    let sequence = simulator.inner.requests.lock().begin(&request, client);
    let response = next.run(request).await;
    if let Some(record) = simulator.inner.requests.lock().end(sequence, &response) {
        tracing::info!(
            method = record.method,
            path = record.path,
            status = record.status,
            client = record.client,
            fault = record.fault,
            cut = record.cut,
            "call",
        );
    }
    response
}
