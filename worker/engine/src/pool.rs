//! One vector of many: final hidden states, in however many chunks a prompt is
//! computed, become an embedding, always the same one.

use std::ops::Range;

use crate::request::Pooling;

/// An embedding in the making.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pooling: Pooling,
    sum: Vec<f32>,
    /// Tokens that count already: all before this one.
    next: usize,
}

impl Pool {
    pub(crate) fn new(pooling: Pooling) -> Pool {
        Pool {
            pooling,
            sum: Vec::new(),
            next: 0,
        }
    }

    /// Which of the tokens `start..end`, of `len`, are to be summed up.
    pub(crate) fn wanted(&self, start: usize, end: usize, len: usize) -> Range<usize> {
        let from = match self.pooling {
            Pooling::Last => len - 1,
            Pooling::Mean => self.next,
        };
        from.max(start).min(end)..end
    }

    /// So many tokens at the start need not be computed again.
    pub(crate) fn cacheable(&self, len: usize) -> usize {
        match self.pooling {
            Pooling::Last => len - 1,
            Pooling::Mean => self.next.min(len - 1),
        }
    }

    /// `states`, `[tokens.len(), hidden_size]`, are there.
    pub(crate) fn add(&mut self, tokens: Range<usize>, states: &[f32]) {
        let hidden_size = states.len() / tokens.len().max(1);
        self.sum.resize(hidden_size, 0.0);
        for state in states.chunks_exact(hidden_size.max(1)) {
            for (mine, more) in self.sum.iter_mut().zip(state) {
                *mine += more;
            }
        }
        self.next = tokens.end;
    }

    /// Of length 1. (The mean points where the sum does.)
    pub(crate) fn finish(self) -> Vec<f32> {
        let squares = self.sum.iter().map(|it| f64::from(*it) * f64::from(*it));
        let length = squares.sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let scaled = self.sum.iter().map(|it| (f64::from(*it) / length) as f32);
        scaled.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_repeats_count_each_token_once() {
        let mut pool = Pool::new(Pooling::Mean);
        assert_eq!(pool.wanted(0, 4, 6), 0..4);
        assert_eq!(pool.cacheable(6), 0);
        pool.add(0..4, &[1.0, 0.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0]);
        // Preempted, and begun anew.
        assert_eq!(pool.cacheable(6), 4);
        assert_eq!(pool.wanted(0, 3, 6), 3..3);
        assert_eq!(pool.wanted(3, 6, 6), 4..6);
        pool.add(4..6, &[0.0, 3.0, 0.0, 1.0]);
        assert_eq!(pool.finish(), [0.6, 0.8]);
    }

    #[test]
    fn the_last_token_alone_counts_if_that_is_asked() {
        let pool = Pool::new(Pooling::Last);
        assert!(pool.wanted(0, 4, 6).is_empty());
        assert_eq!(pool.wanted(4, 6, 6), 5..6);
        assert_eq!(pool.cacheable(6), 5);
    }

    #[test]
    fn nothing_but_zeros_stays_so() {
        let mut pool = Pool::new(Pooling::Last);
        pool.add(0..1, &[0.0, 0.0]);
        assert_eq!(pool.finish(), [0.0, 0.0]);
    }
}
