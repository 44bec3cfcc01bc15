//! What a scripted server does, and when.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The default answers at once, and without fault.
#[derive(Clone, Default)]
pub struct Script {
    /// From the end of a request to the first token.
    pub first_token: Duration,
    pub between_tokens: Duration,
    /// What the request of a number waits beside, in order of arrival, from 0.
    pub wait: Option<Arc<dyn Fn(u64) -> Duration + Send + Sync>>,
    /// `None`: as many as are asked for.
    pub tokens: Option<u32>,
    /// What goes wrong with the request of a number, in order of arrival, from 0.
    pub fault: Option<Arc<dyn Fn(u64) -> Option<Fault> + Send + Sync>>,
    pub stall: Option<Stall>,
    /// Answers on a connection, after which it is closed without a word.
    pub answers_per_connection: Option<u64>,
    /// Other keys are refused with 401.
    pub api_key: Option<String>,
    /// Every token of a stream is handed to the kernel alone, as engines do, and
    /// not together with others that are due.
    pub one_by_one: bool,
    /// Sent as the worker that decodes.
    pub decode_worker: Option<String>,
    /// Takes down when the tokens of streams, sent one by one, really went out.
    pub log: Option<Arc<SendLog>>,
}

/// What a server did, which on a busy machine is later than its script says.
#[derive(Debug, Default)]
pub struct SendLog(Mutex<Vec<SentStream>>);

/// A stream that a server sent.
#[derive(Clone, Debug)]
pub struct SentStream {
    pub arrived: Instant,
    /// When the kernel had each of its tokens.
    pub tokens: Vec<Instant>,
}

impl SendLog {
    pub(super) fn add(&self, stream: SentStream) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push(stream);
    }

    /// All streams so far, in the order of their ends.
    pub fn take(&self) -> Vec<SentStream> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An HTTP status and an error as its body.
    Status(u16),
    /// After so many tokens an error in the stream.
    ErrorEvent { after: u32 },
    /// After so many tokens the connection closes.
    Cut { after: u32 },
    /// After so many tokens the body ends in order, but without its end mark.
    NoEndMark { after: u32 },
    /// The connection closes without an answer.
    Disconnect,
    /// So many tokens come and nothing more; the connection stays open.
    Silence { after: u32 },
    /// One token less than asked for, and usage says so.
    OneShort,
    /// It ends with `stop` and without usage.
    StopsEarly,
    /// After so many tokens something that is not JSON.
    NotJson { after: u32 },
    /// What comes is not HTTP.
    NotHttp,
    /// What comes is a page of HTML.
    Html,
}

/// A time in which the server does nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// From the first request.
    pub at: Duration,
    pub length: Duration,
}

impl Script {
    pub(super) fn fault(&self, number: u64) -> Option<Fault> {
        self.fault.as_ref().and_then(|it| it(number))
    }

    /// From the end of the request of a number to its first token.
    pub(super) fn first_token(&self, number: u64) -> Duration {
        let wait = self.wait.as_ref().map(|it| it(number));
        self.first_token + wait.unwrap_or_default()
    }

    /// Nothing is to be waited for.
    pub(super) fn is_immediate(&self) -> bool {
        let waits = !self.first_token.is_zero() || self.wait.is_some();
        !waits && self.between_tokens.is_zero() && self.stall.is_none()
    }

    /// When something due at `at` is done, in a server that started at `started`.
    pub(super) fn after_stall(&self, started: Instant, at: Instant) -> Instant {
        match self.stall {
            Some(stall) => {
                let from = started + stall.at;
                let until = from + stall.length;
                if (from..until).contains(&at) {
                    until
                } else {
                    at
                }
            }
            None => at,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("first_token", &self.first_token)
            .field("between_tokens", &self.between_tokens)
            .field("tokens", &self.tokens)
            .field("stall", &self.stall)
            .finish_non_exhaustive()
    }
}
