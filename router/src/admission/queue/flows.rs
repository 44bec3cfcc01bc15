//! Fairness between the tenants of one band: virtual token counters (Sheng et
//! al., "Fairness in Serving Large Language Models", OSDI 2024).
//!
//! A tenant's counter grows by the tokens of its requests over its weight: by
//! the estimate when a turn is given, and corrected to the truth when it comes
//! back. The smallest counter goes next. Who begins to wait is lifted to the
//! band's virtual time (the counter last served, as in start-time fair
//! queueing), so that idle time saves up no credit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::flow::{Flow, Place, Waiter, unit};

/// Tenants remembered although they neither wait nor run, for what they had
/// beyond their share. Past it, those that had least are forgotten.
const MAX_IDLE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId(u64);

#[derive(Debug)]
pub(super) struct Flows<W> {
    flows: FxHashMap<FlowId, Flow<W>>,
    by_tenant: FxHashMap<Arc<str>, FlowId>,
    orders: Orders,
    virtual_time: u64,
    waiting: usize,
    tokens: u64,
    running: usize,
    next_flow: u64,
}

/// Flows by what they are looked up for. Every flow that waits is in the first
/// two; one that neither waits nor runs in the last.
#[derive(Debug, Default)]
struct Orders {
    by_counter: BTreeSet<(u64, FlowId)>,
    by_backlog: BTreeSet<(u64, FlowId)>,
    idle: BTreeSet<(u64, FlowId)>,
}

impl Orders {
    fn insert<W>(&mut self, id: FlowId, flow: &Flow<W>) {
        if !flow.waiters.is_empty() {
            self.by_counter.insert((flow.counter, id));
            self.by_backlog.insert((flow.backlog_time(), id));
        } else if flow.running == 0 {
            self.idle.insert((flow.counter, id));
        }
    }

    fn remove<W>(&mut self, id: FlowId, flow: &Flow<W>) {
        if !flow.waiters.is_empty() {
            self.by_counter.remove(&(flow.counter, id));
            self.by_backlog.remove(&(flow.backlog_time(), id));
        } else if flow.running == 0 {
            self.idle.remove(&(flow.counter, id));
        }
    }
}

impl<W> Default for Flows<W> {
    fn default() -> Flows<W> {
        Flows {
            flows: FxHashMap::default(),
            by_tenant: FxHashMap::default(),
            orders: Orders::default(),
            virtual_time: 0,
            waiting: 0,
            tokens: 0,
            running: 0,
            next_flow: 0,
        }
    }
}

impl<W> Flows<W> {
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// That wait.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// A turn without waiting.
    pub(super) fn enter(&mut self, tenant: &Arc<str>, weight: f64, tokens: u64) -> FlowId {
        let id = self.flow(tenant, weight);
        let start = self.virtual_time;
        let began = self.change(id, |flow| {
            flow.counter = flow.counter.max(start);
            flow.running += 1;
            let began = flow.counter;
            flow.charge(tokens);
            began
        });
        self.virtual_time = began.unwrap_or(start);
        self.running += 1;
        self.prune();
        id
    }

    pub(super) fn push(
        &mut self,
        tenant: &Arc<str>,
        weight: f64,
        place: Place,
        waiter: Waiter<W>,
    ) -> FlowId {
        let id = self.flow(tenant, weight);
        let start = self.virtual_time;
        self.waiting += 1;
        self.tokens = self.tokens.saturating_add(waiter.tokens);
        self.change(id, |flow| {
            if flow.waiters.is_empty() {
                flow.counter = flow.counter.max(start);
            }
            flow.insert(place, waiter);
        });
        id
    }

    /// Who is served next; a turn of its flow.
    pub(super) fn pop(&mut self) -> Option<(FlowId, Place, Waiter<W>)> {
        let &(counter, id) = self.orders.by_counter.first()?;
        let place = *self.flows.get(&id)?.waiters.first_key_value()?.0;
        let waiter = self.take(id, place)?;
        self.virtual_time = self.virtual_time.max(counter);
        self.change(id, |flow| {
            flow.running += 1;
            flow.charge(waiter.tokens);
        });
        self.running += 1;
        self.prune();
        Some((id, place, waiter))
    }

    /// A turn comes back, which cost `spent` tokens, not the `charged` ones.
    pub(super) fn leave(&mut self, id: FlowId, charged: u64, spent: u64) {
        self.running = self.running.saturating_sub(1);
        self.change(id, |flow| {
            flow.running = flow.running.saturating_sub(1);
            flow.charge(spent.saturating_sub(charged));
            flow.refund(charged.saturating_sub(spent));
        });
        self.prune();
    }

    pub(super) fn remove(&mut self, id: FlowId, place: Place) -> Option<Waiter<W>> {
        let waiter = self.take(id, place);
        self.prune();
        waiter
    }

    /// See [`Flow::delay`].
    pub(super) fn delay(&mut self, id: FlowId, place: Place) {
        self.change(id, |flow| flow.delay(place));
    }

