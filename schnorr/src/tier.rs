//! The tiers, and the choice among them.

use std::fmt;
use std::str::FromStr;

use crate::curve::plan::Plan;
use crate::curve::points::Points;
use crate::curve::tables::{Comb, make_combs, windows};
use crate::curve::{Outcome, Task, cold, warm};
use crate::field::portable32::F26;
use crate::field::portable64::F52;
use crate::field::{AffinePoint, Field, Words};

/// An implementation of verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// AVX-512 IFMA: eight signatures at once in vector lanes.
    Ifma,
    /// AVX2: four signatures at once in vector lanes.
    Avx2,
    /// x86-64 with BMI2 and ADX: 64-bit words, `mulx` and two carry chains.
    Adx,
    /// Plain Rust with 52-bit limbs and 128-bit products, for 64-bit machines.
    Portable64,
    /// Plain Rust with 26-bit limbs and 64-bit products, for 32-bit machines and wasm32.
    Portable32,
    /// Bitcoin Core's C library, one signature at a time.
    #[cfg(feature = "libsecp256k1")]
    Libsecp256k1,
    /// The lanes of [`Tier::Ifma`] in software, for tests. Slow.
    #[cfg(any(test, feature = "testing"))]
    Emulated,
}

impl Tier {
    /// All tiers: those implemented here, fastest first, then the others.
    pub const ALL: &[Tier] = &[
        Tier::Ifma,
        Tier::Avx2,
        Tier::Adx,
        Tier::Portable64,
        Tier::Portable32,
        #[cfg(feature = "libsecp256k1")]
        Tier::Libsecp256k1,
        #[cfg(any(test, feature = "testing"))]
        Tier::Emulated,
    ];

    /// The fastest tier of this machine.
    pub fn best() -> Tier {
        let portable = if cfg!(target_pointer_width = "64") { Tier::Portable64 } else { Tier::Portable32 };
        [Tier::Ifma, Tier::Avx2, Tier::Adx].into_iter().find(|tier| tier.is_available()).unwrap_or(portable)
    }

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Tier::Ifma => crate::field::lanes::ifma::is_available() && Tier::Adx.is_available(),
            #[cfg(target_arch = "x86_64")]
            Tier::Adx => crate::field::adx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => crate::field::avx2::is_available() && Tier::Adx.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Ifma | Tier::Avx2 | Tier::Adx => false,
            _ => true,
        }
    }

    /// Its name: `ifma`, `avx2`, `adx`, `portable64`, `portable32`, `libsecp256k1`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Ifma => "ifma",
            Tier::Avx2 => "avx2",
            Tier::Adx => "adx",
            Tier::Portable64 => "portable64",
            Tier::Portable32 => "portable32",
            #[cfg(feature = "libsecp256k1")]
            Tier::Libsecp256k1 => "libsecp256k1",
            #[cfg(any(test, feature = "testing"))]
            Tier::Emulated => "emulated",
        }
    }

    /// Up to this number of claims of unknown authors libsecp256k1 is faster than the tier; see the README.
    pub(crate) fn fallback_max(self) -> usize {
        if !cfg!(feature = "libsecp256k1") {
            return 0;
        }
        match self {
            Tier::Ifma | Tier::Avx2 | Tier::Adx => 1,
            Tier::Portable64 => 63,
            _ => usize::MAX,
        }
    }

    /// The kernel of the tier; `None` if it has none or the machine lacks the instructions.
    #[inline]
    pub(crate) fn kernel(self) -> Option<Box<dyn Kernel>> {
        if !self.is_available() {
            return None;
        }
        Some(match self {
            #[cfg(target_arch = "x86_64")]
            Tier::Ifma => Box::new(ifma::LaneState::new()),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Box::new(avx2::LaneState::new()),
            #[cfg(target_arch = "x86_64")]
            Tier::Adx => Box::new(TierState::<crate::field::adx::F64>::new()),
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Ifma | Tier::Avx2 | Tier::Adx => return None,
            Tier::Portable64 => Box::new(TierState::<F52>::new()),
            Tier::Portable32 => Box::new(TierState::<F26>::new()),
            #[cfg(feature = "libsecp256k1")]
            Tier::Libsecp256k1 => return None,
            #[cfg(any(test, feature = "testing"))]
            Tier::Emulated => Box::new(TierState::<
                crate::field::lanes::FLanes<crate::field::lanes::emulated::Emulated>,
            >::new()),
        })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No tier has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTier(pub String);

impl fmt::Display for UnknownTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no tier {:?}", self.0)
    }
}

impl std::error::Error for UnknownTier {}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        let found = Tier::ALL.iter().find(|tier| tier.name() == name);
        found.copied().ok_or_else(|| UnknownTier(name.to_owned()))
    }
}

/// The computations of a tier, on its own scratch memory.
pub(crate) trait Kernel: Send {
    /// The points with these x-coordinates, below p, and even y.
    fn lift(&mut self, keys: &[Words], found: &mut dyn FnMut(usize, Option<AffinePoint>));
    /// Combs of keys.
    fn combs(&mut self, keys: &[AffinePoint]) -> Vec<Comb>;
    /// Decides claims whose authors have combs.
    fn warm(&mut self, tasks: &[(Task, &[AffinePoint])], decide: &mut dyn FnMut(&Task, Outcome));
    /// Decides claims from their keys' points.
    fn cold(&mut self, tasks: &[(Task, AffinePoint)], decide: &mut dyn FnMut(&Task, Outcome));
}

/// A field with its plans and scratch memory.
pub(crate) struct TierState<F> {
    points: Points<F>,
    scratch: cold::Scratch<F>,
    warm_plan: Plan,
    cold_plan: Plan,
}

