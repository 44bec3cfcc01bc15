//! Whose requests they are, and how urgent: drawn for workloads that do not say.

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};

use super::seed::{Use, rng};
use crate::planned::{PlannedRequest, Turn, Workload};

#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
#[command(next_help_heading = "Tenants and priorities")]
pub struct LabelConfig {
    /// Draw the tenant of each request or conversation: N of them, tenant-1 to
    /// tenant-N, or N:S with a Zipf exponent of their shares, as in 10:1.2
    #[arg(long, value_name = "N[:S]")]
    pub tenants: Option<Tenants>,

    /// Draw the priority of each request or conversation, sent as `priority`:
    /// values with their weights, as in 0:9,10:1, or alike, as in 0,10
    #[arg(long, value_name = "PRIORITIES", allow_hyphen_values = true)]
    pub priorities: Option<Priorities>,
}

/// How many tenants there are, and how unequal their shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenants {
    names: Vec<Arc<str>>,
    ranks: Zipf<f64>,
}

/// Priorities with the running sum of their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Priorities(Vec<(i32, f64)>);

/// A workload whose requests have tenants and priorities where it names none.
pub(super) struct Labelled {
    pub(super) inner: Box<dyn Workload>,
    pub(super) labels: LabelConfig,
    pub(super) seed: u64,
}

impl LabelConfig {
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_none() && self.priorities.is_none()
    }
}

impl Tenants {
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    fn draw(&self, rng: &mut impl Rng) -> Option<Arc<str>> {
        let rank = self.ranks.sample(rng) as usize;
        self.names.get(rank.saturating_sub(1)).cloned()
    }
}

impl Priorities {
    fn draw(&self, rng: &mut impl Rng) -> Option<i32> {
        let total = self.0.last()?.1;
        let drawn = rng.random::<f64>() * total;
        let found = self.0.iter().find(|it| drawn < it.1);
        Some(found.or(self.0.last())?.0)
    }
}

impl Labelled {
    fn label(&self, request: PlannedRequest) -> PlannedRequest {
        // All turns of a conversation are one user's.
        let whose = request.turn.map_or(request.number, |it| it.conversation);
        let drawn = |usage| rng(self.seed, usage, whose);
        let tenants = self.labels.tenants.as_ref();
        let priorities = self.labels.priorities.as_ref();
        PlannedRequest {
            tenant: request
                .tenant
                .or_else(|| tenants?.draw(&mut drawn(Use::Tenant))),
            priority: request
                .priority
                .or_else(|| priorities?.draw(&mut drawn(Use::Priority))),
            ..request
        }
    }
}

impl Workload for Labelled {
    fn next(&mut self) -> Option<PlannedRequest> {
        let request = self.inner.next()?;
        Some(self.label(request))
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
        let request = self.inner.next_turn(after, answer)?;
        Some(self.label(request))
    }

    fn len_hint(&self) -> Option<u64> {
        self.inner.len_hint()
    }

    fn abandon(&mut self, conversation: u64) {
        self.inner.abandon(conversation);
    }

    fn caveats(&self) -> Vec<String> {
        self.inner.caveats()
    }
}

impl FromStr for Tenants {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Tenants, &'static str> {
        const ALLOWED: &str = "allowed is a number from 1 to 100000, or with a Zipf exponent of at least 0, as 10:1.2";
        let (count, skew) = text.split_once(':').unwrap_or((text, "0"));
        let count: u32 = count.trim().parse().map_err(|_| ALLOWED)?;
        let skew: f64 = skew.trim().parse().map_err(|_| ALLOWED)?;
        if !(1..=100_000).contains(&count) || !skew.is_finite() {
            return Err(ALLOWED);
        }
        Ok(Tenants {
            names: (1..=count)
                .map(|it| format!("tenant-{it}").into())
                .collect(),
            ranks: Zipf::new(f64::from(count), skew).map_err(|_| ALLOWED)?,
        })
    }
}

