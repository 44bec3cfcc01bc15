//! Who may run now, who waits, and who is turned away: admission as a pure
//! structure, driven by the router in real time and by the simulator in virtual
//! time. `now` is the time since any fixed start, and never goes back.
//!
//! Promises: never more turns out than the capacity allows; no free turn while
//! somebody waits ([`Queue::next`] until it gives none); between tenants of a
//! band, service in proportion to their weights, counted in tokens; within a
//! tenant and band the more urgent first, of equals those who can still meet their
//! objective, and then in order of arrival. A more urgent band goes first, but each band may have one turn and one place in
//! [`FLOOR`]. Leaves waking and timers to the caller.

mod band;
mod capacity;
mod drain;
mod flow;
mod flows;
mod room;
mod shed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

pub use band::Band;
use capacity::Capacity;
use drain::DrainRate;
use flow::{Place, Waiter};
use flows::{FlowId, Flows};
pub use shed::{Reason, Shed};

/// A band that waits gets at least one of so many turns, and may hold one of so
/// many places (in a shorter queue: none), however many more urgent ones come.
pub const FLOOR: u32 = 20;
/// Nobody is told to come back later than this: what is known now says little
/// about then.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// A deadline counts as out of reach only if it would be missed even with the
/// queue moving so much faster than observed.
const OPTIMISM: f64 = 1.5;

/// How much may run and wait.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Turns out at once; workers' reports can only lower it.
    pub max_running: usize,
    pub max_waiting: usize,
    /// Tokens that wait, as estimated; a single request may exceed it.
    pub max_waiting_tokens: u64,
    pub max_wait: Duration,
    /// Shares of tenants relative to the others'; 1 for those not named.
    pub weights: FxHashMap<Arc<str>, f64>,
}

/// What a request asks admission for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ask {
    pub tenant: Arc<str>,
    /// Higher is more urgent; the sign decides the band.
    pub priority: i32,
    /// Prompt and completion as far as known, weighted as the caller likes:
    /// the currency of fairness.
    pub tokens: u64,
    /// A turn later than this is of no use.
    pub deadline: Option<Duration>,
    /// A turn later than this is too late for an objective, and then better given to
    /// whom it is not.
    pub start_by: Option<Duration>,
}

/// A place among the running; give it back by [`Queue::release`].
#[derive(Debug, PartialEq)]
#[must_use = "a turn that is not released is lost"]
pub struct Turn {
    pub band: Band,
    /// How long it was waited for.
    pub waited: Duration,
    flow: FlowId,
    charged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(u64);

/// What becomes of an arrival.
#[derive(Debug, PartialEq)]
pub enum Arrival<W> {
    Admitted {
        waiter: W,
        turn: Turn,
    },
    /// To be turned away at `until`, if its turn has not come.
    Queued {
        id: WaiterId,
        until: Duration,
    },
    Shed {
        waiter: W,
        shed: Shed,
    },
}

/// Where a waiter stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    pub band: Band,
    pub tenant: Arc<str>,
    pub priority: i32,
    pub tokens: u64,
    pub waited: Duration,
}

/// Where a waiter is found.
#[derive(Clone, Copy, Debug)]
struct Spot {
    band: Band,
    flow: FlowId,
    place: Place,
}

/// The one entry. `W` is what stands for a waiter: a channel, a simulated
/// request.
#[derive(Debug)]
pub struct Queue<W> {
    limits: Limits,
    capacity: Capacity,
    drain: DrainRate,
    bands: [Flows<W>; Band::COUNT],
    /// Turns given to more urgent bands since this one waits for its own.
    passed_over: [u32; Band::COUNT],
    spots: FxHashMap<WaiterId, Spot>,
    /// By the time at which they are turned away.
    expiries: BTreeSet<(Duration, WaiterId)>,
    /// Those who are in time for their objective, by when they will not be.
    in_time: BTreeSet<(Duration, WaiterId)>,
    /// To be handed out by `expire`.
    turned_away: Vec<(W, Shed)>,
    running: usize,
    next_waiter: u64,
    /// Up to when the coming turns of each band are promised to those who were
    /// told to come back.
    promised: [Duration; Band::COUNT],
}