    pub(super) fn arrived(&self, id: FlowId, place: Place) -> Option<Duration> {
        let waiter = self.flows.get(&id)?.waiters.get(&place)?;
        Some(waiter.arrived)
    }

    /// The last waiter of the flow with most in the queue for its weight, if
    /// that is more than `than`.
    pub(super) fn last_of_longest(&self, than: u64) -> Option<Place> {
        let &(backlog, id) = self.orders.by_backlog.last()?;
        let place = self.flows.get(&id)?.waiters.last_key_value()?.0;
        (backlog > than).then_some(*place)
    }

    /// Whether `tenant` has more in the queue for its weight than any other
    /// that waits.
    pub(super) fn has_most(&self, tenant: &str) -> bool {
        let longest = self.orders.by_backlog.last().map(|(_, id)| id);
        let own = self.by_tenant.get(tenant);
        self.orders.by_backlog.len() > 1 && longest.is_some() && longest == own
    }

    /// Virtual time of what `tenant` would have in the queue with `tokens` more.
    pub(super) fn backlog_with(&self, tenant: &str, weight: f64, tokens: u64) -> u64 {
        let waiting = self.of(tenant).map_or(0, |flow| flow.backlog);
        waiting.saturating_add(tokens).saturating_mul(unit(weight))
    }

    /// Waiters of the band that would go before one of `tenant` that came now.
    pub(super) fn ahead_of(&self, tenant: &str, priority: i32) -> usize {
        let own = self.of(tenant);
        let (own_ahead, own_tokens) = own.map_or((0, 0), |flow| flow.ahead_of(priority));
        let own_id = self.by_tenant.get(tenant);
        let counter = own.map_or(0, |flow| flow.counter).max(self.virtual_time);
        let lead = own.map_or(0, |flow| flow.virtual_time(own_tokens));
        let start = counter.saturating_add(lead);
        let others = self.orders.by_counter.range(..=(start, FlowId(u64::MAX)));
        let others = others.filter(|(_, id)| Some(id) != own_id);
        let others = others.filter_map(|(_, id)| self.flows.get(id));
        own_ahead + others.map(|flow| flow.served_by(start)).sum::<usize>()
    }

    /// Waiters in the order in which they would be served.
    pub(super) fn in_order(&self) -> Vec<(&Arc<str>, Place, &Waiter<W>)> {
        let mut waiters = Vec::with_capacity(self.waiting);
        for (id, flow) in &self.flows {
            let mut before = 0;
            for (place, waiter) in &flow.waiters {
                let start = flow.counter.saturating_add(flow.virtual_time(before));
                waiters.push(((start, *id, *place), (&flow.tenant, *place, waiter)));
                before += waiter.tokens;
            }
        }
        waiters.sort_by_key(|(order, _)| *order);
        waiters.into_iter().map(|(_, waiter)| waiter).collect()
    }

    #[cfg(test)]
    pub(super) fn by_name(&self, tenant: &str) -> Option<FlowId> {
        self.by_tenant.get(tenant).copied()
    }

    fn take(&mut self, id: FlowId, place: Place) -> Option<Waiter<W>> {
        let waiter = self.change(id, |flow| flow.remove(place)).flatten()?;
        self.waiting -= 1;
        self.tokens = self.tokens.saturating_sub(waiter.tokens);
        Some(waiter)
    }

    /// Of `tenant`; made if it is not there.
    fn flow(&mut self, tenant: &Arc<str>, weight: f64) -> FlowId {
        if let Some(id) = self.by_tenant.get(tenant) {
            return *id;
        }
        let id = FlowId(self.next_flow);
        self.next_flow += 1;
        let flow = Flow::new(tenant.clone(), weight);
        self.orders.insert(id, &flow);
        self.flows.insert(id, flow);
        self.by_tenant.insert(tenant.clone(), id);
        id
    }

    fn of(&self, tenant: &str) -> Option<&Flow<W>> {
        self.flows.get(self.by_tenant.get(tenant)?)
    }

    /// Changes a flow, and keeps the orders right.
    fn change<R>(&mut self, id: FlowId, change: impl FnOnce(&mut Flow<W>) -> R) -> Option<R> {
        let flow = self.flows.get_mut(&id)?;
        self.orders.remove(id, flow);
        let result = change(flow);
        self.orders.insert(id, flow);
        Some(result)
    }

    /// Forgets idle flows that would be lifted to the virtual time anyway, and
    /// all when the band is idle: without rivals no share is exceeded.
    fn prune(&mut self) {
        let rivals = self.waiting > 0 || self.running > 0;
        while let Some(&(counter, id)) = self.orders.idle.first()
            && (!rivals || counter <= self.virtual_time || self.orders.idle.len() > MAX_IDLE)
        {
            self.orders.idle.remove(&(counter, id));
            if let Some(flow) = self.flows.remove(&id) {
                self.by_tenant.remove(&flow.tenant);
            }
        }
    }
}
