//! A lean HTTP/1.1 client of OpenAI-compatible endpoints that measures without
//! getting in the way: bodies are built ahead of time, a connection is driven
//! by the request that uses it, and bytes are stamped where they leave and
//! arrive, not where they are understood.
//!
//! A client belongs to one thread; its keep-alive connections are not shared.

mod answer;
mod connection;
mod endpoint;
mod exchange;
mod request_body;
mod sse;
mod tls;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use crate::record::Outcome;
use connection::Connection;
use exchange::Failure;

pub(crate) use answer::Answer;
pub use endpoint::{Endpoint, Target, TargetError};
pub(crate) use request_body::{Encoded, Encoder};
pub use sse::{Event, Parser, TooLong};

/// Sends requests to one endpoint over connections of its own.
pub(crate) struct Client {
    endpoint: Arc<Endpoint>,
    /// Connections between two requests. Nobody polls them: whether the server
    /// closed one shows when it is used again.
    idle: RefCell<Vec<Connection>>,
    opened: Cell<usize>,
}

impl Client {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Client {
        Client {
            endpoint,
            idle: RefCell::default(),
            opened: Cell::new(0),
        }
    }

    /// Sends a request and reads what comes into `answer`, which is right at
    /// any time: dropping the future loses nothing that has arrived.
    pub(crate) async fn send(&self, request: &Encoded, answer: &mut Answer) -> Outcome {
        let reused = self.idle.borrow_mut().pop();
        if let Some(connection) = reused {
            match self.exchange(connection, request, answer).await {
                // The server closed it while it was idle, before it knew of the request.
                Err(Failure::Unanswered) => {}
                ended => return ended.unwrap_or_else(Failure::outcome),
            }
        }
        match self.connect().await {
            Ok(connection) => {
                let ended = self.exchange(connection, request, answer).await;
                ended.unwrap_or_else(Failure::outcome)
            }
            Err(_) => Outcome::Connect,
        }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let number = self.opened.replace(self.opened.get().wrapping_add(1));
        self.endpoint.connect(number).await
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: &Encoded,
        answer: &mut Answer,
    ) -> Result<Outcome, Failure> {
        if answer.sent.is_none() {
            answer.connected = Some(Instant::now());
        }
        let message = self.endpoint.message(request);
        let outcome = exchange::run(&mut connection, message, request, answer).await;
        answer.ended.get_or_insert_with(Instant::now);
        if matches!(outcome, Err(Failure::Unanswered)) {
            answer.ended = None;
        } else if connection.is_reusable() {
            self.idle.borrow_mut().push(connection);
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
