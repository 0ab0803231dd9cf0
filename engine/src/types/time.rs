//! Time as a value: the host passes it in, the engine never reads a clock.

/// Seconds since the Unix epoch, as NIP-01 writes `created_at`.
pub type Timestamp = u64;

/// The time that a host passes to the machine with every call, in microseconds since the Unix epoch.
///
/// A host's clock may step backwards; the machine only ever subtracts saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    unix_us: u64,
}

impl Now {
    /// The time `unix_ms` milliseconds after the Unix epoch.
    pub const fn from_millis(unix_ms: u64) -> Self {
        Now { unix_us: unix_ms.saturating_mul(1000) }
    }

    /// The time `unix_us` microseconds after the Unix epoch.
    pub const fn from_micros(unix_us: u64) -> Self {
        Now { unix_us }
    }

    /// The time `unix` seconds after the Unix epoch.
    pub const fn from_seconds(unix: Timestamp) -> Self {
        Now { unix_us: unix.saturating_mul(1_000_000) }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.unix_us / 1000
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.unix_us
    }

    /// Whole seconds since the Unix epoch, as events count.
    pub const fn seconds(self) -> Timestamp {
        self.unix_us / 1_000_000
    }

    /// `ms` milliseconds later.
    pub const fn plus_millis(self, ms: u64) -> Self {
        Now { unix_us: self.unix_us.saturating_add(ms.saturating_mul(1000)) }
    }

    /// Milliseconds from `earlier` to this time; zero if the clock stepped back.
    pub const fn millis_since(self, earlier: Now) -> u64 {
        self.micros_since(earlier) / 1000
    }

    /// Microseconds from `earlier` to this time; zero if the clock stepped back.
    pub const fn micros_since(self, earlier: Now) -> u64 {
        self.unix_us.saturating_sub(earlier.unix_us)
    }
}
