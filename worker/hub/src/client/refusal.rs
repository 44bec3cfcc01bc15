//! What an answer that is no success means.

use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::Trouble;
use crate::error::HubError;

/// Of which repository something was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) repository: &'a str,
    pub(crate) revision: &'a str,
}

pub(super) struct Refusal<'a> {
    endpoint: &'a str,
    asked: &'a Asked<'a>,
    with_token: bool,
}

pub(super) fn refusal<'a>(
    endpoint: &'a str,
    asked: &'a Asked<'a>,
    with_token: bool,
) -> Refusal<'a> {
    Refusal {
        endpoint,
        asked,
        with_token,
    }
}

impl Refusal<'_> {
    /// The hub names its reason in a header. To those without a token it says of
    /// private and of missing models alike that they are not authorised.
    pub(super) fn of(&self, response: &Response<Body>, url: &str) -> Trouble {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let status = response.status();
        let message = header("x-error-message").unwrap_or_default();
        let code = header("x-error-code").unwrap_or_default();
        if is_passing(status) {
            return Trouble::Passing(format!("{status} {message}").trim_end().to_owned());
        }
        let bad_token = self.with_token && message.contains("Invalid credentials");
        let endpoint = self.endpoint.to_owned();
        let name = self.asked.repository.to_owned();
        Trouble::Final(match (code, status) {
            ("GatedRepo", _) if self.with_token => HubError::NoAccess { endpoint, name },
            ("GatedRepo", _) => HubError::Gated { endpoint, name },
            ("RevisionNotFound", _) => HubError::NoRevision {
                name,
                revision: self.asked.revision.to_owned(),
            },
            (_, StatusCode::UNAUTHORIZED) if bad_token => HubError::BadToken { endpoint },
            ("RepoNotFound", _) | ("", StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND) => {
                HubError::NoModel { endpoint, name }
            }
            _ => HubError::Refused {
                url: url.to_owned(),
                reason: format!("{status} {code} {message}").trim_end().to_owned(),
            },
        })
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}
