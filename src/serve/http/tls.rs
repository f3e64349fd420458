//! TLS of the server's side; the only file of `serve` that knows rustls.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rootling_backends::{Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a server shows of itself.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ServerConfig>);

/// A connection that speaks TLS.
pub(super) type TlsStream = StreamOwned<ServerConnection, TcpStream>;

impl Tls {
    /// Reads a certificate with its chain and its key, both in PEM.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let invalid = |path: &Path, error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidInput, format!("read {path:?}: {error}"))
        };
        let chain =
            CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| invalid(certificate, &error))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid(key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.and_then(|config| config.with_no_client_auth().with_single_cert(chain, secret));
        let mut config = config.map_err(|error| invalid(certificate, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Returns a connection to speak TLS on; the client is heard with the first read.
    pub(super) fn on(&self, stream: TcpStream) -> std::io::Result<TlsStream> {
        let connection = ServerConnection::new(self.0.clone()).map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// Says that nothing follows: else the client could not tell it from a cut.
pub(super) fn say_end(stream: &mut TlsStream) {
    stream.conn.send_close_notify();
    // Best effort: it may be gone already.
    drop(stream.flush());
}
