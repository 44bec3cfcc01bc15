//! Who is turned away when there is no room or no time, and when to come back.

use std::time::Duration;

use super::{
    Ask, Band, FLOOR, MAX_RETRY_AFTER, MIN_RETRY_AFTER, OPTIMISM, Place, Queue, Reason, Shed,
    WaiterId,
};

/// What an arrival may claim of a full queue.
struct Claim {
    band: Band,
    /// Virtual time of what its tenant would have in the queue.
    backlog: u64,
    /// Its band has less than is kept for it.
    has_floor: bool,
}

impl<W> Queue<W> {
    /// Why `ask` is turned away on arrival; else there is a turn or room for it,
    /// if need be in the place of others.
    pub(super) fn refusal(&mut self, ask: &Ask, band: Band, now: Duration) -> Option<Reason> {
        if ask.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Reason::DeadlinePassed);
        }
        if self.waiting() == 0 && self.running < self.limit(now) {
            return None;
        }
        if self.is_out_of_reach(ask, band, now) {
            return Some(Reason::OutOfReach);
        }
        if self.limits.max_waiting == 0 {
            return Some(Reason::QueueFull);
        }
        self.make_room(ask, band, now).err()
    }

    /// Whether the deadline passes before the turn would come, by the rate at
    /// which the queue drains.
    fn is_out_of_reach(&self, ask: &Ask, band: Band, now: Duration) -> bool {
        let (Some(deadline), Some(rate)) = (ask.deadline, self.drain.rate()) else {
            return false;
        };
        let before: usize = band
            .up_to_this()
            .iter()
            .map(|it| self.waiting_in(*it))
            .sum();
        let left = deadline.saturating_sub(now).as_secs_f64() * rate * OPTIMISM;
        // Even behind all of them it is in time: no need to look closer.
        if (before + 1) as f64 <= left {
            return false;
        }
        let own = self.waiting_in(band);
        let ahead = self.bands[band.index()].ahead_of(&ask.tenant, ask.priority);
        (before - own + ahead + 1) as f64 > left
    }

    /// Displaces waiters until `ask` has room.
    fn make_room(&mut self, ask: &Ask, band: Band, now: Duration) -> Result<(), Reason> {
        let weight = self.weight(&ask.tenant);
        let arrival = Claim {
            band,
            backlog: self.bands[band.index()].backlog_with(&ask.tenant, weight, ask.tokens),
            has_floor: self.is_under_floor(band, ask.tokens),
        };
        if self.is_full(ask.tokens) && !self.can_have_room(&arrival, ask.tokens) {
            let has_most = self.bands[band.index()].has_most(&ask.tenant);
            return Err(if has_most {
                Reason::OverShare
            } else {
                Reason::QueueFull
            });
        }
        while self.is_full(ask.tokens) {
            let victim = self.victim(&arrival).ok_or(Reason::QueueFull)?;
            self.displace(WaiterId(victim.ticket()), now);
        }
        Ok(())
    }

    /// Whether displacing others would make room, before anybody is.
    fn can_have_room(&self, arrival: &Claim, ask: u64) -> bool {
        let kept = arrival.band.up_to_this().iter();
        let kept = kept.map(|band| &self.bands[band.index()]);
        let (mut waiting, tokens) = kept.fold((0, 0), |(waiting, tokens), flows| {
            (waiting + flows.waiting(), tokens + flows.tokens())
        });
        let less_urgent = arrival.band.less_urgent().iter();
        let protected = less_urgent.map(|it| self.waiting_in(*it).min(self.floor()));
        waiting += protected.sum::<usize>();
        arrival.has_floor
            || self.has_room(waiting, tokens, ask)
            || self.longest_in(arrival.band, arrival.backlog).is_some()
    }

    /// Who makes room: the least urgent first, but no band falls below its
    /// floor; then, for a band that has not its own floor, the fullest band; then
    /// the tenant that has more in the queue than `arrival`'s would have.
    fn victim(&self, arrival: &Claim) -> Option<Place> {
        let above_floor = |band: &&Band| self.waiting_in(**band) > self.floor();
        let mut less_urgent = arrival.band.less_urgent().iter().rev().filter(above_floor);
        let least_urgent = less_urgent.find_map(|band| self.longest_in(*band, 0));
        let fullest = || {
            let others = Band::ALL.iter().filter(|band| **band != arrival.band);
            let others = others.filter(above_floor).filter(|_| arrival.has_floor);
            let fullest = others.max_by_key(|band| self.waiting_in(**band))?;
            self.longest_in(*fullest, 0)
        };
        let rival = || self.longest_in(arrival.band, arrival.backlog);
        least_urgent.or_else(fullest).or_else(rival)
    }

    fn longest_in(&self, band: Band, than: u64) -> Option<Place> {
        self.bands[band.index()].last_of_longest(than)
    }

    /// Places that are kept for each band.
    fn floor(&self) -> usize {
        self.limits.max_waiting / FLOOR as usize
    }

    fn is_under_floor(&self, band: Band, tokens: u64) -> bool {
        let all = self.bands[band.index()].tokens().saturating_add(tokens);
        let most = self.limits.max_waiting_tokens / u64::from(FLOOR);
        self.waiting_in(band) < self.floor() && all <= most
    }

    fn displace(&mut self, id: WaiterId, now: Duration) {
        let band = self.spots.get(&id).map(|spot| spot.band);
        if let (Some(band), Some(waiter)) = (band, self.remove(id)) {
            let shed = self.shed(Reason::Displaced, band, now);
            self.turned_away.push((waiter.payload, shed));
        }
    }

    fn is_full(&self, tokens: u64) -> bool {
        !self.has_room(self.waiting(), self.waiting_tokens(), tokens)
    }

    /// Whether `tokens` may wait besides what waits. One alone always may.
    fn has_room(&self, waiting: usize, waiting_tokens: u64, tokens: u64) -> bool {
        let most = self.limits.max_waiting_tokens;
        waiting < self.limits.max_waiting
            && (waiting == 0 || waiting_tokens.saturating_add(tokens) <= most)
    }

    pub(super) fn shed(&mut self, reason: Reason, band: Band, now: Duration) -> Shed {
        Shed {
            reason,
            band,
            retry_after: self.retry_after(band, now),
            no_capacity: self.limit(now) == 0,
        }
    }

    /// When a turn may be free for one who is turned away now: after those that
    /// wait before it, and after those told the same before it, lest all come
    /// back at once.
    fn retry_after(&mut self, band: Band, now: Duration) -> Duration {
        if self.limit(now) == 0 {
            let left = self.capacity.lease_end().unwrap_or(now).saturating_sub(now);
            return left.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        }
        let Some(rate) = self.drain.rate() else {
            return self
                .longest_wait(now)
                .clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        };
        let before: usize = band
            .up_to_this()
            .iter()
            .map(|it| self.waiting_in(*it))
            .sum();
        let seconds =
            |turns: f64| Duration::from_secs_f64((turns / rate).min(MAX_RETRY_AFTER.as_secs_f64()));
        let drained = now + seconds((before + 1) as f64);
        let promised = &mut self.promised[band.index()];
        *promised = drained
            .max(*promised + seconds(1.0))
            .min(now + MAX_RETRY_AFTER);
        (*promised - now).max(MIN_RETRY_AFTER)
    }

    /// Of the one who would be turned away first: all that is known before
    /// turns came free.
    fn longest_wait(&self, now: Duration) -> Duration {
        let arrived = self.expiries.first().and_then(|(_, id)| {
            let spot = self.spots.get(id)?;
            self.bands[spot.band.index()].arrived(spot.flow, spot.place)
        });
        arrived.map_or(Duration::ZERO, |arrived| now.saturating_sub(arrived))
    }
}
