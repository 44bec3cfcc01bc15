//! Policies that can be simulated: the router's own, and the peers' for
//! comparison.

use std::fmt;
use std::str::FromStr;

use router::plan::policy::{POLICIES, Policy, PolicyName};

use super::peers;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimPolicy {
    /// Of the router: what serves.
    Own(PolicyName),
    /// Position in [`peers::POLICIES`].
    Peer(usize),
}

impl SimPolicy {
    pub(super) fn make(self) -> Box<dyn Policy> {
        match self {
            SimPolicy::Own(name) => name.make(),
            SimPolicy::Peer(at) => (peers::POLICIES[at].make)(),
        }
    }

    /// A line for each policy.
    pub fn help() -> String {
        let known = POLICIES.iter().chain(peers::POLICIES);
        known
            .map(|it| format!("\n- {}: {}", it.name, it.about))
            .collect()
    }
}

impl Default for SimPolicy {
    fn default() -> SimPolicy {
        SimPolicy::Own(PolicyName::default())
    }
}

impl fmt::Display for SimPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimPolicy::Own(name) => name.fmt(f),
            SimPolicy::Peer(at) => f.write_str(peers::POLICIES[*at].name),
        }
    }
}

impl FromStr for SimPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<SimPolicy, String> {
        if let Some(at) = peers::POLICIES.iter().position(|it| it.name == text) {
            return Ok(SimPolicy::Peer(at));
        }
        let own: Result<PolicyName, String> = text.parse();
        own.map(SimPolicy::Own).map_err(|error| {
            let names = peers::POLICIES.iter().map(|it| it.name);
            let names: Vec<&str> = names.collect();
            format!("{error}, {}", names.join(", "))
        })
    }
}
