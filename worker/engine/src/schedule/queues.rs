//! Sequences by state, the most urgent first, and of equal priority in order of
//! arrival.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::request::SequenceId;
use crate::sequence::{Sequence, State};

#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: [Queue; 5],
}

type Queue = BTreeSet<Place>;

/// Priority, arrival, and who it is.
type Place = (Reverse<i32>, u64, SequenceId);

impl Queues {
    pub(super) fn of(&self, state: State) -> &Queue {
        &self.queues[state as usize]
    }

    pub(super) fn enter(&mut self, sequence: &Sequence) {
        self.queues[sequence.state as usize].insert(place(sequence));
    }

    pub(super) fn leave(&mut self, sequence: &Sequence) {
        self.queues[sequence.state as usize].remove(&place(sequence));
    }

    pub(super) fn ids(&self, state: State) -> impl Iterator<Item = SequenceId> + '_ {
        self.of(state).iter().map(|(_, _, id)| *id)
    }

    /// Who goes first.
    pub(super) fn first(&self, state: State) -> Option<SequenceId> {
        self.of(state).first().map(|(_, _, id)| *id)
    }

    /// Who yields first.
    pub(super) fn last(&self, state: State) -> Option<SequenceId> {
        self.of(state).last().map(|(_, _, id)| *id)
    }
}

fn place(sequence: &Sequence) -> Place {
    (Reverse(sequence.priority), sequence.arrival, sequence.id)
}
