//! A lean HTTP/1.1 client of OpenAI-compatible endpoints that measures without
//! getting in the way: bodies are built ahead of time, a connection is driven
//! by the request that uses it, and bytes are stamped where they leave and
//! arrive, not where they are understood.
//!
//! A client belongs to one thread; its keep-alive connections are not shared. To
//! a worker (`grpc://`) it speaks as a router does.

mod answer;
mod connection;
mod endpoint;
mod exchange;
mod openai;
mod request_body;
mod sse;
mod tls;
mod worker;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use crate::record::Outcome;
use connection::Connection;
use exchange::Failure;
use openai::OpenAi;
use worker::Calls;

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
    /// To a worker.
    calls: OnceCell<Calls>,
}

impl Client {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Client {
        Client {
            endpoint,
            idle: RefCell::default(),
            opened: Cell::new(0),
            calls: OnceCell::new(),
        }
    }

    /// Sends a request and reads what comes into `answer`, which is right at
    /// any time: dropping the future loses nothing that has arrived.
    pub(crate) async fn send(&self, request: &Encoded, answer: &mut Answer) -> Outcome {
        match &*self.endpoint {
            Endpoint::OpenAi(server) => self.ask(server, request, answer).await,
            Endpoint::Worker(worker) => {
                let calls = self.calls.get_or_init(|| worker.calls());
                calls.generate(request, answer).await
            }
        }
    }

    async fn ask(&self, server: &OpenAi, request: &Encoded, answer: &mut Answer) -> Outcome {
        let reused = self.idle.borrow_mut().pop();
        if let Some(connection) = reused {
            match self.exchange(server, connection, request, answer).await {
                // The server closed it while it was idle, before it knew of the request.
                Err(Failure::Unanswered) => {}
                ended => return ended.unwrap_or_else(Failure::outcome),
            }
        }
        match self.connect(server).await {
            Ok(connection) => {
                let ended = self.exchange(server, connection, request, answer).await;
                ended.unwrap_or_else(Failure::outcome)
            }
            Err(_) => Outcome::Connect,
        }
    }

    async fn connect(&self, server: &OpenAi) -> std::io::Result<Connection> {
        let number = self.opened.replace(self.opened.get().wrapping_add(1));
        server.connect(number).await
    }

    async fn exchange(
        &self,
        server: &OpenAi,
        mut connection: Connection,
        request: &Encoded,
        answer: &mut Answer,
    ) -> Result<Outcome, Failure> {
        if answer.sent.is_none() {
            answer.connected = Some(Instant::now());
        }
        let message = server.message(request);
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
