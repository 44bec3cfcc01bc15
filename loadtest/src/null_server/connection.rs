//! One connection of a scripted server: reads requests, plays the script.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::reply::{self, Ending, Kind};
use super::{Fault, SentStream, State};

/// A larger request is refused by closing.
const LARGEST_REQUEST: usize = 256 << 20;

struct Connection {
    stream: TcpStream,
    state: Arc<State>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A request as far as a script cares.
struct Request {
    path: Path,
    key: Option<String>,
    asked: Asked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Answer(Kind),
    Models,
    Unknown,
}

#[derive(Default, Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<u32>,
}

/// How a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

pub(super) async fn serve(stream: TcpStream, state: Arc<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection {
        stream,
        state,
        input: Vec::new(),
        output: Vec::new(),
    };
    let mut answered = 0;
    while let Some(request) = connection.read().await? {
        if connection.answer(&request).await? == Next::Close {
            return Ok(());
        }
        answered += 1;
        if connection.state.script.answers_per_connection == Some(answered) {
            return Ok(());
        }
    }
    Ok(())
}

impl Connection {
    async fn read(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some((request, length)) = parse(&self.input) {
                self.input.drain(..length);
                return Ok(Some(request));
            }
            if self.input.len() > LARGEST_REQUEST {
                return Ok(None);
            }
            self.input.reserve(16 << 10);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn answer(&mut self, request: &Request) -> io::Result<Next> {
        let script = &self.state.script;
        let refused = script.api_key.is_some() && script.api_key != request.key;
        let kind = match request.path {
            _ if refused => return self.refuse(401).await,
            Path::Unknown => return self.refuse(404).await,
            Path::Models => {
                reply::json(&mut self.output, 200, r#"{"data":[{"id":"null"}]}"#, None);
                self.flush().await?;
                return Ok(Next::Keep);
            }
            Path::Answer(kind) => kind,
        };
        let arrived = Instant::now();
        self.state.started.get_or_init(|| arrived);
        let number = self.state.requests.fetch_add(1, Ordering::SeqCst);
        self.state.changed.notify_waiters();
        let fault = self.state.script.fault(number);
        match fault {
            Some(Fault::Status(status)) => {
                self.until(arrived).await;
                return self.refuse(status).await;
            }
            Some(Fault::Disconnect) => return Ok(Next::Close),
            Some(Fault::Html) => {
                reply::page(&mut self.output);
                self.flush().await?;
                return Ok(Next::Keep);
            }
            Some(Fault::NotHttp) => {
                self.output.extend_from_slice(b"what is this?\r\n\r\n");
                self.flush().await?;
                return Ok(Next::Close);
            }
            _ => {}
        }
        let asked = &request.asked;
        let tokens = self.state.script.tokens.or(asked.max_tokens).unwrap_or(16);
        let tokens = tokens - u32::from(fault == Some(Fault::OneShort)).min(tokens);
        let ending = Ending {
            tokens,
            finish: if fault == Some(Fault::StopsEarly) {
                "stop"
            } else {
                "length"
            },
            usage: fault != Some(Fault::StopsEarly),
        };
        let play = Play {
            kind,
            arrived,
            first_token: arrived + self.state.script.first_token(number),
            fault,
            ending,
        };
        if asked.stream {
            self.stream_answer(play).await
        } else {
            self.whole_answer(play).await
        }
    }

    async fn refuse(&mut self, status: u16) -> io::Result<Next> {
        let body = r#"{"error":{"message":"scripted","type":"scripted"}}"#;
        reply::json(&mut self.output, status, body, None);
        self.flush().await?;
        Ok(Next::Keep)
    }

    async fn stream_answer(&mut self, play: Play) -> io::Result<Next> {
        let mut sent = Vec::new();
        let next = self.play_stream(play, &mut sent).await;
        if let Some(log) = &self.state.script.log {
            log.add(SentStream {
                arrived: play.arrived,
                tokens: sent,
            });
        }
        next
    }

    async fn play_stream(&mut self, play: Play, sent: &mut Vec<Instant>) -> io::Result<Next> {
        reply::stream_head(&mut self.output, self.state.script.decode_worker.as_deref());
        for number in 0..play.ending.tokens {
            if play.breaks_after() == Some(number) {
                return self.break_off(play.fault).await;
            }
            if !self.state.script.is_immediate() {
                self.until(play.time_of(number, &self.state)).await;
            }
            reply::token(&mut self.output, play.kind);
            if self.state.script.one_by_one {
                self.flush().await?;
                if self.state.script.log.is_some() {
                    sent.push(Instant::now());
                }
            }
        }
        if play.breaks_after().is_some() {
            return self.break_off(play.fault).await;
        }
        reply::stream_end(&mut self.output, play.kind, play.ending);
        self.flush().await?;
        Ok(Next::Keep)
    }

    async fn whole_answer(&mut self, play: Play) -> io::Result<Next> {
        let last = play.ending.tokens.saturating_sub(1);
        self.until(play.time_of(last, &self.state)).await;
        let worker = self.state.script.decode_worker.clone();
        match play.fault {
            Some(Fault::Silence { .. }) => return self.be_silent().await,
            Some(Fault::ErrorEvent { .. }) => {
                let body = r#"{"error":{"message":"scripted"}}"#;
                reply::json(&mut self.output, 200, body, worker.as_deref());
            }
            Some(Fault::NotJson { .. }) => {
                reply::json(&mut self.output, 200, "scripted", worker.as_deref());
            }
            Some(Fault::Cut { .. } | Fault::NoEndMark { .. }) => {
                reply::whole(&mut self.output, play.kind, play.ending, worker.as_deref());
                self.output.truncate(self.output.len() - 2);
                self.flush().await?;
                return Ok(Next::Close);
            }
            _ => reply::whole(&mut self.output, play.kind, play.ending, worker.as_deref()),
        }
        self.flush().await?;
        Ok(Next::Keep)
    }

    async fn break_off(&mut self, fault: Option<Fault>) -> io::Result<Next> {
        match fault {
            Some(Fault::ErrorEvent { .. }) => {
                reply::event(&mut self.output, r#"{"error":{"message":"scripted"}}"#);
                reply::event(&mut self.output, "[DONE]");
                reply::last_chunk(&mut self.output);
            }
            Some(Fault::NotJson { .. }) => {
                reply::event(&mut self.output, "scripted");
                reply::last_chunk(&mut self.output);
            }
            Some(Fault::NoEndMark { .. }) => reply::last_chunk(&mut self.output),
            Some(Fault::Silence { .. }) => return self.be_silent().await,
            _ => {
                self.flush().await?;
                return Ok(Next::Close);
            }
        }
        self.flush().await?;
        Ok(Next::Keep)
    }

    /// Sends what there is, and no more until the client has enough of it.
    async fn be_silent(&mut self) -> io::Result<Next> {
        self.flush().await?;
        while self.stream.read_buf(&mut self.input).await? > 0 {}
        Ok(Next::Close)
    }

    /// Sends what there is, if `at` is not yet, and waits for it.
    async fn until(&mut self, at: Instant) {
        let started = *self.state.started.get_or_init(Instant::now);
        let script = &self.state.script;
        let at = script.after_stall(started, at.max(script.after_stall(started, Instant::now())));
        if at > Instant::now() {
            // A client that is gone shows at the next write.
            let _ = self.flush().await;
            self.state.pacer.wait(at).await;
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.output).await;
        self.output.clear();
        written
    }
}

/// An answer to be played.
#[derive(Clone, Copy)]
struct Play {
    kind: Kind,
    arrived: Instant,
    first_token: Instant,
    fault: Option<Fault>,
    ending: Ending,
}

impl Play {
    fn time_of(&self, token: u32, state: &State) -> Instant {
        self.first_token + state.script.between_tokens * token
    }

    /// So many tokens come before the answer breaks off.
    fn breaks_after(&self) -> Option<u32> {
        match self.fault {
            Some(
                Fault::ErrorEvent { after }
                | Fault::Cut { after }
                | Fault::NoEndMark { after }
                | Fault::Silence { after }
                | Fault::NotJson { after },
            ) => Some(after.min(self.ending.tokens)),
            _ => None,
        }
    }
}

/// A whole request at the start of `input`, and its length.
fn parse(input: &[u8]) -> Option<(Request, usize)> {
    let end = input.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&input[..end]).unwrap_or_default();
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|it| it.split(' ').nth(1));
    let mut key = None;
    let mut length = 0;
    for (name, value) in lines.filter_map(|it| it.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        } else if name.eq_ignore_ascii_case("authorization") {
            key = value.trim().strip_prefix("Bearer ").map(str::to_owned);
        }
    }
    let body = input.get(end..end + length)?;
    let path = match path {
        Some("/v1/chat/completions") => Path::Answer(Kind::Chat),
        Some("/v1/completions") => Path::Answer(Kind::Completions),
        Some("/v1/models") => Path::Models,
        _ => Path::Unknown,
    };
    let asked = serde_json::from_slice(body).unwrap_or_default();
    Some((Request { path, key, asked }, end + length))
}
