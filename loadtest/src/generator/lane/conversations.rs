//! A request, its record, and the turns that follow from its answer.

use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Due, End, Lane};
use crate::client::Answer;
use crate::generator::feed::{Answered, Heard};
use crate::planned::Turn;
use crate::record::Outcome;

/// What becomes of the requests of a lane.
pub(super) struct Conversations<'a> {
    pub(super) lane: &'a Lane,
    pub(super) heard_tx: mpsc::Sender<Heard>,
    pub(super) closing: CancellationToken,
    pub(super) ending: CancellationToken,
}

/// An answer that a next turn may follow.
struct Said {
    turn: Turn,
    at: Instant,
    text: String,
    slot: OwnedSemaphorePermit,
}

impl Conversations<'_> {
    /// Sends a request and all turns that follow from its answer.
    pub(super) async fn hold(&self, first: Due) {
        let mut due = Some(first);
        while let Some(now) = due {
            let Some(said) = self.exchange(now).await else {
                return;
            };
            due = self.next_turn(said).await;
        }
    }

    async fn exchange(&self, due: Due) -> Option<Said> {
        let rules = &self.lane.rules;
        self.lane.tally.launched();
        let mut answer = Answer::new(due.request.turn.is_some());
        let outcome = tokio::select! {
            biased;
            outcome = self.lane.client.send(&due.request.encoded, &mut answer) => outcome,
            () = self.ending.cancelled() => Outcome::Unfinished,
            () = tokio::time::sleep(rules.time_limit) => Outcome::Timeout,
        };
        // An answer that was cut off keeps the time of that.
        let ended = match outcome {
            Outcome::Unfinished | Outcome::Timeout => Instant::now(),
            _ => answer.ended.unwrap_or_else(Instant::now),
        };
        if let (Some(connected), Some(sent)) = (answer.connected, answer.sent) {
            let own = due.delay + sent.saturating_duration_since(connected);
            self.lane.delays.borrow_mut().delayed(own);
        }
        let goes_on = matches!(
            outcome,
            Outcome::Complete | Outcome::WrongTokenCount | Outcome::Truncated
        );
        let text = answer.text.take();
        let end = End {
            answer,
            outcome,
            at: ended,
        };
        self.lane.record(&due.request, due.scheduled, end);
        let turn = due.request.turn?;
        if !goes_on {
            let conversation = turn.conversation;
            // At the end of the run nobody asks any more.
            let _ = self.heard_tx.send(Heard::Failed { conversation }).await;
            return None;
        }
        Some(Said {
            turn,
            at: ended,
            text: text?,
            slot: due.slot,
        })
    }

    async fn next_turn(&self, said: Said) -> Option<Due> {
        let rules = &self.lane.rules;
        // A user of a closed loop stays; in an open loop there is nobody to keep.
        let slot = Some(said.slot).filter(|_| rules.closed);
        let (next_tx, next_rx) = oneshot::channel();
        let answered = Answered {
            turn: said.turn,
            text: said.text,
            next_tx,
        };
        let asked = async {
            self.heard_tx.send(Heard::Answered(answered)).await.ok()?;
            next_rx.await.ok()?
        };
        let request = self.closing.run_until_cancelled(asked).await.flatten()?;
        let think = request.turn.map_or(Duration::ZERO, |it| it.think);
        let scheduled = said.at + think;
        if rules.end.is_some_and(|end| scheduled >= end) {
            return None;
        }
        let Some(slot) = slot else {
            return self.lane.at(request, scheduled, &self.closing).await;
        };
        let thought = self.lane.pacer.wait(scheduled);
        self.closing.run_until_cancelled(thought).await?;
        Some(self.lane.due(request, scheduled, slot))
    }
}
