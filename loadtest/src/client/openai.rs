//! An OpenAI-compatible server whose address is known.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde::Deserialize;

use super::connection::Connection;
use super::endpoint::look_up;
use super::request_body::Route;
use super::tls::{self, Tls};
use super::{Encoded, Target, TargetError};

#[derive(Debug)]
pub struct OpenAi {
    addresses: Vec<SocketAddr>,
    tls: Option<Tls>,
    url: String,
    model: String,
    /// The path before `/v1`.
    base: String,
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

impl OpenAi {
    pub(super) async fn resolve(target: &Target) -> Result<OpenAi, TargetError> {
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
        Ok(OpenAi {
            addresses: look_up(host, authority.port_u16().unwrap_or(default_port)).await?,
            tls: tls.transpose()?,
            url: target.url.clone(),
            model: target.model.clone(),
            base: path.to_owned(),
            chat: at("chat/completions")?,
            completions: at("completions")?,
            models: at("models")?,
            headers: parse_headers(target, authority.as_str())?,
            tenant_header: tenant_header.transpose()?,
        })
    }

    /// Asks for the list of models: whether the server is there, knows the key
    /// and serves the model. A server that has no such list passes.
    pub(super) async fn probe(&self) -> Result<(), TargetError> {
        let mut connection = self.opened().await?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.models.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().remove(header::CONTENT_TYPE);
        let (status, bytes) = self.answer(&mut connection, request).await?;
        if status != 200 {
            return Ok(());
        }
        self.check_served(&bytes)
    }

    /// Sends one JSON body to `path`; status and body of the answer.
    pub(super) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), TargetError> {
        let uri = format!("{}{path}", self.base).parse();
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.map_err(|_| TargetError::Url(self.url.clone()))?;
        *request.headers_mut() = self.headers.clone();
        let mut connection = self.opened().await?;
        self.answer(&mut connection, request).await
    }

    async fn opened(&self) -> Result<Connection, TargetError> {
        let opened = self.connect(0).await;
        opened.map_err(|error| match tls::is_of_tls(&error) {
            true => TargetError::Tls {
                url: self.url.clone(),
                reason: error.to_string(),
            },
            false => self.unreachable(&error),
        })
    }

    /// Status and body of the answer to `request`.
    async fn answer(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, Vec<u8>), TargetError> {
        let response = connection.send(request).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        if matches!(status, 401 | 403) {
            let url = self.url.clone();
            return Err(TargetError::Key { url, status });
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = connection.frame(&mut body).await {
            let frame = frame.map_err(|error| self.unreachable(&error))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |it| &it[..]));
        }
        Ok((status, bytes))
    }

    fn unreachable(&self, error: &impl ToString) -> TargetError {
        TargetError::Unreachable {
            url: self.url.clone(),
            reason: error.to_string(),
        }
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
            Route::Completions | Route::Generate => self.completions.clone(),
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

fn parse_headers(target: &Target, authority: &str) -> Result<HeaderMap, TargetError> {
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
    if let Some(key) = &target.api_key {
        insert("authorization", &format!("Bearer {key}"), "the API key")?;
    }
    for (name, value) in &target.headers {
        insert(name, value, name)?;
    }
    for (tenant, key) in &target.tenant_keys {
        let named = format!("the API key of tenant {tenant}");
        HeaderValue::from_str(key).map_err(|_| TargetError::Header(named))?;
    }
    Ok(headers)
}
