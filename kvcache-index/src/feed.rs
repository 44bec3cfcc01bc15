//! The state of one subscription to a worker's events.
//!
//! Events are numbered within an epoch (one start of one worker). A [`Feed`]
//! lets through what comes in order, and says when to subscribe anew: on a gap,
//! and when an epoch appears without a snapshot.

/// Follows the numbering of one worker's events.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    epoch: u64,
    seq: u64,
    /// A snapshot's first part was seen and its last one is due.
    in_snapshot: bool,
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it.
    Apply,
    /// It was applied before.
    Stale,
}

/// The feed broke: subscribe again from [`Feed::position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    #[error("events {expected} to {got} are missing")]
    Gap { expected: u64, got: u64 },
    #[error("epoch {got} began without a snapshot")]
    UnknownEpoch { got: u64 },
}

impl Feed {
    /// The epoch and number of the last event applied; (0, 0) asks for a
    /// snapshot.
    pub fn position(&self) -> (u64, u64) {
        if self.in_snapshot {
            return (0, 0);
        }
        (self.epoch, self.seq)
    }

    /// A part of a snapshot arrived. The caller purges the worker's blocks at
    /// the first part.
    pub fn snapshot(&mut self, epoch: u64, seq: u64, last: bool) {
        *self = Feed {
            epoch,
            seq,
            in_snapshot: !last,
        };
    }

    /// An event arrived.
    pub fn event(&mut self, epoch: u64, seq: u64) -> Result<Verdict, FeedError> {
        if epoch != self.epoch || self.in_snapshot {
            return Err(FeedError::UnknownEpoch { got: epoch });
        }
        if seq <= self.seq {
            return Ok(Verdict::Stale);
        }
        if seq != self.seq + 1 {
            return Err(FeedError::Gap {
                expected: self.seq + 1,
                got: seq,
            });
        }
        self.seq = seq;
        Ok(Verdict::Apply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Feed {
        let mut feed = Feed::default();
        feed.snapshot(7, 10, true);
        feed
    }

    #[test]
    fn applies_in_order_and_skips_repeats() {
        let mut feed = joined();
        assert_eq!(feed.event(7, 11), Ok(Verdict::Apply));
        assert_eq!(feed.event(7, 11), Ok(Verdict::Stale));
        assert_eq!(feed.event(7, 12), Ok(Verdict::Apply));
        assert_eq!(feed.position(), (7, 12));
    }

    #[test]
    fn gap_leaves_the_position_to_repair_from() {
        let mut feed = joined();
        assert_eq!(
            feed.event(7, 13),
            Err(FeedError::Gap {
                expected: 11,
                got: 13
            })
        );
        assert_eq!(feed.position(), (7, 10));
    }

    #[test]
    fn new_epoch_needs_a_snapshot() {
        let mut feed = joined();
        assert_eq!(feed.event(8, 1), Err(FeedError::UnknownEpoch { got: 8 }));
        feed.snapshot(8, 3, true);
        assert_eq!(feed.event(8, 4), Ok(Verdict::Apply));
    }

    #[test]
    fn a_snapshot_cut_short_is_asked_for_again() {
        let mut feed = joined();
        feed.snapshot(8, 3, false);
        assert_eq!(feed.position(), (0, 0));
        assert!(feed.event(8, 4).is_err());
    }
}
