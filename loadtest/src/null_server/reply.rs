//! Bytes of answers.

use std::io::Write;

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
transfer-encoding: chunked\r\n";

/// Writing to a vector does not fail.
const INTO_MEMORY: &str = "memory takes all bytes";

/// Of which API an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completions,
}

/// What the end of an answer says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) tokens: u32,
    pub(super) finish: &'static str,
    pub(super) usage: bool,
}

pub(super) fn stream_head(out: &mut Vec<u8>, worker: Option<&str>) {
    out.extend_from_slice(STREAM_HEAD);
    worker_header(out, worker);
    out.extend_from_slice(b"\r\n");
}

fn worker_header(out: &mut Vec<u8>, worker: Option<&str>) {
    if let Some(worker) = worker {
        write!(out, "x-kvasir-decode-worker: {worker}\r\n").expect(INTO_MEMORY);
    }
}

/// An event in a chunk of its own.
pub(super) fn event(out: &mut Vec<u8>, data: &str) {
    write!(out, "{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8).expect(INTO_MEMORY);
}

pub(super) fn token(out: &mut Vec<u8>, kind: Kind) {
    let data = match kind {
        Kind::Chat => concat!(
            r#"{"id":"null","object":"chat.completion.chunk","created":0,"model":"null","#,
            r#""choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}"#
        ),
        Kind::Completions => concat!(
            r#"{"id":"null","object":"text_completion","created":0,"model":"null","#,
            r#""choices":[{"index":0,"text":" token","finish_reason":null}]}"#
        ),
    };
    event(out, data);
}

pub(super) fn stream_end(out: &mut Vec<u8>, kind: Kind, ending: Ending) {
    let finish = ending.finish;
    event(
        out,
        &match kind {
            Kind::Chat => {
                format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{finish}"}}]}}"#)
            }
            Kind::Completions => {
                format!(r#"{{"choices":[{{"index":0,"text":"","finish_reason":"{finish}"}}]}}"#)
            }
        },
    );
    if ending.usage {
        event(
            out,
            &format!(r#"{{"choices":[],"usage":{}}}"#, usage(ending)),
        );
    }
    event(out, "[DONE]");
    last_chunk(out);
}

pub(super) fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

pub(super) fn whole(out: &mut Vec<u8>, kind: Kind, ending: Ending, worker: Option<&str>) {
    let text = " token".repeat(ending.tokens as usize);
    let said = match kind {
        Kind::Chat => format!(r#""message":{{"role":"assistant","content":"{text}"}}"#),
        Kind::Completions => format!(r#""text":"{text}""#),
    };
    let finish = ending.finish;
    let usage = match ending.usage {
        true => format!(r#","usage":{}"#, usage(ending)),
        false => String::new(),
    };
    let body = format!(
        r#"{{"id":"null","choices":[{{"index":0,{said},"finish_reason":"{finish}"}}]{usage}}}"#
    );
    json(out, 200, &body, worker);
}

pub(super) fn page(out: &mut Vec<u8>) {
    let page = "<html>scripted</html>";
    let length = page.len();
    write!(
        out,
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"
    )
    .expect(INTO_MEMORY);
}

fn usage(ending: Ending) -> String {
    let tokens = ending.tokens;
    format!(
        r#"{{"prompt_tokens":1,"completion_tokens":{tokens},"total_tokens":{}}}"#,
        tokens + 1
    )
}

pub(super) fn json(out: &mut Vec<u8>, status: u16, body: &str, worker: Option<&str>) {
    write!(
        out,
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    )
    .expect(INTO_MEMORY);
    worker_header(out, worker);
    write!(out, "\r\n{body}").expect(INTO_MEMORY);
}
