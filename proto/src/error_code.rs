//! The closed list of what can go wrong with a request, mapped once to HTTP and
//! once to gRPC.

use http::StatusCode;
use tonic::Code;

/// Who caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The request itself; sending it again unchanged is pointless.
    Client,
    /// The router, or the state of the cluster as it sees it.
    Router,
    /// One worker; another may succeed.
    Worker,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident: $text:literal, $source:ident, $status:ident, $grpc:ident, $kind:literal, retry $retry:literal;)*) => {
        /// What went wrong with a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// Stable name: the `code` of OpenAI's error object and the
            /// `kvasir-error` metadata of a gRPC status.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// Who caused it.
            pub fn source(self) -> Source {
                match self { $(ErrorCode::$name => Source::$source,)* }
            }

            /// The HTTP status it is answered with.
            pub fn http_status(self) -> StatusCode {
                match self { $(ErrorCode::$name => StatusCode::$status,)* }
            }

            /// The gRPC code it is answered with.
            pub fn grpc_code(self) -> Code {
                match self { $(ErrorCode::$name => Code::$grpc,)* }
            }

            /// The `type` of OpenAI's error object.
            pub fn openai_type(self) -> &'static str {
                match self { $(ErrorCode::$name => $kind,)* }
            }

            /// Whether the router may try the request again on another worker.
            pub fn may_retry(self) -> bool {
                match self { $(ErrorCode::$name => $retry,)* }
            }

            /// The code of that name.
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $($text => Some(ErrorCode::$name),)* _ => None }
            }
        }
    };
}

error_codes! {
    /// The body is not JSON, or a field has the wrong type or value.
    InvalidRequest: "invalid_request", Client, BAD_REQUEST, InvalidArgument, "invalid_request_error", retry false;
    /// Prompt and requested completion do not fit into the model's context.
    ContextLengthExceeded: "context_length_exceeded", Client, BAD_REQUEST, InvalidArgument, "invalid_request_error", retry false;
    /// A schema, expression or grammar is malformed, impossible or too large.
    InvalidConstraint: "invalid_constraint", Client, BAD_REQUEST, InvalidArgument, "invalid_request_error", retry false;
    /// A valid OpenAI option that this cluster does not have.
    Unsupported: "unsupported", Client, BAD_REQUEST, Unimplemented, "invalid_request_error", retry false;
    /// No worker serves the named model.
    ModelNotFound: "model_not_found", Client, NOT_FOUND, NotFound, "invalid_request_error", retry false;
    /// No such path.
    NotFound: "not_found", Client, NOT_FOUND, Unimplemented, "invalid_request_error", retry false;
    /// The path exists, but not with this method.
    MethodNotAllowed: "method_not_allowed", Client, METHOD_NOT_ALLOWED, Unimplemented, "invalid_request_error", retry false;
    /// The body is larger than the router accepts.
    BodyTooLarge: "body_too_large", Client, PAYLOAD_TOO_LARGE, ResourceExhausted, "invalid_request_error", retry false;
    /// The body is not `application/json`.
    UnsupportedMediaType: "unsupported_media_type", Client, UNSUPPORTED_MEDIA_TYPE, InvalidArgument, "invalid_request_error", retry false;
    /// The client went away.
    Cancelled: "cancelled", Client, REQUEST_TIMEOUT, Cancelled, "cancelled", retry false;
    /// The admission queue is full, or the wait in it too long.
    Overloaded: "overloaded", Router, TOO_MANY_REQUESTS, ResourceExhausted, "rate_limit_error", retry false;
    /// The router or worker is shutting down.
    ShuttingDown: "shutting_down", Worker, SERVICE_UNAVAILABLE, Unavailable, "service_unavailable_error", retry true;
    /// A worker's model is still loading.
    NotReady: "not_ready", Worker, SERVICE_UNAVAILABLE, Unavailable, "service_unavailable_error", retry true;
    /// No worker that could serve the request is reachable.
    NoWorker: "no_worker", Router, SERVICE_UNAVAILABLE, Unavailable, "service_unavailable_error", retry false;
    /// The request's time limit passed.
    DeadlineExceeded: "deadline_exceeded", Router, GATEWAY_TIMEOUT, DeadlineExceeded, "timeout_error", retry false;
    /// A worker takes no more sequences now.
    WorkerBusy: "worker_busy", Worker, SERVICE_UNAVAILABLE, ResourceExhausted, "service_unavailable_error", retry true;
    /// A worker can't be reached or its connection broke.
    WorkerLost: "worker_lost", Worker, BAD_GATEWAY, Unavailable, "service_unavailable_error", retry true;
    /// A KV ticket is unknown, used up or expired.
    TicketGone: "ticket_gone", Worker, BAD_GATEWAY, NotFound, "internal_error", retry true;
    /// A worker's device or engine failed.
    EngineFailed: "engine_failed", Worker, INTERNAL_SERVER_ERROR, Internal, "internal_error", retry true;
    /// A defect of Kvasir.
    Internal: "internal", Router, INTERNAL_SERVER_ERROR, Internal, "internal_error", retry false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
        }
    }

    #[test]
    fn client_mistakes_are_4xx_and_never_retried() {
        for &code in ErrorCode::ALL {
            if code.source() == Source::Client {
                assert!(code.http_status().is_client_error(), "{code:?}");
                assert!(!code.may_retry(), "{code:?}");
            }
        }
    }
}