impl FromStr for Priorities {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Priorities, &'static str> {
        const ALLOWED: &str =
            "allowed are whole numbers, each perhaps with a weight above 0, as in 0:9,10:1";
        let mut total = 0.0;
        let mut priorities = Vec::new();
        for part in text.split(',') {
            let (priority, weight) = part.split_once(':').unwrap_or((part, "1"));
            let priority = priority.trim().parse().map_err(|_| ALLOWED)?;
            let weight: f64 = weight.trim().parse().map_err(|_| ALLOWED)?;
            if !(weight.is_finite() && weight > 0.0) {
                return Err(ALLOWED);
            }
            total += weight;
            priorities.push((priority, total));
        }
        Ok(Priorities(priorities))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::planned::{Output, Prompt};

    /// Conversations of two turns, the first of which names its own tenant.
    struct Two(u64);

    fn request(number: u64, turn: u32) -> PlannedRequest {
        PlannedRequest {
            number,
            recorded_at: None,
            turn: Some(Turn {
                conversation: number / 2,
                number: turn,
                think: std::time::Duration::ZERO,
            }),
            prompt: Prompt::Text(String::new()),
            prompt_tokens: None,
            output: Output {
                max_tokens: 1,
                exact: true,
            },
            tenant: (number == 0).then(|| "own".into()),
            priority: None,
        }
    }

    impl Workload for Two {
        fn next(&mut self) -> Option<PlannedRequest> {
            self.0 += 2;
            Some(request(self.0 - 2, 0))
        }

        fn next_turn(&mut self, after: Turn, _answer: &str) -> Option<PlannedRequest> {
            Some(request(after.conversation * 2 + 1, 1))
        }

        fn len_hint(&self) -> Option<u64> {
            None
        }
    }

    fn labelled(seed: u64) -> Labelled {
        Labelled {
            inner: Box::new(Two(0)),
            labels: LabelConfig {
                tenants: Some("4:1".parse().unwrap()),
                priorities: Some("-5:3,10:1".parse().unwrap()),
            },
            seed,
        }
    }

    #[test]
    fn shares_follow_the_weights_and_the_exponent() {
        let mut workload = labelled(1);
        let (mut tenants, mut priorities) = (BTreeMap::new(), BTreeMap::new());
        workload.next().unwrap();
        for _ in 0..10_000 {
            let request = workload.next().unwrap();
            *tenants.entry(request.tenant.unwrap()).or_insert(0) += 1;
            *priorities.entry(request.priority.unwrap()).or_insert(0) += 1;
        }
        // Of 1, 1/2, 1/3, 1/4: 48%, 24%, 16% and 12%.
        let shares: Vec<_> = tenants.values().map(|it| it / 100).collect();
        for (share, expected) in shares.iter().zip([48, 24, 16, 12]) {
            assert!((expected - 2..=expected + 2).contains(share), "{shares:?}");
        }
        assert_eq!(priorities.len(), 2);
        assert!((7300..7700).contains(&priorities[&-5]), "{priorities:?}");
    }

    #[test]
    fn turns_of_a_conversation_are_one_users_and_what_is_named_stays() {
        let mut workload = labelled(2);
        assert_eq!(workload.next().unwrap().tenant.as_deref(), Some("own"));
        for _ in 0..50 {
            let first = workload.next().unwrap();
            let second = workload.next_turn(first.turn.unwrap(), "").unwrap();
            assert_eq!(
                (first.tenant, first.priority),
                (second.tenant, second.priority)
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_labels() {
        let draw = |seed| {
            let mut workload = labelled(seed);
            (0..20)
                .map(|_| workload.next().unwrap().tenant)
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        for text in ["0", "x", "3:-1", "3:nan", "100001", "-1"] {
            assert!(text.parse::<Tenants>().is_err(), "{text}");
        }
        for text in ["", "1:0", "1:-1", "a", "1,,2", "1:inf"] {
            assert!(text.parse::<Priorities>().is_err(), "{text}");
        }
    }
}
