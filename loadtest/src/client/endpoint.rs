//! Where requests go: a URL, resolved and tried before a run starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::openai::OpenAi;
use super::worker::Worker;

/// A server, and how requests to it look.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://host:port` or `https://host`, with or without a path and `/v1`;
    /// `grpc://host:port`, or several after a comma each, are workers of a Kvasir
    /// cluster, without their router.
    pub url: String,
    pub model: String,
    pub api_key: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Names a request's tenant, if it has one.
    pub tenant_header: Option<String>,
    /// API keys of tenants; the requests of others have `api_key`.
    pub tenant_keys: BTreeMap<String, String>,
    /// Certificates to trust in place of the public authorities', in PEM.
    pub ca_cert: Option<PathBuf>,
    /// Answers are to be streamed.
    pub stream: bool,
    /// Further members of every body.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
}

/// Why a target can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0} is not a URL: write it as http://host:port, https://host or grpc://host:port")]
    Url(String),
    #[error("{path} can't be used as an authority's certificates ({reason}): give a PEM file")]
    Authority { path: String, reason: String },
    #[error(
        "{url}: no TLS connection can be made ({reason}): name the certificate of its authority \
         with --ca-cert, or use http://"
    )]
    Tls { url: String, reason: String },
    #[error("{0} is not a valid header: names and values are ASCII")]
    Header(String),
    #[error("{host} can't be resolved ({reason}): check the URL")]
    Resolve { host: String, reason: String },
    #[error("{url} can't be reached ({reason}): check that the server runs and listens there")]
    Unreachable { url: String, reason: String },
    #[error("{url} refuses the API key (status {status}): give one that it knows")]
    Key { url: String, status: u16 },
    #[error("{url} serves no model {model}; it serves {served}")]
    Model {
        url: String,
        model: String,
        served: String,
    },
}

/// A target whose address is known.
#[derive(Debug)]
pub enum Endpoint {
    OpenAi(Box<OpenAi>),
    Worker(Worker),
}

impl Target {
    /// Streams, with no key and no headers.
    pub fn new(url: &str, model: &str) -> Target {
        Target {
            url: url.to_owned(),
            model: model.to_owned(),
            api_key: None,
            headers: Vec::new(),
            tenant_header: None,
            tenant_keys: BTreeMap::new(),
            ca_cert: None,
            stream: true,
            extra_body: serde_json::Map::new(),
        }
    }

    /// It is a worker, which takes token ids and nothing else.
    pub fn is_worker(&self) -> bool {
        self.url.trim().starts_with("grpc://")
    }
}

impl Endpoint {
    pub async fn resolve(target: &Target) -> Result<Endpoint, TargetError> {
        Ok(match target.is_worker() {
            true => Endpoint::Worker(Worker::resolve(target).await?),
            false => Endpoint::OpenAi(Box::new(OpenAi::resolve(target).await?)),
        })
    }

    /// Whether the server is there, knows the key and serves the model.
    pub async fn probe(&self) -> Result<(), TargetError> {
        match self {
            Endpoint::OpenAi(server) => server.probe().await,
            Endpoint::Worker(worker) => worker.probe().await,
        }
    }

    /// Sends one JSON body to `path` of a server that speaks HTTP; status and
    /// body of the answer.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), TargetError> {
        match self {
            Endpoint::OpenAi(server) => server.post(path, body).await,
            Endpoint::Worker(worker) => Err(TargetError::Url(worker.url().to_owned())),
        }
    }
}

/// Addresses of a host; at least one.
pub(super) async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, TargetError> {
    let unresolved = |reason: String| TargetError::Resolve {
        host: host.to_owned(),
        reason,
    };
    let found = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<_> = found
        .map_err(|error| unresolved(error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(unresolved("it has no address".to_owned()));
    }
    Ok(addresses)
}
