//! Mixture of experts: which tokens go to which experts, and their products.

use super::math::{exp, sigmoid};
use crate::error::DeviceError;
use crate::ops::{ExpertGroups, RouterScore, Routing};

/// A batch's routes, expert after expert and within an expert row after row.
#[derive(Debug, Default)]
pub struct CpuRoutes {
    top_k: usize,
    /// Where each expert's routes start, and the end, `[experts + 1]`.
    starts: Vec<usize>,
    /// The row of each route.
    rows: Vec<u32>,
    /// The routes of each row, best expert first, `[rows, top_k]`.
    routes: Vec<u32>,
    /// `[rows, top_k]`
    weights: Vec<f32>,
}

impl CpuRoutes {
    /// Chooses experts for each row of `logits`, `[rows, experts]`.
    pub(super) fn choose(
        &mut self,
        routing: &Routing,
        bias: Option<&[f32]>,
        logits: &[f32],
    ) -> Result<(), DeviceError> {
        routing.validate()?;
        self.top_k = routing.top_k;
        self.weights.clear();
        // Experts at first, routes in the end.
        self.routes.clear();
        let mut chooser = Chooser::new(routing);
        for logits in logits.chunks(routing.experts) {
            chooser.score(routing.score, logits);
            chooser.choose(bias, routing);
            self.routes.extend(&chooser.chosen);
            chooser.weigh(routing, &mut self.weights);
        }
        self.sort_by_expert(routing.experts);
        Ok(())
    }

    /// Turns chosen experts into routes.
    fn sort_by_expert(&mut self, experts: usize) {
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for &expert in &self.routes {
            self.starts[expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            self.starts[expert + 1] += self.starts[expert];
        }
        self.rows.clear();
        self.rows.resize(self.routes.len(), 0);
        let mut next = self.starts.clone();
        for (slot, expert) in self.routes.iter_mut().enumerate() {
            let route = &mut next[*expert as usize];
            self.rows[*route] = (slot / self.top_k) as u32;
            *expert = *route as u32;
            *route += 1;
        }
    }

    /// Routes in all.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn experts(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Experts that have routes, and which.
    pub(super) fn by_expert(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        self.starts
            .windows(2)
            .map(|ends| ends[0]..ends[1])
            .enumerate()
            .filter(|(_, routes)| !routes.is_empty())
    }

    /// The rows of `x`, `[rows, cols]`, in the order of routes.
    pub(super) fn gather(&self, x: &[f32], cols: usize) -> Result<Vec<f32>, DeviceError> {
        let rows = self.routes.len() / self.top_k.max(1);
        DeviceError::at_least("expert input", x.len(), rows * cols)?;
        let mut gathered = Vec::with_capacity(self.rows.len() * cols);
        for &row in &self.rows {
            let start = row as usize * cols;
            gathered.extend_from_slice(&x[start..start + cols]);
        }
        Ok(gathered)
    }

    /// Each row's weighted sum of its routes of `y`, best expert first.
    pub(super) fn combine(&self, y: &[f32], cols: usize, out: &mut [f32]) {
        let slots = self.routes.chunks(self.top_k.max(1));
        let weights = self.weights.chunks(self.top_k.max(1));
        for ((routes, weights), out) in slots.zip(weights).zip(out.chunks_mut(cols)) {
            out.fill(0.0);
            for (&route, weight) in routes.iter().zip(weights) {
                let y = &y[route as usize * cols..][..cols];
                for (out, y) in out.iter_mut().zip(y) {
                    *out += weight * y;
                }
            }
        }
    }

    /// Rows that were routed.
    pub(super) fn row_count(&self) -> usize {
        self.routes.len() / self.top_k.max(1)
    }
}

/// One row's choice; its vectors keep their room from row to row.
struct Chooser {
    /// Of each expert.
    scores: Vec<f32>,
    /// Scores that the choice goes by.
    preference: Vec<f32>,
    order: Vec<u32>,
    chosen: Vec<u32>,
}

impl Chooser {
    fn new(routing: &Routing) -> Chooser {
        Chooser {
            scores: Vec::with_capacity(routing.experts),
            preference: Vec::with_capacity(routing.experts),
            order: Vec::with_capacity(routing.experts),
            chosen: Vec::with_capacity(routing.top_k),
        }
    }

    fn score(&mut self, score: RouterScore, logits: &[f32]) {
        self.scores.clear();
        match score {
            RouterScore::Sigmoid => self.scores.extend(logits.iter().map(|x| sigmoid(*x))),
            RouterScore::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                self.scores.extend(logits.iter().map(|x| exp(x - max)));
                let total: f32 = self.scores.iter().sum();
                self.scores.iter_mut().for_each(|score| *score /= total);
            }
        }
    }

    /// Takes the best experts; of equals the first.
    fn choose(&mut self, bias: Option<&[f32]>, routing: &Routing) {
        self.preference.clear();
        self.preference.extend_from_slice(&self.scores);
        if let Some(bias) = bias {
            for (preference, bias) in self.preference.iter_mut().zip(bias) {
                *preference += bias;
            }
        }
        if let Some(groups) = routing.groups {
            self.drop_groups(groups);
        }
        best(&self.preference, &mut self.order);
        self.chosen.clear();
        self.chosen.extend(&self.order[..routing.top_k]);
    }

    /// Leaves the experts of all but the best groups no chance.
    fn drop_groups(&mut self, groups: ExpertGroups) {
        let size = self.preference.len() / groups.groups;
        let mut totals = Vec::with_capacity(groups.groups);
        for group in self.preference.chunks(size) {
            best(group, &mut self.order);
            let strongest = self.order[..groups.best].iter();
            totals.push(strongest.map(|expert| group[*expert as usize]).sum());
        }
        best(&totals, &mut self.order);
        for &group in &self.order[groups.kept..] {
            let first = group as usize * size;
            self.preference[first..first + size].fill(f32::NEG_INFINITY);
        }
    }

    fn weigh(&self, routing: &Routing, weights: &mut Vec<f32>) {
        let of_expert = |expert: &u32| self.scores[*expert as usize];
        let total: f32 = match routing.normalise {
            // Sigmoids can all be as good as 0.
            true => self.chosen.iter().map(of_expert).sum::<f32>() + 1e-20,
            false => 1.0,
        };
        let weight = |expert| of_expert(expert) / total * routing.scale;
        weights.extend(self.chosen.iter().map(weight));
    }
}

/// The indices of `values`, largest value first, of equals the first.
fn best(values: &[f32], order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..values.len() as u32);
    order.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]));
}
