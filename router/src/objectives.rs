//! What a request may say of its urgency: tenant, priority, latency objectives,
//! time limit; by the names that users of llm-d, Dynamo, vLLM and OpenAI know.
//!
//! [`Hints`] is what was said, in headers or body; [`Objectives`] is what it
//! comes to. Priorities inside the router count as Dynamo's and llm-d's do: the
//! higher the more urgent. Who may say what is left to the edge before us.

mod config;
mod headers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ApiError;

pub use config::{Config, NamedObjective};

/// What a request is to be served by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objectives {
    /// Whom to be fair to; the empty one is everybody who does not say.
    pub tenant: Arc<str>,
    /// Higher is more urgent; below 0 is the first to be shed.
    pub priority: i32,
    pub first_token_by: Option<Instant>,
    pub inter_token_latency: Option<Duration>,
    /// The client has no use for anything later.
    pub deadline: Option<Instant>,
}

/// What a request's headers or its body say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    pub tenant: Option<Arc<str>>,
    /// Name of a configured objective.
    pub objective: Option<String>,
    /// Higher is more urgent.
    pub priority: Option<i32>,
    /// A higher tier goes before any priority of a lower one.
    pub tier: Option<u32>,
    pub time_to_first_token: Option<Duration>,
    pub inter_token_latency: Option<Duration>,
    /// For the whole request.
    pub timeout: Option<Duration>,
    /// Expected length of each completion.
    pub output_tokens: Option<usize>,
}

impl Hints {
    /// These, and where they say nothing, `others`.
    fn or(self, others: Hints) -> Hints {
        Hints {
            tenant: self.tenant.or(others.tenant),
            objective: self.objective.or(others.objective),
            priority: self.priority.or(others.priority),
            tier: self.tier.or(others.tier),
            time_to_first_token: self.time_to_first_token.or(others.time_to_first_token),
            inter_token_latency: self.inter_token_latency.or(others.inter_token_latency),
            timeout: self.timeout.or(others.timeout),
            output_tokens: self.output_tokens.or(others.output_tokens),
        }
    }
}

impl Objectives {
    /// Headers win over the body, a number wins over a name.
    pub fn new(headers: Hints, body: Hints, config: &Config, now: Instant) -> Objectives {
        let said = headers.or(body);
        let named = said.objective.and_then(|name| config.priority_of(&name));
        let numbered = said.priority.is_some() || said.tier.is_some();
        let priority = match named {
            Some(priority) if !numbered => priority,
            _ => tiered(said.tier.unwrap_or(0), said.priority.unwrap_or(0)),
        };
        let first_token = said.time_to_first_token;
        let most = config.max_request_time.0;
        let timeout = said.timeout.map_or(most, |timeout| timeout.min(most));
        Objectives {
            tenant: said.tenant.unwrap_or_default(),
            priority,
            first_token_by: first_token.and_then(|within| now.checked_add(within)),
            inter_token_latency: said.inter_token_latency,
            deadline: now.checked_add(timeout),
        }
    }
}

/// One number that orders by tier and then by priority, which within a tier is
/// cut to 16 bits; without a tier it stays as it is.
fn tiered(tier: u32, priority: i32) -> i32 {
    if tier == 0 {
        return priority;
    }
    let tier = i32::try_from(tier).unwrap_or(i32::MAX).min(0x7fff);
    (tier << 16).saturating_add(priority.clamp(-0x8000, 0x7fff))
}

/// Longest name of a tenant that is kept as it is.
const MAX_NAME: usize = 128;

/// A name that operators know, in the field or header `param`.
pub(crate) fn named(param: &str, name: &str) -> Result<Arc<str>, ApiError> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(Arc::from(name));
    }
    let message = format!("'{param}' must have between 1 and {MAX_NAME} characters");
    Err(ApiError::invalid(param, message))
}

/// The end user behind a field of the body. Long ones are hashed: queues and logs
/// are no place for them.
pub(crate) fn user(name: &str) -> Option<Arc<str>> {
    match name.len() {
        0 => None,
        1..=MAX_NAME => Some(Arc::from(format!("user:{name}"))),
        _ => Some(hashed("user", name.as_bytes())),
    }
}

/// 64 bits of a hash, so that a key is told apart but not told.
fn hashed(kind: &str, secret: &[u8]) -> Arc<str> {
    let hash = blake3::hash(secret).to_hex();
    Arc::from(format!("{kind}:{}", &hash[..16]))
}

#[cfg(test)]
mod tests;
