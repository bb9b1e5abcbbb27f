//! The one TLS implementation of the process: rustls with ring.

/// Makes ring the process's crypto provider. The clients of Genesys Cloud and of the Kubernetes API need one before
/// they are built; calling it again does nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
