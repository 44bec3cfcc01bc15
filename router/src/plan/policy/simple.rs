//! Policies that look at load alone, or at nothing.

use super::{Policy, place_each};
use crate::plan::{Ask, Candidate, Choice};

/// One worker after the other.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    turn: usize,
}

impl Policy for RoundRobin {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let turn = self.turn;
        self.turn = self.turn.wrapping_add(1);
        place_each(ask, candidates, |of| {
            of.get(turn % of.len().max(1)).copied()
        })
    }
}

/// Any worker.
#[derive(Debug)]
pub(super) struct Random;

impl Policy for Random {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let mut random = ask.random;
        place_each(ask, candidates, |of| draw(&mut random, of))
    }
}

/// The worker with the least load; of equals, any.
#[derive(Debug)]
pub(super) struct LeastLoaded;

impl Policy for LeastLoaded {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let mut random = ask.random;
        place_each(ask, candidates, |of| {
            let least = of.iter().map(|it| load(&candidates[*it])).min()?;
            let equals: Vec<usize> = of
                .iter()
                .copied()
                .filter(|it| load(&candidates[*it]) == least)
                .collect();
            draw(&mut random, &equals)
        })
    }
}

/// The less loaded of two.
#[derive(Debug)]
pub(super) struct PowerOfTwo;

impl Policy for PowerOfTwo {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let mut random = ask.random;
        place_each(ask, candidates, |of| {
            let first = draw(&mut random, of)?;
            let others: Vec<usize> = of.iter().copied().filter(|it| *it != first).collect();
            let second = draw(&mut random, &others).unwrap_or(first);
            [first, second]
                .into_iter()
                .min_by_key(|it| load(&candidates[*it]))
        })
    }
}

fn load(candidate: &Candidate) -> (u32, u32) {
    (candidate.load.sequences, candidate.load.queued_tokens)
}

/// One of `of`, using up some of `random`.
fn draw(random: &mut u64, of: &[usize]) -> Option<usize> {
    let count = of.len().max(1) as u64;
    let drawn = of.get((*random % count) as usize).copied();
    *random = random.rotate_right(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    drawn
}
