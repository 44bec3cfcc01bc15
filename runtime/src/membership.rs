//! Who the workers are: one trait whose stream yields what is added, updated
//! and removed.
//!
//! A source that goes quiet or away removes nobody: the last known view keeps
//! serving. Whether a member answers is its connection's business, not
//! membership's.

mod address;
pub mod etcd;
mod view;

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

pub use address::{AddressError, WorkerAddress};
pub use view::{Listed, View};

/// A worker, as its source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Stays the same when the address changes: the address itself in a static
    /// list, a lease or pod name elsewhere.
    pub id: String,
    pub address: WorkerAddress,
}

/// What happened to the set of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added(Member),
    /// Same id, another address.
    Updated(Member),
    Removed {
        id: String,
    },
}

/// A source of members.
pub trait Membership: Send + Sync {
    /// All present members as `Added`, then every change. The end of the stream
    /// means that no change will come, not that members left.
    fn changes(&self) -> BoxStream<'static, Change>;
}

impl Membership for Box<dyn Membership> {
    fn changes(&self) -> BoxStream<'static, Change> {
        self.as_ref().changes()
    }
}

/// A fixed list, as given by `--worker`.
#[derive(Clone, Debug, Default)]
pub struct StaticList {
    members: Vec<Member>,
}

impl StaticList {
    /// Repeated addresses count once.
    pub fn new(addresses: impl IntoIterator<Item = WorkerAddress>) -> StaticList {
        let addresses: BTreeSet<_> = addresses.into_iter().collect();
        let member = |address: WorkerAddress| Member {
            id: address.to_string(),
            address,
        };
        StaticList {
            members: addresses.into_iter().map(member).collect(),
        }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

impl Membership for StaticList {
    fn changes(&self) -> BoxStream<'static, Change> {
        stream::iter(self.members.clone())
            .map(Change::Added)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn static_list_adds_each_address_once_and_nothing_else() {
        let addresses = ["grpc://b:2", "a:1", "http://b:2"].map(|it| it.parse().unwrap());
        let changes: Vec<_> = StaticList::new(addresses).changes().collect().await;
        let added = |address: &str| {
            Change::Added(Member {
                id: address.to_owned(),
                address: address.parse().unwrap(),
            })
        };
        assert_eq!(changes, [added("a:1"), added("b:2")]);
    }
}
