//! One etcd server at a time, the next one after each failure; every call has a
//! time limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::backoff::random;
use super::{Config, EtcdError};

/// Why etcd is taken for away.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{url}: {source}")]
    Connect {
        url: String,
        source: tonic::transport::Error,
    },
    #[error(transparent)]
    Refused(#[from] etcd_client::Error),
    #[error(transparent)]
    Config(#[from] EtcdError),
    #[error("it ended the watch: {0}")]
    Ended(String),
    #[error("what happened meanwhile was compacted away")]
    Compacted,
    #[error("the lease is lost")]
    LeaseLost,
}

/// The servers of one etcd cluster.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    config: Config,
    next: usize,
}

/// A connection to one server.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    url: String,
    timeout: Duration,
}

impl Servers {
    /// Begins anywhere, so that a fleet spreads over the servers.
    pub(super) fn new(config: &Config) -> Result<Servers, EtcdError> {
        for url in &config.etcd {
            endpoint(config, url)?;
        }
        credentials(config)?;
        let count = config.etcd.len();
        Ok(Servers {
            config: config.clone(),
            next: (random() * count as f64) as usize,
        })
    }

    /// Connects to the next server.
    pub(super) async fn connect(&mut self) -> Result<Connection, Failure> {
        self.next = (self.next + 1) % self.config.etcd.len().max(1);
        let url = self.config.etcd.get(self.next).cloned().unwrap_or_default();
        let timeout = self.config.etcd_timeout.0;
        let options = match credentials(&self.config)? {
            Some((user, password)) => ConnectOptions::new().with_user(user, password),
            None => ConnectOptions::new(),
        };
        // A member without a leader must say so rather than stay silent.
        let options = options.with_require_leader(true);
        let endpoint = endpoint(&self.config, &url)?;
        let connect = async {
            let channel = endpoint
                .connect()
                .await
                .map_err(|source| Failure::Connect {
                    url: url.clone(),
                    source,
                })?;
            let client = Client::from_channel(Channel::Tonic(channel), Some(options));
            Ok::<_, Failure>(client.await?)
        };
        let client = tokio::time::timeout(timeout, connect)
            .await
            .map_err(|_| Failure::Silent(url.clone()))??;
        Ok(Connection {
            client,
            url,
            timeout,
        })
    }
}

impl Connection {
    /// The answer to a call, if it comes in time.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(self.timeout, call).await;
        Ok(answer.map_err(|_| self.silent())??)
    }

    pub(super) fn silent(&self) -> Failure {
        Failure::Silent(self.url.clone())
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn credentials(config: &Config) -> Result<Option<(String, String)>, EtcdError> {
    let (Some(user), Some(path)) = (&config.etcd_user, &config.etcd_password_file) else {
        return Ok(None);
    };
    let password = read("--etcd-password-file", path)?;
    let password = String::from_utf8_lossy(&password);
    Ok(Some((user.clone(), password.trim_end().to_owned())))
}

fn endpoint(config: &Config, url: &str) -> Result<Endpoint, EtcdError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| EtcdError::Url {
        url: url.to_owned(),
        reason: error.to_string(),
    })?;
    let endpoint = endpoint
        .connect_timeout(config.etcd_timeout.0)
        .tcp_nodelay(true);
    if !url.starts_with("https:") {
        return Ok(endpoint);
    }
    endpoint
        .tls_config(tls(config)?)
        .map_err(|error| EtcdError::Tls {
            url: url.to_owned(),
            reason: error.to_string(),
        })
}

fn tls(config: &Config) -> Result<ClientTlsConfig, EtcdError> {
    let mut tls = ClientTlsConfig::new();
    if let Some(path) = &config.etcd_ca {
        tls = tls.ca_certificate(Certificate::from_pem(read("--etcd-ca", path)?));
    }
    if let (Some(certificate), Some(key)) = (&config.etcd_cert, &config.etcd_key) {
        let certificate = read("--etcd-cert", certificate)?;
        let key = read("--etcd-key", key)?;
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|source| EtcdError::File {
        flag,
        path: PathBuf::from(path),
        source,
    })
}
