//! HTTP clients of the relay, for the servers that it calls itself.

use std::time::Duration;

use presenceroute_runtime::tls_provider::install_crypto_provider;
use reqwest::{Certificate, redirect};

/// How long a server may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// A client for `url`, which trusts this CA, or those of the system.
pub(crate) fn client(ca_pem: Option<&str>, url: &str) -> reqwest::Result<reqwest::Client> {
    builder(ca_pem, url).timeout(TIMEOUT).build()
}

/// The same, still without bounds of time.
pub(crate) fn builder(ca_pem: Option<&str>, url: &str) -> reqwest::ClientBuilder {
    install_crypto_provider();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("presenceroute-relay/", env!("CARGO_PKG_VERSION")))
        // A redirect would carry the credentials elsewhere.
        .redirect(redirect::Policy::none());
    match ca_pem {
        Some(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default()),
        None if url.starts_with("http:") => builder.tls_certs_only([]),
        None => builder,
    }
}

/// The innermost cause; those around it repeat the URL.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.is_timeout() { "it does not answer in time".into() } else { innermost.to_string() }
}
