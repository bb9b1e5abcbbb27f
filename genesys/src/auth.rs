//! The access token of one OAuth client: asked for once, shared by all, renewed before it expires.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::GenesysError;

/// A token is renewed so long before it expires, or at nine tenths of its life if that is later.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// What a token lives where the server does not say; RFC 6749 lets it leave that out.
const UNSAID_LIFE: Duration = Duration::from_secs(300);

/// The longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(48 * 3600);

/// An access token in use.
pub(super) struct Token {
    /// The value of the Authorization header, marked so that nobody prints it.
    pub(super) authorization: HeaderValue,
    /// The token alone, to be kept out of error texts.
    pub(super) secret: SecretString,
    generation: u64,
    fresh_until: Instant,
}

/// The answer of the token endpoint. No `Debug`, because of the token.
#[derive(Deserialize)]
pub(super) struct Grant {
    access_token: SecretToken,
    /// Seconds.
    expires_in: Option<f64>,
}

/// Goes from the JSON into a secret without a stop.
#[derive(Deserialize)]
#[serde(from = "String")]
struct SecretToken(SecretString);

impl From<String> for SecretToken {
    fn from(token: String) -> Self {
        Self(SecretString::from(token))
    }
}

impl Grant {
    fn life(&self) -> Duration {
        self.expires_in.map_or(UNSAID_LIFE, |seconds| {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST_LIFE).min(LONGEST_LIFE)
        })
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.access_token.0
    }
}

/// The token of one client, and who fetches it.
#[derive(Default)]
pub(super) struct Tokens {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Token>>,
    generations: u64,
    failure: Option<(Instant, GenesysError)>,
}

impl Tokens {
    /// A token that is fresh, and not the one that the server has just rejected. Of those who ask at the same time,
    /// one fetches, and all get what came of it; `fetch` brings the grant and its Authorization header.
    pub(super) async fn get(
        &self,
        rejected: Option<&Token>,
        fetch: impl Future<Output = Result<(Grant, HeaderValue), GenesysError>>,
    ) -> Result<Arc<Token>, GenesysError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let fits = |token: &&Arc<Token>| {
            Instant::now() < token.fresh_until
                && rejected.is_none_or(|rejected| rejected.generation != token.generation)
        };
        if let Some(token) = state.current.as_ref().filter(fits) {
            return Ok(Arc::clone(token));
        }
        if let Some((_, error)) = state.failure.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        let requested = Instant::now();
        match fetch.await {
            Ok((grant, authorization)) => {
                let life = grant.life();
                state.generations += 1;
                let token = Arc::new(Token {
                    authorization,
                    generation: state.generations,
                    fresh_until: requested + life.saturating_sub(LONGEST_MARGIN.min(life / 10)),
                    secret: grant.access_token.0,
                });
                state.current = Some(Arc::clone(&token));
                state.failure = None;
                Ok(token)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn grant(expires_in: Option<f64>) -> (Grant, HeaderValue) {
        let access_token = SecretToken(SecretString::from("token"));
        (Grant { access_token, expires_in }, HeaderValue::from_static("Bearer token"))
    }

    fn failure() -> GenesysError {
        GenesysError::InvalidAccess { problem: "no luck".to_owned() }
    }

    async fn fetch(calls: &AtomicU32) -> Result<(Grant, HeaderValue), GenesysError> {
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(grant(Some(1000.0)))
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cost_one_call() {
        let (tokens, calls) = (Tokens::default(), AtomicU32::new(0));
        let asked = (0..50).map(|_| tokens.get(None, fetch(&calls)));
        for token in futures::future::join_all(asked).await {
            token.unwrap();
        }
        assert_eq!(calls.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_waited_for_it_and_not_by_those_who_come_later() {
        let (tokens, calls) = (Tokens::default(), AtomicU32::new(0));
        let fail = async || {
            calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(15)).await;
            Err(failure())
        };
        let asked = (0..50).map(|_| tokens.get(None, fail()));
        for token in futures::future::join_all(asked).await {
            assert!(token.is_err());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokens.get(None, fetch(&calls)).await.unwrap();
        assert_eq!(calls.into_inner(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_a_minute_before_it_expires() {
        let (tokens, calls) = (Tokens::default(), AtomicU32::new(0));
        tokens.get(None, fetch(&calls)).await.unwrap();
        // The fetch took a second, and a life is counted from its beginning.
        tokio::time::sleep(Duration::from_secs(938)).await;
        tokens.get(None, fetch(&calls)).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        tokens.get(None, fetch(&calls)).await.unwrap();
        assert_eq!(calls.into_inner(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_token_is_replaced_once_for_all_who_had_it() {
        let (tokens, calls) = (Tokens::default(), AtomicU32::new(0));
        let old = tokens.get(None, fetch(&calls)).await.unwrap();
        let asked = (0..50).map(|_| tokens.get(Some(&old), fetch(&calls)));
        for token in futures::future::join_all(asked).await {
            assert_ne!(token.unwrap().generation, old.generation);
        }
        assert_eq!(calls.into_inner(), 2);
    }

    #[test]
    fn a_life_is_what_the_server_says_within_reason() {
        let cases = [(None, 300), (Some(86_400.0), 86_400), (Some(-1.0), 0), (Some(1e300), 172_800)];
        for (expires_in, seconds) in cases {
            assert_eq!(grant(expires_in).0.life(), Duration::from_secs(seconds));
        }
    }
}
