//! Priority bands: a closed set, so that a made-up priority makes no new one.

/// Most urgent first. Within a band a tenant's own priorities order its own
/// requests, and take nothing from other tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Band {
    /// Priority above 0.
    High,
    /// Priority 0, and requests that say nothing.
    Normal,
    /// Priority below 0: the first to be shed.
    Low,
}

impl Band {
    pub const COUNT: usize = 3;
    pub const ALL: [Band; Band::COUNT] = [Band::High, Band::Normal, Band::Low];

    pub fn of(priority: i32) -> Band {
        match priority {
            1.. => Band::High,
            0 => Band::Normal,
            _ => Band::Low,
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }

    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Band::High => "high",
            Band::Normal => "normal",
            Band::Low => "low",
        }
    }

    /// Bands that go before this one, and itself.
    pub(super) fn up_to_this(self) -> &'static [Band] {
        &Self::SLICE[..=self.index()]
    }

    /// Bands that this one goes before.
    pub(super) fn less_urgent(self) -> &'static [Band] {
        &Self::SLICE[self.index() + 1..]
    }

    const SLICE: &'static [Band] = &Band::ALL;
}
