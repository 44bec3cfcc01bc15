//! The requests of one tenant in one band.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Virtual time that one token takes at weight 1; divided by the weight.
const UNIT: f64 = 1024.0;

/// Order within a flow: the more urgent first, of equals those who are in time for
/// their objective, then by ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<i32>,
    is_late: bool,
    ticket: u64,
}

impl Place {
    /// Tickets are numbered in order of arrival.
    pub(super) fn new(priority: i32, ticket: u64) -> Place {
        Place {
            priority: Reverse(priority),
            is_late: false,
            ticket,
        }
    }

    /// Too late for its objective.
    pub(super) fn late(self) -> Place {
        Place {
            is_late: true,
            ..self
        }
    }

    pub(super) fn priority(self) -> i32 {
        self.priority.0
    }

    pub(super) fn ticket(self) -> u64 {
        self.ticket
    }
}

#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) payload: W,
    pub(super) tokens: u64,
    pub(super) arrived: Duration,
    /// Turned away then.
    pub(super) until: Duration,
    /// Because of its own deadline.
    pub(super) has_deadline: bool,
    /// See [`super::Ask::start_by`].
    pub(super) start_by: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Flow<W> {
    pub(super) tenant: Arc<str>,
    /// Virtual time of a token.
    unit: u64,
    /// Virtual time of the service received: who has least is served next.
    pub(super) counter: u64,
    pub(super) running: usize,
    /// Tokens that wait.
    pub(super) backlog: u64,
    pub(super) waiters: BTreeMap<Place, Waiter<W>>,
}

impl<W> Flow<W> {
    pub(super) fn new(tenant: Arc<str>, weight: f64) -> Flow<W> {
        Flow {
            tenant,
            unit: unit(weight),
            counter: 0,
            running: 0,
            backlog: 0,
            waiters: BTreeMap::new(),
        }
    }

    pub(super) fn charge(&mut self, tokens: u64) {
        self.counter = self.counter.saturating_add(self.virtual_time(tokens));
    }

    pub(super) fn refund(&mut self, tokens: u64) {
        self.counter = self.counter.saturating_sub(self.virtual_time(tokens));
    }

    pub(super) fn insert(&mut self, place: Place, waiter: Waiter<W>) {
        self.backlog = self.backlog.saturating_add(waiter.tokens);
        self.waiters.insert(place, waiter);
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Waiter<W>> {
        let waiter = self.waiters.remove(&place)?;
        self.backlog = self.backlog.saturating_sub(waiter.tokens);
        Some(waiter)
    }

    /// The waiter goes behind those in time.
    pub(super) fn delay(&mut self, place: Place) {
        if let Some(waiter) = self.waiters.remove(&place) {
            self.waiters.insert(place.late(), waiter);
        }
    }

    /// Virtual time of what waits.
    pub(super) fn backlog_time(&self) -> u64 {
        self.virtual_time(self.backlog)
    }

    pub(super) fn virtual_time(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(self.unit)
    }

    /// Waiters that would go before one of `priority` that came now, and their
    /// tokens.
    pub(super) fn ahead_of(&self, priority: i32) -> (usize, u64) {
        let own = Place::new(priority, u64::MAX);
        let last = self.waiters.last_key_value();
        if last.is_none_or(|(place, _)| *place < own) {
            return (self.waiters.len(), self.backlog);
        }
        let ahead = self.waiters.range(..own);
        ahead.fold((0, 0), |(count, tokens), (_, waiter)| {
            (count + 1, tokens + waiter.tokens)
        })
    }

    /// How many of its waiters would be served before its counter passes
    /// `time`, if all were of mean size.
    pub(super) fn served_by(&self, time: u64) -> usize {
        let Some(lead) = time.checked_sub(self.counter) else {
            return 0;
        };
        let waiting = self.waiters.len();
        let each = (self.backlog_time() / waiting.max(1) as u64).max(1);
        let served = usize::try_from(lead / each).unwrap_or(usize::MAX);
        served.saturating_add(1).min(waiting)
    }
}

/// Virtual time of a token of a tenant of this weight.
pub(super) fn unit(weight: f64) -> u64 {
    (UNIT / weight).max(1.0) as u64
}
