//! Sequences by state, each in order of arrival.

use std::collections::BTreeSet;

use crate::request::SequenceId;
use crate::sequence::{Sequence, State};

#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: [Queue; 4],
}

type Queue = BTreeSet<(u64, SequenceId)>;

impl Queues {
    pub(super) fn of(&self, state: State) -> &Queue {
        &self.queues[state as usize]
    }

    pub(super) fn enter(&mut self, sequence: &Sequence) {
        self.queues[sequence.state as usize].insert((sequence.arrival, sequence.id));
    }

    pub(super) fn leave(&mut self, sequence: &Sequence) {
        self.queues[sequence.state as usize].remove(&(sequence.arrival, sequence.id));
    }

    pub(super) fn ids(&self, state: State) -> impl Iterator<Item = SequenceId> + '_ {
        self.of(state).iter().map(|(_, id)| *id)
    }

    /// The earliest arrival.
    pub(super) fn first(&self, state: State) -> Option<SequenceId> {
        self.of(state).first().map(|(_, id)| *id)
    }

    /// The latest arrival.
    pub(super) fn last(&self, state: State) -> Option<SequenceId> {
        self.of(state).last().map(|(_, id)| *id)
    }
}
