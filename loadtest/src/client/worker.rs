//! Workers of a Kvasir cluster, spoken to as their router does: gRPC with token
//! ids, to each a connection for all requests of a thread. What is measured so is
//! the ground under what a router adds.

mod stamped;

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::rt::TokioIo;
use proto::worker::worker_client::WorkerClient as Grpc;
use proto::worker::{DescribeRequest, GenerateRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint as Peer};
use tower::service_fn;

use super::endpoint::look_up;
use super::{Answer, Encoded, Target, TargetError};
use crate::record::{Outcome, Usage};
use stamped::{Clock, Stamped};

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Workers whose addresses are known. Requests go to one after the other.
#[derive(Debug)]
pub struct Worker {
    url: String,
    model: String,
    peers: Vec<(Peer, SocketAddr)>,
}

/// The calls of one thread.
pub(super) struct Calls {
    lines: Vec<Line>,
    next: Cell<usize>,
}

/// The connection to one worker.
struct Line {
    grpc: Grpc<Channel>,
    clock: Clock,
}

impl Worker {
    pub(super) async fn resolve(target: &Target) -> Result<Worker, TargetError> {
        let wrong = || TargetError::Url(target.url.clone());
        let mut peers = Vec::new();
        for address in target.url.trim().split(',') {
            let address = address.strip_prefix("grpc://").unwrap_or(address);
            let uri: Uri = format!("http://{address}").parse().map_err(|_| wrong())?;
            let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
                return Err(wrong());
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let addresses = look_up(host, port).await?;
            let peer = Peer::from(uri).connect_timeout(CONNECT_TIMEOUT);
            peers.push((peer, *addresses.first().ok_or_else(wrong)?));
        }
        Ok(Worker {
            url: target.url.clone(),
            model: target.model.clone(),
            peers,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Asks each what it is and which model it serves.
    pub(super) async fn probe(&self) -> Result<(), TargetError> {
        for mut line in self.calls().lines {
            let described = line.grpc.describe(DescribeRequest {}).await;
            let served = described.map_err(|status| TargetError::Unreachable {
                url: self.url.clone(),
                reason: status.message().to_owned(),
            })?;
            let served = served.into_inner().model;
            if served != self.model {
                return Err(TargetError::Model {
                    url: self.url.clone(),
                    model: self.model.clone(),
                    served,
                });
            }
        }
        Ok(())
    }

    /// Connections that are opened with their first call; needs an event loop.
    pub(super) fn calls(&self) -> Calls {
        let lines = self.peers.iter().map(|(peer, at)| Line::new(peer, *at));
        Calls {
            lines: lines.collect(),
            next: Cell::new(0),
        }
    }
}

impl Calls {
    /// Generates on the next worker, and reads what comes into `answer`. Dropping
    /// the future cancels the call.
    pub(super) async fn generate(&self, request: &Encoded, answer: &mut Answer) -> Outcome {
        let prompt = request.prompt.clone();
        answer.usage = Some(Usage {
            prompt_tokens: prompt.as_ref().map_or(0, |it| it.token_ids.len() as u32),
            ..Usage::default()
        });
        let next = self.next.get();
        self.next.set((next + 1) % self.lines.len());
        let now = Instant::now();
        answer.connected = Some(now);
        answer.sent = Some(now);
        let ended = self.lines[next].read(prompt, answer).await;
        answer.ended.get_or_insert_with(Instant::now);
        match ended {
            Ok(()) => answer.judge(request.output),
            Err(outcome) => outcome,
        }
    }
}

impl Line {
    fn new(peer: &Peer, address: SocketAddr) -> Line {
        let clock = Clock::new();
        let stamps = clock.clone();
        let connector = service_fn(move |_: Uri| {
            let stamps = stamps.clone();
            async move {
                let stream = Stamped::connect(address, stamps).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Line {
            grpc: Grpc::new(peer.connect_with_connector_lazy(connector)),
            clock,
        }
    }

    async fn read(
        &self,
        prompt: Option<proto::worker::Prompt>,
        answer: &mut Answer,
    ) -> Result<(), Outcome> {
        let asked = GenerateRequest { prompt, kv: None };
        let begun = self.grpc.clone().generate(asked).await;
        let mut events = begun.map_err(|status| refused(&status))?.into_inner();
        loop {
            let event = events.message().await.map_err(|_| Outcome::CutStream)?;
            let at = self.clock.last_read();
            let event = event.ok_or(Outcome::CutStream)?.event;
            let event = event.ok_or(Outcome::Malformed)?;
            if let ControlFlow::Break(ended) = answer.read_worker(at, event) {
                answer.ended = Some(at);
                return ended;
            }
        }
    }
}

/// As a router's client would see it.
fn refused(status: &Status) -> Outcome {
    match std::error::Error::source(status) {
        Some(_) => Outcome::Connect,
        None => Outcome::Status(proto::code_of(status).http_status().as_u16()),
    }
}

#[cfg(test)]
mod tests;
