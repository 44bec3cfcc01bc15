//! One worker as a router sees it, and what bookings add to its load until it
//! reports them.

use std::time::Duration;

use kvcache_index::WorkerSlot;

use super::backlog::Backlog;
use super::{Member, Report};
use crate::plan::Load;

#[derive(Debug)]
pub(super) struct Worker {
    pub member: Member,
    /// Takes work.
    pub available: bool,
    /// As last counted; `None`: it takes no work.
    pub room: Option<usize>,
    pub report: Report,
    pub unreported: Unreported,
    pub backlog: Backlog,
    /// Bookings it has accepted, each with its number among the sequences that it
    /// has taken in, which its reports do not include yet.
    pub accepted: Vec<(u64, u64)>,
}

/// Sum of the bookings' shares that a worker's report does not include yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unreported {
    pub prefill_tokens: u64,
    pub sequences: u32,
    pub blocks: u32,
}

#[derive(Debug)]
pub(super) struct Booked {
    pub decode: Share,
    pub prefill: Option<Share>,
}

/// What a booking adds to one worker's load, until the worker reports it.
#[derive(Debug)]
pub(super) struct Share {
    pub worker: WorkerSlot,
    pub epoch: u64,
    pub prefill_tokens: u64,
    pub blocks: u32,
    /// A report that includes it has arrived.
    pub reported: bool,
}

impl Unreported {
    pub fn add(&mut self, share: &Share) {
        self.prefill_tokens += share.prefill_tokens;
        self.sequences += 1;
        self.blocks += share.blocks;
    }

    pub fn remove(&mut self, share: &Share) {
        self.prefill_tokens -= share.prefill_tokens;
        self.sequences -= 1;
        self.blocks -= share.blocks;
    }
}

impl Worker {
    /// One that takes no work yet.
    pub fn new(member: Member) -> Worker {
        Worker {
            member,
            available: false,
            room: None,
            report: Report::default(),
            unreported: Unreported::default(),
            backlog: Backlog::default(),
            accepted: Vec::new(),
        }
    }

    /// A report includes this start's share of `booked`: its prompt tokens, unless
    /// that was known.
    pub fn settle(&mut self, slot: WorkerSlot, booked: Option<&mut Booked>) -> Option<u64> {
        let epoch = self.member.epoch;
        let mut shares = booked?.shares_mut();
        let share = shares.find(|it| it.worker == slot && it.epoch == epoch && !it.reported)?;
        share.reported = true;
        self.unreported.remove(share);
        Some(share.prefill_tokens)
    }

    pub fn add(&mut self, share: &Share, now: Duration) {
        self.unreported.add(share);
        let rate = self.prefill_rate();
        self.backlog
            .add(now.as_secs_f64(), rate, share.prefill_tokens);
    }

    /// Prompt tokens a second; 0: unknown.
    pub fn prefill_rate(&self) -> f64 {
        known(self.report.prefill_tokens_per_second)
    }

    /// As of the last report or booking.
    pub fn load(&self) -> Load {
        let (report, more) = (&self.report, &self.unreported);
        Load {
            queued_tokens: self.backlog.left(0.0, 0.0) as u32,
            sequences: report.sequences + more.sequences,
            free_blocks: report.free_blocks.saturating_sub(more.blocks),
            total_blocks: report.total_blocks,
            prefill_ms: ms_of(report.prefill_tokens_per_second),
            drain_ms: ms_of(report.drain_tokens_per_second),
            step_ms: known(report.decode_step_ms),
            inter_token_ms: known(report.inter_token_ms),
            waiting: report.waiting + more.sequences,
        }
    }
}

impl Booked {
    pub fn shares(&self) -> impl Iterator<Item = &Share> {
        std::iter::once(&self.decode).chain(&self.prefill)
    }

    pub fn shares_mut(&mut self) -> impl Iterator<Item = &mut Share> {
        std::iter::once(&mut self.decode).chain(&mut self.prefill)
    }
}

/// What was reported; 0 if that is no rate and no time.
fn known(reported: f32) -> f64 {
    match reported.is_finite() && reported > 0.0 {
        true => f64::from(reported),
        false => 0.0,
    }
}

/// Of one token at so many a second; 0: unknown.
fn ms_of(tokens_per_second: f32) -> f64 {
    match known(tokens_per_second) {
        0.0 => 0.0,
        rate => 1e3 / rate,
    }
}
