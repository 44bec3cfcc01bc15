//! Every request has an id: the client's own if it is sane, else a new one. It
//! is in every response, in the reply's `id` and in the logs of all parts.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_LENGTH: usize = 128;

/// The id of a request, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The id that a client gave, or a new one.
    pub fn from_headers(headers: &HeaderMap) -> RequestId {
        let given = headers.get(&X_REQUEST_ID).and_then(|id| id.to_str().ok());
        RequestId::given(given)
    }

    /// `id` if it is 1 to 128 visible ASCII characters, else a new one.
    pub fn given(id: Option<&str>) -> RequestId {
        let sane = |id: &&str| {
            (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match id.filter(sane) {
            Some(id) => RequestId(Arc::from(id)),
            None => RequestId(Arc::from(Uuid::new_v4().simple().to_string())),
        }
    }
}

/// Middleware: names the request, and its response likewise.
pub async fn name_request(mut request: Request, next: Next) -> Response {
    let id = RequestId::from_headers(request.headers());
    // Only visible ASCII characters are in it.
    let header = HeaderValue::from_str(&id.0).ok();
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    if let Some(header) = header {
        response.headers_mut().insert(X_REQUEST_ID.clone(), header);
    }
    response
}
