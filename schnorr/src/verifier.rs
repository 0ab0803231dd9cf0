//! The verification of a batch: range checks, challenges, authors, then the point sums, for authors with a comb ("warm") and
//! without ("cold").

use crate::authors::{AUTHOR_BYTES, AuthorSlot, Authors, COMB_BYTES, Known};
use crate::challenge;
use crate::curve::tables::Comb;
use crate::curve::{Outcome, Task, slow};
use crate::field::{AffinePoint, P, Words, is_below, words_from_be};
use crate::key_hash::{KeyMap, KeyState};
use crate::scalar::{is_reduced, negated, split};
use crate::tier::{Kernel, Tier};

/// Claims that are summed together: more share an inversion, fewer fit the CPU cache.
const CHUNK: usize = 64;
/// At most one comb is built for this many claims: it costs as much as three verifications of an unknown key, or six where
/// vector lanes are memory-bound. So an attacker cannot double the cost of claims by provoking combs.
const COMB_COST: usize = 6;
/// Valid claims of an author from which its comb is cached.
const COMB_CLAIMS_MIN: u32 = 3;

/// One signature to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The x-only public key.
    pub key: [u8; 32],
    /// The message, 32 bytes, signed as it is.
    pub message: [u8; 32],
    /// The signature: r, then s.
    pub signature: [u8; 64],
}

/// Verifies batches of BIP340 signatures.
///
/// It owns its scratch memory and, optionally, an author cache, so keep one for each thread.
pub struct Verifier {
    tier: Tier,
    /// libsecp256k1 verifies a batch's claims of unknown authors if there are at most this many.
    fallback_max: usize,
    /// Claims since the last comb, at most [`COMB_COST`]: a comb may be made for that many claims. Carried over, so that
    /// small batches get combs too.
    claims_since_comb: usize,
    kernel: Option<Box<dyn Kernel>>,
    authors: Option<Authors>,
    /// Indices in `batch`, by key.
    author_indices: KeyMap<u32>,
    batch: Vec<BatchAuthor>,
    challenges: Vec<Words>,
    tasks: Vec<(Task, u32)>,
    #[cfg(test)]
    combs_made: usize,
}

/// An author in the current batch.
#[derive(Debug)]
struct BatchAuthor {
    key: [u8; 32],
    x: Words,
    /// Claims in the batch.
    claims: u32,
    point: Option<AffinePoint>,
    comb: Option<Comb>,
    /// Valid claims in the batch, once it has been verified.
    valid_claims: u32,
    /// Valid claims in earlier batches.
    valid_earlier: u32,
    /// Its slot in the author cache.
    slot: Option<AuthorSlot>,
    wants_comb: bool,
    has_new_comb: bool,
    /// Lifted in this batch.
    has_new_point: bool,
    /// Its claims are verified one by one ([`verify_with_fallback`]).
    uses_fallback: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("tier", &self.tier)
            .field("authors", &self.authors.as_ref().map(Authors::len))
            .finish_non_exhaustive()
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new()
    }
}

impl Verifier {
    /// A verifier on the fastest tier of this machine, without an author cache. If the feature `libsecp256k1` is on, claims of
    /// unknown authors are verified by libsecp256k1 where that is faster: few of them in a batch, or on
    /// [`Tier::Portable32`] all.
    ///
    /// The first verifier of a process computes tables of the generator, which takes a few milliseconds; on wasm32 the
    /// first batch that needs them does.
    pub fn new() -> Self {
        let tier = Tier::best();
        Verifier { fallback_max: tier.fallback_max(), ..Verifier::on(tier) }
    }

    /// A verifier that uses only the given tier; `None` if the machine lacks its instructions.
    pub fn with_tier(tier: Tier) -> Option<Self> {
        tier.is_available().then(|| Verifier::on(tier))
    }

