//! What both indexes are asked and told: a trace played against simulated
//! caches that evict the leaf unused for longest.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::PathBuf;

use anyhow::Context;

#[derive(Clone, Debug, clap::Args)]
pub struct Workload {
    /// Mooncake trace (JSON lines with `hash_ids`)
    #[arg(long)]
    pub trace: PathBuf,
    #[arg(long, default_value_t = 128)]
    pub workers: usize,
    /// Tokens per block of the index; a trace's block has 512
    #[arg(long, default_value_t = 16)]
    pub block_size: usize,
    /// The trace is repeated so often, each time with other contents
    #[arg(long, default_value_t = 2)]
    pub copies: u64,
    /// Blocks that each worker can hold
    #[arg(long, default_value_t = 16_384)]
    pub capacity: usize,
}

#[derive(serde::Deserialize)]
struct Row {
    output_length: usize,
    hash_ids: Vec<u64>,
}

/// A block: hash of its tokens, and of its whole prefix.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub local: u64,
    pub chained: u64,
}

#[derive(Clone, Debug)]
pub enum Step {
    Lookup(Vec<Block>),
    Stored {
        worker: u32,
        parent: u64,
        blocks: Vec<Block>,
    },
    Removed {
        worker: u32,
        hashes: Vec<u64>,
    },
}

impl Step {
    /// Blocks named by an event; a lookup is none.
    pub fn event_blocks(&self) -> usize {
        match self {
            Step::Lookup(_) => 0,
            Step::Stored { blocks, .. } => blocks.len(),
            Step::Removed { hashes, .. } => hashes.len(),
        }
    }
}

#[derive(Debug)]
pub struct Schedule {
    pub steps: Vec<Step>,
    pub workers: usize,
}

impl Schedule {
    pub fn new(workload: &Workload) -> anyhow::Result<Schedule> {
        let file = std::fs::File::open(&workload.trace)
            .with_context(|| format!("cannot open {}", workload.trace.display()))?;
        let lines = std::io::BufReader::new(file).lines();
        let rows = lines
            .map(|line| Ok(serde_json::from_str::<Row>(&line?)?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut caches: Vec<_> = (0..workload.workers).map(|_| Cache::default()).collect();
        let mut steps = Vec::new();
        for copy in 0..workload.copies {
            for (i, row) in rows.iter().enumerate() {
                let worker = (copy as usize * rows.len() + i) % workload.workers;
                let prompt = prompt(row, copy, workload.block_size);
                steps.push(Step::Lookup(prompt.clone()));
                let output = row.output_length / workload.block_size;
                let request = (copy, i);
                caches[worker].serve(
                    worker as u32,
                    prompt,
                    (request, output),
                    workload.capacity,
                    &mut steps,
                );
            }
        }
        Ok(Schedule {
            steps,
            workers: workload.workers,
        })
    }

    /// Blocks held, summed over workers, after all of `steps`.
    pub fn memberships(steps: &[Step]) -> usize {
        let signed = |step: &Step| match step {
            Step::Removed { hashes, .. } => -(hashes.len() as isize),
            step => step.event_blocks() as isize,
        };
        steps.iter().map(signed).sum::<isize>() as usize
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from(b | 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (product >> 64) as u64 ^ product as u64;
    (mixed ^ mixed >> 29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .max(1)
}

fn follow(blocks: &mut Vec<Block>, local: u64) {
    let parent = blocks.last().map_or(0, |block| block.chained);
    let chained = mix(parent, local);
    blocks.push(Block { local, chained });
}

fn prompt(row: &Row, copy: u64, block_size: usize) -> Vec<Block> {
    let parts = (512 / block_size) as u64;
    let mut blocks = Vec::new();
    for id in &row.hash_ids {
        for part in 0..parts {
            follow(&mut blocks, mix(mix(*id, copy), part + 7));
        }
    }
    blocks
}

/// A worker's cache. Blocks leave it from the end of the prompt unused for
/// longest, as vLLM frees them.
#[derive(Default)]
struct Cache {
    /// When used last, and how deep.
    held: HashMap<u64, (u64, u32)>,
    by_age: BTreeMap<(u64, std::cmp::Reverse<u32>), u64>,
    clock: u64,
}

impl Cache {
    fn serve(
        &mut self,
        worker: u32,
        mut blocks: Vec<Block>,
        (request, output): ((u64, usize), usize),
        capacity: usize,
        steps: &mut Vec<Step>,
    ) {
        self.clock += 1;
        let prompt = blocks.len();
        for i in 0..output {
            follow(
                &mut blocks,
                mix(mix(request.0 + 1, request.1 as u64 + 1), i as u64),
            );
        }
        blocks.truncate(capacity);
        let cached = blocks
            .iter()
            .take_while(|block| self.held.contains_key(&block.chained))
            .count();
        for (depth, block) in blocks.iter().enumerate() {
            self.touch(block.chained, depth as u32);
        }
        let hashes = self.evict(capacity);
        if !hashes.is_empty() {
            steps.push(Step::Removed { worker, hashes });
        }
        // What the prompt adds comes at once, what is generated block by block.
        let prompt = prompt.min(blocks.len());
        let mut store = |from: usize, to: usize| {
            if from < to {
                let parent = from
                    .checked_sub(1)
                    .map_or(0, |before| blocks[before].chained);
                let blocks = blocks[from..to].to_vec();
                steps.push(Step::Stored {
                    worker,
                    parent,
                    blocks,
                });
            }
        };
        store(cached.min(prompt), prompt);
        (prompt.max(cached)..blocks.len()).for_each(|i| store(i, i + 1));
    }

    fn touch(&mut self, hash: u64, depth: u32) {
        let age = (self.clock, std::cmp::Reverse(depth));
        if let Some((clock, depth)) = self.held.insert(hash, (self.clock, depth)) {
            self.by_age.remove(&(clock, std::cmp::Reverse(depth)));
        }
        self.by_age.insert(age, hash);
    }

    fn evict(&mut self, capacity: usize) -> Vec<u64> {
        let over = self.held.len().saturating_sub(capacity);
        let oldest = std::iter::from_fn(|| self.by_age.pop_first());
        let hashes: Vec<u64> = oldest.take(over).map(|(_, hash)| hash).collect();
        for hash in &hashes {
            self.held.remove(hash);
        }
        hashes
    }
}
