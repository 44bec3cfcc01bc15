//! Completions that are streamed, and when each of their tokens came.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// No stream says anything for this time: it is not waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Streams of one server. Dropped, all are hung up.
pub struct Streams {
    server: SocketAddr,
    model: &'static str,
    sockets: Vec<TcpStream>,
    events_tx: Sender<Event>,
    events_rx: Receiver<Event>,
}

/// What a stream said, and when.
#[derive(Debug)]
pub struct Event {
    /// Counted from 0, in the order they were opened.
    pub stream: usize,
    pub at: Instant,
    pub said: Said,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// So many tokens; never none.
    Tokens(usize),
    /// Prompt tokens, and those of them that were in the cache.
    Usage {
        prompt: u64,
        cached: u64,
    },
    Done,
    /// It broke, or was never begun.
    Failed(String),
}

impl Streams {
    pub fn new(server: SocketAddr, model: &'static str) -> Streams {
        let (events_tx, events_rx) = channel();
        Streams {
            server,
            model,
            sockets: Vec::new(),
            events_tx,
            events_rx,
        }
    }

    /// Sends a prompt; its answer has exactly `tokens` tokens. Gives the number
    /// of the stream and when it was sent.
    pub fn open(&mut self, prompt: &[u64], tokens: usize) -> Result<(usize, Instant)> {
        let body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": tokens, "min_tokens": tokens,
            "ignore_eos": true, "temperature": 0, "stream": true,
            // Tokens may have no text, and are counted.
            "return_token_ids": true, "stream_options": {"include_usage": true},
        })
        .to_string();
        // To a client of HTTP 1.0 a server sends no chunks: events are lines.
        let head = format!(
            "POST /v1/completions HTTP/1.0\r\nhost: xtask\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = TcpStream::connect(self.server)
            .with_context(|| format!("can't connect to {}", self.server))?;
        socket.set_nodelay(true)?;
        let (stream, events_tx) = (self.sockets.len(), self.events_tx.clone());
        let lines = BufReader::new(socket.try_clone()?);
        let sent = Instant::now();
        socket.write_all([head, body].concat().as_bytes())?;
        self.sockets.push(socket);
        thread::spawn(move || {
            read(lines, |at, said| {
                // Nobody listens any more once the streams are dropped.
                let _ = events_tx.send(Event { stream, at, said });
            });
        });
        Ok((stream, sent))
    }

    /// What any of them says next.
    pub fn next(&self) -> Result<Event> {
        let event = self.events_rx.recv_timeout(PATIENCE);
        event.with_context(|| format!("no stream said anything for {PATIENCE:?}"))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Fails if the server has closed it, which is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Reads an answer to its end.
fn read(mut from: impl BufRead, mut tell: impl FnMut(Instant, Said)) {
    let mut head = String::new();
    loop {
        let mut line = Vec::new();
        let length = from.read_until(b'\n', &mut line);
        let at = Instant::now();
        let line = String::from_utf8_lossy(&line);
        if !matches!(length, Ok(1..)) {
            return tell(at, Said::Failed(format!("the answer ended after {head:?}")));
        }
        if head.is_empty() {
            head = line.trim_end().to_owned();
        }
        if !head.contains(" 200 ") {
            // The body says why, and is the last line.
            if line.starts_with('{') {
                return tell(at, Said::Failed(format!("{head}: {line}")));
            }
            continue;
        }
        let Some(data) = line.strip_prefix("data:") else {
            continue;
        };
        match event(data.trim()) {
            Ok(said) => {
                let last = matches!(said[..], [.., Said::Done | Said::Failed(_)]);
                said.into_iter().for_each(|said| tell(at, said));
                if last {
                    return;
                }
            }
            Err(error) => return tell(at, Said::Failed(format!("{error}: {data}"))),
        }
    }
}

/// What one event says.
fn event(data: &str) -> Result<Vec<Said>> {
    if data == "[DONE]" {
        return Ok(vec![Said::Done]);
    }
    let event: Value = serde_json::from_str(data)?;
    if !event["error"].is_null() {
        return Ok(vec![Said::Failed(event["error"].to_string())]);
    }
    let mut said = Vec::new();
    let tokens = event["choices"][0]["token_ids"].as_array();
    if let Some(tokens) = tokens.map(Vec::len).filter(|it| *it > 0) {
        said.push(Said::Tokens(tokens));
    }
    let usage = &event["usage"];
    if let Some(prompt) = usage["prompt_tokens"].as_u64() {
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        said.push(Said::Usage {
            prompt,
            cached: cached.unwrap_or_default(),
        });
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn said(answer: &str) -> Vec<Said> {
        let mut all = Vec::new();
        read(answer.as_bytes(), |_, said| all.push(said));
        all
    }

    #[test]
    fn tokens_are_counted_by_their_ids_whatever_their_text() {
        let answer = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
            data: {\"choices\":[{\"text\":\"\",\"token_ids\":[7]}]}\n\n\
            data: {\"choices\":[{\"text\":\"a b\",\"token_ids\":[8,9]}]}\n\n\
            data: {\"choices\":[{\"text\":\"\",\"token_ids\":[]}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\
                   \"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n\
            data: [DONE]\n\n";
        let usage = Said::Usage {
            prompt: 5,
            cached: 2,
        };
        let expected = [Said::Tokens(1), Said::Tokens(2), usage, Said::Done];
        assert_eq!(said(answer), expected);
    }

    #[test]
    fn what_is_asked_for_is_sent_and_hung_up_when_dropped() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut streams = Streams::new(server.local_addr().unwrap(), "m");
        assert_eq!(streams.open(&[5, 6], 7).unwrap().0, 0);
        let (mut socket, _) = server.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        let tokens = b"data: {\"choices\":[{\"token_ids\":[7]}]}\n\n";
        socket.write_all(tokens).unwrap();
        let event = streams.next().unwrap();
        assert_eq!((event.stream, event.said), (0, Said::Tokens(1)));

        drop(streams);
        let mut asked = String::new();
        // Ends because the client hangs up.
        socket.read_to_string(&mut asked).unwrap();
        let (_, body) = asked.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["prompt"], json!([5, 6]));
        assert_eq!(body["max_tokens"], 7);
    }

    #[test]
    fn a_refusal_an_error_and_a_cut_all_fail_with_their_reason() {
        let refused =
            "HTTP/1.0 400 Bad Request\r\ncontent-length: 2\r\n\r\n{\"error\":\"too long\"}";
        let broken = "HTTP/1.0 200 OK\r\n\r\ndata: {\"error\":\"lost\"}\n\ndata: [DONE]\n\n";
        let cut = "HTTP/1.0 200 OK\r\n\r\ndata: {\"choices\":[{\"token_ids\":[7]}]}\n\n";
        for (answer, reason) in [(refused, "too long"), (broken, "lost"), (cut, "ended")] {
            match said(answer).pop() {
                Some(Said::Failed(why)) => assert!(why.contains(reason), "{why}"),
                other => panic!("{answer}: {other:?}"),
            }
        }
    }
}