impl<W> Queue<W> {
    pub fn new(limits: Limits) -> Queue<W> {
        Queue {
            capacity: Capacity::new(limits.max_running),
            limits,
            drain: DrainRate::default(),
            bands: Default::default(),
            passed_over: [0; Band::COUNT],
            spots: FxHashMap::default(),
            expiries: BTreeSet::new(),
            in_time: BTreeSet::new(),
            turned_away: Vec::new(),
            running: 0,
            next_waiter: 0,
            promised: [Duration::ZERO; Band::COUNT],
        }
    }

    /// Admits at once if a turn is free, else queues or sheds. Others may have
    /// been displaced: see [`Queue::expire`].
    pub fn arrive(&mut self, ask: Ask, waiter: W, now: Duration) -> Arrival<W> {
        self.advance(now);
        let band = Band::of(ask.priority);
        match self.refusal(&ask, band, now) {
            Some(reason) => {
                let shed = self.shed(reason, band, now);
                Arrival::Shed { waiter, shed }
            }
            None if self.waiting() == 0 && self.running < self.limit(now) => {
                let weight = self.weight(&ask.tenant);
                let flow = self.bands[band.index()].enter(&ask.tenant, weight, ask.tokens);
                self.running += 1;
                let turn = Turn {
                    band,
                    waited: Duration::ZERO,
                    flow,
                    charged: ask.tokens,
                };
                Arrival::Admitted { waiter, turn }
            }
            None => self.queue(ask, band, waiter, now),
        }
    }

    /// Gives `turn` back. `spent` is what the request came to in truth, in the
    /// currency of [`Ask::tokens`].
    pub fn release(&mut self, turn: Turn, spent: u64, now: Duration) {
        self.advance(now);
        self.running = self.running.saturating_sub(1);
        if self.waiting() > 0 && self.running < self.limit(now) {
            self.drain.turn();
        }
        self.bands[turn.band.index()].leave(turn.flow, turn.charged, spent);
    }

    /// Whose turn it is, if one is free. To be asked until it gives none, after
    /// whatever may have freed one or let one in.
    pub fn next(&mut self, now: Duration) -> Option<(W, Turn)> {
        self.advance(now);
        self.collect_expired(now);
        if self.running >= self.limit(now) {
            return None;
        }
        let band = self.next_band()?;
        let (flow, place, waiter) = self.bands[band.index()].pop()?;
        self.forget(WaiterId(place.ticket()), &waiter);
        self.running += 1;
        let turn = Turn {
            band,
            waited: now.saturating_sub(waiter.arrived),
            flow,
            charged: waiter.tokens,
        };
        Some((waiter.payload, turn))
    }

    /// Those turned away by `now`: their time is over, or they were displaced.
    pub fn expire(&mut self, now: Duration) -> Vec<(W, Shed)> {
        self.advance(now);
        self.collect_expired(now);
        std::mem::take(&mut self.turned_away)
    }

    /// When to call [`Queue::expire`] and [`Queue::next`] again although
    /// nothing else happens.
    pub fn next_expiry(&self) -> Option<Duration> {
        if !self.turned_away.is_empty() {
            return Some(Duration::ZERO);
        }
        let (first, _) = self.expiries.first()?;
        let lease = self.lease_end();
        Some(lease.map_or(*first, |end| end.min(*first)))
    }

    /// When a lease ends that lowers the limit now.
    pub fn lease_end(&self) -> Option<Duration> {
        self.capacity.lease_end()
    }

    /// The waiter leaves. `None`: it has had its answer already.
    pub fn cancel(&mut self, id: WaiterId, now: Duration) -> Option<W> {
        self.advance(now);
        self.remove(id).map(|waiter| waiter.payload)
    }

    /// At most `limit` turns until `valid_until`, then again what the limits
    /// say: a reporter that falls silent holds nobody up for longer than that.
    pub fn set_capacity(&mut self, limit: usize, valid_until: Duration, now: Duration) {
        self.advance(now);
        self.capacity.lease(limit, valid_until);
    }

    /// Turns that may be out at `now`.
    pub fn limit(&self, now: Duration) -> usize {
        self.capacity.limit(now)
    }

    /// Turns that are out.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Waiters of all bands.
    pub fn waiting(&self) -> usize {
        self.spots.len()
    }

    pub fn waiting_in(&self, band: Band) -> usize {
        self.bands[band.index()].waiting()
    }

    /// As estimated on arrival.
    pub fn waiting_tokens(&self) -> u64 {
        self.bands.iter().map(Flows::tokens).sum()
    }

    /// Turns per second that come free while somebody waits, once observed.
    pub fn drain_rate(&self) -> Option<f64> {
        self.drain.rate()
    }