    /// A verifier on a tier that is available. Inlined, so that a build for one tier has the code of that tier only.
    #[inline]
    fn on(tier: Tier) -> Self {
        Verifier {
            tier,
            fallback_max: 0,
            claims_since_comb: 0,
            kernel: tier.kernel(),
            authors: None,
            author_indices: KeyMap::with_hasher(KeyState::random()),
            batch: Vec::new(),
            challenges: Vec::new(),
            tasks: Vec::new(),
            #[cfg(test)]
            combs_made: 0,
        }
    }

    /// Caches authors within `bytes_max` bytes, evicting the least recently used: about 30 KB for an author with three or more
    /// valid signatures, 256 bytes for one with fewer. Invalid signatures do not change the cache. Zero turns it off.
    #[must_use]
    pub fn with_author_cache(mut self, bytes_max: usize) -> Self {
        let state = self.author_indices.hasher();
        self.authors = (bytes_max >= AUTHOR_BYTES).then(|| Authors::new(bytes_max, state.clone()));
        self
    }

    /// Hashes public keys under `seed`, which must be secret and random. Without it the seed is that of `std`'s hash
    /// maps, which is secret where the operating system has entropy; on wasm32-unknown-unknown it is predictable, so give
    /// one there. Call it before the first batch: it empties the author cache.
    #[must_use]
    pub fn with_hash_seed(mut self, seed: [u8; 16]) -> Self {
        self.author_indices = KeyMap::with_hasher(KeyState::new(seed));
        let bytes_max = self.authors.as_ref().map_or(0, Authors::bytes_max);
        self.with_author_cache(bytes_max)
    }

    /// The tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Size of the author cache in bytes.
    pub fn author_cache_bytes(&self) -> usize {
        self.authors.as_ref().map_or(0, Authors::bytes)
    }

    /// Sets `valid[i]` to whether `claims[i]` is valid, exactly as BIP340 and libsecp256k1 decide.
    ///
    /// # Panics
    /// If the lists differ in length.
    pub fn verify(&mut self, claims: &[Claim], valid: &mut [bool]) {
        assert_eq!(claims.len(), valid.len(), "one verdict for each claim");
        valid.fill(false);
        let Some(kernel) = &mut self.kernel else {
            return verify_with_fallback(claims, valid);
        };
        let kernel = &mut **kernel;
        self.author_indices.clear();
        self.batch.clear();
        self.tasks.clear();
        challenge::all(claims, &mut self.challenges);
        for (index, (claim, e)) in claims.iter().zip(&self.challenges).enumerate() {
            let Some((task, x)) = parse(index, claim, e) else { continue };
            let next = self.batch.len() as u32;
            let author = *self.author_indices.entry(claim.key).or_insert(next);
            if author == next {
                self.batch.push(BatchAuthor::new(claim.key, x));
            }
            self.batch[author as usize].claims += 1;
            self.tasks.push((task, author));
        }
        let keeps_combs =
            self.authors.as_ref().is_some_and(|authors| authors.bytes_max() >= AUTHOR_BYTES + COMB_BYTES);
        if let Some(authors) = &self.authors {
            look_up(&mut self.batch, authors);
        }
        let mut claims_since_comb = self.claims_since_comb + self.tasks.len();
        // Before verification any claim may be invalid, so an author gets a comb only if it has enough claims in this
        // batch.
        choose_combs(&mut self.batch, &mut claims_since_comb, |author| author.claims as usize >= COMB_COST);
        choose_fallbacks(&mut self.batch, self.fallback_max);
        lift(&mut self.batch, kernel, |author| !author.uses_fallback);
        make_combs(&mut self.batch, kernel);

        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for (task, author) in &self.tasks {
            let author = &self.batch[*author as usize];
            let index = task.index as usize;
            match (&author.comb, author.point) {
                _ if author.uses_fallback => {
                    verify_with_fallback(&claims[index..=index], &mut valid[index..=index])
                }
                (Some(comb), _) => warm.push((*task, &**comb)),
                (None, Some(point)) => cold.push((*task, point)),
                // No point has this x-coordinate.
                (None, None) => {}
            }
        }
        let mut decide = |task: &Task, outcome: Outcome| {
            valid[task.index as usize] = match outcome {
                Outcome::Valid => true,
                Outcome::Invalid => false,
                Outcome::Unknown => is_valid_by_reference(&claims[task.index as usize]),
            }
        };
        for chunk in warm.chunks(CHUNK) {
            kernel.warm(chunk, &mut decide);
        }
        for chunk in cold.chunks(CHUNK) {
            kernel.cold(chunk, &mut decide);
        }

        if let Some(authors) = &mut self.authors {
            for (task, author) in &self.tasks {
                self.batch[*author as usize].valid_claims += u32::from(valid[task.index as usize]);
            }
            if keeps_combs {
                let is_worth_one =
                    |author: &BatchAuthor| author.valid_claims > 0 && author.valid_total() >= COMB_CLAIMS_MIN;
                choose_combs(&mut self.batch, &mut claims_since_comb, is_worth_one);
                lift(&mut self.batch, kernel, |author| author.wants_comb);
                make_combs(&mut self.batch, kernel);
            }
            remember(&self.batch, authors, keeps_combs);
        }
        self.claims_since_comb = claims_since_comb.min(COMB_COST);
        #[cfg(test)]
        {
            self.combs_made += self.batch.iter().filter(|author| author.has_new_comb).count();
        }
    }
}

