//! Time as a value: the engine is told what time it is and never looks.

/// Seconds since the Unix epoch, as NIP-01 writes `created_at`.
pub type Timestamp = u64;

/// The moment a host hands to the machine with every call, in milliseconds since the Unix epoch.
///
/// A host's clock may step backwards; the machine only ever subtracts saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    unix_ms: u64,
}

impl Now {
    /// The moment `unix_ms` milliseconds after the Unix epoch.
    pub const fn from_millis(unix_ms: u64) -> Self {
        Now { unix_ms }
    }

    /// The moment `unix` seconds after the Unix epoch.
    pub const fn from_seconds(unix: Timestamp) -> Self {
        Now { unix_ms: unix * 1000 }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.unix_ms
    }

    /// Whole seconds since the Unix epoch, as events count.
    pub const fn seconds(self) -> Timestamp {
        self.unix_ms / 1000
    }

    /// This moment and `ms` more.
    pub const fn plus_millis(self, ms: u64) -> Self {
        Now { unix_ms: self.unix_ms.saturating_add(ms) }
    }

    /// Milliseconds from `earlier` to this moment; zero if the clock stepped back.
    pub const fn millis_since(self, earlier: Now) -> u64 {
        self.unix_ms.saturating_sub(earlier.unix_ms)
    }
}
