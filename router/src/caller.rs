//! What is particular to one call: its id, and what its client wants to be told
//! of the way it took.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::cluster::Explanation;
use crate::dispatch::Planned;
use crate::http::RequestId;

/// Set by a client to `1`, answered with the plan as JSON.
static EXPLAIN: HeaderName = HeaderName::from_static("x-kvasir-explain");
/// In every reply: the workers of the request's first sequence, as planned.
static DECODE_WORKER: HeaderName = HeaderName::from_static("x-kvasir-decode-worker");
static PREFILL_WORKER: HeaderName = HeaderName::from_static("x-kvasir-prefill-worker");

#[derive(Clone, Debug)]
pub struct Caller {
    pub request_id: Arc<str>,
    wants_explanation: bool,
    placed: Option<Arc<Explanation>>,
}

impl Caller {
    pub fn of(request: &Request) -> Caller {
        let id = request.extensions().get::<RequestId>().cloned();
        let id = id.unwrap_or_else(|| RequestId::from_headers(request.headers()));
        Caller {
            wants_explanation: wants_explanation(request.headers()),
            ..Caller::named(id)
        }
    }

    /// A call that wants no explanation.
    pub fn named(id: RequestId) -> Caller {
        Caller {
            request_id: id.0,
            wants_explanation: false,
            placed: None,
        }
    }

    /// Its first sequence was planned.
    pub fn placed(&mut self, planned: &[Planned]) {
        self.placed = planned
            .first()
            .map(|first| first.booking.explanation.clone());
    }

    /// Adds to `response` what the client wants to know.
    pub fn told(&self, mut response: Response) -> Response {
        let Some(explanation) = &self.placed else {
            return response;
        };
        let headers = response.headers_mut();
        let mut tell = |name: &HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name.clone(), value);
            }
        };
        tell(&DECODE_WORKER, &explanation.decode);
        if let Some(prefill) = &explanation.prefill {
            tell(&PREFILL_WORKER, prefill);
        }
        if self.wants_explanation {
            let json = serde_json::to_string(&**explanation).unwrap_or_default();
            tell(&EXPLAIN, &json);
        }
        response
    }
}

fn wants_explanation(headers: &HeaderMap) -> bool {
    let asked = headers.get(&EXPLAIN).map(HeaderValue::as_bytes);
    matches!(asked, Some(b"1" | b"true"))
}