/// The numbers of a claim and the x-coordinate of its key; `None` if one is out of range.
fn parse(index: usize, claim: &Claim, e: &Words) -> Option<(Task, Words)> {
    let (r_bytes, s_bytes) = halves(&claim.signature);
    let (r, s, x) = (words_from_be(r_bytes), words_from_be(s_bytes), words_from_be(&claim.key));
    if !is_below(&r, &P) || !is_reduced(&s) || !is_below(&x, &P) {
        return None;
    }
    Some((Task { index: index as u32, r, s: split(&s), e: split(&negated(e)) }, x))
}

fn halves(signature: &[u8; 64]) -> (&[u8; 32], &[u8; 32]) {
    let (halves, _) = signature.as_chunks::<32>();
    (&halves[0], &halves[1])
}

impl BatchAuthor {
    fn new(key: [u8; 32], x: Words) -> Self {
        BatchAuthor {
            key,
            x,
            claims: 0,
            point: None,
            comb: None,
            valid_claims: 0,
            valid_earlier: 0,
            slot: None,
            wants_comb: false,
            has_new_comb: false,
            has_new_point: false,
            uses_fallback: false,
        }
    }

    fn valid_total(&self) -> u32 {
        self.valid_earlier.saturating_add(self.valid_claims)
    }
}

/// Looks up the authors in the cache.
fn look_up(batch: &mut [BatchAuthor], authors: &Authors) {
    for author in batch {
        if let Some((slot, known)) = authors.look_up(&author.key) {
            author.point = known.point;
            author.comb = known.comb;
            author.valid_earlier = known.valid_claims;
            author.slot = Some(slot);
        }
    }
}

/// Chooses authors for whom a comb is made, one for each [`COMB_COST`] claims since the last.
fn choose_combs(
    batch: &mut [BatchAuthor],
    claims_since_comb: &mut usize,
    is_worth_one: impl Fn(&BatchAuthor) -> bool,
) {
    for author in batch {
        author.wants_comb = author.comb.is_none() && *claims_since_comb >= COMB_COST && is_worth_one(author);
        if author.wants_comb {
            *claims_since_comb -= COMB_COST;
        }
    }
}

