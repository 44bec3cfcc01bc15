//! Who belongs to the cluster: one link per member, as membership says.
//!
//! A member that membership removes leaves once its own connection is dead too:
//! whoever still answers goes on serving. If meanwhile it is added again, under
//! any id, it keeps its link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kvcache_index::WorkerSlot;
use runtime::Lifecycle;
use runtime::membership::{Change, Member, Membership, WorkerAddress};

use super::Cluster;
use super::link::{self, Config};

/// How often removed members are asked whether they are still connected.
const DEPARTURE_CHECK: Duration = Duration::from_millis(500);

/// Keeps a link to every member until the drain starts; links stay.
pub async fn watch(
    cluster: Arc<Cluster>,
    membership: impl Membership,
    config: Config,
    lifecycle: Lifecycle,
) {
    let mut members = Members {
        cluster,
        config,
        lifecycle: lifecycle.clone(),
        links: BTreeMap::new(),
        departing: Vec::new(),
        next_slot: 0,
    };
    let mut changes = membership.changes().chain(stream::pending());
    loop {
        tokio::select! {
            Some(change) = changes.next() => members.apply(change),
            () = members.departed() => {}
            () = lifecycle.drain_started() => return,
        }
    }
}

struct Members {
    cluster: Arc<Cluster>,
    config: Config,
    lifecycle: Lifecycle,
    /// The running link of each member.
    links: BTreeMap<String, Link>,
    /// Links to connected workers that are members no more.
    departing: Vec<Link>,
    next_slot: u32,
}

struct Link {
    address: WorkerAddress,
    slot: WorkerSlot,
    lifecycle: Lifecycle,
}

impl Members {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Added(member) | Change::Updated(member) => self.link(member),
            Change::Removed { id } => self.depart(&id),
        }
        self.end_dead_links();
        let members = self.links.len();
        self.cluster.metrics.members.set(members as f64);
    }

    fn link(&mut self, member: Member) {
        if let Some(before) = self.links.remove(&member.id) {
            before.lifecycle.stop();
        }
        let is_same = |link: &Link| link.address == member.address;
        let link = match self.departing.iter().position(is_same) {
            Some(departing) => self.departing.swap_remove(departing),
            None => self.follow(member.address),
        };
        self.links.insert(member.id, link);
    }

    fn follow(&mut self, address: WorkerAddress) -> Link {
        let slot = WorkerSlot(self.next_slot);
        self.next_slot += 1;
        let lifecycle = self.lifecycle.child();
        let following = link::follow(
            self.cluster.clone(),
            slot,
            address.clone(),
            self.config.clone(),
            lifecycle.clone(),
        );
        lifecycle.spawn("worker link", following);
        Link {
            address,
            slot,
            lifecycle,
        }
    }

    fn depart(&mut self, id: &str) {
        if let Some(link) = self.links.remove(id) {
            self.departing.push(link);
        }
    }

    fn end_dead_links(&mut self) {
        let is_dead = |link: &mut Link| !self.cluster.is_connected(link.slot);
        for link in self.departing.extract_if(.., is_dead) {
            link.lifecycle.stop();
        }
    }

    /// Until no removed member is left that is still connected; for ever if
    /// there is none.
    async fn departed(&mut self) {
        if self.departing.is_empty() {
            return std::future::pending().await;
        }
        while !self.departing.is_empty() {
            tokio::time::sleep(DEPARTURE_CHECK).await;
            self.end_dead_links();
        }
    }
}
