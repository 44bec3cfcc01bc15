//! A reply as server-sent events: each piece goes out as soon as it is there;
//! pieces that are there together share a frame.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::Reply;
use crate::error::ApiError;
use crate::tokenize::Piece;

/// Proxies cut connections that are silent for 30 to 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Enough to make frames cheap, little enough to go out at once.
const MAX_FRAME_BYTES: usize = 16 << 10;

pub(super) struct SseStream {
    /// `None` after the end.
    reply: Option<Reply>,
    frame: Vec<u8>,
    last_frame: Instant,
    keep_alive: Pin<Box<Sleep>>,
}

impl SseStream {
    pub(super) fn new(reply: Reply) -> SseStream {
        let now = Instant::now();
        SseStream {
            reply: Some(reply),
            frame: Vec::new(),
            last_frame: now,
            keep_alive: Box::pin(tokio::time::sleep_until(now + KEEP_ALIVE)),
        }
    }

    fn take_frame(&mut self) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.last_frame = Instant::now();
        let next = Vec::with_capacity(self.frame.len());
        Poll::Ready(Some(Ok(mem::replace(&mut self.frame, next).into())))
    }

    /// Whether a comment is due, so that the connection does not look dead.
    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> bool {
        while self.keep_alive.as_mut().poll(cx).is_ready() {
            let due = self.last_frame + KEEP_ALIVE;
            if due <= Instant::now() {
                self.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
                return true;
            }
            self.keep_alive.as_mut().reset(due);
        }
        false
    }
}

impl Stream for SseStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(reply) = &mut this.reply {
            match reply.pieces.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    reply.chunk(&piece, &mut this.frame);
                    if this.frame.len() >= MAX_FRAME_BYTES {
                        return this.take_frame();
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    fail(&error, &mut this.frame);
                    this.reply = None;
                }
                Poll::Ready(None) => {
                    reply.last_chunks(&mut this.frame);
                    this.reply = None;
                }
                Poll::Pending if !this.frame.is_empty() => return this.take_frame(),
                Poll::Pending if this.poll_keep_alive(cx) => {
                    this.frame.extend_from_slice(b": keep-alive\n\n");
                    return this.take_frame();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if this.frame.is_empty() {
            return Poll::Ready(None);
        }
        this.take_frame()
    }
}

impl Reply {
    fn chunk(&mut self, piece: &Piece, frame: &mut Vec<u8>) {
        if let Some(end) = &piece.end {
            self.tally.add(piece.choice, end);
        }
        if self.render.opens(piece.choice) {
            self.event(frame, |render, out| render.opening(piece.choice, out));
        }
        self.event(frame, |render, out| render.chunk(piece, out));
    }

    fn event(
        &mut self,
        frame: &mut Vec<u8>,
        choice: impl FnOnce(&mut super::Render, &mut Vec<u8>),
    ) {
        frame.extend_from_slice(b"data: ");
        self.head.open(frame);
        choice(&mut self.render, frame);
        self.head
            .close(self.head.include_usage.then_some(None), frame);
        frame.extend_from_slice(b"\n\n");
    }

    fn last_chunks(&mut self, frame: &mut Vec<u8>) {
        if self.head.include_usage {
            frame.extend_from_slice(b"data: ");
            self.head.open(frame);
            self.head.close(Some(Some(self.tally.usage())), frame);
            frame.extend_from_slice(b"\n\n");
        }
        frame.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// The status is sent already: the stream says what went wrong, and ends
/// without `[DONE]`.
fn fail(error: &ApiError, frame: &mut Vec<u8>) {
    frame.extend_from_slice(b"data: ");
    error.write(frame);
    frame.extend_from_slice(b"\n\n");
}