/// The generator's tables, computed when first needed.
fn generator() -> &'static [AffinePoint] {
    #[cfg(target_pointer_width = "64")]
    return windows::<F52>();
    #[cfg(not(target_pointer_width = "64"))]
    return windows::<F26>();
}

impl<F: Field> TierState<F> {
    fn new() -> Self {
        // A wasm32 instance may never need them; elsewhere they are computed now, so that no signature has to wait.
        if cfg!(not(target_arch = "wasm32")) {
            generator();
        }
        TierState {
            points: Points::new(),
            scratch: cold::Scratch::new(),
            warm_plan: warm::plan(),
            cold_plan: cold::plan(),
        }
    }

    #[inline(always)]
    fn warm_inline(&mut self, tasks: &[(Task, &[AffinePoint])], decide: &mut dyn FnMut(&Task, Outcome)) {
        warm::run(&self.warm_plan, &mut self.points, generator(), tasks, decide);
    }

    #[inline(always)]
    fn cold_inline(&mut self, tasks: &[(Task, AffinePoint)], decide: &mut dyn FnMut(&Task, Outcome)) {
        let TierState { points, scratch, cold_plan, .. } = self;
        cold::run(cold_plan, points, scratch, generator(), tasks, decide);
    }
}

impl<F: Field + Send> Kernel for TierState<F> {
    fn lift(&mut self, keys: &[Words], found: &mut dyn FnMut(usize, Option<AffinePoint>)) {
        cold::lift::<F>(keys, found);
    }

    fn combs(&mut self, keys: &[AffinePoint]) -> Vec<Comb> {
        make_combs::<F>(keys)
    }

    fn warm(&mut self, tasks: &[(Task, &[AffinePoint])], decide: &mut dyn FnMut(&Task, Outcome)) {
        self.warm_inline(tasks, decide);
    }

    fn cold(&mut self, tasks: &[(Task, AffinePoint)], decide: &mut dyn FnMut(&Task, Outcome)) {
        self.cold_inline(tasks, decide);
    }
}

/// A vector tier: whole functions compiled for its instructions, and the scalar kernel for batches that do not fill lanes.
#[cfg(target_arch = "x86_64")]
macro_rules! lane_tier {
    ($name:ident, $field:ty, $features:literal, $scalar_max:literal) => {
        #[allow(unsafe_code, reason = "functions compiled for instructions that were looked for")]
        mod $name {
            use super::*;
            #[cfg(not(relay_schnorr_scalars = "portable"))]
            use crate::field::adx::F64 as Scalar;
            // For an emulator that gets ADX wrong: tests/on-bochs.sh.
            #[cfg(relay_schnorr_scalars = "portable")]
            use crate::field::portable64::F52 as Scalar;

            /// Up to this number of claims the scalar kernel is faster than mostly empty lanes.
            const SCALAR_MAX: usize = $scalar_max;

            type Lanes = TierState<$field>;

            pub(super) struct LaneState {
                lanes: Lanes,
                scalars: TierState<Scalar>,
            }

            impl LaneState {
                pub(super) fn new() -> Self {
                    LaneState { lanes: TierState::new(), scalars: TierState::new() }
                }
            }

            #[target_feature(enable = $features)]
            fn lift(keys: &[Words], found: &mut dyn FnMut(usize, Option<AffinePoint>)) {
                cold::lift::<$field>(keys, found);
            }

            #[target_feature(enable = $features)]
            fn combs(keys: &[AffinePoint]) -> Vec<Comb> {
                make_combs::<$field>(keys)
            }

            #[target_feature(enable = $features)]
            fn warm(
                lanes: &mut Lanes,
                tasks: &[(Task, &[AffinePoint])],
                decide: &mut dyn FnMut(&Task, Outcome),
            ) {
                lanes.warm_inline(tasks, decide);
            }

            #[target_feature(enable = $features)]
            fn cold(
                lanes: &mut Lanes,
                tasks: &[(Task, AffinePoint)],
                decide: &mut dyn FnMut(&Task, Outcome),
            ) {
                lanes.cold_inline(tasks, decide);
            }

            impl Kernel for LaneState {
                fn lift(&mut self, keys: &[Words], found: &mut dyn FnMut(usize, Option<AffinePoint>)) {
                    if keys.len() <= SCALAR_MAX {
                        return self.scalars.lift(keys, found);
                    }
                    // SAFETY: a `LaneState` is only made by `Tier::kernel`, which looked for the features.
                    unsafe { lift(keys, found) }
                }

                fn combs(&mut self, keys: &[AffinePoint]) -> Vec<Comb> {
                    if keys.len() <= SCALAR_MAX {
                        return self.scalars.combs(keys);
                    }
                    // SAFETY: as above.
                    unsafe { combs(keys) }
                }

                fn warm(&mut self, tasks: &[(Task, &[AffinePoint])], decide: &mut dyn FnMut(&Task, Outcome)) {
                    if tasks.len() <= SCALAR_MAX {
                        return self.scalars.warm(tasks, decide);
                    }
                    // SAFETY: as above.
                    unsafe { warm(&mut self.lanes, tasks, decide) }
                }

                fn cold(&mut self, tasks: &[(Task, AffinePoint)], decide: &mut dyn FnMut(&Task, Outcome)) {
                    if tasks.len() <= SCALAR_MAX {
                        return self.scalars.cold(tasks, decide);
                    }
                    // SAFETY: as above.
                    unsafe { cold(&mut self.lanes, tasks, decide) }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lane_tier!(ifma, crate::field::lanes::FLanes<crate::field::lanes::ifma::Zmm>, "avx512f,avx512ifma,bmi2", 2);
#[cfg(target_arch = "x86_64")]
lane_tier!(avx2, crate::field::avx2::F29, "avx2,bmi2", 1);
