//! What operators say of urgency.

use std::str::FromStr;

use runtime::config::{Check, HumanDuration};

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Longest time for a request from arrival to its last token; clients may
    /// ask for less
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub max_request_time: HumanDuration,
    /// Priority of the requests that name this objective in the header
    /// x-llm-d-inference-objective, as in `batch=-1`; once for each; other
    /// names count as 0
    #[arg(long, value_name = "NAME=PRIORITY")]
    pub objective: Vec<NamedObjective>,
}

/// `NAME=PRIORITY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObjective {
    pub name: String,
    /// Higher is more urgent.
    pub priority: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is a name, =, and a priority, such as interactive=10 or batch=-1")]
pub struct NamedObjectiveError;

impl FromStr for NamedObjective {
    type Err = NamedObjectiveError;

    fn from_str(text: &str) -> Result<NamedObjective, NamedObjectiveError> {
        let (name, priority) = text.rsplit_once('=').ok_or(NamedObjectiveError)?;
        let priority = priority.parse().map_err(|_| NamedObjectiveError)?;
        if name.is_empty() {
            return Err(NamedObjectiveError);
        }
        Ok(NamedObjective {
            name: name.to_owned(),
            priority,
        })
    }
}

impl Config {
    pub(super) fn priority_of(&self, name: &str) -> Option<i32> {
        let named = self.objective.iter().find(|it| it.name == name);
        named.map(|it| it.priority)
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        if self.max_request_time.0.is_zero() {
            mistakes.push("--max-request-time must be longer than 0s".to_owned());
        }
        for (index, it) in self.objective.iter().enumerate() {
            if self.objective[..index]
                .iter()
                .any(|other| other.name == it.name)
            {
                mistakes.push(format!("--objective names `{}` twice", it.name));
            }
        }
    }
}