/// Leaves claims of authors without a comb to the fallback if they are few.
fn choose_fallbacks(batch: &mut [BatchAuthor], fallback_max: usize) {
    let is_cold = |author: &BatchAuthor| author.comb.is_none() && !author.wants_comb;
    let cold: usize =
        batch.iter().filter(|author| is_cold(author)).map(|author| author.claims as usize).sum();
    if cold <= fallback_max {
        for author in batch {
            author.uses_fallback = is_cold(author);
        }
    }
}

/// Lifts needed keys that are not cached. If no point has a key's x-coordinate, its author has none.
fn lift(batch: &mut [BatchAuthor], kernel: &mut dyn Kernel, is_needed: impl Fn(&BatchAuthor) -> bool) {
    let is_unknown = |author: &BatchAuthor| author.point.is_none() && is_needed(author);
    let unknown: Vec<usize> = (0..batch.len()).filter(|i| is_unknown(&batch[*i])).collect();
    if !unknown.is_empty() {
        let xs: Vec<Words> = unknown.iter().map(|i| batch[*i].x).collect();
        kernel.lift(&xs, &mut |i, point| {
            let author = &mut batch[unknown[i]];
            (author.point, author.has_new_point) = (point, point.is_some());
        });
    }
}

/// Makes the combs of the chosen authors.
fn make_combs(batch: &mut [BatchAuthor], kernel: &mut dyn Kernel) {
    let (mut chosen, mut points) = (Vec::new(), Vec::new());
    for (i, author) in batch.iter().enumerate() {
        if let (true, Some(point)) = (author.wants_comb, author.point) {
            chosen.push(i);
            points.push(point);
        }
    }
    for (chosen, points) in chosen.chunks(COMBS_AT_ONCE).zip(points.chunks(COMBS_AT_ONCE)) {
        for (i, comb) in chosen.iter().zip(kernel.combs(points)) {
            batch[*i].comb = Some(comb);
            batch[*i].has_new_comb = true;
        }
    }
}

/// Caches authors with valid claims. Invalid claims neither add nor evict an author.
fn remember(batch: &[BatchAuthor], authors: &mut Authors, keeps_combs: bool) {
    let proven = || batch.iter().filter(|author| author.valid_claims > 0);
    for author in proven() {
        if let Some(slot) = author.slot {
            authors.count(slot, author.valid_claims);
        }
    }
    for author in proven() {
        let valid_claims = author.valid_total();
        // A comb made for this batch is cached only if the author has enough valid claims and the cache has room for combs.
        let comb = author.comb.clone().filter(|_| keeps_combs && valid_claims >= COMB_CLAIMS_MIN);
        if author.slot.is_none() || author.has_new_point || author.has_new_comb && comb.is_some() {
            authors.insert(&author.key, Known { point: author.point, comb, valid_claims });
        }
    }
}

/// Combs made together: more share an inversion, fewer need less memory.
const COMBS_AT_ONCE: usize = 8;

/// Verifies a claim for which the fast formulas met a special case.
fn is_valid_by_reference(claim: &Claim) -> bool {
    let (r, s) = halves(&claim.signature);
    let e = negated(&challenge::one(claim));
    let x = words_from_be(&claim.key);
    let mut point = None;
    crate::curve::cold::lift::<slow::F>(&[x], |_, found| point = found);
    point.is_some_and(|point| slow::is_valid(&point, &words_from_be(r), &words_from_be(s), &e))
}

/// Verifies claims one by one, with libsecp256k1.
#[cfg(feature = "libsecp256k1")]
fn verify_with_fallback(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = crate::libsecp256k1::is_valid(claim);
    }
}

/// Verifies claims one by one, with this crate's reference implementation.
#[cfg(not(feature = "libsecp256k1"))]
fn verify_with_fallback(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = parse(0, claim, &challenge::one(claim)).is_some() && is_valid_by_reference(claim);
    }
}

// Signatures are made by libsecp256k1, which Miri cannot run, nor is it a dev-dependency on wasm32.
#[cfg(all(test, not(target_arch = "wasm32"), not(miri)))]
mod tests;
