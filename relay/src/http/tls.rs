//! TLS handshakes on the port that events are posted to, bounded in time and bytes. Open connections keep the certificate
//! that they began with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use presenceroute_runtime::follow::Reloaded;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, Join, Take, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that a handshake takes from the other side. A client hello has some hundred, and a few thousand with
/// post-quantum keys; rustls itself would buffer 64 KiB of one that never ends.
const HANDSHAKE_BYTES: u64 = 32 << 10;

/// A connection that is read only to a limit until its handshake is over.
pub type HandshakeStream = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

/// Performs TLS handshakes.
#[derive(Clone)]
pub struct Handshakes {
    certificate: watch::Receiver<Reloaded<Certificate>>,
    failures: Counter,
}

impl Handshakes {
    /// Handshakes with the newest usable certificate; those that fail are counted.
    pub fn new(certificate: watch::Receiver<Reloaded<Certificate>>, failures: Counter) -> Self {
        Self { certificate, failures }
    }

    /// The connection after its handshake, or nothing where that failed.
    pub async fn accept(&self, stream: TcpStream) -> Option<Box<TlsStream<HandshakeStream>>> {
        // Boxed, so that a connection without TLS costs no memory for it.
        match Box::pin(self.handshake(stream)).await {
            Ok(stream) => Some(Box::new(stream)),
            Err(error) => {
                // Any client can make it fail: it is counted, and logged only at debug.
                self.failures.inc();
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<HandshakeStream>> {
        let current = self.certificate.borrow().current.clone();
        let Some(certificate) = current else {
            return Err(io::Error::other("no certificate has been loaded; see /status"));
        };
        let acceptor = TlsAcceptor::from(Arc::clone(certificate.config()));
        let (reading, writing) = stream.into_split();
        let limited = join(reading.take(HANDSHAKE_BYTES), writing);
        let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(limited)).await??;
        stream.get_mut().0.reader_mut().set_limit(u64::MAX);
        Ok(stream)
    }
}
