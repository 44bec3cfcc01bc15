//! What is particular to one call: its id, and what its client wants to be told
//! of the way it took.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::cluster::Explanation;
use crate::dispatch::Planned;
use crate::http::RequestId;
use crate::objectives::Objectives;
use crate::sequence::Origin;

/// Set by a client to `1`, answered with the plan as JSON.
static EXPLAIN: HeaderName = HeaderName::from_static("x-kvasir-explain");
/// Names the session a request belongs to: requests of one go to one worker as
/// far as the policy minds sessions.
static SESSION: HeaderName = HeaderName::from_static("x-session-id");
/// In every reply: the workers of the request's first sequence, as planned.
static DECODE_WORKER: HeaderName = HeaderName::from_static("x-kvasir-decode-worker");
static PREFILL_WORKER: HeaderName = HeaderName::from_static("x-kvasir-prefill-worker");

#[derive(Clone, Debug)]
pub struct Caller {
    pub request_id: Arc<str>,
    wants_explanation: bool,
    session: Option<u64>,
    placed: Option<Placed>,
}

/// Where its first sequence runs.
#[derive(Clone, Debug)]
struct Placed {
    decode: Arc<str>,
    prefill: Option<Arc<str>>,
    explanation: Option<Arc<Explanation>>,
}

impl Caller {
    pub fn of(request: &Request) -> Caller {
        let headers = request.headers();
        let id = request.extensions().get::<RequestId>().cloned();
        let id = id.unwrap_or_else(|| RequestId::from_headers(headers));
        Caller {
            wants_explanation: wants_explanation(headers),
            session: session(headers),
            ..Caller::named(id)
        }
    }

    /// A call that wants nothing in particular.
    pub fn named(id: RequestId) -> Caller {
        Caller {
            request_id: id.0,
            wants_explanation: false,
            session: None,
            placed: None,
        }
    }

    /// What the sequences of its request have in common.
    pub fn origin(&self, objectives: Arc<Objectives>) -> Origin {
        Origin {
            request_id: self.request_id.clone(),
            objectives,
            session: self.session,
            is_explained: self.wants_explanation,
        }
    }

    /// Its first sequence was planned.
    pub fn placed(&mut self, planned: &[Planned]) {
        self.placed = planned.first().map(|first| Placed {
            decode: first.booking.decode.id.clone(),
            prefill: first.booking.prefill.as_ref().map(|it| it.id.clone()),
            explanation: first.booking.explanation.clone(),
        });
    }

    /// Adds to `response` what the client wants to know.
    pub fn told(&self, mut response: Response) -> Response {
        let Some(placed) = &self.placed else {
            return response;
        };
        let headers = response.headers_mut();
        let mut tell = |name: &HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name.clone(), value);
            }
        };
        tell(&DECODE_WORKER, &placed.decode);
        if let Some(prefill) = &placed.prefill {
            tell(&PREFILL_WORKER, prefill);
        }
        if let Some(explanation) = &placed.explanation {
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

/// The session, as a number that stands for its name.
fn session(headers: &HeaderMap) -> Option<u64> {
    let name = headers.get(&SESSION).filter(|name| !name.is_empty())?;
    let hash = blake3::hash(name.as_bytes());
    let (number, _) = hash.as_bytes().split_first_chunk()?;
    Some(u64::from_le_bytes(*number))
}
