//! The pieces of all choices of a reply, as they come.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::SelectAll;
use futures::{Stream, StreamExt};

use crate::error::ApiError;
use crate::tokenize::{Choice, Piece};

/// Most replies have one choice, which needs nobody to say who woke.
pub(super) enum Choices {
    One(Box<Choice>),
    /// Boxed, as `SelectAll` moves a stream with each of its items.
    Several(SelectAll<Box<Choice>>),
}

impl Choices {
    pub(super) fn new(choices: impl ExactSizeIterator<Item = Choice>) -> Choices {
        let mut choices = choices.map(Box::new);
        match (choices.len(), choices.next()) {
            (1, Some(only)) => Choices::One(only),
            (_, first) => Choices::Several(first.into_iter().chain(choices).collect()),
        }
    }
}

impl Stream for Choices {
    type Item = Result<Piece, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Choices::One(choice) => choice.poll_next_unpin(cx),
            Choices::Several(choices) => choices.poll_next_unpin(cx),
        }
    }
}
