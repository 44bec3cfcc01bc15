//! The policies by name. A new one is a module here and a line in
//! [`POLICIES`]; router and simulator then know it.

mod consistent_hash;
mod prefix_approx;
mod simple;

use std::fmt;
use std::str::FromStr;

use super::{Ask, Candidate, Choice, Parts, cost::CostPolicy};

/// Chooses workers. What it remembers is its own; time and randomness come with
/// the request.
pub trait Policy: fmt::Debug + Send {
    /// `None` only without candidates.
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice>;

    /// Whether requests wait in the router while no worker could begin them
    /// soon, to be placed when it is known which one is free first.
    fn holds(&self) -> bool {
        false
    }
}

/// A policy that can be chosen.
pub struct Entry {
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    pub make: fn() -> Box<dyn Policy>,
}

/// All policies; the first is the default.
pub const POLICIES: &[Entry] = &[
    Entry {
        name: "cost",
        about: "least time to first token and least delay to others, in milliseconds",
        make: || Box::new(CostPolicy),
    },
    Entry {
        name: "round-robin",
        about: "one after the other",
        make: || Box::new(simple::RoundRobin::default()),
    },
    Entry {
        name: "random",
        about: "any, equally likely",
        make: || Box::new(simple::Random),
    },
    Entry {
        name: "least-loaded",
        about: "fewest sequences, then fewest queued prompt tokens",
        make: || Box::new(simple::LeastLoaded),
    },
    Entry {
        name: "power-of-two",
        about: "the less loaded of two drawn at random (Mitzenmacher 2001)",
        make: || Box::new(simple::PowerOfTwo),
    },
    Entry {
        name: "consistent-hash",
        about: "by session, else by the prompt's first blocks; the next on the ring if it is \
                loaded above 1.25 times the mean (Mirrokni et al. 2018)",
        make: || Box::new(consistent_hash::ConsistentHash),
    },
    Entry {
        name: "prefix-approx",
        about: "longest prefix among what was sent before, unless load is uneven; needs no events",
        make: || Box::new(prefix_approx::PrefixApprox::default()),
    },
];

/// The name of one of [`POLICIES`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyName(usize);

impl PolicyName {
    pub fn all() -> impl Iterator<Item = PolicyName> {
        (0..POLICIES.len()).map(PolicyName)
    }

    pub fn make(self) -> Box<dyn Policy> {
        (POLICIES[self.0].make)()
    }

    pub fn as_str(self) -> &'static str {
        POLICIES[self.0].name
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<PolicyName, String> {
        let known = POLICIES.iter().position(|it| it.name == text);
        known.map(PolicyName).ok_or_else(|| {
            let names: Vec<&str> = POLICIES.iter().map(|it| it.name).collect();
            format!(
                "there is no policy of that name; known: {}",
                names.join(", ")
            )
        })
    }
}

/// Places both parts of a sequence by `pick`, which chooses one of the workers
/// that a part may run on: what policies do that know no cost.
pub fn place_each(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    mut pick: impl FnMut(&[usize]) -> Option<usize>,
) -> Option<Choice> {
    let parts = Parts::of(ask, candidates);
    let those = |may: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        let eligible = candidates.iter().enumerate().filter(|(_, it)| may(it));
        eligible.map(|(at, _)| at).collect()
    };
    let decode = pick(&those(&|it| parts.decodes(it)))?;
    let prefill = match parts.computes_alone(ask, &candidates[decode]) {
        true => None,
        false => pick(&those(&|it| parts.prefills(it))),
    };
    Some(Choice { decode, prefill })
}

#[cfg(test)]
mod tests;
