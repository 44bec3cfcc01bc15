//! Tickets: the right to pull one prompt's KV, once.
//!
//! The Prefill call owns the [`Ticket`]; dropping it makes the ticket void. The
//! PullKv call owns the [`Claim`]; dropping it without
//! [`Claim::complete`] tells the Prefill call that the pull broke off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{Sampled, SequenceId};
use proto::ErrorCode;
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};

use crate::failure::Failure;

/// All tickets that can still be claimed. Clones are the same table.
#[derive(Clone, Default)]
pub struct Tickets {
    open: Arc<Mutex<FxHashMap<String, Claim>>>,
}

/// The prefill side of a ticket.
pub struct Ticket {
    id: String,
    tickets: Tickets,
    first_token_tx: watch::Sender<FirstToken>,
    pulled_rx: oneshot::Receiver<Pulled>,
}

/// The pulling side of a ticket.
#[derive(Debug)]
pub struct Claim {
    pub sequence: SequenceId,
    first_token_rx: watch::Receiver<FirstToken>,
    pulled_tx: oneshot::Sender<Pulled>,
}

/// What a pull moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    pub blocks: usize,
    pub bytes: usize,
}

/// The prompt's first token, once it is drawn; a prompt that is only scored
/// has none.
#[derive(Clone, Debug, PartialEq)]
enum FirstToken {
    Due,
    Drawn(Option<Sampled>),
}

impl Tickets {
    pub fn issue(&self, sequence: SequenceId) -> Ticket {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (first_token_tx, first_token_rx) = watch::channel(FirstToken::Due);
        let (pulled_tx, pulled_rx) = oneshot::channel();
        let claim = Claim {
            sequence,
            first_token_rx,
            pulled_tx,
        };
        self.open().insert(id.clone(), claim);
        Ticket {
            id,
            tickets: self.clone(),
            first_token_tx,
            pulled_rx,
        }
    }

    /// Uses the ticket up.
    pub fn claim(&self, id: &str) -> Result<Claim, Failure> {
        self.open().remove(id).ok_or_else(|| {
            let message = "no such ticket: it was used, it expired or its prefill ended";
            Failure::new(ErrorCode::TicketGone, message)
        })
    }

    fn open(&self) -> MutexGuard<'_, FxHashMap<String, Claim>> {
        // Single inserts and removes: a panic elsewhere leaves the table whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The prompt is computed, and its first token drawn.
    pub fn computed(&self, first_token: Option<Sampled>) {
        self.first_token_tx
            .send_replace(FirstToken::Drawn(first_token));
    }

    /// Waits for the end of the pull.
    pub async fn pulled(&mut self) -> Result<Pulled, Failure> {
        (&mut self.pulled_rx).await.map_err(|_| {
            let message = "the pull of the prompt's KV broke off; the decode worker is gone";
            Failure::new(ErrorCode::TicketGone, message)
        })
    }

    /// Waits for the end of the pull, but at most `lease`.
    pub async fn pulled_within(&mut self, lease: Duration) -> Result<Pulled, Failure> {
        let pulled = tokio::time::timeout(lease, self.pulled()).await;
        pulled.unwrap_or_else(|_| {
            let message = format!(
                "the prompt's KV was not pulled within {lease:?} of being ready; raise --ticket-lease if pulls take that long"
            );
            Err(Failure::new(ErrorCode::TicketGone, message))
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tickets.open().remove(&self.id);
    }
}

impl Claim {
    /// Waits until the prompt is computed.
    pub async fn first_token(&mut self) -> Result<Option<Sampled>, Failure> {
        let drawn = self
            .first_token_rx
            .wait_for(|state| *state != FirstToken::Due)
            .await;
        match drawn.as_deref() {
            Ok(FirstToken::Drawn(token)) => Ok(token.clone()),
            _ => Err(Failure::new(
                ErrorCode::TicketGone,
                "the prefill ended before its prompt was computed",
            )),
        }
    }

    /// All was sent.
    pub fn complete(self, pulled: Pulled) {
        // The Prefill call may have just been dropped: nobody to tell then.
        let _ = self.pulled_tx.send(pulled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn code(result: Result<impl std::fmt::Debug, Failure>) -> ErrorCode {
        result.unwrap_err().code
    }

    #[test]
    fn a_ticket_is_good_once() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(SequenceId(3));
        assert_eq!(tickets.claim(ticket.id()).unwrap().sequence, SequenceId(3));
        assert_eq!(code(tickets.claim(ticket.id())), ErrorCode::TicketGone);
    }

    #[test]
    fn a_dropped_ticket_is_void() {
        let tickets = Tickets::default();
        let id = tickets.issue(SequenceId(3)).id().to_owned();
        assert_eq!(code(tickets.claim(&id)), ErrorCode::TicketGone);
        assert!(tickets.open().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_pulls_within_the_lease() {
        let tickets = Tickets::default();
        let mut ticket = tickets.issue(SequenceId(3));
        let start = tokio::time::Instant::now();
        assert_eq!(
            code(ticket.pulled_within(LEASE).await),
            ErrorCode::TicketGone
        );
        assert_eq!(start.elapsed(), LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_tells_the_prefill_what_it_moved() {
        let tickets = Tickets::default();
        let mut ticket = tickets.issue(SequenceId(3));
        let mut claim = tickets.claim(ticket.id()).unwrap();
        ticket.computed(None);
        assert_eq!(claim.first_token().await, Ok(None));
        let pulled = Pulled {
            blocks: 2,
            bytes: 64,
        };
        claim.complete(pulled);
        assert_eq!(ticket.pulled_within(LEASE).await, Ok(pulled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_breaks_off_ends_the_prefill_at_once() {
        let tickets = Tickets::default();
        let mut ticket = tickets.issue(SequenceId(3));
        drop(tickets.claim(ticket.id()).unwrap());
        let start = tokio::time::Instant::now();
        assert_eq!(
            code(ticket.pulled_within(LEASE).await),
            ErrorCode::TicketGone
        );
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefill_that_ends_early_ends_the_pull() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(SequenceId(3));
        let mut claim = tickets.claim(ticket.id()).unwrap();
        drop(ticket);
        assert_eq!(code(claim.first_token().await), ErrorCode::TicketGone);
    }
}
