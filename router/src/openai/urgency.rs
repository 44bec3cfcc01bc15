//! The fields of a body that say how urgent a request is, in the APIs that have
//! some.

use serde::Deserialize;

use super::field::Object;
use crate::objectives::{self, Hints};

/// Of the right types, as they came.
pub(super) struct Urgency {
    /// vLLM's: lower is more urgent.
    pub(super) priority: Option<i64>,
    /// OpenAI's names of an end user, the newer first.
    pub(super) safety_identifier: Option<String>,
    pub(super) user: Option<String>,
    pub(super) nvext: Option<Nvext>,
}

/// Dynamo's extension of the body; what else is in it is not for us.
#[derive(Deserialize)]
pub(super) struct Nvext {
    agent_hints: Option<Object<AgentHints>>,
}

#[derive(Debug, Deserialize)]
struct AgentHints {
    /// Higher is more urgent.
    priority: Option<i32>,
    strict_priority: Option<u32>,
    /// Expected length of each completion.
    osl: Option<usize>,
}

impl Urgency {
    /// Dynamo's priority wins over vLLM's, which has its sign turned.
    pub(super) fn hints(self) -> Hints {
        let agent = self.nvext.and_then(|nvext| nvext.agent_hints);
        let agent = agent.map(|Object(hints)| hints);
        let agent = agent.as_ref();
        let turned = self
            .priority
            .map(|priority| saturate(priority.saturating_neg()));
        let identifier = self.safety_identifier.as_deref().unwrap_or_default();
        let user = self.user.as_deref().unwrap_or_default();
        Hints {
            tenant: objectives::user(identifier).or_else(|| objectives::user(user)),
            priority: agent.and_then(|hints| hints.priority).or(turned),
            tier: agent.and_then(|hints| hints.strict_priority),
            output_tokens: agent.and_then(|hints| hints.osl),
            ..Hints::default()
        }
    }
}

fn saturate(priority: i64) -> i32 {
    let limited = priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    limited as i32
}
