//! One request and its answer on one connection.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::connection::Connection;
use super::{Answer, Encoded, Parser};
use crate::record::Outcome;

/// After the end mark, so long may the body take to end if its connection is to
/// be used again.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A larger answer in one body is none of the API.
const LARGEST_BODY: usize = 256 << 20;

/// The body of an answer that tells of an error is read so far, to keep the
/// connection.
const LARGEST_REFUSAL: usize = 1 << 20;

/// Why an exchange has no answer to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A connection that had served before broke without a byte of an answer.
    Unanswered,
    Of(Outcome),
}

impl Failure {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Failure::Unanswered => Outcome::Disconnected,
            Failure::Of(outcome) => outcome,
        }
    }
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Failure {
        Failure::Of(outcome)
    }
}

pub(super) async fn run(
    connection: &mut Connection,
    message: Request<Full<Bytes>>,
    request: &Encoded,
    answer: &mut Answer,
) -> Result<Outcome, Failure> {
    let was_used = connection.was_used();
    connection.occupy();
    let response = connection.send(message).await;
    answer.sent = answer.sent.or(connection.first_write());
    let response = response.map_err(|error| match error.is_parse() {
        true => Failure::Of(Outcome::Malformed),
        false if was_used && connection.last_read().is_none() => Failure::Unanswered,
        false => Failure::Of(Outcome::Disconnected),
    })?;
    answer.read_workers(response.headers());
    let status = response.status();
    if status != StatusCode::OK {
        let mut body = response.into_body();
        if read_all(connection, &mut body, LARGEST_REFUSAL)
            .await
            .is_ok()
        {
            connection.recycle().await;
        }
        return Err(Outcome::Status(status.as_u16()).into());
    }
    if request.stream {
        read_stream(connection, response, answer).await?;
    } else {
        let mut body = response.into_body();
        let bytes = read_all(connection, &mut body, LARGEST_BODY).await?;
        let at = connection.last_read().unwrap_or_else(Instant::now);
        answer.ended = Some(at);
        connection.recycle().await;
        answer.read_body(at, &bytes)?;
    }
    Ok(answer.judge(request.output))
}

async fn read_all(
    connection: &mut Connection,
    body: &mut Incoming,
    limit: usize,
) -> Result<Bytes, Outcome> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = connection.frame(body).await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        if all.len() > limit {
            return Err(Outcome::Malformed);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

async fn read_stream(
    connection: &mut Connection,
    response: Response<Incoming>,
    answer: &mut Answer,
) -> Result<(), Outcome> {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_of = |name: &[u8]| kind.is_some_and(|it| it.as_bytes().starts_with(name));
    let is_json = is_of(b"application/json");
    let is_events = kind.is_none() || is_of(b"text/event-stream");
    let mut body = response.into_body();
    if is_json {
        let bytes = read_all(connection, &mut body, LARGEST_REFUSAL).await?;
        return Err(Answer::refusal(&bytes));
    }
    let mut parser = Parser::default();
    let mut end = ControlFlow::Continue(());
    while let Some(frame) = connection.frame(&mut body).await {
        let frame = frame.map_err(|error| broken(&error))?;
        let at = connection.last_read().unwrap_or_else(Instant::now);
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let mut take = |event: super::Event<'_>| {
            if end.is_continue() {
                end = answer.read_event(at, event);
            }
        };
        parser
            .push(&data, &mut take)
            .map_err(|_| Outcome::Malformed)?;
        if let ControlFlow::Break(ended) = end {
            answer.ended = Some(at);
            ended?;
            read_last_words(connection, &mut body).await;
            return Ok(());
        }
    }
    let at = connection.last_read().unwrap_or_else(Instant::now);
    parser.finish(|event| {
        if end.is_continue() {
            end = answer.read_event(at, event);
        }
    });
    match end {
        ControlFlow::Break(ended) => {
            answer.ended = Some(at);
            connection.recycle().await;
            ended
        }
        // A page of a proxy, for one.
        ControlFlow::Continue(()) if !is_events => Err(Outcome::Malformed),
        ControlFlow::Continue(()) => Err(Outcome::CutStream),
    }
}

/// The answer is whole; what is left is the end of its body.
async fn read_last_words(connection: &mut Connection, body: &mut Incoming) {
    let rest = async {
        while let Some(frame) = connection.frame(body).await {
            if frame.is_err() {
                return;
            }
        }
        connection.recycle().await;
    };
    // Too late only means that the connection is closed.
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
}

fn broken(error: &hyper::Error) -> Outcome {
    if error.is_parse() {
        Outcome::Malformed
    } else {
        Outcome::CutStream
    }
}
