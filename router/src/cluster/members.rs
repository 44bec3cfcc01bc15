//! Who belongs to the cluster: one link per member, as membership says.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use kvcache_index::WorkerSlot;
use runtime::Lifecycle;
use runtime::membership::{Change, Member, Membership};

use super::Cluster;
use super::link::{self, Config};

/// Keeps a link to every member. Returns when no change will come any more;
/// links stay.
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
        next_slot: 0,
    };
    let mut changes = membership.changes();
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(change) => members.apply(change),
                None => return,
            },
            () = lifecycle.drain_started() => return,
        }
    }
}

struct Members {
    cluster: Arc<Cluster>,
    config: Config,
    lifecycle: Lifecycle,
    /// The running link of each member.
    links: BTreeMap<String, Lifecycle>,
    next_slot: u32,
}

impl Members {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Added(member) | Change::Updated(member) => self.link(member),
            Change::Removed { id } => self.unlink(&id),
        }
    }

    fn link(&mut self, member: Member) {
        self.unlink(&member.id);
        let slot = WorkerSlot(self.next_slot);
        self.next_slot += 1;
        let lifecycle = self.lifecycle.child();
        let link = link::follow(
            self.cluster.clone(),
            slot,
            member.address,
            self.config.clone(),
            lifecycle.clone(),
        );
        lifecycle.spawn("worker link", link);
        self.links.insert(member.id, lifecycle);
    }

    fn unlink(&mut self, id: &str) {
        if let Some(link) = self.links.remove(id) {
            link.stop();
        }
    }
}
