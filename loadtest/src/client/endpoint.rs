//! Where requests go: a URL, resolved and tried before a run starts.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde::Deserialize;

use super::Encoded;
use super::connection::Connection;
use super::request_body::Route;
use super::tls::{self, Tls};

/// An OpenAI-compatible server, and how requests to it look.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://host:port` or `https://host`, with or without a path and `/v1`.
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
    #[error("{0} is not a URL: write it as http://host:port or https://host")]
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
pub struct Endpoint {
    addresses: Vec<SocketAddr>,
    tls: Option<Tls>,
    url: String,
    model: String,
    chat: Uri,
    completions: Uri,
    models: Uri,
    headers: HeaderMap,
    tenant_header: Option<HeaderName>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ServedModel>,
}

#[derive(Deserialize)]
struct ServedModel {
    id: String,
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

    fn parse_headers(&self, authority: &str) -> Result<HeaderMap, TargetError> {
        let mut headers = HeaderMap::new();
        let mut insert = |name: &str, value: &str, shown: &str| {
            let wrong = || TargetError::Header(shown.to_owned());
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            headers.insert(name, value);
            Ok(())
        };
        insert("host", authority, authority)?;
        insert("content-type", "application/json", "content-type")?;
        if let Some(key) = &self.api_key {
            insert("authorization", &format!("Bearer {key}"), "the API key")?;
        }
        for (name, value) in &self.headers {
            insert(name, value, name)?;
        }
        for (tenant, key) in &self.tenant_keys {
            let named = format!("the API key of tenant {tenant}");
            HeaderValue::from_str(key).map_err(|_| TargetError::Header(named))?;
        }
        Ok(headers)
    }
}

impl Endpoint {
    pub async fn resolve(target: &Target) -> Result<Endpoint, TargetError> {
        let wrong = || TargetError::Url(target.url.clone());
        let uri: Uri = target.url.trim().parse().map_err(|_| wrong())?;
        let default_port = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => 80,
            Some(scheme) if *scheme == Scheme::HTTPS => 443,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path);
        let at = |route: &str| format!("{path}/v1/{route}").parse().map_err(|_| wrong());
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let tenant_header = target.tenant_header.as_deref().map(|name| {
            let name = name.parse::<HeaderName>();
            name.map_err(|_| TargetError::Header(target.tenant_header.clone().unwrap_or_default()))
        });
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| Tls::new(host, target.ca_cert.as_deref()));
        Ok(Endpoint {
            addresses: look_up(host, authority.port_u16().unwrap_or(default_port)).await?,
            tls: tls.transpose()?,
            url: target.url.clone(),
            model: target.model.clone(),
            chat: at("chat/completions")?,
            completions: at("completions")?,
            models: at("models")?,
            headers: target.parse_headers(authority.as_str())?,
            tenant_header: tenant_header.transpose()?,
        })
    }

    /// Asks for the list of models: whether the server is there, knows the key
    /// and serves the model. A server that has no such list passes.
    pub async fn probe(&self) -> Result<(), TargetError> {
        let unreachable = |reason: String| TargetError::Unreachable {
            url: self.url.clone(),
            reason,
        };
        let opened = self.connect(0).await;
        let mut connection = opened.map_err(|error| match tls::is_of_tls(&error) {
            true => TargetError::Tls {
                url: self.url.clone(),
                reason: error.to_string(),
            },
            false => unreachable(error.to_string()),
        })?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.models.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().remove(header::CONTENT_TYPE);
        let response = connection.send(request).await;
        let response = response.map_err(|error| unreachable(error.to_string()))?;
        let status = response.status().as_u16();
        if matches!(status, 401 | 403) {
            let url = self.url.clone();
            return Err(TargetError::Key { url, status });
        }
        if status != 200 {
            return Ok(());
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = connection.frame(&mut body).await {
            let frame = frame.map_err(|error| unreachable(error.to_string()))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |it| &it[..]));
        }
        self.check_served(&bytes)
    }

    fn check_served(&self, list: &[u8]) -> Result<(), TargetError> {
        let Ok(list) = serde_json::from_slice::<ModelList>(list) else {
            return Ok(());
        };
        let names: Vec<String> = list.data.into_iter().map(|it| it.id).collect();
        if names.is_empty() || names.contains(&self.model) {
            return Ok(());
        }
        Err(TargetError::Model {
            url: self.url.clone(),
            model: self.model.clone(),
            served: names.join(", "),
        })
    }

    /// The `number`th connection.
    pub(super) async fn connect(&self, number: usize) -> io::Result<Connection> {
        Connection::open(&self.addresses, number, self.tls.as_ref()).await
    }

    pub(super) fn message(&self, request: &Encoded) -> Request<Full<Bytes>> {
        let mut message = Request::new(Full::new(request.body.clone()));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = match request.route {
            Route::Chat => self.chat.clone(),
            Route::Completions => self.completions.clone(),
        };
        *message.headers_mut() = self.headers.clone();
        if let (Some(name), Some(tenant)) = (&self.tenant_header, &request.tenant) {
            message.headers_mut().insert(name.clone(), tenant.clone());
        }
        if let Some(key) = &request.authorization {
            let headers = message.headers_mut();
            headers.insert(header::AUTHORIZATION, key.clone());
        }
        message
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, TargetError> {
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
