//! How other routers choose, from their documentation: for comparison only,
//! they do not serve.

use std::collections::VecDeque;

use kvcache_index::WorkerSlot;
use router::plan::policy::{Entry, Policy, place_each};
use router::plan::{Ask, Candidate, Choice, Parts};
use rustc_hash::FxHashMap;

pub(super) const POLICIES: &[Entry] = &[
    Entry {
        name: "sglang-cache-aware",
        about: "SGLang router 0.3.2's cache_aware: longest match in a tree of what was sent if \
                above 0.3 of the prompt, else least requests; least requests for all while load \
                is uneven (by 64 and by 1.5 times)",
        make: || Box::new(CacheAware::default()),
    },
    Entry {
        name: "dynamo-cost",
        about: "Dynamo 1.6.1's KV router: blocks to prefill, waiting ones included, less those \
                that overlap, plus blocks in use",
        make: || Box::new(DynamoCost),
    },
];

/// SGLang's `cache_aware` at its defaults.
#[derive(Debug, Default)]
struct CacheAware {
    /// Workers that a block was sent to, the last one last.
    tree: FxHashMap<u64, Vec<WorkerSlot>>,
    /// Blocks in the order of their first being sent.
    order: VecDeque<u64>,
}

/// 67,108,864 characters, at 4 a token and 16 tokens a block.
const TREE_BLOCKS: usize = 1 << 20;

impl Policy for CacheAware {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let matched = ask
            .hashes
            .iter()
            .take_while(|it| self.tree.contains_key(it));
        let matched = matched.count();
        let holders = matched
            .checked_sub(1)
            .and_then(|last| self.tree.get(&ask.hashes[last]));
        let holder = holders.and_then(|it| it.last()).copied();
        let worth = matched as f64 > 0.3 * ask.hashes.len() as f64;
        let choice = place_each(ask, candidates, |of| {
            let load = |at: &usize| candidates[*at].load.sequences;
            let (most, least) = (of.iter().map(load).max()?, of.iter().map(load).min()?);
            let uneven = most - least > 64 && f64::from(most) > 1.5 * f64::from(least);
            let at_holder = of.iter().find(|at| Some(candidates[**at].worker) == holder);
            match at_holder {
                Some(at) if worth && !uneven => Some(*at),
                _ => of.iter().copied().min_by_key(load),
            }
        })?;
        self.insert(ask.hashes, candidates[choice.computes()].worker);
        Some(choice)
    }
}

impl CacheAware {
    fn insert(&mut self, hashes: &[u64], worker: WorkerSlot) {
        for &hash in hashes {
            let holders = self.tree.entry(hash).or_insert_with(|| {
                self.order.push_back(hash);
                Vec::new()
            });
            holders.retain(|it| *it != worker);
            holders.push(worker);
        }
        while self.order.len() > TREE_BLOCKS {
            let oldest = self.order.pop_front();
            oldest.map(|hash| self.tree.remove(&hash));
        }
    }
}

/// Dynamo's default cost function at its defaults, in blocks; of equals any.
/// When prefill and decode are split the decode worker is chosen by load alone.
#[derive(Debug)]
struct DynamoCost;

impl Policy for DynamoCost {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let splits = Parts::of(ask, candidates).splits();
        let block = ask.block_size as f64;
        let mut is_decode = true;
        place_each(ask, candidates, |of| {
            let only_load = std::mem::take(&mut is_decode) && splits;
            let cost = |at: &usize| {
                let candidate = &candidates[*at];
                let load = &candidate.load;
                let in_use = f64::from(load.total_blocks.saturating_sub(load.free_blocks));
                if only_load {
                    return in_use;
                }
                let waiting = load.queued_tokens as f64 + ask.prompt_tokens as f64;
                let overlap = candidate.cached_tokens as f64 / block;
                (waiting / block - overlap).max(0.0) + in_use
            };
            let least = of.iter().map(cost).min_by(f64::total_cmp)?;
            let equals: Vec<usize> = of.iter().copied().filter(|at| cost(at) <= least).collect();
            equals
                .get((ask.random % equals.len().max(1) as u64) as usize)
                .copied()
        })
    }
}
