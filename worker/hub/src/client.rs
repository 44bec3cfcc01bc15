//! The hub's HTTP API: what a repository has, and its files' tags and bytes.

mod patience;
mod refusal;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE,
};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use crate::cache::{is_commit, is_inside};
use crate::error::HubError;
use crate::settings::{Settings, Token};
pub(crate) use patience::Patience;
pub(crate) use refusal::Asked;

const CONNECT: Duration = Duration::from_secs(10);
/// To another name of the repository, one after another.
const MOST_REDIRECTS: usize = 5;
/// Of a list of files.
const LONGEST_ANSWER: u64 = 64 << 20;

/// What needs no escape in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    pause: Duration,
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go better the next time.
    Passing(String),
    Final(HubError),
}

/// What a repository is at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: BTreeSet<String>,
}

/// A file of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) url: String,
    /// Names the content.
    pub(crate) tag: String,
    pub(crate) size: Option<u64>,
}

/// A file's bytes from some place on.
pub(crate) struct Bytes {
    pub(crate) start: u64,
    pub(crate) reader: Box<dyn Read>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Client, HubError> {
        let roots = match &settings.authority {
            Some(path) => certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .proxy(settings.proxy.clone())
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(settings.silence))
            .timeout_per_read(Some(settings.silence))
            .user_agent(concat!("kvasir/", env!("CARGO_PKG_VERSION")));
        Ok(Client {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token(),
            pause: settings.pause,
        })
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.pause)
    }

    pub(crate) fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable {
            endpoint: self.endpoint.clone(),
            reason,
        }
    }

    /// What the repository is at this branch, tag or commit.
    pub(crate) fn listing(&self, asked: &Asked<'_>) -> Result<Listing, Trouble> {
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.endpoint,
            asked.repository,
            escaped(asked.revision)
        );
        let response = self.call(self.request(self.agent.get(&url)))?;
        let response = self.accepted(response, &url, asked)?;
        let body = response.into_body().into_with_config();
        let body = body.limit(LONGEST_ANSWER).read_to_vec().map_err(passing)?;
        let malformed = |reason: String| {
            let url = url.clone();
            Trouble::Final(HubError::Malformed { url, reason })
        };
        let info: Info =
            serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(malformed(format!("{:?} is no commit", info.sha)));
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Listing {
            commit: info.sha,
            files: files.filter(|name| is_inside(name)).collect(),
        })
    }

    /// What a file is, without its bytes. The hub says it before it sends the
    /// caller elsewhere for them.
    pub(crate) fn stat(&self, asked: &Asked<'_>, file: &str) -> Result<Remote, Trouble> {
        let path: Vec<_> = file.split('/').map(escaped).collect();
        let mut url = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            asked.repository,
            escaped(asked.revision),
            path.join("/")
        );
        let mut response = self.head(&url)?;
        for _ in 0..MOST_REDIRECTS {
            match moved(&response) {
                Some(place) => url = format!("{}{place}", self.endpoint),
                None => break,
            }
            response = self.head(&url)?;
        }
        if !response.status().is_redirection() {
            response = self.accepted(response, &url, asked)?;
        }
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let tag = header("x-linked-etag").or_else(|| header(ETAG.as_str()));
        let tag = tag.unwrap_or_default().trim_start_matches("W/");
        let tag = tag.trim_matches('"').to_owned();
        // It becomes a file's name.
        if !is_inside(&tag) || tag.contains('/') {
            let reason = format!("{tag:?} is no ETag");
            return Err(Trouble::Final(HubError::Malformed { url, reason }));
        }
        let length = || match response.status().is_redirection() {
            true => None,
            false => header(CONTENT_LENGTH.as_str()),
        };
        let size = header("x-linked-size").or_else(length);
        Ok(Remote {
            size: size.and_then(|size| size.parse().ok()),
            tag,
            url,
        })
    }

    /// The bytes from `start` on, or all if the server knows no ranges.
    pub(crate) fn bytes(&self, asked: &Asked<'_>, url: &str, start: u64) -> Result<Bytes, Trouble> {
        let mut request = self.request(self.agent.get(url));
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let response = self.call(request)?;
        if start > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return self.bytes(asked, url, 0);
        }
        let response = self.accepted(response, url, asked)?;
        let start =
            match response.status() {
                StatusCode::PARTIAL_CONTENT => range_start(&response)
                    .filter(|found| *found <= start)
                    .ok_or_else(|| Trouble::Passing("it sent another range".to_owned()))?,
                _ => 0,
            };
        let reader = Box::new(response.into_body().into_reader());
        Ok(Bytes { start, reader })
    }

    fn head(&self, url: &str) -> Result<Response<Body>, Trouble> {
        let request = self.agent.head(url).config().max_redirects(0);
        let request = request.max_redirects_will_error(false).build();
        self.call(self.request(request))
    }

    fn request(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        // Sizes are those of the files.
        let request = request.header(ACCEPT_ENCODING, "identity");
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {}", token.secret())),
            None => request,
        }
    }

    fn call(&self, request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Trouble> {
        request.call().map_err(passing)
    }

    fn accepted(
        &self,
        response: Response<Body>,
        url: &str,
        asked: &Asked<'_>,
    ) -> Result<Response<Body>, Trouble> {
        if response.status().is_success() {
            return Ok(response);
        }
        let with_token = self.token.is_some();
        Err(refusal::refusal(&self.endpoint, asked, with_token).of(&response, url))
    }
}

fn passing(error: ureq::Error) -> Trouble {
    Trouble::Passing(error.to_string())
}

fn escaped(part: &str) -> String {
    utf8_percent_encode(part, PLAIN).to_string()
}

/// Where the repository is now, if it has another name by now.
fn moved(response: &Response<Body>) -> Option<String> {
    let place = response.headers().get(LOCATION)?.to_str().ok()?;
    let here = place.starts_with('/') && !place.starts_with("//");
    (response.status().is_redirection() && here).then(|| place.to_owned())
}

fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

fn certificates(path: &Path) -> Result<RootCerts, HubError> {
    let wrong = |reason: String| HubError::Authority {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(one) = item.map_err(|error| wrong(error.to_string()))? {
            certificates.push(one);
        }
    }
    match certificates.is_empty() {
        true => Err(wrong("it has none".to_owned())),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