    /// All waiters in the order in which they would be served if nobody came
    /// or left; sorts them, so not for every request.
    pub fn positions(&self, now: Duration) -> Vec<Position> {
        let bands = Band::ALL.iter();
        let positions = bands.flat_map(|&band| {
            let waiters = self.bands[band.index()].in_order().into_iter();
            waiters.map(move |(tenant, place, waiter)| Position {
                band,
                tenant: tenant.clone(),
                priority: place.priority(),
                tokens: waiter.tokens,
                waited: now.saturating_sub(waiter.arrived),
            })
        });
        positions.collect()
    }

    /// How many flows are remembered; bounded by waiters, turns and a constant.
    pub fn flows(&self) -> usize {
        self.bands.iter().map(Flows::len).sum()
    }

    fn queue(&mut self, ask: Ask, band: Band, payload: W, now: Duration) -> Arrival<W> {
        let id = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        let longest = now.saturating_add(self.limits.max_wait);
        let waiter = Waiter {
            payload,
            tokens: ask.tokens,
            arrived: now,
            until: ask.deadline.map_or(longest, |it| it.min(longest)),
            has_deadline: ask.deadline.is_some_and(|it| it <= longest),
            start_by: ask.start_by,
        };
        let until = waiter.until;
        self.expiries.insert((until, id));
        self.in_time.extend(ask.start_by.map(|by| (by, id)));
        let place = Place::new(ask.priority, id.0);
        let weight = self.weight(&ask.tenant);
        let flow = self.bands[band.index()].push(&ask.tenant, weight, place, waiter);
        self.spots.insert(id, Spot { band, flow, place });
        Arrival::Queued { id, until }
    }

    /// The most urgent band that waits, unless another was passed over too
    /// often.
    fn next_band(&mut self) -> Option<Band> {
        let waits = Band::ALL.map(|band| !self.bands[band.index()].is_empty());
        let waiting = Band::ALL.into_iter().filter(|band| waits[band.index()]);
        let passed = |band: &Band| self.passed_over[band.index()];
        // Two bands may be due at once, and one of them has its turn later.
        let overdue = waiting.clone().filter(|band| passed(band) >= FLOOR - 2);
        let chosen = overdue.max_by_key(passed).or(waiting.clone().next())?;
        for band in Band::ALL {
            let passed = &mut self.passed_over[band.index()];
            let is_passed = band != chosen && waits[band.index()];
            *passed = if is_passed { *passed + 1 } else { 0 };
        }
        Some(chosen)
    }

    fn collect_expired(&mut self, now: Duration) {
        while let Some(&(until, id)) = self.expiries.first()
            && until <= now
        {
            let band = self.spots.get(&id).map(|spot| spot.band);
            let (Some(band), Some(waiter)) = (band, self.remove(id)) else {
                self.expiries.remove(&(until, id));
                continue;
            };
            let reason = if waiter.has_deadline {
                Reason::DeadlinePassed
            } else {
                Reason::WaitedTooLong
            };
            let shed = self.shed(reason, band, now);
            self.turned_away.push((waiter.payload, shed));
        }
    }

    fn remove(&mut self, id: WaiterId) -> Option<Waiter<W>> {
        let spot = self.spots.get(&id)?;
        let waiter = self.bands[spot.band.index()].remove(spot.flow, spot.place)?;
        self.forget(id, &waiter);
        Some(waiter)
    }

    fn forget(&mut self, id: WaiterId, waiter: &Waiter<W>) {
        self.spots.remove(&id);
        self.expiries.remove(&(waiter.until, id));
        if let Some(by) = waiter.start_by {
            self.in_time.remove(&(by, id));
        }
    }

    /// Who can't meet an objective any more goes behind those who can.
    fn delay_late(&mut self, now: Duration) {
        while let Some(&(by, id)) = self.in_time.first()
            && by < now
        {
            self.in_time.remove(&(by, id));
            if let Some(spot) = self.spots.get_mut(&id) {
                self.bands[spot.band.index()].delay(spot.flow, spot.place);
                spot.place = spot.place.late();
            }
        }
    }

    fn advance(&mut self, now: Duration) {
        self.drain.advance(now, !self.spots.is_empty());
        self.capacity.advance(now);
        self.delay_late(now);
    }

    fn weight(&self, tenant: &str) -> f64 {
        self.limits.weights.get(tenant).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests;
