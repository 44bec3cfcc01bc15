//! One worker's hold on a run, in one word, and sets of them.

use smallvec::SmallVec;

use crate::Tier;

/// How a worker holds every block of a run: its lane (the worker's number
/// inside the index, 24 bits), the tiers (8 bits), and when a mere prediction
/// ends (32 bits of [`Ticks`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder(pub u64);

/// Time in units of 16 ms: 32 bits last for two years.
pub(super) type Ticks = u32;

/// Holders of one run, by rising lane.
pub(super) type Holders = SmallVec<[Holder; 4]>;

const TIERS: u64 = 0b1111;
const PREDICTED: u64 = 1 << 4;
const KINDS_SHIFT: u32 = 32;
const LANE_SHIFT: u32 = 40;

/// Kinds a block may be held in: four tiers, and predicted.
pub(super) const KINDS: usize = 5;

impl Holder {
    pub fn stored(lane: u32, tier: Tier) -> Holder {
        Holder(u64::from(lane) << LANE_SHIFT | 1 << (KINDS_SHIFT + tier as u32))
    }

    pub fn predicted(lane: u32, until: Ticks) -> Holder {
        Holder(u64::from(lane) << LANE_SHIFT | PREDICTED << KINDS_SHIFT | u64::from(until))
    }

    pub fn lane(self) -> u32 {
        (self.0 >> LANE_SHIFT) as u32
    }

    /// Whether the worker itself said that it holds the blocks.
    pub fn is_observed(self) -> bool {
        self.0 & TIERS << KINDS_SHIFT != 0
    }

    /// The end of a prediction.
    pub fn until(self) -> Ticks {
        self.0 as Ticks
    }

    pub fn is_expired(self, now: Ticks) -> bool {
        !self.is_observed() && self.until() <= now
    }

    /// The fastest tier's number, or that of predictions.
    pub fn best_kind(self) -> usize {
        ((self.0 >> KINDS_SHIFT).trailing_zeros() as usize).min(KINDS - 1)
    }

    fn without(self, tier: Tier) -> Holder {
        Holder(self.0 & !(1 << (KINDS_SHIFT + tier as u32)))
    }
}

/// What an event or a booking does to one worker's hold on some blocks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Store(Tier),
    Remove(Tier),
    Predict(Ticks),
}

impl Change {
    /// The hold of `lane` after the change.
    pub fn applied(self, lane: u32, before: Option<Holder>) -> Option<Holder> {
        match (self, before) {
            (Change::Store(tier), Some(held)) if held.is_observed() => {
                Some(Holder(held.0 | Holder::stored(lane, tier).0))
            }
            (Change::Store(tier), _) => Some(Holder::stored(lane, tier)),
            (Change::Remove(tier), Some(held)) if held.is_observed() => {
                Some(held.without(tier)).filter(|left| left.is_observed())
            }
            (Change::Predict(_), Some(held)) if held.is_observed() => before,
            (Change::Predict(until), Some(held)) => {
                Some(Holder::predicted(lane, until.max(held.until())))
            }
            (Change::Predict(until), None) => Some(Holder::predicted(lane, until)),
            (Change::Remove(_), before) => before,
        }
    }
}

/// `holders` with the hold of `lane` replaced.
pub(super) fn replaced(holders: &[Holder], lane: u32, hold: Option<Holder>) -> Holders {
    let at = holders.partition_point(|holder| holder.lane() < lane);
    let rest = match holders.get(at) {
        Some(holder) if holder.lane() == lane => at + 1,
        _ => at,
    };
    let mut replaced = Holders::with_capacity(holders.len() + 1);
    replaced.extend_from_slice(&holders[..at]);
    replaced.extend(hold);
    replaced.extend_from_slice(&holders[rest..]);
    replaced
}

/// A run's holders as its record keeps them: none, one in place, or a list
/// elsewhere. Bit 39, which no [`Holder`] uses, tells a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldersWord {
    None,
    One(Holder),
    List { at: u32, len: u32 },
}

const LIST: u64 = 1 << 39;

impl HoldersWord {
    pub fn decode(word: u64) -> HoldersWord {
        match word {
            0 => HoldersWord::None,
            word if word & LIST != 0 => HoldersWord::List {
                at: word as u32,
                len: (word >> LANE_SHIFT) as u32,
            },
            word => HoldersWord::One(Holder(word)),
        }
    }

    pub fn encode(self) -> u64 {
        match self {
            HoldersWord::None => 0,
            HoldersWord::One(holder) => holder.0,
            HoldersWord::List { at, len } => u64::from(len) << LANE_SHIFT | LIST | u64::from(at),
        }
    }
}
