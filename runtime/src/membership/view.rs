//! The members as a router takes them to be, made of what an unreliable source
//! says: lists, changes, and that it went away.
//!
//! Pure: time is an argument. Promises that nobody is removed because the
//! source is away: an absent member is dropped when a source that answers all
//! the while has not named it for the grace time. A worker registered under
//! another id but at the address of a member takes that member's place at once,
//! so that no address is in the cluster twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Change, Member, WorkerAddress};

/// A member as its source lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub member: Member,
    /// Larger for what was registered later, within one list.
    pub revision: i64,
}

/// The members now. What its methods return keeps a listener up to date.
#[derive(Clone, Debug)]
pub struct View {
    grace: Duration,
    members: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    address: WorkerAddress,
    /// Since when the source, answering all the while, has not named it.
    absent_since: Option<Instant>,
}

impl View {
    /// A view that drops members after they were absent for `grace`.
    pub fn new(grace: Duration) -> View {
        View {
            grace,
            members: BTreeMap::new(),
        }
    }

    /// The source's whole list, as of `now`.
    pub fn list(&mut self, mut listed: Vec<Listed>, now: Instant) -> Vec<Change> {
        // Of two registrations at one address the later one is the living one.
        listed.sort_by_key(|it| it.revision);
        let by_address: BTreeMap<_, _> = listed
            .into_iter()
            .map(|it| (it.member.address.clone(), it.member))
            .collect();
        let named: BTreeMap<_, _> = by_address
            .into_values()
            .map(|member| (member.id.clone(), member))
            .collect();
        for (id, known) in &mut self.members {
            if !named.contains_key(id) {
                known.absent_since.get_or_insert(now);
            }
        }
        let named = named.into_values();
        named.flat_map(|member| self.put(member)).collect()
    }

    /// The source says that `member` is there.
    pub fn put(&mut self, member: Member) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(id) = self.holder(&member) {
            self.members.remove(&id);
            changes.push(Change::Removed { id });
        }
        let known = Known {
            address: member.address.clone(),
            absent_since: None,
        };
        match self.members.insert(member.id.clone(), known) {
            None => changes.push(Change::Added(member)),
            Some(before) if before.address != member.address => {
                changes.push(Change::Updated(member));
            }
            Some(_) => {}
        }
        changes
    }

    /// The source says that a member is not there any more, as of `now`.
    pub fn delete(&mut self, id: &str, now: Instant) {
        if let Some(known) = self.members.get_mut(id) {
            known.absent_since.get_or_insert(now);
        }
    }

    /// The source does not answer: nobody is absent until its next list.
    pub fn away(&mut self) {
        for known in self.members.values_mut() {
            known.absent_since = None;
        }
    }

    /// Drops who has been absent for the grace time.
    pub fn expire(&mut self, now: Instant) -> Vec<Change> {
        let grace = self.grace;
        let is_over = |known: &Known| known.absent_since.is_some_and(|since| now >= since + grace);
        let gone = self.members.extract_if(.., |_, known| is_over(known));
        gone.map(|(id, _)| Change::Removed { id }).collect()
    }

    /// When [`View::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Instant> {
        let absent = self.members.values().filter_map(|it| it.absent_since);
        absent.min().map(|since| since + self.grace)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Another member at the address of `member`.
    fn holder(&self, member: &Member) -> Option<String> {
        let other =
            |(id, known): &(&String, &Known)| **id != member.id && known.address == member.address;
        self.members.iter().find(other).map(|(id, _)| id.clone())
    }
}

#[cfg(test)]
mod tests;
