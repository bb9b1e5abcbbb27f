//! The access token of one OAuth client: requested once, shared by all routes, renewed before it expires.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use presenceroute_runtime::oauth_token::Grant;
use reqwest::header::HeaderValue;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{GenesysError, Resource};
use crate::rate_limit::Budget;

/// How many token requests a secret may cost in a minute that has not got one yet.
const UNPROVEN_PER_MINUTE: u32 = 60;

/// The token endpoint, which has one operation.
pub(crate) const TOKEN: Resource = Resource {
    name: "an OAuth token",
    path_field: "spec.genesys.api.tokenPath",
    permission: "get tokens by client credentials",
    unsupported: "check spec.genesys.api.tokenPath",
    conflict: "check the OAuth client at Genesys Cloud",
};

/// An access token in use.
pub(crate) struct Token {
    /// The value of the Authorization header.
    pub(crate) authorization: HeaderValue,
    /// The token alone, to be kept out of error texts.
    pub(crate) secret: SecretString,
    generation: u64,
    fresh_until: Instant,
}

/// The token of one OAuth client with one secret, and what it takes to get it.
pub(crate) struct Tokens {
    state: Mutex<State>,
    is_proven: AtomicBool,
    /// What token requests count in until a token proves the secret: a wrong secret uses up nothing of the budget that
    /// the routes with the right one share.
    unproven_budget: Budget,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Token>>,
    generations: u64,
    failure: Option<(Instant, GenesysError)>,
}

impl Tokens {
    pub(crate) fn new(calls_per_minute: u32, longest_wait: Duration) -> Self {
        let unproven_budget = Budget::new(calls_per_minute.min(UNPROVEN_PER_MINUTE), longest_wait);
        Self { state: Mutex::default(), is_proven: AtomicBool::default(), unproven_budget }
    }

    /// The budget for token requests, while no token has proven the secret.
    pub(crate) fn unproven_budget(&self) -> Option<&Budget> {
        (!self.is_proven.load(Ordering::Relaxed)).then_some(&self.unproven_budget)
    }

    /// Whether the server has accepted the secret, as of now. True is returned where this is news.
    pub(crate) fn prove(&self, is_proven: bool) -> bool {
        self.is_proven.swap(is_proven, Ordering::Relaxed) != is_proven
    }

    /// A token that is fresh, and not the one that the server has just rejected. Of callers at the same time one
    /// fetches, and all get its result.
    pub(crate) async fn get(
        &self,
        rejected: Option<&Token>,
        fetch: impl Future<Output = Result<Grant, GenesysError>>,
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
            Ok(grant) => {
                state.generations += 1;
                let token = Arc::new(Token {
                    generation: state.generations,
                    fresh_until: requested + grant.renew_after(),
                    authorization: grant.authorization,
                    secret: grant.access_token,
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
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn failure() -> GenesysError {
        GenesysError::InvalidAccess { problem: "no luck".to_owned() }
    }

    async fn fetch(calls: &AtomicU32) -> Result<Grant, GenesysError> {
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Grant::parse(br#"{"access_token": "token", "expires_in": 1000}"#)
            .unwrap_or_else(|error| panic!("{error}")))
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_at_once_cost_one_request() {
        let (tokens, calls) = (Tokens::new(300, Duration::ZERO), AtomicU32::new(0));
        let asked = (0..50).map(|_| tokens.get(None, fetch(&calls)));
        for token in futures::future::join_all(asked).await {
            token.unwrap();
        }
        assert_eq!(calls.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_waiting_callers_and_not_by_later_ones() {
        let (tokens, calls) = (Tokens::new(300, Duration::ZERO), AtomicU32::new(0));
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
    async fn a_token_is_renewed_at_four_fifths_of_its_lifetime() {
        let (tokens, calls) = (Tokens::new(300, Duration::ZERO), AtomicU32::new(0));
        tokens.get(None, fetch(&calls)).await.unwrap();
        // The fetch took a second, and the lifetime is counted from its beginning.
        tokio::time::sleep(Duration::from_secs(798)).await;
        tokens.get(None, fetch(&calls)).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        tokens.get(None, fetch(&calls)).await.unwrap();
        assert_eq!(calls.into_inner(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_token_is_replaced_once_for_all_callers() {
        let (tokens, calls) = (Tokens::new(300, Duration::ZERO), AtomicU32::new(0));
        let old = tokens.get(None, fetch(&calls)).await.unwrap();
        let asked = (0..50).map(|_| tokens.get(Some(&old), fetch(&calls)));
        for token in futures::future::join_all(asked).await {
            assert_ne!(token.unwrap().generation, old.generation);
        }
        assert_eq!(calls.into_inner(), 2);
    }
}
