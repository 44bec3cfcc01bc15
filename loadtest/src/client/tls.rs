//! TLS to a server whose certificate is checked: against the public
//! authorities, or one that is named.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

use super::TargetError;

#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// For a server of this name or address; `authority`: a PEM file with the
    /// certificates to trust in place of the public ones.
    pub(super) fn new(host: &str, authority: Option<&Path>) -> Result<Tls, TargetError> {
        let server = ServerName::try_from(host.to_owned());
        let server = server.map_err(|_| TargetError::Url(host.to_owned()))?;
        let mut roots = RootCertStore::empty();
        match authority {
            Some(path) => trust(&mut roots, path)?,
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of TLS 1.2 and 1.3");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            server,
        })
    }

    pub(super) async fn connect<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connector.connect(self.server.clone(), stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.server).finish()
    }
}

/// Whether it is TLS that failed, and not the connection below.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|it| it.is::<Error>())
}

fn trust(roots: &mut RootCertStore, path: &Path) -> Result<(), TargetError> {
    let wrong = |reason: String| TargetError::Authority {
        path: path.display().to_string(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|it| wrong(it.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|it| wrong(it.to_string()))?;
        roots.add(certificate).map_err(|it| wrong(it.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(wrong("it has none".to_owned())),
        false => Ok(()),
    }
}
