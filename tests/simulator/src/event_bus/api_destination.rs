//! An API destination: an HTTP request for each event, as Amazon EventBridge sends it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RANGE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::{Client, Url};
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep_until};

use super::retry::{RetryAfter, Verdict};
use super::rule::ApiDestinationTarget;
use super::{Answer, Tried};
use crate::delivery::{explain, read};
use crate::moment::Moment;

pub(super) struct ApiDestination {
    client: Client,
    url: Url,
    headers: HeaderMap,
    /// Between the beginnings of two requests.
    interval: Duration,
    /// When the next request may begin.
    turn: Mutex<Instant>,
}

impl ApiDestination {
    pub(super) fn new(target: &ApiDestinationTarget, client: Client) -> Result<Self, String> {
        let mut headers = HeaderMap::from_iter([
            (USER_AGENT, HeaderValue::from_static("Amazon/EventBridge/ApiDestinations")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
            (RANGE, HeaderValue::from_static("bytes=0-1048575")),
            (ACCEPT_ENCODING, HeaderValue::from_static("gzip,deflate")),
            (CONNECTION, HeaderValue::from_static("close")),
        ]);
        if let Some(key) = &target.api_key {
            let name: HeaderName =
                target.header.parse().map_err(|_| "\"header\" must be the name of a header".to_owned())?;
            let mut value = HeaderValue::from_str(key.expose_secret())
                .map_err(|_| "\"apiKey\" must be the value of a header".to_owned())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self {
            client,
            url: target.url.parse().map_err(|_| "\"url\" must be a URL".to_owned())?,
            headers,
            interval: Duration::from_secs(1) / target.invocation_rate_limit_per_second.max(1),
            turn: Mutex::new(Instant::now()),
        })
    }

    pub(super) async fn send(&self, envelope: Bytes) -> Tried {
        sleep_until(self.next_turn()).await;
        let (at, start) = (Moment::now(), Instant::now());
        let answer = self.post(envelope).await.unwrap_or_else(|error| Answer::none(explain(error)));
        answer.since(at, start)
    }

    fn next_turn(&self) -> Instant {
        let mut turn = self.turn.lock();
        let mine = (*turn).max(Instant::now());
        *turn = mine + self.interval;
        mine
    }

    async fn post(&self, envelope: Bytes) -> Result<Answer, reqwest::Error> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(envelope);
        let response = request.send().await?;
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| RetryAfter::read(value, Timestamp::now()));
        let text = read(response).await?;
        Ok(Answer {
            status: Some(status.as_u16()),
            error: None,
            text: (!status.is_success() && !text.is_empty()).then_some(text),
            verdict: Verdict::of_status(status.as_u16(), retry_after),
        })
    }
}
